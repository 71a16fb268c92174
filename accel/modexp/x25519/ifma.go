// SPDX-License-Identifier: Apache-2.0

//go:build amd64 && !purego

package x25519

import (
	"encoding/binary"
	"math/bits"

	"quicksand/accel/modexp/internal/words"
)

//go:generate go run -C ../_asm . -kernel x25519 -out ../x25519/ifma_amd64.s -stubs ../x25519/ifma_amd64.go -pkg x25519

const haveIFMA = true

const (
	limbs    = 6 // of an element, in radix 2^43
	limbBits = 43
	limbMask = 1<<limbBits - 1
	element  = limbs * Lanes // words

	// The ladder's memory, in elements.
	ladderSize                   = 15
	atX2, atZ2, atX3, atZ3, atX1 = 0, 1, 2, 3, 4
)

// Multiply sets out[i] to scalars[i] times the point of u-coordinate points[i],
// for up to eight; a nil point is the base point, 9. Each is 32 bytes long. A
// point of low order makes zero, which the caller refuses. It may be called only
// where Available is true.
func Multiply(out, scalars, points [][]byte) {
	if len(out) <= 2 {
		multiplyPair(out, scalars, points)
		return
	}
	memory := words.Take(ladderSize*element + 4*Lanes)
	defer words.Give(memory)
	work, swaps := memory[:ladderSize*element], memory[ladderSize*element:]
	at := func(e int) []uint64 { return work[e*element : (e+1)*element] }
	for lane := range scalars {
		loadSwaps(swaps, lane, scalars[lane])
		if points[lane] == nil {
			at(atX1)[lane] = 9
		} else {
			load(at(atX1), lane, points[lane])
		}
		at(atX2)[lane], at(atZ3)[lane] = 1, 1
	}
	copy(at(atX3), at(atX1))
	ladder(&work[0], &swaps[0])
	invert(at(atX3), at(atZ2), work[atX1*element:])
	mulSqr(&at(atX2)[0], &at(atX2)[0], &at(atX3)[0], 0)
	for lane, b := range out {
		store(b, at(atX2), lane)
	}
}

// multiplyPair is Multiply for one or two, each of which has four lanes: x2, z2,
// x3 and z3. Two take half the time of eight.
func multiplyPair(out, scalars, points [][]byte) {
	memory := words.Take(ladderSize*element + 4*Lanes)
	defer words.Give(memory)
	work, swaps := memory[:ladderSize*element], memory[ladderSize*element:]
	at := func(e int) []uint64 { return work[e*element : (e+1)*element] }
	state, factor, factor152 := at(0), at(1), at(2)
	for i := range scalars {
		x2, z2, x3, z3 := 4*i, 4*i+1, 4*i+2, 4*i+3
		loadSwaps(swaps, x3, scalars[i])
		loadSwaps(swaps, z3, scalars[i])
		if points[i] == nil {
			state[x3] = 9
		} else {
			load(state, x3, points[i])
		}
		state[x2], state[z3] = 1, 1
		factor[x2], factor[z2], factor[x3] = 1, 1, 1
		for limb := range limbs {
			factor[limb*Lanes+z3] = state[limb*Lanes+x3]
		}
	}
	for i, limb := range factor {
		factor152[i] = 152 * limb
	}
	ladderPair(&work[0], &swaps[0])
	// Each z2 under its x2.
	for i := range element - 1 {
		factor[i] = state[i+1]
	}
	invert(at(3), factor, work[4*element:])
	mulSqr(&state[0], &state[0], &at(3)[0], 0)
	for i, b := range out {
		store(b, state, 4*i)
	}
}

// loadSwaps clamps a scalar (RFC 7748 section 5) and writes each bit's
// difference from the next higher one, the highest word first.
func loadSwaps(swaps []uint64, lane int, scalar []byte) {
	var k [5]uint64
	for i := range 4 {
		k[i] = binary.LittleEndian.Uint64(scalar[8*i:])
	}
	k[0] &^= 7
	k[3] = k[3]&(1<<63-1) | 1<<62
	for i := range 4 {
		swaps[(3-i)*Lanes+lane] = k[i] ^ (k[i]>>1 | k[i+1]<<63)
	}
	clear(k[:])
}

// load reads a u-coordinate, whose top bit is ignored.
func load(e []uint64, lane int, b []byte) {
	var w [5]uint64
	for i := range 4 {
		w[i] = binary.LittleEndian.Uint64(b[8*i:])
	}
	w[3] &= 1<<63 - 1
	for i := range limbs {
		word, shift := i*limbBits/64, i*limbBits%64
		e[i*Lanes+lane] = (w[word]>>shift | w[word+1]<<(64-shift)) & limbMask
	}
}

// store writes a lane, whose limbs are below 2^44, reduced to below 2^255-19.
func store(b []byte, e []uint64, lane int) {
	var w [5]uint64
	for i := range limbs {
		limb := e[i*Lanes+lane]
		word, shift := i*limbBits/64, i*limbBits%64
		var carry uint64
		w[word], carry = bits.Add64(w[word], limb<<shift, 0)
		w[word+1], carry = bits.Add64(w[word+1], limb>>(64-shift), carry)
		for j := word + 2; j < len(w); j++ {
			w[j], carry = bits.Add64(w[j], 0, carry)
		}
	}
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

// invert sets out to z^(2^255-21), which is 1/z, and 0 for 0. room has space for
// nine elements.
func invert(out, z, room []uint64) {
	at := func(e int) *uint64 { return &room[e*element] }
	t, z2, z9, z11, z5, z10, z20, z50, z100 := at(0), at(1), at(2), at(3), at(4), at(5), at(6), at(7), at(8)
	mulSqr(z2, &z[0], &z[0], 0)
	mulSqr(t, z2, z2, 1) // z^8
	mulSqr(z9, t, &z[0], 0)
	mulSqr(z11, z9, z2, 0)
	mulSqr(t, z11, z11, 0)
	mulSqr(z5, t, z9, 0) // z5 is z^(2^5-1), and so on
	mulSqr(t, z5, z5, 4)
	mulSqr(z10, t, z5, 0)
	mulSqr(t, z10, z10, 9)
	mulSqr(z20, t, z10, 0)
	mulSqr(t, z20, z20, 19)
	mulSqr(t, t, z20, 10) // z^((2^40-1)*2^10)
	mulSqr(z50, t, z10, 0)
	mulSqr(t, z50, z50, 49)
	mulSqr(z100, t, z50, 0)
	mulSqr(t, z100, z100, 99)
	mulSqr(t, t, z100, 50) // z^((2^200-1)*2^50)
	mulSqr(t, t, z50, 5)   // z^((2^250-1)*2^5)
	mulSqr(&out[0], t, z11, 0)
}
