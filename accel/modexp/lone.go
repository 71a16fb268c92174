// SPDX-License-Identifier: Apache-2.0

//go:build amd64 && !purego

package modexp

import (
	"math/big"
	"sync"

	"quicksand/accel/modexp/internal/words"
)

// lone computes one power with all eight lanes on the same number, for the
// request that has no company. Its numbers have width*8 limbs; limb l*width+v is
// word 8*v+l.
type lone struct {
	shape
	width int
	loneKernel
	p1    []uint64 // p+1
	r2    []uint64 // R^2 mod p, R = 2^(52*8*width)
	one   []uint64 // R mod p
	fixed func() *comb
}

// loneKernel is a multiplication, and up to how many powers are sooner computed
// with it, one after the other, than in eight lanes: a run of eight takes the time
// of 2.4 lone ones with 1024 bits, 4.6 with 2048 and 5.9 with 8192
// (BenchmarkPower).
type loneKernel struct {
	mul  func(out, a, b, p1 *uint64)
	most int
}

// loneKernels are by the number of registers of a number.
var loneKernels = map[int]loneKernel{
	3: {mulLone3, 2}, 4: {mulLone4, 3}, 5: {mulLone5, 4}, 8: {mulLone8, 4},
	10: {mulLone10, 5}, 15: {mulLone15, 5}, 20: {mulLone20, 5},
}

// newLone returns nil for a length that is not one of the MODP groups'.
func newLone(n *big.Int, size, length int) *lone {
	width := (limbsFor(size) + Lanes - 1) / Lanes
	kernel, ok := loneKernels[width]
	if !ok {
		return nil
	}
	k := &lone{width: width, loneKernel: kernel}
	k.shape = newShape(n, width*Lanes, func(limb int) int { return limb%width*Lanes + limb/width })
	r := new(big.Int).Lsh(big.NewInt(1), uint(limbBits*k.limbs))
	r.Mod(r, n)
	k.p1 = k.number(new(big.Int).Add(n, big.NewInt(1)))
	k.one = k.number(r)
	k.r2 = k.number(new(big.Int).Mod(new(big.Int).Mul(r, r), n))
	k.fixed = sync.OnceValue(func() *comb {
		return newComb(n, r, k.limbs, 5, 3, 8*length, func(entry int, x *big.Int, table []uint64) {
			copy(table[entry*k.limbs:], k.number(x))
		})
	})
	return k
}

// power is base^x mod p, by windows of four bits.
func (k *lone) power(out, base, x []byte) {
	n := k.limbs
	all := words.Take((2 + 1<<window) * n)
	defer words.Give(all)
	acc, factor, table := all[:n], all[n:2*n], all[2*n:]
	entry := func(i int) *uint64 { return &table[i*n] }
	p1 := &k.p1[0]
	k.load(acc, 0, base)
	copy(table, k.one)
	k.mul(entry(1), &acc[0], &k.r2[0], p1)
	for i := 2; i < 1<<window; i++ {
		k.mul(entry(i), entry(i-1), entry(1), p1)
	}
	copy(acc, k.one)
	for i := 2*len(x) - 1; i >= 0; i-- {
		if i == 2*len(x)-1 {
			chooseLone(&acc[0], &table[0], nibble(x, i), 1<<window, k.width)
			continue
		}
		for range window {
			k.mul(&acc[0], &acc[0], &acc[0], p1)
		}
		chooseLone(&factor[0], &table[0], nibble(x, i), 1<<window, k.width)
		k.mul(&acc[0], &acc[0], &factor[0], p1)
	}
	k.finish(out, acc, factor)
}

// powerOfTwo is 2^x mod p for an x of no more bits than the comb has.
func (k *lone) powerOfTwo(out, x []byte) {
	c := k.fixed()
	n := k.limbs
	all := words.Take(2 * n)
	defer words.Give(all)
	acc, factor := all[:n], all[n:]
	p1 := &k.p1[0]
	copy(acc, k.one)
	for column := c.part - 1; column >= 0; column-- {
		if column < c.part-1 {
			k.mul(&acc[0], &acc[0], &acc[0], p1)
		}
		for t, table := range c.tables {
			if column == c.part-1 && t == 0 {
				chooseLone(&acc[0], &table[0], c.digit(x, t, column), 1<<c.teeth, k.width)
				continue
			}
			chooseLone(&factor[0], &table[0], c.digit(x, t, column), 1<<c.teeth, k.width)
			k.mul(&acc[0], &acc[0], &factor[0], p1)
		}
	}
	k.finish(out, acc, factor)
}

// finish takes acc out of Montgomery's form and writes it.
func (k *lone) finish(out []byte, acc, one []uint64) {
	clear(one)
	one[0] = 1
	k.mul(&acc[0], &acc[0], &one[0], &k.p1[0])
	k.store(out, acc, 0)
}
