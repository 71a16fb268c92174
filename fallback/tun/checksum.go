// SPDX-License-Identifier: Apache-2.0

package tun

import (
	"encoding/binary"
	"math/bits"
)

// Internet checksums (RFC 1071). A sum is one of 32-bit words in the order of
// little-endian machines, not folded: it holds 64 KiB many times over, and is
// turned around once, at its end.

// Checksum returns the one's complement sum of b's big-endian 16-bit words,
// which is not inverted, on top of an earlier one. An odd byte at the end counts
// as the high half of a word.
func Checksum(earlier uint16, b []byte) uint16 {
	return fold(sum(unfold(earlier), b))
}

// unfold turns a sum of big-endian words into one that others can be added to.
func unfold(s uint16) uint64 { return uint64(bits.ReverseBytes16(s)) }

// fold is the opposite of unfold: it adds the carries back in.
func fold(s uint64) uint16 {
	s = s>>32 + s&0xffffffff
	s = s>>32 + s&0xffffffff
	s = s>>16 + s&0xffff
	s = s>>16 + s&0xffff
	return bits.ReverseBytes16(uint16(s))
}

// sumGeneric is sum in plain Go.
func sumGeneric(s uint64, b []byte) uint64 {
	for ; len(b) >= 16; b = b[16:] {
		v, w := binary.LittleEndian.Uint64(b), binary.LittleEndian.Uint64(b[8:])
		s += v>>32 + v&0xffffffff + w>>32 + w&0xffffffff
	}
	if len(b) >= 8 {
		v := binary.LittleEndian.Uint64(b)
		s += v>>32 + v&0xffffffff
		b = b[8:]
	}
	if len(b) >= 4 {
		s += uint64(binary.LittleEndian.Uint32(b))
		b = b[4:]
	}
	if len(b) >= 2 {
		s += uint64(binary.LittleEndian.Uint16(b))
		b = b[2:]
	}
	if len(b) == 1 {
		s += uint64(b[0])
	}
	return s
}

// copySumGeneric is copySum in plain Go.
func copySumGeneric(s uint64, dst, src []byte) uint64 {
	copy(dst, src)
	return sumGeneric(s, src)
}
