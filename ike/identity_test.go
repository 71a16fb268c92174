// SPDX-License-Identifier: Apache-2.0

package ike

import (
	"strings"
	"testing"
	"time"

	"quicksand/ike/isakmp"
	"quicksand/sa"
)

func mustID(s string) Identity {
	i, err := ParseIdentity(s)
	if err != nil {
		panic(err)
	}
	return i
}

// TestIdentities negotiates with every type of identity, as it is configured
// at the one end and demanded by the other.
func TestIdentities(t *testing.T) {
	for _, c := range []struct {
		local, demanded string
		kind            isakmp.IDType
		wrong           bool
	}{
		{"", "192.0.2.1", isakmp.IDIPv4Addr, false},
		{"192.0.2.1", "192.0.2.1", isakmp.IDIPv4Addr, false},
		{"198.51.100.7", "198.51.100.7", isakmp.IDIPv4Addr, false},
		{"2001:db8::1", "2001:db8::1", isakmp.IDIPv6Addr, false},
		{"moon.example.org", "moon.example.org", isakmp.IDFQDN, false},
		{"moon.example.org", "MOON.example.ORG", isakmp.IDFQDN, false},
		{"moon.example.org", "*.example.org", isakmp.IDFQDN, false},
		{"@192.0.2.1", "@192.0.2.1", isakmp.IDFQDN, false},
		{"carol@example.org", "carol@example.org", isakmp.IDUserFQDN, false},
		{"carol@example.org", "*@example.org", isakmp.IDUserFQDN, false},
		{"@#0011ff", "@#0011ff", isakmp.IDKeyID, false},
		{"keyid:site", "keyid:site", isakmp.IDKeyID, false},
		{"keyid:site", "%any", isakmp.IDKeyID, false},
		{"", "192.0.2.9", 0, true},
		{"moon.example.org", "sun.example.org", 0, true},
		{"moon.example.org", "*.example.com", 0, true},
		{"carol@example.org", "fqdn:carol@example.org", 0, true},
		{"192.0.2.1", "@192.0.2.1", 0, true},
		{"keyid:site", "@site", 0, true},
		{"2001:db8::1", "2001:db8::2", 0, true},
	} {
		for _, initiator := range []bool{true, false} {
			s := newSim(t, 1)
			a, b := s.pair(func(a, b *Config) {
				if !initiator {
					a, b = b, a
				}
				a.Connections[0].LocalID = mustID(c.local)
				b.Connections[0].RemoteID = mustID(c.demanded)
				if !initiator && c.demanded == "192.0.2.1" {
					b.Connections[0].RemoteID = mustID("192.0.2.2")
					if c.local != "" {
						a.Connections[0].LocalID = mustID("192.0.2.2")
					}
				}
			})
			if !c.wrong {
				s.bringUp(a, b)
				got := b.ike().remoteID
				if !initiator {
					got = a.ike().remoteID
				}
				if got.Type != c.kind {
					t.Errorf("%q to %q: the peer is %s of type %s", c.local, c.demanded, got, got.Type)
				}
				continue
			}
			cmd := a.initiate(b, "net")
			s.run(20 * time.Second)
			err := a.done[cmd]
			if err == nil || !strings.Contains(err.Error(), "AUTHENTICATION_FAILED") {
				t.Errorf("%q to %q: %v", c.local, c.demanded, err)
			}
			if len(a.ikeStates())+len(b.ikeStates()) != 0 {
				t.Errorf("%q to %q: the IKE SAs %v and %v stand", c.local, c.demanded, a.ikeStates(), b.ikeStates())
			}
			if a.count("ike.rx.unprotected")+b.count("ike.rx.unprotected") != 0 {
				t.Errorf("%q to %q: the refusal is not protected", c.local, c.demanded)
			}
			s.run(200 * time.Second)
			a.mustBeEmpty()
			b.mustBeEmpty()
		}
	}
}

// TestIdentityPorts takes protocol and port of a phase 1 identity as RFC 2407
// section 4.6.2 has them.
func TestIdentityPorts(t *testing.T) {
	for _, c := range []struct {
		protocol uint8
		port     uint16
		want     bool
	}{{0, 0, true}, {17, 500, true}, {17, 0, true}, {17, 4500, true}, {17, 501, false}, {6, 500, false}, {0, 7, false}} {
		id := isakmp.Identification{Type: isakmp.IDFQDN, Protocol: c.protocol, Port: c.port, Data: []byte("x")}
		if _, err := readIdentity(id.Append(nil)); (err == nil) != c.want {
			t.Errorf("protocol %d, port %d: %v", c.protocol, c.port, err)
		}
	}
	der := isakmp.Identification{Type: isakmp.IDDERASN1DN, Data: []byte{0x30, 0}}
	if i, err := readIdentity(der.Append(nil)); err != nil || i.Type != isakmp.IDDERASN1DN || i.Data != "0\x00" {
		t.Errorf("a distinguished name: %v, %v", i, err)
	}
}

// TestSeveralConnections has the responder find the connection by address,
// proposal, pre-shared key and identity.
func TestSeveralConnections(t *testing.T) {
	conn := func(name, remoteAddr, remoteID, proposal string) *Connection {
		c := &Connection{Name: name, Proposals: mustIKE(proposal), KeyingTries: 1}
		if remoteAddr != "" {
			a := mustID(remoteAddr)
			s, _ := sa.ParseSelector(a.String())
			c.RemoteAddrs = []AddrMatch{{From: s.From, To: s.To}}
		}
		c.RemoteID = mustID(remoteID)
		return c
	}
	secret := func(owner, key string) *Secret {
		return &Secret{Name: owner, Owners: []Identity{mustID(owner)}, Key: sa.Key(key)}
	}
	const strong, other = "aes256-sha256-curve25519", "aes128-sha256-curve25519"
	for name, c := range map[string]struct {
		conns   []*Connection
		secrets []*Secret
		want    string
	}{
		"by identity": {
			[]*Connection{conn("x", "", "sun.example.org", strong), conn("peer", "", "moon.example.org", strong)}, nil, "peer",
		},
		"by address": {
			[]*Connection{conn("x", "198.51.100.1", "", strong), conn("peer", "192.0.2.1", "", strong)}, nil, "peer",
		},
		"by proposal": {
			[]*Connection{conn("x", "", "", other), conn("peer", "", "", strong)}, nil, "peer",
		},
		"by proposal, each with a key": {
			[]*Connection{conn("x", "", "sun.example.org", other), conn("peer", "", "moon.example.org", strong)},
			[]*Secret{secret("sun.example.org", "not this one"), secret("moon.example.org", "a pre-shared key")}, "peer",
		},
		"by address, each with a key": {
			[]*Connection{conn("x", "198.51.100.1", "", strong), conn("peer", "192.0.2.1", "", strong)},
			[]*Secret{secret("198.51.100.1", "not this one"), secret("192.0.2.1", "a pre-shared key")}, "peer",
		},
		"first of two that fit": {
			[]*Connection{conn("peer", "", "", strong), conn("x", "", "", strong)}, nil, "peer",
		},
		"none by identity": {
			[]*Connection{conn("x", "", "sun.example.org", strong)}, nil, "",
		},
		"another's key": {
			[]*Connection{conn("x", "", "moon.example.org", strong)},
			[]*Secret{secret("moon.example.org", "not this one")}, "",
		},
	} {
		s := newSim(t, 1)
		a, b := s.pair(func(a, b *Config) {
			a.Connections[0].LocalID = mustID("moon.example.org")
			children := b.Connections[0].Children
			b.Connections = c.conns
			for _, c := range b.Connections {
				c.Children = children
			}
			if c.secrets != nil {
				b.Secrets = c.secrets
			}
		})
		if c.want == "" {
			a.initiate(b, "net")
			s.run(400 * time.Second)
			a.mustBeEmpty()
			b.mustBeEmpty()
			continue
		}
		s.bringUp(a, b)
		if got := b.ike().conn.Name; got != c.want {
			t.Errorf("%s: connection %s", name, got)
		}
	}
}

// TestUnique brings up a second IKE SA with the same identities from another
// address, under each policy.
func TestUnique(t *testing.T) {
	for policy, want := range map[Unique]struct {
		old, young bool // which IKE SA stands in the end
	}{
		UniqueNo:      {false, true}, // the newcomer says INITIAL_CONTACT
		UniqueReplace: {false, true},
		UniqueKeep:    {true, false},
		UniqueNever:   {true, true},
	} {
		s := newSim(t, 1)
		a, b := s.pair(func(a, b *Config) {
			a.Connections[0].LocalID = mustID("moon.example.org")
			b.Connections[0].Unique = policy
		})
		s.bringUp(a, b)
		old := b.ike()
		c := s.node("c", "192.0.2.3", a.e.config, Options{})
		c.initiate(b, "net")
		s.run(60 * time.Second)
		var oldThere, youngThere bool
		for _, i := range b.e.byID {
			if i.state == IKEEstablished && i == old {
				oldThere = true
			} else if i.state == IKEEstablished {
				youngThere = true
			}
		}
		if oldThere != want.old || youngThere != want.young {
			t.Errorf("policy %d: old %v, young %v, want %v", policy, oldThere, youngThere, want)
		}
		if policy == UniqueKeep {
			b.mustLog("stands already and is kept")
			c.mustLog("AUTHENTICATION_FAILED")
		}
	}
}

// TestUniqueSilent does the same with a newcomer that does not say
// INITIAL_CONTACT.
func TestUniqueSilent(t *testing.T) {
	for policy, want := range map[Unique]int{UniqueNo: 2, UniqueReplace: 1, UniqueKeep: 1, UniqueNever: 2} {
		s := newSim(t, 1)
		a, b := s.pair(func(a, b *Config) {
			a.Connections[0].LocalID = mustID("moon.example.org")
			a.Connections[0].Unique = UniqueNever
			b.Connections[0].Unique = policy
		})
		s.bringUp(a, b)
		s.run(2 * time.Second)
		old := b.ike().id
		c := s.node("c", "192.0.2.3", a.e.config, Options{})
		c.initiate(b, "net")
		s.run(60 * time.Second)
		if n := len(b.e.byID); n != want || (b.e.byID[old] == nil) != (policy == UniqueReplace) || len(b.pairs) != want {
			t.Errorf("policy %d: %d IKE SAs, want %d", policy, n, want)
		}
		if policy == UniqueReplace && len(a.e.byID)+len(a.pairs) != 0 {
			t.Error("who is replaced is not told")
		}
	}
}

// TestParseIdentity is swanctl.conf's notation.
func TestParseIdentity(t *testing.T) {
	for in, want := range map[string]Identity{
		"": {}, "%any": {}, "*": {},
		"192.0.2.1":         {isakmp.IDIPv4Addr, "\xc0\x00\x02\x01"},
		"ipv4:192.0.2.1":    {isakmp.IDIPv4Addr, "\xc0\x00\x02\x01"},
		"2001:db8::1":       {isakmp.IDIPv6Addr, "\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01"},
		"ipv6:2001:db8::1":  {isakmp.IDIPv6Addr, "\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01"},
		"moon.example.org":  {isakmp.IDFQDN, "moon.example.org"},
		"@192.0.2.1":        {isakmp.IDFQDN, "192.0.2.1"},
		"fqdn:x@y":          {isakmp.IDFQDN, "x@y"},
		"carol@example.org": {isakmp.IDUserFQDN, "carol@example.org"},
		"@@carol":           {isakmp.IDUserFQDN, "carol"},
		"email:carol":       {isakmp.IDUserFQDN, "carol"},
		"@#00ff":            {isakmp.IDKeyID, "\x00\xff"},
		"keyid:x":           {isakmp.IDKeyID, "x"},
	} {
		if got, err := ParseIdentity(in); err != nil || got != want {
			t.Errorf("%q: %v, %v", in, got, err)
		}
	}
	for _, in := range []string{"ipv4:2001:db8::1", "ipv6:192.0.2.1", "ipv4:x", "@#0g", "C=CH, CN=moon", "dn:CN=moon"} {
		if got, err := ParseIdentity(in); err == nil {
			t.Errorf("%q is taken for %v", in, got)
		}
	}
	for want, i := range map[string]Identity{
		"%any": {}, "192.0.2.1": mustID("192.0.2.1"), "2001:db8::1": mustID("2001:db8::1"), "a?[31m": {isakmp.IDFQDN, "a\x1b[31m"},
		"@#00ff": mustID("@#00ff"), "site": mustID("keyid:site"), "(9) 3000": {isakmp.IDDERASN1DN, "0\x00"},
	} {
		if got := i.String(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// TestInitialContact has one end forget everything and come back: the other
// must not keep what it shared with it before.
func TestInitialContact(t *testing.T) {
	for _, policy := range []Unique{UniqueNo, UniqueReplace, UniqueKeep, UniqueNever} {
		s := newSim(t, 1)
		a, b := s.pair(func(a, b *Config) { a.Connections[0].Unique, b.Connections[0].Unique = policy, policy })
		s.bringUp(a, b)
		old := b.pair().ID
		s.nodes[0] = nil
		s.nodes = s.nodes[1:]
		again := s.node("a again", "192.0.2.1", a.e.config, Options{})
		again.spi = 10_000_000
		cmd := again.initiate(b, "net")
		s.run(2 * time.Second)
		if err, ok := again.done[cmd]; !ok || err != nil {
			t.Fatalf("policy %d: %v, %v", policy, ok, err)
		}
		if _, kept := b.pairs[old]; kept != (policy == UniqueNever) {
			t.Errorf("policy %d: the old pair is kept: %v", policy, kept)
		}
		if got := b.logged("INITIAL_CONTACT"); got == (policy == UniqueNever) {
			t.Errorf("policy %d: INITIAL_CONTACT counts: %v", policy, got)
		}
		if policy != UniqueNever {
			s.mustConverge(again, b, 1)
		}
	}
}

// TestInitialContactOnce is not said where the peer is known.
func TestInitialContactOnce(t *testing.T) {
	s, a, b := up(t, nil)
	_, actions := a.e.Rekey(s.now, Select{Conn: "peer"})
	a.do(actions)
	s.run(30 * time.Second)
	if a.logged("INITIAL_CONTACT") || b.logged("INITIAL_CONTACT") {
		t.Error("a renewal says INITIAL_CONTACT")
	}
	s.mustConverge(a, b, 1)
}

// TestInitialContactLater takes the notification in an exchange of its own.
func TestInitialContactLater(t *testing.T) {
	s := newSim(t, 1)
	a, b := s.pair(func(a, b *Config) {
		a.Connections[0].LocalID = mustID("moon.example.org")
		a.Connections[0].Unique, b.Connections[0].Unique = UniqueNever, UniqueNever
	})
	s.bringUp(a, b)
	c := s.node("c", "192.0.2.3", a.e.config, Options{})
	c.initiate(b, "net")
	s.run(2 * time.Second)
	say := notifyPayload(isakmp.Notification{Protocol: isakmp.ProtoISAKMP, SPI: c.ike().cookieBytes(), Type: isakmp.InitialContact})
	c.informs(say)
	s.run(time.Second)
	if n := len(b.e.byID); n != 2 {
		t.Fatalf("%d IKE SAs, want 2", n)
	}
	b.e.config.Connections[0].Unique = UniqueNo
	c.informs(say)
	s.run(time.Second)
	if b.ike().remote.Addr() != c.addr || len(b.pairs) != 1 {
		t.Errorf("%v", b.snapshot())
	}
}

// TestInitialContactOrphans drops children that live without an IKE SA too.
func TestInitialContactOrphans(t *testing.T) {
	s := newSim(t, 1)
	a, b := s.pair(func(a, b *Config) { a.Connections[0].IdentityPFS, b.Connections[0].IdentityPFS = true, true })
	s.bringUp(a, b)
	s.run(time.Minute)
	if len(b.e.orphans) != 1 || len(b.e.byID) != 0 {
		t.Fatalf("%d orphans, %d IKE SAs", len(b.e.orphans), len(b.e.byID))
	}
	old := b.pair().ID
	s.nodes = s.nodes[1:]
	again := s.node("a again", "192.0.2.1", a.e.config, Options{})
	again.spi = 10_000_000
	again.initiate(b, "net")
	s.run(2 * time.Second)
	if b.pairs[old] != nil {
		t.Error("the old pair is kept")
	}
	s.mustConverge(again, b, 1)
}
