// SPDX-License-Identifier: Apache-2.0

package aead

import (
	"crypto/hmac"
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/subtle"
	"encoding/binary"
	"fmt"
	"hash"

	"quicksand/sa"
)

// MAC is the truncated HMAC of an SA, used over again for each packet: Reset,
// Write, then Sum or Verify. It allocates nothing and is not safe for
// concurrent use.
type MAC struct {
	hash hash.Hash
	icv  int
	sum  [sha512.Size]byte
	high [4]byte
}

var hashes = map[sa.Integrity]func() hash.Hash{
	sa.HMACMD5:    md5.New,
	sa.HMACSHA1:   sha1.New,
	sa.HMACSHA256: sha256.New,
	sa.HMACSHA384: sha512.New384,
	sa.HMACSHA512: sha512.New,
}

// NewMAC returns the HMAC of an integrity algorithm. It returns ErrSuite or
// ErrKeyLen, wrapped.
func NewMAC(i sa.Integrity, key sa.Key) (*MAC, error) {
	if _, ok := hashes[i]; !ok {
		return nil, fmt.Errorf("make HMAC: %w", ErrSuite)
	}
	if len(key) != i.KeyLen() {
		return nil, fmt.Errorf("make HMAC: %w", ErrKeyLen)
	}
	return newMAC(i, key), nil
}

func newMAC(i sa.Integrity, key []byte) *MAC {
	m := &MAC{hash: hmac.New(hashes[i], key), icv: i.ICVLen()}
	m.hash.Reset() // keeps the hash's state behind the key for every later one
	return m
}

// Len is the ICV's length in bytes.
func (m *MAC) Len() int { return m.icv }

// Reset begins a packet.
func (m *MAC) Reset() { m.hash.Reset() }

// Write adds to what is authenticated.
func (m *MAC) Write(b []byte) { m.hash.Write(b) }

// WriteHigh adds the high half of a sequence number, which stands behind the
// packet and is not sent (RFC 4303 section 2.2.1, RFC 4302 section 2.5.1).
func (m *MAC) WriteHigh(seq uint64) {
	binary.BigEndian.PutUint32(m.high[:], uint32(seq>>32))
	m.hash.Write(m.high[:])
}

// Sum returns the ICV, good until the next call.
func (m *MAC) Sum() []byte { return m.hash.Sum(m.sum[:0])[:m.icv] }

// Verify compares the ICV in constant time.
func (m *MAC) Verify(icv []byte) bool { return Equal(m.Sum(), icv) }

// Equal compares two ICVs in constant time.
func Equal(a, b []byte) bool { return subtle.ConstantTimeCompare(a, b) == 1 }
