// SPDX-License-Identifier: Apache-2.0

// Package dudect asks, by statistics, whether the time that code takes depends on
// what must not show (Reparaz, Balasch, Verbauwhede: Dude, is my code constant
// time?, 2017). It needs a quiet machine, so the tests that use it have the build
// tag "timing" and are not among the others:
//
//	go test -tags timing -run Timing ./accel/... ./fallback/aead
package dudect

import (
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"
	"time"
)

// limit is how large Welch's t may be. Of times that do not differ hardly one set
// in a million reaches 5; other work on the machine makes that more.
const limit = 10

// Compare times run after prepare, which sets up one of two classes of input, the
// classes in random turns, and fails the test where their times differ. what says
// in what the classes differ. The slowest fifth, which is the machine's doing, is
// left aside, as is the first tenth.
func Compare(t *testing.T, what string, samples int, prepare func(class int), run func()) {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var times [2][]float64
	for i := range samples {
		class := rand.IntN(2)
		prepare(class)
		start := time.Now()
		run()
		if took := time.Since(start); i >= samples/10 {
			times[class] = append(times[class], float64(took))
		}
	}
	all := slices.Sorted(slices.Values(append(slices.Clone(times[0]), times[1]...)))
	most := all[len(all)*8/10]
	for i := range times {
		times[i] = slices.DeleteFunc(times[i], func(x float64) bool { return x > most })
	}
	v, means := welch(times)
	t.Logf("%s: t = %.1f, means %.1f and %.1f ns", what, v, means[0], means[1])
	if math.Abs(v) > limit {
		t.Errorf("%s shows in the time: t = %.1f, means %.1f and %.1f ns", what, v, means[0], means[1])
	}
}

// welch returns Welch's t and the means.
func welch(times [2][]float64) (t float64, means [2]float64) {
	var variance [2]float64
	for i, x := range times {
		n := float64(len(x))
		for _, v := range x {
			means[i] += v / n
		}
		for _, v := range x {
			variance[i] += (v - means[i]) * (v - means[i]) / (n - 1) / n
		}
	}
	return (means[0] - means[1]) / math.Sqrt(variance[0]+variance[1]), means
}
