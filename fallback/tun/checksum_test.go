// SPDX-License-Identifier: Apache-2.0

package tun

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"testing"
)

// slowChecksum is RFC 1071 word by word.
func slowChecksum(earlier uint16, b []byte) uint16 {
	s := uint32(earlier)
	for i := 0; i < len(b); i += 2 {
		word := uint32(b[i]) << 8
		if i+1 < len(b) {
			word = uint32(binary.BigEndian.Uint16(b[i:]))
		}
		if s += word; s > 0xffff {
			s -= 0xffff
		}
	}
	return uint16(s)
}

// same compares sums: all ones and zero are the same number, and zero comes
// only of zeroes.
func same(a, b uint16) bool { return a == b || a%0xffff == b%0xffff }

func TestChecksum(t *testing.T) {
	random := make([]byte, 2048+64)
	for i := range random {
		random[i] = byte(rand.Uint32())
	}
	ones := bytes.Repeat([]byte{0xff}, len(random))
	zeroes := make([]byte, len(random))
	for _, data := range [][]byte{random, ones, zeroes} {
		for n := 0; n <= 2048; n++ {
			for _, at := range []int{0, 1, 2, 7, 31, 33} {
				b := data[at:][:n]
				want := slowChecksum(0x1234, b)
				if got := Checksum(0x1234, b); !same(got, want) || got == 0 {
					t.Fatalf("sum of %d bytes at %d: %04x, want %04x", n, at, got, want)
				}
				if got := fold(sumGeneric(unfold(0x1234), b)); !same(got, want) {
					t.Fatalf("plain sum of %d bytes at %d: %04x, want %04x", n, at, got, want)
				}
				dst := bytes.Repeat([]byte{0xaa}, n+40)
				if got := fold(copySum(unfold(0x1234), dst[at%8:], b)); !same(got, want) {
					t.Fatalf("sum of %d bytes copied from %d: %04x, want %04x", n, at, got, want)
				}
				if !bytes.Equal(dst[at%8:][:n], b) || dst[at%8+n] != 0xaa {
					t.Fatalf("copy of %d bytes from %d is not the same, or longer", n, at)
				}
			}
		}
	}
	if got := Checksum(0, ones[:2048]); got != 0xffff {
		t.Errorf("sum of ones is %04x", got)
	}
	long := bytes.Repeat([]byte{0xff, 0xfe}, 1<<15)
	if got, want := Checksum(0, long), slowChecksum(0, long); !same(got, want) {
		t.Errorf("sum of 64 KiB is %04x, want %04x", got, want)
	}
}

func BenchmarkChecksum(b *testing.B) {
	for _, n := range []int{64, 576, 1400} {
		src, dst := make([]byte, n), make([]byte, n)
		for name, f := range map[string]func(){
			"sum":           func() { sum(0, src) },
			"copy and sum":  func() { copySum(0, dst, src) },
			"plain":         func() { sumGeneric(0, src) },
			"plain copying": func() { copySumGeneric(0, dst, src) },
		} {
			b.Run(name+"/"+map[int]string{64: "64", 576: "576", 1400: "1400"}[n], func(b *testing.B) {
				b.SetBytes(int64(n))
				for b.Loop() {
					f()
				}
			})
		}
	}
}
