// SPDX-License-Identifier: Apache-2.0

//go:build amd64 && !purego

package modexp

import (
	"math/big"

	"quicksand/accel/modexp/internal/words"
)

// sharedTeeth is of the eight lanes' comb: chooseShared picks of 64.
const sharedTeeth = 6

// comb holds powers of two, by the method of Lim and Lee (CRYPTO '94). An
// exponent's bits are set out in teeth rows, and each row is cut into as many
// parts as there are tables. A column of a part is a digit of teeth bits, for
// which the part's table has the power of two. The parts share their squarings.
type comb struct {
	teeth  int
	part   int // columns of a part
	tables [][]uint64
}

// newComb makes a comb for exponents of a number of bits. n is the modulus, and
// r is 1 in Montgomery's form; put writes an entry, a number of limbs, into a
// table.
func newComb(n, r *big.Int, limbs, teeth, tables, exponentBits int, put func(entry int, x *big.Int, table []uint64)) *comb {
	parts := teeth * tables
	c := &comb{teeth: teeth, part: (exponentBits + parts - 1) / parts, tables: make([][]uint64, tables)}
	first := make([]*big.Int, parts) // 2 to the lowest bit of part i%tables of row i/tables
	power := big.NewInt(2)
	for i := range first {
		first[i] = new(big.Int).Set(power)
		for range c.part {
			power.Mod(power.Mul(power, power), n)
		}
	}
	for t := range c.tables {
		c.tables[t] = words.Aligned(limbs << teeth)
		powers := make([]*big.Int, 1<<teeth)
		powers[0] = r
		put(0, r, c.tables[t])
		for row := range teeth {
			for i := range 1 << row {
				x := new(big.Int).Mul(powers[i], first[row*tables+t])
				powers[1<<row+i] = x.Mod(x, n)
				put(1<<row+i, x, c.tables[t])
			}
		}
	}
	return c
}

// bits returns how long an exponent may be.
func (c *comb) bits() int { return c.part * c.teeth * len(c.tables) }

// digit returns a column of a part: one bit of every row.
func (c *comb) digit(x []byte, table, column int) uint64 {
	var d uint64
	for row := range c.teeth {
		i := (row*len(c.tables)+table)*c.part + column
		if i/8 < len(x) {
			d |= uint64(x[len(x)-1-i/8]>>(i%8)&1) << row
		}
	}
	return d
}
