// SPDX-License-Identifier: Apache-2.0

package aead

import (
	"fmt"
	"math"
	"testing"
	"time"

	"quicksand/sa"
)

// BenchmarkGCM takes the best of many short measurements, which other work on
// the machine disturbs least, of each implementation: packets in calls of 32
// and one by one. Opening needs sealed packets, so that it is timed alone.
func BenchmarkGCM(b *testing.B) {
	const batch = 32
	for _, i := range implementations {
		if s := (sa.Suite{Protocol: sa.ESP, Encryption: sa.AESGCM16, KeyBits: 128}); !i.available || !i.supports(s) {
			continue
		}
		for _, bits := range []uint16{128, 256} {
			for _, n := range []int{64, 256, 576, 1420, 8192} {
				for _, per := range []int{batch, 1} {
					for _, dir := range []string{"seal", "open"} {
						b.Run(fmt.Sprintf("%s/%d/%d/by%d/%s", i.name, bits, n, per, dir), func(b *testing.B) {
							s := sa.Suite{Protocol: sa.ESP, Encryption: sa.AESGCM16, KeyBits: bits}
							r := random()
							c, err := i.make(s, keys(r, s))
							if err != nil {
								b.Fatal(err)
							}
							pkts := benchPackets(max(batch, 32<<10/(n+32)/batch*batch), n)
							run := func(f func([]Packet)) {
								for j := 0; j < len(pkts); j += per {
									f(pkts[j : j+per])
								}
							}
							best := time.Duration(math.MaxInt64)
							for range b.N {
								start := time.Now()
								run(c.Seal)
								took := time.Since(start)
								if dir == "open" {
									start = time.Now()
									run(c.Open)
									took = time.Since(start)
									if !pkts[len(pkts)-1].OK {
										b.Fatal("not opened")
									}
								}
								best = min(best, took)
							}
							b.ReportMetric(float64(n*len(pkts))/float64(best.Nanoseconds()), "best-GB/s")
							b.ReportMetric(float64(best.Nanoseconds())/float64(len(pkts)), "best-ns/packet")
						})
					}
				}
			}
		}
	}
}

// benchPackets stand close to each other, at cache lines.
func benchPackets(count, n int) []Packet {
	size := HeaderLen + gcmIVLen + n + gcmTag
	step := (size + 63) &^ 63
	all := make([]byte, count*step+64)
	pkts := make([]Packet, count)
	for i := range pkts {
		pkts[i] = Packet{Data: all[i*step:][:size:size], Seq: uint64(i) + 1}
	}
	return pkts
}
