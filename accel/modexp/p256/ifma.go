// SPDX-License-Identifier: Apache-2.0

//go:build amd64 && !purego

package p256

import (
	"encoding/binary"
	"math/bits"
	"sync"

	"quicksand/accel/modexp/internal/words"
)

const (
	limbs    = 5 // of an element, in radix 2^52
	limbBits = 52
	limbMask = 1<<limbBits - 1
	element  = limbs * Lanes // words
	windows  = 64            // of four bits
	entries  = 16            // of a table

	// A computation's memory, in elements: the sum, the summand, room.
	atX, atY, atZ, atX2, atY2, atZ2, atRoom = 0, 1, 2, 3, 4, 5, 6
	size                                    = 16
)

// Constants of 64-bit words, the lowest first.
var (
	prime = [4]uint64{0xffffffffffffffff, 0x00000000ffffffff, 0x0000000000000000, 0xffffffff00000001}
	// one is R mod p, r2 is R^2 mod p, for R = 2^260.
	one = [4]uint64{0x0000000000000010, 0xfffffff000000000, 0xffffffffffffffff, 0x0000000fffffffef}
	r2  = [4]uint64{0x0000000000000300, 0xfffffbffffffff00, 0xfffffffffffffeff, 0x000004fffffffdff}
)

// SP 800-186 section 3.2.1.3.
var (
	baseX = [4]uint64{0xf4a13945d898c296, 0x77037d812deb33a0, 0xf8bce6e563a440f2, 0x6b17d1f2e12c4247}
	baseY = [4]uint64{0xcbb6406837bf51f5, 0x2bce33576b315ece, 0x8ee7eb4a7c0f9e16, 0x4fe342e2fe1a7f9b}
)

// scratch is the memory of one computation.
type scratch struct {
	all      []uint64
	work     []uint64
	r2       []uint64 // in every lane
	digits   []uint64
	infinity []uint64 // all ones in a lane whose sum is infinity
	table    []uint64 // the first sixteen multiples of the points
}

func newScratch(table int) *scratch {
	all := words.Take((size+1)*element + 2*Lanes + table)
	s := &scratch{all: all, work: all[:size*element]}
	rest := all[size*element:]
	s.r2, rest = rest[:element], rest[element:]
	s.digits, s.infinity, s.table = rest[:Lanes], rest[Lanes:2*Lanes], rest[2*Lanes:]
	for lane := range Lanes {
		load(s.r2, lane, r2)
		s.infinity[lane] = 1<<64 - 1
	}
	return s
}

func (s *scratch) at(e int) []uint64 { return s.work[e*element : (e+1)*element] }

// enter brings an element into Montgomery's form.
func (s *scratch) enter(e int) { mulSqr(&s.at(e)[0], &s.at(e)[0], &s.r2[0], 0) }

// setDigits takes every scalar's window, the i-th from below.
func (s *scratch) setDigits(scalars [][]byte, i int) {
	for lane, x := range scalars {
		s.digits[lane] = uint64(x[Size-1-i/2]>>(4*(i%2))) & 15
	}
}

// multiplyLanes is Multiply for up to eight together, with AVX-512 IFMA.
//
// A window's sum is 16m times the point, the summand d times it. They are equal
// or opposite only where 16m-d or 16m+d is 0 modulo the order, and 16m+d, the
// scalar's leading part, is below that: so only m = 0 and d = 0 are special.
func multiplyLanes(out, scalars, points [][]byte) {
	s := newScratch(3 * element * entries)
	defer words.Give(s.all)
	for lane, p := range points {
		load(s.at(atX), lane, fromBytes(p[:Size]))
		load(s.at(atY), lane, fromBytes(p[Size:]))
	}
	for lane := range Lanes {
		load(s.at(atZ), lane, one)
	}
	s.enter(atX)
	s.enter(atY)
	s.multiples()
	for i := windows - 1; i >= 0; i-- {
		s.setDigits(scalars, i)
		if i < windows-1 {
			double(&s.work[0], 4)
		}
		choose(&s.at(atX2)[0], &s.table[0], &s.digits[0])
		add(&s.work[0], &s.digits[0], &s.infinity[0])
	}
	s.leave()
	for lane, b := range out {
		store(b, s.at(atX), lane)
	}
}

// multiples fills the table. Entry 0 is never used.
func (s *scratch) multiples() {
	const point = 3 * element
	entry := func(i int) []uint64 { return s.table[i*point : (i+1)*point] }
	copy(entry(1), s.work[:point])
	var ones [Lanes]uint64
	for lane := range ones {
		ones[lane] = 1
	}
	for i := 2; i < entries; i++ {
		if i%2 == 0 {
			copy(s.work[:point], entry(i/2))
			double(&s.work[0], 1)
		} else {
			copy(s.work[:point], entry(i-1))
			copy(s.work[point:2*point], entry(1))
			var none [Lanes]uint64
			add(&s.work[0], &ones[0], &none[0])
		}
		copy(entry(i), s.work[:point])
	}
}

// leave makes x and y those of an affine point, out of Montgomery's form.
func (s *scratch) leave() {
	x, y, z, zi := s.at(atX), s.at(atY), s.at(atZ), s.at(atX2)
	inversion{mulSqr, element}.run(zi, z, s.work[atRoom*element:])
	zi2 := s.at(atY2)
	mulSqr(&zi2[0], &zi[0], &zi[0], 0)
	mulSqr(&zi[0], &zi[0], &zi2[0], 0)
	mulSqr(&x[0], &x[0], &zi2[0], 0)
	mulSqr(&y[0], &y[0], &zi[0], 0)
	clear(z)
	for lane := range Lanes {
		z[lane] = 1
	}
	mulSqr(&x[0], &x[0], &z[0], 0)
	mulSqr(&y[0], &y[0], &z[0], 0)
}

// inversion raises to the power p-2 = 2^256 - 2^224 + 2^192 + 2^96 - 3, which is
// 1/z, in elements of so many words with the mulSqr of their kernel.
type inversion struct {
	mulSqr func(out, a, b *uint64, squarings int)
	size   int
}

// run sets out to 1/z. room has space for eight elements.
func (v inversion) run(out, z, room []uint64) {
	at := func(e int) *uint64 { return &room[e*v.size] }
	t, z2, z3, z6, z12, z15, z30, z32 := at(0), at(1), at(2), at(3), at(4), at(5), at(6), at(7)
	v.mulSqr(z2, &z[0], &z[0], 0)
	v.mulSqr(z2, z2, &z[0], 0) // z2 is z^(2^2-1), and so on
	v.mulSqr(t, z2, z2, 0)
	v.mulSqr(z3, t, &z[0], 0)
	v.mulSqr(t, z3, z3, 2)
	v.mulSqr(z6, t, z3, 0)
	v.mulSqr(t, z6, z6, 5)
	v.mulSqr(z12, t, z6, 0)
	v.mulSqr(t, z12, z12, 2)
	v.mulSqr(z15, t, z3, 0)
	v.mulSqr(t, z15, z15, 14)
	v.mulSqr(z30, t, z15, 0)
	v.mulSqr(t, z30, z30, 1)
	v.mulSqr(z32, t, z2, 0)
	v.mulSqr(t, z32, z32, 31)
	v.mulSqr(t, t, &z[0], 128)
	v.mulSqr(t, t, z32, 32)
	v.mulSqr(t, t, z32, 30)
	v.mulSqr(t, t, z30, 2)
	v.mulSqr(&out[0], t, &z[0], 0)
}

// table holds, for each window of a scalar, sixteen affine multiples of the base
// point, as chooseAffine takes them.
var table = sync.OnceValue(func() []uint64 {
	const point = 2 * limbs * entries
	t := words.Aligned(windows * point)
	s := newScratch(3 * element * entries)
	defer words.Give(s.all)
	for lane := range Lanes {
		load(s.at(atX), lane, baseX)
		load(s.at(atY), lane, baseY)
		load(s.at(atZ), lane, one)
	}
	s.enter(atX)
	s.enter(atY)
	window := append([]uint64(nil), s.work[:3*element]...)
	// Each lane has one of the multiples; the point moves on by four doublings.
	for w := range windows {
		copy(s.work, window)
		s.multiples()
		for half := range 2 {
			for lane := range Lanes {
				for i := range 3 * limbs {
					s.work[i*Lanes+lane] = s.table[(8*half+lane)*3*element+i*Lanes]
				}
			}
			s.leave()
			s.enter(atX)
			s.enter(atY)
			for i := range 2 * limbs {
				copy(t[w*point+i*entries+8*half:][:Lanes], s.work[i*Lanes:])
			}
		}
		copy(s.work, window)
		double(&s.work[0], 4)
		copy(window, s.work)
	}
	return t
})

// multiplyBaseLanes is MultiplyBase for up to eight together. Of the sums the same
// holds as in multiplyLanes:
// the summand's multiple of 16^i is above the sum's, and both together are not
// above the scalar.
func multiplyBaseLanes(out, scalars [][]byte) {
	const point = 2 * limbs * entries
	t := table()
	s := newScratch(0)
	defer words.Give(s.all)
	for lane := range Lanes {
		load(s.at(atZ2), lane, one)
	}
	for i := range windows {
		s.setDigits(scalars, i)
		chooseAffine(&s.at(atX2)[0], &t[i*point], &s.digits[0])
		addAffine(&s.work[0], &s.digits[0], &s.infinity[0])
	}
	s.leave()
	for lane, b := range out {
		store(b[:Size], s.at(atX), lane)
		store(b[Size:], s.at(atY), lane)
	}
}

func fromBytes(b []byte) (w [4]uint64) {
	for i := range w {
		w[i] = binary.BigEndian.Uint64(b[Size-8*(i+1):])
	}
	return w
}

// load cuts a number into a lane's limbs.
func load(e []uint64, lane int, w [4]uint64) {
	var wide [6]uint64
	copy(wide[:], w[:])
	for i := range limbs {
		word, shift := i*limbBits/64, i*limbBits%64
		e[i*Lanes+lane] = (wide[word]>>shift | wide[word+1]<<(64-shift)) & limbMask
	}
}

// store writes a lane, which is not above p, reduced to below p.
func store(b []byte, e []uint64, lane int) {
	var w [5]uint64
	for i := range limbs {
		limb := e[i*Lanes+lane]
		word, shift := i*limbBits/64, i*limbBits%64
		w[word] |= limb << shift
		if shift > 64-limbBits {
			w[word+1] |= limb >> (64 - shift)
		}
	}
	putReduced(b, &w)
}

// putReduced writes a number below 2^256 reduced to below p, and overwrites it.
func putReduced(b []byte, w *[5]uint64) {
	var less [4]uint64
	var borrow uint64
	for i := range prime {
		less[i], borrow = bits.Sub64(w[i], prime[i], borrow)
	}
	keep := -borrow // all ones where the number was below p
	for i := range prime {
		binary.BigEndian.PutUint64(b[Size-8*(i+1):], w[i]&keep|less[i]&^keep)
	}
	clear(w[:])
	clear(less[:])
}
