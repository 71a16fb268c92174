// SPDX-License-Identifier: Apache-2.0

package dh

import (
	"io"
	"slices"
)

// operands gathers what a wide kernel computes together: out[i] is for secrets[i]
// and bases[i], which is nil where the base is the group's own.
type operands struct{ out, secrets, bases [][]byte }

func newOperands(most int) *operands {
	all := make([][]byte, 3*most)
	return &operands{all[:0:most], all[most : most : 2*most], all[2*most : 2*most]}
}

func (o *operands) add(out, secret, base []byte) {
	o.out = append(o.out, out)
	o.secrets = append(o.secrets, secret)
	o.bases = append(o.bases, base)
}

// with returns these and the others.
func (o *operands) with(others *operands) *operands {
	return &operands{slices.Concat(o.out, others.out), slices.Concat(o.secrets, others.secrets), slices.Concat(o.bases, others.bases)}
}

// wipe overwrites the secrets.
func (o *operands) wipe() {
	for _, x := range o.secrets {
		clear(x)
	}
}

// gatherer is a kernel that gathers what it computes together.
type gatherer interface {
	// check refuses a peer's value that must not cost a computation.
	check(peer []byte) error
	// draw draws a private key.
	draw(random io.Reader) ([]byte, error)
	// lengths are those of a public value and of a shared secret, in bytes.
	lengths() (public, shared int)
}

// gather takes a batch apart into the public values of fresh key pairs, whose
// secrets are the keys' own, and the shared secrets, whose secrets are copies. out
// has the keys, and the error of each request that is in neither.
func gather(g gatherer, random io.Reader, batch []*Request, out []Result) (fresh, secrets *operands) {
	fresh, secrets = newOperands(len(batch)), newOperands(len(batch))
	public, shared := g.lengths()
	for i, r := range batch {
		out[i] = Result{}
		if r.Peer != nil {
			if out[i].Err = g.check(r.Peer); out[i].Err != nil {
				continue
			}
		}
		key := r.Private
		if key == nil {
			var x []byte
			if x, out[i].Err = g.draw(random); out[i].Err != nil {
				continue
			}
			key = &PrivateKey{group: r.Group, exponent: x, public: make([]byte, public)}
			fresh.add(key.public, x, nil)
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
		out[i].Shared = make([]byte, shared)
		secrets.add(out[i].Shared, x, r.Peer)
	}
	return fresh, secrets
}

// tellPublic gives each request that was answered our public value.
func tellPublic(out []Result) {
	for i := range out {
		if out[i].Err == nil {
			out[i].Public = clone(out[i].Private.public)
		}
	}
}
