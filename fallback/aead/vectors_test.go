// SPDX-License-Identifier: Apache-2.0

package aead

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"os"
	"strconv"
	"strings"
	"testing"

	"quicksand/sa"
)

// hexBytes is hexadecimal in JSON; "0b*20" repeats the bytes.
type hexBytes []byte

func (h *hexBytes) UnmarshalText(t []byte) error {
	s, times, repeated := strings.Cut(string(t), "*")
	b, err := hex.DecodeString(s)
	n := 1
	if err == nil && repeated {
		n, err = strconv.Atoi(times)
	}
	*h = bytes.Repeat(b, n)
	return err
}

func load(t *testing.T, name string, v any) {
	t.Helper()
	b, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, v); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
}

type rfcVectors struct {
	CBC  []struct{ Key, Plain, Packet hexBytes }
	CTR  []struct{ Key, Salt, IV, Plain, Cipher hexBytes }
	GCM  []struct{ Key, Nonce, Plain, AAD, Cipher, Tag hexBytes }
	HMAC []struct{ Key, Data, MD5, SHA1, SHA256, SHA384, SHA512 hexBytes }
}

func rfc(t *testing.T) (v rfcVectors) {
	load(t, "rfc.json", &v)
	if len(v.CBC) != 4 || len(v.CTR) != 9 || len(v.GCM) != 10 || len(v.HMAC) != 6 {
		t.Fatal("vectors are missing")
	}
	return v
}

func bits(key []byte) uint16 { return uint16(len(key)) * 8 }

func concat(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

// TestHMACVectors runs RFC 4231 and RFC 2202, whose keys have any length,
// against the truncated forms.
func TestHMACVectors(t *testing.T) {
	for n, v := range rfc(t).HMAC {
		for i, want := range map[sa.Integrity][]byte{
			sa.HMACMD5: v.MD5, sa.HMACSHA1: v.SHA1, sa.HMACSHA256: v.SHA256,
			sa.HMACSHA384: v.SHA384, sa.HMACSHA512: v.SHA512,
		} {
			if want == nil {
				continue
			}
			m, err := newMAC(i, v.Key)
			if err != nil {
				t.Fatal(err)
			}
			for range 2 { // the state is used over again
				m.Reset()
				m.Write(v.Data[:len(v.Data)/2])
				m.Write(v.Data[len(v.Data)/2:])
				if got := m.Sum(); !bytes.Equal(got, want[:i.ICVLen()]) {
					t.Errorf("case %d, %s: %x, want %x", n, i, got, want)
				}
			}
		}
	}
}

func TestWycheproofHMAC(t *testing.T) {
	var v struct {
		Tests []struct {
			Hash          string
			TcID          int
			Key, Msg, Tag hexBytes
			Valid         bool
		}
	}
	load(t, "wycheproof_hmac.json", &v)
	kinds := map[string]sa.Integrity{
		"sha1": sa.HMACSHA1, "sha256": sa.HMACSHA256, "sha384": sa.HMACSHA384, "sha512": sa.HMACSHA512,
	}
	for _, c := range v.Tests {
		m, err := NewMAC(kinds[c.Hash], sa.Key(c.Key))
		if err != nil {
			t.Fatal(err)
		}
		m.Reset()
		m.Write(c.Msg)
		if got := m.Verify(c.Tag); got != c.Valid {
			t.Errorf("%s case %d: valid is %v", c.Hash, c.TcID, got)
		}
	}
	if len(v.Tests) < 100 {
		t.Fatal("vectors are missing")
	}
}

// each runs f for every implementation that supports the suite here.
func each(t *testing.T, s sa.Suite, k *sa.SA, f func(t *testing.T, c Cipher)) {
	t.Helper()
	for _, i := range implementations {
		if i.available && i.supports(s) {
			c, err := i.make(s, k)
			if err != nil {
				t.Fatalf("%s: %v", i.name, err)
			}
			t.Run(i.name+"/"+s.String(), func(t *testing.T) { f(t, c) })
		}
	}
}

func sealOne(c Cipher, data []byte, seq uint64) bool {
	p := []Packet{{Data: data, Seq: seq}}
	c.Seal(p)
	return p[0].OK
}

func openOne(c Cipher, data []byte, seq uint64) bool {
	p := []Packet{{Data: data, Seq: seq}}
	c.Open(p)
	return p[0].OK
}

// TestCBCVectors opens the packets of RFC 3602, which have no ICV of their own.
func TestCBCVectors(t *testing.T) {
	auth := make(sa.Key, 20)
	for n, v := range rfc(t).CBC {
		s := sa.Suite{Protocol: sa.ESP, Encryption: sa.AESCBC, KeyBits: 128, Integrity: sa.HMACSHA1}
		m, _ := NewMAC(sa.HMACSHA1, auth)
		m.Reset()
		m.Write(v.Packet)
		packet := concat(v.Packet, m.Sum())
		each(t, s, &sa.SA{EncryptionKey: sa.Key(v.Key), IntegrityKey: auth}, func(t *testing.T, c Cipher) {
			data := bytes.Clone(packet)
			if !openOne(c, data, 1) || !bytes.Equal(data[24:len(data)-12], v.Plain) {
				t.Errorf("case %d: %x", n+5, data)
			}
		})
	}
}

func TestCTRVectors(t *testing.T) {
	auth := make(sa.Key, 32)
	for n, v := range rfc(t).CTR {
		s := sa.Suite{Protocol: sa.ESP, Encryption: sa.AESCTR, KeyBits: bits(v.Key), Integrity: sa.HMACSHA256}
		k := &sa.SA{EncryptionKey: concat(v.Key, v.Salt), IntegrityKey: auth}
		each(t, s, k, func(t *testing.T, c Cipher) {
			data := concat(make([]byte, 16), v.Plain, make([]byte, 16))
			seq := binary.BigEndian.Uint64(v.IV) // the IV is made of it
			if !sealOne(c, data, seq) || !bytes.Equal(data[8:len(data)-16], concat(v.IV, v.Cipher)) {
				t.Errorf("case %d: sealed %x", n+1, data)
			}
			if !openOne(c, data, seq) || !bytes.Equal(data[16:len(data)-16], v.Plain) {
				t.Errorf("case %d: opened %x", n+1, data)
			}
		})
	}
}

func TestGCMVectors(t *testing.T) {
	for n, v := range rfc(t).GCM {
		esn := len(v.AAD) == 12
		header, high := v.AAD, uint64(0)
		if esn { // SPI, high half, low half
			header = concat(v.AAD[:4], v.AAD[8:])
			high = uint64(binary.BigEndian.Uint32(v.AAD[4:])) << 32
		}
		for tag, e := range map[int]sa.Encryption{8: sa.AESGCM8, 12: sa.AESGCM12, 16: sa.AESGCM16} {
			s := sa.Suite{Protocol: sa.ESP, Encryption: e, KeyBits: bits(v.Key), ESN: esn}
			k := &sa.SA{EncryptionKey: concat(v.Key, v.Nonce[:4])}
			each(t, s, k, func(t *testing.T, c Cipher) {
				want := concat(header, v.Nonce[4:], v.Cipher, v.Tag[:tag])
				data := bytes.Clone(want)
				if !openOne(c, data, high) || !bytes.Equal(data[16:len(data)-tag], v.Plain) {
					t.Errorf("case %d: opened %x", n+1, data)
				}
				if esn {
					if data = bytes.Clone(want); openOne(c, data, high+1<<32) {
						t.Errorf("case %d: the high half does not count", n+1)
					}
					return
				}
				data = concat(header, make([]byte, 8), v.Plain, make([]byte, tag))
				if !sealOne(c, data, binary.BigEndian.Uint64(v.Nonce[4:])) || !bytes.Equal(data, want) {
					t.Errorf("case %d: sealed %x, want %x", n+1, data, want)
				}
			})
		}
	}
}

// TestWycheproofGCM compares ciphertexts, and the tag too where the vector's
// additional data has the length of ESP's.
func TestWycheproofGCM(t *testing.T) {
	var v struct {
		Tests []struct {
			TcID                       int
			Key, IV, AAD, Msg, CT, Tag hexBytes
		}
	}
	load(t, "wycheproof_aes_gcm.json", &v)
	tags := 0
	for _, c := range v.Tests {
		s := sa.Suite{Protocol: sa.ESP, Encryption: sa.AESGCM16, KeyBits: bits(c.Key)}
		each(t, s, &sa.SA{EncryptionKey: concat(c.Key, c.IV[:4])}, func(t *testing.T, cipher Cipher) {
			header := make([]byte, 8)
			copy(header, c.AAD)
			data := concat(header, make([]byte, 8), c.Msg, make([]byte, 16))
			if !sealOne(cipher, data, binary.BigEndian.Uint64(c.IV[4:])) || !bytes.Equal(data[16:len(data)-16], c.CT) {
				t.Errorf("case %d: sealed %x", c.TcID, data)
			}
			if c.Tag == nil {
				return
			}
			tags++
			if !bytes.Equal(data[len(data)-16:], c.Tag) {
				t.Errorf("case %d: tag %x", c.TcID, data[len(data)-16:])
			}
		})
	}
	if len(v.Tests) < 100 || tags < 5 {
		t.Fatal("vectors are missing")
	}
}
