// SPDX-License-Identifier: Apache-2.0

package ike

import (
	"slices"
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
// and both send over it.
func TestSimultaneousRekey(t *testing.T) {
	for seed := range uint64(50) {
		s := newSim(t, seed+1)
		a, b := s.pair(nil)
		s.bringUp(a, b)
		a.do(second(a.e.Rekey(s.now, Select{Child: "net"})))
		s.run(time.Duration(seed) * time.Millisecond)
		b.do(second(b.e.Rekey(s.now, Select{Child: "net"})))
		s.run(2 * time.Second)
		x, y := a.active["net"], b.active["net"]
		if x.Out.SPI != y.In.SPI {
			t.Errorf("seed %d: a sends over %s, b over %s", seed, x, y)
		}
		s.run(time.Minute)
		s.mustConverge(a, b, 1)
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

// TestIKERenewal has either end renew, or both at once; the children pass to
// the new IKE SA and nothing happens to them.
func TestIKERenewal(t *testing.T) {
	for _, c := range []struct {
		name   string
		unique Unique
		set    func(x *Connection)
		who    []int
		after  time.Duration
	}{
		{"rekey_time", UniqueNo, func(x *Connection) { x.RekeyTime, x.OverTime = 100*time.Second, 50*time.Second }, []int{0}, 102 * time.Second},
		{"reauth_time", UniqueNo, func(x *Connection) {
			x.RekeyTime, x.ReauthTime, x.OverTime = time.Hour, 100*time.Second, 50*time.Second
		}, []int{0}, 102 * time.Second},
		{"the responder", UniqueReplace, func(x *Connection) { x.RekeyTime, x.OverTime = 100*time.Second, 50*time.Second }, []int{1}, 102 * time.Second},
		{"both", UniqueNo, func(x *Connection) { x.RekeyTime, x.OverTime = 100*time.Second, 50*time.Second }, []int{0, 1}, 102 * time.Second},
		{"without uniqueness", UniqueNever, func(x *Connection) { x.RekeyTime, x.OverTime = 100*time.Second, 50*time.Second }, []int{0}, 130 * time.Second},
		{"and keep", UniqueKeep, func(x *Connection) { x.RekeyTime, x.OverTime = 100*time.Second, 50*time.Second }, []int{1}, 102 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, a, b := up(t, func(a, b *Config) {
				for i, x := range []*Config{a, b} {
					x.Connections[0].Unique = c.unique
					if slices.Contains(c.who, i) {
						c.set(x.Connections[0])
					}
				}
			})
			old, pairs := a.ike(), [2]uint32{a.pair().ID, b.pair().ID}
			s.run(c.after)
			if a.ike() == old || len(a.ike().children) != 1 || len(b.ike().children) != 1 {
				t.Fatalf("%s%s", a.snapshot(), b.snapshot())
			}
			if a.ike().cookies != b.ike().cookies {
				t.Error("the ends keep different IKE SAs")
			}
			if a.pair().ID != pairs[0] || b.pair().ID != pairs[1] {
				t.Error("the child was disturbed")
			}
			if c.unique != UniqueNever && len(did[IKERekeyed](a)) == 0 {
				t.Error("nobody is told")
			}
			a.do(second(a.e.Rekey(s.now, Select{Child: "net"})))
			s.run(60 * time.Second)
			s.mustConverge(a, b, 1)
			if n := len(a.e.byID); n > 2 {
				t.Errorf("%d IKE SAs", n)
			}
			for _, n := range []*node{a, b} {
				if x := n.ike(); x.renews != nil || x.renewal != nil {
					t.Errorf("%s keeps an IKE SA that is gone", n.name)
				}
			}
		})
	}
}

// TestIKEExpiry ends an IKE SA that cannot be renewed, and starts again what
// is to be up.
func TestIKEExpiry(t *testing.T) {
	s, a, b := up(t, func(a, b *Config) {
		a.Connections[0].RekeyTime, a.Connections[0].OverTime = 100*time.Second, 20*time.Second
		a.Connections[0].Children[0].StartAction = ActionStart
	})
	a.tap = func(*Send) bool { return false }
	s.run(125 * time.Second)
	a.mustLog("IKE SA expired before it was renewed")
	if len(a.pairs) != 0 || len(did[Reconnect](a)) != 1 {
		t.Errorf("%d pairs, %d to start again", len(a.pairs), len(did[Reconnect](a)))
	}
	s.run(400 * time.Second)
	a.mustBeEmpty()
	_ = b
}

// TestPeersIKELife obeys the shorter life that the peer proposes for phase 1.
func TestPeersIKELife(t *testing.T) {
	s, a, b := up(t, func(a, b *Config) {
		a.Connections[0].RekeyTime, a.Connections[0].OverTime = 100*time.Second, 20*time.Second
		b.Connections[0].RekeyTime, b.Connections[0].OverTime = time.Hour, time.Hour
	})
	x := b.ike()
	if soft, hard := x.rekeyAt.at.Sub(x.established), x.expireAt.at.Sub(x.established); soft != 108*time.Second || hard != 120*time.Second {
		t.Errorf("soft %v, hard %v", soft, hard)
	}
	s.run(time.Second)
	_ = a
}

// TestSilentPeer renews the IKE SA where Quick Modes go unanswered, since the
// peer may have lost it.
func TestSilentPeer(t *testing.T) {
	s, a, b := alone(t, func(a, b *Config) { a.Connections[0].Unique, b.Connections[0].Unique = UniqueReplace, UniqueReplace })
	s.nodes = s.nodes[:1]
	again := s.node("b again", "192.0.2.2", b.e.config, Options{})
	cmd := a.initiate(again, "net")
	s.run(200 * time.Second)
	if err, ok := a.done[cmd]; !ok || err == nil {
		t.Errorf("%v, %v", ok, err)
	}
	again.ike()
	s.bringUp(a, again)
}

// TestIdentityPFS deletes the IKE SA once the child stands, and makes new ones
// for its renegotiation.
func TestIdentityPFS(t *testing.T) {
	s, a, b := up(t, func(a, b *Config) {
		a.Connections[0].IdentityPFS, b.Connections[0].IdentityPFS = true, true
		setLife(a, Lifetime{RekeyTime: 100 * time.Second, LifeTime: 200 * time.Second})
	})
	first := a.ike().cookies
	s.run(30 * time.Second)
	if len(a.e.byID)+len(b.e.byID) != 0 {
		t.Fatalf("%s%s", a.snapshot(), b.snapshot())
	}
	s.mustConverge(a, b, 1)
	old := a.pair().ID
	s.run(80 * time.Second)
	r := did[Reconnect](a)
	if len(r) == 0 {
		t.Fatal("nothing asks for the renegotiation")
	}
	a.initiate(b, "net")
	s.run(2 * time.Second)
	if len(a.pairs) != 2 || a.ike().cookies == first {
		t.Errorf("%d pairs", len(a.pairs))
	}
	s.run(time.Minute)
	if len(a.e.byID)+len(b.e.byID) != 0 || a.pair().ID == old {
		t.Errorf("%s%s", a.snapshot(), b.snapshot())
	}
	s.mustConverge(a, b, 1)
	if n := len(a.e.SAs()); n != 1 || a.e.SAs()[0].ID != 0 {
		t.Errorf("%d IKE SAs are shown", n)
	}
}
