// SPDX-License-Identifier: Apache-2.0

//go:build amd64 && !purego

package p521

import (
	"crypto/elliptic"
	"encoding/binary"
	"math/bits"

	"quicksand/accel/modexp/internal/words"
)

//go:generate go run -C ../_asm . -kernel p521 -out ../p521/words_amd64.s -stubs ../p521/words_amd64.go -pkg p521

const haveAssembly = true

const (
	element = 9 // words
	top     = 9 // bits of the prime in the top word
	width   = 4 // of a window
	windows = 131
	entries = 1 << (width - 1)

	// A computation's memory, in elements: the sum, the summand, the addition's
	// result, room, and a table of points.
	atX, atY, atZ, atX2, atY2, atZ2, atX3, atY3, atZ3, atRoom, atTable = 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 17

	point  = 3 * element // words of a point
	stride = point + 1   // of the table, whose entries fill registers
	size   = atTable*element + entries*stride
)

var base = elliptic.P521().Params()

// room is the memory of one computation. Points are in Jacobian coordinates;
// infinity has a z of 0.
type room []uint64

func (w room) at(e int) []uint64    { return w[e*element : (e+1)*element] }
func (w room) point(e int) []uint64 { return w[e*element : e*element+point] }
func (w room) entry(i int) []uint64 { return w[atTable*element+(i-1)*stride:][:point] }

func (w room) mul(out, a, b int)   { mul(&w.at(out)[0], &w.at(a)[0], &w.at(b)[0]) }
func (w room) sqr(out, a int)      { sqr(&w.at(out)[0], &w.at(a)[0]) }
func (w room) add(out, a, b int)   { add(&w.at(out)[0], &w.at(a)[0], &w.at(b)[0]) }
func (w room) sub(out, a, b int)   { sub(&w.at(out)[0], &w.at(a)[0], &w.at(b)[0]) }
func (w room) scale(out, a, k int) { scale(&w.at(out)[0], &w.at(a)[0], uint64(k)) }

// double doubles the sum, by the textbook's formula for a = -3 with all of Z halved:
// with l = 3/2 (X-Z^2)(X+Z^2), X' = l^2 - 2XY^2, Y' = l(XY^2-X') - Y^4, Z' = YZ.
// Infinity stays that.
func (w room) double() {
	const delta, gamma, beta, l, t, u = atRoom, atRoom + 1, atRoom + 2, atRoom + 3, atRoom + 4, atRoom + 5
	w.sqr(delta, atZ)
	w.sqr(gamma, atY)
	w.sub(t, atX, delta)
	w.add(u, atX, delta)
	w.mul(atZ, atY, atZ)
	w.mul(l, t, u)
	w.mul(beta, atX, gamma)
	threeHalves(&w.at(l)[0], &w.at(l)[0])
	w.sqr(gamma, gamma)
	w.sqr(t, l)
	w.scale(u, beta, 2)
	w.sub(atX, t, u)
	w.sub(t, beta, atX)
	w.mul(t, l, t)
	w.sub(atY, t, gamma)
}

// addSummand adds the summand, which is infinity where digit is 0, to the sum. Else
// they are neither equal nor opposite.
func (w room) addSummand(digit uint64) {
	const zz1, zz2, u1, h, s1, r, hh, v = atRoom, atRoom + 1, atRoom + 2, atRoom + 3, atRoom + 4, atRoom + 5, atRoom + 6, atRoom + 7
	w.sqr(zz1, atZ)
	w.sqr(zz2, atZ2)
	w.mul(s1, atY, atZ2)
	w.mul(r, atY2, atZ)
	w.mul(u1, atX, zz2)
	w.mul(h, atX2, zz1)
	w.mul(s1, s1, zz2)
	w.mul(r, r, zz1)
	w.sub(h, h, u1)
	w.mul(atZ3, atZ, atZ2)
	w.sub(r, r, s1)
	w.sqr(hh, h)
	w.mul(atZ3, atZ3, h)
	w.mul(v, u1, hh)
	w.mul(hh, hh, h)
	w.sqr(atX3, r)
	w.mul(s1, s1, hh)
	w.scale(u1, v, 2)
	w.add(u1, u1, hh)
	w.sub(atX3, atX3, u1)
	w.sub(v, v, atX3)
	w.mul(v, v, r)
	w.sub(atY3, v, s1)

	// A z that is 0 has no other form: it is a product of zeros.
	var any uint64
	for _, word := range w.at(atZ) {
		any |= word
	}
	choose(w.point(atX3), w.point(atX2), isZero(any))
	choose(w.point(atX3), w.point(atX), isZero(digit))
	copy(w.point(atX), w.point(atX3))
}

// isZero returns all ones where x is 0.
func isZero(x uint64) uint64 { return (x|-x)>>63 - 1 }

// choose sets a to b where mask is all ones.
func choose(a, b []uint64, mask uint64) {
	b = b[:len(a)]
	for i := range a {
		a[i] ^= (a[i] ^ b[i]) & mask
	}
}

// pick sets the summand to a multiple of the point, or its opposite where negative
// is 1. A word of the addition's result is overwritten too.
func (w room) pick(digit, negative uint64) {
	pick(&w.at(atX2)[0], &w[atTable*element], digit)
	clear(w.at(atRoom))
	w.sub(atRoom, atRoom, atY2)
	choose(w.at(atY2), w.at(atRoom), -negative)
}

// Multiply sets out to the x-coordinate of the scalar times the point. A scalar is 66
// bytes, big-endian, above 0 and below the curve's order; the point is x and y, each
// 66 bytes, and lies on the curve. It may be called only where Available is true.
func Multiply(out, scalar, peer []byte) {
	w := room(words.Take(size))
	defer words.Give(w)
	load(w.at(atX), peer[:Size])
	load(w.at(atY), peer[Size:])
	w.multiply(scalar)
	store(out, w.at(atX))
}

// MultiplyBase sets out to x and y of the scalar times the base point.
func MultiplyBase(out, scalar []byte) {
	w := room(words.Take(size))
	defer words.Give(w)
	load(w.at(atX), base.Gx.FillBytes(make([]byte, Size)))
	load(w.at(atY), base.Gy.FillBytes(make([]byte, Size)))
	w.multiply(scalar)
	store(out[:Size], w.at(atX))
	store(out[Size:], w.at(atY))
}

// multiply makes the sum the scalar times the affine point that it is.
//
// The sum is 16m times the point and the summand d times it, with d from -8 to 8.
// They are equal or opposite only where 16m-d or 16m+d is 0 modulo the order n.
// 16m+d, the scalar's leading part, is below n, so that 16m-d can be n only with a
// negative d; but the highest multiple of 16 below n is n-9. So only m = 0 and d = 0
// are special.
func (w room) multiply(scalar []byte) {
	w.at(atZ)[0] = 1
	copy(w.entry(1), w.point(atX))
	copy(w.point(atX2), w.point(atX))
	for i := 2; i <= entries; i++ {
		if i%2 == 0 {
			copy(w.point(atX), w.entry(i/2))
			w.double()
		} else {
			w.addSummand(1)
		}
		copy(w.entry(i), w.point(atX))
	}
	var k [element + 1]uint64
	load(k[:element], scalar)
	clear(w.point(atX))
	for i := windows - 1; i >= 0; i-- {
		if i < windows-1 {
			for range width {
				w.double()
			}
		}
		digit, negative := signedDigit(&k, i)
		w.pick(digit, negative)
		w.addSummand(digit)
	}
	clear(k[:])
	w.affine()
}

// signedDigit is digit i of a scalar by Booth's recoding: its absolute value, and
// whether it is negative.
func signedDigit(k *[element + 1]uint64, i int) (digit, negative uint64) {
	window := k[0] << 1 // with the bit below
	if at := width*i - 1; at >= 0 {
		window = k[at/64]>>(at%64) | k[at/64+1]<<1<<(63-at%64)
	}
	window &= 1<<(width+1) - 1
	negative = window >> width
	window ^= -negative & (1<<(width+1) - 1)
	return (window + 1) >> 1, negative
}

// affine makes x and y those of an affine point. 1/z is z^(p-2), p-2 = 4*(2^519-1) + 1.
func (w room) affine() {
	const z1, z3, z7, t, u = atZ, atRoom, atRoom + 1, atRoom + 2, atRoom + 3
	// up sets out to a^(2^n) * b: of z^(2^i-1) and z^(2^n-1) it makes z^(2^(i+n)-1).
	up := func(out, a, n, b int) {
		w.sqr(u, a)
		for range n - 1 {
			w.sqr(u, u)
		}
		w.mul(out, u, b)
	}
	up(t, z1, 1, z1)
	up(z3, t, 1, z1)
	up(t, t, 2, t)
	up(z7, t, 3, z3)
	for n := 4; n < 512; n *= 2 {
		up(t, t, n, t)
	}
	up(t, t, 7, z7)
	up(t, t, 2, z1)
	w.sqr(u, t)
	w.mul(atX, atX, u)
	w.mul(t, t, u)
	w.mul(atY, atY, t)
}

func load(e []uint64, b []byte) {
	for i := range element - 1 {
		e[i] = binary.BigEndian.Uint64(b[Size-8*(i+1):])
	}
	e[element-1] = uint64(binary.BigEndian.Uint16(b))
}

// store writes an element, which is below 2^521 + 2^55, reduced to below p.
func store(b []byte, e []uint64) {
	carry := e[element-1] >> top
	e[element-1] &= 1<<top - 1
	for i := range e {
		e[i], carry = bits.Add64(e[i], carry, 0)
	}
	// It is not above p, which is all ones and to be 0.
	different := e[element-1] ^ (1<<top - 1)
	for _, word := range e[:element-1] {
		different |= ^word
	}
	var zero [element]uint64
	choose(e, zero[:], isZero(different))
	for i := range element - 1 {
		binary.BigEndian.PutUint64(b[Size-8*(i+1):], e[i])
	}
	binary.BigEndian.PutUint16(b, uint16(e[element-1]))
}
