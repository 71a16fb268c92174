// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"quicksand/ike"
	"quicksand/sa"
)

// keyLog writes the keys of IKE and ESP SAs into a directory that Wireshark
// takes as its WIRESHARK_CONFIG_DIR: the tables ikev1_decryption_table and
// esp_sa, as Wireshark 4.0 reads them. It is for debugging only; the files are
// readable to their owner alone.
type keyLog struct {
	ike, esp *os.File
}

// openKeyLog makes the directory and its two files; what they hold is kept.
func openKeyLog(dir string) (*keyLog, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open key log: %w", err)
	}
	var k keyLog
	var err error
	if k.ike, err = openPrivate(filepath.Join(dir, "ikev1_decryption_table")); err != nil {
		return nil, fmt.Errorf("open key log: %w", err)
	}
	if k.esp, err = openPrivate(filepath.Join(dir, "esp_sa")); err != nil {
		k.ike.Close()
		return nil, fmt.Errorf("open key log: %w", err)
	}
	return &k, nil
}

// openPrivate opens a file for appending and sees to it that nobody else reads
// it, even where it was there before.
func openPrivate(name string) (*os.File, error) {
	f, err := os.OpenFile(name, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	if err := f.Chmod(0o600); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func (k *keyLog) close() error {
	return errors.Join(k.ike.Close(), k.esp.Close())
}

// logIKE writes the cipher key of an IKE SA.
func (k *keyLog) logIKE(a ike.KeyLog) error {
	return writeSecret(k.ike, fmt.Appendf(nil, "%x,%s\n", a.Cookie, hex.EncodeToString(a.Key)))
}

// logPair writes both directions of an ESP pair; AH has nothing to decrypt.
func (k *keyLog) logPair(p *sa.Pair) error {
	if p.Suite.Protocol != sa.ESP {
		return nil
	}
	local, remote := p.Local.Addr().Unmap().String(), p.Remote.Addr().Unmap().String()
	return errors.Join(
		writeSecret(k.esp, espLine(p, remote, local, p.In)),
		writeSecret(k.esp, espLine(p, local, remote, p.Out)))
}

// writeSecret writes a line in one piece and wipes it.
func writeSecret(f *os.File, line []byte) error {
	_, err := f.Write(line)
	sa.Key(line).Wipe()
	return err
}

var wiresharkEncryption = map[sa.Encryption]string{
	sa.EncryptionNull: "NULL",
	sa.TripleDESCBC:   "TripleDES-CBC [RFC2451]",
	sa.AESCBC:         "AES-CBC [RFC3602]",
	sa.AESCTR:         "AES-CTR [RFC3686]",
	sa.AESGCM8:        "AES-GCM with 8 octet ICV [RFC4106]",
	sa.AESGCM12:       "AES-GCM with 12 octet ICV [RFC4106]",
	sa.AESGCM16:       "AES-GCM with 16 octet ICV [RFC4106]",
}

var wiresharkIntegrity = map[sa.Integrity]string{
	sa.IntegrityNone: "NULL",
	sa.HMACMD5:       "HMAC-MD5-96 [RFC2403]",
	sa.HMACSHA1:      "HMAC-SHA-1-96 [RFC2404]",
	sa.HMACSHA256:    "HMAC-SHA-256-128 [RFC4868]",
	sa.HMACSHA384:    "HMAC-SHA-384-192 [RFC4868]",
	sa.HMACSHA512:    "HMAC-SHA-512-256 [RFC4868]",
}

// espLine is a row of esp_sa: protocol, source, destination, SPI, cipher, its
// key with the salt behind it, integrity algorithm, its key.
func espLine(p *sa.Pair, src, dst string, s sa.SA) []byte {
	family := "IPv4"
	if p.Local.Addr().Unmap().Is6() {
		family = "IPv6"
	}
	return fmt.Appendf(nil, "\"%s\",\"%s\",\"%s\",\"0x%s\",\"%s\",\"%s\",\"%s\",\"%s\"\n",
		family, src, dst, s.SPI,
		wiresharkEncryption[p.Suite.Encryption], hexKey(s.EncryptionKey),
		wiresharkIntegrity[p.Suite.Integrity], hexKey(s.IntegrityKey))
}

// hexKey writes a key as Wireshark reads it: nothing at all where there is none.
func hexKey(k sa.Key) string {
	if len(k) == 0 {
		return ""
	}
	return "0x" + hex.EncodeToString(k)
}
