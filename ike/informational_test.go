// SPDX-License-Identifier: Apache-2.0

package ike

import (
	"encoding/binary"
	"slices"
	"testing"
	"time"

	"quicksand/ike/isakmp"
	"quicksand/sa"
)

// TestDelete has either end take down the child, and then the IKE SA.
func TestDelete(t *testing.T) {
	for i := range 2 {
		s, a, b := up(t, nil)
		n, o := a, b
		if i == 1 {
			n, o = b, a
		}
		if got := first(n.e.Terminate(s.now, Select{Child: "other"})); got != 0 {
			t.Errorf("%d children of another name", got)
		}
		count, actions := n.e.Terminate(s.now, Select{Child: "net"})
		n.do(actions)
		if count != 1 || len(n.pairs) != 0 {
			t.Errorf("terminated %d, %d pairs are left", count, len(n.pairs))
		}
		s.run(time.Second)
		if len(o.pairs) != 0 {
			t.Error("the peer keeps the child")
		}
		o.mustLog("peer deleted child net{1}")
		if len(a.e.byID) != 1 || len(b.e.byID) != 1 {
			t.Error("the IKE SA went with the child")
		}
		s.bringUp(a, b)
		count, actions = n.e.Terminate(s.now, Select{Conn: "peer"})
		n.do(actions)
		s.run(time.Second)
		if count != 1 {
			t.Errorf("terminated %d", count)
		}
		o.mustLog("peer deleted the IKE SA")
		for _, n := range []*node{a, b} {
			downs := 0
			for _, x := range did[ChildUpdown](n) {
				if !x.Up {
					downs++
				}
			}
			if ups := did[IKEUpdown](n); downs != 2 || len(ups) != 2 || ups[1].Up {
				t.Errorf("%s: %d children down, IKE SAs %v", n.name, downs, ups)
			}
		}
		s.run(linger)
		a.mustBeEmpty()
		b.mustBeEmpty()
	}
}

func first[T any](v T, _ []Action) T { return v }

// TestTerminateForce drops without a word.
func TestTerminateForce(t *testing.T) {
	s, a, b := up(t, nil)
	a.mark()
	a.do(second(a.e.Terminate(s.now, Select{Conn: "peer", Force: true})))
	if len(a.sent) != 0 {
		t.Errorf("%d messages", len(a.sent))
	}
	a.mustBeEmpty()
	if len(b.pairs) != 1 {
		t.Error("the peer knows")
	}
}

// TestSelect names SAs by what identifies them.
func TestSelect(t *testing.T) {
	s, a, b := alone(t, many(3))
	for _, c := range []string{"net0", "net1", "net2"} {
		a.initiate(b, c)
	}
	s.run(2 * time.Second)
	id := a.ike().id
	var second uint32
	for _, p := range a.pairs {
		if p.Child == "net1" {
			second = p.ID
		}
	}
	for _, c := range []struct {
		sel  Select
		want int
	}{
		{Select{Conn: "peer"}, 1}, {Select{Conn: "x"}, 0}, {Select{IKE: id}, 1}, {Select{IKE: id + 1}, 0},
		{Select{Child: "net0"}, 1}, {Select{Child: "x"}, 0}, {Select{ChildID: second}, 1}, {Select{ChildID: 99}, 0},
		{Select{Child: "net0", ChildID: second}, 0}, {Select{Child: "net1", ChildID: second}, 1},
		{Select{Conn: "x", Child: "net0"}, 0}, {Select{IKE: id, Child: "net2"}, 1}, {Select{IKE: id + 1, Child: "net2"}, 0},
		{Select{}, 1},
	} {
		n := len(a.e.selectedChildren(c.sel))
		if !c.sel.ofChild() {
			n = len(a.e.selected(c.sel))
		}
		if n != c.want {
			t.Errorf("%+v selects %d, want %d", c.sel, n, c.want)
		}
	}
	n, actions := a.e.Rekey(s.now, Select{ChildID: second})
	a.do(actions)
	s.run(time.Minute)
	if n != 1 || len(a.pairs) != 3 || a.pairs[second] != nil {
		t.Errorf("rekeyed %d", n)
	}
	a.do(a.e.Shutdown(s.now))
	s.run(time.Second)
	if n, actions := a.e.Rekey(s.now, Select{Conn: "peer"}); n != 0 || len(actions) != 0 {
		t.Errorf("%d are rekeyed where nothing stands", n)
	}
	if n, _ := a.e.Rekey(s.now, Select{Child: "net0"}); n != 0 {
		t.Errorf("%d children are rekeyed where nothing stands", n)
	}
	b.mustBeEmpty()
}

// TestDeleteMany deletes several SPIs at once, one of them unknown, one of
// another protocol, and one of a pair that was replaced: none comes back.
func TestDeleteMany(t *testing.T) {
	s, a, b := alone(t, many(3))
	for _, c := range []string{"net0", "net1", "net2"} {
		a.initiate(b, c)
	}
	s.run(2 * time.Second)
	a.do(second(a.e.Rekey(s.now, Select{Child: "net1"})))
	s.run(2 * time.Second)
	if len(b.pairs) != 4 {
		t.Fatalf("%d pairs", len(b.pairs))
	}
	var spis [][]byte
	for _, p := range b.pairs {
		if p.Child != "net2" {
			spis = append(spis, be32(uint32(p.Out.SPI)))
		}
	}
	slices.SortFunc(spis, func(x, y []byte) int { return int(binary.BigEndian.Uint32(x)) - int(binary.BigEndian.Uint32(y)) })
	b.mark()
	a.informs(deletePayload(isakmp.ProtoAH, spis...))
	s.run(5 * time.Second)
	if len(b.pairs) != 4 {
		t.Error("SPIs of another protocol count")
	}
	a.informs(deletePayload(isakmp.ProtoESP, append(spis, be32(0x99999))...), deletePayload(isakmp.ProtoISAKMP, make([]byte, 16)))
	s.run(5 * time.Second)
	if len(b.pairs) != 1 || b.pair().Child != "net2" {
		t.Errorf("%d pairs are left", len(b.pairs))
	}
	if n := len(did[Activate](b)); n != 0 {
		t.Errorf("%d pairs came back", n)
	}
	b.ike()
	b.mustLog("peer deleted ESP 00099999, which we do not have")
}

// TestDeleteUnknown answers nothing and changes nothing.
func TestDeleteUnknown(t *testing.T) {
	s, a, b := up(t, nil)
	b.mark()
	for _, d := range []isakmp.Payload{
		deletePayload(isakmp.ProtoESP, be32(0x55555)), deletePayload(isakmp.ProtoESP, be32(uint32(b.pair().In.SPI))),
		deletePayload(isakmp.ProtoAH, be32(uint32(b.pair().Out.SPI))), deletePayload(isakmp.ProtoIPCOMP, []byte{1, 2}),
		deletePayload(isakmp.ProtoESP, make([]byte, 8)), deletePayload(isakmp.ProtoISAKMP, make([]byte, 16)),
		{Type: isakmp.PayloadDelete, Body: []byte{1}},
	} {
		a.informs(d)
		s.run(time.Second)
	}
	s.mustConverge(a, b, 1)
	if len(b.sent) != 0 {
		t.Errorf("%d answers", len(b.sent))
	}
}

// TestDeleteUnderOldIKE takes the Delete of a child under the IKE SA that was
// just replaced by another.
func TestDeleteUnderOldIKE(t *testing.T) {
	s, a, b := up(t, nil)
	old := a.ike()
	a.do(second(a.e.Rekey(s.now, Select{Conn: "peer"})))
	s.run(2 * time.Second)
	if old.state != IKERekeyedAway {
		t.Fatalf("the old IKE SA is %s", old.state)
	}
	spi := be32(uint32(b.pair().Out.SPI))
	mid := old.newMID()
	data, _ := old.encode(isakmp.Informational, mid, 0, phase2IV(old.transform.Hash, old.lastIV, mid),
		old.withHash([][]byte{be32(mid)}, deletePayload(isakmp.ProtoESP, spi)))
	b.receive(a, data)
	if len(b.pairs) != 0 {
		t.Error("the child stays")
	}
}

// TestInvalidSPI has the peer say that it does not know what we send over.
func TestInvalidSPI(t *testing.T) {
	s, a, b := up(t, nil)
	old := b.pair()
	a.informs(notifyPayload(isakmp.Notification{Protocol: isakmp.ProtoESP, SPI: be32(0x4444), Type: isakmp.InvalidSPI}))
	s.run(time.Second)
	s.mustConverge(a, b, 1)
	a.informs(notifyPayload(isakmp.Notification{Protocol: isakmp.ProtoESP, SPI: be32(uint32(old.Out.SPI)), Type: isakmp.InvalidSPI}))
	s.run(time.Minute)
	s.mustConverge(a, b, 1)
	b.mustLog("peer does not know child net{1}")
	if b.pair().ID == old.ID {
		t.Error("the pair is not replaced")
	}
}

// TestCloseAction does what a child asks for once the peer closes it.
func TestCloseAction(t *testing.T) {
	for action, want := range map[StartAction][2]int{ActionNone: {}, ActionTrap: {1, 0}, ActionStart: {0, 1}} {
		for _, whole := range []bool{false, true} {
			s, a, b := up(t, func(_, b *Config) { b.Connections[0].Children[0].CloseAction = action })
			sel := Select{Child: "net"}
			if whole {
				sel = Select{Conn: "peer"}
			}
			a.do(second(a.e.Terminate(s.now, sel)))
			s.run(time.Second)
			traps, again := did[Trap](b), did[Reconnect](b)
			if len(traps) != want[0] || len(again) != want[1] {
				t.Errorf("close_action %d: %d traps, %d to start again", action, len(traps), len(again))
			}
			if len(traps) == 1 && (traps[0].Policy.Child != "net" || traps[0].Policy.Reqid == 0) {
				t.Errorf("%+v", traps[0])
			}
			if len(did[Trap](a))+len(did[Reconnect](a)) != 0 {
				t.Error("the end that closes starts again")
			}
		}
	}
}

// TestShutdown tells the peer of everything.
func TestShutdown(t *testing.T) {
	s, a, b := alone(t, many(3))
	for _, c := range []string{"net0", "net1", "net2"} {
		a.initiate(b, c)
	}
	s.run(2 * time.Second)
	a.mark()
	a.do(a.e.Shutdown(s.now))
	a.mustBeEmpty()
	if n := len(a.sends(isakmp.Informational)); n != 4 {
		t.Errorf("%d Deletes, want 4", n)
	}
	s.run(time.Second)
	b.mustBeEmpty()
}

// TestShutdownWhileConnecting answers the commands that wait.
func TestShutdownWhileConnecting(t *testing.T) {
	s := newSim(t, 1)
	a, b := s.pair(nil)
	one, two := a.initiate(b, "net"), a.initiate(b, "")
	a.do(a.e.Shutdown(s.now))
	for _, cmd := range []uint64{one, two} {
		if err, ok := a.done[cmd]; !ok || err == nil {
			t.Errorf("%v, %v", ok, err)
		}
	}
	s.run(time.Second)
	a.mustBeEmpty()
}

// TestManual never negotiates a child that has keys of its own.
func TestManual(t *testing.T) {
	s, a, b := alone(t, func(_, b *Config) { b.Connections[0].Children[0].Manual = &Manual{} })
	cmd := a.initiate(b, "net")
	s.run(time.Second)
	if err := a.done[cmd]; err == nil || len(b.pairs) != 0 {
		t.Errorf("the peer negotiates: %v", err)
	}
	cmd = b.initiate(a, "net")
	s.run(time.Second)
	if err := b.done[cmd]; err == nil || len(b.pairs) != 0 {
		t.Errorf("we negotiate: %v", err)
	}
	b.e.config.Connections[0].Children[0].Manual = nil
	s.bringUp(a, b)
	b.e.config.Connections[0].Children[0].Manual = &Manual{}
	b.mark()
	b.do(second(b.e.Rekey(s.now, Select{Child: "net"})))
	s.run(time.Minute)
	if len(b.sends(isakmp.QuickMode)) != 0 {
		t.Error("it is renegotiated after it became one")
	}
}

// TestInitiateAgain uses the IKE SA that stands, and waits for one that is
// under way.
func TestInitiateAgain(t *testing.T) {
	s := newSim(t, 1)
	a, b := s.pair(many(3))
	one, two := a.initiate(b, "net0"), a.initiate(b, "net1")
	s.run(2 * time.Second)
	a.do(a.e.Initiate(s.now, Initiate{Command: 900, Conn: "peer", Child: "net2"})) // the daemon has not resolved anything
	s.run(2 * time.Second)
	for _, cmd := range []uint64{one, two, 900} {
		if err, ok := a.done[cmd]; !ok || err != nil {
			t.Errorf("%v, %v", ok, err)
		}
	}
	a.ike()
	s.mustConverge(a, b, 3)
	again := a.initiate(b, "net1") // renegotiates
	s.run(time.Minute)
	if err, ok := a.done[again]; !ok || err != nil {
		t.Errorf("%v, %v", ok, err)
	}
	s.mustConverge(a, b, 3)
	b.initiate(a, "net1")
	s.run(time.Minute)
	s.mustConverge(a, b, 3)
}

// TestUnknownNames answers at once.
func TestUnknownNames(t *testing.T) {
	s := newSim(t, 1)
	a, _ := s.pair(nil)
	for i, x := range []Initiate{{Conn: "x"}, {Conn: "peer", Child: "x"}} {
		x.Command = uint64(i) + 1_000_000
		a.do(a.e.Initiate(s.now, x))
		if err := a.done[x.Command]; err == nil {
			t.Errorf("%+v is accepted", x)
		}
	}
	a.mustBeEmpty()
}

// TestReload leaves alone what stands and has what comes go by the new
// configuration.
func TestReload(t *testing.T) {
	s, a, b := up(t, nil)
	old := a.pair().ID
	for i, n := range []*node{a, b} {
		c := simConfig(i == 0)
		c.Connections[0].Children[0].Proposals = []sa.Proposal{mustESP("aes256-sha256")}
		n.do(n.e.Reload(s.now, c))
	}
	if a.pair().ID != old || a.pair().Suite.Encryption != sa.AESGCM16 {
		t.Error("reloading changed what stands")
	}
	a.do(second(a.e.Rekey(s.now, Select{Child: "net"})))
	s.run(time.Minute)
	s.mustConverge(a, b, 1)
	if a.pair().Suite.Encryption != sa.AESCBC {
		t.Errorf("the renegotiation is for %s", a.pair().Suite)
	}
	for _, n := range []*node{a, b} {
		n.do(n.e.Reload(s.now, &Config{}))
	}
	s.mustConverge(a, b, 1)
	a.do(second(a.e.Terminate(s.now, Select{Conn: "peer"})))
	s.run(linger)
	b.mustBeEmpty()
	cmd := a.initiate(b, "net")
	if a.done[cmd] == nil {
		t.Error("a connection that is gone can be initiated")
	}
}

// TestTerminateWhileRekeying takes a child down at every moment of its
// renegotiation by either end: it must not come back.
func TestTerminateWhileRekeying(t *testing.T) {
	for _, who := range []int{0, 1} {
		for at := 0; at < 200; at += 4 {
			s, a, b := up(t, nil)
			n := []*node{a, b}[who]
			a.do(second(a.e.Rekey(s.now, Select{Child: "net"})))
			s.run(time.Duration(at) * time.Millisecond)
			n.do(second(n.e.Terminate(s.now, Select{Child: "net"})))
			s.run(400 * time.Second)
			if len(a.pairs)+len(b.pairs) != 0 {
				t.Fatalf("terminated by %s after %d ms, it is back: %d and %d pairs", n.name, at, len(a.pairs), len(b.pairs))
			}
		}
	}
}
