// SPDX-License-Identifier: Apache-2.0

package offload

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"quicksand/sa"
)

// noteBuffer is the receive buffer for the kernel's notes, in bytes.
const noteBuffer = 4 << 20

// remapAgain is how long a pair that was remapped is not reported again.
const remapAgain = time.Second

// notes are what the kernel multicasts.
type notes struct{ nl *netlink.Conn }

func dialNotes() (*notes, error) {
	nl, err := netlink.Dial(netlinkXFRM, &netlink.Config{MessageBufferSize: messageBuffer})
	if err != nil {
		return nil, fmt.Errorf("open NETLINK_XFRM: %w", err)
	}
	if err := nl.SetReadBuffer(noteBuffer); err != nil {
		nl.Close()
		return nil, fmt.Errorf("set receive buffer: %w", err)
	}
	for _, g := range []uint32{groupAcquire, groupExpire, groupMapping} {
		if err := nl.JoinGroup(g); err != nil {
			nl.Close()
			return nil, fmt.Errorf("join XFRM group %d: %w", g, err)
		}
	}
	return &notes{nl}, nil
}

func (n *notes) close() error {
	if n == nil {
		return nil
	}
	return n.nl.Close()
}

// listen takes the kernel's notes until the backend is closed.
func (b *Backend) listen() {
	for {
		got, err := b.notes.nl.Receive()
		select {
		case <-b.stop:
			return
		default:
		}
		if errors.Is(err, unix.ENOBUFS) {
			b.log.Warn("the kernel's notes on SAs came too fast; reading all SAs again")
			b.mu.Lock()
			b.resync()
			b.mu.Unlock()
			continue
		}
		if err != nil {
			b.log.Error("the kernel's notes on SAs are gone: " + err.Error())
			return
		}
		b.mu.Lock()
		for _, m := range got {
			b.note(m.Header.Type, m.Data)
		}
		b.mu.Unlock()
	}
}

// note takes one of them in. The lock is held.
func (b *Backend) note(kind netlink.HeaderType, body []byte) {
	switch kind {
	case msgExpire:
		if s, err := decodeState(body, lenExpire); err == nil {
			b.expire(s.ID, body[lenState] != 0)
		}
	case msgAcquire:
		if a, err := decodeAcquire(body); err == nil {
			b.acquire(b.byIndex[a.Index], a.Selector.ends())
		}
	case msgMapping:
		if m, err := decodeMapping(body); err == nil {
			b.remap(m)
		}
	}
}

// expire reports that an SA has reached a limit. The kernel removes one that
// has reached a hard one, and the pair carries nothing any more.
func (b *Backend) expire(id stateID, hard bool) {
	p := b.states[id]
	switch {
	case p == nil:
	case hard && !p.expired:
		p.expired = true
		if err := b.settle(p.child.slots); err != nil {
			b.log.Error("block the traffic of an expired pair: "+err.Error(), "pair", p.Pair)
		}
		b.events.emit(sa.Event{Kind: sa.HardExpired, Pair: p.ID})
	case !hard && !p.soft:
		p.soft = true
		b.events.emit(sa.Event{Kind: sa.SoftExpired, Pair: p.ID})
	}
}

// acquire reports that a packet met a trap. The kernel asks again while there
// is traffic and no SA, every xfrm_acq_expires seconds.
func (b *Backend) acquire(s *slot, packet [2]sa.Selector) {
	if s == nil {
		return
	}
	if c := s.winner(); c != nil && c.trap != nil && c.active == nil {
		b.events.emit(sa.Event{Kind: sa.Acquire, Policy: *c.trap, Packet: packet})
	}
}

// ends are a selector's two sides.
func (s selector) ends() [2]sa.Selector {
	from, to := sa.PrefixSelector(s.Src), sa.PrefixSelector(s.Dst)
	from.Protocol, from.Port = s.Proto, s.SPort
	to.Protocol, to.Port = s.Proto, s.DPort
	return [2]sa.Selector{from, to}
}

// remap reports that a pair's authentic packets come from elsewhere.
func (b *Backend) remap(m mapping) {
	p := b.states[m.ID]
	if p == nil || p.remapped.to == m.Remote && time.Since(p.remapped.at) < remapAgain {
		return
	}
	p.remapped.to, p.remapped.at = m.Remote, time.Now()
	b.events.emit(sa.Event{Kind: sa.Remapped, Pair: p.ID, Remote: m.Remote})
}

// remapping is the last one that was reported.
type remapping struct {
	to netip.AddrPort
	at time.Time
}

// resync finds out what was missed: SAs that are gone have expired, those over
// their soft limits are due, and an SA without an SPI is the kernel's question
// for one. The lock is held.
func (b *Backend) resync() {
	bodies, err := b.conn.dump("list SAs", msgGetSA, nil)
	if err != nil {
		b.log.Error(err.Error())
		return
	}
	there := make(map[stateID]*seen, len(bodies))
	for _, body := range bodies {
		s, err := decodeState(body, lenState)
		if err != nil {
			continue
		}
		there[s.ID] = s
		if s.ID.SPI == 0 {
			b.acquireFor(s)
		}
	}
	for id, p := range b.states {
		s := there[id]
		switch l := limitsOf(p.Lifetime); {
		case s == nil:
			b.expire(id, true)
		case l.SoftBytes != 0 && s.Bytes >= l.SoftBytes, l.SoftPackets != 0 && s.Packets >= l.SoftPackets:
			b.expire(id, false)
		}
	}
}

// acquireFor reports the trap that the kernel's question is about.
func (b *Backend) acquireFor(s *seen) {
	for _, c := range b.children {
		if t := c.trap; t != nil && c.trapReqid == s.Reqid && t.Remote.Addr() == s.ID.Dst && len(c.slots) > 0 {
			b.acquire(c.slots[0], [2]sa.Selector{})
		}
	}
}
