// SPDX-License-Identifier: Apache-2.0

package ike

import (
	"testing"
	"time"

	"quicksand/ike/isakmp"
	"quicksand/sa"
)

func setLife(c *Config, l Lifetime) { c.Connections[0].Children[0].Lifetime = l }

// TestLifetimes is what comes of both ends' configurations.
func TestLifetimes(t *testing.T) {
	h := time.Hour
	for _, c := range []struct {
		a, b         Lifetime
		wantA, wantB sa.Lifetime
	}{
		{Lifetime{}, Lifetime{}, sa.Lifetime{}, sa.Lifetime{}},
		{ // each its own where the other's is no shorter
			Lifetime{RekeyTime: h, LifeTime: 2 * h}, Lifetime{RekeyTime: h + 1, LifeTime: 2 * h},
			sa.Lifetime{Soft: sa.Limits{Time: h}, Hard: sa.Limits{Time: 2 * h}},
			sa.Lifetime{Soft: sa.Limits{Time: h + 1}, Hard: sa.Limits{Time: 2 * h}},
		},
		{ // the initiator's shorter one is obeyed
			Lifetime{RekeyTime: h, LifeTime: 2 * h}, Lifetime{RekeyTime: 9 * h, LifeTime: 10 * h},
			sa.Lifetime{Soft: sa.Limits{Time: h}, Hard: sa.Limits{Time: 2 * h}},
			sa.Lifetime{Soft: sa.Limits{Time: 2 * h * 9 / 10}, Hard: sa.Limits{Time: 2 * h}},
		},
		{ // so is the responder's, by RESPONDER_LIFETIME
			Lifetime{RekeyTime: 9 * h, LifeTime: 10 * h}, Lifetime{RekeyTime: h, LifeTime: 2 * h},
			sa.Lifetime{Soft: sa.Limits{Time: 2 * h * 9 / 10}, Hard: sa.Limits{Time: 2 * h}},
			sa.Lifetime{Soft: sa.Limits{Time: h}, Hard: sa.Limits{Time: 2 * h}},
		},
		{ // also where one end has none
			Lifetime{}, Lifetime{RekeyTime: h, LifeTime: 2 * h},
			sa.Lifetime{Soft: sa.Limits{Time: 2 * h * 9 / 10}, Hard: sa.Limits{Time: 2 * h}},
			sa.Lifetime{Soft: sa.Limits{Time: h}, Hard: sa.Limits{Time: 2 * h}},
		},
		{ // who does not renew by himself goes on not to
			Lifetime{LifeTime: 2 * h}, Lifetime{RekeyTime: h, LifeTime: 2 * h},
			sa.Lifetime{Hard: sa.Limits{Time: 2 * h}},
			sa.Lifetime{Soft: sa.Limits{Time: h}, Hard: sa.Limits{Time: 2 * h}},
		},
		{ // bytes are negotiated in kilobytes, packets not at all
			Lifetime{RekeyBytes: 1 << 20, LifeBytes: 2 << 20, RekeyPackets: 5, LifePackets: 9},
			Lifetime{RekeyBytes: 8 << 20, LifeBytes: 9 << 20},
			sa.Lifetime{Soft: sa.Limits{Bytes: 1 << 20, Packets: 5}, Hard: sa.Limits{Bytes: 2 << 20, Packets: 9}},
			sa.Lifetime{Soft: sa.Limits{Bytes: 2<<20 - 2<<20/10}, Hard: sa.Limits{Bytes: 2 << 20}},
		},
		{
			Lifetime{LifeBytes: 9 << 20}, Lifetime{LifeBytes: 2 << 20},
			sa.Lifetime{Soft: sa.Limits{Bytes: 2<<20 - 2<<20/10}, Hard: sa.Limits{Bytes: 2 << 20}},
			sa.Lifetime{Hard: sa.Limits{Bytes: 2 << 20}},
		},
		{
			Lifetime{LifeTime: 100 * 24 * h, LifeBytes: 1 << 50}, Lifetime{},
			sa.Lifetime{Hard: sa.Limits{Time: 100 * 24 * h, Bytes: 1 << 50}},
			sa.Lifetime{Soft: sa.Limits{Time: 90 * 24 * h, Bytes: 1<<50 - 1<<50/10}, Hard: sa.Limits{Time: 100 * 24 * h, Bytes: 1 << 50}},
		},
	} {
		_, a, b := up(t, func(x, y *Config) { setLife(x, c.a); setLife(y, c.b) })
		if got := a.pair().Lifetime; got != c.wantA {
			t.Errorf("%+v with %+v: the initiator has %+v, want %+v", c.a, c.b, got, c.wantA)
		}
		if got := b.pair().Lifetime; got != c.wantB {
			t.Errorf("%+v with %+v: the responder has %+v, want %+v", c.a, c.b, got, c.wantB)
		}
	}
}

// TestRandTime takes a random part off, and never more than half.
func TestRandTime(t *testing.T) {
	seen := map[time.Duration]bool{}
	for seed := range uint64(20) {
		s := newSim(t, seed)
		a, b := s.pair(func(a, b *Config) {
			setLife(a, Lifetime{RekeyTime: time.Hour, LifeTime: 2 * time.Hour, RandTime: 10 * time.Minute,
				RekeyBytes: 1000, RandBytes: 100, RekeyPackets: 1000, RandPackets: 1 << 60})
		})
		s.bringUp(a, b)
		l := a.pair().Lifetime.Soft
		seen[l.Time] = true
		if l.Time < 50*time.Minute || l.Time > time.Hour || l.Bytes < 900 || l.Bytes > 1000 || l.Packets < 500 || l.Packets > 1000 {
			t.Errorf("%+v", l)
		}
	}
	if len(seen) < 20 {
		t.Errorf("%d different times of 20", len(seen))
	}
}

// TestRekeyByTime renegotiates before the end, by either end, again and again,
// and never lets the pair run out.
func TestRekeyByTime(t *testing.T) {
	s, a, b := up(t, func(a, b *Config) {
		setLife(a, Lifetime{RekeyTime: 100 * time.Second, LifeTime: 200 * time.Second})
		setLife(b, Lifetime{RekeyTime: 100 * time.Second, LifeTime: 200 * time.Second, RandTime: 40 * time.Second})
	})
	for range 100 {
		s.run(13 * time.Second)
		if a.active["net"] == nil || a.pairs[a.active["net"].ID] == nil || b.pairs[b.active["net"].ID] == nil {
			t.Fatal("a pair is sent over that is gone")
		}
	}
	s.run(30 * time.Second)
	if d := differ(a, b); d != "" {
		t.Error(d)
	}
	if n := len(did[ChildRekeyed](a)); n < 10 || a.logged("expired") || len(a.ike().children) > 2 {
		t.Errorf("%d renegotiations, %d children", n, len(a.ike().children))
	}
}

// TestExpiryEvents takes soft and hard expiry by bytes and packets from the
// backend.
func TestExpiryEvents(t *testing.T) {
	for action, want := range map[StartAction]int{ActionNone: 0, ActionTrap: 0, ActionStart: 1} {
		s, a, b := up(t, func(a, _ *Config) { a.Connections[0].Children[0].StartAction = action })
		old := a.pair().ID
		a.do(a.e.Event(s.now, sa.Event{Kind: sa.SoftExpired, Pair: old}))
		a.do(a.e.Event(s.now, sa.Event{Kind: sa.SoftExpired, Pair: old}))
		s.run(time.Minute)
		s.mustConverge(a, b, 1)
		if a.pair().ID == old || len(did[ChildRekeyed](a)) != 1 {
			t.Errorf("soft expiry: %d renegotiations", len(did[ChildRekeyed](a)))
		}
		a.do(a.e.Event(s.now, sa.Event{Kind: sa.HardExpired, Pair: a.pair().ID}))
		s.run(time.Second)
		if len(a.pairs)+len(b.pairs) != 0 {
			t.Errorf("hard expiry: %d and %d pairs are left", len(a.pairs), len(b.pairs))
		}
		if n := len(did[Reconnect](a)); n != want {
			t.Errorf("start_action %d: %d Reconnects", action, n)
		}
		a.do(a.e.Event(s.now, sa.Event{Kind: sa.HardExpired, Pair: 12345}))
	}
}

// TestOtherEvents takes the rest of what a backend reports.
func TestOtherEvents(t *testing.T) {
	s, a, b := up(t, nil)
	a.do(a.e.Event(s.now, sa.Event{Kind: sa.Acquire, Policy: sa.Policy{Conn: "peer", Child: "net"}}))
	if r := did[Reconnect](a); len(r) != 1 || r[0] != (Reconnect{"peer", "net"}) {
		t.Errorf("%v", r)
	}
	a.do(a.e.Event(s.now, sa.Event{Kind: sa.Lost, Pair: a.pair().ID}))
	s.run(time.Second)
	if len(a.pairs)+len(b.pairs) != 0 || len(did[Reconnect](a)) != 2 {
		t.Error("a lost pair is not brought up again")
	}
}

// TestOverlap keeps the old pair until the new one is used, or for a while.
func TestOverlap(t *testing.T) {
	for _, used := range []bool{true, false} {
		s, a, b := up(t, nil)
		a.do(second(a.e.Rekey(s.now, Select{Child: "net"})))
		s.run(2 * time.Second)
		if len(a.pairs) != 2 || len(b.pairs) != 2 {
			t.Fatalf("%d and %d pairs", len(a.pairs), len(b.pairs))
		}
		if used {
			for _, n := range []*node{a, b} {
				n.do(n.e.Event(s.now, sa.Event{Kind: sa.FirstUse, Pair: n.active["net"].ID}))
			}
		}
		s.run(overlapUsed + overlapExtra + 2*afterDelete)
		if got := len(a.pairs) == 1 && len(b.pairs) == 1; got != used {
			t.Errorf("used %v: %d and %d pairs", used, len(a.pairs), len(b.pairs))
		}
		s.run(overlap)
		s.mustConverge(a, b, 1)
	}
}

// TestFirstUse sends over the new pair at once where the peer does.
func TestFirstUse(t *testing.T) {
	s, a, b := up(t, nil)
	a.mark()
	a.do(second(a.e.Rekey(s.now, Select{Child: "net"})))
	for len(a.pairs) < 2 || a.ike().twin(a.child0(), a.active["net"].LocalTS, a.active["net"].RemoteTS, 0).installed.IsZero() {
		s.run(time.Millisecond)
	}
	s.run(50 * time.Millisecond)
	if len(did[Activate](a)) != 0 {
		t.Error("the new pair is sent over before the peer can know it")
	}
	var young uint32
	for id := range a.pairs {
		young = max(young, id)
	}
	a.do(a.e.Event(s.now, sa.Event{Kind: sa.FirstUse, Pair: young}))
	if n := did[Activate](a); len(n) != 1 || n[0].Pair.ID != young {
		t.Errorf("%d pairs are activated", len(n))
	}
	s.run(time.Minute)
	if len(did[Activate](a)) != 1 {
		t.Error("activated again")
	}
	s.mustConverge(a, b, 1)
}

func (n *node) child0() *Child { return n.e.config.Connections[0].Children[0] }

// TestManyRekeys does not let replaced pairs pile up.
func TestManyRekeys(t *testing.T) {
	s, a, b := up(t, nil)
	for range 3 * maxReplaced {
		a.do(second(a.e.Rekey(s.now, Select{Child: "net"})))
		s.run(300 * time.Millisecond)
		if len(a.pairs) > maxReplaced+2 || len(b.pairs) > maxReplaced+2 {
			t.Fatalf("%d and %d pairs", len(a.pairs), len(b.pairs))
		}
	}
	s.run(time.Minute)
	s.mustConverge(a, b, 1)
}

// TestFailedRekey goes on trying, and the old pair stays.
func TestFailedRekey(t *testing.T) {
	s, a, b := up(t, nil)
	old := a.pair().ID
	b.refuse = ErrBusy
	a.do(second(a.e.Rekey(s.now, Select{Child: "net"})))
	s.run(100 * time.Second)
	s.mustConverge(a, b, 1)
	if a.pair().ID != old || a.child().state == ChildSuperseded {
		t.Error("the old pair did not stay")
	}
	if n := len(a.sends(isakmp.QuickMode)); n < 2+3 || n > 2+6 {
		t.Errorf("%d attempts in 100 seconds", n-2)
	}
	b.refuse = nil
	s.run(time.Minute)
	s.mustConverge(a, b, 1)
	if a.pair().ID == old {
		t.Error("it was not tried again")
	}
}

// TestSimultaneousRekey has both ends renegotiate at once: one pair remains,
// both send over it, and neither ever sends over one that the other lacks.
func TestSimultaneousRekey(t *testing.T) {
	for seed := range uint64(100) {
		s := newSim(t, seed+1)
		a, b := s.pair(nil)
		s.bringUp(a, b)
		a.do(second(a.e.Rekey(s.now, Select{Child: "net"})))
		s.run(time.Duration(seed) * time.Millisecond)
		b.do(second(b.e.Rekey(s.now, Select{Child: "net"})))
		for range 180 {
			s.run(time.Second)
			a.mustReach(b)
			b.mustReach(a)
		}
		s.mustConverge(a, b, 1)
		if x, y := a.active["net"], b.active["net"]; x.Out.SPI != y.In.SPI {
			t.Errorf("seed %d: a sends over %s, b over %s", seed, x, y)
		}
	}
}

// TestResponderLifetimeLater shortens what stands.
func TestResponderLifetimeLater(t *testing.T) {
	say := func(p isakmp.ProtocolID, spi []byte, l Lifetime) isakmp.Payload {
		return notifyPayload(isakmp.Notification{Protocol: p, SPI: spi, Type: isakmp.ResponderLifetime,
			Data: isakmp.AppendAttributes(nil, lifeAttributes(l))})
	}
	s, a, b := up(t, func(a, b *Config) { setLife(a, Lifetime{RekeyTime: time.Hour, LifeTime: 2 * time.Hour}) })
	old := a.pair()
	start := s.now.Add(-2 * time.Second)
	spi := be32(uint32(old.Out.SPI))
	b.informs(say(isakmp.ProtoESP, spi, Lifetime{LifeTime: 3 * time.Hour})) // longer
	b.informs(say(isakmp.ProtoESP, spi, Lifetime{}))
	b.informs(say(isakmp.ProtoESP, be32(0x7777), Lifetime{LifeTime: time.Second}))
	b.informs(say(isakmp.ProtoAH, spi, Lifetime{LifeTime: time.Second}))
	s.run(time.Second)
	if c := a.child(); c.expireAt.at.Sub(start) < time.Hour {
		t.Errorf("shortened to %v", c.expireAt.at.Sub(start))
	}
	b.informs(say(isakmp.ProtoESP, spi, Lifetime{LifeTime: 1000 * time.Second}))
	s.run(time.Second)
	c := a.child()
	if soft, hard := c.rekeyAt.at.Sub(start), c.expireAt.at.Sub(start); hard < 999*time.Second || hard > 1002*time.Second || soft > 902*time.Second || soft < 899*time.Second {
		t.Errorf("soft %v, hard %v", soft, hard)
	}
	s.run(1000 * time.Second)
	s.mustConverge(a, b, 1)
	if a.pair().ID == old.ID {
		t.Error("it was not renewed in time")
	}
	first := a.ike()
	b.informs(say(isakmp.ProtoISAKMP, first.cookieBytes(), Lifetime{LifeTime: s.now.Sub(start) + 200*time.Second}))
	s.run(300 * time.Second)
	if a.ike() == first {
		t.Error("the IKE SA was not renewed in time")
	}
	s.mustConverge(a, b, 1)
}
