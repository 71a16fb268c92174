// SPDX-License-Identifier: Apache-2.0

package tunnel

import (
	"bytes"
	"encoding/binary"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"

	"quicksand/fallback/esp"
	"quicksand/fallback/tun"
)

func TestFragment(t *testing.T) {
	whole := udp(hostA, hostB, string(bytes.Repeat([]byte("0123456789"), 400)))
	whole[6] = 0x40
	var r reassembler
	frags := fragment(whole, 1300)
	for i := range frags {
		b := frags[i].Bytes()
		if len(b) > 1300 || tun.Checksum(0, b[:20]) != 0xffff || b[6]&0x40 != 0 {
			t.Errorf("fragment %d: %d bytes, header %x", i, len(b), b[:20])
		}
		var h esp.Header
		if !h.Parse(b) || !h.Fragment {
			t.Fatalf("fragment %d is none", i)
		}
		buf, n, ok := r.add(&h, b)
		if !ok || (buf != nil) != (i == len(frags)-1) {
			t.Fatalf("fragment %d: %v", i, ok)
		}
		if buf == nil {
			continue
		}
		got := buf[esp.Headroom:][:n]
		whole[6] = 0
		whole[10], whole[11] = 0, 0
		binary.BigEndian.PutUint16(whole[10:], ^tun.Checksum(0, whole[:20]))
		if !bytes.Equal(got, whole) {
			t.Error("what was put together is not what was cut")
		}
	}
}

// TestReassemblyRefuses wants fragments that do not follow each other dropped.
func TestReassemblyRefuses(t *testing.T) {
	b := udp(hostA, hostB, "0123456789abcdef")
	add := func(r *reassembler, b []byte) (done, ok bool) {
		var h esp.Header
		if !h.Parse(b) {
			t.Fatal("malformed")
		}
		buf, _, ok := r.add(&h, b)
		return buf != nil, ok
	}
	var r reassembler
	if _, ok := add(&r, fragmentOf(b, 24, false)); ok {
		t.Error("a last fragment without a first one")
	}
	add(&r, fragmentOf(b, 0, true))
	if _, ok := add(&r, fragmentOf(b, 8, false)); ok {
		t.Error("a fragment that overlaps")
	}
	if _, ok := add(&r, fragmentOf(b, 24, false)); ok {
		t.Error("a fragment of a packet that was given up")
	}
	add(&r, fragmentOf(b, 0, true))
	if done, ok := add(&r, fragmentOf(b, 24, false)); !ok || !done {
		t.Error("a good packet after bad ones")
	}
}

// v6Fragment makes an IPv6 fragment.
func v6Fragment(payload []byte, offset int, more bool) []byte {
	word := uint16(offset)
	if more {
		word |= 1
	}
	head := binary.BigEndian.AppendUint16([]byte{17, 0}, word)
	head = binary.BigEndian.AppendUint32(head, 99)
	return ip(netip.MustParseAddr("fd00::1"), netip.MustParseAddr("fd00::2"), 44, append(head, payload...))
}

func TestReassembly6(t *testing.T) {
	whole := udp("[fd00::1]:1", "[fd00::2]:2", string(make([]byte, 2000)))
	var r reassembler
	var h esp.Header
	first, second := v6Fragment(whole[40:40+1000], 0, true), v6Fragment(whole[40+1000:], 1000, false)
	if !h.Parse(first) {
		t.Fatal("malformed")
	}
	if buf, _, ok := r.add(&h, first); !ok || buf != nil {
		t.Fatal("first fragment")
	}
	if !h.Parse(second) {
		t.Fatal("malformed")
	}
	buf, n, ok := r.add(&h, second)
	if !ok || buf == nil || !bytes.Equal(buf[esp.Headroom:][:n], whole) {
		t.Errorf("%v, %d bytes", ok, n)
	}
}

// loop is a wire that hands what is sent to a plane at once, without
// allocating, and a TUN device that forgets what it gets.
type loop struct {
	*MemoryWire
	to    *Plane
	batch Batch
	bufs  [][]byte
}

func (l *loop) Send(p Path, batch []esp.Packet) {
	l.batch.Reset()
	for i := range batch {
		buf := l.bufs[i]
		n := copy(buf[rxHeadroom:], batch[i].Bytes())
		l.batch.Add(esp.Packet{Buf: buf, Off: rxHeadroom, Len: n}, Path{Local: p.Remote, Remote: p.Local, Proto: p.Proto})
	}
	l.to.Input(&l.batch)
}

type sink struct {
	*tun.Memory
	mu      sync.Mutex
	packets int
}

func (s *sink) Queues() []tun.Queue { return []tun.Queue{s} }

func (s *sink) Read(frame []byte, wait bool) (int, error) {
	return s.Memory.Queues()[0].Read(frame, wait)
}

func (s *sink) Write(pieces [][]byte) error {
	s.mu.Lock()
	s.packets += len(pieces) - 1
	s.mu.Unlock()
	return nil
}

// newLoop makes two planes for the data path alone.
func newLoop(t testing.TB, p pairSpec) (a *Plane, arrived *sink) {
	arrived = &sink{Memory: tun.NewMemory(0, 1)}
	_, wb := NewMemoryWires()
	b, err := New(Options{TUN: arrived, Wire: wb, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	l := &loop{MemoryWire: wb, to: b, bufs: newBuffers(64)}
	a, err = New(Options{TUN: tun.NewMemory(0, 1), Wire: l, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close(); b.Close() })
	for _, err := range []error{
		second(a.Install(p.pair())), second(b.Install(p.mirror().pair())),
		a.Activate(p.pair()), b.Activate(p.mirror().pair()),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return a, arrived
}

func second[T any](_ T, err error) error { return err }

// outBatch is a batch of equal packets as the device would give it.
func outBatch(n, payload int) (packets []packet, data []byte) {
	data = udp(hostA, hostB, string(make([]byte, payload)))
	for range n {
		packets = append(packets, packet{buf: make([]byte, esp.Headroom+len(data)+esp.Tailroom), len: len(data)})
	}
	return packets, data
}

// refill writes the packets, where sealing destroyed them.
func refill(packets []packet, data []byte) {
	for _, q := range packets {
		copy(q.buf[esp.Headroom:], data)
	}
}

func TestNoAllocations(t *testing.T) {
	a, arrived := newLoop(t, spec())
	packets, data := outBatch(32, 1200)
	var o outbound
	round := func() {
		refill(packets, data)
		a.forward(&o, packets)
	}
	round()
	before := arrived.packets
	if n := testing.AllocsPerRun(100, round); n != 0 {
		t.Errorf("%v allocations a batch", n)
	}
	if got := arrived.packets - before; got != 101*32 {
		t.Errorf("%d packets arrived, want %d", got, 101*32)
	}
}

func BenchmarkThere(b *testing.B) {
	for _, payload := range []int{36, 1300} {
		b.Run(map[int]string{36: "64B", 1300: "1328B"}[payload], func(b *testing.B) {
			a, _ := newLoop(b, spec())
			packets, data := outBatch(32, payload)
			var o outbound
			b.ReportAllocs()
			for b.Loop() {
				refill(packets, data)
				a.forward(&o, packets)
			}
			b.ReportMetric(float64(b.N)*32/b.Elapsed().Seconds(), "packets/s")
		})
	}
}

// TestChurn changes pairs while traffic runs; the race detector watches, and no
// packet may be lost.
func TestChurn(t *testing.T) {
	p := spec()
	a, arrived := newLoop(t, p)
	b := a.wire.(*loop).to
	packets, data := outBatch(8, 100)
	var sending sync.Mutex // a batch is sent whole before the peer removes its pair
	stop := make(chan struct{})
	sent := make(chan int)
	go func() {
		var o outbound
		for n := 0; ; n += len(packets) {
			select {
			case <-stop:
				sent <- n
				return
			default:
			}
			refill(packets, data)
			sending.Lock()
			a.forward(&o, packets)
			sending.Unlock()
		}
	}()
	for range 200 {
		q := p.next()
		for _, err := range []error{
			second(b.Install(q.mirror().pair())), second(a.Install(q.pair())),
			a.Activate(q.pair()), b.Activate(q.mirror().pair()), a.Update(q.pair()),
			a.Trap(q.policy()), a.Remove(p.pair()),
		} {
			if err != nil {
				t.Fatal(err)
			}
		}
		a.Stats()
		if _, _, err := b.Counters(p.mirror().pair()); err != nil {
			t.Fatal(err)
		}
		if rand.IntN(2) == 0 {
			if err := a.Untrap(q.policy()); err != nil {
				t.Fatal(err)
			}
		}
		sending.Lock()
		sending.Unlock()
		if err := b.Remove(p.mirror().pair()); err != nil {
			t.Fatal(err)
		}
		p = q
	}
	close(stop)
	want := <-sent
	arrived.mu.Lock()
	defer arrived.mu.Unlock()
	if lost := want - arrived.packets; lost != 0 {
		t.Errorf("%d of %d packets lost: %v %v", lost, want, a.Stats(), b.Stats())
	}
}

func FuzzPlane(f *testing.F) {
	f.Add(udp(hostA, hostB, "x"), []byte{0, 0, 0x20, 1, 0, 0, 0, 1}, uint8(50))
	f.Add(fragmentOf(udp(hostA, hostB, "x"), 8, true), udp("192.0.2.1:1", "192.0.2.2:2", "x"), uint8(51))
	f.Add(v6Fragment([]byte("x"), 8, true), v6Fragment([]byte("x"), 0, true), uint8(51))
	f.Fuzz(func(t *testing.T, inner, outer []byte, proto uint8) {
		synctest.Test(t, func(t *testing.T) {
			a, b := newEnds(t)
			p := spec()
			p.Transport, p.LocalTS, p.RemoteTS = true, "0.0.0.0/0", "0.0.0.0/0"
			connectEnds(a, b, p)
			ah := spec().next()
			ah.AH, ah.Proposal, ah.Child, ah.LocalTS, ah.RemoteTS = true, "sha1", "ah", "::/0", "::/0"
			connectEnds(a, b, ah)
			if len(inner) < maxPacket {
				a.dev.Inject(inner)
			}
			if len(outer) < maxPacket {
				var batch Batch
				buf := make([]byte, rxHeadroom+len(outer)+esp.Tailroom)
				copy(buf[rxHeadroom:], outer)
				batch.Add(esp.Packet{Buf: buf, Off: rxHeadroom, Len: len(outer)}, Path{Proto: proto})
				b.Input(&batch)
			}
			synctest.Wait()
		})
	})
}
