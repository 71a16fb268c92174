// SPDX-License-Identifier: Apache-2.0

package tunnel

import (
	"maps"
	"net/netip"
	"os"
	"sync"

	"golang.zx2c4.com/wireguard/tun"

	"quicksand/fallback/esp"
	"quicksand/sa"
)

// MemoryTUN is a tun.Device in memory, for tests of whatever stands on a
// Plane.
type MemoryTUN struct {
	// Out gets each packet that the plane writes to the device, while there is
	// room in it.
	Out chan []byte

	in     chan []byte
	events chan tun.Event
	once   sync.Once
	closed chan struct{}
}

// NewMemoryTUN makes a device whose Out has room for some packets.
func NewMemoryTUN(room int) *MemoryTUN {
	return &MemoryTUN{Out: make(chan []byte, room), in: make(chan []byte),
		events: make(chan tun.Event), closed: make(chan struct{})}
}

// Inject sends a packet into the device, as the machine's own stack would, and
// returns once the plane has taken it.
func (m *MemoryTUN) Inject(packet []byte) {
	select {
	case m.in <- packet:
	case <-m.closed:
	}
}

// Read implements tun.Device.
func (m *MemoryTUN) Read(bufs [][]byte, sizes []int, offset int) (int, error) {
	select {
	case p := <-m.in:
		sizes[0] = copy(bufs[0][offset:], p)
		return 1, nil
	case <-m.closed:
		return 0, os.ErrClosed
	}
}

// Write implements tun.Device.
func (m *MemoryTUN) Write(bufs [][]byte, offset int) (int, error) {
	n := 0
	for _, b := range bufs {
		select {
		case m.Out <- append([]byte(nil), b[offset:]...):
			n++
		default:
			return n, os.ErrDeadlineExceeded
		}
	}
	return n, nil
}

// File, MTU, Name, Events and BatchSize implement tun.Device.
func (m *MemoryTUN) File() *os.File           { return nil }
func (m *MemoryTUN) MTU() (int, error)        { return DefaultMTU, nil }
func (m *MemoryTUN) Name() (string, error)    { return "memory", nil }
func (m *MemoryTUN) Events() <-chan tun.Event { return m.events }
func (m *MemoryTUN) BatchSize() int           { return 1 }

// Close implements tun.Device.
func (m *MemoryTUN) Close() error {
	m.once.Do(func() { close(m.closed); close(m.events) })
	return nil
}

// MemoryWire is a Wire in memory. What is sent on one end comes in at the
// other before Send returns.
type MemoryWire struct {
	// Filter, where set, sees each packet on its way in, may change it and
	// what it comes from, and says whether it arrives.
	Filter func(data []byte, from *Path) bool

	peer     *MemoryWire
	mu       sync.Mutex // guards what follows
	mtu      int
	input    func(*Batch)
	admitted map[sa.SPI]Path
}

// NewMemoryWires returns the two ends of a wire.
func NewMemoryWires() (a, b *MemoryWire) {
	a = &MemoryWire{mtu: 1500, admitted: map[sa.SPI]Path{}}
	b = &MemoryWire{mtu: 1500, admitted: map[sa.SPI]Path{}}
	a.peer, b.peer = b, a
	return a, b
}

// Carries implements Wire.
func (w *MemoryWire) Carries(Path) error { return nil }

// Admit implements Wire.
func (w *MemoryWire) Admit(spi sa.SPI, p Path) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.admitted[spi] = p
	return "memory"
}

// Dismiss implements Wire.
func (w *MemoryWire) Dismiss(spi sa.SPI, p Path) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.admitted[spi].Local.Addr() == p.Local.Addr() {
		delete(w.admitted, spi)
	}
}

// Admitted returns the paths of the inbound SAs that the wire was told of.
func (w *MemoryWire) Admitted() map[sa.SPI]Path {
	w.mu.Lock()
	defer w.mu.Unlock()
	return maps.Clone(w.admitted)
}

// Send implements Wire.
func (w *MemoryWire) Send(p Path, batch []esp.Packet) {
	w.peer.mu.Lock()
	input := w.peer.input
	w.peer.mu.Unlock()
	if input == nil {
		return
	}
	var in Batch
	for i := range batch {
		q := &batch[i]
		buf := make([]byte, rxHeadroom+q.Len+esp.Tailroom)
		data := buf[rxHeadroom:][:copy(buf[rxHeadroom:], q.Bytes())]
		from := Path{Local: p.Remote, Remote: p.Local, Proto: p.Proto}
		if w.peer.Filter == nil || w.peer.Filter(data, &from) {
			in.Add(esp.Packet{Buf: buf, Off: rxHeadroom, Len: len(data), TOS: q.TOS, TTL: 64}, from)
		}
	}
	input(&in)
}

// Receive implements Wire.
func (w *MemoryWire) Receive(input func(*Batch)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.input = input
}

// SetPathMTU sets what PathMTU answers; it is 1500 at first.
func (w *MemoryWire) SetPathMTU(mtu int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.mtu = mtu
}

// PathMTU implements Wire.
func (w *MemoryWire) PathMTU(_, _ netip.Addr) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.mtu, nil
}

// Close implements Wire.
func (w *MemoryWire) Close() error {
	w.Receive(nil)
	return nil
}
