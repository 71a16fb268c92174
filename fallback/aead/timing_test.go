// SPDX-License-Identifier: Apache-2.0

//go:build timing

package aead

import (
	"bytes"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"quicksand/sa"
)

// TestConstantTime compares the times of two classes of input that differ in
// what must not show, by Welch's test, as dudect does (Reparaz, Balasch,
// Verbauwhede: Dude, is my code constant time?, 2017). It is a matter of
// statistics and needs a quiet machine, so it is not among the others:
//
//	go test -tags timing -run ConstantTime ./fallback/aead
func TestConstantTime(t *testing.T) {
	for _, s := range []sa.Suite{
		{Protocol: sa.ESP, Encryption: sa.AESCBC, KeyBits: 128, Integrity: sa.HMACSHA1},
		{Protocol: sa.ESP, Encryption: sa.AESCBC, KeyBits: 256, Integrity: sa.HMACSHA256},
		{Protocol: sa.ESP, Encryption: sa.AESGCM16, KeyBits: 128},
	} {
		r := random()
		k := keys(r, s)
		each(t, s, k, func(t *testing.T, c Cipher) {
			good := newGuarded(r, c, 64, 0, 1).Packet
			c.Seal([]Packet{good})
			icv := len(good.Data) - c.ICVLen()
			work := []Packet{{Data: bytes.Clone(good.Data), Seq: 1}}
			compareTimes(t, "where the ICV differs", func(class int) {
				copy(work[0].Data, good.Data)
				work[0].Data[icv+class*(c.ICVLen()-1)] ^= 1
			}, func() { c.Open(work) })

			zeros, noise := make([]byte, 64), fill(r, 64)
			payload := work[0].Data[HeaderLen+c.IVLen() : icv]
			compareTimes(t, "what the payload is", func(class int) {
				copy(payload, [][]byte{zeros, noise}[class])
			}, func() { c.Seal(work) })
		})
	}
}

// compareTimes measures both classes in random order and leaves the slowest tenth,
// which is the machine's doing, aside.
func compareTimes(t *testing.T, what string, prepare func(class int), run func()) {
	const count = 40000
	var times [2][]float64
	for i := range count {
		class := rand.IntN(2)
		prepare(class)
		start := time.Now()
		run()
		if took := time.Since(start); i > count/10 {
			times[class] = append(times[class], float64(took))
		}
	}
	limit := slices.Sorted(slices.Values(append(slices.Clone(times[0]), times[1]...)))[count*8/10]
	var mean, variance, n [2]float64
	for class, all := range times {
		for _, v := range all {
			if v > limit {
				continue
			}
			n[class]++
			d := v - mean[class]
			mean[class] += d / n[class]
			variance[class] += d * (v - mean[class])
		}
		variance[class] /= n[class] - 1
	}
	welch := (mean[0] - mean[1]) / math.Sqrt(variance[0]/n[0]+variance[1]/n[1])
	t.Logf("%s: t = %.1f, means %.1f and %.1f ns", what, welch, mean[0], mean[1])
	if math.Abs(welch) > 10 {
		t.Errorf("%s shows in the time: t = %.1f, means %.1f and %.1f ns", what, welch, mean[0], mean[1])
	}
}
