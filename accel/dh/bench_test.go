// SPDX-License-Identifier: Apache-2.0

package dh

import (
	"crypto/rand"
	"runtime"
	"sync"
	"testing"
)

// BenchmarkShared is g^xy with a key that is there already, on one core.
func BenchmarkShared(b *testing.B) {
	for _, g := range Groups() {
		b.Run(g.String(), func(b *testing.B) {
			own, peer := generate(b, g), generate(b, g)
			req, out := []*Request{{Group: g, Private: own.Private, Peer: peer.Public}}, make([]Result, 1)
			k := groups[g].best()
			b.ReportAllocs()
			for b.Loop() {
				if k.compute(rand.Reader, req, out); out[0].Err != nil {
					b.Fatal(out[0].Err)
				}
			}
			perSecond(b, 1)
		})
	}
}

// BenchmarkGenerate is a new key pair, on one core.
func BenchmarkGenerate(b *testing.B) {
	for _, g := range Groups() {
		b.Run(g.String(), func(b *testing.B) {
			req, out := []*Request{{Group: g}}, make([]Result, 1)
			k := groups[g].best()
			b.ReportAllocs()
			for b.Loop() {
				if k.compute(rand.Reader, req, out); out[0].Err != nil {
					b.Fatal(out[0].Err)
				}
			}
			perSecond(b, 1)
		})
	}
}

// BenchmarkEngine is a responder's work, a key pair and a secret, through the
// queue with 64 requests waiting: what the queue and the hand-over cost.
func BenchmarkEngine(b *testing.B) {
	for _, g := range []Group{MODP2048, ECP256, Curve25519} {
		b.Run(g.String(), func(b *testing.B) {
			e := newEngine(b, Options{Workers: runtime.GOMAXPROCS(0)})
			peer := generate(b, g).Public
			const waiting = 64
			for b.Loop() {
				var all sync.WaitGroup
				all.Add(waiting)
				for range waiting {
					if err := e.Submit(Request{Group: g, Peer: peer, Done: func(Result) { all.Done() }}); err != nil {
						b.Fatal(err)
					}
				}
				all.Wait()
			}
			perSecond(b, waiting)
		})
	}
}

func generate(b *testing.B, g Group) Result {
	out := make([]Result, 1)
	groups[g].best().compute(rand.Reader, []*Request{{Group: g}}, out)
	if out[0].Err != nil {
		b.Fatal(out[0].Err)
	}
	return out[0]
}

func perSecond(b *testing.B, each int) {
	b.ReportMetric(float64(b.N*each)/b.Elapsed().Seconds(), "ops/s")
}
