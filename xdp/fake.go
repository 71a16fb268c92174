// SPDX-License-Identifier: Apache-2.0

package xdp

import (
	"fmt"
	"sync"
	"time"
)

// FakeTable is a Steering in memory, for tests of those who use one. Steer
// does what the program would.
type FakeTable struct {
	ports       Ports
	room        int
	dropUnknown bool

	mu      sync.Mutex // guards what follows
	entries map[Key]*Entry
	floors  map[Key]uint32
	totals  Totals
}

var (
	_ Steering = (*FakeTable)(nil)
	_ Steering = (*Program)(nil)
)

// NewFakeTable makes a table as Open would with the options, of which it
// takes MaxSPIs, Ports and DropUnknown.
func NewFakeTable(o Options) *FakeTable {
	if err := o.defaults(); err != nil {
		o.MaxSPIs = 0
	}
	return &FakeTable{ports: o.Ports, room: o.MaxSPIs, dropUnknown: o.DropUnknown,
		entries: map[Key]*Entry{}, floors: map[Key]uint32{}}
}

// normal is the key as the kernel's table gives it back.
func normal(k Key) Key {
	k.Destination = k.Destination.Unmap().WithZone("")
	return k
}

// Insert implements Steering.
func (f *FakeTable) Insert(k Key, to Target) error {
	if err := checkTarget(to); err != nil {
		return fmt.Errorf("insert %s: %w", k, err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := checkKey(k); err != nil {
		return fmt.Errorf("insert %s: %w", k, err)
	}
	switch k = normal(k); {
	case f.entries[k] != nil:
		return fmt.Errorf("insert %s: %w", k, ErrExists)
	case len(f.entries) >= f.room:
		return fmt.Errorf("insert %s: %w", k, ErrFull)
	}
	f.entries[k] = &Entry{Key: k, Target: to}
	return nil
}

// Move implements Steering.
func (f *FakeTable) Move(k Key, to Target) error {
	if err := checkTarget(to); err != nil {
		return fmt.Errorf("move %s: %w", k, err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	e := f.entries[normal(k)]
	if e == nil {
		return fmt.Errorf("move %s: %w", k, ErrUnknown)
	}
	e.Target = to
	return nil
}

// SetFloor does what Table's does.
func (f *FakeTable) SetFloor(k Key, sequence uint32) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	k = normal(k)
	if f.entries[k] == nil {
		return fmt.Errorf("set floor of %s: %w", k, ErrUnknown)
	}
	f.floors[k] = max(sequence, f.floors[k])
	return nil
}

// Delete implements Steering.
func (f *FakeTable) Delete(k Key) (Use, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	e := f.entries[normal(k)]
	if e == nil {
		return Use{}, fmt.Errorf("delete %s: %w", k, ErrUnknown)
	}
	delete(f.entries, normal(k))
	delete(f.floors, normal(k))
	return e.Use, nil
}

// Use implements Steering.
func (f *FakeTable) Use(k Key) (Use, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	e := f.entries[normal(k)]
	if e == nil {
		return Use{}, fmt.Errorf("read %s: %w", k, ErrUnknown)
	}
	return e.Use, nil
}

// Entries implements Steering.
func (f *FakeTable) Entries(see func(Entry) bool) error {
	f.mu.Lock()
	all := make([]Entry, 0, len(f.entries))
	for _, e := range f.entries {
		all = append(all, *e)
	}
	f.mu.Unlock()
	for _, e := range all {
		if !see(e) {
			break
		}
	}
	return nil
}

// Totals implements Steering.
func (f *FakeTable) Totals() (Totals, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.totals, nil
}

// Steer judges a frame as the program does and counts it. Every target is
// there, and new exchanges have no limit.
func (f *FakeTable) Steer(frame []byte) (Verdict, Target) {
	f.mu.Lock()
	defer f.mu.Unlock()
	found := f.ports.Parse(frame)
	v, to := found.Verdict, Target{Action: Pass}
	if found.Steered {
		v, to = f.look(found)
	}
	f.totals[v].Packets++
	f.totals[v].Bytes += uint64(len(frame))
	return v, to
}

func (f *FakeTable) look(found Found) (Verdict, Target) {
	e := f.entries[normal(found.Key)]
	if e == nil && f.dropUnknown {
		return UnknownDropped, Target{Action: Drop}
	}
	if e == nil {
		return UnknownPassed, Target{Action: Pass}
	}
	if found.Sequence < f.floors[normal(found.Key)] {
		return Stale, Target{Action: Drop}
	}
	e.Use.Packets++
	e.Use.Bytes += uint64(found.Length)
	e.Use.Last = time.Now()
	return [...]Verdict{Pass: Passed, Drop: Dropped, ToSocket: Socketed, ToCPU: OnCPU, ToDevice: Forwarded}[e.Target.Action], e.Target
}

// FakePort is one end of a wire in memory.
type FakePort struct {
	size   int
	other  *FakePort
	signal chan struct{} // holds one token when there may be something to receive
	wake   chan struct{} // holds one token after Wake
	done   chan struct{}

	mu       sync.Mutex // guards what follows
	free     [][]byte
	received []Frame
	closed   bool
}

var _ Port = (*FakePort)(nil)

// fakeHeadroom is what the kernel leaves before a received frame
// (XDP_PACKET_HEADROOM).
const fakeHeadroom = 256

// NewWire returns two connected ports with so many frames of the size each.
// What one sends the other receives, if it has a frame left for it: else it
// is lost, as on a wire.
func NewWire(frames, size int) (a, b *FakePort) {
	end := func() *FakePort {
		p := &FakePort{size: size, signal: make(chan struct{}, 1), wake: make(chan struct{}, 1), done: make(chan struct{})}
		for range frames {
			p.free = append(p.free, make([]byte, fakeHeadroom+size))
		}
		return p
	}
	a, b = end(), end()
	a.other, b.other = b, a
	return a, b
}

// Receive implements Port.
func (p *FakePort) Receive(frames []Frame) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := copy(frames, p.received)
	p.received = append(p.received[:0], p.received[n:]...)
	return n
}

// Wait implements Port.
func (p *FakePort) Wait(timeout time.Duration) (bool, error) {
	var late <-chan time.Time
	if timeout >= 0 {
		late = time.After(timeout)
	}
	for {
		p.mu.Lock()
		closed, ready := p.closed, len(p.received) > 0
		p.mu.Unlock()
		if closed {
			return false, ErrClosed
		}
		if ready {
			return true, nil
		}
		select {
		case <-p.signal:
		case <-p.done:
		case <-p.wake:
			return false, nil
		case <-late:
			return false, nil
		}
	}
}

// Wake implements Port.
func (p *FakePort) Wake() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// Alloc implements Port.
func (p *FakePort) Alloc(frames []Frame) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := min(len(frames), len(p.free))
	for i, b := range p.free[len(p.free)-n:] {
		frames[i] = Frame{Data: b[:0:p.size], Buf: b}
	}
	p.free = p.free[:len(p.free)-n]
	return n
}

// Send implements Port.
func (p *FakePort) Send(frames []Frame) (int, error) {
	p.mu.Lock()
	closed := p.closed
	p.mu.Unlock()
	if closed {
		return 0, ErrClosed
	}
	for _, f := range frames {
		p.other.deliver(f.Data)
	}
	n := len(frames)
	p.Free(frames)
	return n, nil
}

func (p *FakePort) deliver(data []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || len(p.free) == 0 || len(data) > p.size {
		return
	}
	b := p.free[len(p.free)-1]
	p.free = p.free[:len(p.free)-1]
	n := copy(b[fakeHeadroom:], data)
	p.received = append(p.received, Frame{Data: b[fakeHeadroom : fakeHeadroom+n], Buf: b, Off: fakeHeadroom})
	select {
	case p.signal <- struct{}{}:
	default:
	}
}

// Free implements Port.
func (p *FakePort) Free(frames []Frame) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range frames {
		if frames[i].Data != nil {
			p.free = append(p.free, frames[i].Buf)
		}
		frames[i] = Frame{}
	}
}

// Close implements Port.
func (p *FakePort) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.closed {
		p.closed = true
		close(p.done)
	}
	return nil
}
