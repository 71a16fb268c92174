// SPDX-License-Identifier: Apache-2.0

package ike

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"
	"time"

	"quicksand/ike/isakmp"
	"quicksand/sa"
)

const outside = "198.51.100.1"

// vendor ids that a peer without one of the versions does not send.
var versions = map[string][][]byte{
	"RFC 3947": nil,
	"draft 03": {vendorRFC3947, vendorDraft02, vendorDraft2n},
	"draft 02": {vendorRFC3947, vendorDraft03, vendorDraft2n},
	"none":     {vendorRFC3947, vendorDraft03, vendorDraft02, vendorDraft2n},
}

func without(t *testing.T, version string) func(*Send) bool {
	return dropVendors(t, func(id string) bool {
		return slices.ContainsFunc(versions[version], func(v []byte) bool { return string(v) == id })
	})
}

// TestNAT has a NAT on either side, on both or on none, between peers of every
// version and in both modes.
func TestNAT(t *testing.T) {
	for version := range versions {
		for _, mode := range []sa.Mode{sa.Tunnel, sa.Transport} {
			for _, nat := range []string{"none", "initiator", "responder", "both", "forced by the initiator", "forced by the responder"} {
				t.Run(version+", "+mode.String()+", "+nat, func(t *testing.T) { testNAT(t, version, mode, nat) })
			}
		}
	}
}

func testNAT(t *testing.T, version string, mode sa.Mode, nat string) {
	s := newSim(t, 1)
	a, b := s.pair(func(a, b *Config) {
		for _, c := range []*Config{a, b} {
			c.Connections[0].Children[0].Mode = mode
			if mode == sa.Transport {
				c.Connections[0].Children[0].LocalTS, c.Connections[0].Children[0].RemoteTS = Dynamic{IsDynamic: true}, Dynamic{IsDynamic: true}
			}
		}
		a.Connections[0].Encap = nat == "forced by the initiator"
		b.Connections[0].Encap = nat == "forced by the responder"
	})
	a.tap = without(t, version)
	to := b
	if nat == "initiator" || nat == "both" {
		a.behindNAT(outside)
	}
	if nat == "responder" || nat == "both" {
		n := b.behindNAT("198.51.100.2")
		n.ports[500], n.ports[4500] = 500, 4500
		to = &node{addr: n.addr}
	}
	var shape [2]string
	var floats []bool
	tap := a.tap
	a.tap = func(m *Send) bool {
		if h, _ := isakmp.ParseHeader(m.Data); h.Exchange == isakmp.MainMode {
			floats = append(floats, m.NATT)
			if m.NATT != (m.Local.Port() == 4500) || m.NATT != (m.Remote.Port() == 4500) {
				t.Errorf("%v to %v, NAT-T %v", m.Local, m.Remote, m.NATT)
			}
			if h.Next == isakmp.PayloadKE {
				shape[0] = payloadTypes(m.Data)
			}
		}
		return tap(m)
	}
	cmd := a.initiate(to, "")
	s.run(time.Second)
	if err, ok := a.done[cmd]; !ok || err != nil {
		t.Fatalf("%v, %v; %v", ok, err, append(a.logs, b.logs...))
	}
	w := s.watch(a, b, nil)
	a.initiate(to, "net")
	s.run(time.Second)
	p, q := a.pair(), b.pair()

	encap := nat != "none" && version != "none"
	if p.Encap != encap || q.Encap != encap {
		t.Errorf("encapsulation %v and %v, want %v", p.Encap, q.Encap, encap)
	}
	natD, mode16 := "20", [2]uint16{isakmp.EncapUDPTunnel, isakmp.EncapUDPTransport}
	switch version {
	case "draft 02", "draft 03":
		natD, mode16 = "130", [2]uint16{61443, 61444}
	}
	want := "4 10 " + natD + " " + natD + " "
	if version == "none" {
		want = "4 10 "
	}
	if !encap {
		mode16 = [2]uint16{isakmp.EncapTunnel, isakmp.EncapTransport}
	}
	if shape[0] != want {
		t.Errorf("message 3 is %s, want %s", shape[0], want)
	}
	if !slices.Equal(floats, []bool{false, false, encap}) {
		t.Errorf("floats %v", floats)
	}
	for _, ms := range w.seen {
		x := ms[0].sa(t)
		if got, _ := x.Proposals[0].Transforms[0].Attr(isakmp.AttrEncapsulation); got.Value != mode16[mode] {
			t.Errorf("encapsulation mode %d, want %d", got.Value, mode16[mode])
		}
		oa := isakmp.PayloadNATOA
		if natD == "130" {
			oa = isakmp.PayloadNATOADraft
		}
		if has := ms[0].body(oa, 1) != nil && ms[1].body(oa, 1) != nil; has != (encap && mode == sa.Transport) {
			t.Errorf("NAT-OA payloads: %v", has)
		}
	}
	if encap && mode == sa.Transport {
		// What the peer sees us as, and what it is itself.
		for _, c := range []struct {
			what      string
			got, want netip.Addr
		}{
			{"the initiator as the responder sees it", p.OriginalLocal, q.Remote.Addr()},
			{"the responder itself", p.OriginalRemote, b.addr},
			{"the responder as the initiator sees it", q.OriginalLocal, p.Remote.Addr()},
			{"the initiator itself", q.OriginalRemote, a.addr},
		} {
			if c.got != c.want {
				t.Errorf("NAT-OA: %s is %v, want %v", c.what, c.got, c.want)
			}
		}
		if p.LocalTS != hostSelector(a.addr) || q.LocalTS != hostSelector(b.addr) || p.RemoteTS != hostSelector(p.Remote.Addr()) || q.RemoteTS != hostSelector(q.Remote.Addr()) {
			t.Errorf("selectors %s === %s and %s === %s", p.LocalTS, p.RemoteTS, q.LocalTS, q.RemoteTS)
		}
	} else if p.OriginalLocal.IsValid() || q.OriginalRemote.IsValid() {
		t.Error("original addresses without need")
	}
	x, y := a.ike(), b.ike()
	wantLocal := map[string][2]bool{"initiator": {true, false}, "responder": {false, true}, "both": {true, true}}[nat]
	if encap && nat[0] != 'f' && (x.natLocal != wantLocal[0] || y.natLocal != wantLocal[1] || x.natRemote != wantLocal[1] || y.natRemote != wantLocal[0]) {
		t.Errorf("initiator behind a NAT: %v, %v; responder: %v, %v", x.natLocal, y.natRemote, y.natLocal, x.natRemote)
	}
	for i, n := range []*node{a, b} {
		k := did[Keepalive](n)
		n.mark()
		s.run(61 * time.Second)
		if got := len(did[Keepalive](n)); nat[0] != 'f' && (got != 0) != (encap && wantLocal[i]) || got != 0 && got != 3 {
			t.Errorf("%s: %d keepalives in a minute after %d", n.name, got, len(k))
		}
	}
	// What is renewed stays where it is.
	a.tap, b.tap = tap, nil
	a.do(second(a.e.Rekey(s.now, Select{Conn: "peer"})))
	s.run(30 * time.Second)
	if z := a.ike(); z == x || z.natt != x.natt || z.remote != x.remote || z.encap() != encap {
		t.Errorf("the renewed IKE SA is with %v, before it was %v", z.remote, x.remote)
	}
	a.do(second(a.e.Rekey(s.now, Select{Child: "net"})))
	s.run(time.Minute)
	if a.pair().Encap != encap || a.pair().Remote != p.Remote {
		t.Errorf("the renewed pair is with %v", a.pair().Remote)
	}
}

func payloadTypes(data []byte) (out string) {
	h, _ := isakmp.ParseHeader(data)
	ps, _, _ := isakmp.Payloads(nil, h.Next, data[isakmp.HeaderLen:])
	for _, p := range ps {
		out += (map[isakmp.PayloadType]string{isakmp.PayloadKE: "4", isakmp.PayloadNonce: "10", isakmp.PayloadNATD: "20", isakmp.PayloadNATDDraft: "130"})[p.Type] + " "
	}
	return out
}

// TestNATMoves has the NAT forget its mappings: the peer follows what is
// authentic and new, and nothing else.
func TestNATMoves(t *testing.T) {
	s := newSim(t, 1)
	a, b := s.pair(func(a, _ *Config) { a.Connections[0].DPDDelay = 30 * time.Second })
	nat := a.behindNAT(outside)
	s.bringUp(a, b)
	old := b.ike().remote
	said := slices.Clone(a.sent)
	if old.Addr() != nat.addr || old.Port() == 4500 || b.pair().Remote != old {
		t.Fatalf("the peer is at %v, its pair at %v", old, b.pair().Remote)
	}
	elsewhere := netip.MustParseAddrPort("203.0.113.9:999")
	for _, m := range said { // replayed from elsewhere
		b.receiveFrom(elsewhere, true, m.Data)
	}
	for n := range 40 { // and changed
		m := slices.Clone(said[len(said)-1].Data)
		m[20+n] ^= 1
		b.receiveFrom(elsewhere, true, m)
	}
	s.run(time.Second)
	if b.ike().remote != old {
		t.Fatalf("the peer was moved to %v", b.ike().remote)
	}
	nat.forget()
	nat.addr = netip.MustParseAddr("198.51.100.77") // and of another address
	b.mark()
	s.run(35 * time.Second)
	now := b.ike().remote
	if now == old || now.Addr() != nat.addr || b.pair().Remote != now || !b.pair().Encap {
		t.Errorf("the peer is at %v, its pair at %v", now, b.pair().Remote)
	}
	if u := did[Update](b); len(u) != 1 || u[0].Pair.ID != b.pair().ID {
		t.Errorf("%d updates", len(u))
	}
	b.mustLog("peer moved from")
	// The backend may notice first.
	next := netip.AddrPortFrom(nat.addr, 51515)
	b.do(b.e.Event(s.now, sa.Event{Kind: sa.Remapped, Pair: b.pair().ID, Remote: next}))
	b.do(b.e.Event(s.now, sa.Event{Kind: sa.Remapped, Pair: b.pair().ID, Remote: next}))
	b.do(b.e.Event(s.now, sa.Event{Kind: sa.Remapped, Pair: b.pair().ID}))
	if b.ike().remote != next || b.pair().Remote != next || len(did[Update](b)) != 2 {
		t.Errorf("the peer is at %v after %d updates", b.ike().remote, len(did[Update](b)))
	}
	s.run(time.Minute)
	a.do(second(a.e.Rekey(s.now, Select{Child: "net"})))
	s.run(time.Minute)
	if len(b.pairs) != 1 || b.pair().Remote != b.ike().remote {
		t.Errorf("%d pairs, with %v", len(b.pairs), b.pair().Remote)
	}
}

// TestNATReplayedLate sends an old message again, from elsewhere, after so many
// exchanges that its message id is forgotten.
func TestNATReplayedLate(t *testing.T) {
	s := newSim(t, 1)
	a, b := s.pair(nil)
	nat := a.behindNAT(outside)
	s.bringUp(a, b)
	a.mark()
	say := func(kind isakmp.NotifyType, seq uint32) {
		a.informs(notifyPayload(isakmp.Notification{Protocol: isakmp.ProtoISAKMP, SPI: a.ike().cookieBytes(), Type: kind, Data: be32(seq)}))
	}
	say(isakmp.ReplayStatus, 1)
	say(isakmp.RUThere, 5)
	s.run(time.Second)
	old := slices.Clone(a.sent)
	for range maxMIDs + 1 {
		say(isakmp.ReplayStatus, 1)
	}
	s.run(time.Second)
	at, heard := b.ike().remote, b.ike().lastHeard
	s.run(time.Minute)
	for _, m := range old {
		b.receiveFrom(netip.MustParseAddrPort("203.0.113.9:999"), true, m.Data)
	}
	if b.count("ike.rx.replayed") != 0 {
		t.Error("the message ids are not forgotten")
	}
	if b.ike().remote != at || b.ike().lastHeard != heard {
		t.Errorf("a replay moved the peer to %v", b.ike().remote)
	}
	nat.forget()
	say(isakmp.RUThere, 6)
	s.run(time.Second)
	if b.ike().remote == at {
		t.Error("the peer is not followed any more")
	}
}

// TestNoNATNoMove stays where the peer was found where there is no NAT.
func TestNoNATNoMove(t *testing.T) {
	s, a, b := up(t, nil)
	old := b.ike().remote
	x := a.ike()
	mid := x.newMID()
	n := notifyPayload(isakmp.Notification{Protocol: isakmp.ProtoISAKMP, SPI: x.cookieBytes(), Type: isakmp.RUThere, Data: be32(7)})
	data, _ := x.encode(isakmp.Informational, mid, 0, phase2IV(x.transform.Hash, x.lastIV, mid), x.withHash([][]byte{be32(mid)}, n))
	b.receiveFrom(netip.MustParseAddrPort("203.0.113.9:999"), false, data)
	b.do(b.e.Event(s.now, sa.Event{Kind: sa.Remapped, Pair: b.pair().ID, Remote: netip.MustParseAddrPort("203.0.113.9:999")}))
	s.run(time.Second)
	if b.ike().remote != old || len(did[Update](b)) != 0 {
		t.Errorf("the peer was moved to %v", b.ike().remote)
	}
}

// TestNATD is the hash of RFC 3947 section 3.2, and a list of several hashes
// of the peer's own addresses.
func TestNATD(t *testing.T) {
	c := cookies{isakmp.Cookie{1, 2, 3, 4, 5, 6, 7, 8}, isakmp.Cookie{9, 10, 11, 12, 13, 14, 15, 16}}
	for h, f := range stdHash {
		for _, a := range []string{"192.0.2.1:500", "[2001:db8::1]:4500"} {
			ap := netip.MustParseAddrPort(a)
			d := f()
			d.Write(c.i[:])
			d.Write(c.r[:])
			d.Write(ap.Addr().AsSlice())
			binary.Write(d, binary.BigEndian, ap.Port())
			sameBytes(t, a, natD(h, c, ap), d.Sum(nil))
		}
	}
	s := newSim(t, 1)
	a, b := s.pair(nil)
	a.tap = func(m *Send) bool {
		if h, _ := isakmp.ParseHeader(m.Data); h.Next == isakmp.PayloadKE {
			m.Data = rewrite(t, m.Data, func(ps []isakmp.Payload) []isakmp.Payload {
				other := isakmp.Payload{Type: isakmp.PayloadNATD, Body: make([]byte, 32)}
				return slices.Insert(ps, len(ps)-1, other, other) // addresses of other interfaces
			})
		}
		return true
	}
	s.bringUp(a, b)
	if b.ike().encap() {
		t.Error("the list of addresses is not looked through")
	}
}

// TestNATTPortAlone negotiates on the NAT-T ports from the first message on.
func TestNATTPortAlone(t *testing.T) {
	s := newSim(t, 1)
	a, b := s.pair(nil)
	a.behindNAT(outside)
	a.do(a.e.Initiate(s.now, Initiate{Command: 77, Conn: "peer", Child: "net",
		Local: netip.AddrPortFrom(a.addr, 4500), Remote: netip.AddrPortFrom(b.addr, 4500)}))
	s.run(time.Second)
	if err, ok := a.done[77]; !ok || err != nil {
		t.Fatalf("%v, %v", ok, err)
	}
	for _, m := range append(a.sent, b.sent...) {
		if !m.NATT {
			t.Error("a message without the marker")
		}
	}
}

// TestAHBehindNAT is not offered and not accepted.
func TestAHBehindNAT(t *testing.T) {
	for _, list := range [][]sa.Proposal{{mustProposal(sa.AH, "sha256")}, {mustProposal(sa.AH, "sha256"), mustESP("aes128gcm16")}} {
		s := newSim(t, 1)
		a, b := s.pair(func(a, b *Config) {
			a.Connections[0].Children[0].Proposals, b.Connections[0].Children[0].Proposals = list, list
		})
		a.behindNAT(outside)
		cmd := a.initiate(b, "net")
		s.run(2 * time.Second)
		if err := a.done[cmd]; (err == nil) != (len(list) > 1) {
			t.Errorf("%v", err)
		}
		if len(list) > 1 && a.pair().Suite.Protocol != sa.ESP {
			t.Error(a.pair().Suite)
		}
		if len(a.reserved)+len(b.reserved) != 0 {
			t.Error("SPIs are kept")
		}
	}
}
