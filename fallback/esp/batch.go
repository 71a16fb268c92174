// SPDX-License-Identifier: Apache-2.0

package esp

import (
	"time"

	"quicksand/fallback/aead"
)

// batchSize is how many packets go through the ciphers together.
const batchSize = 64

// Batch seals and opens packets of several SAs together, so that those of
// different SAs fill the CPU's pipeline as those of a single one do. It has the
// memory for this; its zero value is usable. One goroutine at a time uses it, and
// while it does, nobody else the SAs.
type Batch struct {
	jobs    [batchSize]aead.Packet
	ciphers [batchSize]aead.Cipher
	index   [batchSize]uint8 // of the packets
	n       int
}

// Open does what Inbound.Open does, with packets of several SAs: pkts[i] is of[i]'s.
// A single SA in of is that of all packets. Packets of an SA are taken in order.
func (b *Batch) Open(of []*Inbound, pkts []Packet) {
	for len(pkts) > 0 {
		n := min(len(pkts), batchSize)
		b.open(part(of, n), pkts[:n])
		of, pkts = rest(of, n), pkts[n:]
	}
}

// Seal does what Outbound.Seal does, with packets of several SAs, as Open takes
// them.
func (b *Batch) Seal(of []*Outbound, pkts []Packet) {
	for len(pkts) > 0 {
		n := min(len(pkts), batchSize)
		b.seal(part(of, n), pkts[:n])
		of, pkts = rest(of, n), pkts[n:]
	}
}

// part and rest are the SAs of the first n packets and of those behind them.
func part[T any](of []T, n int) []T { return of[:min(len(of), n)] }

func rest[T any](of []T, n int) []T {
	if len(of) == 1 {
		return of
	}
	return of[n:]
}

// owner is the SA of the k-th packet.
func owner[T any](of []T, k int) T {
	if len(of) == 1 {
		k = 0
	}
	return of[k]
}

func (b *Batch) open(of []*Inbound, pkts []Packet) {
	for k := range pkts {
		i, p := owner(of, k), &pkts[k]
		i.tally.begin(&i.Usage)
		switch {
		case i.wiped:
			i.fail(p, ErrExpired)
		case i.mac != nil:
			i.openAH(p)
		default:
			if err := i.admit(p); err != nil {
				i.fail(p, err)
				continue
			}
			b.add(k, i.cipher, p)
		}
	}
	b.run(aead.Open, aead.Cipher.Open)
	for j, k := range b.index[:b.n] {
		i, p := owner(of, int(k)), &pkts[k]
		if err := i.accept(p, b.jobs[j].OK); err != nil {
			i.fail(p, err)
		} else {
			i.tally.add(p.Len)
		}
	}
	b.clear()
	now := time.Now().UnixNano()
	for _, i := range of {
		i.tally.publish(&i.Usage, now)
	}
}

func (b *Batch) seal(of []*Outbound, pkts []Packet) {
	for k := range pkts {
		o, p := owner(of, k), &pkts[k]
		o.tally.begin(&o.Usage)
		switch {
		case o.wiped:
			o.fail(p, ErrExpired)
		case o.mac != nil:
			o.sealAH(p)
		default:
			inner, err := o.admit(p)
			if err == nil {
				err = o.encapsulate(p)
			}
			if err != nil {
				o.fail(p, err)
				continue
			}
			p.Seq = o.seq
			o.tally.add(inner)
			b.add(k, o.cipher, p)
		}
	}
	b.run(aead.Seal, aead.Cipher.Seal)
	for j, k := range b.index[:b.n] {
		if !b.jobs[j].OK {
			owner(of, int(k)).fail(&pkts[k], ErrMalformed)
		}
	}
	b.clear()
	now := time.Now().UnixNano()
	for _, o := range of {
		o.tally.publish(&o.Usage, now)
	}
}

// add adds the k-th packet to those for the ciphers.
func (b *Batch) add(k int, c aead.Cipher, p *Packet) {
	b.jobs[b.n] = aead.Packet{Data: p.Bytes(), Seq: p.Seq}
	b.ciphers[b.n] = c
	b.index[b.n] = uint8(k)
	b.n++
}

// run takes the packets through their ciphers, or through the one they have.
func (b *Batch) run(several func([]aead.Cipher, []aead.Packet), one func(aead.Cipher, []aead.Packet)) {
	if b.n == 0 {
		return
	}
	ciphers := b.ciphers[:b.n]
	for _, c := range ciphers {
		if c != ciphers[0] {
			several(ciphers, b.jobs[:b.n])
			return
		}
	}
	one(ciphers[0], b.jobs[:b.n])
}

// clear lets go of packets and ciphers.
func (b *Batch) clear() {
	clear(b.jobs[:b.n])
	clear(b.ciphers[:b.n])
	b.n = 0
}
