// SPDX-License-Identifier: Apache-2.0

package swanctl

import (
	"net/netip"
	"reflect"
	"testing"
	"time"

	"quicksand/ike"
	"quicksand/sa"
)

func load(t *testing.T, name string) *ike.Config {
	t.Helper()
	c, err := Load("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestSamplesLoad(t *testing.T) {
	for _, name := range samples(t) {
		if _, err := Load(name); err != nil {
			t.Error(err)
		}
	}
}

func TestSiteToSite(t *testing.T) {
	c := load(t, "site-to-site.conf")
	want := &ike.Connection{
		Name:       "offices",
		LocalAddrs: []ike.AddrMatch{addr("192.0.2.1")}, RemoteAddrs: []ike.AddrMatch{addr("198.51.100.1")},
		LocalPort: 500, RemotePort: 500,
		Proposals: mustIKE("aes256-sha256-modp2048", "aes128-sha256-ecp256"),
		LocalID:   mustIdentity("west.example.org"), RemoteID: mustIdentity("east.example.org"),
		DPDDelay: 30 * time.Second, DPDTimeout: 150 * time.Second,
		RekeyTime: 8 * time.Hour, OverTime: 48 * time.Minute, RandTime: 48 * time.Minute,
		KeyingTries: 1,
		Unique:      ike.UniqueReplace,
		Children: []*ike.Child{{
			Name:      "lan",
			Proposals: []sa.Proposal{mustProposal(sa.ESP, "aes128gcm16-modp2048"), mustProposal(sa.ESP, "aes256-sha256-modp2048")},
			LocalTS:   ike.Dynamic{Selector: mustSelector("10.1.0.0/16")},
			RemoteTS:  ike.Dynamic{Selector: mustSelector("10.2.0.0/16")},
			Lifetime: ike.Lifetime{
				RekeyTime: 50 * time.Minute, LifeTime: 55 * time.Minute, RandTime: 5 * time.Minute,
				RekeyBytes: 500 << 20, LifeBytes: 550 << 20, RandBytes: 50 << 20,
				RekeyPackets: 1000000, LifePackets: 1100000, RandPackets: 100000,
			},
			ReplayWindow: 32, CopyDF: true, CopyECN: true,
			StartAction: ike.ActionTrap, CloseAction: ike.ActionTrap, DPDAction: ike.ActionStart,
		}, {
			Name:         "phones",
			Proposals:    []sa.Proposal{mustProposal(sa.ESP, "aes256gcm16-ecp256-esn")},
			LocalTS:      ike.Dynamic{Selector: mustSelector("10.1.8.0/24[udp/5060]")},
			RemoteTS:     ike.Dynamic{Selector: mustSelector("10.2.8.0/24[udp]")},
			Lifetime:     ike.Lifetime{RekeyTime: time.Hour, LifeTime: 66 * time.Minute, RandTime: 6 * time.Minute},
			ReplayWindow: 1024, Offload: sa.OffloadPacket, CopyDF: true, CopyECN: true, CopyDSCP: sa.DSCPBoth,
		}},
	}
	if len(c.Connections) != 1 || !reflect.DeepEqual(c.Connections[0], want) {
		t.Errorf("got  %+v\nwant %+v", c.Connections[0], want)
	}
	secret := []*ike.Secret{{Name: "ike-offices", Owners: []ike.Identity{want.LocalID, want.RemoteID}, Key: sa.Key("the secret")}}
	if !reflect.DeepEqual(c.Secrets, secret) {
		t.Errorf("secrets: %v", c.Secrets)
	}
}

func TestTemplates(t *testing.T) {
	c := load(t, "templates.conf")
	if len(c.Connections) != 2 || c.Connections[0].Name != "north" || c.Connections[1].Name != "south" {
		t.Fatalf("connections: %v", c.Connections)
	}
	north, south := c.Connections[0], c.Connections[1]
	for _, conn := range c.Connections {
		if !reflect.DeepEqual(conn.LocalAddrs, []ike.AddrMatch{addr("2001:db8::1")}) || conn.LocalID != mustIdentity("hub@example.org") {
			t.Errorf("%s: %v %v", conn.Name, conn.LocalAddrs, conn.LocalID)
		}
	}
	if north.RemoteID != mustIdentity("north@example.org") || !reflect.DeepEqual(north.Proposals, mustIKE("aes256-sha384-ecp384")) {
		t.Errorf("north: %v %v", north.RemoteID, north.Proposals)
	}
	if !reflect.DeepEqual(south.Proposals, sa.DefaultIKEProposal()) || south.RemoteAddrs[0].Host != "south.example.org" {
		t.Errorf("south: %v %v", south.Proposals, south.RemoteAddrs)
	}
	n, s := north.Children[0], south.Children[0]
	if n.Lifetime.RekeyTime != 30*time.Minute || n.Mode != sa.Tunnel || n.Offload != sa.OffloadAuto {
		t.Errorf("north.net: %+v", n)
	}
	if s.Lifetime.RekeyTime != time.Hour || s.Mode != sa.Transport || s.Offload != sa.OffloadCrypto || !s.RemoteTS.IsDynamic || s.RemoteTS.Port != 443 {
		t.Errorf("south.net: %+v", s)
	}
	if !reflect.DeepEqual(n.Proposals, []sa.Proposal{mustProposal(sa.ESP, "aes256gcm16-ecp384")}) || !reflect.DeepEqual(n.Proposals, s.Proposals) {
		t.Errorf("proposals: %v %v", n.Proposals, s.Proposals)
	}
	if len(c.Secrets) != 1 || len(c.Secrets[0].Key) != 16 || len(c.Secrets[0].Owners) != 2 {
		t.Errorf("secrets: %v", c.Secrets)
	}
}

func TestLegacy(t *testing.T) {
	c := load(t, "legacy.conf")
	old := c.Connections[0]
	if !reflect.DeepEqual(old.RemoteAddrs, []ike.AddrMatch{span("203.0.113.0", "203.0.113.255"), span("203.0.114.1", "203.0.114.9"), everyIPv6}) {
		t.Errorf("remote_addrs: %v", old.RemoteAddrs)
	}
	if !reflect.DeepEqual(old.Proposals, mustIKE("3des-md5-modp1024", "aes128-sha1-modp1536")) || old.KeyingTries != 0 || !old.Encap {
		t.Errorf("connection: %+v", old)
	}
	if old.LocalID != mustIdentity("keyid:\xc0\xff\xee") || !old.RemoteID.IsAny() {
		t.Errorf("identities: %v %v", old.LocalID, old.RemoteID)
	}
	ah := old.Children[0]
	if !reflect.DeepEqual(ah.Proposals, []sa.Proposal{mustProposal(sa.AH, "sha1-modp1024"), sa.DefaultProposal(sa.AH)}) {
		t.Errorf("proposals: %v", ah.Proposals)
	}
	if ah.Lifetime != (ike.Lifetime{RekeyTime: 10 * time.Second, LifeTime: 20 * time.Second}) || ah.CopyDF {
		t.Errorf("child: %+v", ah)
	}
	if ah.LocalTS.Selector != mustSelector("10.0.0.1..10.0.0.9") || ah.RemoteTS.Selector != mustSelector("10.9.0.1..10.9.0.9[icmp]") {
		t.Errorf("selectors: %v %v", ah.LocalTS, ah.RemoteTS)
	}
	if string(c.Secrets[0].Key) != "correct horse battery" {
		t.Errorf("secret: %q", []byte(c.Secrets[0].Key))
	}
}

func TestManualSample(t *testing.T) {
	c := load(t, "manual.conf").Connections[0]
	cbc, ah := c.Children[0], c.Children[1]
	if cbc.Manual == nil || ah.Manual == nil || cbc.Lifetime.LifePackets != 1<<32-1 {
		t.Fatalf("children: %+v %+v", cbc, ah)
	}
	if ah.Mode != sa.Transport || ah.Manual.Suite != (sa.Suite{Protocol: sa.AH, Integrity: sa.HMACSHA256}) || ah.Manual.Encap {
		t.Errorf("ah: %+v", ah.Manual)
	}
	if k := ah.Manual.Out.IntegrityKey; len(k) != 32 || k[0] != 255 || k[31] != 255 {
		t.Errorf("base64 key: %x", []byte(k))
	}
	if ah.LocalTS.Selector != mustSelector("192.0.2.1") || ah.RemoteTS.Selector != mustSelector("192.0.2.2") {
		t.Errorf("selectors: %v %v", ah.LocalTS, ah.RemoteTS)
	}
	if ah.Manual.Local != netip.MustParseAddrPort("192.0.2.1:500") {
		t.Errorf("endpoint: %v", ah.Manual.Local)
	}
}
