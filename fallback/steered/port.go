// SPDX-License-Identifier: Apache-2.0

package steered

import (
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"quicksand/fallback/esp"
	"quicksand/fallback/tunnel"
	"quicksand/sa"
	"quicksand/xdp"
)

// batchSize is how many packets go through the plane at once: enough for the
// longest packet that TCP's segments are joined to.
const batchSize = 128

// port is a worker's part of one receive queue: a port, and the goroutine that
// takes what it receives through the plane.
type port struct {
	device   *device
	number   int // of the worker
	port     xdp.Port
	ports    xdp.Ports
	stopping atomic.Bool
	busy     atomic.Int64  // nanoseconds in the plane
	packets  atomic.Uint64 // through the plane
	sent     atomic.Uint64

	sending sync.Mutex // guards out, and the port's Alloc and Send
	out     [64]xdp.Frame

	// Of the goroutine.
	frames [batchSize]xdp.Frame
	batch  tunnel.Batch
	drain  drain

	moving atomic.Int32 // how many arrivals there are
	holdMu sync.Mutex   // guards arrive
	arrive map[sa.SPI]*arrival
}

func newPort(d *device, number int, p xdp.Port) *port {
	o := &d.wire.o
	return &port{device: d, number: number, port: p, arrive: map[sa.SPI]*arrival{},
		ports: xdp.Ports{IKE: o.Ports[0], Encaps: []uint16{o.Ports[1]}}}
}

// run is the goroutine. It ends when the port is stopping or its device is
// gone.
func (p *port) run() {
	if cores := p.device.wire.o.Cores; len(cores) > 0 {
		// Never unlocked: the thread ends with the goroutine.
		runtime.LockOSThread()
		if err := p.device.wire.host.pin(cores[p.number]); err != nil {
			p.device.wire.log.Warn("a worker is not bound to its CPU", "error", err)
		}
	}
	defer p.drain.finish()
	for !p.stopping.Load() {
		asked := p.drain.look()
		n := p.port.Receive(p.frames[:])
		if n > 0 {
			p.handle(p.frames[:n])
		}
		p.settle()
		p.drain.passed(asked, n, len(p.frames))
		if n > 0 {
			continue
		}
		if _, err := p.port.Wait(-1); err != nil {
			return
		}
	}
}

// handle takes frames through the plane and frees them, but those of SAs that
// have not arrived yet.
func (p *port) handle(frames []xdp.Frame) {
	p.batch.Reset()
	moving := p.moving.Load() > 0
	for i := range frames {
		q, from, ok := packetOf(p.ports, &frames[i])
		if !ok {
			p.device.wire.bad.Add(1)
			continue
		}
		if moving && p.hold(&frames[i], q, from) {
			continue
		}
		p.batch.Add(q, from)
	}
	p.input()
	p.port.Free(frames)
}

// input hands the batch to the plane.
func (p *port) input() {
	n := len(p.batch.Packets)
	if n == 0 {
		return
	}
	begin := time.Now()
	if input := p.device.wire.input.Load(); input != nil {
		(*input)(&p.batch)
	}
	p.busy.Add(int64(time.Since(begin)))
	p.packets.Add(uint64(n))
}

// drain is how others learn that a port has handled everything that it had
// received at a certain time.
type drain struct {
	mu      sync.Mutex // guards what follows
	asked   uint64     // requests so far
	waiting []request
	over    bool

	// Of the goroutine: what it has received since it saw a request.
	seen, since uint64
}

type request struct {
	number uint64
	done   func()
}

// ask has done called once everything is handled that the port holds now.
func (d *drain) ask(done func()) {
	d.mu.Lock()
	if d.over {
		d.mu.Unlock()
		done()
		return
	}
	d.asked++
	d.waiting = append(d.waiting, request{d.asked, done})
	d.mu.Unlock()
}

// look returns the requests so far. The goroutine calls it before it receives.
func (d *drain) look() uint64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.asked
}

// passed tells that n frames, of at most so many, were received after look had
// returned asked, and were handled. When there were fewer the port was empty
// in between.
func (d *drain) passed(asked uint64, n, most int) {
	if asked != d.seen {
		d.seen, d.since = asked, 0
	}
	d.since += uint64(n)
	if n == most && d.since < maxRing {
		return
	}
	d.mu.Lock()
	var done []func()
	for len(d.waiting) > 0 && d.waiting[0].number <= asked {
		done = append(done, d.waiting[0].done)
		d.waiting = d.waiting[1:]
	}
	d.mu.Unlock()
	for _, f := range done {
		f()
	}
}

// maxRing is at least the entries of a port's ring: who has received so many
// has received all that were there before.
const maxRing = 4096

// finish answers whoever waits: the goroutine ends.
func (d *drain) finish() {
	d.mu.Lock()
	waiting := d.waiting
	d.waiting, d.over = nil, true
	d.mu.Unlock()
	for _, r := range waiting {
		r.done()
	}
}

// held is a packet that waits in its frame.
type held struct {
	frame xdp.Frame
	q     esp.Packet
	from  tunnel.Path
}
