// SPDX-License-Identifier: Apache-2.0

//go:build amd64 && !purego

package modexp

import (
	"encoding/binary"
	"math/big"
	"math/bits"
	"sync"
)

const (
	limbBits = 52
	limbMask = 1<<limbBits - 1
	blockLen = 10 // limbs that the kernels take at a time
	window   = 4  // bits of an exponent
	maxWords = 1024/8 + 1
)

// wide computes eight powers together. A number of eight lanes is limbs*8 words:
// limb 0 of each lane, then limb 1 of each. Between operations numbers are below
// 2p, which needs 4p < 2^(52*limbs): limbs is a multiple of ten for which every
// MODP group leaves at least 16 bits.
type wide struct {
	size   int
	limbs  int
	blocks int
	p      []uint64 // 64-bit words of p
	p1     []uint64 // limbs of p+1, of one number
	r2     []uint64 // R^2 mod p in eight lanes, R = 2^(52*limbs)
	one    []uint64 // R mod p in eight lanes
	fixed  func() *comb
}

func newWide(p []byte, length int) *wide {
	limbs := (8*len(p) + 2 + limbBits - 1) / limbBits
	limbs = (limbs + blockLen - 1) / blockLen * blockLen
	w := &wide{size: len(p), limbs: limbs, blocks: limbs / blockLen}
	n := new(big.Int).SetBytes(p)
	w.p = make([]uint64, len(p)/8)
	for i := range w.p {
		w.p[i] = binary.BigEndian.Uint64(p[len(p)-8*(i+1):])
	}
	w.p1 = aligned(limbs)
	setLimbs(w.p1, new(big.Int).Add(n, big.NewInt(1)))
	r := new(big.Int).Lsh(big.NewInt(1), uint(limbBits*limbs))
	r.Mod(r, n)
	w.one = w.inLanes(r)
	w.r2 = w.inLanes(new(big.Int).Mod(new(big.Int).Mul(r, r), n))
	w.fixed = sync.OnceValue(func() *comb { return newComb(n, r, limbs, 8*length) })
	return w
}

// setLimbs cuts a public number into limbs.
func setLimbs(limbs []uint64, x *big.Int) {
	rest := new(big.Int).Set(x)
	mask := big.NewInt(limbMask)
	for i := range limbs {
		limbs[i] = new(big.Int).And(rest, mask).Uint64()
		rest.Rsh(rest, limbBits)
	}
}

// inLanes repeats a public number in every lane.
func (w *wide) inLanes(x *big.Int) []uint64 {
	one := make([]uint64, w.limbs)
	setLimbs(one, x)
	all := aligned(w.limbs * Lanes)
	for i, limb := range one {
		for lane := range Lanes {
			all[i*Lanes+lane] = limb
		}
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
	s := &scratch{w: w, all: take((5 + entries) * n)}
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
func (w *wide) power(out, bases, exponents [][]byte) {
	s := w.scratch(1 << window)
	defer give(s.all)
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
	for i := range 2 * length {
		for lane, x := range exponents {
			digits[lane] = nibble(x, 2*length-1-i)
		}
		if i == 0 {
			choose(&s.acc[0], &s.table[0], &digits[0], w.blocks)
			continue
		}
		for range window {
			s.sqr(s.acc, s.acc)
		}
		choose(&s.factor[0], &s.table[0], &digits[0], w.blocks)
		s.mul(s.acc, s.acc, s.factor)
	}
	if length == 0 {
		copy(s.acc, w.one)
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

func longest(exponents [][]byte) int {
	n := 0
	for _, x := range exponents {
		n = max(n, len(x))
	}
	return n
}

// nibble returns four bits of a big-endian number, the i-th from below.
func nibble(x []byte, i int) uint64 {
	if i/2 >= len(x) {
		return 0
	}
	return uint64(x[len(x)-1-i/2]>>(4*(i%2))) & 15
}

// load cuts a big-endian number of the modulus's length into a lane's limbs.
func (w *wide) load(limbs []uint64, lane int, b []byte) {
	var words [maxWords]uint64
	n := w.size / 8
	for i := range n {
		words[i] = binary.BigEndian.Uint64(b[w.size-8*(i+1):])
	}
	for i := range w.limbs {
		bit := i * limbBits
		word, shift := bit/64, bit%64
		if word >= n {
			limbs[i*Lanes+lane] = 0
			continue
		}
		limbs[i*Lanes+lane] = (words[word]>>shift | words[word+1]<<(64-shift)) & limbMask
	}
	clear(words[:])
}

// store writes a lane, which is below 2p, reduced to below p.
func (w *wide) store(b []byte, limbs []uint64, lane int) {
	var words, less [maxWords]uint64
	n := w.size / 8
	for i := range w.limbs {
		bit := i * limbBits
		word, shift := bit/64, bit%64
		if word > n {
			break // 2p has one bit more than p, so the rest is zero
		}
		limb := limbs[i*Lanes+lane]
		words[word] |= limb << shift
		if shift > 64-limbBits && word < n {
			words[word+1] |= limb >> (64 - shift)
		}
	}
	var borrow uint64
	for i := range n {
		less[i], borrow = bits.Sub64(words[i], w.p[i], borrow)
	}
	_, borrow = bits.Sub64(words[n], 0, borrow)
	keep := -borrow // all ones where the number was below p
	for i := range n {
		binary.BigEndian.PutUint64(b[w.size-8*(i+1):], words[i]&keep|less[i]&^keep)
	}
	clear(words[:])
	clear(less[:])
}
