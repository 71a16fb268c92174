// SPDX-License-Identifier: Apache-2.0

package ike

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/des"
	"crypto/hmac"
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"
	"fmt"
	"hash"

	"quicksand/ike/isakmp"
	"quicksand/sa"
)

var newHash = map[sa.Hash]func() hash.Hash{
	sa.MD5:    md5.New,
	sa.SHA1:   sha1.New,
	sa.SHA256: sha256.New,
	sa.SHA384: sha512.New384,
	sa.SHA512: sha512.New,
}

// prf is HMAC with the negotiated hash over the concatenated parts (RFC 2409
// section 4).
func prf(h sa.Hash, key []byte, parts ...[]byte) []byte {
	m := hmac.New(newHash[h], key)
	for _, p := range parts {
		m.Write(p)
	}
	return m.Sum(nil)
}

// keyedPRF is the PRF with one key, for many uses.
type keyedPRF struct {
	mac  hash.Hash
	used bool
}

// sum is the PRF over the concatenated parts; key is made the PRF's where it
// has none yet.
func (k *keyedPRF) sum(h sa.Hash, key []byte, parts ...[]byte) []byte {
	if k.mac == nil {
		k.mac = hmac.New(newHash[h], key)
	} else if k.used {
		k.mac.Reset()
	}
	k.used = true
	for _, p := range parts {
		k.mac.Write(p)
	}
	return k.mac.Sum(make([]byte, 0, h.Size()))
}

// digest is the negotiated hash over the concatenated parts.
func digest(h sa.Hash, parts ...[]byte) []byte {
	d := newHash[h]()
	for _, p := range parts {
		d.Write(p)
	}
	return d.Sum(nil)
}

// skeyids are the secrets of an IKE SA (RFC 2409 section 5). skeyid is needed
// up to the end of Main Mode only.
type skeyids struct {
	skeyid, skeyidD, skeyidA, skeyidE sa.Key
	prfD, prfA                        keyedPRF
}

func (s *skeyids) wipe() {
	for _, k := range []sa.Key{s.skeyid, s.skeyidD, s.skeyidA, s.skeyidE} {
		k.Wipe()
	}
	s.prfD, s.prfA = keyedPRF{}, keyedPRF{}
}

// underA and underD are the PRF under SKEYID_a and SKEYID_d.
func (s *skeyids) underA(h sa.Hash, parts ...[]byte) []byte {
	return s.prfA.sum(h, s.skeyidA, parts...)
}
func (s *skeyids) underD(h sa.Hash, parts ...[]byte) []byte {
	return s.prfD.sum(h, s.skeyidD, parts...)
}

// pskSKEYIDs derives the secrets for authentication by pre-shared key (RFC
// 2409 section 5): nonces are the payload bodies, shared is g^xy.
func pskSKEYIDs(h sa.Hash, psk, ni, nr, shared []byte, i, r isakmp.Cookie) skeyids {
	var s skeyids
	s.skeyid = prf(h, psk, ni, nr)
	s.skeyidD = prf(h, s.skeyid, shared, i[:], r[:], []byte{0})
	s.skeyidA = prf(h, s.skeyid, s.skeyidD, shared, i[:], r[:], []byte{1})
	s.skeyidE = prf(h, s.skeyid, s.skeyidA, shared, i[:], r[:], []byte{2})
	return s
}

// cipherKey expands SKEYID_e to n bytes (RFC 2409 appendix B).
func cipherKey(h sa.Hash, skeyidE []byte, n int) sa.Key {
	if n <= len(skeyidE) {
		return sa.Key(skeyidE[:n]).Clone()
	}
	var out sa.Key
	for k := []byte{0}; len(out) < n; {
		k = prf(h, skeyidE, k)
		out = append(out, k...)
	}
	return out[:n]
}

// newCipher returns the block cipher of an IKE SA.
func newCipher(e sa.Encryption, key []byte) (cipher.Block, error) {
	switch e {
	case sa.AESCBC:
		return aes.NewCipher(key)
	case sa.TripleDESCBC:
		return des.NewTripleDESCipher(key)
	}
	return nil, fmt.Errorf("make cipher: %s is not a cipher of IKE", e)
}

// phase1IV is the IV of the first encrypted Main Mode message (RFC 2409
// appendix B).
func phase1IV(h sa.Hash, gxi, gxr []byte, block int) []byte {
	return digest(h, gxi, gxr)[:block]
}

// phase2IV is the IV of the first message of an exchange under an IKE SA: last
// is the last block of phase 1 (RFC 2409 appendix B).
func phase2IV(h sa.Hash, last []byte, mid uint32) []byte {
	return digest(h, last, be32(mid))[:len(last)]
}

func be32(v uint32) []byte { return binary.BigEndian.AppendUint32(nil, v) }

// keymat is the n bytes of keying material of one SA (RFC 2409 section 5.5).
// shared is Quick Mode's own g^xy, empty without PFS.
func (s *skeyids) keymat(h sa.Hash, shared []byte, p isakmp.ProtocolID, spi sa.SPI, ni, nr []byte, n int) sa.Key {
	out := make(sa.Key, 0, n+h.Size())
	id, spiBytes := []byte{byte(p)}, be32(uint32(spi))
	for k := []byte(nil); len(out) < n; {
		k = s.underD(h, k, shared, id, spiBytes, ni, nr)
		out = append(out, k...)
	}
	out[n:].Wipe()
	return out[:n:n]
}

// saFromKeymat cuts one SA's keys out of KEYMAT: the cipher's key with its
// salt first, then the integrity key.
func saFromKeymat(s sa.Suite, spi sa.SPI, km sa.Key) sa.SA {
	n := s.EncryptionKeyLen()
	return sa.SA{SPI: spi, EncryptionKey: km[:n:n], IntegrityKey: km[n:]}
}
