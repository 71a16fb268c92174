// SPDX-License-Identifier: Apache-2.0

package tunnel

import (
	"encoding/binary"
	"time"

	"golang.org/x/sys/unix"

	"quicksand/fallback/esp"
	"quicksand/fallback/tun"
	"quicksand/sa"
)

// inward is what one of the wire's goroutines writes to the device with.
type inward struct {
	queue  tun.Queue
	gather tun.Coalescer
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
	for lo := 0; lo < len(b.Packets); {
		spi, from := spiOf(b, lo), &b.From[lo]
		hi := lo + 1
		for hi < len(b.Packets) && spiOf(b, hi) == spi && b.From[hi] == *from {
			hi++
		}
		p.open(b, lo, hi, spi)
		lo = hi
	}
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

// open takes the packets lo to hi, all with one SPI and from one place,
// through their SA. The plane's lock is held for reading.
func (p *Plane) open(b *Batch, lo, hi int, spi sa.SPI) {
	n := uint64(hi - lo)
	pr := p.inbound[spi]
	if pr == nil {
		p.stats[inUnknownSPI].Add(n)
		return
	}
	if pr.path.Proto != b.From[lo].Proto {
		p.stats[inWrongWay].Add(n)
		return
	}
	if pr.hard.Load() {
		p.stats[inExpired].Add(n)
		return
	}
	batch := b.Packets[lo:hi]
	pr.inMu.Lock()
	pr.in.Open(batch)
	authentic := false
	for i := range batch {
		q := &batch[i]
		authentic = authentic || esp.Authentic(q.Err)
		if q.Err != nil {
			p.stats.count(openReason(q.Err))
			continue
		}
		b.inward.gather.Add(q.Bytes())
	}
	if authentic {
		p.heard(pr, b.From[lo])
	}
	pr.inMu.Unlock()
	p.expiry(pr, &pr.in.Usage)
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
