// SPDX-License-Identifier: Apache-2.0

package ike

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"quicksand/ike/isakmp"
)

// slow has the node's answers come one after the other, each after cost: as from
// one worker for Diffie-Hellman.
func (n *node) slow(cost time.Duration) {
	free := n.sim.now
	n.hold = func(answer func()) {
		if free.Before(n.sim.now) {
			free = n.sim.now
		}
		free = free.Add(cost)
		n.sim.at(free.Sub(n.sim.now), answer)
	}
}

// startMany initiates n children at once and returns how long it takes until the
// last command is answered, and how many failed.
func startMany(t *testing.T, window, n int, loss float64) (took time.Duration, failed int, a, b *node) {
	s, a, b := alone(t, many(n))
	a.e.window = window
	b.slow(time.Millisecond)
	s.net.loss = loss
	start, want := s.now, len(a.done)+n
	for i := range n {
		a.initiate(b, fmt.Sprint("net", i))
	}
	for len(a.done) < want {
		s.run(10 * time.Millisecond)
	}
	took = s.now.Sub(start)
	for _, err := range a.done {
		if err != nil {
			failed++
		}
	}
	return took, failed, a, b
}

// TestManyChildren starts 1,000 children at once with a peer that answers them
// one after the other and admits 64 at a time. All of them at once, as there is
// no window, most fail after all their retransmissions.
func TestManyChildren(t *testing.T) {
	const n = 1000
	for _, c := range []struct {
		loss   float64
		window int
		within time.Duration // in simulated time; 0: most fail
	}{
		{0, n, 0}, {0, 64, 10 * time.Second}, {0, maxOwn, 3 * time.Second}, {0, 16, 3 * time.Second},
		{0.1, n, 0}, {0.1, 64, 90 * time.Second}, {0.1, maxOwn, 45 * time.Second}, {0.1, 16, 90 * time.Second},
	} {
		took, failed, a, b := startMany(t, c.window, n, c.loss)
		t.Logf("%.0f %% lost, %d at a time: %v, %d failed, %d retransmissions, %d dropped at the peer's limit", 100*c.loss, c.window,
			took.Round(10*time.Millisecond), failed, a.count("ike.tx.retransmits"), b.count("ike.rx.quick-limit"))
		if c.within == 0 {
			if failed < n/2 {
				t.Errorf("without a window %d of %d fail only", failed, n)
			}
			continue
		}
		if failed != 0 || took > c.within {
			t.Errorf("%.0f %% lost, %d at a time: %d failed after %v, want none within %v", 100*c.loss, c.window, failed, took, c.within)
		}
		a.sim.net.loss = 0
		a.sim.run(linger)
		a.sim.mustConverge(a, b, n)
		if a.ike().turns.len() != 0 {
			t.Errorf("%d still wait", a.ike().turns.len())
		}
	}
}

// crowd brings net0 up and has as many others under way as may be, and 10 that
// wait; the peer says nothing any more.
func crowd(t *testing.T) (s *sim, a, b *node, waiting []uint64) {
	t.Helper()
	s, a, b = alone(t, many(maxOwn+11))
	s.bringUpNamed(a, b, "net0")
	b.tap = func(*Send) bool { return false }
	a.mark()
	for i := range maxOwn + 10 {
		cmd := a.initiate(b, fmt.Sprint("net", i+1))
		if i >= maxOwn {
			waiting = append(waiting, cmd)
		}
	}
	s.run(time.Second)
	if x := a.ike(); len(x.quick) != maxOwn || x.turns.len() != 10 || len(a.sends(isakmp.QuickMode)) != maxOwn {
		t.Fatalf("%d under way, %d wait, %d messages sent", len(x.quick), x.turns.len(), len(a.sends(isakmp.QuickMode)))
	}
	return s, a, b, waiting
}

func (s *sim) bringUpNamed(a, b *node, child string) {
	s.t.Helper()
	cmd := a.initiate(b, child)
	s.run(2 * time.Second)
	if err, ok := a.done[cmd]; !ok || err != nil {
		s.t.Fatalf("initiate %s: answered %v, %v", child, ok, err)
	}
}

// TestTurns has what waits keep its order, renegotiations before all others, and
// no timer run for it.
func TestTurns(t *testing.T) {
	s, a, b, waiting := crowd(t)
	a.do(second(a.e.Rekey(s.now, Select{Child: "net0"})))
	a.do(second(a.e.Rekey(s.now, Select{Child: "net0"})))
	if n := a.ike().turns; len(n.rekeys) != 1 || n.len() != 11 {
		t.Fatalf("%d renegotiations of %d wait", len(n.rekeys), n.len())
	}
	s.run(150 * time.Second) // shortly before the others are given up
	for _, cmd := range waiting {
		if err, ok := a.done[cmd]; ok {
			t.Fatalf("what waits is answered: %v", err)
		}
	}
	b.tap = nil
	a.mark()
	s.run(30 * time.Second)
	var order []string
	for _, x := range did[ReserveSPI](a) {
		order = append(order, x.Pair.Child)
	}
	want := []string{"net0"}
	for i := range 10 {
		want = append(want, fmt.Sprint("net", maxOwn+1+i))
	}
	if !slices.Equal(order, want) {
		t.Fatalf("begun in turn: %v, want %v", order, want)
	}
	for _, cmd := range waiting {
		if err, ok := a.done[cmd]; !ok || err != nil {
			t.Errorf("what waited is answered %v, %v", ok, err)
		}
	}
	s.run(linger)
	s.mustConverge(a, b, 11)
}

// TestTurnsTakenAway takes down what waits, by name, with the IKE SA, and with a
// renegotiation whose child is gone meanwhile.
func TestTurnsTakenAway(t *testing.T) {
	t.Run("child", func(t *testing.T) {
		s, a, b, waiting := crowd(t)
		name := fmt.Sprint("net", maxOwn+3)
		n, actions := a.e.Terminate(s.now, Select{Child: name})
		a.do(actions)
		if n != 1 || a.done[waiting[2]] != ErrTerminated || a.ike().turns.len() != 9 {
			t.Errorf("%d taken away, answered %v, %d left", n, a.done[waiting[2]], a.ike().turns.len())
		}
		under, actions := a.e.Terminate(s.now, Select{Child: "net1"})
		a.do(actions)
		b.tap = nil
		s.run(linger)
		for _, p := range a.pairs {
			if p.Child == name || p.Child == "net1" {
				t.Errorf("%v came up", p)
			}
		}
		if under != 1 {
			t.Errorf("%d under way taken down", under)
		}
		s.mustConverge(a, b, maxOwn+9)
	})
	t.Run("renegotiation", func(t *testing.T) {
		s, a, b, _ := crowd(t)
		a.do(second(a.e.Rekey(s.now, Select{Child: "net0"})))
		a.do(second(a.e.Terminate(s.now, Select{Child: "net0"})))
		if n := a.ike().turns; len(n.rekeys) != 0 {
			t.Errorf("%d renegotiations wait", len(n.rekeys))
		}
		b.tap = nil
		s.run(2 * linger)
		for _, p := range a.pairs {
			if p.Child == "net0" {
				t.Errorf("%v is there again", p)
			}
		}
	})
	t.Run("IKE SA", func(t *testing.T) {
		s, a, _, waiting := crowd(t)
		a.do(second(a.e.Rekey(s.now, Select{Child: "net0"})))
		a.do(second(a.e.Terminate(s.now, Select{Conn: "peer"})))
		for _, cmd := range waiting {
			if err := a.done[cmd]; err != ErrTerminated {
				t.Errorf("answered %v", err)
			}
		}
		a.mustBeEmpty()
	})
}

// TestTurnsMove has what waits go on under the IKE SA that takes over.
func TestTurnsMove(t *testing.T) {
	s, a, b, waiting := crowd(t)
	b.tap = nil
	b.slow(20 * time.Millisecond)
	a.do(second(a.e.Rekey(s.now, Select{Conn: "peer"})))
	s.run(linger)
	for _, cmd := range waiting {
		if err, ok := a.done[cmd]; !ok || err != nil {
			t.Errorf("answered %v, %v", ok, err)
		}
	}
	s.mustConverge(a, b, maxOwn+11)
}

// TestTurnsBounded refuses more than a bound.
func TestTurnsBounded(t *testing.T) {
	s, a, b, _ := crowd(t)
	x := a.ike()
	for x.turns.len() < maxWaiting {
		x.turns.fresh = append(x.turns.fresh, x.turns.fresh[0])
	}
	cmd := a.initiate(b, "net5")
	if err := a.done[cmd]; err != errManyWait {
		t.Errorf("answered %v", err)
	}
	a.do(second(a.e.Rekey(s.now, Select{Child: "net0"})))
	for _, c := range x.children {
		if c.state != ChildInstalled || c.rekeyAt == nil {
			t.Errorf("a renegotiation that finds no room leaves its child %s", c.state)
		}
	}
}
