// SPDX-License-Identifier: Apache-2.0

package tunnel

import (
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"

	"quicksand/fallback/esp"
	"quicksand/fallback/tun"
	"quicksand/sa"
)

// keepingWire keeps what is sent.
type keepingWire struct {
	*MemoryWire
	mu   sync.Mutex
	sent []esp.Packet
	path []Path
}

func (w *keepingWire) Send(p Path, batch []esp.Packet) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, q := range batch {
		q.Buf = slices.Concat(make([]byte, rxHeadroom), q.Bytes(), make([]byte, esp.Tailroom))
		q.Off = rxHeadroom
		w.sent = append(w.sent, q)
		w.path = append(w.path, Path{Local: p.Remote, Remote: p.Local, Proto: p.Proto})
	}
}

// Packets of many pairs come by several goroutines at once, mixed in each batch and
// in no common order, and leave mixed by several queues: every one arrives, and
// nobody waits for ever.
func TestManyPairsAtOnce(t *testing.T) {
	const pairs, queues, each = 24, 4, 10
	from, to := tun.NewMemory(0, queues), tun.NewMemory(pairs*queues*each, queues)
	mw, peer := NewMemoryWires()
	wire := &keepingWire{MemoryWire: mw}
	a, err := New(Options{TUN: from, Wire: wire, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	b, err := New(Options{TUN: to, Wire: peer, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	for i := range pairs {
		s := spec()
		s.ID, s.In, s.Out, s.Child = uint32(1+i), s.In+sa.SPI(i), s.Out+sa.SPI(i), fmt.Sprint("net", i)
		s.RemoteTS = fmt.Sprintf("10.71.2.%d/32", 1+i)
		if i%2 == 1 {
			s.Proposal = "aes128-sha256"
		}
		for _, p := range []struct {
			plane *Plane
			spec  pairSpec
		}{{a, s}, {b, s.mirror()}} {
			if _, err := p.plane.Install(p.spec.pair()); err != nil {
				t.Fatal(err)
			}
			if err := p.plane.Activate(p.spec.pair()); err != nil {
				t.Fatal(err)
			}
		}
	}
	order := func(seed uint64) []int { return rand.New(rand.NewPCG(seed, 0)).Perm(pairs) }
	var busy sync.WaitGroup
	for q := range queues {
		busy.Go(func() {
			for i := range each {
				for _, k := range order(uint64(q*each + i)) {
					from.Inject(q, udp(hostA, fmt.Sprintf("10.71.2.%d:53", 1+k), "x"))
				}
			}
		})
	}
	busy.Wait()
	if err := a.Close(); err != nil { // the workers have then sent what they took
		t.Fatal(err)
	}
	const all = pairs * queues * each
	if len(wire.sent) != all {
		t.Fatalf("%d packets sent of %d", len(wire.sent), all)
	}
	last := map[uint32]uint64{}
	for _, q := range wire.sent {
		spi := uint32(esp.SPIOf(q.Bytes()))
		if q.Seq != last[spi]+1 {
			t.Fatalf("SPI %08x: packet %d comes behind %d", spi, q.Seq, last[spi])
		}
		last[spi] = q.Seq
	}
	// Each goroutine has every fourth packet, which are of all pairs.
	for g := range queues {
		busy.Go(func() {
			var batch Batch
			for i := g; i < all; i += queues {
				if batch.Add(wire.sent[i], wire.path[i]); len(batch.Packets) == 32 || i+queues >= all {
					b.Input(&batch)
					batch.Reset()
				}
			}
		})
	}
	busy.Wait()
	if n := len(to.Out); n != all {
		t.Errorf("%d of %d packets arrived: %v", n, all, b.Stats())
	}
}

// The wire is told of replay windows now and then, and never more than they refuse.
func TestAdvance(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newEnds(t)
		s := spec()
		connectEnds(a, b, s)
		const window = 1024 // of pairSpec
		for seq := 1; seq <= 3*window; seq++ {
			a.dev.Inject(udp(hostA, hostB, ""))
			b.arrived()
			floor := int(b.wire.Floor(s.Out))
			if floor > max(seq-window+1, 0) {
				t.Fatalf("the floor is %d at sequence number %d", floor, seq)
			}
			if floor < seq-window-floorStep {
				t.Fatalf("the floor is still %d at sequence number %d", floor, seq)
			}
		}
		if b.wire.Floor(s.Out) == 0 || a.wire.Floor(s.In) != 0 {
			t.Errorf("floors are %d and %d", b.wire.Floor(s.Out), a.wire.Floor(s.In))
		}
		esn := s.next()
		esn.In, esn.Out, esn.Proposal = 0x3001, 0x4001, "aes128gcm16-esn"
		connectEnds(a, b, esn)
		for range 5 * window {
			a.dev.Inject(udp(hostA, hostB, ""))
			b.arrived()
		}
		if b.Stats()["in.drop.replay"] != 0 || b.wire.Floor(esn.Out) != 0 {
			t.Errorf("extended sequence numbers have a floor of %d: %v", b.wire.Floor(esn.Out), b.Stats())
		}
		if in, _, err := b.Counters(esn.mirror().pair()); err != nil || in.Packets != 5*window {
			t.Error(in, err)
		}
	})
}
