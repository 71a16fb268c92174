// SPDX-License-Identifier: Apache-2.0

package esp

import (
	"encoding/binary"
	"net/netip"

	"quicksand/sa"
)

// Outer is an outer IP header to be made.
type Outer struct {
	Src, Dst netip.Addr // of one family
	Protocol uint8
	TOS      uint8
	TTL      uint8 // 0 stands for 64
	DF       bool
	ID       uint16 // IPv4's identification
}

const (
	udpHeaderLen = 8
	defaultTTL   = 64
)

// PushUDP puts the UDP header of encapsulated ESP (RFC 3948 section 2.1)
// before the packet. Its checksum is 0; over IPv6 the caller's PushIP with
// protocol 17 computes it.
func PushUDP(p *Packet, src, dst uint16) error {
	if !p.valid() || p.Len > 0xffff-udpHeaderLen {
		return ErrMalformed
	}
	if p.Off < udpHeaderLen {
		return ErrRoom
	}
	p.Off -= udpHeaderLen
	p.Len += udpHeaderLen
	b := p.Buf[p.Off:]
	binary.BigEndian.PutUint16(b, src)
	binary.BigEndian.PutUint16(b[2:], dst)
	binary.BigEndian.PutUint16(b[4:], uint16(p.Len))
	binary.BigEndian.PutUint16(b[6:], 0)
	return nil
}

// PushIP puts an IPv4 or IPv6 header before the packet.
func PushIP(p *Packet, h Outer) error {
	if !p.valid() || !h.Src.IsValid() || h.Src.BitLen() != h.Dst.BitLen() {
		return ErrMalformed
	}
	if h.Dst.Is6() && h.Protocol == protoUDP {
		setUDPChecksum(p.Bytes(), h.Src, h.Dst)
	}
	return push(p, &h)
}

// push puts the header before a valid packet and leaves the packet alone.
func push(p *Packet, h *Outer) error {
	n := ipHeaderLen(h.Dst)
	if p.Len > 0xffff-n {
		return ErrMalformed
	}
	if p.Off < n {
		return ErrRoom
	}
	p.Off -= n
	p.Len += n
	putIP(p.Buf[p.Off:p.Off+n], p.Len, h)
	return nil
}

func ipHeaderLen(a netip.Addr) int {
	if a.Is6() {
		return ipv6HeaderLen
	}
	return ipv4HeaderLen
}

// putIP writes the header of a packet of total bytes; b has the header's
// length.
func putIP(b []byte, total int, h *Outer) {
	clear(b)
	ttl := h.TTL
	if ttl == 0 {
		ttl = defaultTTL
	}
	if h.Dst.Is6() {
		binary.BigEndian.PutUint32(b, 6<<28|uint32(h.TOS)<<20)
		binary.BigEndian.PutUint16(b[4:], uint16(total-ipv6HeaderLen))
		b[6], b[7] = h.Protocol, ttl
		src, dst := h.Src.As16(), h.Dst.As16()
		copy(b[8:], src[:])
		copy(b[24:], dst[:])
		return
	}
	b[0], b[1] = 4<<4|ipv4HeaderLen/4, h.TOS
	binary.BigEndian.PutUint16(b[2:], uint16(total))
	binary.BigEndian.PutUint16(b[4:], h.ID)
	if h.DF {
		b[6] = 0x40
	}
	b[8], b[9] = ttl, h.Protocol
	src, dst := h.Src.As4(), h.Dst.As4()
	copy(b[12:], src[:])
	copy(b[16:], dst[:])
	setIPv4Checksum(b)
}

// setIPv4Checksum computes the checksum of a whole IPv4 header.
func setIPv4Checksum(b []byte) {
	b[10], b[11] = 0, 0
	binary.BigEndian.PutUint16(b[10:], ^fold(sum(0, b)))
}

// setUDPChecksum computes the checksum that IPv6 demands.
func setUDPChecksum(b []byte, src, dst netip.Addr) {
	if len(b) < udpHeaderLen {
		return
	}
	b[6], b[7] = 0, 0
	c := ^fold(sum(sumAddr(sumAddr(uint32(len(b)+protoUDP), src), dst), b))
	if c == 0 {
		c = 0xffff
	}
	binary.BigEndian.PutUint16(b[6:], c)
}

// headers is what passes between the inner and the outer header of a tunnel
// (RFC 4301 section 5.1.2).
type headers struct {
	df, ecn bool
	dscp    sa.DSCPCopy
}

// The two halves of TOS and traffic class (RFC 2474, RFC 3168).
const (
	ecnMask  = 3
	ecnNone  = 0
	ecnCE    = 3
	dscpMask = 0xfc
)

// outer returns the outer header's TOS and DF for an inner packet. ECN is
// copied in RFC 6040's normal mode, or zero in its compatibility mode.
func (h *headers) outer(inner []byte) (tos uint8, df bool) {
	t := trafficClass(inner)
	if h.dscp == sa.DSCPOut || h.dscp == sa.DSCPBoth {
		tos = t & dscpMask
	}
	if h.ecn {
		tos |= t & ecnMask
	}
	return tos, h.df && dontFragment(inner)
}

// inner changes the inner header to what the outer one says. ErrECN where
// congestion cannot be passed on and the packet has to go (RFC 6040 section
// 4.2).
func (h *headers) inner(inner []byte, outer uint8) error {
	was := trafficClass(inner)
	tos := was
	if h.dscp == sa.DSCPIn || h.dscp == sa.DSCPBoth {
		tos = outer&dscpMask | tos&ecnMask
	}
	if h.ecn {
		switch in, out := was&ecnMask, outer&ecnMask; {
		case out == ecnCE && in == ecnNone:
			return ErrECN
		case out == ecnCE:
			tos |= ecnCE
		case in == 2 && out == 1: // ECT(0) inside, ECT(1) outside
			tos = tos&dscpMask | out
		}
	}
	if tos != was {
		setTrafficClass(inner, tos)
	}
	return nil
}
