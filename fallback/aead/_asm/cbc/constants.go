// SPDX-License-Identifier: Apache-2.0

package main

import (
	"math/big"

	"github.com/mmcloughlin/avo/attr"
)

const readOnly = attr.NOPTR | attr.RODATA

// roots returns the round constants of SHA-2: the first bits of the fractional
// parts of the cube roots of the first n primes (FIPS 180-4 section 4.2).
func roots(n int, bits uint) (out []uint64) {
	mask := new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), bits), big.NewInt(1))
	for p := int64(2); len(out) < n; p++ {
		if !big.NewInt(p).ProbablyPrime(10) {
			continue
		}
		root := cubeRoot(new(big.Int).Lsh(big.NewInt(p), 3*bits))
		out = append(out, root.And(root, mask).Uint64())
	}
	return out
}

// cubeRoot returns the cube root's integer part, bit by bit from the top.
func cubeRoot(x *big.Int) *big.Int {
	root := new(big.Int)
	for i := x.BitLen()/3 + 1; i >= 0; i-- {
		next := new(big.Int).SetBit(root, i, 1)
		if new(big.Int).Exp(next, big.NewInt(3), nil).Cmp(x) <= 0 {
			root = next
		}
	}
	return root
}
