// SPDX-License-Identifier: Apache-2.0

//go:build amd64 && !purego

package modexp

import (
	"math/big"
	"sync"

	"quicksand/accel/modexp/internal/words"
)

const (
	blockLen = 10 // limbs that the kernels take at a time
	window   = 4  // bits of an exponent
)

// wide computes eight powers together. A number of eight lanes is limbs*8 words:
// limb 0 of each lane, then limb 1 of each. limbs is a multiple of ten, which
// wastes at most two limbs with the MODP groups.
type wide struct {
	shape
	blocks int
	p1     []uint64 // limbs of p+1, of one number
	r2     []uint64 // R^2 mod p in every lane, R = 2^(52*limbs)
	one    []uint64 // R mod p in every lane
	fixed  func() *comb
	lone   *lone
}

func newWide(p []byte, length int) fast {
	limbs := (limbsFor(len(p)) + blockLen - 1) / blockLen * blockLen
	n := new(big.Int).SetBytes(p)
	r := new(big.Int).Lsh(big.NewInt(1), uint(limbBits*limbs))
	r.Mod(r, n)
	single := newShape(n, limbs, limbBits, func(limb int) int { return limb })
	w := &wide{shape: newShape(n, limbs, limbBits, func(limb int) int { return limb * Lanes }), blocks: limbs / blockLen}
	w.p1 = single.number(new(big.Int).Add(n, big.NewInt(1)))
	w.one = w.inLanes(single.number(r))
	w.r2 = w.inLanes(single.number(new(big.Int).Mod(new(big.Int).Mul(r, r), n)))
	w.fixed = sync.OnceValue(func() *comb {
		return newComb(n, r, limbs, sharedTeeth, 3, 8*length, func(entry int, x *big.Int, table []uint64) {
			for i, limb := range single.number(x) {
				table[i<<sharedTeeth+entry] = limb
			}
		})
	})
	w.lone = newLone(n, len(p), length)
	return w
}

// inLanes repeats a number in every lane.
func (w *wide) inLanes(one []uint64) []uint64 {
	all := words.Aligned(w.limbs * Lanes)
	for i := range all {
		all[i] = one[i/Lanes]
	}
	return all
}

// scratch is the memory of one computation.
type scratch struct {
	w       *wide
	all     []uint64
	columns []uint64 // of a product, twice a number
	q       []uint64 // reduction's digits
	acc     []uint64
	factor  []uint64
	table   []uint64
}

func (w *wide) scratch(entries int) *scratch {
	n := w.limbs * Lanes
	s := &scratch{w: w, all: words.Take((5 + entries) * n)}
	s.columns, s.q, s.acc, s.factor, s.table = s.all[:2*n], s.all[2*n:3*n], s.all[3*n:4*n], s.all[4*n:5*n], s.all[5*n:]
	return s
}

// mul sets out to a*b/R.
func (s *scratch) mul(out, a, b []uint64) {
	mulColumns(&s.columns[0], &a[0], &b[0], s.w.blocks)
	reduce(&out[0], &s.columns[0], &s.q[0], &s.w.p1[0], s.w.blocks)
}

// sqr sets out to a*a/R.
func (s *scratch) sqr(out, a []uint64) {
	sqrColumns(&s.columns[0], &a[0], s.w.blocks)
	reduce(&out[0], &s.columns[0], &s.q[0], &s.w.p1[0], s.w.blocks)
}

// power is Modulus.Power for up to eight lanes, by windows of four bits.
func (w *wide) power(out, bases, exponents [][]byte, pause func()) {
	if w.oneByOne(len(out)) {
		alone{&w.lone.single}.power(out, bases, exponents, pause)
		return
	}
	s := w.scratch(1 << window)
	defer words.Give(s.all)
	n := w.limbs * Lanes
	entry := func(i int) []uint64 { return s.table[i*n : (i+1)*n] }
	for lane, base := range bases {
		w.load(s.acc, lane, base)
	}
	copy(entry(0), w.one)
	s.mul(entry(1), s.acc, w.r2)
	for i := 2; i < 1<<window; i += 2 {
		s.sqr(entry(i), entry(i/2))
		s.mul(entry(i+1), entry(i), entry(1))
	}
	var digits [Lanes]uint64
	defer clear(digits[:])
	length := longest(exponents)
	copy(s.acc, w.one)
	for i := 2*length - 1; i >= 0; i-- {
		for lane, x := range exponents {
			digits[lane] = nibble(x, i)
		}
		if i == 2*length-1 {
			choose(&s.acc[0], &s.table[0], &digits[0], w.blocks)
			continue
		}
		for range window {
			s.sqr(s.acc, s.acc)
		}
		choose(&s.factor[0], &s.table[0], &digits[0], w.blocks)
		s.mul(s.acc, s.acc, s.factor)
		pause()
	}
	s.finish(out)
}

// powerOfTwo is Modulus.PowerOfTwo for up to eight lanes. An exponent that is too
// long for the comb goes the way of any power.
func (w *wide) powerOfTwo(out, exponents [][]byte, pause func()) {
	if w.oneByOne(len(out)) {
		alone{&w.lone.single}.powerOfTwo(out, exponents, pause)
		return
	}
	c := w.fixed()
	if 8*longest(exponents) > c.bits() {
		two := make([][]byte, len(out))
		for i := range two {
			two[i] = w.two()
		}
		w.power(out, two, exponents, pause)
		return
	}
	s := w.scratch(0)
	defer words.Give(s.all)
	var digits [Lanes]uint64
	defer clear(digits[:])
	pick := func(into []uint64, table, column int) {
		for lane, x := range exponents {
			digits[lane] = c.digit(x, table, column)
		}
		chooseShared(&into[0], &c.tables[table][0], &digits[0], w.limbs)
	}
	for column := c.part - 1; column >= 0; column-- {
		if column < c.part-1 {
			s.sqr(s.acc, s.acc)
		}
		for t := range c.tables {
			if column == c.part-1 && t == 0 {
				pick(s.acc, t, column)
				continue
			}
			pick(s.factor, t, column)
			s.mul(s.acc, s.acc, s.factor)
		}
		pause()
	}
	s.finish(out)
}

// finish takes the accumulator out of Montgomery's form and writes it.
func (s *scratch) finish(out [][]byte) {
	n := len(s.acc)
	copy(s.columns, s.acc)
	clear(s.columns[n:])
	reduce(&s.acc[0], &s.columns[0], &s.q[0], &s.w.p1[0], s.w.blocks)
	for lane, b := range out {
		s.w.store(b, s.acc, lane)
	}
}

// oneByOne reports whether n powers are sooner computed one after the other.
func (w *wide) oneByOne(n int) bool { return w.lone != nil && n <= w.lone.most }

func longest(exponents [][]byte) int {
	n := 0
	for _, x := range exponents {
		n = max(n, len(x))
	}
	return n
}
