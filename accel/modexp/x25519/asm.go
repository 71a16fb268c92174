// SPDX-License-Identifier: Apache-2.0

//go:build amd64 && !purego

package x25519

import (
	"encoding/binary"
	"math/bits"
	"slices"
	"sync"
	"time"
)

//go:generate go run -C ../_asm . -kernel x25519 -out ../x25519/ifma_amd64.s -stubs ../x25519/ifma_amd64.go -pkg x25519
//go:generate go run -C ../_asm . -kernel x25519words -out ../x25519/words_amd64.s -stubs ../x25519/words_amd64.go -pkg x25519

const haveAssembly = true

// Multiply sets out[i] to scalars[i] times the point of u-coordinate points[i],
// for up to eight; a nil point is the base point, 9. Each is 32 bytes long. A
// point of low order makes zero, which the caller refuses. The level is one of
// Levels.
func Multiply(l Level, out, scalars, points [][]byte) {
	switch {
	case l == IFMA && (len(out) > 1 || !loneByWords()):
		multiplyLanes(out, scalars, points)
	default:
		for i := range out {
			multiplyWords(out[i], scalars[i], points[i])
		}
	}
}

// loneByWords reports whether a CPU with IFMA computes one product sooner with
// ADX, which differs between CPUs: it tries, once.
var loneByWords = sync.OnceValue(func() bool {
	if !slices.Contains(Levels(), ADX) {
		return false
	}
	var out, k [Size]byte
	k[1] = 1
	best := func(multiply func()) time.Duration {
		least := time.Duration(1 << 62)
		for range 16 {
			start := time.Now()
			multiply()
			least = min(least, time.Since(start))
		}
		return least
	}
	words := best(func() { multiplyWords(out[:], k[:], nil) })
	return words < best(func() { multiplyLanes([][]byte{out[:]}, [][]byte{k[:]}, [][]byte{nil}) })
})

// swapBits clamps a scalar (RFC 7748 section 5) and returns, for each bit, the
// difference from the next higher one, the lowest word first.
func swapBits(scalar []byte) (swaps [4]uint64) {
	var k [5]uint64
	for i := range 4 {
		k[i] = binary.LittleEndian.Uint64(scalar[8*i:])
	}
	k[0] &^= 7
	k[3] = k[3]&(1<<63-1) | 1<<62
	for i := range 4 {
		swaps[i] = k[i] ^ (k[i]>>1 | k[i+1]<<63)
	}
	clear(k[:])
	return swaps
}

// coordinate reads a u-coordinate, whose top bit is ignored; nil is the base
// point's.
func coordinate(b []byte) (w [4]uint64) {
	if b == nil {
		return [4]uint64{9}
	}
	for i := range w {
		w[i] = binary.LittleEndian.Uint64(b[8*i:])
	}
	w[3] &= 1<<63 - 1
	return w
}

// putReduced writes a number below 2^260 reduced to below 2^255-19, and overwrites
// it.
func putReduced(b []byte, w *[5]uint64) {
	// Twice: the first fold leaves less than 2^255 + 19*2^5, and adding 19 to
	// what the second leaves carries into bit 255 where it is at least p.
	fold := func(add uint64) {
		high := w[3]>>63 | w[4]<<1
		w[3] &= 1<<63 - 1
		w[4] = 0
		var carry uint64
		w[0], carry = bits.Add64(w[0], 19*high+add, 0)
		for j := 1; j < len(w); j++ {
			w[j], carry = bits.Add64(w[j], 0, carry)
		}
	}
	fold(0)
	fold(19)
	// w is the number below p plus 19, or p + 19 more; take 19 away from the
	// first and 2^255 from the second.
	high := w[3] >> 63
	w[3] &= 1<<63 - 1
	var borrow uint64
	w[0], borrow = bits.Sub64(w[0], 19*(1-high), 0)
	for j := 1; j < 4; j++ {
		w[j], borrow = bits.Sub64(w[j], 0, borrow)
	}
	for i := range 4 {
		binary.LittleEndian.PutUint64(b[8*i:], w[i])
	}
	clear(w[:])
}

// inversion raises to the power 2^255-21, which is 1/z, and 0 for 0, in elements
// of so many words with the mulSqr of their kernel.
type inversion struct {
	mulSqr func(out, a, b *uint64, squarings int)
	size   int
}

// run sets out to 1/z. space is that of nine elements.
func (v inversion) run(out, z, space []uint64) {
	at := func(e int) *uint64 { return &space[e*v.size] }
	t, z2, z9, z11, z5, z10, z20, z50, z100 := at(0), at(1), at(2), at(3), at(4), at(5), at(6), at(7), at(8)
	v.mulSqr(z2, &z[0], &z[0], 0)
	v.mulSqr(t, z2, z2, 1) // z^8
	v.mulSqr(z9, t, &z[0], 0)
	v.mulSqr(z11, z9, z2, 0)
	v.mulSqr(t, z11, z11, 0)
	v.mulSqr(z5, t, z9, 0) // z5 is z^(2^5-1), and so on
	v.mulSqr(t, z5, z5, 4)
	v.mulSqr(z10, t, z5, 0)
	v.mulSqr(t, z10, z10, 9)
	v.mulSqr(z20, t, z10, 0)
	v.mulSqr(t, z20, z20, 19)
	v.mulSqr(t, t, z20, 10) // z^((2^40-1)*2^10)
	v.mulSqr(z50, t, z10, 0)
	v.mulSqr(t, z50, z50, 49)
	v.mulSqr(z100, t, z50, 0)
	v.mulSqr(t, z100, z100, 99)
	v.mulSqr(t, t, z100, 50) // z^((2^200-1)*2^50)
	v.mulSqr(t, t, z50, 5)   // z^((2^250-1)*2^5)
	v.mulSqr(&out[0], t, z11, 0)
}
