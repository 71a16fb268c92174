// SPDX-License-Identifier: Apache-2.0

package steered

import (
	"encoding/binary"
	"fmt"
	"sync"
	"sync/atomic"

	"quicksand/fallback/esp"
	"quicksand/fallback/tunnel"
	"quicksand/sa"
	"quicksand/xdp"
)

// An SA moves from one worker to another without a packet lost or overtaken:
//
//  1. The new worker expects it: what comes of it waits there, in its frames.
//  2. The tables name the new worker. A driver that looked before may still
//     hand packets to the old one.
//  3. A grace period passes, after which none does: all that is left is in the
//     old worker's ring.
//  4. The old worker has handled what was in its ring.
//  5. The new worker handles what waits, and then what comes.
//
// Drivers run the program for at most 64 packets of a queue (NAPI_POLL_WEIGHT)
// before they hand all of them over. So where more than that wait already,
// steps 4 and 5 follow without step 3.

// enough packets of an SA that wait tell that the grace period is over.
const enough = 256

// arrival is an SA on its way to a port.
type arrival struct {
	spi     sa.SPI
	old     *port // of the same queue
	settled atomic.Bool
	asked   bool // of the port's goroutine
	waiting []held
}

// move moves an SA to another worker. It blocks for the grace period, and the
// caller holds no lock.
func (w *Wire) move(a *admitted, to int) error {
	w.mu.Lock()
	if w.closed || a.moving || a.worker == to || w.sas[a.key.SPI] != a {
		w.mu.Unlock()
		return nil
	}
	from := a.worker
	a.moving = true
	w.workers[from].sas--
	w.workers[to].sas++
	a.worker = to
	type pair struct{ old, fresh *port }
	var pairs []pair
	var err error
	for _, d := range w.devices {
		if d.table == nil {
			continue
		}
		for _, queue := range d.ports {
			pairs = append(pairs, pair{queue[from], queue[to]})
			queue[to].expect(a.key.SPI, queue[from])
		}
		if e := d.table.Move(a.key, target(to)); e != nil && err == nil {
			err = fmt.Errorf("move SA to worker %d: %w", to, e)
		}
	}
	w.mu.Unlock()

	if e := w.host.settle(); e != nil && err == nil {
		err = e
	}
	var drained sync.WaitGroup
	for _, p := range pairs {
		drained.Add(1)
		p.old.drain.ask(func() {
			p.fresh.arrived(a.key.SPI)
			drained.Done()
		})
		p.old.port.Wake()
	}
	drained.Wait()
	w.mu.Lock()
	a.moving = false
	w.mu.Unlock()
	return err
}

// expect has packets of the SA wait.
func (p *port) expect(spi sa.SPI, old *port) {
	p.holdMu.Lock()
	defer p.holdMu.Unlock()
	p.arrive[spi] = &arrival{spi: spi, old: old}
	p.moving.Store(int32(len(p.arrive)))
}

// arrived ends that.
func (p *port) arrived(spi sa.SPI) {
	p.holdMu.Lock()
	if a := p.arrive[spi]; a != nil {
		a.settled.Store(true)
	}
	p.holdMu.Unlock()
	p.port.Wake()
}

// hold keeps a packet whose SA has not arrived, with its frame.
func (p *port) hold(f *xdp.Frame, q esp.Packet, from tunnel.Path) bool {
	p.holdMu.Lock()
	a := p.arrive[spiOf(q, from)]
	p.holdMu.Unlock()
	if a == nil {
		return false
	}
	a.waiting = append(a.waiting, held{*f, q, from})
	*f = xdp.Frame{}
	if len(a.waiting) >= enough && !a.asked {
		a.asked = true
		a.old.drain.ask(func() { p.arrived(a.spi) })
		a.old.port.Wake()
	}
	return true
}

// spiOf returns the SPI of a packet that the program has steered.
func spiOf(q esp.Packet, from tunnel.Path) sa.SPI {
	b := q.Bytes()
	if from.Proto != uint8(sa.AH) {
		return esp.SPIOf(b)
	}
	// Behind the IP header, in AH's second word (RFC 4302 section 2.4).
	at := 40 + 4
	if b[0]>>4 == 4 {
		at = int(b[0]&15)*4 + 4
	}
	if len(b) < at+4 {
		return 0
	}
	return sa.SPI(binary.BigEndian.Uint32(b[at:]))
}

// settle hands what waited for SAs that have arrived to the plane. The
// goroutine calls it when nothing of them is under way elsewhere.
func (p *port) settle() {
	if p.moving.Load() == 0 {
		return
	}
	p.holdMu.Lock()
	var ready []*arrival
	for spi, a := range p.arrive {
		if a.settled.Load() {
			ready = append(ready, a)
			delete(p.arrive, spi)
		}
	}
	p.moving.Store(int32(len(p.arrive)))
	p.holdMu.Unlock()
	for _, a := range ready {
		for rest := a.waiting; len(rest) > 0; {
			n := min(len(rest), batchSize)
			p.batch.Reset()
			frames := make([]xdp.Frame, 0, n)
			for _, h := range rest[:n] {
				p.batch.Add(h.q, h.from)
				frames = append(frames, h.frame)
			}
			p.input()
			p.port.Free(frames)
			rest = rest[n:]
		}
	}
}
