// SPDX-License-Identifier: Apache-2.0

package ike

import (
	"testing"
	"time"

	"quicksand/ike/isakmp"
)

func dpd(delay, timeout time.Duration) func(a, b *Config) {
	return func(a, _ *Config) { a.Connections[0].DPDDelay, a.Connections[0].DPDTimeout = delay, timeout }
}

// TestDPD asks a silent peer, which answers whether it asks itself or not.
func TestDPD(t *testing.T) {
	s, a, b := up(t, dpd(30*time.Second, 0))
	a.mark()
	b.mark()
	s.run(27 * time.Second)
	if len(a.sent) != 0 {
		t.Errorf("asked before dpd_delay is over")
	}
	s.run(290 * time.Second)
	if n, m := len(a.sent), len(b.sent); n < 9 || n > 11 || n != m {
		t.Errorf("%d questions, %d answers in 290 seconds", n, m)
	}
	if a.ike().dpdState.tries != 0 {
		t.Error("an answer is not taken")
	}
	s.mustConverge(a, b, 1)
}

// TestDPDNotNeeded asks nothing while the peer is heard anyway.
func TestDPDNotNeeded(t *testing.T) {
	s, a, b := up(t, dpd(30*time.Second, 0))
	a.mark()
	for range 20 {
		b.informs(notifyPayload(isakmp.Notification{Protocol: isakmp.ProtoISAKMP, Type: isakmp.ReplayStatus, Data: be32(1)}))
		s.run(20 * time.Second)
	}
	if len(a.sent) != 0 {
		t.Errorf("%d questions", len(a.sent))
	}
	// A word in the midst of asking ends it too.
	a.tap = func(*Send) bool { return false }
	s.run(40 * time.Second)
	asked := len(a.sent)
	if asked < 2 {
		t.Fatalf("asked %d times", asked)
	}
	b.informs(notifyPayload(isakmp.Notification{Protocol: isakmp.ProtoISAKMP, Type: isakmp.ReplayStatus, Data: be32(1)}))
	s.run(25 * time.Second)
	if len(a.sent) != asked {
		t.Errorf("%d questions although it was heard", len(a.sent)-asked)
	}
}

// TestDPDUnsupported leaves a peer alone that does not have the vendor id.
func TestDPDUnsupported(t *testing.T) {
	s := newSim(t, 1)
	a, b := s.pair(dpd(10*time.Second, 0))
	b.tap = dropVendors(t, func(id string) bool { return id == string(vendorDPD) })
	s.bringUp(a, b)
	a.mustLog("peer does not support dead peer detection")
	a.mark()
	s.run(time.Hour)
	if len(a.sent) != 0 {
		t.Errorf("%d questions", len(a.sent))
	}
}

// dropVendors takes vendor ids out of what a node sends in clear.
func dropVendors(t *testing.T, gone func(id string) bool) func(*Send) bool {
	return func(m *Send) bool {
		if h, _ := isakmp.ParseHeader(m.Data); h.Exchange == isakmp.MainMode && h.Next == isakmp.PayloadSA {
			m.Data = rewrite(t, m.Data, func(ps []isakmp.Payload) (out []isakmp.Payload) {
				for _, p := range ps {
					if p.Type != isakmp.PayloadVendorID || !gone(string(p.Body)) {
						out = append(out, p)
					}
				}
				return out
			})
		}
		return true
	}
}

// TestDPDDead gives a peer up by the retransmission schedule or at dpd_timeout,
// and does what each child asks for.
func TestDPDDead(t *testing.T) {
	for _, c := range []struct {
		timeout   time.Duration
		least     time.Duration // after the peer was last heard
		questions int
	}{
		{0, 30*time.Second + 165062*time.Millisecond, 6},
		{100 * time.Second, 100 * time.Second, 3},
		{31 * time.Second, 31 * time.Second, 1},
	} {
		for action, want := range map[StartAction][2]int{ActionNone: {}, ActionTrap: {1, 0}, ActionStart: {0, 1}} {
			s, a, b := up(t, func(a, b *Config) {
				dpd(30*time.Second, c.timeout)(a, b)
				a.Connections[0].Children[0].DPDAction = action
			})
			heard := a.ike().lastHeard
			b.tap = func(*Send) bool { return false }
			a.mark()
			for len(a.e.byID) > 0 && s.now.Sub(heard) < time.Hour {
				s.run(100 * time.Millisecond)
			}
			if d := s.now.Sub(heard); d < c.least || d > c.least+200*time.Millisecond {
				t.Errorf("timeout %v: given up after %v, want %v", c.timeout, d, c.least)
			}
			a.mustLog("does not answer")
			if n := len(a.sends(isakmp.Informational)); n != c.questions {
				t.Errorf("timeout %v: %d questions, want %d", c.timeout, n, c.questions)
			}
			if traps, again := did[Trap](a), did[Reconnect](a); len(traps) != want[0] || len(again) != want[1] {
				t.Errorf("dpd_action %d: %d traps, %d to start again", action, len(traps), len(again))
			}
			if a.count("ike.dead-peers") != 1 || len(a.pairs) != 0 {
				t.Errorf("%d dead peers, %d pairs", a.count("ike.dead-peers"), len(a.pairs))
			}
			a.mustBeEmpty()
		}
	}
}

// TestDPDSequence takes no question and no answer twice (RFC 3706 section 5.4).
func TestDPDSequence(t *testing.T) {
	s, a, b := up(t, dpd(30*time.Second, 0))
	say := func(kind isakmp.NotifyType, data []byte) {
		a.informs(notifyPayload(isakmp.Notification{Protocol: isakmp.ProtoISAKMP, SPI: a.ike().cookieBytes(), Type: kind, Data: data}))
		s.run(100 * time.Millisecond)
	}
	b.mark()
	for _, c := range []struct {
		seq  uint32
		want int
	}{{1000, 1}, {1001, 2}, {1001, 3}, {1000, 3}, {1, 3}, {1005, 4}, {1002, 4}, {0xffffffff, 4}} {
		say(isakmp.RUThere, be32(c.seq))
		if n := len(b.sent); n != c.want {
			t.Errorf("sequence number %d: %d answers, want %d", c.seq, n, c.want)
		}
	}
	if n := b.count("ike.rx.replayed"); n != 4 {
		t.Errorf("%d replayed", n)
	}
	say(isakmp.RUThere, []byte{1, 2, 3})
	if b.count("ike.rx.malformed") != 1 || len(b.sent) != 4 {
		t.Error("a short sequence number is answered")
	}
	for _, data := range [][]byte{be32(1), be32(0xffffffff), {1}, nil} {
		say(isakmp.RUThereAck, data)
	}
	if n := b.count("ike.rx.replayed") + b.count("ike.rx.malformed"); n != 5+4 {
		t.Errorf("%d answers to nothing are counted", n-5)
	}
	s.mustConverge(a, b, 1)
}

// TestDPDReload turns it on where an IKE SA stands, and off.
func TestDPDReload(t *testing.T) {
	s, a, b := up(t, nil)
	set := func(d time.Duration) {
		c := simConfig(true)
		c.Connections[0].DPDDelay = d
		a.do(a.e.Reload(s.now, c))
		a.mark()
	}
	set(10 * time.Second)
	s.run(100 * time.Second)
	if n := len(a.sent); n < 9 {
		t.Errorf("%d questions", n)
	}
	set(0)
	s.run(100 * time.Second)
	if n := len(a.sent); n != 0 {
		t.Errorf("%d questions", n)
	}
	s.mustConverge(a, b, 1)
}
