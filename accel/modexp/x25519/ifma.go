// SPDX-License-Identifier: Apache-2.0

//go:build amd64 && !purego

package x25519

import (
	"math/bits"

	"quicksand/accel/modexp/internal/words"
)

const (
	limbs    = 6 // of an element, in radix 2^43
	limbBits = 43
	limbMask = 1<<limbBits - 1
	element  = limbs * Lanes // words

	// The ladder's memory, in elements.
	ladderSize                   = 15
	atX2, atZ2, atX3, atZ3, atX1 = 0, 1, 2, 3, 4
)

// multiplyLanes is Multiply with a product in every lane.
func multiplyLanes(out, scalars, points [][]byte) {
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
		load(at(atX1), lane, points[lane])
		at(atX2)[lane], at(atZ3)[lane] = 1, 1
	}
	copy(at(atX3), at(atX1))
	ladder(&work[0], &swaps[0])
	inversion{mulSqr, element}.run(at(atX3), at(atZ2), work[atX1*element:])
	mulSqr(&at(atX2)[0], &at(atX2)[0], &at(atX3)[0], 0)
	for lane, b := range out {
		store(b, at(atX2), lane)
	}
}

// multiplyPair is multiplyLanes for one or two, each of which has four lanes: x2, z2,
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
		load(state, x3, points[i])
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
	inversion{mulSqr, element}.run(at(3), factor, work[4*element:])
	mulSqr(&state[0], &state[0], &at(3)[0], 0)
	for i, b := range out {
		store(b, state, 4*i)
	}
}

// loadSwaps writes a lane's words, the highest first.
func loadSwaps(swaps []uint64, lane int, scalar []byte) {
	k := swapBits(scalar)
	for i := range k {
		swaps[(3-i)*Lanes+lane] = k[i]
	}
	clear(k[:])
}

// load reads a u-coordinate.
func load(e []uint64, lane int, b []byte) {
	var w [5]uint64
	*(*[4]uint64)(w[:]) = coordinate(b)
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
	putReduced(b, &w)
}
