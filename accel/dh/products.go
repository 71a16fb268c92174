// SPDX-License-Identifier: Apache-2.0

package dh

import (
	"errors"
	"fmt"
	"io"

	"quicksand/accel/modexp/p256"
	"quicksand/accel/modexp/p521"
)

// products is the kernel of an ECP group on a package of ours, which multiplies
// points of the curve and the base point. Points are checked by crypto/ecdh.
type products struct {
	*curve
	width        int // lanes
	multiply     func(out, scalars, points [][]byte)
	multiplyBase func(out, scalars [][]byte)
}

func productsP256(c *curve, l p256.Level) products {
	return products{c, l.Lanes(),
		func(out, scalars, points [][]byte) { p256.Multiply(l, out, scalars, points) },
		func(out, scalars [][]byte) { p256.MultiplyBase(l, out, scalars) }}
}

func productsP521(c *curve) products {
	return products{c, 1,
		func(out, scalars, points [][]byte) { p521.Multiply(out[0], scalars[0], points[0]) },
		func(out, scalars [][]byte) { p521.MultiplyBase(out[0], scalars[0]) }}
}

func (w products) lanes() int { return w.width }

func (w products) lengths() (public, shared int) { return 2 * w.size, w.size }

func (w products) check(peer []byte) error {
	_, err := w.public(peer)
	return err
}

func (w products) compute(random io.Reader, batch []*Request, out []Result) {
	fresh, secrets := gather(w, random, batch, out)
	if len(fresh.out) > 0 {
		w.multiplyBase(fresh.out, fresh.secrets)
	}
	if len(secrets.out) > 0 {
		w.multiply(secrets.out, secrets.secrets, secrets.bases)
	}
	secrets.wipe()
	tellPublic(out)
}

// draw draws a scalar above 0 and below the curve's order.
func (w products) draw(random io.Reader) ([]byte, error) {
	x := make([]byte, w.size)
	for range maxDraws {
		if _, err := io.ReadFull(random, x); err != nil {
			clear(x)
			return nil, fmt.Errorf("draw private scalar: %w", err)
		}
		x[0] &= byte(0xff >> (8*w.size - w.bits))
		if isScalar(x, w.order) {
			return x, nil
		}
	}
	return nil, errNoScalar
}

// isScalar reports whether x is above 0 and below the curve's order, of the same
// length. It subtracts and looks at nothing but the last borrow.
func isScalar(x, order []byte) bool {
	borrow := 0
	for i := len(x) - 1; i >= 0; i-- {
		borrow = (int(x[i]) - int(order[i]) + borrow) >> 8
	}
	return borrow != 0 && !allZero(x)
}

// key makes a key pair of a scalar, which it keeps.
func (w products) key(g Group, x []byte) (*PrivateKey, error) {
	if len(x) != w.size || !isScalar(x, w.order) {
		return nil, errors.New("read private scalar: not between 0 and the curve's order")
	}
	k := &PrivateKey{group: g, exponent: x, public: make([]byte, 2*w.size)}
	w.multiplyBase([][]byte{k.public}, [][]byte{x})
	return k, nil
}
