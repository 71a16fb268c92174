// SPDX-License-Identifier: Apache-2.0

package aead

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"fmt"
)

// An ivSource writes the IV of the packet with the given sequence number.
type ivSource interface{ next(iv []byte, seq uint64) }

// sequenceIV is the sequence number: unique under a key and no more, which is
// all that a counter mode asks for (RFC 3686 section 2.1).
type sequenceIV struct{}

func (sequenceIV) next(iv []byte, seq uint64) { binary.BigEndian.PutUint64(iv, seq) }

// randomIV encrypts a counter with AES under a random key of its own: nobody
// without the key can predict what comes next, which CBC needs (RFC 3602
// section 3, NIST SP 800-38A appendix C). It serves IVs of up to 16 bytes.
type randomIV struct {
	block   cipher.Block
	counter uint64
	in, out [aes.BlockSize]byte
}

func newRandomIV() (*randomIV, error) {
	key := make([]byte, 16)
	rand.Read(key)
	b, err := aes.NewCipher(key)
	clear(key)
	if err != nil {
		return nil, fmt.Errorf("make IV generator: %w", err)
	}
	return &randomIV{block: b}, nil
}

func (r *randomIV) next(iv []byte, _ uint64) {
	r.counter++
	binary.BigEndian.PutUint64(r.in[8:], r.counter)
	r.block.Encrypt(r.out[:], r.in[:])
	copy(iv, r.out[:])
}
