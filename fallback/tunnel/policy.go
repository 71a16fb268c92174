// SPDX-License-Identifier: Apache-2.0

package tunnel

import (
	"cmp"
	"math/bits"
	"net/netip"
	"slices"
	"strings"
	"time"

	"quicksand/fallback/esp"
	"quicksand/fallback/tun"
	"quicksand/sa"
)

// childKey is what makes a child the same one, whichever of its pairs is
// looked at. Endpoints move, so they are not in it.
type childKey struct {
	conn, child   string
	local, remote sa.Selector
}

func keyOf(p *sa.Policy) childKey {
	return childKey{conn: p.Conn, child: p.Child, local: p.LocalTS, remote: p.RemoteTS}
}

// child is a policy and what carries its traffic: a pair, a trap, or nothing
// and then nothing passes. It is guarded by the plane's lock; the held packets
// and acquired by its lock holding, under the read lock.
type child struct {
	key       childKey
	bits      int // specificity of the addresses
	pairs     []*pair
	lanes     []*pair    // that are active, by lane; nil: the lane has none
	live      []*pair    // those of lanes that there are
	activated uint64     // when one became active last, in the plane's count
	trap      *sa.Policy // or nil
	released  bool       // nobody wants the child any more once it has no pair

	acquired time.Time // when an Acquire was last reported for the trap
	held     []heldPacket
}

// heldPacket waits for the child's pair.
type heldPacket struct {
	buf   []byte // packet at esp.Headroom
	len   int
	since time.Time
}

func newChild(key childKey) *child {
	return &child{key: key, bits: commonBits(key.local) + commonBits(key.remote)}
}

// commonBits is how many leading bits all of a selector's addresses agree in.
func commonBits(s sa.Selector) int {
	a, b := s.From.AsSlice(), s.To.AsSlice()
	for i := range a {
		if x := a[i] ^ b[i]; x != 0 {
			return i*8 + bits.LeadingZeros8(x)
		}
	}
	return len(a) * 8
}

// compare orders children by how narrowly they select, narrowest first: by
// addresses, then protocol, then ports. Of two that select alike the one that
// has a pair comes first, the newest pair before others, and in the end the
// name decides.
func (c *child) compare(o *child) int {
	set := func(s sa.Selector) (protocol, port int) {
		if s.Protocol != 0 {
			protocol = 1
		}
		if s.Port != 0 {
			port = 1
		}
		return
	}
	lp, lport := set(c.key.local)
	rp, rport := set(c.key.remote)
	olp, olport := set(o.key.local)
	orp, orport := set(o.key.remote)
	return cmp.Or(
		cmp.Compare(o.bits, c.bits),
		cmp.Compare(olp+orp, lp+rp),
		cmp.Compare(olport+orport, lport+rport),
		cmp.Compare(o.activated, c.activated),
		strings.Compare(c.key.conn, o.key.conn),
		strings.Compare(c.key.child, o.key.child),
	)
}

// activate makes the pair its lane's active one, of as many lanes as the child
// has now.
func (c *child) activate(pr *pair, lane, lanes int) {
	pr.lane = lane
	for len(c.lanes) < lanes {
		c.lanes = append(c.lanes, nil)
	}
	c.set(lane, pr)
	for n := len(c.lanes); n > max(lanes, 1) && c.lanes[n-1] == nil; n-- {
		c.lanes = c.lanes[:n-1]
	}
	// The newest is the last one.
	c.pairs = append(slices.DeleteFunc(c.pairs, func(o *pair) bool { return o == pr }), pr)
}

// set makes the pair, or none, the lane's active one.
func (c *child) set(lane int, pr *pair) {
	for len(c.lanes) <= lane {
		c.lanes = append(c.lanes, nil)
	}
	for i, o := range c.lanes {
		if o == pr {
			c.lanes[i] = nil // it leaves its former lane
		}
	}
	c.lanes[lane] = pr
	c.live = c.live[:0]
	for _, o := range c.lanes {
		if o != nil {
			c.live = append(c.live, o)
		}
	}
}

// leave takes a pair out. The newest of its lane that is left takes its place.
func (c *child) leave(pr *pair) {
	c.pairs = slices.DeleteFunc(c.pairs, func(o *pair) bool { return o == pr })
	if pr.lane >= len(c.lanes) || c.lanes[pr.lane] != pr {
		return
	}
	var next *pair
	for _, o := range slices.Backward(c.pairs) {
		if o.lane == pr.lane {
			next = o
			break
		}
	}
	c.set(pr.lane, next)
}

// carrier is the pair that a flow's packets go out over, or nil.
func (c *child) carrier(flow tun.FlowHash) *pair {
	if len(c.live) <= 1 {
		return c.anyone()
	}
	if pr := c.lanes[flow.Lane(len(c.lanes))]; pr != nil {
		return pr
	}
	return c.live[flow.Again(len(c.live))]
}

// instead is the pair in the place of one that was taken out, or nil.
func (c *child) instead(pr *pair) *pair {
	if pr.lane < len(c.lanes) && c.lanes[pr.lane] != nil {
		return c.lanes[pr.lane]
	}
	return c.anyone()
}

func (c *child) anyone() *pair {
	if len(c.live) == 0 {
		return nil
	}
	return c.live[0]
}

// idle reports whether nothing is left of the child.
func (c *child) idle() bool { return c.released && len(c.pairs) == 0 && c.trap == nil }

// policies finds the child of an outbound packet.
type policies struct {
	children map[childKey]*child
	version  uint64 // changes with whatever find's answers depend on
	// buckets holds the children by each prefix of their remote selectors,
	// lengths the prefix lengths in use of either family, longest first.
	buckets map[netip.Prefix][]*child
	lengths [2][]int
	uses    [2][129]int
}

func newPolicies() policies {
	return policies{children: map[childKey]*child{}, buckets: map[netip.Prefix][]*child{}}
}

func family(a netip.Addr) int {
	if a.Is4() {
		return 0
	}
	return 1
}

func (t *policies) add(c *child) {
	t.version++
	t.children[c.key] = c
	for _, p := range c.key.remote.Prefixes() {
		t.buckets[p] = append(t.buckets[p], c)
		t.use(p, +1)
	}
}

func (t *policies) remove(c *child) {
	t.version++
	delete(t.children, c.key)
	for _, p := range c.key.remote.Prefixes() {
		b := slices.DeleteFunc(t.buckets[p], func(o *child) bool { return o == c })
		if len(b) == 0 {
			delete(t.buckets, p)
		} else {
			t.buckets[p] = b
		}
		t.use(p, -1)
	}
}

func (t *policies) use(p netip.Prefix, n int) {
	f := family(p.Addr())
	t.uses[f][p.Bits()] += n
	t.lengths[f] = t.lengths[f][:0]
	for l := 128; l >= 0; l-- {
		if t.uses[f][l] > 0 {
			t.lengths[f] = append(t.lengths[f], l)
		}
	}
}

// find returns the child whose traffic the packet is, or nil.
func (t *policies) find(h *esp.Header) *child {
	var best *child
	for _, l := range t.lengths[family(h.Dst)] {
		p, err := h.Dst.Prefix(l)
		if err != nil {
			continue
		}
		for _, c := range t.buckets[p] {
			if h.Matches(&c.key.local, &c.key.remote) && (best == nil || c.compare(best) < 0) {
				best = c
			}
		}
	}
	return best
}
