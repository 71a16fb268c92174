// SPDX-License-Identifier: Apache-2.0

package aead

import (
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/subtle"
	"encoding"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"

	"quicksand/sa"
)

// MAC is the truncated HMAC of an SA (RFC 2104), used over again for each packet:
// Reset, Write, then Sum or Verify. It allocates nothing and is not safe for
// concurrent use. The standard library's hmac would do as well, but keeps the key
// where nothing can overwrite it.
type MAC struct {
	hash         hash.Hash
	state        encoding.BinaryUnmarshaler // hash's
	inner, outer []byte                     // states of the hash behind the padded key
	icv          int
	sum          [sha512.Size]byte
	high         [4]byte
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
	m, err := newMAC(i, key)
	if err != nil {
		return nil, fmt.Errorf("make HMAC: %w", err)
	}
	return m, nil
}

func newMAC(i sa.Integrity, key []byte) (*MAC, error) {
	h := hashes[i]()
	state, ok := h.(encoding.BinaryUnmarshaler)
	if !ok {
		return nil, fmt.Errorf("hash of %s cannot take its state back", i)
	}
	m := &MAC{hash: h, state: state, icv: i.ICVLen()}
	var err error
	if m.inner, err = padState(h, key, innerPad); err != nil {
		return nil, err
	}
	if m.outer, err = padState(h, key, outerPad); err != nil {
		return nil, err
	}
	m.Reset()
	return m, nil
}

// What the key, filled up to a block, is padded with (RFC 2104 section 2).
const (
	innerPad = 0x36
	outerPad = 0x5c
)

// padState returns the hash's state behind the padded key, which is a block, as
// the standard library gives it away, and leaves h as new.
func padState(h hash.Hash, key []byte, pad byte) ([]byte, error) {
	block := make([]byte, h.BlockSize())
	defer clear(block)
	h.Reset()
	defer h.Reset()
	if len(key) > len(block) {
		h.Write(key)
		h.Sum(block[:0])
		h.Reset()
	} else {
		copy(block, key)
	}
	for i := range block {
		block[i] ^= pad
	}
	h.Write(block)
	m, ok := h.(encoding.BinaryMarshaler)
	if !ok {
		return nil, errors.New("hash does not give its state away")
	}
	return m.MarshalBinary()
}

// Len is the ICV's length in bytes.
func (m *MAC) Len() int { return m.icv }

// Reset begins a packet.
func (m *MAC) Reset() { m.resume(m.inner) }

// resume sets the hash to a state that it gave away itself; the length of a wiped
// one is 0 and the hash refuses it.
func (m *MAC) resume(state []byte) {
	if m.state.UnmarshalBinary(state) != nil {
		m.hash.Reset()
	}
}

// Write adds to what is authenticated.
func (m *MAC) Write(b []byte) { m.hash.Write(b) }

// WriteHigh adds the high half of a sequence number, which stands behind the
// packet and is not sent (RFC 4303 section 2.2.1, RFC 4302 section 2.5.1).
func (m *MAC) WriteHigh(seq uint64) {
	binary.BigEndian.PutUint32(m.high[:], uint32(seq>>32))
	m.hash.Write(m.high[:])
}

// Sum returns the ICV, good until the next call.
func (m *MAC) Sum() []byte {
	inner := m.hash.Sum(m.sum[:0])
	m.resume(m.outer)
	m.hash.Write(inner)
	return m.hash.Sum(m.sum[:0])[:m.icv]
}

// Verify compares the ICV in constant time. A wiped MAC finds none right.
func (m *MAC) Verify(icv []byte) bool { return Equal(m.Sum(), icv) && m.inner != nil }

// Wipe overwrites what was computed of the key. The MAC is of no use afterwards.
func (m *MAC) Wipe() {
	clear(m.inner)
	clear(m.outer)
	m.inner, m.outer = nil, nil
	m.hash.Reset()
	clear(m.sum[:])
}

// Equal compares two ICVs in constant time.
func Equal(a, b []byte) bool { return subtle.ConstantTimeCompare(a, b) == 1 }
