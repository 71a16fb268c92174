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
	jobs := newOperands(2 * len(batch))
	for i, r := range batch {
		out[i] = Result{}
		if r.Peer != nil && len(r.Peer) != x25519.Size {
			out[i].Err = fmt.Errorf("%w: %d bytes, want %d", ErrPublic, len(r.Peer), x25519.Size)
			continue
		}
		key := r.Private
		if key == nil {
			x := make([]byte, x25519.Size)
			if _, err := io.ReadFull(random, x); err != nil {
				clear(x)
				out[i].Err = fmt.Errorf("draw private scalar: %w", err)
				continue
			}
			key = &PrivateKey{group: r.Group, exponent: x, public: make([]byte, x25519.Size)}
			jobs.add(key.public, clone(x), nil)
		}
		out[i].Private = key
		if r.Peer == nil {
			continue
		}
		x, err := key.copyExponent()
		if err != nil {
			out[i] = Result{Err: err}
			continue
		}
		out[i].Shared = make([]byte, x25519.Size)
		jobs.add(out[i].Shared, x, r.Peer)
	}
	l.run(jobs)
	for i, r := range batch {
		if out[i].Err == nil && r.Peer != nil && allZero(out[i].Shared) {
			if r.Private == nil {
				out[i].Private.Wipe()
			}
			out[i] = Result{Err: fmt.Errorf("%w: of low order", ErrPublic)}
		}
		if out[i].Err == nil {
			out[i].Public = clone(out[i].Private.public)
		}
	}
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

// run computes and overwrites the scalars, which are copies.
func (l ladder25519) run(jobs *operands) {
	for i := 0; i < len(jobs.out); i += x25519.Lanes {
		end := min(i+x25519.Lanes, len(jobs.out))
		x25519.Multiply(l.level, jobs.out[i:end], jobs.secrets[i:end], jobs.bases[i:end])
	}
	jobs.wipe()
}

// allZero does not branch on what it looks at before the end.
func allZero(b []byte) bool {
	var or byte
	for _, x := range b {
		or |= x
	}
	return subtle.ConstantTimeByteEq(or, 0) == 1
}
