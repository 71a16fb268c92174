// SPDX-License-Identifier: Apache-2.0

//go:build amd64 && !purego

package modexp

import "math/big"

// The comb of Lim and Lee (CRYPTO '94): an exponent's bits are set out in teeth
// rows of columns bits, and the rows cut into tables parts. A column of a part
// is a digit of six bits, for which the part's table has the power of two. The
// parts share their squarings.
const (
	teeth   = 6
	tables  = 3
	entries = 1 << teeth
)

// comb holds powers of two. The lanes share it.
type comb struct {
	part  int // columns of a part
	table [tables][]uint64
}

// newComb makes a comb for exponents of a number of bits. n is the modulus, r is
// 2^(52*limbs) modulo it.
func newComb(n, r *big.Int, limbs, exponentBits int) *comb {
	c := &comb{part: (exponentBits + teeth*tables - 1) / (teeth * tables)}
	bit := make([]*big.Int, teeth*tables) // of row i/tables, part i%tables
	power := big.NewInt(2)
	for i := range bit {
		bit[i] = new(big.Int).Set(power)
		for range c.part {
			power.Mod(power.Mul(power, power), n)
		}
	}
	one := make([]uint64, limbs)
	for t := range c.table {
		c.table[t] = aligned(limbs * entries)
		var powers [entries]*big.Int
		powers[0] = r
		for i := 1; i < entries; i++ {
			row := 0
			for i>>(row+1) != 0 {
				row++
			}
			powers[i] = new(big.Int).Mul(powers[i-1<<row], bit[row*tables+t])
			powers[i].Mod(powers[i], n)
		}
		for i, x := range powers {
			setLimbs(one, x)
			for j, limb := range one {
				c.table[t][j*entries+i] = limb
			}
		}
	}
	return c
}

// digit returns a column of a part: one bit of every row.
func (c *comb) digit(x []byte, table, column int) uint64 {
	var d uint64
	for row := range teeth {
		i := (row*tables+table)*c.part + column
		if i/8 < len(x) {
			d |= uint64(x[len(x)-1-i/8]>>(i%8)&1) << row
		}
	}
	return d
}

// powerOfTwo is Modulus.PowerOfTwo for up to eight lanes.
func (w *wide) powerOfTwo(out, exponents [][]byte) {
	c := w.fixed()
	if 8*longest(exponents) > c.part*teeth*tables {
		two := make([][]byte, len(out))
		for i := range two {
			two[i] = make([]byte, w.size)
			two[i][w.size-1] = 2
		}
		w.power(out, two, exponents)
		return
	}
	s := w.scratch(0)
	defer give(s.all)
	var digits [Lanes]uint64
	defer clear(digits[:])
	pick := func(into []uint64, table, column int) {
		for lane, x := range exponents {
			digits[lane] = c.digit(x, table, column)
		}
		chooseShared(&into[0], &c.table[table][0], &digits[0], w.limbs)
	}
	for column := c.part - 1; column >= 0; column-- {
		for t := range c.table {
			if column == c.part-1 && t == 0 {
				pick(s.acc, t, column)
				continue
			}
			if t == 0 {
				s.sqr(s.acc, s.acc)
			}
			pick(s.factor, t, column)
			s.mul(s.acc, s.acc, s.factor)
		}
	}
	s.finish(out)
}
