// SPDX-License-Identifier: Apache-2.0

package sa

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
)

func TestParseProposal(t *testing.T) {
	for _, c := range []struct {
		proto Protocol
		in    string
		want  string // transforms joined by a space, or an error's part
	}{
		{ESP, "aes128gcm16", "ESP:AES_GCM_16_128/NO_EXT_SEQ"},
		{ESP, "aes256gcm-x25519-esn", "ESP:AES_GCM_16_256/CURVE_25519/EXT_SEQ"},
		{ESP, "aes-sha1-modp1024", "ESP:AES_CBC_128/HMAC_SHA1_96/MODP_1024/NO_EXT_SEQ"},
		{ESP, "AES192CTR-sha2_512", "ESP:AES_CTR_192/HMAC_SHA2_512_256/NO_EXT_SEQ"},
		{ESP, "null-md5", "ESP:NULL/HMAC_MD5_96/NO_EXT_SEQ"},
		{ESP, "3des-sha384-ecp521", "ESP:3DES_CBC/HMAC_SHA2_384_192/ECP_521/NO_EXT_SEQ"},
		{ESP, "aes128-aes256-sha256-sha1", "ESP:AES_CBC_128/HMAC_SHA2_256_128/NO_EXT_SEQ ESP:AES_CBC_128/HMAC_SHA1_96/NO_EXT_SEQ " +
			"ESP:AES_CBC_256/HMAC_SHA2_256_128/NO_EXT_SEQ ESP:AES_CBC_256/HMAC_SHA1_96/NO_EXT_SEQ"},
		{ESP, "aes128gcm8-esn-noesn", "ESP:AES_GCM_8_128/EXT_SEQ ESP:AES_GCM_8_128/NO_EXT_SEQ"},
		{AH, "sha256-modp2048", "AH:HMAC_SHA2_256_128/MODP_2048/NO_EXT_SEQ"},
		{ESP, "aes128", "needs an integrity algorithm"},
		{ESP, "sha256", "needs a cipher"},
		{ESP, "aes128gcm16-sha256", "takes no integrity algorithm"},
		{ESP, "aes128-sha256-prfsha256", "a PRF has no place"},
		{ESP, "chacha20poly1305", `"chacha20poly1305" is not known`},
		{ESP, "", "is not known"},
		{AH, "aes128-sha256", "AH does not encrypt"},
		{AH, "modp2048", "needs an integrity algorithm"},
	} {
		p, err := ParseProposal(c.proto, c.in)
		var got []string
		for _, x := range p {
			got = append(got, x.String())
		}
		if s := strings.Join(got, " "); err == nil && s != c.want || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("ParseProposal(%s, %q) = %q, %v, not %q", c.proto, c.in, s, err, c.want)
		}
	}
}

func TestParseIKEProposal(t *testing.T) {
	for in, want := range map[string]string{
		"aes256-sha256-modp2048":          "IKE:AES_CBC_256/HMAC_SHA2_256_128/PRF_HMAC_SHA2_256/MODP_2048",
		"3des-md5-modp1024":               "IKE:3DES_CBC/HMAC_MD5_96/PRF_HMAC_MD5/MODP_1024",
		"aes128-sha1-prfsha1-ecp256":      "IKE:AES_CBC_128/HMAC_SHA1_96/PRF_HMAC_SHA1/ECP_256",
		"aes128-sha1-prfsha256-ecp256":    "the PRF is HMAC with the proposal's hash",
		"aes128gcm16-prfsha256-modp2048":  "needs a hash",
		"aes128-sha256":                   "needs a Diffie-Hellman group",
		"sha256-modp2048":                 "needs a cipher",
		"aes128-sha256-modp2048-esn":      "esn has no place",
		"aes128-sha256-modpnone":          "needs a Diffie-Hellman group",
		"aes128ctr-sha256-modp2048":       "is not a cipher of IKEv1",
		"aes128-sha256-modp2048-whatever": `"whatever" is not known`,
	} {
		p, err := ParseIKEProposal(in)
		if err == nil && (len(p) != 1 || p[0].String() != want) || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("ParseIKEProposal(%q) = %v, %v, not %q", in, p, err, want)
		}
	}
}

// The defaults must not hold what is accepted only where it is named.
func TestDefaultsAreStrong(t *testing.T) {
	for _, p := range DefaultIKEProposal() {
		if p.Hash < SHA256 || p.Encryption != AESCBC || p.Group < MODP2048 {
			t.Errorf("the default IKE proposal holds %s", p)
		}
	}
	for _, proto := range []Protocol{ESP, AH} {
		for _, p := range DefaultProposal(proto) {
			weak := !p.Encryption.AEAD() && p.Integrity < HMACSHA256 || p.Encryption == TripleDESCBC || p.Encryption == EncryptionNull
			if weak || p.Group != GroupNone || p.Protocol != proto {
				t.Errorf("the default %s proposal holds %s", proto, p)
			}
		}
	}
}

// RFC 2409 section 5.5 takes each SA's keys from KEYMAT: the lengths decide.
func TestKeymatLen(t *testing.T) {
	for in, want := range map[string]int{
		"aes128gcm16": 20, "aes256gcm8": 36, "aes192ctr-sha1": 24 + 4 + 20, "aes256-sha256": 64,
		"3des-md5": 40, "null-sha512": 64,
	} {
		p, err := ParseProposal(ESP, in)
		if err != nil || p[0].KeymatLen() != want {
			t.Errorf("%s takes %d bytes of KEYMAT, %v, not %d", in, p[0].KeymatLen(), err, want)
		}
	}
}

func TestParseSelector(t *testing.T) {
	for in, want := range map[string]string{
		"10.1.0.0/16":              "10.1.0.0/16",
		"10.1.2.3/16":              "10.1.0.0/16",
		"10.1.0.5":                 "10.1.0.5/32",
		"10.1.0.5..10.1.0.9":       "10.1.0.5..10.1.0.9",
		"10.1.0.0..10.1.0.255":     "10.1.0.0/24",
		"fd00::/8[tcp/443]":        "fd00::/8[tcp/443]",
		"0.0.0.0/0[17]":            "0.0.0.0/0[udp]",
		"10.0.0.1[any/any]":        "10.0.0.1/32",
		"10.0.0.1[/500]":           "10.0.0.1/32[/500]",
		"10.0.0.9..10.0.0.5":       "!one family, lowest first",
		"10.0.0.1..fd00::1":        "!one family, lowest first",
		"10.0.0.0/33":              "!neither a subnet",
		"10.0.0.1[tcp":             "!no ]",
		"10.0.0.1[tpc]":            `!protocol "tpc"`,
		"10.0.0.1[tcp/1-1024]":     "!not a range",
		"::ffff:10.0.0.1":          "!one family",
		"fe80::1%eth0":             "!one family",
		"somewhere":                "!neither a subnet",
		"10.0.0.1[tcp/65536]":      "!up to 65535",
		"10.0.0.0/8..10.0.0.0/16 ": "!a range is",
	} {
		s, err := ParseSelector(in)
		if wrong, fails := strings.CutPrefix(want, "!"); fails {
			if err == nil || !strings.Contains(err.Error(), wrong) {
				t.Errorf("ParseSelector(%q) = %v, %v, not an error with %q", in, s, err, wrong)
			}
		} else if err != nil || s.String() != want {
			t.Errorf("ParseSelector(%q) = %v, %v, not %s", in, s, err, want)
		}
	}
}

// Prefixes must cover a range exactly, with no two that would make one.
func TestPrefixesCoverTheRange(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	addr := func(v uint32) netip.Addr {
		return netip.AddrFrom4([4]byte{byte(v >> 24), byte(v >> 16), byte(v >> 8), byte(v)})
	}
	for range 2000 {
		from := r.Uint32()
		to := from + r.Uint32()>>r.UintN(32)
		if to < from {
			from, to = to, from
		}
		s := Selector{From: addr(from), To: addr(to)}
		next, count := uint64(from), 0
		for _, p := range s.Prefixes() {
			b := p.Addr().As4()
			first := uint64(b[0])<<24 | uint64(b[1])<<16 | uint64(b[2])<<8 | uint64(b[3])
			if first != next {
				t.Fatalf("%v: %v leaves a gap or overlaps", s, p)
			}
			next = first + 1<<(32-p.Bits())
			count++
		}
		if next != uint64(to)+1 || count > 62 {
			t.Fatalf("%v: ends before %v, with %d prefixes", s, addr(uint32(next)), count)
		}
	}
	all, _ := ParseSelector("::/0")
	if p := all.Prefixes(); len(p) != 1 || p[0].String() != "::/0" {
		t.Errorf("::/0 is covered by %v", p)
	}
}

func TestIntersect(t *testing.T) {
	for _, c := range []struct{ a, b, want string }{
		{"10.0.0.0/8", "10.1.0.0/16", "10.1.0.0/16"},
		{"10.0.0.0/8[tcp]", "10.1.0.0/16[/80]", "10.1.0.0/16[tcp/80]"},
		{"10.0.0.5..10.0.0.9", "10.0.0.8..10.0.0.20", "10.0.0.8/31"},
		{"10.0.0.0/8", "11.0.0.0/8", ""},
		{"10.0.0.0/8[tcp]", "10.0.0.0/8[udp]", ""},
		{"10.0.0.0/8[tcp/80]", "10.0.0.0/8[tcp/81]", ""},
		{"10.0.0.0/8", "fd00::/8", ""},
	} {
		a, err1 := ParseSelector(c.a)
		b, err2 := ParseSelector(c.b)
		if err1 != nil || err2 != nil {
			t.Fatal(err1, err2)
		}
		got, ok := a.Intersect(b)
		back, _ := b.Intersect(a)
		if ok != (c.want != "") || ok && got.String() != c.want || got != back {
			t.Errorf("%s and %s have %v, %v in common, not %q", a, b, got, ok, c.want)
		}
		if a.Contains(b) != (ok && got == b) {
			t.Errorf("%s contains %s: %v", a, b, a.Contains(b))
		}
	}
}

func TestKeysNeverPrint(t *testing.T) {
	k := Key("top secret")
	p := Pair{Policy: Policy{Child: "net"}, In: SA{SPI: 0x1234, EncryptionKey: k, IntegrityKey: k}}
	j, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	slog.New(slog.NewTextHandler(&log, nil)).Info("a pair", "key", k, "sa", p.In, "pair", &p)
	for _, s := range []string{
		fmt.Sprint(k), fmt.Sprintf("%s %v %x %X %q %d %+v %#v", k, k, k, k, k, k, k, k),
		fmt.Sprintf("%v %+v %#v", p.In, p.In, p.In), fmt.Sprintf("%+v", p), string(j), log.String(),
	} {
		for _, leak := range []string{"secret\"", "top", "746f70", "746F70", "116 111", "dG9w"} {
			if strings.Contains(s, leak) {
				t.Errorf("a key shows in %s", s)
			}
		}
	}
	p.Wipe()
	if string(k) != strings.Repeat("\x00", len(k)) {
		t.Error("a wiped key is not zero")
	}
}
