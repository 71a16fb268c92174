// SPDX-License-Identifier: Apache-2.0

package tunnel

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"quicksand/fallback/esp"
	"quicksand/sa"
)

// Kinds implements sa.Backend.
func (p *Plane) Kinds() []sa.Kind { return []sa.Kind{sa.Userspace} }

// Supports implements sa.Backend.
func (p *Plane) Supports(q *sa.Pair) error {
	switch {
	case q.Offload == sa.OffloadCrypto || q.Offload == sa.OffloadPacket:
		return fmt.Errorf("user space does not offload to a NIC, as hw_offload = %s asks", q.Offload)
	case q.Marking != sa.Marking{}:
		return errors.New("user space has no firewall marks and no XFRM interfaces")
	case q.Encap && q.Suite.Protocol != sa.ESP:
		return errors.New("only ESP can be encapsulated in UDP")
	case !given(q.Local.Addr()) || !given(q.Remote.Addr()) || family(q.Local.Addr()) != family(q.Remote.Addr()):
		return fmt.Errorf("%s and %s are not two endpoints of one family", q.Local.Addr(), q.Remote.Addr())
	case !q.LocalTS.IsValid() || !q.RemoteTS.IsValid() || family(q.LocalTS.From) != family(q.RemoteTS.From):
		return fmt.Errorf("%s and %s are not selectors of one family", q.LocalTS, q.RemoteTS)
	case q.Mode == sa.Transport && family(q.LocalTS.From) != family(q.Local.Addr()):
		return errors.New("transport mode has its traffic and its endpoints in one family")
	}
	if err := p.suites.try(q); err != nil {
		return err
	}
	return p.wire.Carries(pathOf(q))
}

// suites remembers for which suites there is code; those that are asked about
// come from the configuration, which bounds them. The zero value is ready.
type suites struct{ known sync.Map } // sa.Suite to error or nil

// try makes an SA of q's suite. Its keys are not known yet, and the answer does
// not depend on them, nor, once the endpoints are valid, on anything but the suite.
func (s *suites) try(q *sa.Pair) error {
	if v, ok := s.known.Load(q.Suite); ok {
		err, _ := v.(error)
		return err
	}
	trial := *q
	trial.In = sa.SA{SPI: 256, EncryptionKey: trialKey(q.Suite.EncryptionKeyLen()), IntegrityKey: trialKey(q.Suite.Integrity.KeyLen())}
	trial.Out = trial.In
	_, err := esp.NewOutbound(&trial)
	s.known.Store(q.Suite, err)
	return err
}

// trialKey returns a key no two bytes of which are alike, for ciphers that
// refuse weak ones.
func trialKey(n int) sa.Key {
	k := make(sa.Key, n)
	for i := range k {
		k[i] = byte(i*7 + 1)
	}
	return k
}

// ReserveSPI implements sa.Backend. The SPI is one that cannot be guessed, and
// unique among all of the plane's.
func (p *Plane) ReserveSPI(proto sa.Protocol, _ netip.Addr) (sa.SPI, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for range 1000 {
		var b [4]byte
		if _, err := rand.Read(b[:]); err != nil {
			return 0, fmt.Errorf("reserve SPI: %w", err)
		}
		spi := sa.SPI(binary.BigEndian.Uint32(b[:]))
		if spi <= 255 || p.inbound[spi] != nil {
			continue
		}
		if _, taken := p.reserved[spi]; !taken {
			p.reserved[spi] = proto
			return spi, nil
		}
	}
	return 0, errors.New("reserve SPI: none is free")
}

// ReleaseSPI implements sa.Backend.
func (p *Plane) ReleaseSPI(proto sa.Protocol, _ netip.Addr, spi sa.SPI) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.reserved[spi] == proto {
		delete(p.reserved, spi)
	}
}

func pathOf(q *sa.Pair) Path {
	p := Path{Local: q.Local, Remote: q.Remote, Proto: uint8(q.Suite.Protocol)}
	if q.Encap {
		p.Proto = unix.IPPROTO_UDP
	}
	return p
}

// Install implements sa.Backend.
func (p *Plane) Install(q *sa.Pair) (sa.Placement, error) {
	p.ctl.Lock()
	defer p.ctl.Unlock()
	fail := func(err error) (sa.Placement, error) {
		return sa.Placement{}, fmt.Errorf("install pair %d: %w", q.ID, err)
	}
	if p.closing.Load() {
		return fail(errors.New("the tunnel is closed"))
	}
	if err := p.Supports(q); err != nil {
		return fail(err)
	}
	pr := &pair{id: q.ID, lane: int(q.Lane), spi: q.In.SPI, path: pathOf(q), transport: q.Mode == sa.Transport, format: formatOf(q)}
	var err error
	if pr.out, err = esp.NewOutbound(q); err != nil {
		return fail(err)
	}
	if pr.in, err = esp.NewInbound(q); err != nil {
		return fail(err)
	}
	switch other := p.inbound[q.In.SPI]; {
	case other != nil:
		return fail(fmt.Errorf("SPI %s is pair %d's", q.In.SPI, other.id))
	case p.pairs[q.ID] != nil:
		return fail(errors.New("it is installed"))
	}
	p.measure(pr)
	c := p.policies.children[keyOf(&q.Policy)]
	if c == nil {
		if err := p.router.add(q.LocalTS, q.RemoteTS); err != nil {
			return fail(err)
		}
	}
	p.warnOfFilter(q)
	if err := p.router.spread(q.RemoteTS, int(q.Lanes)); err != nil {
		p.log.Warn("all of a child's pairs run on one worker", "child", q.Child, "error", err)
	}
	pr.detail = pr.format + ", " + p.wire.Admit(pr.spi, pr.path)
	p.mu.Lock()
	defer p.mu.Unlock()
	if c == nil {
		c = newChild(keyOf(&q.Policy))
		p.policies.add(c)
	}
	pr.child, c.released = c, false
	c.pairs = append(c.pairs, pr)
	p.pairs[pr.id] = pr
	p.inbound[pr.spi] = pr
	delete(p.reserved, pr.spi)
	return p.placement(pr), nil
}

// measure finds the MTU of the pair's path.
func (p *Plane) measure(pr *pair) {
	mtu, err := p.mtus.recent(pr.path.Local.Addr(), pr.path.Remote.Addr())
	if err != nil {
		mtu = defaultPath // there is no route yet
	}
	pr.mtu.Store(int32(mtu))
	pr.inner.Store(int32(pr.out.InnerMTU(mtu)))
}

// warnOfFilter tells the operator of a setting that keeps the peer's packets out.
func (p *Plane) warnOfFilter(q *sa.Pair) {
	if peer := q.Remote.Addr(); q.RemoteTS.ContainsAddr(peer) {
		if device := p.router.strict(peer); device != "" {
			p.log.Warn("the reverse path filter drops what the peer sends; set rp_filter to 2 (loose)",
				"device", device, "peer", peer, "child", q.Child)
		}
	}
}

func formatOf(q *sa.Pair) string {
	if q.Encap {
		return "software ESP in UDP"
	}
	return fmt.Sprintf("software %s over IP protocol %d", q.Suite.Protocol, uint8(q.Suite.Protocol))
}

func (p *Plane) placement(pr *pair) sa.Placement {
	return sa.Placement{Kind: sa.Userspace, Device: p.device, Detail: pr.detail}
}

// moved reports that a pair's packets take another way.
func (p *Plane) moved(spi sa.SPI, way string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	pr := p.inbound[spi]
	if pr == nil || pr.detail == pr.format+", "+way {
		return
	}
	pr.detail = pr.format + ", " + way
	p.events.emit(sa.Event{Kind: sa.Moved, Pair: pr.id, Placement: p.placement(pr)})
}

// Activate implements sa.Backend. Packets that wait for the child go out at
// once.
func (p *Plane) Activate(q *sa.Pair) error {
	p.ctl.Lock()
	defer p.ctl.Unlock()
	p.mu.Lock()
	pr := p.pairs[q.ID]
	if pr == nil {
		p.mu.Unlock()
		return fmt.Errorf("activate pair %d: not installed", q.ID)
	}
	c := pr.child
	p.count++
	p.policies.version++
	c.activated = p.count
	c.activate(pr, int(q.Lane), int(q.Lanes))
	p.release(c)
	// The child's trap may select more than was negotiated; the rest may ask
	// again.
	for o := range p.traps {
		if o.key.conn == c.key.conn && o.key.child == c.key.child {
			o.acquired = time.Time{}
			p.release(o)
		}
	}
	p.dispatch(&p.flush, p.mu.Unlock)
	return nil
}

// release lets the packets that wait for the child go their way: out, or back
// to waiting. The plane's lock is held.
func (p *Plane) release(c *child) {
	held := c.held
	c.held = nil
	for _, h := range held {
		if time.Since(h.since) >= heldTime {
			p.stats.count(outHeldStale)
			continue
		}
		p.classify(&p.flush, &packet{buf: h.buf, len: h.len})
	}
}

// Update implements sa.Backend.
func (p *Plane) Update(q *sa.Pair) error {
	p.ctl.Lock()
	defer p.ctl.Unlock()
	path := pathOf(q)
	if err := p.wire.Carries(path); err != nil {
		return fmt.Errorf("update pair %d: %w", q.ID, err)
	}
	p.mu.Lock()
	pr := p.pairs[q.ID]
	if pr == nil {
		p.mu.Unlock()
		return fmt.Errorf("update pair %d: not installed", q.ID)
	}
	before := pr.path
	pr.outMu.Lock() // what was sealed last may still be on its way
	err := errors.Join(pr.out.Update(q), pr.in.Update(q))
	pr.outMu.Unlock()
	if err == nil {
		pr.path, pr.format = path, formatOf(q)
	}
	p.mu.Unlock()
	if err != nil {
		return fmt.Errorf("update pair %d: %w", q.ID, err)
	}
	p.moved(pr.spi, p.wire.Admit(pr.spi, path))
	if before.Local.Addr() != path.Local.Addr() {
		p.wire.Dismiss(pr.spi, before)
	}
	p.measure(pr)
	return nil
}

// Remove implements sa.Backend. Where no pair and no trap is left, the child's
// traffic is dropped until Untrap or Close.
func (p *Plane) Remove(q *sa.Pair) error {
	p.ctl.Lock()
	defer p.ctl.Unlock()
	pr := p.pairs[q.ID] // which changes with ctl held only
	if pr == nil {
		return fmt.Errorf("remove pair %d: not installed", q.ID)
	}
	p.wire.Dismiss(pr.spi, pr.path)
	p.mu.Lock()
	defer p.mu.Unlock()
	pr.end()
	delete(p.pairs, pr.id)
	delete(p.inbound, pr.spi)
	c := pr.child
	c.leave(pr)
	return p.dropIdle(c)
}

// dropIdle forgets a child of which nothing is left. Both locks are held.
func (p *Plane) dropIdle(c *child) error {
	if !c.idle() {
		return nil
	}
	p.policies.remove(c)
	return p.router.remove(c.key.remote)
}

// Counters implements sa.Backend.
func (p *Plane) Counters(q *sa.Pair) (in, out sa.Counters, err error) {
	p.mu.RLock()
	pr := p.pairs[q.ID]
	p.mu.RUnlock()
	if pr == nil {
		return in, out, fmt.Errorf("count pair %d: not installed", q.ID)
	}
	return pr.in.Counters(), pr.out.Counters(), nil
}

// Trap implements sa.Backend.
func (p *Plane) Trap(q sa.Policy) error {
	p.ctl.Lock()
	defer p.ctl.Unlock()
	if !q.LocalTS.IsValid() || !q.RemoteTS.IsValid() || family(q.LocalTS.From) != family(q.RemoteTS.From) {
		return fmt.Errorf("trap %s/%s: %s and %s are not selectors of one family", q.Conn, q.Child, q.LocalTS, q.RemoteTS)
	}
	c := p.policies.children[keyOf(&q)]
	if c == nil {
		if err := p.router.add(q.LocalTS, q.RemoteTS); err != nil {
			return fmt.Errorf("trap %s/%s: %w", q.Conn, q.Child, err)
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if c == nil {
		c = newChild(keyOf(&q))
		p.policies.add(c)
	}
	c.trap, c.released, c.acquired = &q, false, time.Time{}
	p.traps[c] = struct{}{}
	return nil
}

// Untrap implements sa.Backend. A child that has no pair is then forgotten,
// and its traffic is nobody's; one that has pairs is forgotten with the last
// of them.
func (p *Plane) Untrap(q sa.Policy) error {
	p.ctl.Lock()
	defer p.ctl.Unlock()
	p.mu.Lock()
	defer p.mu.Unlock()
	c := p.policies.children[keyOf(&q)]
	if c == nil {
		return nil
	}
	c.trap, c.released, c.held = nil, true, nil
	delete(p.traps, c)
	if err := p.dropIdle(c); err != nil {
		return fmt.Errorf("untrap %s/%s: %w", q.Conn, q.Child, err)
	}
	return nil
}

// Events implements sa.Backend.
func (p *Plane) Events() <-chan sa.Event { return p.events.out }
