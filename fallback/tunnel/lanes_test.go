// SPDX-License-Identifier: Apache-2.0

package tunnel

import (
	"fmt"
	"maps"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"

	"quicksand/accel"
	"quicksand/fallback/esp"
	"quicksand/fallback/tun"
	"quicksand/sa"
)

// parallel are the pairs of a child side by side.
func parallel(n int) (list []pairSpec) {
	p := spec()
	for i := range n {
		p.Lane, p.Lanes = uint8(i), uint8(n)
		list = append(list, p)
		p = p.next()
	}
	return list
}

// flows sends packets through a to b, five of each of 40 flows in turn, by both
// queues, and returns the SPI that each flow went by. It fails where a flow went
// by two, or where its order changed.
func flows(t *testing.T, a, b *end) map[int]sa.SPI {
	t.Helper()
	const many, each = 40, 5
	by := map[int]sa.SPI{}
	flow := 0
	b.wire.Filter = func(data []byte, _ *Path) bool {
		spi := esp.SPIOf(data)
		if was, ok := by[flow]; ok && was != spi {
			t.Errorf("flow %d goes by %s and by %s", flow, was, spi)
		}
		by[flow] = spi
		return true
	}
	for seq := range each {
		for flow = range many {
			a.dev.Memory.Inject(flow%2, udp(fmt.Sprintf("10.71.1.1:%d", 40000+flow), hostB, string([]byte{byte(flow), byte(seq)})))
			synctest.Wait()
		}
	}
	b.wire.Filter = nil
	next := map[byte]byte{}
	for _, p := range b.arrived() {
		if f, seq := p[28], p[29]; next[f] != seq {
			t.Errorf("packet %d of flow %d comes in the place of packet %d", seq, f, next[f])
		}
		next[p[28]]++
	}
	for f := range many {
		if next[byte(f)] != each {
			t.Errorf("%d packets of flow %d arrive", next[byte(f)], f)
		}
	}
	return by
}

// shares counts the flows of each SPI.
func shares(by map[int]sa.SPI) map[sa.SPI]int {
	n := map[sa.SPI]int{}
	for _, spi := range by {
		n[spi]++
	}
	return n
}

// TestLanes spreads flows over three pairs. Where a pair is renegotiated its flows
// follow, where one goes they are taken by the others at once, and those of the
// others stay where they are.
func TestLanes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newEnds(t)
		list := parallel(3)
		for _, p := range list {
			connectEnds(a, b, p)
		}
		first := flows(t, a, b)
		for _, p := range list {
			if n := shares(first)[p.Out]; n < 7 {
				t.Errorf("%d of 40 flows go by %s", n, p.Out)
			}
			_, out, err := a.Counters(p.pair())
			if err != nil || out.Packets != uint64(5*shares(first)[p.Out]) {
				t.Errorf("%s counts %d packets of %d flows, %v", p.Out, out.Packets, shares(first)[p.Out], err)
			}
		}

		// The second is renegotiated.
		q := list[2].next()
		q.Lane = 1
		connectEnds(a, b, q)
		rekeyed := flows(t, a, b)
		for f, spi := range rekeyed {
			if was := first[f]; spi != was && !(was == list[1].Out && spi == q.Out) {
				t.Errorf("flow %d went by %s and goes by %s", f, was, spi)
			}
		}
		a.ok(a.Remove(list[1].pair()))
		if now := flows(t, a, b); !maps.Equal(now, rekeyed) {
			t.Error("flows move when a replaced pair goes")
		}

		// The third goes, and comes back.
		a.ok(a.Remove(list[2].pair()))
		without := flows(t, a, b)
		for f, spi := range without {
			if was := rekeyed[f]; spi != was && was != list[2].Out {
				t.Errorf("flow %d went by %s, which is there, and goes by %s", f, was, spi)
			}
		}
		if n := shares(without); len(n) != 2 || n[list[0].Out] == shares(rekeyed)[list[0].Out] || n[q.Out] == shares(rekeyed)[q.Out] {
			t.Errorf("flows by pair: %v, before %v", n, shares(rekeyed))
		}
		back := q.next()
		back.Lane = 2
		connectEnds(a, b, back)
		for f, spi := range flows(t, a, b) {
			if was := rekeyed[f]; spi != was && !(was == list[2].Out && spi == back.Out) {
				t.Errorf("flow %d went by %s and goes by %s", f, was, spi)
			}
		}

		// All but one go.
		a.ok(a.Remove(list[0].pair()))
		a.ok(a.Remove(back.pair()))
		if n := shares(flows(t, a, b)); n[q.Out] != 40 {
			t.Errorf("flows by pair: %v", n)
		}
		a.ok(a.Remove(q.pair()))
		a.dev.Inject(udp(hostA, hostB, ""))
		if got := b.arrived(); len(got) != 0 {
			t.Errorf("%x arrived by no pair", got)
		}
	})
}

// TestLanesFewer has fewer lanes wanted than before: those beyond carry traffic
// until their pairs go.
func TestLanesFewer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newEnds(t)
		list := parallel(4)
		for _, p := range list {
			connectEnds(a, b, p)
		}
		if n := len(shares(flows(t, a, b))); n != 4 {
			t.Errorf("flows go by %d pairs", n)
		}
		q := list[3].next()
		q.Lane, q.Lanes = 0, 2
		connectEnds(a, b, q)
		if n := len(shares(flows(t, a, b))); n != 4 {
			t.Errorf("flows go by %d pairs", n)
		}
		a.ok(a.Remove(list[2].pair()))
		a.ok(a.Remove(list[3].pair()))
		r := q.next()
		r.Lane = 1
		connectEnds(a, b, r)
		if n := shares(flows(t, a, b)); len(n) != 2 || n[q.Out] < 10 || n[r.Out] < 10 {
			t.Errorf("flows by pair: %v", n)
		}
	})
}

// TestLaneMoves activates a pair in another lane than it was installed in.
func TestLaneMoves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newEnds(t)
		list := parallel(2)
		for _, p := range list {
			connectEnds(a, b, p)
		}
		before := flows(t, a, b)
		third := list[1].next()
		third.Lane = 0
		connectEnds(a, b, third)
		moved := list[0]
		moved.Lane = 1
		a.ok(a.Activate(moved.pair()))
		a.ok(a.Remove(list[1].pair()))
		want := map[sa.SPI]sa.SPI{list[0].Out: third.Out, list[1].Out: list[0].Out}
		for f, spi := range flows(t, a, b) {
			if spi != want[before[f]] {
				t.Errorf("flow %d goes by %s, want %s", f, spi, want[before[f]])
			}
		}
	})
}

// TestLanesOfFragments has all fragments between two hosts go by one pair,
// whatever ports the first one of each packet shows.
func TestLanesOfFragments(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newEnds(t)
		for _, p := range parallel(8) {
			connectEnds(a, b, p)
		}
		by := map[sa.SPI]int{}
		b.wire.Filter = func(data []byte, _ *Path) bool { by[esp.SPIOf(data)]++; return true }
		for port := range 20 {
			whole := udp(fmt.Sprintf("10.71.1.1:%d", 1000+port), hostB, strings.Repeat("x", 64))
			a.dev.Inject(fragmentOf(whole, 0, true))
			a.dev.Inject(fragmentOf(whole, 64, false))
		}
		synctest.Wait()
		if len(by) != 1 {
			t.Errorf("fragments by pair: %v", by)
		}
	})
}

// TestLanesHaveQueues has the packets of each lane come by a queue of their own
// of a real device, so that each pair is sealed on a worker of its own.
func TestLanesHaveQueues(t *testing.T) {
	cpus, err := accel.Allowed()
	if err != nil {
		t.Fatal(err)
	}
	a, b := newSites(t)
	a.do("close", spec())
	a.cores = []int{cpus[0], cpus[len(cpus)-1]}
	a.do("new", pairSpec{})
	list := parallel(2)
	for _, p := range list {
		connect(a, b, p)
	}
	t.Log(gbits(t, a, b, innerB, "-P 8 -n 40M"))
	stats := a.do("stats", list[0]).Stats
	for i, p := range list {
		queue := fmt.Sprintf("out.queue.%d", i)
		out := a.do("counters", p).Out.Packets
		// Few packets have come before the second pair was there.
		if n := stats[queue]; n < 1000 || out+20 < n || n+20 < out {
			t.Errorf("%d packets came by %s, and %d went by its pair", n, queue, out)
		}
	}
	for _, name := range []string{"in.drop.replay", "in.drop.unknown_spi"} {
		if n := b.stat(name); n != 0 {
			t.Errorf("%s is %d", name, n)
		}
	}
	a.do("remove", list[1])
	b.do("remove", list[1].mirror())
	a.ping(innerB, "")
	a.do("close", list[0])
	nothingLeft(t, a)
}

// BenchmarkCarrier is what it costs to find the child and the pair of a packet.
func BenchmarkCarrier(b *testing.B) {
	for _, n := range []int{1, 4} {
		b.Run(fmt.Sprint(n, " lanes"), func(b *testing.B) {
			table := newPolicies()
			c := child0("net", netA, netB)
			table.add(c)
			for i := range n {
				c.activate(&pair{}, i, n)
			}
			var h esp.Header
			packet := udp(hostA, hostB, "")
			if !h.Parse(packet) {
				b.Fatal("no packet")
			}
			var flows flowCache
			for i := 0; b.Loop(); i++ {
				h.SrcPort = uint16(i % 16)
				if found, flow := flows.find(&table, &h); found.carrier(flow) == nil {
					b.Fatal("no pair")
				}
			}
		})
	}
}

// TestPortsAreOfTheFlow reads the same flow as the steering program does, and of
// a fragment the addresses alone.
func TestPortsAreOfTheFlow(t *testing.T) {
	addr := netip.MustParseAddr
	for _, c := range []struct {
		packet []byte
		want   tun.Flow
	}{
		{udp("10.71.1.1:7", "10.71.2.1:9", "x"), tun.Flow{Src: addr("10.71.1.1"), Dst: addr("10.71.2.1"), Protocol: 17, Ports: 7<<16 | 9}},
		{udp("[fd00::1]:7", "[fd00::2]:9", "x"), tun.Flow{Src: addr("fd00::1"), Dst: addr("fd00::2"), Protocol: 17, Ports: 7<<16 | 9}},
		{fragmentOf(udp("10.71.1.1:7", "10.71.2.1:9", "x"), 0, true), tun.Flow{Src: addr("10.71.1.1"), Dst: addr("10.71.2.1")}},
	} {
		var h esp.Header
		if !h.Parse(c.packet) {
			t.Fatal("no packet")
		}
		var f flowCache
		table := newPolicies()
		if _, got := f.find(&table, &h); got != c.want.Hash() {
			t.Errorf("hash %x, want that of %+v", got, c.want)
		}
	}
}
