// SPDX-License-Identifier: Apache-2.0

//go:build amd64 && !purego

package modexp

import (
	"fmt"
	"math/big"
	"math/rand/v2"
	"slices"
	"testing"

	"quicksand/accel/modexp/internal/words"
)

// Each kernel against math/big, on numbers that fill every limb.

func has(level Level) bool { return slices.Contains(Levels(), level) }

// value is the number whose limbs, or columns, are every step-th word.
func value(limbs []uint64, bits, step int) *big.Int {
	x := new(big.Int)
	for i := (len(limbs) - 1) / step; i >= 0; i-- {
		x.Lsh(x, uint(bits)).Add(x, new(big.Int).SetUint64(limbs[i*step]))
	}
	return x
}

// fill writes limbs of a pattern: all ones, zeros, one limb of ones at a place,
// ones but for one limb, or random ones.
func fill(rng *rand.Rand, limbs []uint64, bits, pattern int) {
	mask := uint64(1)<<bits - 1
	for i := range limbs {
		switch {
		case pattern == 0:
			limbs[i] = mask
		case pattern == 1:
			limbs[i] = 0
		case pattern%3 == 0:
			limbs[i] = rng.Uint64() & mask
		case pattern%3 == 1:
			limbs[i] = map[bool]uint64{true: mask}[i == pattern/3%len(limbs)]
		default:
			limbs[i] = map[bool]uint64{false: mask}[i == pattern/3%len(limbs)]
		}
	}
}

func TestColumns(t *testing.T) {
	if !has(IFMA) {
		t.Log("the CPU has no AVX-512 IFMA: nothing to compare")
		return
	}
	rng := rand.New(rand.NewChaCha8([32]byte{5}))
	for _, blocks := range []int{2, 3, 4, 6, 8, 12, 16} {
		n := blocks * blockLen
		a, b, columns := words.Aligned(n*Lanes), words.Aligned(n*Lanes), words.Aligned(2*n*Lanes)
		for round := range 3*n/Lanes + 4 {
			for lane := range Lanes {
				one := make([]uint64, n)
				for k, into := range [][]uint64{a, b} {
					pattern := round*Lanes + lane
					if k == 1 {
						pattern = rng.IntN(3 * n)
					}
					fill(rng, one, limbBits, pattern)
					for i := range one {
						into[i*Lanes+lane] = one[i]
					}
				}
			}
			for _, square := range []bool{false, true} {
				if square {
					copy(b, a)
					sqrColumns(&columns[0], &a[0], blocks)
				} else {
					mulColumns(&columns[0], &a[0], &b[0], blocks)
				}
				for lane := range Lanes {
					x, y := value(a[lane:], limbBits, Lanes), value(b[lane:], limbBits, Lanes)
					if got := value(columns[lane:], limbBits, Lanes); got.Cmp(x.Mul(x, y)) != 0 {
						t.Fatalf("%d limbs, lane %d, square %v: %x, want %x", n, lane, square, got, x)
					}
				}
			}
		}
	}
}

// operands returns numbers below 2p that are hard on carries.
func operands(rng *rand.Rand, p *big.Int, bits, limbs int) []*big.Int {
	twice := new(big.Int).Lsh(p, 1)
	list := edges(p)
	for _, d := range []int64{1, 2, 3} {
		list = append(list, new(big.Int).Sub(twice, big.NewInt(d)), new(big.Int).Add(p, big.NewInt(d)), new(big.Int).Sub(p, big.NewInt(d)))
	}
	one := make([]uint64, limbs)
	for pattern := range 3 * limbs {
		if limbs > 64 && rng.IntN(limbs) > 32 {
			continue // the long ones' turns, for time
		}
		fill(rng, one, bits, pattern)
		list = append(list, new(big.Int).Mod(value(one, bits, 1), twice))
	}
	return list
}

// checkProduct checks that out is a*b/R modulo p, and below a bound.
func checkProduct(t *testing.T, p, bound, r, out, a, b *big.Int) {
	t.Helper()
	left := new(big.Int).Mul(out, r)
	right := new(big.Int).Mul(a, b)
	if left.Sub(left, right).Mod(left, p).Sign() != 0 || out.Cmp(bound) >= 0 {
		t.Fatalf("%x times %x is %x", a, b, out)
	}
}

func checkLimbs(t *testing.T, limbs []uint64, bits int) {
	t.Helper()
	for i, limb := range limbs {
		if limb>>bits != 0 {
			t.Fatalf("word %d is %#x, more than %d bits", i, limb, bits)
		}
	}
}

func TestProducts(t *testing.T) {
	rng := rand.New(rand.NewChaCha8([32]byte{6}))
	for size, p := range testModuli() {
		twice := new(big.Int).Lsh(p, 1)
		if has(IFMA) {
			t.Run(fmt.Sprintf("%d/wide", size), func(t *testing.T) {
				w := newWide(p.Bytes(), 29).(*wide)
				s := w.scratch(1)
				r := new(big.Int).Lsh(big.NewInt(1), uint(limbBits*w.limbs))
				list := operands(rng, p, limbBits, w.limbs)
				for i := 0; i < len(list); i += Lanes {
					for lane := range Lanes {
						x, y := make([]uint64, w.limbs), make([]uint64, w.limbs)
						setNumber(x, list[(i+lane)%len(list)], limbBits)
						setNumber(y, list[rng.IntN(len(list))], limbBits)
						for j := range x {
							s.acc[j*Lanes+lane], s.factor[j*Lanes+lane] = x[j], y[j]
						}
					}
					for _, square := range []bool{false, true} {
						if square {
							copy(s.factor, s.acc)
							s.sqr(s.table, s.acc)
						} else {
							s.mul(s.table, s.acc, s.factor)
						}
						checkLimbs(t, s.table, limbBits)
						for lane := range Lanes {
							checkProduct(t, p, twice, r, value(s.table[lane:], limbBits, Lanes),
								value(s.acc[lane:], limbBits, Lanes), value(s.factor[lane:], limbBits, Lanes))
						}
					}
				}
			})
			t.Run(fmt.Sprintf("%d/lone", size), func(t *testing.T) {
				k := newLone(p, size/8, 29)
				checkSingle(t, rng, &k.single, p, twice)
			})
		}
		if has(ADX) {
			t.Run(fmt.Sprintf("%d/words", size), func(t *testing.T) {
				k := newADX(p.Bytes(), 29).(alone)
				checkSingle(t, rng, k.single, p, new(big.Int).Lsh(big.NewInt(1), uint(size)))
			})
		}
	}
}

func checkSingle(t *testing.T, rng *rand.Rand, k *single, p, bound *big.Int) {
	r := new(big.Int).Lsh(big.NewInt(1), uint(k.bits*k.limbs))
	room := words.Aligned(k.room + 1)
	out := words.Aligned(k.limbs)
	list := operands(rng, p, k.bits, k.limbs)
	for _, x := range list {
		y := list[rng.IntN(len(list))]
		if x.Cmp(bound) >= 0 || y.Cmp(bound) >= 0 {
			continue
		}
		a, b := k.number(x), k.number(y)
		k.mul(out, a, b, room)
		checkProduct(t, p, bound, r, k.read(out), x, y)
		k.sqr(out, a, room)
		checkProduct(t, p, bound, r, k.read(out), x, x)
		k.mul(a, a, b, room) // in place
		checkProduct(t, p, bound, r, k.read(a), x, y)
		if k.bits < 64 {
			checkLimbs(t, out, k.bits)
		}
	}
}

// read is the inverse of number.
func (s *shape) read(limbs []uint64) *big.Int {
	order := make([]uint64, s.limbs)
	for i := range order {
		order[i] = limbs[s.at(i)]
	}
	return value(order, s.bits, 1)
}

func setNumber(limbs []uint64, x *big.Int, bits int) {
	rest, mask := new(big.Int).Set(x), new(big.Int).SetUint64(1<<bits-1)
	for i := range limbs {
		limbs[i] = new(big.Int).And(rest, mask).Uint64()
		rest.Rsh(rest, uint(bits))
	}
}

func TestChoose(t *testing.T) {
	rng := rand.New(rand.NewChaCha8([32]byte{7}))
	random := func(n int) []uint64 {
		b := words.Aligned(n)
		for i := range b {
			b[i] = rng.Uint64()
		}
		return b
	}
	if has(ADX) {
		const entries, rows = 32, 5
		table, out := random(entries*8*rows), random(8*rows)
		for digit := range uint64(entries) {
			pickBlocks(&out[0], &table[0], digit, entries, rows)
			if !slices.Equal(out, table[digit*8*rows:(digit+1)*8*rows]) {
				t.Errorf("entry %d of words: %x", digit, out)
			}
		}
	}
	if !has(IFMA) {
		return
	}
	for _, blocks := range []int{1, 2, 3, 4} {
		n := blocks * blockLen * Lanes
		table, shared, out := random(16*n), random(64*n/Lanes), random(n)
		for round := range 64 {
			var digits, six [Lanes]uint64
			for lane := range digits {
				digits[lane] = uint64(round+3*lane) % 16
				six[lane] = uint64(round+5*lane) % 64
			}
			choose(&out[0], &table[0], &digits[0], blocks)
			for i, got := range out {
				if want := table[int(digits[i%Lanes])*n+i]; got != want {
					t.Fatalf("%d blocks, word %d: %x, want %x", blocks, i, got, want)
				}
			}
			chooseShared(&out[0], &shared[0], &six[0], n/Lanes)
			for i, got := range out {
				if want := shared[i/Lanes*64+int(six[i%Lanes])]; got != want {
					t.Fatalf("%d limbs, shared word %d: %x, want %x", n/Lanes, i, got, want)
				}
			}
		}
		width := blocks
		for digit := range uint64(16) {
			chooseLone(&out[0], &table[0], digit, 16, width)
			if !slices.Equal(out[:8*width], table[int(digit)*8*width:(int(digit)+1)*8*width]) {
				t.Errorf("entry %d of %d registers: %x", digit, width, out)
			}
		}
	}
}
