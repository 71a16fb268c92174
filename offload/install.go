// SPDX-License-Identifier: Apache-2.0

package offload

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"quicksand/sa"
)

// hardSlack is how much longer than the pair's own time the kernel keeps an SA:
// renegotiating and deleting it in time is the daemon's work, and the kernel's
// only where the daemon does not live.
const hardSlack = time.Minute

// makeStates makes the two SAs of a pair.
func (b *Backend) makeStates(q *sa.Pair, how attempt) (in, out state, err error) {
	local, remote := q.Local.Addr().WithZone(""), q.Remote.Addr().WithZone("")
	common := state{Mode: q.Mode, Reqid: q.Reqid, ESN: q.Suite.ESN, Window: q.ReplayWindow, Limits: limitsOf(q.Lifetime)}
	if !b.directions {
		common.OutWindow = 32 // which ESN needs there in either direction
	}
	if !q.CopyECN {
		common.Flags |= flagNoECN
	}
	if q.Mode == sa.Tunnel {
		common.Flags |= flagAnyFamily
	}
	if q.Suite.Protocol == sa.AH && local.Is4() {
		common.Flags |= flagAlign4 // as in RFC 4302 section 2.6; by itself the kernel pads to 8
	}
	in, out = common, common
	in.ID, in.Src, in.Inbound = stateID{local, q.In.SPI, q.Suite.Protocol}, remote, true
	out.ID, out.Src = stateID{remote, q.Out.SPI, q.Suite.Protocol}, local
	in.IfID, out.IfID = q.Marking.IfIDIn, q.Marking.IfIDOut
	in.SetMark, out.SetMark = q.Marking.SetIn, q.Marking.SetOut
	if b.o.Mark != 0 && out.SetMark.Mask == 0 {
		out.SetMark = sa.Mark{Value: b.o.Mark, Mask: ^uint32(0)}
	}
	if err := errors.Join(in.transforms(q.Suite, &q.In), out.transforms(q.Suite, &q.Out)); err != nil {
		return in, out, err
	}
	if q.CopyDSCP == sa.DSCPIn || q.CopyDSCP == sa.DSCPBoth {
		in.Flags |= flagDecapDSCP
	}
	if q.CopyDSCP == sa.DSCPIn || q.CopyDSCP == sa.DSCPNone {
		out.Extra |= extraNoDSCP
	}
	if !q.CopyDF {
		out.Flags |= flagNoPMTUDisc
	}
	if !q.Suite.ESN && how.kind != sa.Packet {
		out.Limits.withinSequence()
	}
	if sel := selectorsOf(keyOf(&q.Policy)); q.Mode == sa.Transport && len(sel) == 1 {
		// A policy checks what comes in by one of its own SAs; what comes in
		// by this one and matches no policy, the SA has to.
		back := sel[0].reverse()
		in.Selector, out.Selector = &back, &sel[0]
	}
	if q.Encap {
		in.Encap = &encapsulation{q.Remote.Port(), q.Local.Port(), q.OriginalRemote}
		out.Encap = &encapsulation{q.Local.Port(), q.Remote.Port(), q.OriginalLocal}
	}
	how.shape(q, &in, &out)
	return in, out, nil
}

func limitsOf(l sa.Lifetime) limits {
	out := limits{
		SoftBytes: l.Soft.Bytes, HardBytes: l.Hard.Bytes,
		SoftPackets: l.Soft.Packets, HardPackets: l.Hard.Packets,
	}
	if l.Hard.Time > 0 {
		out.HardTime = l.Hard.Time + hardSlack
	}
	return out
}

// withinSequence has an SA renegotiated before its 32-bit sequence numbers are
// used up (RFC 4303 section 3.3.3): the kernel then only drops its packets. A
// NIC that counts them is left alone; kernels before 6.7 refuse limits there.
func (l *limits) withinSequence() {
	const last = 1<<32 - 1
	if l.HardPackets == 0 || l.HardPackets > last {
		l.HardPackets = last
	}
	if l.SoftPackets == 0 || l.SoftPackets >= last {
		l.SoftPackets = last / 16 * 15
	}
}

// Install implements sa.Backend.
func (b *Backend) Install(q *sa.Pair) (sa.Placement, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	fail := func(err error) (sa.Placement, error) {
		return sa.Placement{}, fmt.Errorf("install pair %d: %w", q.ID, err)
	}
	if b.closed {
		return fail(errors.New("XFRM is closed"))
	}
	if b.pairs[q.ID] != nil {
		return fail(errors.New("it is installed"))
	}
	if err := b.supports(q); err != nil {
		return fail(err)
	}
	if q.Suite.ESN && q.ReplayWindow == 0 {
		return fail(errors.New("the kernel has no ESN without a replay window"))
	}
	attempts, why := b.attempts(q)
	for _, how := range attempts {
		p, err := b.place(q, how)
		if err != nil {
			why = append(why, fmt.Sprintf("not %s: %v", how.kind, err))
			b.remember(how, q, err)
			continue
		}
		p.at.Detail = strings.Join(append([]string{p.at.Detail}, why...), "; ")
		return p.at, nil
	}
	return fail(errors.New(strings.Join(why, "; ")))
}

// place installs a pair in one way, or leaves nothing behind.
func (b *Backend) place(q *sa.Pair, how attempt) (*pair, error) {
	p := &pair{Pair: q, offload: how.offload()}
	var err error
	if p.in, p.out, err = b.makeStates(q, how); err != nil {
		return nil, err
	}
	if how.kind != sa.Kernel {
		b.conn.drivers.Store(true)
	}
	if how.kind == sa.Packet {
		if err := b.letIKEPass(how.egress, q.Remote.Addr().Is6()); err != nil {
			return nil, err
		}
	}
	if err := b.decapsulate(q, true); err != nil {
		return nil, err
	}
	undo := func(err error) (*pair, error) {
		_ = b.decapsulate(q, false)
		return nil, err
	}
	inSeen, outSeen, err := b.addStates(&p.in, &p.out)
	if err != nil {
		return undo(err)
	}
	p.in.forgetKeys()
	p.out.forgetKeys()
	p.at = b.placementOf(q, how, inSeen, outSeen)
	if p.at.Kind != how.kind {
		return undo(errors.Join(fmt.Errorf("%s: %w", how.egress.describe(), errSoftware), b.deleteStates(p)))
	}
	if err := b.adopt(p); err != nil {
		return undo(errors.Join(err, b.deleteStates(p)))
	}
	delete(b.reserved, p.in.ID)
	b.watchSoon(p)
	return p, nil
}

// addStates installs the two SAs and returns what the kernel made of them, where
// they ask for an offload: nothing else can come of those that do not. On an
// error there is neither.
func (b *Backend) addStates(in, out *state) (inSeen, outSeen *seen, err error) {
	requests := []request{
		{what: "add inbound SA", kind: msgNewSA, body: in.encode()},
		{what: "add outbound SA", kind: msgNewSA, body: out.encode()},
	}
	if in.Offload != nil {
		requests = append(requests, reading(in.ID), reading(out.ID))
	}
	if _, ok := b.reserved[in.ID]; ok {
		requests[0].kind = msgUpdSA // it replaces the reservation
	}
	got := b.conn.do(requests...)
	if requests[0].kind == msgUpdSA && errors.Is(got[0].err, unix.ESRCH) {
		// The reservation has expired.
		requests[0].kind, requests[0].body = msgNewSA, in.encode()
		got[0] = b.conn.do(requests[0])[0]
		if in.Offload != nil {
			got[2] = b.conn.do(reading(in.ID))[0]
		}
	}
	added := func(i int) bool { return got[i].err == nil }
	if added(0) && added(1) && in.Offload == nil {
		return nil, nil, nil
	} else if added(0) && added(1) {
		inSeen, err = answer(got[2])
		if err == nil {
			outSeen, err = answer(got[3])
		}
	} else {
		err = cmp.Or(got[0].err, got[1].err)
	}
	if err == nil {
		return inSeen, outSeen, nil
	}
	var undo []request
	for i, id := range []stateID{in.ID, out.ID} {
		if added(i) {
			undo = append(undo, deletion(id))
		}
	}
	for _, r := range b.conn.do(undo...) {
		if r.err != nil && !absent(r.err) {
			err = errors.Join(err, r.err)
		}
	}
	return nil, nil, err
}

// adopt gives the pair to its child, and the child its policies. On an error
// all is as it was before.
func (b *Backend) adopt(p *pair) error {
	key := keyOf(&p.Policy)
	c := b.children[key]
	fresh := c == nil
	if fresh {
		var err error
		if c, err = b.newChild(&p.Policy); err != nil {
			return err
		}
	}
	p.child, c.released = c, false
	c.pairs = append(c.pairs, p)
	if err := b.settle(c.slots); err != nil {
		c.pairs = c.pairs[:len(c.pairs)-1]
		if fresh {
			delete(b.children, key)
			err = errors.Join(err, b.vacate(c), b.router.remove(&p.Policy))
		} else {
			err = errors.Join(err, b.settle(c.slots))
		}
		return err
	}
	b.pairs[p.ID] = p
	b.states[p.in.ID], b.states[p.out.ID] = p, p
	return nil
}

// newChild has a child that nothing is installed of yet, and its route.
func (b *Backend) newChild(q *sa.Policy) (*child, error) {
	if q.LocalTS.From.Is6() {
		if err := b.letNeighboursPass(); err != nil {
			return nil, err
		}
	}
	if err := b.router.add(q); err != nil {
		return nil, err
	}
	c := &child{key: keyOf(q), route: *q}
	b.children[c.key] = c
	b.occupy(c)
	return c, nil
}

// forgetKeys drops the references to the keys, which belong to the pair.
func (s *state) forgetKeys() { s.AEAD, s.Crypt, s.Auth = nil, nil, nil }

// Activate implements sa.Backend.
func (b *Backend) Activate(q *sa.Pair) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	p := b.pairs[q.ID]
	if p == nil {
		return fmt.Errorf("activate pair %d: not installed", q.ID)
	}
	c := p.child
	b.count++
	c.active, c.activated = p, b.count
	c.pairs = append(slices.DeleteFunc(c.pairs, func(o *pair) bool { return o == p }), p)
	if err := b.settle(c.slots); err != nil {
		return fmt.Errorf("activate pair %d: %w", q.ID, err)
	}
	return nil
}

// Remove implements sa.Backend. The policies change first: at no moment does
// one of them name an SA that is not there.
func (b *Backend) Remove(q *sa.Pair) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	p := b.pairs[q.ID]
	if p == nil {
		return fmt.Errorf("remove pair %d: not installed", q.ID)
	}
	c := p.child
	delete(b.pairs, q.ID)
	delete(b.unused, q.ID)
	delete(b.states, p.in.ID)
	delete(b.states, p.out.ID)
	c.pairs = slices.DeleteFunc(c.pairs, func(o *pair) bool { return o == p })
	if c.active == p {
		c.active = nil
		c.trapReqid = b.newTrapReqid()
		if n := len(c.pairs); n > 0 {
			c.active = c.pairs[n-1]
		}
	}
	delete(b.lost, q.ID)
	err := errors.Join(b.settle(c.slots), b.deleteStates(p), b.decapsulate(q, false), b.dropIdle(c))
	if err != nil {
		return fmt.Errorf("remove pair %d: %w", q.ID, err)
	}
	return nil
}

// deleteStates removes a pair's SAs, where they are still there.
func (b *Backend) deleteStates(p *pair) error {
	var errs []error
	for _, r := range b.conn.do(deletion(p.in.ID), deletion(p.out.ID)) {
		if r.err != nil && !absent(r.err) {
			errs = append(errs, r.err)
		}
	}
	return errors.Join(errs...)
}

// dropIdle forgets a child of which nothing is left.
func (b *Backend) dropIdle(c *child) error {
	if !c.released || len(c.pairs) > 0 || c.trap != nil {
		return nil
	}
	delete(b.children, c.key)
	return errors.Join(b.vacate(c), b.router.remove(&c.route))
}

// Trap implements sa.Backend.
func (b *Backend) Trap(q sa.Policy) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	fail := func(err error) error { return fmt.Errorf("trap %s/%s: %w", q.Conn, q.Child, err) }
	if err := b.selectable(&q); err != nil {
		return fail(err)
	}
	key := keyOf(&q)
	c := b.children[key]
	fresh := c == nil
	if fresh {
		var err error
		if c, err = b.newChild(&q); err != nil {
			return fail(err)
		}
	}
	if c.trap == nil || *c.trap != q {
		c.trapReqid = b.newTrapReqid()
	}
	c.trap, c.released = &q, false
	if err := b.settle(c.slots); err != nil {
		c.trap = nil
		if fresh {
			c.released = true
			err = errors.Join(err, b.dropIdle(c))
		}
		return fail(err)
	}
	return nil
}

// Untrap implements sa.Backend. A child that has no pair is then forgotten,
// and its traffic is nobody's; one that has pairs is forgotten with the last
// of them.
func (b *Backend) Untrap(q sa.Policy) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	c := b.children[keyOf(&q)]
	if c == nil {
		return nil
	}
	c.trap, c.released = nil, true
	if err := errors.Join(b.settle(c.slots), b.dropIdle(c)); err != nil {
		return fmt.Errorf("untrap %s/%s: %w", q.Conn, q.Child, err)
	}
	return nil
}

// decapsulate tells the NAT traversal port whether the pair's packets are for
// the kernel.
func (b *Backend) decapsulate(q *sa.Pair, on bool) error {
	if !q.Encap || b.o.NATT == nil {
		return nil
	}
	return b.o.NATT.KernelSPI(q.In.SPI, on)
}
