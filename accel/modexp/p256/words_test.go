// SPDX-License-Identifier: Apache-2.0

//go:build amd64 && !purego

package p256

import (
	"math/big"
	"math/rand/v2"
	"slices"
	"testing"

	"quicksand/accel/modexp/internal/words"
)

var (
	primeBig = fromWords(prime)
	// rInverse takes a number out of Montgomery's form.
	rInverse = new(big.Int).ModInverse(new(big.Int).Lsh(big.NewInt(1), 256), primeBig)
)

// wordEdges are numbers below p at which carries could go wrong: near 0, p and its
// fractions, and ones and zeros up to every word's and every half word's end.
func wordEdges() (all [][4]uint64) {
	centres := []*big.Int{new(big.Int), primeBig, new(big.Int).Rsh(primeBig, 1)}
	for bits := uint(32); bits < 256; bits += 32 {
		power := new(big.Int).Lsh(big.NewInt(1), bits)
		centres = append(centres, power, new(big.Int).Sub(primeBig, power))
	}
	for _, c := range centres {
		for _, d := range []int64{-2, -1, 0, 1, 2} {
			if x := new(big.Int).Add(c, big.NewInt(d)); x.Sign() >= 0 && x.Cmp(primeBig) < 0 {
				all = append(all, toWords(x))
			}
		}
	}
	return all
}

func toWords(x *big.Int) [4]uint64 { return fromBytes(x.FillBytes(make([]byte, Size))) }

func fromWords(w [4]uint64) *big.Int {
	b := make([]byte, Size)
	putWords(b, &w)
	return new(big.Int).SetBytes(b)
}

func needWords(t *testing.T) bool {
	t.Helper()
	if !slices.Contains(Levels(), ADX) {
		t.Log("the CPU has no ADX, or is not to use it: nothing to compare")
		return false
	}
	return true
}

// The field in math/big, in Montgomery's form as the kernels have it.

func mod(x *big.Int) *big.Int { return x.Mod(x, primeBig) }

func times(factors ...*big.Int) *big.Int {
	x := new(big.Int).Set(factors[0])
	for _, f := range factors[1:] {
		mod(x.Mul(x, f).Mul(x, rInverse))
	}
	return x
}

// sum adds the first number and some multiples of others.
func sum(a *big.Int, terms ...term) *big.Int {
	x := new(big.Int).Set(a)
	for _, t := range terms {
		x.Add(x, new(big.Int).Mul(big.NewInt(t.times), t.x))
	}
	return mod(x)
}

type term struct {
	times int64
	x     *big.Int
}

// TestMulSqrWords compares products of all pairs of edges with math/big.
func TestMulSqrWords(t *testing.T) {
	if !needWords(t) {
		return
	}
	edges := wordEdges()
	for _, a := range edges {
		for i, b := range edges {
			squarings := i % 3
			want := times(fromWords(a), fromWords(b))
			for range squarings {
				want = times(want, want)
			}
			var out [4]uint64
			mulSqrWords(&out[0], &a[0], &b[0], squarings)
			if fromWords(out).Cmp(want) != 0 {
				t.Fatalf("%x times %x, squared %d times, is %x, want %x", a, b, squarings, out, want)
			}
		}
	}
}

// TestPointWords doubles and adds edges as if they were points' coordinates beside
// the formulas in math/big: they hold of any numbers.
func TestPointWords(t *testing.T) {
	if !needWords(t) {
		return
	}
	rng := rand.New(rand.NewChaCha8([32]byte{56}))
	edges := wordEdges()
	half := new(big.Int).ModInverse(big.NewInt(2), primeBig)
	for round := range 3000 {
		w := pair(words.Aligned(wordsSize * wordsElement))
		var m [6]*big.Int
		for e := range m {
			*w.at(e) = edges[rng.IntN(len(edges))]
			if e == atZ2 && round%3 == 2 {
				*w.at(e) = wordsOne
			}
			m[e] = fromWords(*w.at(e))
		}
		w.mul(wordsZZ, atZ, atZ)
		x, y, z, x2, y2, z2 := m[0], m[1], m[2], m[3], m[4], m[5]
		var want [3]*big.Int
		digit := uint64(rng.IntN(3))
		switch round % 3 {
		case 0:
			zz := times(z, z)
			l := mod(new(big.Int).Mul(half, sum(new(big.Int), term{3, times(sum(x, term{-1, zz}), sum(x, term{1, zz}))})))
			beta, gamma := times(x, y, y), times(y, y)
			want[0] = sum(times(l, l), term{-2, beta})
			want[1] = sum(times(l, sum(beta, term{-1, want[0]})), term{-1, times(gamma, gamma)})
			want[2] = times(y, z)
			doubleWords(&w[0], 1)
		default:
			u1, s1 := times(x, z2, z2), times(y, z2, z2, z2)
			h := sum(times(x2, z, z), term{-1, u1})
			r := sum(times(y2, z, z, z), term{-1, s1})
			hhh, v := times(h, h, h), times(u1, h, h)
			want[0] = sum(times(r, r), term{-1, hhh}, term{-2, v})
			want[1] = sum(times(r, sum(v, term{-1, want[0]})), term{-1, times(s1, hhh)})
			want[2] = times(z, z2, h)
			if z.Sign() == 0 {
				want = [3]*big.Int{x2, y2, z2}
			}
			if digit == 0 {
				want = [3]*big.Int{x, y, z}
			}
			if round%3 == 1 {
				addWords(&w[0], digit)
			} else {
				addAffineWords(&w[0], digit)
			}
		}
		for e := range want {
			if fromWords(*w.at(e)).Cmp(want[e]) != 0 {
				t.Fatalf("round %d, digit %d, of %x: element %d is %x, want %x", round, digit, m, e, *w.at(e), want[e])
			}
		}
		if zz := times(want[2], want[2]); fromWords(*w.at(wordsZZ)).Cmp(zz) != 0 {
			t.Fatalf("round %d, digit %d, of %x: z^2 is %x, want %x", round, digit, m, *w.at(wordsZZ), zz)
		}
	}
}

// TestSignedDigit puts scalars together again of their digits.
func TestSignedDigit(t *testing.T) {
	for _, scalar := range edges() {
		for width, windows := range map[int]int{wordsWidth: wordsWindows, baseWidth: baseWindows} {
			k := scalarWords(scalar)
			got := new(big.Int)
			for i := windows - 1; i >= 0; i-- {
				digit, negative := signedDigit(&k, i, width)
				if digit > 1<<(width-1) || negative > 1 {
					t.Fatalf("digit %d of %x is %d, %d", i, scalar, digit, negative)
				}
				got.Lsh(got, uint(width)).Add(got, big.NewInt(int64(digit)*(1-2*int64(negative))))
			}
			if got.Cmp(new(big.Int).SetBytes(scalar)) != 0 {
				t.Errorf("%x in windows of %d is %x", scalar, width, got)
			}
		}
	}
}

func TestPickWords(t *testing.T) {
	if !needWords(t) {
		return
	}
	rng := rand.New(rand.NewChaCha8([32]byte{57}))
	for elements, pick := range map[int]func(out, table *uint64, digit uint64){2: pickAffineWords, 3: pickWords} {
		entries, n := map[int]int{2: baseEntries, 3: wordsEntries}[elements], elements*wordsElement
		table, out := words.Aligned(entries*n), words.Aligned(n)
		for i := range table {
			table[i] = rng.Uint64()
		}
		for digit := range entries + 1 {
			pick(&out[0], &table[0], uint64(digit))
			want := make([]uint64, n)
			if digit > 0 {
				want = table[(digit-1)*n : digit*n]
			}
			if !slices.Equal(out, want) {
				t.Errorf("entry %d of %d elements: %x, want %x", digit, elements, out, want)
			}
		}
	}
}
