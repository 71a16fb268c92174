// SPDX-License-Identifier: Apache-2.0

package tunnel

import (
	"encoding/binary"
	"net/netip"

	"quicksand/fallback/esp"
	"quicksand/fallback/tun"
)

// reassembler puts fragments together for transport mode, which protects whole
// packets only (RFC 4303 section 3.3.4). The fragments are the machine's own,
// cut to the TUN device's MTU a moment ago: they come in order, so anything
// else is dropped, and a few packets at a time are enough.
type reassembler struct {
	slots [8]reassembly
	turn  int
}

type reassembly struct {
	key  fragmentKey
	buf  []byte // the packet at esp.Headroom; nil where the slot is free
	next int    // length so far
	base int    // length of the IP header
}

type fragmentKey struct {
	src, dst netip.Addr
	id       uint32
	protocol uint8
}

// add takes a fragment and returns the whole packet, at esp.Headroom in a
// buffer of its own, and its length, once the last one came. It reports false
// for a fragment that has no place.
func (r *reassembler) add(h *esp.Header, packet []byte) (buf []byte, n int, ok bool) {
	f, ok := parseFragment(packet)
	if !ok {
		return nil, 0, false
	}
	key := fragmentKey{h.Src, h.Dst, f.id, f.protocol}
	var s *reassembly
	if f.offset == 0 {
		s = &r.slots[r.turn%len(r.slots)]
		r.turn++
		*s = reassembly{key: key, buf: make([]byte, esp.Headroom+maxPacket+esp.Tailroom), base: f.base}
		s.next = copy(s.buf[esp.Headroom:], packet[:f.base])
	} else {
		for i := range r.slots {
			if r.slots[i].buf != nil && r.slots[i].key == key {
				s = &r.slots[i]
			}
		}
		if s == nil {
			return nil, 0, false
		}
	}
	if s.next-s.base != f.offset || s.next+len(f.payload) > maxPacket {
		*s = reassembly{}
		return nil, 0, false
	}
	s.next += copy(s.buf[esp.Headroom+s.next:], f.payload)
	if f.more {
		return nil, 0, true
	}
	buf, n = s.buf, s.next
	finish(buf[esp.Headroom:][:n], s.base, f.protocol)
	*s = reassembly{}
	return buf, n, true
}

// fragmentInfo is what a fragment says of its place.
type fragmentInfo struct {
	id       uint32
	protocol uint8
	offset   int // of payload, in bytes
	more     bool
	base     int // length of the IP header
	payload  []byte
}

// parseFragment reads a fragment of IPv4 without options, or of IPv6 without
// headers before the fragment header. Its length is known to be right.
func parseFragment(b []byte) (f fragmentInfo, ok bool) {
	if b[0]>>4 == 4 {
		word := binary.BigEndian.Uint16(b[6:])
		f = fragmentInfo{id: uint32(binary.BigEndian.Uint16(b[4:])), protocol: b[9],
			offset: int(word&0x1fff) * 8, more: word&0x2000 != 0, base: 20, payload: b[20:]}
		return f, b[0]&15 == 5
	}
	if b[6] != 44 || len(b) < 48 {
		return f, false
	}
	word := binary.BigEndian.Uint16(b[42:])
	return fragmentInfo{id: binary.BigEndian.Uint32(b[44:]), protocol: b[40],
		offset: int(word &^ 7), more: word&1 != 0, base: 40, payload: b[48:]}, true
}

// finish makes the header that of a whole packet.
func finish(b []byte, base int, protocol uint8) {
	if base == 40 {
		b[6] = protocol
		binary.BigEndian.PutUint16(b[4:], uint16(len(b)-40))
		return
	}
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
	b[6], b[7], b[10], b[11] = 0, 0, 0, 0
	binary.BigEndian.PutUint16(b[10:], ^tun.Checksum(0, b[:20]))
}
