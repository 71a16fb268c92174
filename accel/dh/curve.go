// SPDX-License-Identifier: Apache-2.0

package dh

import (
	"crypto/ecdh"
	"errors"
	"fmt"
	"io"
)

// curve is the kernel of an ECP group or of Curve25519 on crypto/ecdh, which is
// constant time.
type curve struct {
	curve ecdh.Curve
	bits  int    // of the field; a scalar is no longer
	size  int    // bytes of a coordinate, a scalar and a shared secret
	xy    bool   // public values are x and y, not x alone
	order []byte // of an ECP group, as long as a scalar
}

// uncompressed is SEC 1's mark of a point given by both coordinates, which
// RFC 5903 leaves out.
const uncompressed = 4

// maxDraws ends the search for a scalar below the curve's order where the random
// source is broken. Of a fair source's draws less than one in 2^31 is refused,
// with each of the three curves.
const maxDraws = 64

var errNoScalar = errors.New("draw private scalar: the random source yields none below the curve's order")

func (c *curve) lanes() int { return 1 }

func (c *curve) compute(random io.Reader, batch []*Request, out []Result) {
	for i, r := range batch {
		out[i] = c.one(random, r)
	}
}

func (c *curve) one(random io.Reader, r *Request) Result {
	var peer *ecdh.PublicKey
	if r.Peer != nil {
		var err error
		if peer, err = c.public(r.Peer); err != nil {
			return Result{Err: err}
		}
	}
	key := r.Private
	if key == nil {
		var err error
		if key, err = c.generate(random, r.Group); err != nil {
			return Result{Err: err}
		}
	}
	res := Result{Private: key, Public: clone(key.public)}
	if peer == nil {
		return res
	}
	scalar, err := key.curveKey(c.curve)
	if err == nil {
		res.Shared, err = scalar.ECDH(peer)
	}
	if err != nil {
		if key != r.Private {
			key.Wipe()
		}
		if !errors.Is(err, ErrWiped) {
			err = fmt.Errorf("%w: of low order", ErrPublic)
		}
		return Result{Err: err}
	}
	return res
}

// generate draws a scalar. ecdh's own GenerateKey may pass over the reader it
// is given, so the candidates come from here and ecdh refuses those that are 0
// or not below the order.
func (c *curve) generate(random io.Reader, g Group) (*PrivateKey, error) {
	x := make([]byte, c.size)
	defer clear(x)
	for range maxDraws {
		if _, err := io.ReadFull(random, x); err != nil {
			return nil, fmt.Errorf("draw private scalar: %w", err)
		}
		if c.xy {
			x[0] &= byte(0xff >> (8*c.size - c.bits))
		}
		if key, err := c.key(g, x); err == nil {
			return key, nil
		}
	}
	return nil, errNoScalar
}

// key makes a key pair of a scalar, of which ecdh keeps a copy.
func (c *curve) key(g Group, x []byte) (*PrivateKey, error) {
	scalar, err := c.curve.NewPrivateKey(x)
	if err != nil {
		return nil, fmt.Errorf("read private scalar: %w", err)
	}
	public := scalar.PublicKey().Bytes()
	if c.xy {
		public = public[1:]
	}
	return &PrivateKey{group: g, public: public, scalar: scalar, exponent: clone(x)}, nil
}

// public reads a peer's value: a point of the curve, or any 32 bytes for
// Curve25519.
func (c *curve) public(b []byte) (*ecdh.PublicKey, error) {
	want := c.size
	if c.xy {
		want *= 2
	}
	if len(b) != want {
		return nil, fmt.Errorf("%w: %d bytes, want %d", ErrPublic, len(b), want)
	}
	if c.xy {
		b = append([]byte{uncompressed}, b...)
	}
	p, err := c.curve.NewPublicKey(b)
	if err != nil {
		return nil, fmt.Errorf("%w: not a point of the curve", ErrPublic)
	}
	return p, nil
}
