// SPDX-License-Identifier: Apache-2.0

package esp

import (
	"encoding/binary"
	"net/netip"
)

// fold adds the carries of an Internet checksum's sum back in (RFC 1071).
func fold(s uint32) uint16 {
	s = s>>16 + s&0xffff
	s = s>>16 + s&0xffff
	return uint16(s)
}

// sum adds the 16-bit words of up to 64 KiB to an unfolded sum. An odd byte
// counts as the high half of a word.
func sum(s uint32, b []byte) uint32 {
	wide := uint64(s)
	for ; len(b) >= 4; b = b[4:] {
		wide += uint64(binary.BigEndian.Uint32(b))
	}
	if len(b) >= 2 {
		wide += uint64(binary.BigEndian.Uint16(b))
		b = b[2:]
	}
	if len(b) == 1 {
		wide += uint64(b[0]) << 8
	}
	wide = wide>>32 + wide&0xffffffff
	wide = wide>>32 + wide&0xffffffff
	return uint32(fold(uint32(wide)))
}

// sumAddr adds an address, none where it is not valid.
func sumAddr(s uint32, a netip.Addr) uint32 {
	switch {
	case a.Is4():
		b := a.As4()
		return sum(s, b[:])
	case a.IsValid():
		b := a.As16()
		return sum(s, b[:])
	}
	return s
}

// mendChecksum adds a difference to the checksum of a TCP or UDP packet whose
// pseudo header has changed (RFC 3948 section 3.1.2, RFC 1624). Others, and
// UDP without a checksum, stay as they are.
func mendChecksum(protocol uint8, b []byte, delta uint16) {
	var field []byte
	switch {
	case protocol == protoTCP && len(b) >= 20:
		field = b[16:18]
	case protocol == protoUDP && len(b) >= 8 && (b[6] != 0 || b[7] != 0):
		field = b[6:8]
	default:
		return
	}
	c := ^fold(uint32(^binary.BigEndian.Uint16(field)) + uint32(delta))
	if c == 0 && protocol == protoUDP {
		c = 0xffff // 0 is UDP's "no checksum"
	}
	binary.BigEndian.PutUint16(field, c)
}
