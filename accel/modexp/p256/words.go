// SPDX-License-Identifier: Apache-2.0

//go:build amd64 && !purego

package p256

import (
	"encoding/binary"
	"math/bits"
	"sync"

	"quicksand/accel/modexp/internal/words"
)

// The layout of a computation in words, by elements of four: the sum, the summand,
// the square of the sum's z, and room for the addition or the inversion.
const (
	wordsElement = 4
	wordsZZ      = 6
	wordsRoom    = 7
	wordsSize    = 15

	wordsWidth   = 5 // of a window of a point's scalar
	wordsWindows = 52
	wordsEntries = 1 << (wordsWidth - 1)

	baseWidth   = 7 // of a window of the base point's scalar
	baseWindows = 37
	baseEntries = 1 << (baseWidth - 1)
)

// Montgomery's constants for R = 2^256: R mod p and R^2 mod p.
var (
	wordsOne = [4]uint64{0x0000000000000001, 0xffffffff00000000, 0xffffffffffffffff, 0x00000000fffffffe}
	wordsR2  = [4]uint64{0x0000000000000003, 0xfffffffbffffffff, 0xfffffffffffffffe, 0x00000004fffffffd}
)

// pair is the memory of one computation in words.
type pair []uint64

func (w pair) at(e int) *[4]uint64 { return (*[4]uint64)(w[e*wordsElement:]) }

func (w pair) mul(to, a, b int) { mulSqrWords(&w.at(to)[0], &w.at(a)[0], &w.at(b)[0], 0) }

// enter brings an element into Montgomery's form, and leave takes it out.
func (w pair) enter(e int) { mulSqrWords(&w.at(e)[0], &w.at(e)[0], &wordsR2[0], 0) }

func (w pair) leave(e int) {
	one := [4]uint64{1}
	mulSqrWords(&w.at(e)[0], &w.at(e)[0], &one[0], 0)
}

// negateSummand sets the summand's y to p-y where negative is 1.
func (w pair) negateSummand(negative uint64) {
	y := w.at(atY2)
	var borrow, less uint64
	for i := range y {
		less, borrow = bits.Sub64(prime[i], y[i], borrow)
		y[i] ^= (y[i] ^ less) & -negative
	}
}

// signedDigit is digit i of a scalar of four words in windows of a width, by
// Booth's recoding: its absolute value, and whether it is negative.
func signedDigit(k *[5]uint64, i, width int) (digit, negative uint64) {
	var window uint64 // with the bit below
	if at := width*i - 1; at < 0 {
		window = k[0] << 1
	} else {
		window = k[at/64]>>(at%64) | k[at/64+1]<<1<<(63-at%64)
	}
	window &= 1<<(width+1) - 1
	negative = window >> width
	window ^= -negative & (1<<(width+1) - 1)
	return (window + 1) >> 1, negative
}

// multiplyWords sets out to the x-coordinate of the scalar times the point.
//
// The sum is 32m times the point and the summand d times it, with d from -16 to
// 16. They are equal or opposite only where 32m-d or 32m+d is 0 modulo the order n.
// 32m+d, the scalar's leading part, is below n, so that 32m-d can be n only with a
// negative d; but the highest multiple of 32 below n is n-17. So only m = 0 and
// d = 0 are special.
func multiplyWords(out, scalar, point []byte) {
	const entry = 3 * wordsElement
	memory := words.Take(wordsSize*wordsElement + wordsEntries*entry)
	defer words.Give(memory)
	w, table := pair(memory[:wordsSize*wordsElement]), memory[wordsSize*wordsElement:]
	*w.at(atX), *w.at(atY), *w.at(atZ) = fromBytes(point[:Size]), fromBytes(point[Size:]), wordsOne
	w.enter(atX)
	w.enter(atY)
	w.multiples(table, wordsEntries)
	k := scalarWords(scalar)
	for i := wordsWindows - 1; i >= 0; i-- {
		digit, negative := signedDigit(&k, i, wordsWidth)
		if i == wordsWindows-1 {
			pickWords(&w.at(atX)[0], &table[0], digit) // up to 2, never negative
			w.mul(wordsZZ, atZ, atZ)
			continue
		}
		doubleWords(&w[0], wordsWidth)
		pickWords(&w.at(atX2)[0], &table[0], digit)
		w.negateSummand(negative)
		addWords(&w[0], digit)
	}
	clear(k[:])
	w.affine(false)
	putWords(out, w.at(atX))
}

// multiples fills a table with 1, 2, 3 and so on times the sum.
func (w pair) multiples(table []uint64, count int) {
	const entry = 3 * wordsElement
	multiple := func(i int) []uint64 { return table[(i-1)*entry : i*entry] }
	copy(multiple(1), w[:entry])
	copy(w[entry:2*entry], w[:entry])
	w.mul(wordsZZ, atZ, atZ)
	for i := 2; i <= count; i++ {
		if i%2 == 0 {
			copy(w[:entry], multiple(i/2))
			w.mul(wordsZZ, atZ, atZ)
			doubleWords(&w[0], 1)
		} else {
			addWords(&w[0], 1) // the one before is still there
		}
		copy(multiple(i), w[:entry])
	}
}

// affine makes x, and y where it is wanted, those of an affine point, out of
// Montgomery's form.
func (w pair) affine(wantY bool) {
	const zi, zi2 = atX2, atY2
	inversion{mulSqrWords, wordsElement}.run(w[zi*wordsElement:], w[atZ*wordsElement:], w[wordsRoom*wordsElement:])
	w.mul(zi2, zi, zi)
	w.mul(atX, atX, zi2)
	w.leave(atX)
	if wantY {
		w.mul(zi, zi, zi2)
		w.mul(atY, atY, zi)
		w.leave(atY)
	}
}

// baseTable holds, for each window of a scalar, the first 64 multiples of the base
// point moved up by that window, affine.
var baseTable = sync.OnceValue(func() []uint64 {
	const point, entry = 2 * wordsElement, 3 * wordsElement
	t := words.Aligned(baseWindows * baseEntries * point)
	w := pair(words.Aligned(wordsSize * wordsElement))
	*w.at(atX), *w.at(atY), *w.at(atZ) = baseX, baseY, wordsOne
	w.enter(atX)
	w.enter(atY)
	table := make([]uint64, baseEntries*entry)
	for i := range baseWindows {
		w.multiples(table, baseEntries)
		for j := range baseEntries {
			copy(w, table[j*entry:(j+1)*entry])
			w.affine(true)
			w.enter(atX)
			w.enter(atY)
			copy(t[(i*baseEntries+j)*point:], w[:point])
		}
		copy(w, table[len(table)-entry:])
		w.mul(wordsZZ, atZ, atZ)
		doubleWords(&w[0], 1)
	}
	return t
})

// multiplyBaseWords sets out to x and y of the scalar times the base point.
//
// The lower windows' sum is hardly above half of the next one's 2^7i, so that it is
// neither that one's multiple nor its opposite; nor is it modulo the order n, which
// is 2^256 - 2^224 and more: the topmost window's multiple of 2^252 is that near to
// n only where both together are above it.
func multiplyBaseWords(out, scalar []byte) {
	const point = 2 * wordsElement
	t := baseTable()
	memory := words.Take(wordsSize * wordsElement)
	defer words.Give(memory)
	w := pair(memory)
	*w.at(atZ2) = wordsOne
	k := scalarWords(scalar)
	for i := range baseWindows {
		digit, negative := signedDigit(&k, i, baseWidth)
		pickAffineWords(&w.at(atX2)[0], &t[i*baseEntries*point], digit)
		w.negateSummand(negative)
		addAffineWords(&w[0], digit)
	}
	clear(k[:])
	w.affine(true)
	putWords(out[:Size], w.at(atX))
	putWords(out[Size:], w.at(atY))
}

// scalarWords reads a scalar, with a word of zeros above.
func scalarWords(b []byte) (k [5]uint64) {
	w := fromBytes(b)
	copy(k[:], w[:])
	clear(w[:])
	return k
}

// putWords writes an element, which is below p.
func putWords(b []byte, w *[4]uint64) {
	for i, word := range w {
		binary.BigEndian.PutUint64(b[Size-8*(i+1):], word)
	}
}
