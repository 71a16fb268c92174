// SPDX-License-Identifier: Apache-2.0

package esp

import (
	"encoding/binary"
	"net/netip"

	"quicksand/sa"
)

// Header is what policies and SAs need of an IP packet.
type Header struct {
	Src, Dst         netip.Addr
	Protocol         uint8  // of the payload behind IPv6 extension headers
	SrcPort, DstPort uint16 // TCP, UDP, UDP-Lite, DCCP, SCTP; else 0
	HasPorts         bool   // false in a later fragment too
	Fragment         bool   // any fragment, the first too
	DF               bool   // IPv4's; true for IPv6
	TOS              uint8  // TOS or traffic class
	Len              int    // of the whole packet by its header, in bytes
	PayloadOff       int    // of the payload behind all headers known
}

// IP protocol numbers and IPv6 extension headers.
const (
	protoHopByHop    = 0
	protoIPv4        = 4
	protoTCP         = 6
	protoUDP         = 17
	protoDCCP        = 33
	protoIPv6        = 41
	protoRouting     = 43
	protoFragment    = 44
	protoESP         = 50
	protoAH          = 51
	protoNone        = 59
	protoDestOptions = 60
	protoSCTP        = 132
	protoUDPLite     = 136
)

const (
	ipv4HeaderLen = 20
	ipv6HeaderLen = 40
)

// ipLengths returns the length by the header of an IP packet and of its fixed
// header with IPv4's options, and whether the packet is whole in b.
func ipLengths(b []byte) (total, header int, ok bool) {
	switch {
	case len(b) >= ipv4HeaderLen && b[0]>>4 == 4:
		header = int(b[0]&15) * 4
		total = int(binary.BigEndian.Uint16(b[2:]))
		return total, header, header >= ipv4HeaderLen && total >= header && total <= len(b)
	case len(b) >= ipv6HeaderLen && b[0]>>4 == 6:
		total = ipv6HeaderLen + int(binary.BigEndian.Uint16(b[4:]))
		return total, ipv6HeaderLen, total <= len(b)
	}
	return 0, 0, false
}

// trafficClass returns TOS or traffic class of a whole IP header.
func trafficClass(b []byte) uint8 {
	if b[0]>>4 == 4 {
		return b[1]
	}
	return b[0]<<4 | b[1]>>4
}

// setTrafficClass changes it, and mends IPv4's header checksum.
func setTrafficClass(b []byte, tos uint8) {
	if b[0]>>4 == 6 {
		b[0] = 6<<4 | tos>>4
		b[1] = tos<<4 | b[1]&15
		return
	}
	old := binary.BigEndian.Uint16(b)
	b[1] = tos
	sum := binary.BigEndian.Uint16(b[10:])
	delta := uint32(^old) + uint32(binary.BigEndian.Uint16(b))
	binary.BigEndian.PutUint16(b[10:], ^fold(uint32(^sum)+delta)) // RFC 1624
}

// dontFragment returns IPv4's DF; IPv6 is never fragmented on its way.
func dontFragment(b []byte) bool { return b[0]>>4 == 6 || b[6]&0x40 != 0 }

// Parse reads an IP packet's headers. It reports false where they are
// malformed or the packet is longer than b.
func (h *Header) Parse(b []byte) bool {
	total, n, ok := ipLengths(b)
	if !ok {
		return false
	}
	b = b[:total]
	*h = Header{Len: total, PayloadOff: n, TOS: trafficClass(b), DF: dontFragment(b)}
	later := false
	if b[0]>>4 == 4 {
		h.Src = netip.AddrFrom4([4]byte(b[12:16]))
		h.Dst = netip.AddrFrom4([4]byte(b[16:20]))
		h.Protocol = b[9]
		fragment := binary.BigEndian.Uint16(b[6:]) & 0x3fff // MF and offset
		h.Fragment = fragment != 0
		later = fragment&0x1fff != 0
	} else {
		h.Src = netip.AddrFrom16([16]byte(b[8:24]))
		h.Dst = netip.AddrFrom16([16]byte(b[24:40]))
		h.Protocol = b[6]
		if later, ok = h.walkExtensions(b); !ok {
			return false
		}
	}
	switch h.Protocol {
	case protoTCP, protoUDP, protoUDPLite, protoDCCP, protoSCTP:
		if p := b[h.PayloadOff:]; !later && len(p) >= 4 {
			h.HasPorts = true
			h.SrcPort = binary.BigEndian.Uint16(p)
			h.DstPort = binary.BigEndian.Uint16(p[2:])
		}
	}
	return true
}

// walkExtensions moves Protocol and PayloadOff behind IPv6's extension headers
// (RFC 8200 section 4), and reports whether the packet is a later fragment.
func (h *Header) walkExtensions(b []byte) (later, ok bool) {
	for {
		rest := b[h.PayloadOff:]
		switch h.Protocol {
		case protoHopByHop, protoRouting, protoDestOptions:
			if len(rest) < 8 || len(rest) < 8+int(rest[1])*8 {
				return false, false
			}
			h.PayloadOff += 8 + int(rest[1])*8
		case protoFragment:
			if len(rest) < 8 {
				return false, false
			}
			h.PayloadOff += 8
			field := binary.BigEndian.Uint16(rest[2:]) &^ 6 // offset and M
			h.Fragment = h.Fragment || field != 0
			if field>>3 != 0 {
				h.Protocol = rest[0]
				return true, true
			}
		default:
			return false, true
		}
		h.Protocol = rest[0]
	}
}

// Matches reports whether a packet from src's to dst's traffic is selected by
// both. A selector with a port matches only packets whose ports are known.
func (h *Header) Matches(src, dst *sa.Selector) bool {
	return src.ContainsAddr(h.Src) && dst.ContainsAddr(h.Dst) && h.matchesUpper(src, dst)
}

// matchesUpper compares protocol and ports alone.
func (h *Header) matchesUpper(src, dst *sa.Selector) bool {
	return (src.Protocol == 0 || src.Protocol == h.Protocol) &&
		(dst.Protocol == 0 || dst.Protocol == h.Protocol) &&
		(src.Port == 0 || h.HasPorts && src.Port == h.SrcPort) &&
		(dst.Port == 0 || h.HasPorts && dst.Port == h.DstPort)
}
