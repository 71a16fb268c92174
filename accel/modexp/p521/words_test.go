// SPDX-License-Identifier: Apache-2.0

//go:build amd64 && !purego

package p521

import (
	"math/big"
	"testing"
)

var primeBig = new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 521), big.NewInt(1))

// wordEdges are numbers below a limit at which carries could go wrong: near 0, the
// prime and its multiples, and ones and zeros up to every word's end.
func wordEdges(limit *big.Int) (all [][element]uint64) {
	centres := []*big.Int{new(big.Int), limit, primeBig, new(big.Int).Lsh(primeBig, 1)}
	for n := uint(64); n < 521; n += 64 {
		power := new(big.Int).Lsh(big.NewInt(1), n)
		centres = append(centres, power, new(big.Int).Sub(primeBig, power), new(big.Int).Sub(limit, power))
	}
	for _, c := range centres {
		for _, d := range []int64{-33, -1, 0, 1, 31} {
			x := new(big.Int).Add(c, big.NewInt(d))
			if x.Sign() < 0 || x.Cmp(limit) >= 0 {
				continue
			}
			var w [element]uint64
			for i, word := range x.Bits() { // of 64 bits, as amd64 has them
				w[i] = uint64(word)
			}
			all = append(all, w)
		}
	}
	return all
}

func fromWords(w [element]uint64) *big.Int {
	x := new(big.Int)
	for i := element - 1; i >= 0; i-- {
		x.Or(x.Lsh(x, 64), new(big.Int).SetUint64(w[i]))
	}
	return x
}

// TestKernels compares each kernel with math/big for all pairs of edges that it
// may be given, and holds it to its bound.
func TestKernels(t *testing.T) {
	if !Available() {
		t.Log("the CPU has no ADX, or is not to use it: nothing to compare")
		return
	}
	unit := new(big.Int).Lsh(big.NewInt(1), 521)
	most := new(big.Int).Add(unit, new(big.Int).Lsh(big.NewInt(1), 55))
	check := func(what string, bound, got, want *big.Int, a, b [element]uint64) {
		t.Helper()
		same := new(big.Int).Sub(got, want)
		if got.Cmp(bound) >= 0 || same.Mod(same, primeBig).Sign() != 0 {
			t.Fatalf("%s of %x and %x is %x", what, a, b, got)
		}
	}
	edges := wordEdges(new(big.Int).Mul(primeBig, big.NewInt(32)))
	for _, a := range edges {
		x := fromWords(a)
		var out [element]uint64
		sqr(&out[0], &a[0])
		check("the square", most, fromWords(out), new(big.Int).Mul(x, x), a, a)
		threeHalves(&out[0], &a[0])
		check("twice 3/2", new(big.Int).Mul(primeBig, big.NewInt(128)), new(big.Int).Lsh(fromWords(out), 1), new(big.Int).Mul(x, big.NewInt(3)), a, a)
		for _, k := range []uint64{2, 3, 31} {
			scale(&out[0], &a[0], k)
			if want := new(big.Int).Mul(x, new(big.Int).SetUint64(k)); fromWords(out).Cmp(want) != 0 {
				t.Fatalf("%x times %d is %x", a, k, out)
			}
		}
		for _, b := range edges {
			y := fromWords(b)
			mul(&out[0], &a[0], &b[0])
			check("the product", most, fromWords(out), new(big.Int).Mul(x, y), a, b)
			sub(&out[0], &a[0], &b[0])
			check("the difference", most, fromWords(out), new(big.Int).Sub(x, y), a, b)
			add(&out[0], &a[0], &b[0])
			if want := new(big.Int).Add(x, y); fromWords(out).Cmp(want) != 0 {
				t.Fatalf("%x plus %x is %x", a, b, out)
			}
		}
	}
	for _, a := range wordEdges(most) {
		b, in := make([]byte, Size), fromWords(a)
		store(b, a[:])
		if got := new(big.Int).SetBytes(b); got.Cmp(in.Mod(in, primeBig)) != 0 {
			t.Errorf("%x is written as %x", in, b)
		}
	}
}

// TestSignedDigit puts scalars together again of their digits.
func TestSignedDigit(t *testing.T) {
	for _, scalar := range edges() {
		var k [element + 1]uint64
		load(k[:element], scalar)
		got := new(big.Int)
		for i := windows - 1; i >= 0; i-- {
			digit, negative := signedDigit(&k, i)
			if digit > entries || negative > 1 {
				t.Fatalf("digit %d of %x is %d, %d", i, scalar, digit, negative)
			}
			got.Lsh(got, width).Add(got, big.NewInt(int64(digit)*(1-2*int64(negative))))
		}
		if got.Cmp(new(big.Int).SetBytes(scalar)) != 0 {
			t.Errorf("%x in windows is %x", scalar, got)
		}
	}
}
