// SPDX-License-Identifier: Apache-2.0

package modexp

import (
	"bytes"
	"fmt"
	"math/big"
	"math/rand/v2"
	"testing"
)

// testPrimes returns the MODP moduli's lengths with numbers of their form. The
// arithmetic asks for the form and for an odd number, not for a prime; accel/dh
// runs its vectors on the primes themselves.
func testModuli() map[int]*big.Int {
	rng := rand.New(rand.NewChaCha8([32]byte{1}))
	all := map[int]*big.Int{}
	for _, size := range []int{1024, 1536, 2048, 3072, 4096, 6144, 8192} {
		b := randomBytes(rng, size/8)
		for i := range 8 {
			b[i], b[len(b)-1-i] = 0xff, 0xff
		}
		all[size] = new(big.Int).SetBytes(b)
	}
	return all
}

func randomBytes(rng *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
	return b
}

// edges are numbers below p at which carries and reductions could go wrong.
func edges(p *big.Int) []*big.Int {
	one := big.NewInt(1)
	list := []*big.Int{
		new(big.Int), one, big.NewInt(2), new(big.Int).Sub(p, one), new(big.Int).Sub(p, big.NewInt(2)),
		new(big.Int).Rsh(p, 1), new(big.Int).Sub(new(big.Int).Lsh(one, uint(p.BitLen()-1)), one),
	}
	// Ones up to every limb's end, and the powers of two there.
	for i := 52; i < p.BitLen(); i += 52 {
		x := new(big.Int).Lsh(one, uint(i))
		list = append(list, x, new(big.Int).Sub(x, one))
	}
	return list
}

func TestPower(t *testing.T) {
	for size, p := range testModuli() {
		for _, level := range Levels() {
			t.Run(fmt.Sprintf("%d/%s", size, level), func(t *testing.T) {
				rng := rand.New(rand.NewChaCha8([32]byte{2}))
				length := 29
				m, err := New(p.Bytes(), length, level)
				if err != nil {
					t.Fatal(err)
				}
				n := size / 8
				cases := edges(p)
				if size > 2048 {
					cases = cases[:12]
				}
				for range 3 {
					cases = append(cases, new(big.Int).Mod(new(big.Int).SetBytes(randomBytes(rng, n)), p))
				}
				exponents := [][]byte{
					{}, {0}, {1}, {2}, {0, 0, 3}, {0xff, 0xff}, randomBytes(rng, length),
					bytes.Repeat([]byte{0xff}, length), randomBytes(rng, length+5),
				}
				var outs, bases, exps, want [][]byte
				for i, base := range cases {
					x := exponents[i%len(exponents)]
					outs = append(outs, make([]byte, n))
					bases = append(bases, base.FillBytes(make([]byte, n)))
					exps = append(exps, x)
					want = append(want, new(big.Int).Exp(base, new(big.Int).SetBytes(x), p).FillBytes(make([]byte, n)))
				}
				m.Power(outs, bases, exps)
				for i := range outs {
					if !bytes.Equal(outs[i], want[i]) {
						t.Fatalf("%x ^ %x is\n%x, want\n%x", bases[i], exps[i], outs[i], want[i])
					}
				}
				for i, x := range exponents {
					m.PowerOfTwo(outs[i:i+1], exponents[i:i+1])
					if want := new(big.Int).Exp(big.NewInt(2), new(big.Int).SetBytes(x), p).FillBytes(make([]byte, n)); !bytes.Equal(outs[i], want) {
						t.Errorf("2 ^ %x is %x, want %x", x, outs[i], want)
					}
				}
				m.PowerOfTwo(outs[:8], exponents[:8])
				for i, x := range exponents[:8] {
					if want := new(big.Int).Exp(big.NewInt(2), new(big.Int).SetBytes(x), p).FillBytes(make([]byte, n)); !bytes.Equal(outs[i], want) {
						t.Errorf("2 ^ %x in lane %d is %x, want %x", x, i, outs[i], want)
					}
				}
			})
		}
	}
}

func BenchmarkPower(b *testing.B) {
	rng := rand.New(rand.NewChaCha8([32]byte{3}))
	moduli := testModuli()
	for _, size := range []int{1024, 1536, 2048, 3072, 4096, 6144, 8192} {
		for _, level := range Levels() {
			length := map[int]int{1024: 25, 1536: 29, 2048: 29, 3072: 35, 4096: 41, 6144: 47, 8192: 50}[size]
			m, err := New(moduli[size].Bytes(), length, level)
			if err != nil {
				b.Fatal(err)
			}
			for _, lanes := range []int{1, Lanes} {
				var out, bases, exps [][]byte
				for range lanes {
					base := randomBytes(rng, size/8)
					base[0] = 0
					out = append(out, make([]byte, size/8))
					bases = append(bases, base)
					exps = append(exps, randomBytes(rng, length))
				}
				b.Run(fmt.Sprintf("%d/%s/%d", size, level, lanes), func(b *testing.B) {
					for b.Loop() {
						m.Power(out, bases, exps)
					}
					b.ReportMetric(float64(b.N*lanes)/b.Elapsed().Seconds(), "ops/s")
				})
				b.Run(fmt.Sprintf("%d/%s/%d/two", size, level, lanes), func(b *testing.B) {
					m.PowerOfTwo(out, exps)
					for b.Loop() {
						m.PowerOfTwo(out, exps)
					}
					b.ReportMetric(float64(b.N*lanes)/b.Elapsed().Seconds(), "ops/s")
				})
			}
		}
	}
}

// The levels must agree on whatever comes, alone and in every lane.
func FuzzPower(f *testing.F) {
	const size = 128
	p := testModuli()[8*size]
	moduli := map[Level]*Modulus{}
	for _, level := range Levels() {
		m, err := New(p.Bytes(), 25, level)
		if err != nil {
			f.Fatal(err)
		}
		moduli[level] = m
	}
	for i, base := range edges(p) {
		f.Add(base.FillBytes(make([]byte, size)), bytes.Repeat([]byte{byte(i)}, i%30))
	}
	f.Fuzz(func(t *testing.T, base, exponent []byte) {
		if len(base) != size || new(big.Int).SetBytes(base).Cmp(p) >= 0 || len(exponent) > 40 {
			return
		}
		power := new(big.Int).Exp(new(big.Int).SetBytes(base), new(big.Int).SetBytes(exponent), p).FillBytes(make([]byte, size))
		two := new(big.Int).Exp(big.NewInt(2), new(big.Int).SetBytes(exponent), p).FillBytes(make([]byte, size))
		for level, m := range moduli {
			for _, n := range []int{1, Lanes} {
				outs, bases, exponents := make([][]byte, n), make([][]byte, n), make([][]byte, n)
				for i := range outs {
					outs[i], bases[i], exponents[i] = make([]byte, size), base, exponent
				}
				m.Power(outs, bases, exponents)
				for i, got := range outs {
					if !bytes.Equal(got, power) {
						t.Errorf("%s, %d of %d: %x ^ %x is %x, want %x", level, i, n, base, exponent, got, power)
					}
				}
				m.PowerOfTwo(outs, exponents)
				for i, got := range outs {
					if !bytes.Equal(got, two) {
						t.Errorf("%s, %d of %d: 2 ^ %x is %x, want %x", level, i, n, exponent, got, two)
					}
				}
			}
		}
	})
}

func TestNewRefuses(t *testing.T) {
	ones := bytes.Repeat([]byte{0xff}, 128)
	low, high := bytes.Clone(ones), bytes.Clone(ones)
	low[120], high[7] = 0xfe, 0xfe
	for name, p := range map[string][]byte{
		"empty": nil, "short": ones[:56], "odd length": ones[:120], "long": bytes.Repeat([]byte{0xff}, 1088), "low end": low, "high end": high,
	} {
		for _, level := range Levels() {
			if m, err := New(p, 25, level); err == nil || m != nil {
				t.Errorf("%s at level %s: %v, want an error", name, level, err)
			}
		}
	}
}
