// SPDX-License-Identifier: Apache-2.0

package p256

import (
	"bytes"
	"crypto/ecdh"
	"crypto/elliptic"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"quicksand/accel/modexp/internal/curvetest"
)

func public(t testing.TB, scalar []byte) []byte {
	t.Helper()
	return curvetest.Public(t, ecdh.P256(), scalar)
}

func product(t testing.TB, scalar, point []byte) []byte {
	t.Helper()
	return curvetest.Product(t, ecdh.P256(), scalar, point)
}

func room(n, size int) [][]byte {
	b := make([][]byte, n)
	for i := range b {
		b[i] = make([]byte, size)
	}
	return b
}

func edges() [][]byte { return curvetest.Edges(elliptic.P256().Params()) }

// TestMultiply has every level multiply edges and random scalars, alone and in
// company, and compares with crypto/ecdh.
func TestMultiply(t *testing.T) {
	rng := rand.NewChaCha8([32]byte{19})
	random := func() []byte {
		x := make([]byte, Size)
		rng.Read(x)
		x[0] &= 0x7f
		return x
	}
	var scalars, points [][]byte
	for _, e := range edges() {
		scalars, points = append(scalars, e, random(), e), append(points, public(t, random()), public(t, e), public(t, e))
	}
	for range 100 {
		scalars, points = append(scalars, random()), append(points, public(t, random()))
	}
	if len(Levels()) == 0 {
		t.Log("the CPU has neither AVX-512 IFMA nor ADX, or the build does not use them: nothing to compare")
	}
	for _, l := range Levels() {
		for i := 0; i < len(scalars); {
			n := min(i%Lanes+1, len(scalars)-i)
			out, base := room(n, Size), room(n, 2*Size)
			Multiply(l, out, scalars[i:i+n], points[i:i+n])
			MultiplyBase(l, base, scalars[i:i+n])
			for j := range out {
				x := scalars[i+j]
				if want := product(t, x, points[i+j]); !bytes.Equal(out[j], want) {
					t.Errorf("%s: %x times %x, number %d of %d, is %x, want %x", l, x, points[i+j], j, n, out[j], want)
				}
				if want := public(t, x); !bytes.Equal(base[j], want) {
					t.Errorf("%s: %x times the base point, number %d of %d, is %x, want %x", l, x, j, n, base[j], want)
				}
			}
			i += n
		}
	}
}

func FuzzMultiply(f *testing.F) {
	for _, e := range edges() {
		f.Add(e, e)
	}
	f.Fuzz(func(t *testing.T, scalar, other []byte) {
		if _, err := ecdh.P256().NewPrivateKey(scalar); err != nil {
			return
		}
		if _, err := ecdh.P256().NewPrivateKey(other); err != nil {
			return
		}
		point := public(t, other)
		want, wantBase := product(t, scalar, point), public(t, scalar)
		for _, l := range Levels() {
			for _, n := range []int{1, 2} {
				out, base := room(n, Size), room(n, 2*Size)
				Multiply(l, out, [][]byte{scalar, scalar}[:n], [][]byte{point, point}[:n])
				MultiplyBase(l, base, [][]byte{scalar, scalar}[:n])
				if !bytes.Equal(out[n-1], want) {
					t.Errorf("%s: %x times %x is %x, want %x", l, scalar, point, out[n-1], want)
				}
				if !bytes.Equal(base[n-1], wantBase) {
					t.Errorf("%s: %x times the base point is %x, want %x", l, scalar, base[n-1], wantBase)
				}
			}
		}
	})
}

func BenchmarkMultiply(b *testing.B) {
	for _, l := range Levels() {
		for _, n := range slices.Compact([]int{1, l.Lanes()}) {
			for what, multiply := range map[string]func(out, scalars, points [][]byte){
				"point": func(out, scalars, points [][]byte) { Multiply(l, out, scalars, points) },
				"base":  func(out, scalars, _ [][]byte) { MultiplyBase(l, out, scalars) },
			} {
				b.Run(fmt.Sprintf("%s/%d/%s", l, n, what), func(b *testing.B) {
					scalars, points, out := room(n, Size), make([][]byte, n), room(n, 2*Size)
					for i := range scalars {
						scalars[i][1] = byte(i + 1)
						points[i] = public(b, scalars[i])
					}
					multiply(out, scalars, points)
					best := time.Duration(math.MaxInt64)
					for b.Loop() {
						start := time.Now()
						multiply(out, scalars, points)
						best = min(best, time.Since(start))
					}
					b.ReportMetric(float64(b.N*n)/b.Elapsed().Seconds(), "ops/s")
					b.ReportMetric(float64(best.Nanoseconds()), "best-ns")
				})
			}
		}
	}
}
