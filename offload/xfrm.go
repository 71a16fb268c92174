// SPDX-License-Identifier: Apache-2.0

package offload

import (
	"encoding/binary"
	"net/netip"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"quicksand/sa"
)

// The messages of NETLINK_XFRM (linux/xfrm.h).
const (
	msgNewSA     netlink.HeaderType = 0x10
	msgDelSA     netlink.HeaderType = 0x11
	msgGetSA     netlink.HeaderType = 0x12
	msgNewPolicy netlink.HeaderType = 0x13
	msgDelPolicy netlink.HeaderType = 0x14
	msgGetPolicy netlink.HeaderType = 0x15
	msgAcquire   netlink.HeaderType = 0x17
	msgExpire    netlink.HeaderType = 0x18
	msgUpdPolicy netlink.HeaderType = 0x19
	msgUpdSA     netlink.HeaderType = 0x1a
	msgMapping   netlink.HeaderType = 0x26
	groupAcquire                    = 1
	groupExpire                     = 2
	groupMapping                    = 8
	netlinkXFRM                     = unix.NETLINK_XFRM
)

// The attributes.
const (
	attrAlgCrypt     = 2
	attrEncap        = 4
	attrTemplate     = 5
	attrReplay       = 10
	attrLastUsed     = 15
	attrAlgAEAD      = 18
	attrAlgAuthTrunc = 20
	attrMark         = 21
	attrReplayESN    = 23
	attrExtraFlags   = 24
	attrOffload      = 28
	attrSetMark      = 29
	attrSetMarkMask  = 30
	attrIfID         = 31
	attrMappingTime  = 32
	attrDirection    = 33
	attrLifetime     = 9
)

// Flags of an SA, of its offload, and what a policy does.
const (
	flagNoECN       = 1 << 0
	flagDecapDSCP   = 1 << 1
	flagNoPMTUDisc  = 1 << 2
	flagAnyFamily   = 1 << 5
	flagAlign4      = 1 << 6
	flagESN         = 1 << 7
	extraNoDSCP     = 1 << 0
	offloadInbound  = 1 << 1
	offloadPacket   = 1 << 2
	modeTransport   = 0
	modeTunnel      = 1
	actionAllow     = 0
	actionBlock     = 1
	unlimited       = ^uint64(0)
	allAlgorithms   = ^uint32(0)
	espInUDP        = 2 // UDP_ENCAP_ESPINUDP
	shareAny        = 0
	directionOfIn   = 1 // XFRMA_SA_DIR
	directionOfOut  = 2
	lenSelector     = 56
	lenState        = 224
	lenStateID      = 24
	lenPolicy       = 168
	lenPolicyID     = 64
	lenTemplate     = 64
	lenExpire       = 232
	lenAcquire      = 280
	lenMapping      = 64
	lenAlgorithm    = 68 // struct xfrm_algo
	lenAlgorithmICV = 72 // struct xfrm_algo_auth and xfrm_algo_aead
	lenReplayESN    = 24
	lenReplay       = 12
	lenLifetime     = 32
)

// direction is a policy's.
type direction uint8

const (
	dirIn direction = iota
	dirOut
	dirFwd
)

func (d direction) String() string { return [...]string{"in", "out", "fwd"}[d] }

var native = binary.NativeEndian

func familyOf(a netip.Addr) uint16 {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// putAddr writes an address into the 16 bytes of an xfrm_address_t.
func putAddr(b []byte, a netip.Addr) {
	if a.IsValid() {
		copy(b[:16], a.AsSlice())
	}
}

func getAddr(b []byte, family uint16) netip.Addr {
	if family == unix.AF_INET {
		return netip.AddrFrom4([4]byte(b[:4]))
	}
	return netip.AddrFrom16([16]byte(b[:16]))
}

// selector is struct xfrm_selector: which packets a policy or an SA is for.
type selector struct {
	Src, Dst netip.Prefix
	Proto    uint8
	SPort    uint16 // 0 is any
	DPort    uint16
	Device   uint32 // interface index; 0 is any
}

func (s selector) put(b []byte) {
	putAddr(b[0:], s.Dst.Addr())
	putAddr(b[16:], s.Src.Addr())
	for _, p := range []struct {
		at   int
		port uint16
	}{{32, s.DPort}, {36, s.SPort}} {
		if p.port != 0 {
			binary.BigEndian.PutUint16(b[p.at:], p.port)
			binary.BigEndian.PutUint16(b[p.at+2:], 0xffff)
		}
	}
	native.PutUint16(b[40:], familyOf(s.Dst.Addr()))
	b[42], b[43], b[44] = uint8(s.Dst.Bits()), uint8(s.Src.Bits()), s.Proto
	native.PutUint32(b[48:], s.Device)
}

// getSelector reads a selector; one of no family is the zero value.
func getSelector(b []byte) (s selector) {
	family := native.Uint16(b[40:])
	if family != unix.AF_INET && family != unix.AF_INET6 {
		return s
	}
	s.Dst = netip.PrefixFrom(getAddr(b, family), int(b[42]))
	s.Src = netip.PrefixFrom(getAddr(b[16:], family), int(b[43]))
	s.Proto = b[44]
	s.DPort, s.SPort = binary.BigEndian.Uint16(b[32:]), binary.BigEndian.Uint16(b[36:])
	s.Device = native.Uint32(b[48:])
	return s
}

// stateID names an SA (struct xfrm_usersa_id).
type stateID struct {
	Dst   netip.Addr
	SPI   sa.SPI
	Proto sa.Protocol
}

func (id stateID) encode() []byte {
	b := make([]byte, lenStateID)
	putAddr(b, id.Dst)
	binary.BigEndian.PutUint32(b[16:], uint32(id.SPI))
	native.PutUint16(b[20:], familyOf(id.Dst))
	b[22] = uint8(id.Proto)
	return b
}

// offloading is struct xfrm_user_offload.
type offloading struct {
	Device  uint32 // interface index
	Inbound bool   // of an SA
	Packet  bool
}

func (o offloading) encode() []byte {
	b := make([]byte, 8)
	native.PutUint32(b, o.Device)
	if o.Inbound {
		b[4] |= offloadInbound
	}
	if o.Packet {
		b[4] |= offloadPacket
	}
	return b
}

func decodeOffloading(b []byte) *offloading {
	if len(b) < 5 {
		return nil
	}
	return &offloading{Device: native.Uint32(b), Inbound: b[4]&offloadInbound != 0, Packet: b[4]&offloadPacket != 0}
}

// attributes collects attributes behind a message's fixed part.
type attributes struct{ b []byte }

func (a *attributes) add(kind uint16, data []byte) {
	a.b = native.AppendUint16(a.b, uint16(4+len(data)))
	a.b = native.AppendUint16(a.b, kind)
	a.b = append(a.b, data...)
	for len(a.b)%4 != 0 {
		a.b = append(a.b, 0)
	}
}

func (a *attributes) addUint32(kind uint16, v uint32) { a.add(kind, native.AppendUint32(nil, v)) }

// eachAttribute calls f for every attribute, and stops at one that does not
// fit.
func eachAttribute(b []byte, f func(kind uint16, data []byte)) {
	for len(b) >= 4 {
		n := int(native.Uint16(b))
		if n < 4 || n > len(b) {
			return
		}
		f(native.Uint16(b[2:])&0x3fff, b[4:n])
		b = b[min(len(b), (n+3)&^3):]
	}
}
