// SPDX-License-Identifier: Apache-2.0

package offload

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"quicksand/sa"
)

// ownSeq, in the upper 12 bits, marks an SA as quicksand's: the kernel keeps the
// number in an SA's sequence field and uses it for nothing once the SA has keys.
// It counts its own from 1. The lower bits differ between SAs, for the kernel
// finds SAs by the number and would have all in one chain.
const ownSeq = 0x71500000

func isOwnSeq(seq uint32) bool { return seq>>20 == ownSeq>>20 }

// mappingTime is how long the kernel says nothing more of packets that come from
// a new place, in seconds. Before 5.17 it says so for each of them.
const mappingTime = 1

// limits are a lifetime's in bytes and packets, and a time after which the
// kernel drops the SA by itself; 0 is none.
type limits struct {
	SoftBytes, HardBytes     uint64
	SoftPackets, HardPackets uint64
	HardTime                 time.Duration
}

// algorithm is a transform as the kernel's crypto API names it, with its key.
type algorithm struct {
	Name    string
	Key     sa.Key
	ICVBits int
}

// encapsulation is struct xfrm_encap_tmpl.
type encapsulation struct {
	SrcPort, DstPort uint16
	Original         netip.Addr // valid where a NAT changed it
}

// replay is where the sequence numbers stand.
type replay struct {
	OSeq, Seq uint64
	Bitmap    []uint32 // the newest packet is in the lowest bit of its word's place; see xfrm_replay.c
}

// state is an SA as it is given to the kernel.
type state struct {
	ID       stateID
	Src      netip.Addr
	Inbound  bool
	Mode     sa.Mode
	Reqid    uint32
	Selector *selector
	Limits   limits
	Flags    uint8
	Extra    uint32
	Window   uint32 // in packets
	ESN      bool
	// OutWindow is the window that an outbound SA with ESN has to have on
	// kernels that do not know directions.
	OutWindow uint32
	AEAD      *algorithm
	Crypt     *algorithm
	Auth      *algorithm
	Encap     *encapsulation
	SetMark   sa.Mark // on the packets behind it
	IfID      uint32
	Offload   *offloading
	Replay    *replay
	Used      *lifetime // so far
}

// lifetime is struct xfrm_lifetime_cur as the kernel gave it.
type lifetime [lenLifetime]byte

// encode makes the body of NEWSA and UPDSA.
func (s *state) encode() []byte {
	b := make([]byte, lenState, 640)
	if s.Selector != nil {
		s.Selector.put(b)
	}
	putAddr(b[56:], s.ID.Dst)
	binary.BigEndian.PutUint32(b[72:], uint32(s.ID.SPI))
	b[76] = uint8(s.ID.Proto)
	putAddr(b[80:], s.Src)
	s.Limits.put(b[96:])
	native.PutUint32(b[204:], ownSeq|uint32(s.ID.SPI)&0xfffff)
	native.PutUint32(b[208:], s.Reqid)
	native.PutUint16(b[212:], familyOf(s.ID.Dst))
	b[214] = kernelMode(s.Mode)
	flags := s.Flags
	window, wide := s.Window, s.ESN || s.Window > 32
	if s.ESN {
		flags |= flagESN
	}
	if !s.Inbound {
		window = 0
		if s.ESN {
			window = s.OutWindow
		}
	}
	if !wide {
		b[215] = uint8(window)
	}
	b[216] = flags
	a := attributes{b}
	for _, alg := range []struct {
		kind uint16
		*algorithm
	}{{attrAlgAEAD, s.AEAD}, {attrAlgAuthTrunc, s.Auth}, {attrAlgCrypt, s.Crypt}} {
		if alg.algorithm != nil {
			a.add(alg.kind, alg.encode(alg.kind != attrAlgCrypt))
		}
	}
	if s.Encap != nil {
		a.add(attrEncap, s.Encap.encode())
		if s.Inbound {
			a.addUint32(attrMappingTime, mappingTime)
		}
	}
	switch {
	case wide && (s.Inbound || s.ESN):
		a.add(attrReplayESN, s.replayESN(window))
	case s.Replay != nil:
		a.add(attrReplay, s.replayShort())
	}
	if s.Used != nil {
		a.add(attrLifetime, s.Used[:])
	}
	if s.Extra != 0 {
		a.addUint32(attrExtraFlags, s.Extra)
	}
	if s.SetMark.Mask != 0 {
		a.addUint32(attrSetMark, s.SetMark.Value)
		a.addUint32(attrSetMarkMask, s.SetMark.Mask)
	}
	if s.IfID != 0 {
		a.addUint32(attrIfID, s.IfID)
	}
	if s.Offload != nil {
		a.add(attrOffload, s.Offload.encode())
	}
	a.add(attrDirection, []byte{kernelDirection(s.Inbound)})
	return a.b
}

func kernelMode(m sa.Mode) uint8 {
	if m == sa.Transport {
		return modeTransport
	}
	return modeTunnel
}

func kernelDirection(inbound bool) uint8 {
	if inbound {
		return directionOfIn
	}
	return directionOfOut
}

func (l limits) put(b []byte) {
	for i, v := range []uint64{l.SoftBytes, l.HardBytes, l.SoftPackets, l.HardPackets} {
		if v == 0 {
			v = unlimited
		}
		native.PutUint64(b[8*i:], v)
	}
	// Times are in seconds from the SA's making, and 0 is no limit.
	native.PutUint64(b[40:], uint64((l.HardTime+time.Second-1)/time.Second))
}

// encode makes struct xfrm_algo, or with an ICV length the larger one of AEAD
// and truncated integrity.
func (a *algorithm) encode(icv bool) []byte {
	n := lenAlgorithm
	if icv {
		n = lenAlgorithmICV
	}
	b := make([]byte, n, n+len(a.Key))
	copy(b[:63], a.Name)
	native.PutUint32(b[64:], uint32(8*len(a.Key)))
	if icv {
		native.PutUint32(b[68:], uint32(a.ICVBits))
	}
	return append(b, a.Key...)
}

func (e *encapsulation) encode() []byte {
	b := make([]byte, 24)
	native.PutUint16(b, espInUDP)
	binary.BigEndian.PutUint16(b[2:], e.SrcPort)
	binary.BigEndian.PutUint16(b[4:], e.DstPort)
	putAddr(b[8:], e.Original)
	return b
}

// replayESN makes struct xfrm_replay_state_esn with a bitmap for the window.
func (s *state) replayESN(window uint32) []byte {
	words := int(window+31) / 32
	b := make([]byte, lenReplayESN+4*words)
	native.PutUint32(b, uint32(words))
	native.PutUint32(b[20:], window)
	if r := s.Replay; r != nil {
		native.PutUint32(b[4:], uint32(r.OSeq))
		native.PutUint32(b[8:], uint32(r.Seq))
		if s.ESN {
			native.PutUint32(b[12:], uint32(r.OSeq>>32))
			native.PutUint32(b[16:], uint32(r.Seq>>32))
		}
		for i := 0; i < words && i < len(r.Bitmap); i++ {
			native.PutUint32(b[lenReplayESN+4*i:], r.Bitmap[i])
		}
	}
	return b
}

// replayShort makes struct xfrm_replay_state.
func (s *state) replayShort() []byte {
	b := make([]byte, lenReplay)
	native.PutUint32(b, uint32(s.Replay.OSeq))
	native.PutUint32(b[4:], uint32(s.Replay.Seq))
	if len(s.Replay.Bitmap) > 0 {
		native.PutUint32(b[8:], s.Replay.Bitmap[0])
	}
	return b
}

// seen is an SA as the kernel shows it.
type seen struct {
	ID        stateID
	Src       netip.Addr
	Seq       uint32
	Reqid     uint32
	Mode      uint8
	Bytes     uint64
	Packets   uint64
	Used      time.Time // last, where the kernel keeps it
	Offload   *offloading
	Direction uint8 // 0 where the kernel does not know directions
	Replay    replay
	used      lifetime
}

// decodeState reads an SA of NEWSA, or the one that EXPIRE begins with; fixed
// is the length of what comes before the attributes.
func decodeState(b []byte, fixed int) (*seen, error) {
	if len(b) < fixed || fixed < lenState {
		return nil, fmt.Errorf("decode SA: %d bytes are not enough", len(b))
	}
	family := native.Uint16(b[212:])
	if family != unix.AF_INET && family != unix.AF_INET6 {
		return nil, fmt.Errorf("decode SA: family %d", family)
	}
	s := &seen{
		ID:      stateID{getAddr(b[56:], family), sa.SPI(binary.BigEndian.Uint32(b[72:])), sa.Protocol(b[76])},
		Src:     getAddr(b[80:], family),
		Bytes:   native.Uint64(b[160:]),
		Packets: native.Uint64(b[168:]),
		Seq:     native.Uint32(b[204:]),
		Reqid:   native.Uint32(b[208:]),
		Mode:    b[214],
		used:    lifetime(b[160:]),
	}
	eachAttribute(b[fixed:], func(kind uint16, data []byte) {
		switch {
		case kind == attrOffload:
			s.Offload = decodeOffloading(data)
		case kind == attrDirection && len(data) >= 1:
			s.Direction = data[0]
		case kind == attrLastUsed && len(data) >= 8:
			s.Used = time.Unix(int64(native.Uint64(data)), 0)
		case kind == attrReplay && len(data) >= lenReplay:
			s.Replay = replay{uint64(native.Uint32(data)), uint64(native.Uint32(data[4:])), []uint32{native.Uint32(data[8:])}}
		case kind == attrReplayESN && len(data) >= lenReplayESN:
			s.Replay = decodeReplayESN(data)
		}
	})
	return s, nil
}

func decodeReplayESN(b []byte) (r replay) {
	r.OSeq = uint64(native.Uint32(b[12:]))<<32 | uint64(native.Uint32(b[4:]))
	r.Seq = uint64(native.Uint32(b[16:]))<<32 | uint64(native.Uint32(b[8:]))
	for b = b[lenReplayESN:]; len(b) >= 4; b = b[4:] {
		r.Bitmap = append(r.Bitmap, native.Uint32(b))
	}
	return r
}

// encodeSPIRequest makes the body of ALLOCSPI, which reserves an SPI between
// low and high for an inbound SA at dst.
func encodeSPIRequest(proto sa.Protocol, dst netip.Addr, low, high uint32) []byte {
	b := make([]byte, lenSPIRequest)
	putAddr(b[56:], dst)
	b[76] = uint8(proto)
	native.PutUint16(b[212:], familyOf(dst))
	b[214] = modeTunnel
	native.PutUint32(b[224:], low)
	native.PutUint32(b[228:], high)
	a := attributes{b}
	a.add(attrDirection, []byte{directionOfIn})
	return a.b
}
