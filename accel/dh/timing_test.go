// SPDX-License-Identifier: Apache-2.0

//go:build timing

package dh

import (
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"testing"

	"quicksand/tests/dudect"
)

// TestTiming has secrets of one fixed scalar and of random ones, and key pairs of
// the same, of the curves at every level.
func TestTiming(t *testing.T) {
	const samples = 20000
	random := rand.NewChaCha8([32]byte{31})
	for _, g := range []Group{ECP256, ECP384, ECP521, Curve25519} {
		for _, c := range groups[g].kernels() {
			k := c.kernel()
			for _, n := range slices.Compact([]int{1, k.lanes()}) {
				t.Run(fmt.Sprintf("%s/%s/%d", g, c.level, n), func(t *testing.T) {
					timeShared(t, g, k, n, random, samples)
				})
			}
		}
	}
}

func timeShared(t *testing.T, g Group, k kernel, n int, random io.Reader, samples int) {
	fresh := func() *PrivateKey {
		out := make([]Result, 1)
		if k.compute(random, []*Request{{Group: g}}, out); out[0].Err != nil {
			t.Fatal(out[0].Err)
		}
		return out[0].Private
	}
	// Keys are made beforehand, and as many of the fixed one: a key that has not
	// been used yet is not in the cache.
	const count = 64
	peer := fresh().public
	fixed := fresh()
	var keys [2][]*PrivateKey
	for range count {
		same, err := k.(keyMaker).key(g, slices.Clone(fixed.exponent))
		if err != nil {
			t.Fatal(err)
		}
		keys[0], keys[1] = append(keys[0], same), append(keys[1], fresh())
	}
	requests, out := make([]*Request, n), make([]Result, n)
	for i := range requests {
		requests[i] = &Request{Group: g, Peer: peer}
	}
	dudect.Compare(t, "the scalar", samples, func(class int) {
		for _, r := range requests {
			r.Private = keys[class][rand.IntN(count)]
		}
	}, func() { k.compute(random, requests, out) })
	if out[0].Err != nil {
		t.Fatal(out[0].Err)
	}
}
