// SPDX-License-Identifier: Apache-2.0

package tunnel

import (
	"maps"
	"net/netip"
	"sync"

	"quicksand/fallback/esp"
	"quicksand/sa"
)

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
	moved    func(sa.SPI, string)
	admitted map[sa.SPI]Path
	floors   map[sa.SPI]uint32
}

// NewMemoryWires returns the two ends of a wire.
func NewMemoryWires() (a, b *MemoryWire) {
	a = &MemoryWire{mtu: 1500, admitted: map[sa.SPI]Path{}, floors: map[sa.SPI]uint32{}}
	b = &MemoryWire{mtu: 1500, admitted: map[sa.SPI]Path{}, floors: map[sa.SPI]uint32{}}
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

// Advance implements Wire.
func (w *MemoryWire) Advance(spi sa.SPI, _ Path, floor uint32) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.floors[spi] = floor
	return true
}

// Floor returns what an SA's floor was last told to be.
func (w *MemoryWire) Floor(spi sa.SPI) uint32 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.floors[spi]
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
func (w *MemoryWire) Receive(input func(*Batch), moved func(sa.SPI, string)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.input, w.moved = input, moved
}

// Move says that an SA's packets take another way.
func (w *MemoryWire) Move(spi sa.SPI, how string) {
	w.mu.Lock()
	moved := w.moved
	w.mu.Unlock()
	moved(spi, how)
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
	w.Receive(nil, nil)
	return nil
}
