// SPDX-License-Identifier: Apache-2.0

//go:build amd64 && !purego

package x25519

import "quicksand/accel/modexp/internal/words"

// The memory of the ladder in words, by elements of four. The inversion's room
// lies where the ladder keeps what it does not give back.
const (
	wordsElement = 4
	wordsSize    = 14

	wordsX2, wordsZ2, wordsX3, wordsZ3, wordsX1, wordsSwaps = 0, 1, 2, 3, 4, 5
)

// multiplyWords is Multiply for one product, with MULX and ADX.
func multiplyWords(out, scalar, point []byte) {
	memory := words.Take(wordsSize * wordsElement)
	defer words.Give(memory)
	at := func(e int) []uint64 { return memory[e*wordsElement : (e+1)*wordsElement] }
	*(*[4]uint64)(at(wordsX1)) = coordinate(point)
	*(*[4]uint64)(at(wordsSwaps)) = swapBits(scalar)
	copy(at(wordsX3), at(wordsX1))
	at(wordsX2)[0], at(wordsZ3)[0] = 1, 1
	ladderWords(&memory[0])
	inversion{mulSqrWords, wordsElement}.run(at(wordsX3), at(wordsZ2), memory[wordsX1*wordsElement:])
	mulSqrWords(&at(wordsX2)[0], &at(wordsX2)[0], &at(wordsX3)[0], 0)
	var w [5]uint64
	copy(w[:], at(wordsX2))
	putReduced(out, &w)
}
