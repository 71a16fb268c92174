// SPDX-License-Identifier: Apache-2.0

package ike

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"quicksand/ike/isakmp"
)

// TestHalfOpen bounds the Main Modes that peers leave unfinished, of each
// address and in all, and lets go of them after a while.
func TestHalfOpen(t *testing.T) {
	s := newSim(t, 1)
	b := s.node("b", "192.0.2.2", simConfig(false), Options{HalfOpenPerAddr: 3, HalfOpenTotal: 10})
	other := s.node("a", "192.0.2.1", simConfig(true), Options{})
	var firsts [][]byte
	other.tap = func(m *Send) bool { firsts = append(firsts, m.Data); return false }
	for range 30 {
		other.do(other.e.Initiate(s.now, Initiate{Conn: "peer", Local: netip.AddrPortFrom(other.addr, 500), Remote: netip.AddrPortFrom(b.addr, 500)}))
		other.do(second(other.e.Terminate(s.now, Select{})))
	}
	from := func(addr int, i int) {
		b.receiveFrom(netip.MustParseAddrPort(fmt.Sprintf("203.0.113.%d:500", addr)), false, firsts[i])
	}
	for i := range 5 {
		from(1, i)
	}
	if n := len(b.e.byID); n != 3 || b.count("ike.rx.half-open-limit") != 2 {
		t.Errorf("%d half-open IKE SAs of one address, %d refused", n, b.count("ike.rx.half-open-limit"))
	}
	for i := 5; i < 25; i++ {
		from(i, i)
	}
	if n := len(b.e.byID); n != 10 || b.e.Counters()["ike.half-open"] != 10 {
		t.Errorf("%d half-open IKE SAs", n)
	}
	b.mark()
	from(1, 0)
	if n := len(b.sends(isakmp.MainMode)); n != 1 {
		t.Errorf("a repeat is not answered where the limit is reached")
	}
	s.run(linger + time.Second)
	b.mustBeEmpty()
	from(1, 9)
	if len(b.e.byID) != 1 {
		t.Error("nobody is let in any more")
	}
}

// TestHalfOpenSettled does not count what is established.
func TestHalfOpenSettled(t *testing.T) {
	s := newSim(t, 1)
	c := simConfig(false)
	c.Connections[0].Unique = UniqueNever
	b := s.node("b", "192.0.2.2", c, Options{HalfOpenPerAddr: 1, HalfOpenTotal: 1})
	for i := range 20 {
		a := s.node(fmt.Sprint("a", i), fmt.Sprintf("203.0.113.%d", i+1), simConfig(true), Options{})
		s.bringUpOf(a, b)
	}
	if len(b.pairs) != 20 || len(b.e.halfOpen) != 0 {
		t.Errorf("%d pairs, %d half-open", len(b.pairs), len(b.e.halfOpen))
	}
}

func (s *sim) bringUpOf(a, b *node) {
	s.t.Helper()
	cmd := a.initiate(b, "net")
	s.run(time.Second)
	if err, ok := a.done[cmd]; !ok || err != nil {
		s.t.Fatalf("%v, %v", ok, err)
	}
}

// TestNothingLeft ends everything in every way and looks into every table.
func TestNothingLeft(t *testing.T) {
	for name, end := range map[string]func(s *sim, a, b *node){
		"terminated": func(s *sim, a, b *node) { a.do(second(a.e.Terminate(s.now, Select{Conn: "peer"}))) },
		"by the responder": func(s *sim, a, b *node) {
			b.do(second(b.e.Terminate(s.now, Select{Conn: "peer"})))
		},
		"both at once": func(s *sim, a, b *node) {
			a.do(second(a.e.Terminate(s.now, Select{Conn: "peer"})))
			b.do(second(b.e.Terminate(s.now, Select{Conn: "peer"})))
		},
		"expired": func(s *sim, a, b *node) {
			for _, n := range []*node{a, b} {
				n.tap = func(*Send) bool { return false }
			}
			s.run(3 * time.Hour)
		},
		"after many renewals": func(s *sim, a, b *node) {
			s.run(10 * time.Hour)
			s.mustConverge(a, b, 1)
			a.do(second(a.e.Terminate(s.now, Select{Conn: "peer"})))
		},
	} {
		s, a, b := up(t, func(a, b *Config) {
			for _, c := range []*Config{a, b} {
				c.Connections[0].RekeyTime, c.Connections[0].OverTime = time.Hour, 10*time.Minute
				setLife(c, Lifetime{RekeyTime: 20 * time.Minute, LifeTime: 30 * time.Minute, RandTime: 5 * time.Minute})
			}
		})
		end(s, a, b)
		s.run(20 * time.Minute)
		a.mustBeEmpty()
		b.mustBeEmpty()
		if t.Failed() {
			t.Fatal(name)
		}
	}
}

// TestReqids shares a reqid among the pairs of one child and traffic, keeps
// that of a trap, and takes a configured one as it is.
func TestReqids(t *testing.T) {
	s, a, b := up(t, nil)
	conn := a.e.config.Connections[0]
	first := a.pair().Reqid
	p := a.e.Policy(conn, conn.Children[0], a.ike().local, a.ike().remote)
	if p.Reqid != first || p.LocalTS != a.pair().LocalTS || p.RemoteTS != a.pair().RemoteTS || p.Child != "net" {
		t.Errorf("the trap is %+v", p)
	}
	a.do(second(a.e.Rekey(s.now, Select{Child: "net"})))
	s.run(time.Minute)
	if a.pair().Reqid != first {
		t.Error("the renegotiated pair has another reqid")
	}
	a.do(second(a.e.Terminate(s.now, Select{Conn: "peer"})))
	s.run(time.Second)
	conn.Children[0].ReqID = 4711
	s.bringUp(a, b)
	if a.pair().Reqid != 4711 {
		t.Errorf("reqid %d", a.pair().Reqid)
	}
}

// TestMessageIDs never hands out one that is zero or in use.
func TestMessageIDs(t *testing.T) {
	_, a, _ := alone(t, nil)
	s := a.ike()
	seen := map[uint32]bool{}
	for range 20 * maxMIDs {
		mid := s.newMID()
		if mid == 0 || len(seen) < maxMIDs && seen[mid] {
			t.Fatalf("message id %08x", mid)
		}
		seen[mid] = true
	}
	if len(s.mids.ring) != maxMIDs {
		t.Errorf("%d are remembered", len(s.mids.ring))
	}
	a.e.opt.Rand = &scripted{[]byte{0, 0, 0, 0, 1, 2, 3, 4, 1, 2, 3, 4, 5, 6, 7, 8}}
	if one, two := s.newMID(), s.newMID(); one != 0x01020304 || two != 0x05060708 {
		t.Errorf("%08x, %08x", one, two)
	}
}

type scripted struct{ b []byte }

func (r *scripted) Read(b []byte) (int, error) {
	n := copy(b, r.b)
	r.b = r.b[n:]
	return n, nil
}

// TestAddressesV6 negotiates between IPv6 endpoints.
func TestAddressesV6(t *testing.T) {
	s := newSim(t, 1)
	ca, cb := simConfig(true), simConfig(false)
	for _, c := range []*Config{ca, cb} {
		c.Connections[0].Children[0].LocalTS, c.Connections[0].Children[0].RemoteTS = Dynamic{IsDynamic: true}, Dynamic{IsDynamic: true}
	}
	a, b := s.node("a", "2001:db8::1", ca, Options{}), s.node("b", "2001:db8::2", cb, Options{})
	s.bringUp(a, b)
	if p := a.pair(); p.LocalTS != hostSelector(a.addr) || p.RemoteTS != hostSelector(b.addr) || p.Encap {
		t.Errorf("%v", p)
	}
	if a.ike().remoteID.Type != isakmp.IDIPv6Addr {
		t.Errorf("%s", a.ike().remoteID)
	}
}
