// SPDX-License-Identifier: Apache-2.0

package ike

import (
	"slices"

	"quicksand/ike/isakmp"
	"quicksand/sa"
)

// A child with parallel_sas = N has N pairs of SAs side by side, each of a Quick
// Mode of its own with the same proxy identities, which RFC 2409 section 5.5
// allows. Each pair has a lane, from 0 to N-1, and all that this package does
// with the pairs of a child it does lane by lane: a renegotiation replaces the
// pair of its own lane, what is deleted comes back there.
//
// The peer cannot tell a pair of another lane from a renegotiation by looking at
// the messages. Two ends that have announced it to each other by a vendor id say
// the lane in message 1, in a status notification of the private range (RFC 2408
// section 3.14.1), which others would ignore. As the responder of any other peer
// we guess: what it begins goes to a lane that has no pair, else to that of the
// oldest, which it is most likely to renegotiate. Where that was wrong the peer
// deletes another than the one we took for replaced, and the latter comes back
// (deletedByPeer). There are never more than N pairs beside those that were
// replaced and are about to go.

// vendorParallel is MD5("quicksand parallel SAs"). The numbers that go with it
// count only between ends that have both sent it.
var vendorParallel = unhex("3bafd3291eb2344a1695395d59bd131c")

// announcesParallel reports whether any child has parallel pairs. Which
// connection an IKE SA ends up under is not known yet when vendor ids are sent.
func (c *Config) announcesParallel() bool {
	return slices.ContainsFunc(c.Connections, func(c *Connection) bool {
		return slices.ContainsFunc(c.Children, func(c *Child) bool { return c.lanes() > 1 })
	})
}

// alike reports whether two child SAs are of one child, traffic and lane.
func (c *child) alike(o *child) bool {
	return c.sibling(o) && c.pair.Lane == o.pair.Lane
}

// sibling reports whether two child SAs are of one child and traffic.
func (c *child) sibling(o *child) bool {
	return c.cfg.Name == o.cfg.Name && c.pair.LocalTS == o.pair.LocalTS && c.pair.RemoteTS == o.pair.RemoteTS
}

// toLane moves the pair to another lane.
func (c *child) toLane(lane uint8) {
	p := *c.pair
	p.Lane = lane
	c.pair = &p
}

// sameLane reports whether two Quick Modes are for one lane of one child.
func (q *quickMode) sameLane(o *quickMode) bool {
	return o.cfg != nil && q.cfg.Name == o.cfg.Name && q.lane == o.lane
}

// startLanes are the lanes that a command to bring the child up is about: those
// that have no pair and will not have one soon, else all of them.
func (s *ikeSA) startLanes(cfg *Child, local, remote sa.Selector) (lanes []uint8) {
	all := make([]uint8, cfg.lanes())
	for i := range all {
		all[i] = uint8(i)
		q := &quickMode{cfg: cfg, lane: uint8(i)}
		if s.twin(cfg, local, remote, uint8(i)) == nil && !s.begunLane(q) {
			lanes = append(lanes, uint8(i))
		}
	}
	if len(lanes) == 0 || len(all) == 1 {
		return all
	}
	return lanes
}

// begunLane reports whether we have begun a Quick Mode for the lane.
func (s *ikeSA) begunLane(q *quickMode) bool {
	of := func(x *exchange) bool { return x.initiator && q.sameLane(x.q) }
	for _, x := range s.quick {
		if of(x) {
			return true
		}
	}
	return slices.ContainsFunc(s.turns.rekeys, of) || slices.ContainsFunc(s.turns.fresh, of)
}

// lanePayload tells the peer the lane, where that can be told and says anything.
func (x *exchange) lanePayload() (isakmp.Payload, bool) {
	if !x.s.peer.parallel || x.q.cfg.lanes() == 1 {
		return isakmp.Payload{}, false
	}
	n := isakmp.Notification{DOI: isakmp.DOIIPsec, Protocol: isakmp.ProtoISAKMP, Type: isakmp.ParallelSA, Data: []byte{x.q.lane}}
	return isakmp.Payload{Type: isakmp.PayloadNotify, Body: n.Append(nil)}, true
}

// saidLane is the lane that the peer's message 1 names.
func (s *ikeSA) saidLane(m *message) (uint8, bool) {
	if !s.peer.parallel {
		return 0, false
	}
	for _, b := range m.bodies(isakmp.PayloadNotify) {
		if n, err := isakmp.ParseNotification(b); err == nil && n.Type == isakmp.ParallelSA && len(n.Data) == 1 {
			return n.Data[0], true
		}
	}
	return 0, false
}

// chooseLane is the responder's choice of the lane.
func (x *exchange) chooseLane(m *message) error {
	s, q := x.s, x.q
	n := q.cfg.lanes()
	if n == 1 {
		return nil
	}
	if lane, ok := s.saidLane(m); ok {
		if int(lane) >= n {
			return refuse(isakmp.NoProposalChosen, "the peer wants more pairs of %s side by side than the %d of our parallel_sas", q.cfg.Name, n)
		}
		q.lane = lane
		return nil
	}
	var taken, replaced [MaxParallel]bool
	for _, o := range s.quick {
		if o != x && o.q.cfg != nil && o.q.cfg.Name == q.cfg.Name && o.q.local == q.local && o.q.remote == q.remote {
			taken[o.q.lane] = true
			replaced[o.q.lane] = o.q.replaces != nil
		}
	}
	var oldest *child
	for _, c := range s.children {
		if c.live() && c.cfg.Name == q.cfg.Name && c.pair.LocalTS == q.local && c.pair.RemoteTS == q.remote {
			taken[c.pair.Lane] = true
			if !replaced[c.pair.Lane] && int(c.pair.Lane) < n && (oldest == nil || c.installed.Before(oldest.installed)) {
				oldest = c
			}
		}
	}
	if free := slices.Index(taken[:n], false); free >= 0 {
		q.lane = uint8(free)
	} else if oldest != nil {
		q.lane, q.guessed = oldest.pair.Lane, true
	}
	return nil
}

// split has a command answered once, when n Quick Modes have ended.
func (e *Engine) split(command uint64, n int) {
	if command != 0 && n > 1 {
		e.parts[command] = &part{left: n}
	}
}

// part is a command of which some Quick Modes have not ended.
type part struct {
	left int
	err  error // the first
}

// ended takes in that one of a command's Quick Modes has ended and reports
// whether it was the last; err is then the answer.
func (e *Engine) ended(command uint64, err *error) bool {
	p := e.parts[command]
	if p == nil {
		return true
	}
	if p.err == nil {
		p.err = *err
	}
	if p.left--; p.left > 0 {
		return false
	}
	delete(e.parts, command)
	*err = p.err
	return true
}
