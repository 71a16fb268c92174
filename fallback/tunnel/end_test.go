// SPDX-License-Identifier: Apache-2.0

package tunnel

import (
	"encoding/binary"
	"log/slog"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"

	"quicksand/fallback/tun"
	"quicksand/sa"
)

// memoryDevice is a device in memory whose second queue the tests seldom use.
type memoryDevice struct{ *tun.Memory }

// Inject sends a packet into the first queue.
func (m *memoryDevice) Inject(packet []byte) { m.Memory.Inject(0, packet) }

// end is a plane on fakes, and what it reported.
type end struct {
	*Plane
	dev  *memoryDevice
	wire *MemoryWire
	t    *testing.T
}

// newEnds makes two planes with a wire between them. It is called in a
// synctest bubble.
func newEnds(t *testing.T) (a, b *end) {
	t.Helper()
	wa, wb := NewMemoryWires()
	make := func(w *MemoryWire) *end {
		dev := &memoryDevice{tun.NewMemory(1000, 2)}
		p, err := New(Options{TUN: dev, Wire: w, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { p.Close() })
		return &end{p, dev, w, t}
	}
	return make(wa), make(wb)
}

func (e *end) must(_ sa.Placement, err error) {
	e.t.Helper()
	if err != nil {
		e.t.Fatal(err)
	}
}

func (e *end) ok(err error) {
	e.t.Helper()
	if err != nil {
		e.t.Fatal(err)
	}
}

func connectEnds(a, b *end, p pairSpec) {
	a.t.Helper()
	a.must(a.Install(p.pair()))
	b.must(b.Install(p.mirror().pair()))
	a.ok(a.Activate(p.pair()))
	b.ok(b.Activate(p.mirror().pair()))
}

// reported returns the events so far.
func (e *end) reported() (kinds []sa.EventKind) {
	for _, ev := range e.eventsSoFar() {
		kinds = append(kinds, ev.Kind)
	}
	return kinds
}

func (e *end) eventsSoFar() (out []sa.Event) {
	for {
		synctest.Wait()
		select {
		case ev := <-e.Events():
			out = append(out, ev)
		default:
			return out
		}
	}
}

// arrived returns the packets the device got so far.
func (e *end) arrived() (out [][]byte) {
	synctest.Wait()
	for {
		select {
		case p := <-e.dev.Out:
			out = append(out, p)
		default:
			return out
		}
	}
}

func (e *end) wantStat(name string, want uint64) {
	e.t.Helper()
	got, ok := e.Stats()[name]
	if !ok || got != want {
		e.t.Errorf("%s is %d, want %d; all: %v", name, got, want, e.Stats())
	}
}

// udp makes an IPv4 or IPv6 packet with UDP in it.
func udp(from, to string, payload string) []byte {
	src, dst := netip.MustParseAddrPort(from), netip.MustParseAddrPort(to)
	l4 := binary.BigEndian.AppendUint16(nil, src.Port())
	l4 = binary.BigEndian.AppendUint16(l4, dst.Port())
	l4 = binary.BigEndian.AppendUint16(l4, uint16(8+len(payload)))
	l4 = append(l4, 0, 0)
	l4 = append(l4, payload...)
	return ip(src.Addr(), dst.Addr(), 17, l4)
}

func ip(src, dst netip.Addr, proto uint8, payload []byte) []byte {
	if src.Is6() {
		b := []byte{0x60, 0, 0, 0}
		b = binary.BigEndian.AppendUint16(b, uint16(len(payload)))
		b = append(b, proto, 64)
		b = append(append(b, src.AsSlice()...), dst.AsSlice()...)
		return append(b, payload...)
	}
	b := []byte{0x45, 0}
	b = binary.BigEndian.AppendUint16(b, uint16(20+len(payload)))
	b = append(b, 0, 7, 0, 0, 64, proto, 0, 0)
	b = append(append(b, src.AsSlice()...), dst.AsSlice()...)
	binary.BigEndian.PutUint16(b[10:], ^tun.Checksum(0, b))
	return append(b, payload...)
}

// fragmentOf makes an IPv4 packet a fragment.
func fragmentOf(b []byte, offset int, more bool) []byte {
	b = slices.Clone(b)
	word := uint16(offset / 8)
	if more {
		word |= 0x2000
	}
	binary.BigEndian.PutUint16(b[6:], word)
	b[10], b[11] = 0, 0
	binary.BigEndian.PutUint16(b[10:], ^tun.Checksum(0, b[:20]))
	return b
}

const (
	hostA = "10.71.1.1:1000"
	hostB = "10.71.2.1:53"
)
