// SPDX-License-Identifier: Apache-2.0

package tunnel

import (
	"errors"
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
	notices tun.Coalescer // ICMP messages
	noticed int
	parts   reassembler
}

// run is packets[lo:hi], all of one child.
type run struct {
	child  *child
	pair   *pair
	lo, hi int
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

// dispatch seals and sends each run and empties the batch. The plane's lock is
// held, and given back by unlock before anything is sent.
func (p *Plane) dispatch(o *outbound, unlock func()) {
	if len(o.runs) == 0 {
		unlock()
	}
	for i := range o.runs {
		r := &o.runs[i]
		if i > 0 {
			p.mu.RLock()
			unlock = p.mu.RUnlock
		}
		pr := r.pair
		if pr.gone {
			// It was taken out since the lock was given back; its child has
			// another one as a rule.
			if pr = r.child.instead(pr); pr == nil {
				p.stats[outNoPair].Add(uint64(r.hi - r.lo))
				unlock()
				continue
			}
		}
		pr.outMu.Lock()
		batch, path := p.seal(pr, o.packets[r.lo:r.hi])
		unlock()
		p.send(pr, path, batch)
		pr.outMu.Unlock()
	}
	if o.noticed > 0 {
		p.stats[inTUN].Add(uint64(o.notices.Flush(o.queue)))
	}
	clear(o.runs)
	o.packets, o.runs, o.noticed = o.packets[:0], o.runs[:0], 0
}

// seal turns packets into those that go out, in place, and returns those that
// were not refused, and their way. The pair's outMu is held.
func (p *Plane) seal(pr *pair, batch []esp.Packet) ([]esp.Packet, Path) {
	pr.out.Seal(batch)
	good := 0
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
	p.expiry(pr, &pr.out.Usage)
	path := pr.path
	path.MTU = int(pr.mtu.Load())
	return batch[:good], path
}

// send sends what seal made.
func (p *Plane) send(pr *pair, path Path, batch []esp.Packet) {
	if len(batch) == 0 {
		return
	}
	p.wire.Send(path, batch)
	shorter := false
	for i := range batch {
		if err := batch[i].Err; err != nil {
			p.stats.count(outSend)
			shorter = shorter || errors.Is(err, unix.EMSGSIZE)
		}
	}
	if shorter {
		p.refresh(pr, path)
	}
}
