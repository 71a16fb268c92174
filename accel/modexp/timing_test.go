// SPDX-License-Identifier: Apache-2.0

//go:build timing

package modexp

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"quicksand/tests/dudect"
)

// TestTiming has powers to one fixed exponent and to random ones.
func TestTiming(t *testing.T) {
	const samples, size, length = 6000, 128, 25
	rng := rand.New(rand.NewChaCha8([32]byte{9}))
	p := testModuli()[8*size]
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
					dudect.Compare(t, "the exponent", samples, func(class int) {
						for i := range exponents {
							fresh := randomBytes(rng, length)
							if class == 0 {
								clear(fresh)
							}
							copy(exponents[i], fresh)
						}
					}, func() {
						if what == "power" {
							m.Power(outs, bases, exponents)
						} else {
							m.PowerOfTwo(outs, exponents)
						}
					})
				})
			}
		}
	}
}
