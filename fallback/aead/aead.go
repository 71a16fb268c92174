// SPDX-License-Identifier: Apache-2.0

// Package aead is the packet cryptography of one direction of an IPsec SA:
// encryption and ICV of ESP packets in place (RFC 4303 section 3.3.2), for the
// combined modes (RFC 4106) as for a cipher with an HMAC (RFC 2404, RFC 2410,
// RFC 2451, RFC 3602, RFC 3686, RFC 4868), and the HMAC of AH (RFC 4302).
package aead

import (
	"errors"
	"fmt"

	"quicksand/sa"
)

// HeaderLen is the length of what stands before the IV in an ESP packet and
// is authenticated but not encrypted: SPI and sequence number.
const HeaderLen = 8

// Packet is one ESP packet of an SA. Data runs from the SPI to the end of the
// ICV: SPI (4 bytes), low half of the sequence number (4 bytes), IV, payload,
// ICV. The payload, with its padding and trailer, is a multiple of BlockLen.
type Packet struct {
	Data []byte
	Seq  uint64 // in full; the high half counts with ESN only
	OK   bool   // set by Seal and Open
}

// Cipher is the cryptography of one direction of an SA, over batches of its
// packets. It works in place, allocates nothing and is not safe for concurrent
// use.
type Cipher interface {
	// IVLen, ICVLen and BlockLen are in bytes; BlockLen is 1 where no block
	// has to be filled.
	IVLen() int
	ICVLen() int
	BlockLen() int
	// Seal writes each packet's IV, encrypts its payload and writes its ICV.
	// SPI and sequence number are the caller's, as is that no sequence number
	// comes twice in the life of a key. OK is false, and the packet of no use,
	// where Data has no possible length.
	Seal(pkts []Packet)
	// Open verifies each packet's ICV, in time that does not depend on where
	// it differs, and decrypts the payload only where it is right. Where it is
	// not, or Data has no possible length, OK is false and nothing of the
	// payload was released. The ICV's bytes are of no use afterwards.
	Open(pkts []Packet)
	// Wipe overwrites the expanded keys, what was computed of them and the
	// memory that packets went through. Seal and Open then refuse every packet.
	// What Go's standard library holds of an AES or DES key (all of 3DES and
	// AES-CTR, and every cipher at the generic level) cannot be overwritten and
	// is let go.
	Wipe()
}

// refuse answers for a cipher that is wiped.
func refuse(pkts []Packet) {
	for i := range pkts {
		pkts[i].OK = false
	}
}

// Errors of New.
var (
	ErrSuite  = errors.New("not a suite of ESP")
	ErrKeyLen = errors.New("key has the wrong length")
)

// An implementation makes ciphers for the suites and on the machines it
// supports.
type implementation struct {
	name      string
	available bool // on this CPU
	supports  func(s sa.Suite) bool
	make      func(s sa.Suite, k *sa.SA) (Cipher, error)
}

// implementations are tried in order; the last supports every suite.
var implementations = []implementation{
	{"generic", true, func(sa.Suite) bool { return true }, newGeneric},
}

// New returns the fastest cipher this machine has for an ESP suite, with the
// keys of one direction, which it copies. It returns ErrSuite or ErrKeyLen,
// wrapped.
func New(s sa.Suite, k *sa.SA) (Cipher, error) {
	if err := check(s, k); err != nil {
		return nil, fmt.Errorf("make cipher for %s: %w", s, err)
	}
	for _, i := range implementations {
		if i.available && i.supports(s) {
			return i.make(s, k)
		}
	}
	return nil, fmt.Errorf("make cipher for %s: %w", s, ErrSuite)
}

// Implementation names what New makes for the suite on this machine, for
// placements and benchmarks.
func Implementation(s sa.Suite) string {
	for _, i := range implementations {
		if i.available && i.supports(s) {
			return i.name
		}
	}
	return "none"
}

func check(s sa.Suite, k *sa.SA) error {
	bits := s.KeyBits
	switch s.Encryption {
	case sa.EncryptionNull:
		bits = 0
	case sa.TripleDESCBC:
		bits = 192
	case sa.AESCBC, sa.AESCTR, sa.AESGCM8, sa.AESGCM12, sa.AESGCM16:
		if bits != 128 && bits != 192 && bits != 256 {
			return ErrSuite
		}
	default:
		return ErrSuite
	}
	switch {
	case s.Protocol != sa.ESP || s.KeyBits != bits || s.Integrity > sa.HMACSHA512:
		return ErrSuite
	case s.Encryption.AEAD() != (s.Integrity == sa.IntegrityNone):
		return ErrSuite
	case len(k.EncryptionKey) != s.EncryptionKeyLen() || len(k.IntegrityKey) != s.Integrity.KeyLen():
		return ErrKeyLen
	}
	return nil
}
