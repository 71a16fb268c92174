// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"quicksand/ike"
	"quicksand/sa"
)

func TestKeyLog(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "wireshark")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	// A table that is there already is added to, and closed to others.
	if err := os.WriteFile(filepath.Join(dir, "esp_sa"), []byte("# earlier\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	k, err := openKeyLog(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := k.logIKE(ike.KeyLog{Cookie: [8]byte{1, 2, 3, 4, 5, 6, 7, 8}, Key: sa.Key{0xab, 0xcd}}); err != nil {
		t.Fatal(err)
	}
	v4 := &sa.Pair{
		Policy: sa.Policy{Local: local500, Remote: remote500},
		Suite:  sa.Suite{Protocol: sa.ESP, Encryption: sa.AESCBC, KeyBits: 128, Integrity: sa.HMACSHA256},
		In:     sa.SA{SPI: 0xbadcafe, EncryptionKey: sa.Key{1, 2}, IntegrityKey: sa.Key{3, 4}},
		Out:    sa.SA{SPI: 0x1000, EncryptionKey: sa.Key{5, 6}, IntegrityKey: sa.Key{7, 8}},
	}
	v6 := &sa.Pair{
		Policy: sa.Policy{Local: netip.MustParseAddrPort("[2001:db8::1]:500"), Remote: netip.MustParseAddrPort("[2001:db8::2]:500")},
		Suite:  sa.Suite{Protocol: sa.ESP, Encryption: sa.AESGCM16, KeyBits: 256},
		In:     sa.SA{SPI: 0x2000, EncryptionKey: sa.Key{9}},
		Out:    sa.SA{SPI: 0x2001, EncryptionKey: sa.Key{10}},
	}
	ah := &sa.Pair{Policy: v4.Policy, Suite: sa.Suite{Protocol: sa.AH, Integrity: sa.HMACSHA1}}
	for _, p := range []*sa.Pair{v4, v6, ah} {
		if err := k.logPair(p); err != nil {
			t.Fatal(err)
		}
	}
	if err := k.close(); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"ikev1_decryption_table": "0102030405060708,abcd\n",
		"esp_sa": "# earlier\n" +
			`"IPv4","198.51.100.2","192.0.2.1","0x0badcafe","AES-CBC [RFC3602]","0x0102","HMAC-SHA-256-128 [RFC4868]","0x0304"` + "\n" +
			`"IPv4","192.0.2.1","198.51.100.2","0x00001000","AES-CBC [RFC3602]","0x0506","HMAC-SHA-256-128 [RFC4868]","0x0708"` + "\n" +
			`"IPv6","2001:db8::2","2001:db8::1","0x00002000","AES-GCM with 16 octet ICV [RFC4106]","0x09","NULL",""` + "\n" +
			`"IPv6","2001:db8::1","2001:db8::2","0x00002001","AES-GCM with 16 octet ICV [RFC4106]","0x0a","NULL",""` + "\n",
	} {
		name = filepath.Join(dir, name)
		got, err := os.ReadFile(name)
		if err != nil || string(got) != want {
			t.Errorf("%s: %v\n%swant\n%s", name, err, got, want)
		}
		if info, err := os.Stat(name); err != nil || info.Mode() != 0o600 {
			t.Errorf("%s: mode %v, %v", name, info.Mode(), err)
		}
	}
}

// Every suite that can be negotiated has a name in Wireshark's tables.
func TestKeyLogKnowsAllSuites(t *testing.T) {
	for e := sa.EncryptionNull; e <= sa.AESGCM16; e++ {
		if wiresharkEncryption[e] == "" {
			t.Errorf("no name for %s", e)
		}
	}
	for i := sa.IntegrityNone; i <= sa.HMACSHA512; i++ {
		if wiresharkIntegrity[i] == "" {
			t.Errorf("no name for %s", i)
		}
	}
}

func TestKeyLogIsSaidLoudly(t *testing.T) {
	dir := t.TempDir()
	p := testPair(1)
	b := newFakeBackend("tun", sa.Userspace)
	e := &fakeEngine{handle: func(ike.Datagram) []ike.Action {
		return []ike.Action{ike.KeyLog{Key: sa.Key{1}}, ike.Install{Pair: p}, send("done")}
	}}
	loud := newReportLog()
	in := NewInbox()
	transport := &fakeTransport{}
	d, err := New(Parts{Backends: []sa.Backend{b}, DH: &fakeComputer{}, KeyLog: dir, Logger: slog.New(loud),
		Inbox: in, Transport: transport})
	if err != nil {
		t.Fatal(err)
	}
	d.engine = e
	if !loud.has(slog.LevelWarn, "THE KEY LOG IS ON") {
		t.Error("nothing warns of the key log")
	}
	r := runRig(t, &rig{Daemon: d, transport: transport})
	in.Receive(ike.Datagram{})
	for len(transport.all()) == 0 {
		r.sync(t)
	}
	r.stop()
	if err := <-r.ended; err != nil {
		t.Error(err)
	}
	for _, name := range []string{"ikev1_decryption_table", "esp_sa"} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Size() == 0 {
			t.Errorf("%s: %v, nothing in it", name, err)
		}
	}
}
