// SPDX-License-Identifier: Apache-2.0

package ike

import (
	"bytes"
	"crypto/cipher"
	_ "embed"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"strings"
	"testing"

	"quicksand/ike/isakmp"
	"quicksand/sa"
)

//go:embed testdata/nist-ikev1-kdf.json
var nistKDF []byte

// hexBytes is bytes that JSON has as hexadecimal digits.
type hexBytes []byte

func (b *hexBytes) UnmarshalText(t []byte) (err error) {
	*b, err = hex.DecodeString(string(t))
	return err
}

func TestKeyingNIST(t *testing.T) {
	hashes := map[string]sa.Hash{"SHA1": sa.SHA1, "SHA256": sa.SHA256, "SHA384": sa.SHA384, "SHA512": sa.SHA512}
	var vectors []struct {
		Hash, Auth       string
		PSK, Ni, Nr, Gxy hexBytes
		CkyI             hexBytes `json:"cky_i"`
		CkyR             hexBytes `json:"cky_r"`
		SKEYID           hexBytes
		SkeyidD          hexBytes `json:"skeyid_d"`
		SkeyidA          hexBytes `json:"skeyid_a"`
		SkeyidE          hexBytes `json:"skeyid_e"`
	}
	if err := json.Unmarshal(nistKDF, &vectors); err != nil || len(vectors) != 9 {
		t.Fatalf("%d vectors, %v", len(vectors), err)
	}
	for i, v := range vectors {
		h := hashes[v.Hash]
		var ci, cr isakmp.Cookie
		copy(ci[:], v.CkyI)
		copy(cr[:], v.CkyR)
		psk, ni, nr := []byte(v.PSK), []byte(v.Ni), []byte(v.Nr)
		if v.Auth == "signature" {
			// RFC 2409 section 5.1 has SKEYID = prf(Ni_b | Nr_b, g^xy) there
			// and everything behind it alike.
			psk, ni, nr = append(bytes.Clone(ni), nr...), v.Gxy, nil
		}
		got := pskSKEYIDs(h, psk, ni, nr, v.Gxy, ci, cr)
		sameBytes(t, v.Hash+" SKEYID", got.skeyid, v.SKEYID)
		if v.SkeyidD == nil {
			continue
		}
		sameBytes(t, v.Hash+" SKEYID_d", got.skeyidD, v.SkeyidD)
		sameBytes(t, v.Hash+" SKEYID_a", got.skeyidA, v.SkeyidA)
		sameBytes(t, v.Hash+" SKEYID_e", got.skeyidE, v.SkeyidE)
		got.wipe()
		for _, k := range []sa.Key{got.skeyid, got.skeyidD, got.skeyidA, got.skeyidE} {
			sameBytes(t, "wiped key", k, make([]byte, len(v.SKEYID)))
		}
		if t.Failed() {
			t.Fatalf("vector %d", i)
		}
	}
}

// sameBytes compares what is no secret in a test.
func sameBytes(t *testing.T, what string, got, want []byte) {
	t.Helper()
	if !bytes.Equal(got, want) {
		t.Errorf("%s: %x, want %x", what, got, want)
	}
}

//go:embed testdata/strongswan-exchanges.txt
var recordedExchanges string

// exchangeRecord is an exchange of testdata/strongswan-exchanges.txt: messages
// and secrets by their names there.
type exchangeRecord map[string][]byte

// recorded returns the exchanges by their headings.
func recorded(t *testing.T) map[string]exchangeRecord {
	t.Helper()
	all, heading := map[string]exchangeRecord{}, ""
	for line := range strings.Lines(recordedExchanges) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "[") {
			heading = strings.Trim(line, "[]")
			all[heading] = exchangeRecord{}
			continue
		}
		name, digits, _ := strings.Cut(line, " ")
		b, err := hex.DecodeString(digits)
		if err != nil || len(b) == 0 {
			t.Fatalf("%s: %s: %v", heading, name, err)
		}
		all[heading][name] = b
	}
	return all
}

// recordedMessage is a decoded message of a record.
type recordedMessage struct {
	isakmp.Header
	payloads []isakmp.Payload
}

// body returns the body of the n-th payload of a type, from 0.
func (m recordedMessage) body(t *testing.T, typ isakmp.PayloadType, n int) []byte {
	t.Helper()
	for _, p := range m.payloads {
		if p.Type == typ {
			if n--; n < 0 {
				return p.Body
			}
		}
	}
	t.Fatalf("%v: no such %v payload", m.Exchange, typ)
	return nil
}

// spi returns the SPI of the message's only proposal.
func (m recordedMessage) spi(t *testing.T) sa.SPI {
	t.Helper()
	s, err := isakmp.ParseSA(m.body(t, isakmp.PayloadSA, 0))
	if err != nil || len(s.Proposals) != 1 || len(s.Proposals[0].SPI) != 4 {
		t.Fatalf("%+v, %v", s, err)
	}
	return sa.SPI(binary.BigEndian.Uint32(s.Proposals[0].SPI))
}

// afterHash returns the payloads behind the first as they were hashed.
func (m recordedMessage) afterHash() (b []byte) {
	for _, p := range m.payloads[1:] {
		b = append(b, p.Raw...)
	}
	return b
}

// open decodes a message, decrypting it first where it is encrypted, and
// returns with it the IV of the next.
func (r exchangeRecord) open(t *testing.T, name string, c cipher.Block, iv []byte) (m recordedMessage, next []byte) {
	t.Helper()
	b := bytes.Clone(r[name])
	h, err := isakmp.ParseHeader(b)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	b = b[isakmp.HeaderLen:]
	if h.Flags&isakmp.Encrypted != 0 {
		next = bytes.Clone(b[len(b)-c.BlockSize():])
		cipher.NewCBCDecrypter(c, iv).CryptBlocks(b, b)
	}
	ps, _, err := isakmp.Payloads(nil, h.Next, b)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return recordedMessage{h, ps}, next
}

// TestKeyingStrongSwan derives everything that two strongSwan derived, from
// their pre-shared key, their messages and g^xy: SKEYIDs, the cipher's key
// and IVs, which have to decrypt the messages, every HASH, and KEYMAT.
func TestKeyingStrongSwan(t *testing.T) {
	exchanges := recorded(t)
	for _, c := range []struct {
		name       string
		hash       sa.Hash
		encryption sa.Encryption
		keyLen     int
		protocol   isakmp.ProtocolID
	}{
		{"3des-md5-modp1024 esp aes256-sha256-modp1024", sa.MD5, sa.TripleDESCBC, 24, isakmp.ProtoESP},
		{"aes256-sha1-modp1024 esp aes128gcm16", sa.SHA1, sa.AESCBC, 32, isakmp.ProtoESP},
		{"aes256-sha512-curve25519 ah sha384-curve25519", sa.SHA512, sa.AESCBC, 32, isakmp.ProtoAH},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := exchanges[c.name]
			if r == nil {
				t.Fatal("not recorded")
			}
			m1, _ := r.open(t, "main-1", nil, nil)
			m3, _ := r.open(t, "main-3", nil, nil)
			m4, _ := r.open(t, "main-4", nil, nil)
			gxi, gxr := m3.body(t, isakmp.PayloadKE, 0), m4.body(t, isakmp.PayloadKE, 0)

			s := pskSKEYIDs(c.hash, r["psk"], m3.body(t, isakmp.PayloadNonce, 0), m4.body(t, isakmp.PayloadNonce, 0),
				r["shared"], m4.Initiator, m4.Responder)
			sameBytes(t, "SKEYID", s.skeyid, r["skeyid"])
			sameBytes(t, "SKEYID_d", s.skeyidD, r["skeyid_d"])
			sameBytes(t, "SKEYID_a", s.skeyidA, r["skeyid_a"])
			sameBytes(t, "SKEYID_e", s.skeyidE, r["skeyid_e"])
			key := cipherKey(c.hash, s.skeyidE, c.keyLen)
			sameBytes(t, "cipher key", key, r["ka"])
			block, err := newCipher(c.encryption, key)
			if err != nil {
				t.Fatal(err)
			}
			iv := phase1IV(c.hash, gxi, gxr, block.BlockSize())
			sameBytes(t, "phase 1 IV", iv, r["iv"])

			m5, iv := r.open(t, "main-5", block, iv)
			m6, last := r.open(t, "main-6", block, iv)
			ci, cr, sai := m4.Initiator[:], m4.Responder[:], m1.body(t, isakmp.PayloadSA, 0)
			sameBytes(t, "HASH_I", m5.body(t, isakmp.PayloadHash, 0),
				prf(c.hash, s.skeyid, gxi, gxr, ci, cr, sai, m5.body(t, isakmp.PayloadID, 0)))
			sameBytes(t, "HASH_R", m6.body(t, isakmp.PayloadHash, 0),
				prf(c.hash, s.skeyid, gxr, gxi, cr, ci, sai, m6.body(t, isakmp.PayloadID, 0)))
			if t.Failed() {
				t.FailNow()
			}
			r.quickMode(t, c.hash, s, c.protocol, block, last)
			for _, name := range []string{"info-1", "info-2"} {
				h, err := isakmp.ParseHeader(r[name])
				if err != nil {
					t.Fatal(err)
				}
				m, _ := r.open(t, name, block, phase2IV(c.hash, last, h.MessageID))
				sameBytes(t, name+" HASH", m.body(t, isakmp.PayloadHash, 0), prf(c.hash, s.skeyidA, be32(h.MessageID), m.afterHash()))
			}
		})
	}
}

// quickMode checks the record's Quick Mode, last being phase 1's last block.
func (r exchangeRecord) quickMode(t *testing.T, h sa.Hash, s skeyids, p isakmp.ProtocolID, block cipher.Block, last []byte) {
	t.Helper()
	header, err := isakmp.ParseHeader(r["quick-1"])
	if err != nil {
		t.Fatal(err)
	}
	mid := be32(header.MessageID)
	q1, iv := r.open(t, "quick-1", block, phase2IV(h, last, header.MessageID))
	q2, iv := r.open(t, "quick-2", block, iv)
	q3, _ := r.open(t, "quick-3", block, iv)
	ni, nr := q1.body(t, isakmp.PayloadNonce, 0), q2.body(t, isakmp.PayloadNonce, 0)
	sameBytes(t, "HASH(1)", q1.body(t, isakmp.PayloadHash, 0), prf(h, s.skeyidA, mid, q1.afterHash()))
	sameBytes(t, "HASH(2)", q2.body(t, isakmp.PayloadHash, 0), prf(h, s.skeyidA, mid, ni, q2.afterHash()))
	sameBytes(t, "HASH(3)", q3.body(t, isakmp.PayloadHash, 0), prf(h, s.skeyidA, []byte{0}, mid, ni, nr))

	// An SA is named by the SPI of the side that receives on it.
	for sender, spi := range map[string]sa.SPI{"initiator": q2.spi(t), "responder": q1.spi(t)} {
		want := append(bytes.Clone(r["encryption-"+sender]), r["integrity-"+sender]...)
		if len(want) == 0 {
			t.Fatal("no keys")
		}
		sameBytes(t, "KEYMAT of the "+sender, s.keymat(h, r["quick-shared"], p, spi, ni, nr, len(want)), want)
	}
}
