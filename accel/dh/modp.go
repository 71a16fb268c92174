// SPDX-License-Identifier: Apache-2.0

package dh

import (
	"encoding/hex"
	"fmt"
	"io"

	"filippo.io/bigmod"
)

// modp is the kernel of a MODP group: one exponentiation at a time, with a
// fixed window and no branch or address that depends on the exponent or on the
// base (bigmod's Exp).
type modp struct {
	modulus   *bigmod.Modulus
	generator *bigmod.Nat
	bits      int // of a private exponent
}

func newMODP(prime string, bits int) *modp {
	p, err := hex.DecodeString(prime)
	if err != nil {
		panic("dh: bad constant: " + err.Error())
	}
	m, err := bigmod.NewModulus(p)
	if err != nil {
		panic("dh: bad constant: " + err.Error())
	}
	return &modp{modulus: m, generator: bigmod.NewNat().SetUint(2).ExpandFor(m), bits: bits}
}

func (m *modp) lanes() int { return 1 }

func (m *modp) compute(random io.Reader, batch []*Request, out []Result) {
	for i, r := range batch {
		out[i] = m.one(random, r)
	}
}

// one looks at the peer's value first: a bad one must not cost an
// exponentiation.
func (m *modp) one(random io.Reader, r *Request) Result {
	var peer *bigmod.Nat
	if r.Peer != nil {
		var err error
		if peer, err = m.public(r.Peer); err != nil {
			return Result{Err: err}
		}
	}
	key := r.Private
	if key == nil {
		x, err := m.exponent(random)
		if err != nil {
			return Result{Err: err}
		}
		key = m.key(r.Group, x)
	}
	res := Result{Private: key, Public: clone(key.public)}
	if peer == nil {
		return res
	}
	x, err := key.copyExponent()
	if err != nil {
		return Result{Err: err}
	}
	res.Shared = m.power(peer, x)
	clear(x)
	return res
}

// key makes a key pair of an exponent, which it keeps.
func (m *modp) key(g Group, x []byte) *PrivateKey {
	return &PrivateKey{group: g, exponent: x, public: m.power(m.generator, x)}
}

// power returns base^x mod p in the modulus's length. The time depends on the
// number of bytes of x only.
func (m *modp) power(base *bigmod.Nat, x []byte) []byte {
	return bigmod.NewNat().Exp(base, x, m.modulus).Bytes(m.modulus)
}

// exponent draws a private exponent. Its top bit is always set, so that every
// exponent has the group's full length and none is small; one bit less of it is
// random, which the lengths allow for.
func (m *modp) exponent(random io.Reader) ([]byte, error) {
	x := make([]byte, (m.bits+7)/8)
	if _, err := io.ReadFull(random, x); err != nil {
		clear(x)
		return nil, fmt.Errorf("draw private exponent: %w", err)
	}
	top := uint(m.bits-1) % 8
	x[0] = x[0]&(1<<top-1) | 1<<top
	return x, nil
}

// public reads a peer's value: the modulus's length, and 1 < y < p-1.
func (m *modp) public(b []byte) (*bigmod.Nat, error) {
	if len(b) != m.modulus.Size() {
		return nil, fmt.Errorf("%w: %d bytes, want %d", ErrPublic, len(b), m.modulus.Size())
	}
	y, err := bigmod.NewNat().SetBytes(b, m.modulus)
	if err != nil || y.IsZero()|y.IsOne()|y.IsMinusOne(m.modulus) != 0 {
		return nil, fmt.Errorf("%w: not between 1 and p-1", ErrPublic)
	}
	return y, nil
}

func clone(b []byte) []byte { return append([]byte(nil), b...) }
