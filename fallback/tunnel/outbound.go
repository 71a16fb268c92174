// SPDX-License-Identifier: Apache-2.0

package tunnel

import (
	"errors"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"quicksand/fallback/esp"
	"quicksand/fallback/tun"
	"quicksand/sa"
)

// maxNotices is how many ICMP messages a batch brings about at most: its
// packets are of one flow as a rule.
const maxNotices = 4

// packet is an inner packet at esp.Headroom in its buffer.
type packet struct {
	buf []byte
	len int
	// follows says that it is of the flow of the packet before it, and no
	// fragment.
	follows bool
}

// outbound is a batch on its way out.
type outbound struct {
	queue   tun.Queue // for what goes back to the sender; nil: nothing does
	header  esp.Header
	child   *child // of the packet before
	pair    *pair  // that it goes out over
	flows   flowCache
	packets []esp.Packet
	runs    []run
	batch   esp.Batch
	of      []*esp.Outbound // of the packets that are sealed together
	notices tun.Coalescer   // ICMP messages
	noticed int
	parts   reassembler
}

// run is packets[lo:hi], all of one child.
type run struct {
	child  *child
	pair   *pair
	lo, hi int
	path   Path // of the pair, once they are sealed
	locked bool // the pair's outMu was locked for this run
}

// forward takes packets to the network.
func (p *Plane) forward(o *outbound, packets []packet) {
	p.mu.RLock()
	for i := range packets {
		p.classify(o, &packets[i])
	}
	p.dispatch(o, p.mu.RUnlock)
}

// classify finds the pair of a packet and adds it to the batch, or holds or
// drops it. The plane's lock is held.
func (p *Plane) classify(o *outbound, q *packet) {
	h := &o.header
	data := q.buf[esp.Headroom:][:q.len]
	if q.follows {
		h.Len = q.len
	} else {
		o.child, o.pair = nil, nil
		if !h.Parse(data) {
			p.stats.count(outMalformed)
			return
		}
		var flow tun.FlowHash
		if o.child, flow = o.flows.find(&p.policies, h); o.child != nil {
			o.pair = o.child.carrier(flow)
		}
	}
	c := o.child
	if c == nil {
		if h.Fragment && !h.HasPorts && p.wantsPorts(h) {
			p.stats.count(outFragment)
		} else {
			p.stats.count(outNoPolicy)
		}
		return
	}
	pr := o.pair
	if pr == nil {
		p.hold(c, data)
		return
	}
	if pr.hard.Load() {
		p.stats.count(outExpired)
		return
	}
	if pr.transport && h.Fragment {
		whole, length, ok := o.parts.add(h, data[:h.Len])
		if !ok {
			p.stats.count(outFragment)
		}
		if whole != nil {
			o.add(pr, whole, length)
		}
		return
	}
	if h.Len > int(pr.inner.Load()) && h.DF && (h.Src.Is4() || h.Len > 1280) {
		p.stats.count(outTooBig)
		p.notice(o, data, int(pr.inner.Load()))
		return
	}
	o.add(pr, q.buf, h.Len)
}

// add adds a packet of the pair to the batch.
func (o *outbound) add(pr *pair, buf []byte, n int) {
	o.packets = append(o.packets, esp.Packet{Buf: buf, Off: esp.Headroom, Len: n})
	last := len(o.packets)
	if k := len(o.runs); k > 0 && o.runs[k-1].pair == pr {
		o.runs[k-1].hi = last
		return
	}
	o.runs = append(o.runs, run{child: pr.child, pair: pr, lo: last - 1, hi: last})
}

// wantsPorts reports whether a later fragment would have a policy if its ports
// were known.
func (p *Plane) wantsPorts(h *esp.Header) bool {
	for _, c := range p.policies.children {
		local, remote := c.key.local, c.key.remote
		local.Port, remote.Port = 0, 0
		if h.Matches(&local, &remote) {
			return true
		}
	}
	return false
}

// hold keeps a copy of a packet until its child has a pair, and asks for one
// where the child has a trap.
func (p *Plane) hold(c *child, data []byte) {
	if c.trap == nil && len(c.pairs) == 0 {
		p.stats.count(outNoPair)
		return
	}
	p.holding.Lock()
	defer p.holding.Unlock()
	now := time.Now()
	if c.trap != nil && now.Sub(c.acquired) >= acquireAgain {
		c.acquired = now
		p.events.emit(sa.Event{Kind: sa.Acquire, Policy: *c.trap})
	}
	if len(c.held) > 0 && now.Sub(c.held[0].since) >= heldTime {
		p.stats.count(outHeldStale)
		c.held = append(c.held[:0], c.held[1:]...)
	}
	if len(c.held) >= heldPackets {
		p.stats.count(outHeldFull)
		return
	}
	buf := make([]byte, esp.Headroom+len(data)+esp.Tailroom)
	copy(buf[esp.Headroom:], data)
	c.held = append(c.held, heldPacket{buf: buf, len: len(data), since: now})
}

// notice makes the ICMP message about a packet that is too long.
func (p *Plane) notice(o *outbound, data []byte, mtu int) {
	if o.queue == nil || o.noticed >= maxNotices {
		return
	}
	buf := make([]byte, 1280)
	if n := tooBig(buf, data, mtu); n > 0 {
		o.notices.Add(buf[:n])
		o.noticed++
		p.stats.count(outTooBigSent)
	}
}

// dispatch seals and sends the runs and empties the batch. The plane's lock is
// held, and given back by unlock before anything is sent.
func (p *Plane) dispatch(o *outbound, unlock func()) {
	if len(o.runs) == 0 {
		unlock()
	}
	for rest := o.runs; len(rest) > 0; {
		n := o.lock(rest)
		p.seal(o, rest[:n])
		unlock()
		for i := range rest[:n] {
			p.send(&rest[i], o.packets[rest[i].lo:rest[i].hi])
		}
		for i := range rest[:n] {
			if rest[i].locked {
				rest[i].pair.outMu.Unlock()
			}
		}
		if rest = rest[n:]; len(rest) > 0 {
			p.mu.RLock()
			unlock = p.mu.RUnlock
		}
	}
	if o.noticed > 0 {
		p.stats[inTUN].Add(uint64(o.notices.Flush(o.queue)))
	}
	clear(o.runs)
	clear(o.of)
	o.packets, o.runs, o.of, o.noticed = o.packets[:0], o.runs[:0], o.of[:0], 0
}

// lock locks the pairs of the runs at the front, at least one, and returns of how
// many: up to one that somebody else has, for whom whoever waited could be waiting
// in turn. The plane's lock is held.
func (o *outbound) lock(runs []run) (n int) {
	for ; n < len(runs); n++ {
		r := &runs[n]
		if r.pair.gone {
			// It was taken out since the lock was given back; its child has
			// another one as a rule.
			if r.pair = r.child.instead(r.pair); r.pair == nil {
				continue
			}
		}
		switch {
		case n == 0:
			r.pair.outMu.Lock()
		case r.pair.outMu.TryLock():
		case slices.ContainsFunc(runs[:n], func(before run) bool { return before.pair == r.pair }):
			continue
		default:
			return n
		}
		r.locked = true
	}
	return n
}

// seal turns the packets of the runs into those that go out, in place, and leaves
// out those that were refused. The outMu of their pairs is held, and so is the
// plane's lock.
func (p *Plane) seal(o *outbound, runs []run) {
	lo, hi := runs[0].lo, runs[0].lo
	for i := range runs {
		r := &runs[i]
		if r.pair == nil {
			p.stats[outNoPair].Add(uint64(r.hi - r.lo))
			o.batch.Seal(o.of, o.packets[lo:hi])
			o.of, lo, hi, r.hi = o.of[:0], r.hi, r.hi, r.lo
			continue
		}
		for range r.hi - r.lo {
			o.of = append(o.of, r.pair.out)
		}
		hi = r.hi
	}
	o.batch.Seal(o.of, o.packets[lo:hi])
	o.of = o.of[:0]
	for i := range runs {
		r := &runs[i]
		if r.pair == nil {
			continue
		}
		r.hi = r.lo + p.sealed(o.packets[r.lo:r.hi])
		p.expiry(r.pair, &r.pair.out.Usage)
		r.path = r.pair.path
		r.path.MTU = int(r.pair.mtu.Load())
	}
}

// sealed moves the packets that were not refused to the front, and returns how many
// those are.
func (p *Plane) sealed(batch []esp.Packet) (good int) {
	for i := range batch {
		if err := batch[i].Err; err != nil {
			p.stats.count(sealReason(err))
			continue
		}
		if good < i {
			batch[good] = batch[i]
		}
		good++
	}
	return good
}

// send sends what seal made of a run.
func (p *Plane) send(r *run, batch []esp.Packet) {
	if len(batch) == 0 {
		return
	}
	p.wire.Send(r.path, batch)
	shorter := false
	for i := range batch {
		if err := batch[i].Err; err != nil {
			p.stats.count(outSend)
			shorter = shorter || errors.Is(err, unix.EMSGSIZE)
		}
	}
	if shorter {
		p.refresh(r.pair, r.path)
	}
}
