// SPDX-License-Identifier: Apache-2.0

//go:build timing

package modexp

import (
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"
	"time"
)

// TestTiming is dudect's method (Reparaz, Balasch, Verbauwhede, 2017): powers to
// one fixed exponent and to random ones are timed in random turns, and Welch's t
// says whether the two sets of times differ. It wants a quiet core:
//
//	go test -tags timing -run TestTiming ./accel/modexp
func TestTiming(t *testing.T) {
	const samples, size, length, limit = 6000, 128, 25, 10
	rng := rand.New(rand.NewChaCha8([32]byte{9}))
	p := testModuli()[8*size]
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for _, level := range Levels() {
		m, err := New(p.Bytes(), length, level)
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range []int{1, m.Lanes()} {
			for _, what := range []string{"power", "power of two"} {
				t.Run(fmt.Sprintf("%s/%d/%s", level, n, what), func(t *testing.T) {
					outs, bases, exponents := make([][]byte, n), make([][]byte, n), make([][]byte, n)
					for i := range outs {
						outs[i], bases[i], exponents[i] = make([]byte, size), randomBytes(rng, size), make([]byte, length)
						bases[i][0] = 0
					}
					var times [2][]float64
					for range samples {
						class := rng.IntN(2)
						for i := range exponents {
							fresh := randomBytes(rng, length)
							if class == 0 {
								clear(fresh)
							}
							copy(exponents[i], fresh)
						}
						start := time.Now()
						if what == "power" {
							m.Power(outs, bases, exponents)
						} else {
							m.PowerOfTwo(outs, exponents)
						}
						times[class] = append(times[class], float64(time.Since(start)))
					}
					if v := welch(crop(times)); math.Abs(v) > limit {
						t.Errorf("t is %.1f: the time depends on the exponent", v)
					} else {
						t.Logf("t is %.1f", v)
					}
				})
			}
		}
	}
}

// crop drops times above the 80th percentile of both classes: the scheduler's.
func crop(times [2][]float64) [2][]float64 {
	all := slices.Sorted(slices.Values(append(slices.Clone(times[0]), times[1]...)))
	most := all[len(all)*8/10]
	for i := range times {
		times[i] = slices.DeleteFunc(times[i], func(x float64) bool { return x > most })
	}
	return times
}

func welch(times [2][]float64) float64 {
	var mean, variance [2]float64
	for i, x := range times {
		for _, v := range x {
			mean[i] += v / float64(len(x))
		}
		for _, v := range x {
			variance[i] += (v - mean[i]) * (v - mean[i]) / float64(len(x)-1)
		}
	}
	return (mean[0] - mean[1]) / math.Sqrt(variance[0]/float64(len(times[0]))+variance[1]/float64(len(times[1])))
}
