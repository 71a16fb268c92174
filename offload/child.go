// SPDX-License-Identifier: Apache-2.0

package offload

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"quicksand/sa"
)

// childKey is what makes a child the same one, whichever of its pairs is
// looked at. Endpoints move, so they are not in it.
type childKey struct {
	conn, child   string
	local, remote sa.Selector
	marking       sa.Marking
}

func keyOf(p *sa.Policy) childKey {
	return childKey{conn: p.Conn, child: p.Child, local: p.LocalTS, remote: p.RemoteTS, marking: p.Marking}
}

// child is a policy of the contract: what it selects, and what carries it.
type child struct {
	key       childKey
	pairs     []*pair // the one activated last is the last
	active    *pair
	activated uint64     // when it last became active, in the backend's count
	route     sa.Policy  // that its route was made for
	trap      *sa.Policy // or nil
	trapReqid uint32     // see newTrapReqid
	released  bool       // nobody wants the child any more once it has no pair
	slots     []*slot
}

// pair is an installed pair.
type pair struct {
	*sa.Pair
	child   *child
	in, out state // as installed; without keys
	at      sa.Placement
	offload *offloading // of both SAs, where they have one

	expired         bool // it carries nothing any more: a hard limit, or its device
	moving          bool // its SAs are being made anew
	soft            bool // SoftExpired was reported
	watch           watch
	remapped        remapping
	lastIn, lastOut activity
}

// slot is one policy of the kernel. Of the children that want it one has it.
// Beside an offloaded policy stands a guard that blocks the same traffic: the
// kernel drops offloaded policies when their device goes down.
type slot struct {
	key       slotKey
	children  []*child
	installed *policy // or nil
}

type slotKey struct {
	dir   direction
	sel   selector
	mark  sa.Mark
	ifID  uint32
	guard bool
}

// maxPolicies bounds the pairs of subnets that a child's selectors may need.
const maxPolicies = 64

// selectorsOf returns the selectors of a child's out policies: its ranges as
// subnets, each with each.
func selectorsOf(k childKey) []selector {
	var out []selector
	for _, l := range k.local.Prefixes() {
		for _, r := range k.remote.Prefixes() {
			out = append(out, selector{Src: l, Dst: r, Proto: cmp.Or(k.local.Protocol, k.remote.Protocol),
				SPort: k.local.Port, DPort: k.remote.Port})
		}
	}
	return out
}

// reverse is the selector of the traffic's other direction.
func (s selector) reverse() selector {
	return selector{Src: s.Dst, Dst: s.Src, Proto: s.Proto, SPort: s.DPort, DPort: s.SPort, Device: s.Device}
}

// guarded is the selector of the guard beside an offloaded policy. Between two
// hosts it is one bit wider at the local end. The kernel keeps policies between
// hosts in a hash table, and looks at offloaded ones first only as long as the
// table does not grow (xfrm_dst_hash_transfer): after that a guard of the same
// selector may come first, and all is blocked. What is wider is kept elsewhere,
// where it does not look once it has found an offloaded policy.
func (s selector) guarded() selector {
	if whole := s.Src.Addr().BitLen(); s.Src.Bits() == whole && s.Dst.Bits() == whole {
		s.Src = netip.PrefixFrom(s.Src.Addr(), whole-1).Masked()
	}
	return s
}

// guardPriority is that of the guard with the selector. One that is wider than
// what it guards comes after all other policies: for the neighbour's traffic it
// is only where nothing else is.
func (s selector) guardPriority() uint32 {
	if hosts := 2*s.Src.Addr().BitLen() - 1; s.Src.Bits()+s.Dst.Bits() == hosts && s.Dst.IsSingleIP() {
		return 1<<32 - 2
	}
	return s.priority() + 1
}

// basePriority is that of the policy which selects everything. Narrower ones
// have lower numbers, which the kernel looks at first. Between any two there is
// room for the policy's other priority and for its guard.
const basePriority = 100000

func (s selector) priority() uint32 {
	n := 9 * (s.Src.Bits() + s.Dst.Bits())
	for _, set := range []bool{s.Proto != 0, s.SPort != 0, s.DPort != 0} {
		if set {
			n += 2
		}
	}
	return uint32(basePriority - 4*n)
}

// occupy gives the child its slots; they are filled by settle.
func (b *Backend) occupy(c *child) {
	m := c.key.marking
	for _, sel := range selectorsOf(c.key) {
		out := slotKey{dir: dirOut, sel: sel, mark: m.Out, ifID: m.IfIDOut}
		guard := out
		guard.sel, guard.guard = sel.guarded(), true
		in := slotKey{dir: dirIn, sel: sel.reverse(), mark: m.In, ifID: m.IfIDIn}
		fwd := in
		fwd.dir = dirFwd
		for _, k := range []slotKey{guard, out, in, fwd} {
			s := b.slots[k]
			if s == nil {
				s = &slot{key: k}
				b.slots[k] = s
			}
			s.children = append(s.children, c)
			c.slots = append(c.slots, s)
		}
	}
}

// vacate takes the child's slots away from it.
func (b *Backend) vacate(c *child) error {
	slots := c.slots
	c.slots = nil
	for _, s := range slots {
		s.children = slices.DeleteFunc(s.children, func(o *child) bool { return o == c })
	}
	return b.settle(slots)
}

// winner is the child that has the slot: the one activated last.
func (s *slot) winner() *child {
	if len(s.children) == 0 {
		return nil
	}
	return slices.MaxFunc(s.children, func(a, c *child) int { return cmp.Compare(a.activated, c.activated) })
}

// settle makes the kernel's policies in the slots what they ought to be.
func (b *Backend) settle(slots []*slot) error {
	type change struct {
		slot *slot
		to   *policy
	}
	var requests, removals []request
	var changes, removed []change
	looked := make(map[*slot]struct{}, len(slots))
	for _, s := range slots {
		if _, again := looked[s]; again {
			continue
		}
		looked[s] = struct{}{}
		want := b.wanted(s)
		switch r, ok := s.change(want); {
		case ok && want == nil:
			removals, removed = append(removals, r), append(removed, change{s, nil})
		case ok:
			requests, changes = append(requests, r), append(changes, change{s, want})
		}
	}
	// What goes, goes last: a guard stays until what it guards blocks by itself.
	requests, changes = append(requests, removals...), append(changes, removed...)
	var errs []error
	for i, r := range b.conn.do(requests...) {
		c := changes[i]
		switch {
		case r.err == nil, c.to == nil && absent(r.err):
			c.slot.record(b, c.to)
		case c.to != nil && c.slot.installed == nil && errors.Is(r.err, unix.EEXIST):
			errs = append(errs, fmt.Errorf("%w: another program has a policy for the same traffic", r.err))
		default:
			errs = append(errs, r.err)
		}
	}
	for _, s := range slots {
		if len(s.children) == 0 && s.installed == nil {
			delete(b.slots, s.key)
		}
	}
	return errors.Join(errs...)
}

// record notes what is in the slot now.
func (s *slot) record(b *Backend, p *policy) {
	if s.installed != nil {
		delete(b.byIndex, s.installed.Index)
	}
	s.installed = p
	if p != nil {
		b.byIndex[p.Index] = s
	}
}

// change returns the request that makes want of what is in the slot, if one is
// needed.
func (s *slot) change(want *policy) (request, bool) {
	switch {
	case want == nil && s.installed == nil:
		return request{}, false
	case want == nil:
		return request{what: fmt.Sprintf("remove %s policy", s.key.dir), kind: msgDelPolicy, body: s.installed.encodeID()}, true
	case s.installed == nil:
		// NEWPOLICY does not replace a policy, which would be another program's.
		return request{what: fmt.Sprintf("add %s policy", s.key.dir), kind: msgNewPolicy, body: want.encode()}, true
	case want.equal(s.installed):
		return request{}, false
	}
	return request{what: fmt.Sprintf("change %s policy", s.key.dir), kind: msgUpdPolicy, body: want.encode()}, true
}

// wanted is the policy that ought to be in the slot.
func (b *Backend) wanted(s *slot) *policy {
	c := s.winner()
	if c == nil || s.key.guard && !slices.ContainsFunc(s.children, (*child).offloaded) {
		return nil
	}
	p := &policy{Selector: s.key.sel, Dir: s.key.dir, Priority: s.key.sel.priority(), Mark: s.key.mark, IfID: s.key.ifID}
	if s.installed != nil {
		p.Index = s.installed.Index
	} else {
		p.Index = b.newIndex(s.key.dir)
	}
	if s.key.guard {
		p.Block, p.Guard, p.Priority = true, true, s.key.sel.guardPriority()
		return p
	}
	switch s.key.dir {
	case dirOut:
		p.Template = c.outTemplate()
		if c.active != nil && p.Template != nil {
			p.Offload = c.active.policyOffload()
		}
	case dirIn:
		p.Template = c.inTemplate()
		for _, pair := range c.pairs {
			if o := pair.policyOffload(); o != nil && !pair.expired {
				p.Offload = o
			}
		}
	default: // what is forwarded is never offloaded
		p.Template = c.inTemplate()
	}
	p.Block = p.Template == nil
	if was := s.installed; was != nil {
		p.Priority = was.Priority
		if was.Offload != nil && p.Offload != nil && !p.equal(was) {
			// A NIC cannot hold both for the moment of the change, unless at
			// different priorities.
			p.Priority = 2*s.key.sel.priority() - 1 - was.Priority
		}
	}
	return p
}

// offloaded reports whether a device decides what the child's traffic goes out
// through.
func (c *child) offloaded() bool {
	return c.active != nil && c.active.policyOffload() != nil && c.outTemplate() != nil
}

// policyOffload is what the policies of a pair ask for: offload is theirs with
// packet offload only.
func (p *pair) policyOffload() *offloading {
	if p.offload == nil || !p.offload.Packet {
		return nil
	}
	return &offloading{Device: p.offload.Device, Packet: true}
}

// newIndex returns an index that marks a policy as ours and is not in use.
func (b *Backend) newIndex(d direction) uint32 {
	for {
		b.lastIndex = (b.lastIndex + 8) & (ownIndexEnd - ownIndex - 1)
		i := ownIndex | b.lastIndex | uint32(d)
		if _, taken := b.byIndex[i]; !taken {
			return i
		}
	}
}

// outTemplate is what the child's traffic goes out through, or nil where
// nothing may pass.
func (c *child) outTemplate() *template {
	switch p := c.active; {
	case p != nil && (p.expired || p.moving):
		return nil
	case p != nil:
		t := endpoints(&p.Policy, p.Suite.Protocol)
		t.SPI, t.Reqid = p.Out.SPI, p.out.Reqid
		return &t
	case c.trap != nil:
		t := endpoints(c.trap, sa.ESP)
		t.Reqid = c.trapReqid
		return &t
	}
	return nil
}

// newTrapReqid returns the reqid of a trap that is set from now on. No SA has
// it, so nothing goes out through one that is not activated yet. And the kernel
// takes its own questions by it: while one is open, for half a minute, it asks
// no other of the same reqid and peer.
func (b *Backend) newTrapReqid() uint32 {
	b.trapReqids++
	return trapReqid | b.trapReqids&0xfffff
}

// inTemplate is what the child's traffic must have come in through.
func (c *child) inTemplate() *template {
	var t template
	switch {
	case c.active != nil:
		t = endpoints(&c.active.Policy, c.active.Suite.Protocol)
	case len(c.pairs) > 0:
		p := c.pairs[len(c.pairs)-1]
		t = endpoints(&p.Policy, p.Suite.Protocol)
	case c.trap != nil:
		t = endpoints(c.trap, sa.ESP)
		t.Reqid = c.trapReqid
	default:
		return nil
	}
	t.Src, t.Dst = t.Dst, t.Src
	return &t
}

func endpoints(p *sa.Policy, proto sa.Protocol) template {
	return template{Src: p.Local.Addr().WithZone(""), Dst: p.Remote.Addr().WithZone(""), Proto: proto, Reqid: p.Reqid, Mode: p.Mode}
}

func (p *policy) equal(o *policy) bool {
	return p.Selector == o.Selector && p.Dir == o.Dir && p.Priority == o.Priority && p.Index == o.Index &&
		p.Block == o.Block && p.Guard == o.Guard && p.Mark == o.Mark && p.IfID == o.IfID && same(p.Template, o.Template) && same(p.Offload, o.Offload)
}

// same compares what two pointers point to.
func same[T comparable](a, b *T) bool {
	if a == nil || b == nil {
		return a == b
	}
	return *a == *b
}

// given reports whether a is a real address, and not one for the kernel to
// choose.
func given(a netip.Addr) bool { return a.IsValid() && !a.IsUnspecified() }
