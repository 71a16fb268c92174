// SPDX-License-Identifier: Apache-2.0

package dh

import (
	"crypto/subtle"
	"fmt"
	"io"

	"quicksand/accel/modexp/x25519"
)

// ladder25519 is the kernel of Curve25519 on a level of package x25519: the ladders
// that a batch needs, for public values and for secrets, run together where the
// level has lanes.
type ladder25519 struct{ level x25519.Level }

func (l ladder25519) lanes() int { return l.level.Lanes() }

// compute makes fresh keys' public values and the secrets at once: neither needs
// the other.
func (l ladder25519) compute(random io.Reader, batch []*Request, out []Result) {
	fresh, secrets := gather(l, random, batch, out)
	l.run(fresh.with(secrets))
	secrets.wipe()
	for i, r := range batch {
		if out[i].Err == nil && r.Peer != nil && allZero(out[i].Shared) {
			if r.Private == nil {
				out[i].Private.Wipe()
			}
			out[i] = Result{Err: fmt.Errorf("%w: of low order", ErrPublic)}
		}
	}
	tellPublic(out)
}

func (l ladder25519) lengths() (public, shared int) { return x25519.Size, x25519.Size }

func (l ladder25519) check(peer []byte) error {
	if len(peer) != x25519.Size {
		return fmt.Errorf("%w: %d bytes, want %d", ErrPublic, len(peer), x25519.Size)
	}
	return nil
}

// draw draws a scalar, which any 32 bytes are.
func (l ladder25519) draw(random io.Reader) ([]byte, error) {
	x := make([]byte, x25519.Size)
	if _, err := io.ReadFull(random, x); err != nil {
		clear(x)
		return nil, fmt.Errorf("draw private scalar: %w", err)
	}
	return x, nil
}

// key makes a key pair of a scalar, which it keeps.
func (l ladder25519) key(g Group, x []byte) (*PrivateKey, error) {
	if len(x) != x25519.Size {
		return nil, fmt.Errorf("read private scalar: %d bytes, want %d", len(x), x25519.Size)
	}
	k := &PrivateKey{group: g, exponent: x, public: make([]byte, x25519.Size)}
	x25519.Multiply(l.level, [][]byte{k.public}, [][]byte{x}, [][]byte{nil})
	return k, nil
}

// run computes as many at a time as there are lanes.
func (l ladder25519) run(jobs *operands) {
	for i := 0; i < len(jobs.out); i += x25519.Lanes {
		end := min(i+x25519.Lanes, len(jobs.out))
		x25519.Multiply(l.level, jobs.out[i:end], jobs.secrets[i:end], jobs.bases[i:end])
	}
}

// allZero does not branch on what it looks at before the end.
func allZero(b []byte) bool {
	var or byte
	for _, x := range b {
		or |= x
	}
	return subtle.ConstantTimeByteEq(or, 0) == 1
}
