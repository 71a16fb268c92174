// SPDX-License-Identifier: Apache-2.0

package esp

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"quicksand/sa"
)

// sites returns pairs of several peers, with SPIs and keys of their own.
func sites(t testing.TB, count int, suite func(i int) sa.Suite) (out []*Outbound, in []*Inbound) {
	r := rand.New(random())
	for i := range count {
		p := newPair(suite(i), sa.Tunnel, i%3 == 1, false)
		p.In.SPI += sa.SPI(i)
		if len(p.In.EncryptionKey) > 0 {
			p.In.EncryptionKey[0] = byte(i)
		}
		if len(p.In.IntegrityKey) > 0 {
			p.In.IntegrityKey[0] = byte(r.Uint32())
		}
		p.Out = p.In
		out, in = append(out, mustOutbound(t, p)), append(in, mustInbound(t, p))
	}
	return out, in
}

// Packets of many SAs in random order, some wiped, some doubled, some changed on
// their way: what becomes of each, of the windows and of the counters is what
// becomes of them with a call for each packet.
func TestBatchOfSeveralSAs(t *testing.T) {
	suites := append(espSuites(), ahSuites()...)
	for round := range 40 {
		r := rand.New(rand.NewPCG(uint64(round), 1))
		suite := func(i int) sa.Suite {
			s := suites[(round*7+i*i)%len(suites)]
			if round%2 == 0 {
				s = []sa.Suite{gcm16, cbcSHA, cbc256}[round/2%3]
			}
			s.ESN = i%4 == 0
			return s
		}
		together, opened := sites(t, 20, suite)
		apart, openedApart := sites(t, 20, suite)
		var a, b Batch
		count := 1 + r.IntN(200)
		var of, ofApart []*Outbound
		var pkts, each []Packet
		for range count {
			k := r.IntN(len(together))
			of, ofApart = append(of, together[k]), append(ofApart, apart[k])
			inner := inner(sa.Tunnel, false, false, r.IntN(1300))
			pkts, each = append(pkts, packet(inner)), append(each, packet(inner))
		}
		if round%5 == 4 {
			together[3].Wipe()
			apart[3].Wipe()
		}
		a.Seal(of, pkts)
		for i := range each {
			ofApart[i].Seal(each[i : i+1])
			if pkts[i].Err != each[i].Err || pkts[i].Seq != each[i].Seq || pkts[i].Len != each[i].Len {
				t.Fatalf("round %d, packet %d: %+v, apart %+v", round, i, pkts[i].Err, each[i].Err)
			}
		}
		var to, toApart []*Inbound
		var arrived, arrivedEach []Packet
		for i := range pkts {
			if pkts[i].Err != nil {
				continue
			}
			k := 0
			for together[k] != of[i] {
				k++
			}
			// Some come twice and others changed, but for SPI and sequence number: of
			// what is neither new nor authentic, a batch tells the latter.
			kind := r.IntN(8)
			for range 1 + kind/7 {
				p := packet(pkts[i].Bytes())
				p.TOS = pkts[i].TOS
				if kind == 0 {
					p.Bytes()[p.Len-1-r.IntN(8)] ^= 1
				}
				q := packet(p.Bytes())
				q.TOS = p.TOS
				to, toApart = append(to, opened[k]), append(toApart, openedApart[k])
				arrived, arrivedEach = append(arrived, p), append(arrivedEach, q)
			}
		}
		b.Open(to, arrived)
		good := 0
		for i := range arrivedEach {
			p, q := &arrived[i], &arrivedEach[i]
			toApart[i].Open(arrivedEach[i : i+1])
			if p.Err != q.Err || p.Err == nil && (p.Seq != q.Seq || !bytes.Equal(p.Bytes(), q.Bytes())) {
				t.Fatalf("round %d, packet %d: %v, apart %v", round, i, p.Err, q.Err)
			}
			if p.Err == nil {
				good++
			}
		}
		if good == 0 {
			t.Fatalf("round %d: nothing was opened", round)
		}
		for i := range opened {
			x, y := opened[i].Counters(), openedApart[i].Counters()
			u, v := together[i].Counters(), apart[i].Counters()
			if x.Bytes != y.Bytes || x.Packets != y.Packets || u.Bytes != v.Bytes || u.Packets != v.Packets {
				t.Fatalf("round %d, SA %d: %v and %v, apart %v and %v", round, i, x, u, y, v)
			}
			if fmt.Sprint(opened[i].Drops()) != fmt.Sprint(openedApart[i].Drops()) {
				t.Fatalf("round %d, SA %d: drops %v, apart %v", round, i, opened[i].Drops(), openedApart[i].Drops())
			}
		}
	}
}

// manyPackets are packets of as many SAs of a suite, one of each.
func manyPackets(b testing.TB, s sa.Suite, count, size int) (out []*Outbound, in []*Inbound, clear []Packet) {
	out, in = sites(b, count, func(int) sa.Suite { return s })
	for range count {
		clear = append(clear, packet(inner(sa.Tunnel, false, false, size-28)))
	}
	return out, in, clear
}

func TestBatchNoAllocation(t *testing.T) {
	out, in, clear := manyPackets(t, cbcSHA, 40, 300)
	pkts := make([]Packet, len(clear))
	var b Batch
	run := func() {
		copy(pkts, clear)
		b.Seal(out, pkts)
		b.Open(in, pkts)
	}
	if n := testing.AllocsPerRun(20, run); n != 0 || pkts[7].Err != nil {
		t.Errorf("%v allocations, %v", n, pkts[7].Err)
	}
}

// BenchmarkSeveralSAs has one packet of each of 32 SAs: in one call, and in one
// for each. The best of many runs says more than the mean where the machine does
// other work.
func BenchmarkSeveralSAs(b *testing.B) {
	const count = 32
	for _, s := range []sa.Suite{gcm16, cbcSHA, cbc256} {
		for _, size := range []int{64, 256, 576, 1400} {
			out, in, clear := manyPackets(b, s, count, size)
			b.Run(fmt.Sprintf("%s/%d", s, size), func(b *testing.B) {
				pkts := make([]Packet, count)
				var batch Batch
				best := [4]time.Duration{math.MaxInt64, math.MaxInt64, math.MaxInt64, math.MaxInt64}
				lap := func(i int, f func()) {
					start := time.Now()
					f()
					best[i] = min(best[i], time.Since(start))
				}
				for b.Loop() {
					copy(pkts, clear)
					lap(0, func() { batch.Seal(out, pkts) })
					lap(1, func() { batch.Open(in, pkts) })
					copy(pkts, clear)
					lap(2, func() {
						for i := range pkts {
							out[i].Seal(pkts[i : i+1])
						}
					})
					lap(3, func() {
						for i := range pkts {
							in[i].Open(pkts[i : i+1])
						}
					})
				}
				if pkts[count-1].Err != nil || binary.BigEndian.Uint16(pkts[0].Bytes()[2:]) != uint16(size) {
					b.Fatal(pkts[count-1].Err)
				}
				b.ReportMetric(float64(best[0].Nanoseconds())/count, "seal-ns/packet")
				b.ReportMetric(float64(best[1].Nanoseconds())/count, "open-ns/packet")
				b.ReportMetric(float64(best[2])/float64(best[0]), "seal-ratio")
				b.ReportMetric(float64(best[3])/float64(best[1]), "open-ratio")
			})
		}
	}
}
