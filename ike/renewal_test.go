// SPDX-License-Identifier: Apache-2.0

package ike

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"quicksand/sa"
)

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

// TestIdentityPFSKeepalive keeps the mapping of a NAT alive for a child whose
// IKE SA is gone.
func TestIdentityPFSKeepalive(t *testing.T) {
	s := newSim(t, 1)
	a, b := s.pair(func(a, b *Config) { a.Connections[0].IdentityPFS, b.Connections[0].IdentityPFS = true, true })
	a.behindNAT(outside)
	s.bringUp(a, b)
	s.run(30 * time.Second)
	if len(a.e.byID) != 0 {
		t.Fatal("the IKE SA stands")
	}
	a.mark()
	b.mark()
	s.run(100 * time.Second)
	if n, m := len(did[Keepalive](a)), len(did[Keepalive](b)); n != 5 || m != 0 {
		t.Errorf("%d and %d keepalives in 100 seconds", n, m)
	}
	moved := netip.AddrPortFrom(netip.MustParseAddr(outside), 51515)
	b.do(b.e.Event(s.now, sa.Event{Kind: sa.Remapped, Pair: b.pair().ID, Remote: moved}))
	if b.pair().Remote != moved {
		t.Error("the child does not follow the NAT")
	}
	a.initiate(b, "")
	s.run(2 * time.Second)
	if a.child().s == nil || a.child().keepalive.index >= 0 {
		t.Error("the child is not adopted")
	}
	a.do(second(a.e.Terminate(s.now, Select{Conn: "peer"})))
	s.run(linger)
	a.mustBeEmpty()
}

// TestSimultaneousIKERenewal has both ends renew within a moment of each other:
// they end with one IKE SA, the same, and with the child.
func TestSimultaneousIKERenewal(t *testing.T) {
	for seed := range uint64(100) {
		s := newSim(t, seed+1)
		a, b := s.pair(nil)
		s.bringUp(a, b)
		s.run(2 * time.Second)
		a.do(second(a.e.Rekey(s.now, Select{Conn: "peer"})))
		s.run(time.Duration(seed) * time.Millisecond)
		b.do(second(b.e.Rekey(s.now, Select{Conn: "peer"})))
		s.run(3 * time.Minute)
		if x, y := a.ike(), b.ike(); x.cookies != y.cookies || len(x.children) != 1 || len(y.children) != 1 || len(a.e.byID)+len(b.e.byID) != 2 {
			t.Errorf("seed %d:\n%s\n%s", seed, a.snapshot(), b.snapshot())
		}
		s.mustConverge(a, b, 1)
	}
}

// TestBothStart has both ends bring the child up at about the same time: exactly
// one pair comes of it, the same at both.
func TestBothStart(t *testing.T) {
	for seed := range uint64(200) {
		s := newSim(t, seed+1)
		a, b := s.pair(nil)
		a.initiate(b, "net")
		s.at(time.Duration(s.rand.IntN(200))*time.Millisecond, func() { b.initiate(a, "net") })
		s.run(200 * time.Second)
		if len(a.pairs) != 1 {
			t.Fatalf("seed %d: %d pairs", seed+1, len(a.pairs))
		}
		s.mustConverge(a, b, 1)
	}
}
