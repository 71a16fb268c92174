// SPDX-License-Identifier: Apache-2.0

package dh

import (
	"crypto/elliptic"
	"errors"
	"fmt"
	"io"

	"quicksand/accel/modexp/p256"
)

// productsP256 is the kernel of the 256-bit random ECP group on package p256.
type productsP256 struct {
	*curve
	level p256.Level
}

func (w productsP256) lanes() int { return w.level.Lanes() }

func (w productsP256) compute(random io.Reader, batch []*Request, out []Result) {
	fresh, secrets := newOperands(len(batch)), newOperands(len(batch))
	for i, r := range batch {
		out[i] = Result{}
		if r.Peer != nil {
			if _, out[i].Err = w.public(r.Peer); out[i].Err != nil {
				continue
			}
		}
		key := r.Private
		if key == nil {
			var x []byte
			if x, out[i].Err = w.draw(random); out[i].Err != nil {
				continue
			}
			key = &PrivateKey{group: r.Group, exponent: x, public: make([]byte, 2*p256.Size)}
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
		out[i].Shared = make([]byte, p256.Size)
		secrets.add(out[i].Shared, x, r.Peer)
	}
	if len(fresh.out) > 0 {
		p256.MultiplyBase(w.level, fresh.out, fresh.secrets)
	}
	if len(secrets.out) > 0 {
		p256.Multiply(w.level, secrets.out, secrets.secrets, secrets.bases)
	}
	secrets.wipe()
	for i := range out {
		if out[i].Err == nil {
			out[i].Public = clone(out[i].Private.public)
		}
	}
}

// draw draws a scalar above 0 and below the curve's order.
func (w productsP256) draw(random io.Reader) ([]byte, error) {
	x := make([]byte, p256.Size)
	for range maxDraws {
		if _, err := io.ReadFull(random, x); err != nil {
			clear(x)
			return nil, fmt.Errorf("draw private scalar: %w", err)
		}
		if isP256Scalar(x) {
			return x, nil
		}
	}
	return nil, errNoScalar
}

var p256Order = elliptic.P256().Params().N.Bytes()

// isP256Scalar subtracts the order and looks at nothing but the last borrow.
func isP256Scalar(x []byte) bool {
	borrow := 0
	for i := len(x) - 1; i >= 0; i-- {
		borrow = (int(x[i]) - int(p256Order[i]) + borrow) >> 8
	}
	return borrow != 0 && !allZero(x)
}

// key makes a key pair of a scalar, which it keeps.
func (w productsP256) key(g Group, x []byte) (*PrivateKey, error) {
	if len(x) != p256.Size || !isP256Scalar(x) {
		return nil, errors.New("read private scalar: not between 0 and the curve's order")
	}
	k := &PrivateKey{group: g, exponent: x, public: make([]byte, 2*p256.Size)}
	p256.MultiplyBase(w.level, [][]byte{k.public}, [][]byte{x})
	return k, nil
}
