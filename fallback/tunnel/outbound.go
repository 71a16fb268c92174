// SPDX-License-Identifier: Apache-2.0

package tunnel

import (
	"errors"
	"os"
	"time"

	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/tun"

	"quicksand/fallback/esp"
	"quicksand/sa"
)

const (
	// tunHeadroom is what the TUN device wants before a packet it is given.
	tunHeadroom = 10
	// maxNotices is how many ICMP messages a batch brings about at most: its
	// packets are of one flow as a rule.
	maxNotices = 4
	// tunErrors is how many reads may fail in a row before the device is given
	// up.
	tunErrors = 100
)

// outbound is a batch on its way out.
type outbound struct {
	header  esp.Header
	last    esp.Header // of the packet before
	child   *child     // its child
	packets []esp.Packet
	runs    []run
	notices [][]byte // ICMP messages, at tunHeadroom
	parts   reassembler
}

// run is packets[lo:hi], all of one pair.
type run struct {
	pair   *pair
	path   Path
	lo, hi int
}

// readTUN is the run of the device's goroutine.
func (p *Plane) readTUN() {
	bufs := make([][]byte, p.tun.BatchSize())
	for i := range bufs {
		bufs[i] = make([]byte, esp.Headroom+maxPacket+esp.Tailroom)
	}
	sizes := make([]int, len(bufs))
	var o outbound
	for failed := 0; ; {
		n, err := p.tun.Read(bufs, sizes, esp.Headroom)
		if err != nil && !errors.Is(err, tun.ErrTooManySegments) {
			if failed++; !errors.Is(err, os.ErrClosed) && failed < tunErrors {
				continue
			}
			p.lost(err)
			return
		}
		failed = 0
		p.forward(&o, bufs[:n], sizes)
	}
}

// lost reports every pair as gone with the device.
func (p *Plane) lost(err error) {
	if p.closing.Load() {
		return
	}
	p.log.Error("TUN device is lost", "device", p.device, "error", err)
	p.mu.RLock()
	defer p.mu.RUnlock()
	for id := range p.pairs {
		p.events.emit(sa.Event{Kind: sa.Lost, Pair: id})
	}
}

// forward takes packets, each at esp.Headroom in its buffer, to the network.
func (p *Plane) forward(o *outbound, bufs [][]byte, sizes []int) {
	p.mu.RLock()
	for i, b := range bufs {
		p.classify(o, b, sizes[i])
	}
	p.seal(o)
	p.mu.RUnlock()
	p.send(o)
}

// classify finds the pair of a packet and adds it to the batch, or holds or
// drops it.
func (p *Plane) classify(o *outbound, buf []byte, n int) {
	h := &o.header
	packet := buf[esp.Headroom:][:n]
	if !h.Parse(packet) {
		p.stats.count(outMalformed)
		return
	}
	if o.child == nil || h.Src != o.last.Src || h.Dst != o.last.Dst || h.Protocol != o.last.Protocol ||
		h.SrcPort != o.last.SrcPort || h.DstPort != o.last.DstPort || h.HasPorts != o.last.HasPorts {
		o.child, o.last = p.policies.find(h), *h
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
	pr := c.active
	if pr == nil {
		p.hold(c, packet)
		return
	}
	if pr.hard.Load() {
		p.stats.count(outExpired)
		return
	}
	if pr.transport && h.Fragment {
		whole, length, ok := o.parts.add(h, packet[:h.Len])
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
		p.notice(o, packet, int(pr.inner.Load()))
		return
	}
	o.add(pr, buf, h.Len)
}

// add adds a packet of the pair to the batch.
func (o *outbound) add(pr *pair, buf []byte, n int) {
	o.packets = append(o.packets, esp.Packet{Buf: buf, Off: esp.Headroom, Len: n})
	last := len(o.packets)
	if k := len(o.runs); k > 0 && o.runs[k-1].pair == pr {
		o.runs[k-1].hi = last
		return
	}
	path := pr.path
	path.MTU = int(pr.mtu.Load())
	o.runs = append(o.runs, run{pair: pr, path: path, lo: last - 1, hi: last})
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
func (p *Plane) hold(c *child, packet []byte) {
	if c.trap == nil && len(c.pairs) == 0 {
		p.stats.count(outNoPair)
		return
	}
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
	buf := make([]byte, esp.Headroom+len(packet)+esp.Tailroom)
	copy(buf[esp.Headroom:], packet)
	c.held = append(c.held, heldPacket{buf: buf, len: len(packet), since: now})
}

// notice makes the ICMP message about a packet that is too long.
func (p *Plane) notice(o *outbound, packet []byte, mtu int) {
	if len(o.notices) >= maxNotices {
		return
	}
	buf := make([]byte, tunHeadroom+1280)
	if n := tooBig(buf[tunHeadroom:], packet, mtu); n > 0 {
		o.notices = append(o.notices, buf[:tunHeadroom+n])
		p.stats.count(outTooBigSent)
	}
}

// seal turns each run into the packets that go out, in place, and closes the
// gaps of those refused.
func (p *Plane) seal(o *outbound) {
	for i := range o.runs {
		r := &o.runs[i]
		batch := o.packets[r.lo:r.hi]
		r.pair.out.Seal(batch)
		good := 0
		for j := range batch {
			if err := batch[j].Err; err != nil {
				p.stats.count(sealReason(err))
				continue
			}
			batch[good] = batch[j]
			good++
		}
		r.hi = r.lo + good
		p.expiry(r.pair, &r.pair.out.Usage)
	}
}

// send sends what seal made, outside the lock, and empties the batch.
func (p *Plane) send(o *outbound) {
	for i := range o.runs {
		r := &o.runs[i]
		batch := o.packets[r.lo:r.hi]
		if len(batch) == 0 {
			continue
		}
		p.wire.Send(r.path, batch)
		shorter := false
		for j := range batch {
			if err := batch[j].Err; err != nil {
				p.stats.count(outSend)
				shorter = shorter || errors.Is(err, unix.EMSGSIZE)
			}
		}
		if shorter {
			p.refresh(r.pair, r.path)
		}
	}
	if len(o.notices) > 0 {
		if _, err := p.tun.Write(o.notices, tunHeadroom); err != nil {
			p.stats.count(inTUN)
		}
	}
	clear(o.runs)
	o.packets, o.runs, o.notices, o.child = o.packets[:0], o.runs[:0], o.notices[:0], nil
}
