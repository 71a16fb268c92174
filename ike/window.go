// SPDX-License-Identifier: Apache-2.0

package ike

import (
	"errors"
	"slices"
)

// maxOwn is how many Quick Modes of its own an IKE SA has under way at most; the
// others wait for their turn. Responders bound what a peer may have under way
// (ours to maxPending) and drop the rest, which then waits for retransmissions:
// it is far quicker not to send it yet. This is half of that bound, since what is
// done here may not be done there yet. Where nothing is lost 16 are as quick; where
// much is lost, 16 take twice as long (TestManyChildren).
const maxOwn = 32

// maxWaiting bounds those that wait.
const maxWaiting = 1 << 14

var errManyWait = errors.New("too many Quick Modes wait for their turn already")

// turns are Quick Modes of our own that wait for their turn, oldest first. None
// of them has a message id or a timer, and nothing is reserved for it.
// Renegotiations go first: what they replace is about to end.
type turns struct{ rekeys, fresh []*exchange }

func (t *turns) len() int { return len(t.rekeys) + len(t.fresh) }

func (t *turns) add(x *exchange) {
	if x.q.replaces != nil {
		t.rekeys = append(t.rekeys, x)
	} else {
		t.fresh = append(t.fresh, x)
	}
}

// next takes out the one whose turn it is.
func (t *turns) next() (x *exchange) {
	list := &t.rekeys
	if len(*list) == 0 {
		list = &t.fresh
	}
	x, (*list)[0] = (*list)[0], nil
	if *list = (*list)[1:]; len(*list) == 0 {
		*list = nil
	}
	return x
}

// take takes out those that which says to.
func (t *turns) take(which func(*exchange) bool) (out []*exchange) {
	for _, list := range []*[]*exchange{&t.rekeys, &t.fresh} {
		*list = slices.DeleteFunc(*list, func(x *exchange) bool {
			if !which(x) {
				return false
			}
			out = append(out, x)
			return true
		})
	}
	return out
}

// own counts the Quick Modes of our own that are under way.
func (s *ikeSA) own() (n int) {
	for _, x := range s.quick {
		if x.initiator {
			n++
		}
	}
	return n
}

// admit begins a Quick Mode of our own, now or when its turn comes.
func (s *ikeSA) admit(x *exchange) {
	x.s = s
	switch {
	case s.own() < s.e.window:
		x.begin()
	case s.turns.len() >= maxWaiting:
		x.fail(errManyWait)
	default:
		s.turns.add(x)
	}
}

// begin gives a Quick Mode of our own its message id and takes its first steps.
func (x *exchange) begin() {
	s := x.s
	x.mid, x.begun = s.newMID(), x.e.now
	x.iv = phase2IV(s.transform.Hash, s.lastIV, x.mid)
	s.keepQuick(x)
	x.run()
}

// nextTurn begins those that wait, as far as there is room. What was to be
// replaced may be gone by then: nobody wants it renegotiated any more, but who
// asked for the child still wants that.
func (s *ikeSA) nextTurn() {
	for s.ready() && s.turns.len() > 0 && s.own() < s.e.window {
		x := s.turns.next()
		if old := x.q.replaces; old != nil && old.rekeying != x {
			if x.command == 0 {
				x.over = true
				continue
			}
			x.q.replaces = nil
		}
		x.begin()
	}
}

// inherit takes over what waits for its turn under another IKE SA.
func (s *ikeSA) inherit(from *ikeSA) {
	for from.turns.len() > 0 {
		s.admit(from.turns.next())
	}
}

// withdraw ends those that wait and that which says to, and says how many.
func (s *ikeSA) withdraw(err error, which func(*exchange) bool) int {
	list := s.turns.take(which)
	for _, x := range list {
		x.close()
		x.release(err)
	}
	return len(list)
}

// callOff ends what is on the way to become a child, since the operator takes it
// down, and says how much that is: what waits at once, what is under way before
// it comes into use.
func (s *ikeSA) callOff(child string) (n int) {
	n = s.withdraw(ErrTerminated, func(x *exchange) bool { return x.q.replaces == nil && x.q.cfg.Name == child })
	for _, x := range s.quick {
		if x.initiator && x.q.replaces == nil && x.q.cfg.Name == child && !x.q.unwanted {
			x.q.unwanted = true
			n++
		}
	}
	s.wanted = slices.DeleteFunc(s.wanted, func(w Initiate) bool {
		if w.Child != child {
			return false
		}
		n++
		s.e.done(w.Command, ErrTerminated)
		return true
	})
	return n
}
