// SPDX-License-Identifier: Apache-2.0

package ike

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"quicksand/sa"
)

// lanes has both ends have n pairs side by side.
func lanes(n int) func(a, b *Config) {
	return func(a, b *Config) {
		for _, c := range []*Config{a, b} {
			c.Connections[0].Children[0].Parallel = n
		}
	}
}

// upLanes brings a child with n pairs up. Where the ends do not tell each other
// lanes, the responder has to guess.
func upLanes(t *testing.T, n int, telling bool, change func(a, b *Config)) (s *sim, a, b *node) {
	t.Helper()
	s = newSim(t, 1)
	a, b = s.pair(func(a, b *Config) {
		lanes(n)(a, b)
		if change != nil {
			change(a, b)
		}
	})
	a.e.parallel = telling
	s.bringUpNamed(a, b, "net")
	s.mustHaveLanes(a, b, n, telling)
	return s, a, b
}

// mustHaveLanes checks that both ends hold n pairs, all in use and each in a lane
// of its own, and where they tell each other in the same one.
func (s *sim) mustHaveLanes(a, b *node, n int, telling bool) {
	s.t.Helper()
	s.mustConverge(a, b, n)
	for _, end := range []*node{a, b} {
		if got := len(end.senders()); got != n {
			s.t.Errorf("%s sends over %d pairs, want %d", end.name, got, n)
		}
		for _, c := range end.e.children {
			if !c.live() {
				s.t.Errorf("%v is %s at %s", c.pair, c.state, end.name)
			}
		}
	}
	for _, p := range a.senders() {
		if q := b.byOut(p.In.SPI); telling && q.Lane != p.Lane {
			s.t.Errorf("lane %d at one end is %d at the other", p.Lane, q.Lane)
		}
	}
}

// both runs a test with ends that tell each other lanes, and with a peer to which
// lanes say nothing.
func both(t *testing.T, f func(t *testing.T, telling bool)) {
	t.Run("told", func(t *testing.T) { f(t, true) })
	t.Run("guessed", func(t *testing.T) { f(t, false) })
}

// TestParallel brings several pairs up by one command, which is answered once,
// and takes all of them down by one.
func TestParallel(t *testing.T) {
	both(t, func(t *testing.T, telling bool) {
		s, a, b := upLanes(t, 3, telling, nil)
		reqid := a.e.children[1].pair.Reqid
		for _, p := range a.pairs {
			if p.Lanes != 3 || p.Reqid != reqid {
				t.Errorf("%v is one of %d, reqid %d", p, p.Lanes, p.Reqid)
			}
		}
		if n := len(did[ChildUpdown](a)); n != 3 {
			t.Errorf("%d events", n)
		}
		n, actions := a.e.Terminate(s.now, Select{Child: "net"})
		a.do(actions)
		s.run(10 * time.Second)
		if n != 3 || len(b.pairs) != 0 {
			t.Errorf("%d taken down, %d left at the peer", n, len(b.pairs))
		}
		a.do(second(a.e.Terminate(s.now, Select{Conn: "peer"})))
		s.run(linger)
		a.mustBeEmpty()
		b.mustBeEmpty()
	})
}

// TestParallelRekey has each pair renegotiated by itself, in no order, by either
// end and by both at once. It replaces its own lane's pair, and at no moment does
// an end send over what the other does not hold.
func TestParallelRekey(t *testing.T) {
	soon := Lifetime{RekeyTime: 100 * time.Second, LifeTime: 200 * time.Second, RandTime: 50 * time.Second}
	for _, who := range [][]int{{0}, {1}, {0, 1}} {
		both(t, func(t *testing.T, telling bool) {
			s, a, b := upLanes(t, 4, telling, func(a, b *Config) {
				for i, c := range []*Config{a, b} {
					if slices.Contains(who, i) {
						setLife(c, soon)
					}
				}
			})
			// Where both renegotiate different pairs at once and do not say which, one
			// may be lost.
			lossy := !telling && len(who) == 2
			for range 1000 {
				s.run(time.Second)
				a.mustReach(b)
				b.mustReach(a)
				for _, n := range []*node{a, b} {
					if got := n.e.countLive(); got != 4 && !lossy {
						t.Fatalf("rekeyed by %v: %s has %d live pairs after %v", who, n.name, got, s.now.Unix()-1_800_000_000)
					}
				}
				if t.Failed() {
					return
				}
			}
			if n := len(did[ChildRekeyed](a)); n < 4*5 {
				t.Errorf("%d renegotiations", n)
			}
			for _, n := range []*node{a, b} {
				for _, down := range did[ChildUpdown](n) {
					if !down.Up && telling {
						t.Errorf("%v went down at %s", down.Child.Pair, n.name)
					}
				}
			}
			for _, c := range []*Config{a.e.config, b.e.config} {
				setLife(c, Lifetime{})
			}
			s.run(250 * time.Second)
			if lossy {
				s.bringUpNamed(a, b, "net")
				s.run(250 * time.Second)
			}
			s.mustHaveLanes(a, b, 4, telling)
		})
	}
}

func (e *Engine) countLive() (n int) {
	for _, c := range e.children {
		if c.live() {
			n++
		}
	}
	return n
}

// TestParallelBothStart has both ends bring all pairs up at about the same time.
func TestParallelBothStart(t *testing.T) {
	for seed := range uint64(100) {
		s := newSim(t, seed+1)
		a, b := s.pair(lanes(3))
		a.initiate(b, "net")
		s.at(time.Duration(s.rand.IntN(200))*time.Millisecond, func() { b.initiate(a, "net") })
		s.run(200 * time.Second)
		if len(a.pairs) != 3 {
			t.Fatalf("seed %d: %d pairs", seed+1, len(a.pairs))
		}
		s.mustHaveLanes(a, b, 3, true)
	}
}

// TestParallelFewer has the peer admit fewer pairs: one of ours says so, one that
// takes every Quick Mode for a renegotiation leaves one.
func TestParallelFewer(t *testing.T) {
	for _, c := range []struct{ theirs, left int }{{2, 2}, {1, 1}} {
		s := newSim(t, 1)
		a, b := s.pair(lanes(4))
		b.e.config.Connections[0].Children[0].Parallel = c.theirs
		b.e.parallel = c.theirs > 1
		cmd := a.initiate(b, "net")
		s.run(200 * time.Second)
		if err, ok := a.done[cmd]; !ok || (err != nil) != (c.theirs > 1) {
			t.Errorf("answered %v, %v", ok, err)
		}
		s.mustConverge(a, b, c.left)
		if c.theirs > 1 {
			b.mustLog("more pairs of net side by side than the 2 of our parallel_sas")
		}
	}
}

// TestParallelLost has lanes that are lost come back as a single child does, and
// a command fill what is free and leave the others alone.
func TestParallelLost(t *testing.T) {
	both(t, func(t *testing.T, telling bool) {
		s, a, b := upLanes(t, 3, telling, func(a, b *Config) { a.Connections[0].Children[0].CloseAction = ActionStart })
		before := maps.Clone(a.pairs)
		var lost *sa.Pair
		for _, p := range b.pairs {
			if p.Lane == 1 {
				lost = p
			}
		}
		b.do(second(b.e.Terminate(s.now, Select{ChildID: lost.ID})))
		a.mark()
		s.run(time.Second)
		s.mustConverge(a, b, 2)
		if n := len(did[Reconnect](a)); n != 1 {
			t.Fatalf("%d asked for again", n)
		}
		s.bringUpNamed(a, b, "net")
		s.mustHaveLanes(a, b, 3, telling)
		kept := 0
		for id := range before {
			if a.pairs[id] != nil {
				kept++
			}
		}
		if kept != 2 {
			t.Errorf("%d of 2 were left alone", kept)
		}
		s.bringUpNamed(a, b, "net") // nothing is free: all are renegotiated
		s.run(time.Minute)
		s.mustHaveLanes(a, b, 3, telling)
		for id := range before {
			if a.pairs[id] != nil {
				t.Errorf("%v was not renegotiated", a.pairs[id])
			}
		}
	})
}

// TestParallelFailure has one of the pairs fail: the command says so, the others
// stand, and another command makes up for it.
func TestParallelFailure(t *testing.T) {
	s, a, b := alone(t, lanes(3))
	installs := 0
	b.tap = func(*Send) bool {
		if installs < len(b.pairs) {
			installs = len(b.pairs)
		}
		if installs == 2 {
			b.refuse = errors.New("no more")
		}
		return true
	}
	cmd := a.initiate(b, "net")
	s.run(2 * time.Second)
	if err := a.done[cmd]; err == nil {
		t.Error("the command succeeds")
	}
	s.mustConverge(a, b, 2)
	b.refuse, b.tap = nil, nil
	s.bringUpNamed(a, b, "net")
	s.mustHaveLanes(a, b, 3, true)
}

// TestParallelBound has a peer begin far more pairs than are admitted.
func TestParallelBound(t *testing.T) {
	s, a, b := upLanes(t, 2, false, nil)
	a.e.config.Connections[0].Children[0].Parallel = 60
	for range 10 {
		a.initiate(b, "net")
		s.run(time.Second)
		if n := b.e.countLive(); n > 2 {
			t.Fatalf("%d live pairs", n)
		}
		if n := len(b.pairs); n > 2+2*maxReplaced {
			t.Fatalf("%d pairs", n)
		}
	}
}

// TestParallelReload raises and lowers the number.
func TestParallelReload(t *testing.T) {
	s, a, b := upLanes(t, 2, true, func(a, b *Config) {
		setLife(a, Lifetime{RekeyTime: 100 * time.Second, LifeTime: 200 * time.Second})
	})
	set := func(n int) {
		for _, end := range []*node{a, b} {
			c := *end.e.config
			conn, child := *c.Connections[0], *c.Connections[0].Children[0]
			child.Parallel = n
			conn.Children, c.Connections = []*Child{&child}, []*Connection{&conn}
			end.do(end.e.Reload(s.now, &c))
		}
	}
	set(4)
	s.bringUpNamed(a, b, "net")
	s.mustHaveLanes(a, b, 4, true)
	set(1)
	s.run(150 * time.Second)
	a.mustLog("one more than its parallel_sas are now")
	s.mustConverge(a, b, 1)
}

// TestParallelWindow counts every pair of the children against the window.
func TestParallelWindow(t *testing.T) {
	s, a, b := alone(t, func(a, b *Config) {
		many(4)(a, b)
		for _, c := range []*Config{a, b} {
			for _, ch := range c.Connections[0].Children {
				ch.Parallel = 20
			}
		}
	})
	for i := range 4 {
		a.initiate(b, fmt.Sprint("net", i))
	}
	if n := len(a.ike().quick); n != maxOwn || a.ike().turns.len() != 80-maxOwn {
		t.Errorf("%d under way, %d wait", n, a.ike().turns.len())
	}
	s.run(5 * time.Second)
	s.mustConverge(a, b, 80)
	if len(a.e.parts) != 0 {
		t.Errorf("%d commands are not answered", len(a.e.parts))
	}
}
