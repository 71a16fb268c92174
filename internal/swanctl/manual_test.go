// SPDX-License-Identifier: Apache-2.0

package swanctl

import (
	"bytes"
	"net/netip"
	"strings"
	"testing"

	"quicksand/ike"
	"quicksand/sa"
)

const (
	cbcKeys = "key_in = 0x000102030405060708090a0b0c0d0e0f\nkey_out = 0x101112131415161718191a1b1c1d1e1f\n" +
		"auth_key_in = 0x202122232425262728292a2b2c2d2e2f30313233\nauth_key_out = 0x404142434445464748494a4b4c4d4e4f50515253\n"
	spis = "spi_in = 0x1001\nspi_out = 4098\n"
	cbc  = "proposal = aes128-sha1\n" + spis + cbcKeys
)

// buildManual makes a connection with one manually keyed child. The lines of
// the child begin at line 4, those of its keys at 5 where it has none.
func buildManual(childLines, manualLines string) (*ike.Connection, error) {
	text := "connections { c { local_addrs = 10.0.0.1\nremote_addrs = 10.0.0.2\nchildren { k {\n" + childLines + "manual {\n" + manualLines + "\n} } } } }"
	c, err := LoadBytes("f", []byte(text))
	if err != nil {
		return nil, err
	}
	return c.Connections[0], nil
}

func TestManual(t *testing.T) {
	c, err := buildManual("local_ts = 10.1.0.0/16\nremote_ts = dynamic[tcp]\nlife_time = 1d\nlife_packets = 7\nreplay_window = 0\n", cbc+"encap = yes")
	if err != nil {
		t.Fatal(err)
	}
	k := c.Children[0]
	m := k.Manual
	if m.Suite != (sa.Suite{Protocol: sa.ESP, Encryption: sa.AESCBC, KeyBits: 128, Integrity: sa.HMACSHA1}) {
		t.Errorf("suite: %v", m.Suite)
	}
	if m.In.SPI != 0x1001 || m.Out.SPI != 4098 {
		t.Errorf("SPIs: %v %v", m.In.SPI, m.Out.SPI)
	}
	in := []byte{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}
	if !bytes.Equal(m.In.EncryptionKey, in) || m.Out.EncryptionKey[0] != 0x10 || m.In.IntegrityKey[0] != 0x20 || m.Out.IntegrityKey[0] != 0x40 {
		t.Errorf("keys: %x %x", []byte(m.In.EncryptionKey), []byte(m.Out.EncryptionKey))
	}
	if !m.Encap || m.Local != netip.MustParseAddrPort("10.0.0.1:4500") || m.Remote != netip.MustParseAddrPort("10.0.0.2:4500") {
		t.Errorf("endpoints: %v %v %v", m.Encap, m.Local, m.Remote)
	}
	if k.LocalTS.IsDynamic || k.LocalTS.Selector != mustSelector("10.1.0.0/16") || k.RemoteTS.IsDynamic || k.RemoteTS.Selector != mustSelector("10.0.0.2/32[tcp]") {
		t.Errorf("selectors: %v %v", k.LocalTS, k.RemoteTS)
	}
	if l := k.Lifetime; l.RekeyTime != 0 || l.RandTime != 0 || l.LifeTime.Hours() != 24 || l.LifePackets != 7 {
		t.Errorf("lifetime: %+v", l)
	}
	if k.ReplayWindow != 0 {
		t.Errorf("replay window: %d", k.ReplayWindow)
	}
	if len(k.Proposals) != 0 {
		t.Errorf("proposals: %v", k.Proposals)
	}
}

func TestManualSuites(t *testing.T) {
	k := func(n int) string { return "0x" + strings.Repeat("5a", n) }
	for _, lines := range []string{
		"proposal = aes256-sha256\nkey_in = " + k(32) + "\nkey_out = " + k(32) + "\nauth_key_in = " + k(32) + "\nauth_key_out = " + k(32),
		"proposal = null-sha1\nauth_key_in = " + k(20) + "\nauth_key_out = " + k(20),
		"proposal = 3des-md5\nkey_in = " + k(24) + "\nkey_out = " + k(24) + "\nauth_key_in = " + k(16) + "\nauth_key_out = " + k(16),
		"protocol = ah\nproposal = sha512\nauth_key_in = " + k(64) + "\nauth_key_out = " + k(64),
	} {
		if _, err := buildManual("", spis+lines); err != nil {
			t.Errorf("%q: %v", lines, err)
		}
	}
}

func TestManualErrors(t *testing.T) {
	for _, c := range []struct{ child, manual, want string }{
		{"", spis + cbcKeys, "4: .manual.proposal: is missing"},
		{"", "proposal = aes128-sha1\nspi_in = 300\n" + cbcKeys, "4: .manual.spi_out: is missing"},
		{"", "proposal = aes128-sha1-modp2048\n" + spis + cbcKeys, "5: .manual.proposal: names a Diffie-Hellman group, but " + noNegotiation},
		{"", "proposal = aes128-aes256-sha1\n" + spis + cbcKeys, "5: .manual.proposal: stands for 2 choices, but nothing is there to choose"},
		{"", "proposal = sha256\n" + spis + cbcKeys, `5: .manual.proposal: parse proposal "sha256": ESP needs a cipher; null is one`},
		{"", "proposal = aes128-sha1\nspi_in = 255\n", `6: .manual.spi_in: "255" is not a number from 256 to 4294967295`},
		{"", "proposal = aes128-sha1\n" + spis + "key_in = 0x0102\n", "8: .manual.key_in: is 2 bytes, but ESP:AES_CBC_128/HMAC_SHA1_96/NO_EXT_SEQ takes 16"},
		{"", "proposal = aes128-sha1\n" + spis, "4: .manual.key_in: is 0 bytes, but ESP:AES_CBC_128/HMAC_SHA1_96/NO_EXT_SEQ takes 16"},
		{"", cbc + "auth_key_in = 0x01\n", "12: .manual.auth_key_in: is 1 bytes, but ESP:AES_CBC_128/HMAC_SHA1_96/NO_EXT_SEQ takes 20"},
		{"", "proposal = aes128gcm16\n" + spis, "5: .manual.proposal: names AES_GCM_16, but " + noCounterMode},
		{"", "proposal = aes256ctr-sha256\n" + spis, "5: .manual.proposal: names AES_CTR, but " + noCounterMode},
		{"", "proposal = aes128-sha1-esn\n" + spis, "5: .manual.proposal: asks for extended sequence numbers, but " + noExtendedNumbers},
		{"", "protocol = ah\nproposal = sha256-esn\n" + spis, "6: .manual.proposal: asks for extended sequence numbers, but " + noExtendedNumbers},
		{"replay_window = 32\n", cbc, "4: .replay_window: " + noReplayWindow},
		{"", cbc + "key_in = password\n", "12: .manual.key_in: a key is hexadecimal behind 0x, or base64 behind 0s"},
		{"", "protocol = tcp\n", `5: .manual.protocol: "tcp" is not one of esp, ah`},
		{"", "proposals = aes128gcm16\n", `5: .manual.proposals: the key is not known; "proposal" is`},
		{"parallel_sas = 2\n", cbc, "4: .parallel_sas: a manually keyed child is one pair of SAs"},
		{"rekey_time = 1h\n", cbc, "4: .rekey_time: " + noNegotiation},
		{"rekey_bytes = 1\n", cbc, "4: .rekey_bytes: " + noNegotiation},
		{"rand_time = 1\n", cbc, "4: .rand_time: " + noNegotiation},
		{"esp_proposals = aes128gcm16-modp2048\n", cbc, "4: .esp_proposals: " + noNegotiation + "; its one proposal is manual.proposal"},
		{"start_action = trap\n", cbc, "4: .start_action: a manually keyed child always stands; there is nothing to trap"},
		{"dpd_action = restart\n", cbc, "4: .dpd_action: a manually keyed child has no IKE SA that could tell of it"},
		{"local_ts = 2001:db8::/32\n", cbc, "3: : local_ts and remote_ts are of different address families"},
	} {
		_, err := buildManual(c.child, c.manual)
		line, rest, _ := strings.Cut(c.want, ": ")
		want := "f:" + line + ": connections.c.children.k" + rest
		if err == nil || err.Error() != want {
			t.Errorf("%q %q:\ngot  %v\nwant %s", c.child, c.manual, err, want)
		}
	}
}

func TestManualEndpoints(t *testing.T) {
	for _, c := range []struct{ addrs, want string }{
		{"remote_addrs = 10.0.0.2", "f:4: connections.c.children.k.manual: the connection's local_addrs must be one address, for the manually keyed child"},
		{"local_addrs = 10.0.0.1", "f:4: connections.c.children.k.manual: the connection's remote_addrs must be one address, for the manually keyed child"},
		{"local_addrs = 10.0.0.1\nremote_addrs = 10.0.0.0/24", "f:5: connections.c.children.k.manual: the connection's remote_addrs must be one address, for the manually keyed child"},
		{"local_addrs = 10.0.0.1\nremote_addrs = gw.example.org", "f:5: connections.c.children.k.manual: the connection's remote_addrs must be one address, for the manually keyed child"},
		{"local_addrs = 10.0.0.1\nremote_addrs = 2001:db8::1", "f:5: connections.c.children.k.manual: the connection's addresses are of different families"},
	} {
		_, err := LoadBytes("f", []byte("connections { c {\n"+c.addrs+"\nchildren { k {\nmanual {\n"+cbc+"} } } } }"))
		if err == nil || err.Error() != c.want {
			t.Errorf("%q:\ngot  %v\nwant %s", c.addrs, err, c.want)
		}
	}
	// Beside a negotiated child, an identity is needed after all.
	_, err := LoadBytes("f", []byte("connections { c {\nlocal_addrs = 10.0.0.1\nremote_addrs = 10.0.0.2\nchildren { n { } k { manual {\n"+cbc+"} } } } }"))
	if err == nil || err.Error() != "f:1: connections.c: has no section local with auth = psk" {
		t.Errorf("got %v", err)
	}
}
