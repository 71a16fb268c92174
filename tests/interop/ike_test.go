// SPDX-License-Identifier: Apache-2.0

package interop

import (
	"testing"

	"quicksand/tests/harness"
)

// TestIKEProposals has Main Mode with every cipher and hash, and every group.
func TestIKEProposals(t *testing.T) {
	t.Parallel()
	d := start(t, options{lans: 1})
	judge := d.capture(t)
	var all []suite
	for _, c := range []algorithm{
		{"aes128", "AES_CBC-128"}, {"aes192", "AES_CBC-192"}, {"aes256", "AES_CBC-256"}, {"3des", "3DES_CBC"},
	} {
		for _, h := range ikeHashes {
			all = append(all, suite{c.keyword + "-" + h.keyword + "-ecp256", c.name + "/" + h.name + "/ECP_256"})
		}
	}
	for _, g := range groups {
		all = append(all, suite{"aes128-sha256-" + g.keyword, "AES_CBC-128/" + ikeHashes[2].name + "/" + g.name})
	}
	for _, s := range all {
		c := conn(child("c", 0, "aes128gcm16"))
		c.Proposals = s.proposal
		for _, r := range d.roles() {
			t.Run(s.proposal+"/"+r.name, func(t *testing.T) {
				d.load(t, config(c))
				d.bringUp(t, r, "c")
				for _, p := range []*harness.Peer{d.q, d.s} {
					sa := established(t, p)
					if sa.Suite() != s.name || sa.Version != 1 || sa.Initiator != (p == r.from) {
						t.Errorf("%s has IKEv%d %s, initiator %v; want %s", p.Make, sa.Version, sa.Suite(), sa.Initiator, s.name)
					}
				}
				d.ping(t, 0)
				d.takeDown(t, r.from)
			})
		}
	}
	t.Run("tshark", func(t *testing.T) {
		main, quick := 0, 0
		for _, p := range judge() {
			switch {
			case p.Encrypted && !p.Decrypted:
				t.Errorf("not read: %v", p)
			case p.Exchange == harness.MainMode:
				main++
			case p.Exchange == harness.QuickMode:
				quick++
			}
		}
		if n := len(all) * 2; main < 6*n || quick < 3*n {
			t.Errorf("%d IKE SAs: %d packets of Main Mode, %d of Quick Mode", n, main, quick)
		}
	})
}

// ikeHashes are the hashes of IKE with what a list of SAs shows for them.
var ikeHashes = []algorithm{
	{"md5", "HMAC_MD5_96/PRF_HMAC_MD5"}, {"sha1", "HMAC_SHA1_96/PRF_HMAC_SHA1"},
	{"sha256", "HMAC_SHA2_256_128/PRF_HMAC_SHA2_256"}, {"sha384", "HMAC_SHA2_384_192/PRF_HMAC_SHA2_384"},
	{"sha512", "HMAC_SHA2_512_256/PRF_HMAC_SHA2_512"},
}

// TestChoice has the initiator offer several proposals; the responder has the
// word. strongSwan makes one transform of each proposal in IKEv1.
func TestChoice(t *testing.T) {
	t.Parallel()
	d := start(t, options{lans: 1})
	offers := map[string]struct{ ike, esp string }{
		"initiator": {"3des-sha1-modp1024,aes128-aes256-sha256-sha384-ecp384-ecp256",
			"aes256-sha512-ecp256,aes128gcm16-ecp256,aes128-aes256-sha1-sha256-ecp256"},
		"responder": {"3des-sha1-modp1024,aes128-sha256-ecp384,aes256-sha384-ecp256",
			"aes256-sha512-ecp256,aes128gcm16-ecp256,aes128-sha1-ecp256,aes256-sha256-ecp256"},
	}
	if reference {
		offers["initiator"] = offers["responder"]
	}
	for _, c := range []struct{ name, ike, esp, ikeWant, espWant string }{
		{"last", "aes256-sha384-ecp256", "aes256-sha256-ecp256",
			"AES_CBC-256/HMAC_SHA2_384_192/PRF_HMAC_SHA2_384/ECP_256", "ESP:AES_CBC-256/HMAC_SHA2_256_128/ECP_256"},
		{"middle", "aes128-sha256-ecp384", "aes128gcm16-ecp256",
			"AES_CBC-128/HMAC_SHA2_256_128/PRF_HMAC_SHA2_256/ECP_384", "ESP:AES_GCM_16-128/ECP_256"},
	} {
		for _, r := range d.roles() {
			t.Run(c.name+"/"+r.name, func(t *testing.T) {
				offer := conn(child("c", 0, offers[r.name].esp))
				offer.Proposals = offers[r.name].ike
				choice := conn(child("c", 0, c.esp))
				choice.Proposals = c.ike
				if r.from == d.q {
					ok(t, d.q.Load(config(offer)))
					ok(t, d.s.Load(config(choice.Mirror())))
				} else {
					ok(t, d.q.Load(config(choice)))
					ok(t, d.s.Load(config(offer.Mirror())))
				}
				q, _ := d.bringUp(t, r, "c")
				ike := established(t, d.q)
				if ike.Suite() != c.ikeWant || q.Suite() != c.espWant {
					t.Errorf("chosen: %s and %s, want %s and %s", ike.Suite(), q.Suite(), c.ikeWant, c.espWant)
				}
				d.ping(t, 0)
				d.takeDown(t, r.from)
			})
		}
	}
}

// TestIdentities authenticates with every kind of identity. A key that is
// another pair's stands beside the right one.
func TestIdentities(t *testing.T) {
	t.Parallel()
	d := start(t, options{lans: 1})
	for _, c := range []struct {
		name           string
		a, b           string // outer addresses
		idA, idB       string
		shownA, shownB string
	}{
		{"addresses", harness.AddrA, harness.AddrB, "", "", harness.AddrA, harness.AddrB},
		{"IPv6 addresses", harness.AddrA6, harness.AddrB6, "", "", harness.AddrA6, harness.AddrB6},
		{"FQDN", harness.AddrA, harness.AddrB, "a.example.org", "b.example.org", "a.example.org", "b.example.org"},
		{"user FQDN", harness.AddrA, harness.AddrB, "alice@example.org", "bob@example.org", "alice@example.org", "bob@example.org"},
		{"key id", harness.AddrA, harness.AddrB, "keyid:site-a", "keyid:site-b", "site-a", "site-b"},
		{"mixed", harness.AddrA6, harness.AddrB6, "a.example.org", "10.66.6.6", "a.example.org", "10.66.6.6"},
	} {
		for _, r := range d.roles() {
			t.Run(c.name+"/"+r.name, func(t *testing.T) {
				net := conn(child("c", 0, "aes128gcm16"))
				net.LocalAddr, net.RemoteAddr, net.LocalID, net.RemoteID = c.a, c.b, c.idA, c.idB
				ids := []string{c.idA, c.idB}
				if c.idA == "" {
					ids = []string{c.a, c.b}
				}
				d.load(t, harness.Config{
					Conns: []harness.Conn{net},
					Secrets: []harness.Secret{
						{IDs: []string{"x.example.org", "10.66.6.7"}, Data: "not this key"},
						{IDs: ids, Data: secret},
					},
				})
				d.bringUp(t, r, "c")
				sa := established(t, d.q)
				if sa.LocalID != c.shownA || sa.RemoteID != c.shownB {
					t.Errorf("identities %q and %q, want %q and %q", sa.LocalID, sa.RemoteID, c.shownA, c.shownB)
				}
				d.ping(t, 0)
				d.takeDown(t, r.from)
			})
		}
	}
}

// TestSelectors negotiates proxy identities of every kind.
func TestSelectors(t *testing.T) {
	t.Parallel()
	d := start(t, options{lans: 3})
	for _, c := range []struct{ name, local, remote, src, dst string }{
		{"subnets", "10.1.0.0/16", "10.2.0.0/16", "10.1.2.1", "10.2.1.1"},
		{"addresses", "10.1.1.1/32", "10.2.2.1/32", "10.1.1.1", "10.2.2.1"},
		{"range", "10.1.0.1-10.1.2.7", "10.2.0.0/16", "10.1.1.1", "10.2.2.1"},
		{"protocol", "10.1.0.0/24[icmp]", "10.2.0.0/24[icmp]", "10.1.0.1", "10.2.0.1"},
		{"IPv6", "fd01::1/128", "fd02::/32", "fd01::1", "fd02::1"},
		{"everything", "10.1.0.0/24", "0.0.0.0/0", "10.1.0.1", "10.2.0.1"},
	} {
		for _, r := range d.roles() {
			t.Run(c.name+"/"+r.name, func(t *testing.T) {
				d.load(t, config(conn(harness.Child{Name: "c", LocalTS: c.local, RemoteTS: c.remote, ESP: "aes128gcm16"})))
				q, s := d.bringUp(t, r, "c")
				if len(q.LocalTS) != 1 || len(s.RemoteTS) != 1 || q.LocalTS[0] != s.RemoteTS[0] || q.RemoteTS[0] != s.LocalTS[0] {
					t.Errorf("selectors %v === %v at quicksand, %v === %v at strongSwan", q.LocalTS, q.RemoteTS, s.LocalTS, s.RemoteTS)
				}
				d.pingBetween(t, c.src, c.dst)
				d.takeDown(t, r.from)
			})
		}
	}
}
