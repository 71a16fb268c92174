// SPDX-License-Identifier: Apache-2.0

package dh

import (
	"crypto/rand"
	"math"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// BenchmarkShared is g^xy with a key that is there already, on one core, for a
// lone request and for as many as the kernel has lanes.
func BenchmarkShared(b *testing.B) {
	each(b, func(b *testing.B, g Group, k kernel) Request {
		return Request{Group: g, Private: generate(b, g, k).Private, Peer: generate(b, g, k).Public}
	})
}

// BenchmarkGenerate is a new key pair.
func BenchmarkGenerate(b *testing.B) {
	each(b, func(_ *testing.B, g Group, _ kernel) Request { return Request{Group: g} })
}

// BenchmarkRespond is what a responder asks for: a new key pair and the secret.
func BenchmarkRespond(b *testing.B) {
	each(b, func(b *testing.B, g Group, k kernel) Request {
		return Request{Group: g, Peer: generate(b, g, k).Public}
	})
}

// each runs a request through every level of every group.
func each(b *testing.B, request func(*testing.B, Group, kernel) Request) {
	for _, g := range Groups() {
		for _, c := range groups[g].kernels() {
			k := c.kernel()
			for _, n := range slices.Compact([]int{1, k.lanes()}) {
				name := map[bool]string{true: "lone", false: "full"}[n == 1]
				b.Run(g.String()+"/"+c.level+"/"+name, func(b *testing.B) {
					r := request(b, g, k)
					batch, out := make([]*Request, n), make([]Result, n)
					for i := range batch {
						batch[i] = &r
					}
					k.compute(rand.Reader, batch, out) // makes the tables
					b.ReportAllocs()
					runtime.LockOSThread()
					defer runtime.UnlockOSThread()
					before := threadSeconds(b)
					for b.Loop() {
						k.compute(rand.Reader, batch, out)
					}
					b.ReportMetric(float64(b.N*n)/(threadSeconds(b)-before), "ops/cpu-s")
					for _, res := range out {
						if res.Err != nil {
							b.Fatal(res.Err)
						}
					}
					perSecond(b, n)
				})
			}
		}
	}
}

// BenchmarkEngine is a responder's work, a key pair and a secret, through the
// queue with 64 requests waiting: what the queue and the hand-over cost.
func BenchmarkEngine(b *testing.B) {
	for _, g := range []Group{MODP2048, ECP256, Curve25519} {
		b.Run(g.String(), func(b *testing.B) {
			e := newEngine(b, Options{Workers: runtime.GOMAXPROCS(0)})
			peer := generate(b, g, groups[g].best()).Public
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

// BenchmarkLone is one secret after the other through an engine of one worker, and
// by the kernel itself: the difference is the way to the worker and back. It also
// shows the best of both, which other work on the machine disturbs least.
func BenchmarkLone(b *testing.B) {
	for _, g := range []Group{MODP2048, ECP256, Curve25519} {
		k := groups[g].best()
		r := Request{Group: g, Private: generate(b, g, k).Private, Peer: generate(b, g, k).Public}
		e := newEngine(b, Options{Workers: 1})
		done := make(chan Result, 1)
		out := make([]Result, 1)
		for name, run := range map[string]func(){
			"engine": func() { e.Submit(r); <-done },
			"kernel": func() { k.compute(rand.Reader, []*Request{&r}, out) },
		} {
			b.Run(g.String()+"/"+name, func(b *testing.B) {
				r.Done = func(x Result) { done <- x }
				best := time.Duration(math.MaxInt64)
				for b.Loop() {
					start := time.Now()
					run()
					best = min(best, time.Since(start))
				}
				b.ReportMetric(float64(best.Nanoseconds()), "best-ns")
			})
		}
	}
}

func generate(b *testing.B, g Group, k kernel) Result {
	out := make([]Result, 1)
	k.compute(rand.Reader, []*Request{{Group: g}}, out)
	if out[0].Err != nil {
		b.Fatal(out[0].Err)
	}
	return out[0]
}

// threadSeconds is the processor time that the thread has used. On a machine that
// others use too it says more than the clock, and openssl speed goes by it.
func threadSeconds(b *testing.B) float64 {
	var use unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_THREAD, &use); err != nil {
		b.Fatal(err)
	}
	return float64(use.Utime.Nano()+use.Stime.Nano()) / 1e9
}

func perSecond(b *testing.B, each int) {
	b.ReportMetric(float64(b.N*each)/b.Elapsed().Seconds(), "ops/s")
}
