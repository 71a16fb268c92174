// SPDX-License-Identifier: Apache-2.0

package ike

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"quicksand/ike/isakmp"
	"quicksand/sa"
)

func mustProposal(p sa.Protocol, s string) sa.Proposal {
	out, err := sa.ParseProposal(p, s)
	if err != nil {
		panic(err)
	}
	return out
}

// propose sets the proposals of both ends' only child.
func propose(nodes []*node, p ...sa.Proposal) {
	for _, n := range nodes {
		n.e.config.Connections[0].Children[0].Proposals = p
	}
}

// TestQuickModeSuites negotiates every suite with every group, with and
// without ESN, in both modes, and derives the keys that the two ends must have
// from what they said.
func TestQuickModeSuites(t *testing.T) {
	s, a, b := up(t, func(a, b *Config) {
		for _, c := range []*Config{a, b} {
			c.Connections[0].Children[0].LocalTS = Dynamic{IsDynamic: true}
			c.Connections[0].Children[0].RemoteTS = Dynamic{IsDynamic: true}
		}
	})
	w := s.watch(a, b, nil)
	s.net.delay = time.Millisecond
	_, actions := a.e.Terminate(s.now, Select{Child: "net"})
	a.do(actions)
	s.run(3 * time.Second)

	groups := []string{"", "-modp1024", "-modp1536", "-modp2048", "-modp3072", "-modp4096", "-modp6144", "-modp8192",
		"-ecp256", "-ecp384", "-ecp521", "-curve25519"}
	var suites []struct {
		p    sa.Protocol
		name string
	}
	add := func(p sa.Protocol, name string) {
		suites = append(suites, struct {
			p    sa.Protocol
			name string
		}{p, name})
	}
	for _, i := range []string{"md5", "sha1", "sha256", "sha384", "sha512"} {
		add(sa.AH, i)
		for _, c := range []string{"null", "3des", "aes128", "aes192", "aes256", "aes128ctr", "aes192ctr", "aes256ctr"} {
			add(sa.ESP, c+"-"+i)
		}
	}
	for _, icv := range []string{"8", "12", "16"} {
		for _, bits := range []string{"128", "192", "256"} {
			add(sa.ESP, "aes"+bits+"gcm"+icv)
		}
	}
	n := 0
	for _, suite := range suites {
		for _, group := range groups {
			for _, esn := range []string{"", "-esn"} {
				for _, mode := range []sa.Mode{sa.Tunnel, sa.Transport} {
					name := fmt.Sprintf("%s %s%s%s %s", suite.p, suite.name, group, esn, mode)
					p := mustProposal(suite.p, suite.name+group+esn)
					propose([]*node{a, b}, p)
					for _, n := range []*node{a, b} {
						n.e.config.Connections[0].Children[0].Mode = mode
						n.mark()
					}
					from, to := a, b
					if n++; n%2 == 1 {
						from, to = b, a
					}
					clear(w.seen)
					from.initiate(to, "net")
					s.run(10 * time.Millisecond)
					checkSuite(t, w, name, from, to, p[0], mode)
					from.do(second(from.e.Terminate(s.now, Select{Child: "net"})))
					s.run(2 * time.Second)
					if t.Failed() {
						t.Fatal(name)
					}
				}
			}
		}
	}
	if want := (5*9 + 9) * 12 * 4; n != want {
		t.Errorf("%d negotiations, want %d", n, want)
	}
	if m := len(a.ike().mids.ring); m != maxMIDs {
		t.Errorf("%d message ids are remembered, want %d", m, maxMIDs)
	}
	a.do(a.e.Shutdown(s.now))
	s.run(time.Second)
	a.mustBeEmpty()
	b.mustBeEmpty()
}

func second[T any](_ int, v T) T { return v }

func checkSuite(t *testing.T, w *wire, name string, from, to *node, want sa.Transform, mode sa.Mode) {
	t.Helper()
	if d := differ(from, to); d != "" || len(from.pairs) != 1 {
		t.Fatalf("%s: %d pairs; %s", name, len(from.pairs), d)
	}
	p := from.pair()
	if p.Suite != want.Suite || p.Mode != mode || from.child().group != want.Group || to.child().group != want.Group {
		t.Fatalf("%s: the pair is %s in %s mode with %s", name, p.Suite, p.Mode, from.child().group)
	}
	if len(w.seen) != 1 {
		t.Fatalf("%s: %d Quick Modes", name, len(w.seen))
	}
	for mid, ms := range w.seen {
		if len(ms) != 3 || mid == 0 {
			t.Fatalf("%s: %d messages of %08x", name, len(ms), mid)
		}
		if ke := ms[0].body(isakmp.PayloadKE, 0) != nil; ke != (want.Group != sa.GroupNone) {
			t.Errorf("%s: KE payload: %v", name, ke)
		}
		if n := len(ms[0].body(isakmp.PayloadNonce, 0)); n != 32 {
			t.Errorf("%s: a nonce of %d bytes", name, n)
		}
		if m := ms[0].sa(t); len(m.Proposals) != 1 || !bytes.Equal(m.Proposals[0].SPI, be32(uint32(p.In.SPI))) {
			t.Errorf("%s: message 1 proposes %v", name, m)
		}
		if m := ms[1].sa(t); len(m.Proposals) != 1 || len(m.Proposals[0].Transforms) != 1 || !bytes.Equal(m.Proposals[0].SPI, be32(uint32(p.Out.SPI))) {
			t.Errorf("%s: message 2 chooses %v", name, m)
		}
		var shared []byte
		if want.Group != sa.GroupNone {
			shared = from.shared
			if !bytes.Equal(shared, to.shared) || len(shared) == 0 {
				t.Errorf("%s: g^xy differs", name)
			}
		}
		proto := isakmp.ProtocolID(isakmp.ProtoESP)
		if want.Protocol == sa.AH {
			proto = isakmp.ProtoAH
		}
		for _, x := range []sa.SA{p.In, p.Out} {
			got := append(bytes.Clone(x.EncryptionKey), x.IntegrityKey...)
			if k := w.keymat(mid, proto, x.SPI, shared, want.KeymatLen()); !bytes.Equal(got, k) || len(x.EncryptionKey) != want.EncryptionKeyLen() {
				t.Errorf("%s: the keys of %s are %x, want %x", name, x.SPI, got, k)
			}
		}
	}
}

// TestFreshDH has every negotiation and renegotiation use a public value and
// nonces of its own.
func TestFreshDH(t *testing.T) {
	s, a, b := up(t, nil)
	w := s.watch(a, b, nil)
	for i := range 6 {
		n := []*node{a, b}[i%2]
		n.do(second(n.e.Rekey(s.now, Select{Child: "net"})))
		s.run(time.Minute)
	}
	seen := map[string]bool{}
	for _, ms := range w.seen {
		for _, m := range ms[:2] {
			for _, p := range []isakmp.PayloadType{isakmp.PayloadKE, isakmp.PayloadNonce} {
				v := string(m.body(p, 0))
				if seen[v] || v == "" {
					t.Errorf("%s %x comes again", p, v)
				}
				seen[v] = true
			}
		}
	}
	if len(seen) != 6*2*2 {
		t.Errorf("%d values", len(seen))
	}
	s.mustConverge(a, b, 1)
}

// TestActionOrder is make before break: an end's inbound SA is live before the
// message leaves that lets the peer use it, and traffic goes over the new pair
// only then; the old one stays until after.
func TestActionOrder(t *testing.T) {
	s, a, b := up(t, nil)
	old := map[*node]uint32{a: a.pair().ID, b: b.pair().ID}
	a.mark()
	b.mark()
	a.do(second(a.e.Rekey(s.now, Select{Child: "net"})))
	s.run(time.Minute)
	for _, n := range []*node{a, b} {
		at := map[string]int{}
		for i, x := range n.actions {
			switch x := x.(type) {
			case Install:
				at["install"] = i
			case Activate:
				if x.Pair.ID != old[n] {
					at["activate"] = i
				}
			case Remove:
				if x.Pair.ID == old[n] {
					at["remove"] = i
				}
			case Send:
				if h, _ := isakmp.ParseHeader(x.Data); h.Exchange == isakmp.QuickMode {
					at["send"] = i // the last one: message 3, or message 2
				}
			}
		}
		if !(0 < at["install"] && at["install"] < at["send"] && at["send"] < at["activate"] && at["activate"] < at["remove"]) {
			t.Errorf("%s: the order of actions is %v", n.name, at)
		}
	}
}

// TestQuickModeChild is how the responder chooses by proxy identities.
func TestQuickModeChild(t *testing.T) {
	child := func(name, local, remote string) *Child {
		return &Child{Name: name, Proposals: []sa.Proposal{mustESP("aes128gcm16")}, LocalTS: selector(local), RemoteTS: selector(remote)}
	}
	all := []*Child{
		child("wide", "10.2.0.0/16", "10.1.0.0/16"),
		child("half", "10.2.0.0/17", "10.1.0.0/16"),
		child("web", "10.2.0.1/32[tcp/80]", "10.1.0.0/16"),
		child("six", "2001:db8:2::/48", "2001:db8:1::/48"),
		child("range", "10.9.0.5..10.9.0.9", "10.1.0.0/16"),
		child("udp", "10.8.0.0/24[udp]", "10.1.0.0/16[udp/53]"),
	}
	for _, c := range []struct{ local, remote, want string }{ // as the initiator sees it
		{"10.1.0.0/16", "10.2.0.0/16", "wide"},
		{"10.1.0.0/16", "10.2.0.0/17", "half"}, // equal comes before narrowing
		{"10.1.0.0/16", "10.2.0.0/18", "wide"}, // a part of the first that has it
		{"10.1.5.0/24", "10.2.0.0/17", "wide"},
		{"10.1.0.0/16", "10.2.0.1/32[tcp/80]", "web"},
		{"10.1.0.0/16[tcp]", "10.2.0.0/16[tcp/443]", "wide"},
		{"2001:db8:1::/48", "2001:db8:2::/48", "six"},
		{"2001:db8:1::7/128", "2001:db8:2:3::/64", "six"},
		{"10.1.0.0/16", "10.9.0.5..10.9.0.9", "range"},
		{"10.1.0.0/16", "10.9.0.6..10.9.0.8", "range"},
		{"10.1.0.0/16[udp/53]", "10.8.0.0/24[udp]", "udp"},
		{"10.1.0.0/15", "10.2.0.0/16", ""}, // more than is configured
		{"10.1.0.0/16", "10.2.0.0/15", ""},
		{"0.0.0.0/0", "0.0.0.0/0", ""},
		{"10.1.0.0/16", "10.9.0.4..10.9.0.9", ""},
		{"10.1.0.0/16", "10.9.0.0/24", ""},
		{"10.1.0.0/16", "10.8.0.0/24", ""},
		{"10.1.0.0/16[udp/53]", "10.8.0.0/24[tcp]", ""},
		{"2001:db8:1::/48", "2001:db8::/32", ""},
		{"10.3.0.0/16", "10.2.0.0/16", ""},
	} {
		s := newSim(t, 1)
		a, b := s.pair(func(a, b *Config) {
			b.Connections[0].Children = all
			a.Connections[0].Children = []*Child{child("net", c.local, c.remote)}
		})
		cmd := a.initiate(b, "net")
		s.run(2 * time.Second)
		if c.want == "" {
			if err := a.done[cmd]; err == nil || !strings.Contains(err.Error(), "INVALID_ID_INFORMATION") {
				t.Errorf("%s === %s: %v", c.local, c.remote, err)
			}
			b.mustLog("no child is configured for")
			continue
		}
		if err, ok := a.done[cmd]; !ok || err != nil {
			t.Errorf("%s === %s: %v, %v", c.local, c.remote, ok, err)
			continue
		}
		s.mustConverge(a, b, 1)
		if p := b.pair(); p.Child != c.want || p.LocalTS != selector(c.remote).Selector || p.RemoteTS != selector(c.local).Selector {
			t.Errorf("%s === %s: child %s with %s === %s", c.local, c.remote, p.Child, p.LocalTS, p.RemoteTS)
		}
	}
}

// TestQuickModeOtherConnection finds a child of another connection between the
// same two ends.
func TestQuickModeOtherConnection(t *testing.T) {
	s := newSim(t, 1)
	a, b := s.pair(func(a, b *Config) {
		a.Connections[0].LocalID = mustID("moon.example.org")
		other := *b.Connections[0]
		other.Name, other.RemoteID = "other", mustID("moon.example.org")
		b.Connections[0].Children = nil
		b.Connections = append(b.Connections, &other)
	})
	s.bringUp(a, b)
	if c := b.pair().Conn; c != "other" {
		t.Errorf("connection %s", c)
	}
}

// TestQuickModeProposals is the choice among proposals and transforms.
func TestQuickModeProposals(t *testing.T) {
	for _, c := range []struct {
		name         string
		offer, accep []string
		want         string
	}{
		{"the responder's order", []string{"aes128gcm16-aes256gcm16"}, []string{"aes256gcm16-aes128gcm16"}, "aes256gcm16"},
		{"the responder's order of proposals", []string{"aes128-sha256", "aes256gcm16"}, []string{"aes256gcm16", "aes128-sha256"}, "aes256gcm16"},
		{"the only one in common", []string{"aes128-sha1", "aes192-sha384", "aes256ctr-sha512"}, []string{"null-md5", "aes256ctr-sha512-sha256"}, "aes256ctr-sha512"},
		{"ESN where both want it", []string{"aes128gcm16-noesn-esn"}, []string{"aes128gcm16-esn-noesn"}, "aes128gcm16-esn"},
		{"no ESN where one does not", []string{"aes128gcm16-esn-noesn"}, []string{"aes128gcm16"}, "aes128gcm16"},
		{"AH among them", []string{"ah:sha256", "aes128gcm16"}, []string{"ah:sha256"}, "ah:sha256"},
		{"ESP among them", []string{"ah:sha256", "aes128gcm16"}, []string{"aes128gcm16", "ah:sha256"}, "aes128gcm16"},
		{"another cipher", []string{"aes128gcm16"}, []string{"aes128gcm12"}, ""},
		{"another key length", []string{"aes128-sha256"}, []string{"aes256-sha256"}, ""},
		{"another hash", []string{"aes128-sha1"}, []string{"aes128-sha256"}, ""},
		{"MD5 without being configured", []string{"aes128-md5"}, []string{"aes128-sha256"}, ""},
		{"ESN forced on one side", []string{"aes128gcm16-esn"}, []string{"aes128gcm16"}, ""},
		{"PFS on one side", []string{"aes128gcm16"}, []string{"aes128gcm16-modp2048"}, ""},
		{"PFS on the other side", []string{"aes128gcm16-modp2048"}, []string{"aes128gcm16"}, ""},
		{"another group", []string{"aes128gcm16-modp2048"}, []string{"aes128gcm16-modp3072"}, ""},
		{"PFS either way", []string{"aes128gcm16-modp2048"}, []string{"aes128gcm16-modpnone-modp2048"}, "aes128gcm16-modp2048"},
		{"AH for ESP", []string{"ah:sha256"}, []string{"aes128-sha256"}, ""},
	} {
		parse := func(list []string) (out []sa.Proposal) {
			for _, p := range list {
				if rest, ok := strings.CutPrefix(p, "ah:"); ok {
					out = append(out, mustProposal(sa.AH, rest))
				} else {
					out = append(out, mustESP(p))
				}
			}
			return out
		}
		s := newSim(t, 1)
		a, b := s.pair(func(a, b *Config) {
			a.Connections[0].Children[0].Proposals = parse(c.offer)
			b.Connections[0].Children[0].Proposals = parse(c.accep)
		})
		cmd := a.initiate(b, "net")
		s.run(2 * time.Second)
		err, ok := a.done[cmd]
		if c.want == "" {
			if err == nil || !strings.Contains(err.Error(), "NO_PROPOSAL_CHOSEN") {
				t.Errorf("%s: %v, %v", c.name, ok, err)
			}
			if len(a.reserved)+len(b.reserved)+len(a.pairs)+len(b.pairs) != 0 {
				t.Errorf("%s: something is left", c.name)
			}
			continue
		}
		if !ok || err != nil {
			t.Errorf("%s: %v, %v", c.name, ok, err)
			continue
		}
		s.mustConverge(a, b, 1)
		if got := a.pair().Suite; got != parse([]string{c.want})[0][0].Suite {
			t.Errorf("%s: %s", c.name, got)
		}
		if len(a.reserved)+len(b.reserved) != 0 {
			t.Errorf("%s: SPIs of what was not chosen are kept", c.name)
		}
	}
}
