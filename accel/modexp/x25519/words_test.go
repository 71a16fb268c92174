// SPDX-License-Identifier: Apache-2.0

//go:build amd64 && !purego

package x25519

import (
	"math/big"
	"math/rand/v2"
	"slices"
	"testing"
)

var (
	p25519 = new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 255), big.NewInt(19))
	// most is what a product of mulSqrWords and ladderWords is below.
	most = new(big.Int).Add(new(big.Int).Lsh(big.NewInt(1), 255), big.NewInt(1<<24))
)

// wordEdges are numbers below a limit at which carries could go wrong: near 0, p,
// 2p and the limit, and ones and zeros up to every word's end.
func wordEdges(limit *big.Int) (all [][4]uint64) {
	add := func(x *big.Int) {
		if x.Sign() >= 0 && x.Cmp(limit) < 0 {
			all = append(all, toWords(x))
		}
	}
	centres := []*big.Int{new(big.Int), p25519, new(big.Int).Lsh(p25519, 1), limit, new(big.Int).Lsh(big.NewInt(1), 255)}
	for _, bits := range []uint{64, 128, 192} {
		centres = append(centres, new(big.Int).Lsh(big.NewInt(1), bits), new(big.Int).Sub(limit, new(big.Int).Lsh(big.NewInt(1), bits)))
	}
	for _, c := range centres {
		for _, d := range []int64{-39, -38, -20, -19, -2, -1, 0, 1, 2, 18, 19, 20, 37, 38, 39} {
			add(new(big.Int).Add(c, big.NewInt(d)))
		}
	}
	return all
}

func toWords(x *big.Int) (w [4]uint64) {
	b := x.FillBytes(make([]byte, Size))
	slices.Reverse(b)
	for i := range b {
		w[i/8] |= uint64(b[i]) << (8 * (i % 8))
	}
	return w
}

func fromWords(w []uint64) *big.Int {
	x := new(big.Int)
	for i := len(w) - 1; i >= 0; i-- {
		x.Or(x.Lsh(x, 64), new(big.Int).SetUint64(w[i]))
	}
	return x
}

func mod(x *big.Int) *big.Int { return x.Mod(x, p25519) }

func needWords(t *testing.T) bool {
	t.Helper()
	if !slices.Contains(Levels(), ADX) {
		t.Log("the CPU has no ADX, or is not to use it: nothing to compare")
		return false
	}
	return true
}

// TestMulSqrWords compares products of all pairs of edges below 2^256 with
// math/big, and holds them to their bound.
func TestMulSqrWords(t *testing.T) {
	if !needWords(t) {
		return
	}
	edges := wordEdges(new(big.Int).Lsh(big.NewInt(1), 256))
	for _, a := range edges {
		for i, b := range edges {
			squarings := i % 3
			want := new(big.Int).Mul(fromWords(a[:]), fromWords(b[:]))
			for range squarings {
				mod(want.Mul(want, want))
			}
			var out [4]uint64
			mulSqrWords(&out[0], &a[0], &b[0], squarings)
			got := fromWords(out[:])
			if got.Cmp(most) >= 0 || mod(got).Cmp(mod(want)) != 0 {
				t.Fatalf("%x times %x, squared %d times, is %x", a, b, squarings, out)
			}
		}
	}
}

// TestLadderWords runs the ladder from edges as its state, which no point leads
// to, beside RFC 7748's steps in math/big.
func TestLadderWords(t *testing.T) {
	if !needWords(t) {
		return
	}
	rng := rand.New(rand.NewChaCha8([32]byte{26}))
	edges := wordEdges(most)
	for range 120 {
		var work [wordsSize * wordsElement]uint64
		var model [wordsX1 + 1]*big.Int
		for e := range model {
			state := edges[rng.IntN(len(edges))]
			copy(work[e*wordsElement:], state[:])
			model[e] = fromWords(state[:])
		}
		var swaps [4]uint64
		for i := range swaps {
			swaps[i] = rng.Uint64()
		}
		copy(work[wordsSwaps*wordsElement:], swaps[:])
		ladderWords(&work[0])
		for bit := 254; bit >= 0; bit-- {
			step(&model, swaps[bit/64]>>(bit%64)&1 == 1)
		}
		for _, e := range []int{wordsX2, wordsZ2, wordsX3, wordsZ3} {
			got := fromWords(work[e*wordsElement : (e+1)*wordsElement])
			if got.Cmp(most) >= 0 || mod(got).Cmp(model[e]) != 0 {
				t.Fatalf("element %d is %x, want %x", e, got, model[e])
			}
		}
	}
}

// step is RFC 7748 section 5's, with the swap of the whole state before it.
func step(m *[wordsX1 + 1]*big.Int, swap bool) {
	add := func(a, b *big.Int) *big.Int { return mod(new(big.Int).Add(a, b)) }
	sub := func(a, b *big.Int) *big.Int { return mod(new(big.Int).Sub(a, b)) }
	mul := func(a, b *big.Int) *big.Int { return mod(new(big.Int).Mul(a, b)) }
	x2, z2, x3, z3 := m[wordsX2], m[wordsZ2], m[wordsX3], m[wordsZ3]
	if swap {
		x2, z2, x3, z3 = x3, z3, x2, z2
	}
	a, b, c, d := add(x2, z2), sub(x2, z2), add(x3, z3), sub(x3, z3)
	aa, bb, da, cb := mul(a, a), mul(b, b), mul(d, a), mul(c, b)
	e := sub(aa, bb)
	sum, difference := add(da, cb), sub(da, cb)
	m[wordsX3] = mul(sum, sum)
	m[wordsZ3] = mul(m[wordsX1], mul(difference, difference))
	m[wordsX2] = mul(aa, bb)
	m[wordsZ2] = mul(e, add(aa, mul(big.NewInt(121665), e)))
}

// TestLimbs cuts numbers into limbs and puts them together again, which needs no
// IFMA: what comes out is what went in, reduced and without the top bit.
func TestLimbs(t *testing.T) {
	for _, w := range wordEdges(new(big.Int).Lsh(big.NewInt(1), 256)) {
		in := fromWords(w[:])
		b := in.FillBytes(make([]byte, Size))
		slices.Reverse(b)
		e := make([]uint64, element)
		for lane := range Lanes {
			load(e, lane, b)
		}
		for lane := range Lanes {
			out := make([]byte, Size)
			store(out, e, lane)
			slices.Reverse(out)
			want := mod(in.SetBit(in, 255, 0))
			if got := new(big.Int).SetBytes(out); got.Cmp(want) != 0 {
				t.Fatalf("lane %d of %x is %x, want %x", lane, w, got, want)
			}
		}
	}
}
