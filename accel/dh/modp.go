// SPDX-License-Identifier: Apache-2.0

package dh

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"io"

	"quicksand/accel/modexp"
)

// modp is the kernel of a MODP group: package modexp's powers, which take no
// branch and read no address that depends on the exponent or on the base.
type modp struct {
	modulus *modexp.Modulus
	top     []byte // p-1
	bits    int    // of a private exponent
}

func newMODP(prime string, bits int, level modexp.Level) *modp {
	p, err := hex.DecodeString(prime)
	if err != nil {
		panic("dh: bad constant: " + err.Error())
	}
	m, err := modexp.New(p, (bits+7)/8, level)
	if err != nil {
		panic("dh: bad constant: " + err.Error())
	}
	p[len(p)-1]-- // p is odd
	return &modp{modulus: m, top: p, bits: bits}
}

// pausing implements pauser.
func (m *modp) pausing(pause func()) kernel {
	with := *m
	with.modulus = m.modulus.Pausing(pause)
	return &with
}

func (m *modp) lanes() int { return m.modulus.Lanes() }

// compute makes the key pairs first, then the secrets. It looks at the peers'
// values before that: a bad one must not cost an exponentiation.
func (m *modp) compute(random io.Reader, batch []*Request, out []Result) {
	fresh, secrets := gather(m, random, batch, out)
	m.modulus.PowerOfTwo(fresh.out, fresh.secrets)
	m.modulus.Power(secrets.out, secrets.bases, secrets.secrets)
	secrets.wipe()
	tellPublic(out)
}

func (m *modp) lengths() (public, shared int) { return m.modulus.Size(), m.modulus.Size() }

// key makes a key pair of an exponent, which it keeps.
func (m *modp) key(g Group, x []byte) (*PrivateKey, error) {
	public := make([]byte, m.modulus.Size())
	m.modulus.PowerOfTwo([][]byte{public}, [][]byte{x})
	return &PrivateKey{group: g, exponent: x, public: public}, nil
}

// draw draws a private exponent. Its top bit is always set, so that every
// exponent has the group's full length and none is small; one bit less of it is
// random, which the lengths allow for.
func (m *modp) draw(random io.Reader) ([]byte, error) {
	x := make([]byte, (m.bits+7)/8)
	if _, err := io.ReadFull(random, x); err != nil {
		clear(x)
		return nil, fmt.Errorf("draw private exponent: %w", err)
	}
	top := uint(m.bits-1) % 8
	x[0] = x[0]&(1<<top-1) | 1<<top
	return x, nil
}

// check looks at a peer's value, which is no secret: it has the modulus's
// length, and 1 < y < p-1.
func (m *modp) check(y []byte) error {
	if len(y) != m.modulus.Size() {
		return fmt.Errorf("%w: %d bytes, want %d", ErrPublic, len(y), m.modulus.Size())
	}
	small := y[len(y)-1] <= 1 && len(bytes.TrimLeft(y[:len(y)-1], "\x00")) == 0
	if small || bytes.Compare(y, m.top) >= 0 {
		return fmt.Errorf("%w: not between 1 and p-1", ErrPublic)
	}
	return nil
}

func clone(b []byte) []byte { return append([]byte(nil), b...) }
