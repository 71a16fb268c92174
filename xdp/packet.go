// SPDX-License-Identifier: Apache-2.0

package xdp

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"quicksand/sa"
)

// Headers that lie before the one that is looked for.
const (
	ethernetHeader = 14
	maxVLANs       = 2
	maxExtensions  = 6
	isakmpHeader   = 28
)

const (
	protoHopByHop           = 0
	protoUDP                = 17
	protoRouting            = 43
	protoFragment           = 44
	protoDestinationOptions = 60
)

// Ports are the UDP ports that carry IKE and ESP; a zero value knows none.
type Ports struct {
	IKE    uint16   // IKE only
	Encaps []uint16 // IKE behind the non-ESP marker, and ESP; up to four
}

// Found is what a frame holds, without a look into the table.
type Found struct {
	Verdict Verdict // if neither Steered nor New
	Steered bool    // the table decides, by Key
	New     bool    // IKE without a responder cookie: the limit of Source decides
	Key     Key     // if Steered
	// Sequence is the packet's sequence number, if Steered: its low half where
	// the SA has extended ones.
	Sequence uint32
	Source   netip.Addr // if New; of an IPv6 address its /64
	Length   int        // of the IP packet, if Steered or New
	Offset   int        // of the ESP or AH header in the frame, if Steered
	Encap    bool       // in UDP, whose header is then the 8 bytes before Offset
}

// Parse finds what an Ethernet frame holds, by the rules of the XDP program:
// it is the program's twin in the tests, and serves those who hold frames that
// the program has steered.
func (p Ports) Parse(frame []byte) Found {
	if len(frame) < ethernetHeader {
		return Found{Verdict: Malformed}
	}
	kind, rest := binary.BigEndian.Uint16(frame[12:]), frame[ethernetHeader:]
	for range maxVLANs {
		if kind != 0x8100 && kind != 0x88a8 {
			break
		}
		if len(rest) < 4 {
			return Found{Verdict: Malformed}
		}
		kind, rest = binary.BigEndian.Uint16(rest[2:]), rest[4:]
	}
	var f Found
	switch kind {
	case 0x0800:
		f = p.ipv4(rest)
	case 0x86dd:
		f = p.ipv6(rest)
	default:
		return Found{Verdict: Other}
	}
	if f.Steered {
		f.Offset += len(frame) - len(rest)
	}
	return f
}

func (p Ports) ipv4(b []byte) Found {
	if len(b) < 20 || b[0]>>4 != 4 {
		return Found{Verdict: Malformed}
	}
	ihl, total := int(b[0]&15)*4, int(binary.BigEndian.Uint16(b[2:]))
	if ihl < 20 || total < ihl || total > len(b) {
		return Found{Verdict: Malformed}
	}
	if binary.BigEndian.Uint16(b[6:])&0x3fff != 0 {
		return Found{Verdict: Fragment}
	}
	f := p.transport(b[9], b[ihl:total])
	f.Key.Destination = netip.AddrFrom4([4]byte(b[16:]))
	f.Source = netip.AddrFrom4([4]byte(b[12:]))
	f.Length = total
	f.Offset += ihl
	return f
}

func (p Ports) ipv6(b []byte) Found {
	if len(b) < 40 || b[0]>>4 != 6 {
		return Found{Verdict: Malformed}
	}
	total := 40 + int(binary.BigEndian.Uint16(b[4:]))
	if total > len(b) {
		return Found{Verdict: Malformed}
	}
	next, rest := b[6], b[40:total]
	for range maxExtensions {
		if !isExtension(next) {
			break
		}
		if len(rest) < 8 {
			return Found{Verdict: Malformed}
		}
		size := 8
		switch {
		case next == protoFragment:
			// One that is whole is none (RFC 6946).
			if binary.BigEndian.Uint16(rest[2:])&0xfff9 != 0 {
				return Found{Verdict: Fragment}
			}
		case next == protoRouting && rest[3] != 0:
			// The packet is still on its way to somebody else.
			return Found{Verdict: Other}
		default:
			size += int(rest[1]) * 8
		}
		// A header may claim to be longer than the packet; what follows it is
		// then as good as empty.
		next, rest = rest[0], rest[min(size, len(rest)):]
	}
	if isExtension(next) {
		return Found{Verdict: Malformed}
	}
	offset := total - len(rest)
	f := p.transport(next, rest)
	f.Key.Destination = netip.AddrFrom16([16]byte(b[24:]))
	f.Source = limitedSource(netip.AddrFrom16([16]byte(b[8:])))
	f.Length = total
	f.Offset += offset
	return f
}

func isExtension(proto byte) bool {
	return proto == protoHopByHop || proto == protoRouting || proto == protoFragment || proto == protoDestinationOptions
}

// limitedSource is what one sender of new exchanges cannot vary: its IPv4
// address, or the /64 of its IPv6 address.
func limitedSource(a netip.Addr) netip.Addr {
	if a = a.Unmap(); a.Is4() {
		return a
	}
	p, _ := a.Prefix(64)
	return p.Addr()
}

func (p Ports) transport(proto byte, b []byte) Found {
	switch proto {
	case protoUDP:
		return p.udp(b)
	case byte(sa.ESP):
		return security(sa.ESP, b)
	case byte(sa.AH):
		return security(sa.AH, b)
	}
	return Found{Verdict: Other}
}

func (p Ports) udp(b []byte) Found {
	if len(b) < 8 {
		return Found{Verdict: Malformed}
	}
	port, length := binary.BigEndian.Uint16(b[2:]), int(binary.BigEndian.Uint16(b[4:]))
	encapsulated := slices.Contains(p.Encaps, port)
	if port == 0 || port != p.IKE && !encapsulated {
		return Found{Verdict: Other}
	}
	if length < 8 || length > len(b) {
		return Found{Verdict: Malformed}
	}
	b = b[8:length]
	switch {
	case !encapsulated:
		return ike(b)
	case len(b) == 1 && b[0] == 0xff:
		return Found{Verdict: Keepalive}
	case len(b) < 4:
		return Found{Verdict: Malformed}
	case binary.BigEndian.Uint32(b) == 0:
		return ike(b[4:])
	}
	f := security(sa.ESP, b)
	f.Offset += 8
	f.Encap = f.Steered
	return f
}

func ike(b []byte) Found {
	if len(b) < isakmpHeader {
		return Found{Verdict: Malformed}
	}
	return Found{Verdict: IKE, New: binary.BigEndian.Uint64(b[8:]) == 0}
}

func security(proto sa.Protocol, b []byte) Found {
	size := 8
	if proto == sa.AH {
		size = 12
	}
	if len(b) < size {
		return Found{Verdict: Malformed}
	}
	return Found{
		Steered:  true,
		Key:      Key{SPI: sa.SPI(binary.BigEndian.Uint32(b[size-8:])), Protocol: proto},
		Sequence: binary.BigEndian.Uint32(b[size-4:]),
	}
}
