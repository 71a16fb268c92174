// SPDX-License-Identifier: Apache-2.0

package harness

import (
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// Keys are the secrets that a peer admits to: what its key log holds, or what
// charon's log says at level 4.
type Keys struct {
	IKE map[string]string // initiator cookie to cipher key, in hexadecimal
	SAs map[string]SAKeys // by SPI, in hexadecimal
}

// SAKeys are one SA's keys in hexadecimal; an encryption key has its salt
// behind it.
type SAKeys struct{ Encryption, Integrity string }

// Keys returns the keys of all SAs there were up to now.
func (p *Peer) Keys() (Keys, error) {
	if p.Make == StrongSwan {
		return charonKeys(p.Log.Since(0)), nil
	}
	k := Keys{map[string]string{}, map[string]SAKeys{}}
	ike, err := os.ReadFile(filepath.Join(p.KeyDir, ikeTable))
	if err != nil {
		return k, fmt.Errorf("read keys: %w", err)
	}
	esp, err := os.ReadFile(filepath.Join(p.KeyDir, espTable))
	if err != nil {
		return k, fmt.Errorf("read keys: %w", err)
	}
	for line := range strings.Lines(string(ike)) {
		if cookie, key, ok := strings.Cut(strings.TrimSpace(line), ","); ok {
			k.IKE[cookie] = key
		}
	}
	for line := range strings.Lines(string(esp)) {
		f := strings.Split(strings.TrimSpace(line), ",")
		if len(f) != 8 {
			continue
		}
		for i := range f {
			f[i] = strings.TrimPrefix(strings.Trim(f[i], `"`), "0x")
		}
		k.SAs[f[3]] = SAKeys{f[5], f[7]}
	}
	return k, nil
}

// The tables of Wireshark that hold keys.
const (
	ikeTable = "ikev1_decryption_table"
	espTable = "esp_sa"
)

// KeyTables returns a directory with the peer's keys in Wireshark's tables:
// quicksand's own key log, or what is made of charon's log. The latter needs
// the child SAs, which alone know the algorithms; those standing are added.
func (p *Peer) KeyTables(children ...ChildSA) (string, error) {
	if p.Make == Quicksand {
		return p.KeyDir, nil
	}
	keys, err := p.Keys()
	if err != nil {
		return "", err
	}
	if standing, err := p.Children(""); err == nil {
		children = append(children, standing...)
	}
	dir, err := os.MkdirTemp(p.dir(), "keys")
	if err != nil {
		return "", fmt.Errorf("write key tables: %w", err)
	}
	var ike, esp strings.Builder
	for cookie, key := range keys.IKE {
		fmt.Fprintf(&ike, "%s,%s\n", cookie, key)
	}
	for _, c := range children {
		for _, spi := range []string{c.SPIIn, c.SPIOut} {
			k, ok := keys.SAs[spi]
			if !ok || c.Protocol != "ESP" {
				continue
			}
			for _, family := range []string{"IPv4", "IPv6"} {
				fmt.Fprintf(&esp, "\"%s\",\"*\",\"*\",\"0x%s\",\"%s\",\"%s\",\"%s\",\"%s\"\n", family, spi,
					wiresharkNames[c.Encryption], wiresharkKey(k.Encryption),
					wiresharkNames[c.Integrity], wiresharkKey(k.Integrity))
			}
		}
	}
	for name, table := range map[string]string{ikeTable: ike.String(), espTable: esp.String()} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(table), 0o600); err != nil {
			return "", fmt.Errorf("write key tables: %w", err)
		}
	}
	return dir, nil
}

func wiresharkKey(hexKey string) string {
	if hexKey == "" {
		return ""
	}
	return "0x" + hexKey
}

// wiresharkNames are the names of algorithms in Wireshark 4's table of ESP
// SAs, by those that the control protocol gives them.
var wiresharkNames = map[string]string{
	"":                  "NULL",
	"NULL":              "NULL",
	"3DES_CBC":          "TripleDES-CBC [RFC2451]",
	"AES_CBC":           "AES-CBC [RFC3602]",
	"AES_CTR":           "AES-CTR [RFC3686]",
	"AES_GCM_8":         "AES-GCM with 8 octet ICV [RFC4106]",
	"AES_GCM_12":        "AES-GCM with 12 octet ICV [RFC4106]",
	"AES_GCM_16":        "AES-GCM with 16 octet ICV [RFC4106]",
	"HMAC_MD5_96":       "HMAC-MD5-96 [RFC2403]",
	"HMAC_SHA1_96":      "HMAC-SHA-1-96 [RFC2404]",
	"HMAC_SHA2_256_128": "HMAC-SHA-256-128 [RFC4868]",
	"HMAC_SHA2_384_192": "HMAC-SHA-384-192 [RFC4868]",
	"HMAC_SHA2_512_256": "HMAC-SHA-512-256 [RFC4868]",
}

var (
	logLine = regexp.MustCompile(`^\S+ +(\d+)\[[A-Z]+\] ?(.*)$`)
	logDump = regexp.MustCompile(`^ *\d+: ((?:[0-9A-F]{2} )+)`)
	logKey  = regexp.MustCompile(`^(.+) => \d+ bytes @ `)
	logSPI  = regexp.MustCompile(`^  SPI 0x([0-9a-f]{8}), `)
)

// charonThread is what a thread of charon has said so far.
type charonThread struct {
	label     string            // of the bytes being dumped
	bytes     map[string][]byte // by label
	initiator bool              // of the Quick Mode it works on
	outbound  bool              // of the SA being added
}

// charonKeys collects the keys from a log of charon's with "ike = 4" and
// "chd = 4". Lines of several threads are mixed.
func charonKeys(log string) Keys {
	keys := Keys{map[string]string{}, map[string]SAKeys{}}
	threads := map[string]*charonThread{}
	for line := range strings.Lines(log) {
		m := logLine.FindStringSubmatch(strings.TrimRight(line, "\n"))
		if m == nil {
			continue
		}
		t := threads[m[1]]
		if t == nil {
			t = &charonThread{bytes: map[string][]byte{}}
			threads[m[1]] = t
		}
		t.read(m[2], &keys)
	}
	return keys
}

// read takes one line in.
func (t *charonThread) read(text string, keys *Keys) {
	const cookieLabel, keyLabel = "natd_chunk", "encryption key Ka"
	if m := logKey.FindStringSubmatch(text); m != nil {
		t.label = m[1]
		t.bytes[t.label] = nil
		return
	}
	if m := logDump.FindStringSubmatch(text + " "); m != nil && t.label != "" {
		b, _ := hex.DecodeString(strings.ReplaceAll(m[1], " ", ""))
		t.bytes[t.label] = append(t.bytes[t.label], b...)
		// NAT-D hashes begin with the cookies. The initiator's come after its
		// key, the responder's before and after.
		if cookie, key := t.bytes[cookieLabel], t.bytes[keyLabel]; t.label == cookieLabel && len(cookie) >= 8 && len(key) > 0 {
			keys.IKE[hex.EncodeToString(cookie[:8])] = hex.EncodeToString(key)
		}
		return
	}
	t.label = ""
	switch {
	case strings.HasPrefix(text, "parsed ID_PROT request"), strings.HasPrefix(text, "parsed ID_PROT response"):
		delete(t.bytes, keyLabel)
	case strings.HasPrefix(text, "parsed QUICK_MODE"):
		t.initiator = strings.Contains(text, "QUICK_MODE response")
		for label := range t.bytes {
			delete(t.bytes, label)
		}
	case strings.HasPrefix(text, "adding inbound"), strings.HasPrefix(text, "adding outbound"):
		t.outbound = strings.HasPrefix(text, "adding outbound")
	}
	if m := logSPI.FindStringSubmatch(text); m != nil {
		from := "responder"
		if t.initiator == t.outbound {
			from = "initiator"
		}
		keys.SAs[m[1]] = SAKeys{
			hex.EncodeToString(t.bytes["encryption "+from+" key"]),
			hex.EncodeToString(t.bytes["integrity "+from+" key"]),
		}
	}
}
