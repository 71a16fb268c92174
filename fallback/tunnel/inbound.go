// SPDX-License-Identifier: Apache-2.0

package tunnel

import (
	"encoding/binary"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"quicksand/fallback/esp"
	"quicksand/fallback/tun"
	"quicksand/sa"
)

// inward is what one of the wire's goroutines opens packets and writes to the
// device with.
type inward struct {
	queue  tun.Queue
	gather tun.Coalescer
	batch  esp.Batch
	locked []*pair // whose inMu is held
	// Of the packets that are to be opened together.
	pairs []*pair
	of    []*esp.Inbound
}

// Input takes a batch of packets from the network to the TUN device. It may be
// called from several goroutines.
func (p *Plane) Input(b *Batch) {
	if b.inward == nil {
		queues := p.tun.Queues()
		b.inward = &inward{queue: queues[int(p.inputs.Add(1)-1)%len(queues)]}
		b.inward.gather.UDP = p.tun.UDP()
	}
	p.mu.RLock()
	first, n := 0, 0 // packets[first:n] are to be opened
	for lo := 0; lo < len(b.Packets); {
		spi, from := spiOf(b, lo), b.From[lo]
		hi := lo + 1
		for hi < len(b.Packets) && spiOf(b, hi) == spi && b.From[hi] == from {
			hi++
		}
		if pr := p.receiver(spi, from, hi-lo); pr != nil {
			if !b.inward.lock(pr) {
				p.open(b, first, n)
				first = n
				b.inward.lock(pr)
			}
			n = b.keep(pr, n, lo, hi)
		}
		lo = hi
	}
	p.open(b, first, n)
	p.mu.RUnlock()
	if n := b.inward.gather.Flush(b.inward.queue); n > 0 {
		p.stats[inTUN].Add(uint64(n))
	}
}

// spiOf returns the SPI of the i-th packet, 0 where it is too short for one.
func spiOf(b *Batch, i int) sa.SPI {
	data := b.Packets[i].Bytes()
	if b.From[i].Proto != uint8(sa.AH) {
		return esp.SPIOf(data)
	}
	// Behind the IP header, in AH's second word (RFC 4302 section 2.4).
	at := 40 + 4
	if len(data) > 0 && data[0]>>4 == 4 {
		at = int(data[0]&15)*4 + 4
	}
	if len(data) < at+4 {
		return 0
	}
	return sa.SPI(binary.BigEndian.Uint32(data[at:]))
}

// receiver returns the pair that n packets are for, or nil where they are dropped.
// The plane's lock is held for reading.
func (p *Plane) receiver(spi sa.SPI, from Path, n int) *pair {
	pr := p.inbound[spi]
	reason := inUnknownSPI
	switch {
	case pr == nil:
	case pr.path.Proto != from.Proto:
		reason = inWrongWay
	case pr.hard.Load():
		reason = inExpired
	default:
		return pr
	}
	p.stats[reason].Add(uint64(n))
	return nil
}

// lock locks a pair for opening, beside those that are locked, unless somebody else
// has it: whoever waited then could wait for somebody who waits for them.
func (in *inward) lock(pr *pair) bool {
	if len(in.locked) == 0 {
		pr.inMu.Lock()
	} else if !pr.inMu.TryLock() {
		return slices.Contains(in.locked, pr)
	}
	in.locked = append(in.locked, pr)
	return true
}

// keep moves the packets lo to hi, which are the pair's, to the n-th place, and
// returns the place behind them.
func (b *Batch) keep(pr *pair, n, lo, hi int) int {
	for i := lo; i < hi; i++ {
		b.Packets[n], b.From[n] = b.Packets[i], b.From[i]
		b.inward.pairs = append(b.inward.pairs, pr)
		b.inward.of = append(b.inward.of, pr.in)
		n++
	}
	return n
}

// open takes the packets lo to hi, whose pairs are locked, through their SAs. The
// plane's lock is held for reading.
func (p *Plane) open(b *Batch, lo, hi int) {
	in := b.inward
	packets, from := b.Packets[lo:hi], b.From[lo:hi]
	in.batch.Open(in.of, packets)
	for i := 0; i < len(packets); {
		pr, first, authentic := in.pairs[i], i, false
		for ; i < len(packets) && in.pairs[i] == pr && from[i] == from[first]; i++ {
			q := &packets[i]
			authentic = authentic || esp.Authentic(q.Err)
			if q.Err != nil {
				p.stats.count(openReason(q.Err))
				continue
			}
			in.gather.Add(q.Bytes())
		}
		if authentic {
			p.heard(pr, from[first])
		}
	}
	for _, pr := range in.locked {
		p.advance(pr)
		pr.inMu.Unlock()
		p.expiry(pr, &pr.in.Usage)
	}
	clear(in.locked)
	clear(in.pairs)
	clear(in.of)
	in.locked, in.pairs, in.of = in.locked[:0], in.pairs[:0], in.of[:0]
}

// floorStep is by how many sequence numbers a replay window moves before the wire is
// told. That costs about as much as a packet, and what is left of the window and not
// below the floor is refused here.
const floorStep = 1024

// advance tells the wire how far the pair's replay window has come. The pair's inMu
// is held, and so is the plane's lock for reading.
func (p *Plane) advance(pr *pair) {
	floor, ok := pr.in.Floor()
	if ok && floor-pr.floor >= floorStep && p.wire.Advance(pr.spi, pr.path, floor) {
		pr.floor = floor
	}
}

// heard reports what an authentic packet of the pair tells: that the peer uses
// it, and where the peer is now. The pair's inMu is held.
func (p *Plane) heard(pr *pair, from Path) {
	if !pr.used.Load() && !pr.used.Swap(true) {
		p.events.emit(sa.Event{Kind: sa.FirstUse, Pair: pr.id})
	}
	if from.Proto != unix.IPPROTO_UDP || from.Remote == pr.path.Remote {
		return
	}
	// While the peer moves, packets of both places mix.
	now := time.Now()
	if r := &pr.remapped; from.Remote != r.to || now.Sub(r.at) >= remapAgain {
		r.to, r.at = from.Remote, now
		p.events.emit(sa.Event{Kind: sa.Remapped, Pair: pr.id, Remote: from.Remote})
	}
}
