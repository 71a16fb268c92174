// SPDX-License-Identifier: Apache-2.0

//go:build amd64 && !purego

package modexp

import (
	"math/big"
	"sync"

	"quicksand/accel/modexp/internal/words"
)

// single computes one power at a time, in Montgomery's form.
type single struct {
	shape
	mul   func(out, a, b, room []uint64) // out is a*b/R
	sqr   func(out, a, room []uint64)
	pick  func(out, table []uint64, digit uint64)
	room  int      // words that mul needs
	one   []uint64 // R mod p
	r2    []uint64 // R^2 mod p
	fixed func() *comb
}

const (
	singleTeeth  = 5
	singleTables = 3
)

// prepare computes what follows from the modulus and the shape. length is that of
// the exponents that the comb is made for, in bytes.
func (k *single) prepare(n *big.Int, length int) {
	r := new(big.Int).Lsh(big.NewInt(1), uint(k.bits*k.limbs))
	r.Mod(r, n)
	k.one = k.number(r)
	k.r2 = k.number(new(big.Int).Mod(new(big.Int).Mul(r, r), n))
	k.fixed = sync.OnceValue(func() *comb {
		return newComb(n, r, k.limbs, singleTeeth, singleTables, 8*length, func(entry int, x *big.Int, table []uint64) {
			copy(table[entry*k.limbs:], k.number(x))
		})
	})
}

// power is base^x mod p, by windows of four bits.
func (k *single) power(out, base, x []byte, pause func()) {
	n := k.limbs
	all := words.Take((2+1<<window)*n + k.room)
	defer words.Give(all)
	acc, factor, table, room := all[:n], all[n:2*n], all[2*n:(2+1<<window)*n], all[(2+1<<window)*n:]
	entry := func(i int) []uint64 { return table[i*n : (i+1)*n] }
	k.load(acc, 0, base)
	copy(entry(0), k.one)
	k.mul(entry(1), acc, k.r2, room)
	for i := 2; i < 1<<window; i += 2 {
		k.sqr(entry(i), entry(i/2), room)
		k.mul(entry(i+1), entry(i), entry(1), room)
	}
	copy(acc, k.one)
	for i := 2*len(x) - 1; i >= 0; i-- {
		if i == 2*len(x)-1 {
			k.pick(acc, table, nibble(x, i))
			continue
		}
		for range window {
			k.sqr(acc, acc, room)
		}
		k.pick(factor, table, nibble(x, i))
		k.mul(acc, acc, factor, room)
		pause()
	}
	k.finish(out, acc, factor, room)
}

// powerOfTwo is 2^x mod p for an x of no more bits than the comb has.
func (k *single) powerOfTwo(out, x []byte, pause func()) {
	c := k.fixed()
	n := k.limbs
	all := words.Take(2*n + k.room)
	defer words.Give(all)
	acc, factor, room := all[:n], all[n:2*n], all[2*n:]
	for column := c.part - 1; column >= 0; column-- {
		if column < c.part-1 {
			k.sqr(acc, acc, room)
		}
		for t, table := range c.tables {
			if column == c.part-1 && t == 0 {
				k.pick(acc, table, c.digit(x, t, column))
				continue
			}
			k.pick(factor, table, c.digit(x, t, column))
			k.mul(acc, acc, factor, room)
		}
		pause()
	}
	k.finish(out, acc, factor, room)
}

// finish takes acc out of Montgomery's form and writes it.
func (k *single) finish(out []byte, acc, one, room []uint64) {
	clear(one)
	one[k.at(0)] = 1
	k.mul(acc, acc, one, room)
	k.store(out, acc, 0)
}

// alone makes single a level: one power after the other.
type alone struct{ *single }

func (a alone) power(out, bases, exponents [][]byte, pause func()) {
	for i := range out {
		a.single.power(out[i], bases[i], exponents[i], pause)
	}
}

func (a alone) powerOfTwo(out, exponents [][]byte, pause func()) {
	for i := range out {
		if 8*len(exponents[i]) <= a.fixed().bits() {
			a.single.powerOfTwo(out[i], exponents[i], pause)
			continue
		}
		a.single.power(out[i], a.two(), exponents[i], pause)
	}
}

// newADX prepares a modulus of a multiple of 512 bits for MULX and two carry
// chains. A number is 64-bit words and below R, which is hardly above p.
func newADX(p []byte, length int) fast {
	n := new(big.Int).SetBytes(p)
	count := len(p) / 8
	k := &single{shape: newShape(n, count, 64, func(i int) int { return i }), room: 2 * count}
	k.prepare(n, length)
	p1 := k.number(new(big.Int).Add(n, big.NewInt(1)))
	rows := count / 8
	k.mul = func(out, a, b, room []uint64) {
		mulWords(&room[0], &a[0], &b[0], rows)
		reduceWords(&out[0], &room[0], &k.p[0], &p1[0], rows)
	}
	k.sqr = func(out, a, room []uint64) {
		sqrWords(&room[0], &a[0], rows)
		reduceWords(&out[0], &room[0], &k.p[0], &p1[0], rows)
	}
	k.pick = func(out, table []uint64, digit uint64) {
		pickBlocks(&out[0], &table[0], digit, len(table)/count, rows)
	}
	return alone{k}
}
