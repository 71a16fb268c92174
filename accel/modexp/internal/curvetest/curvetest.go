// SPDX-License-Identifier: Apache-2.0

// Package curvetest has what tests of the NIST curves' packages share: crypto/ecdh's
// products to compare with, and scalars that are hard on windows.
package curvetest

import (
	"bytes"
	"crypto/ecdh"
	"crypto/elliptic"
	"math/big"
	"testing"
)

// Public returns x and y of a scalar times the base point.
func Public(t testing.TB, c ecdh.Curve, scalar []byte) []byte {
	t.Helper()
	k, err := c.NewPrivateKey(scalar)
	if err != nil {
		t.Fatal(err)
	}
	return k.PublicKey().Bytes()[1:]
}

// Product returns the x-coordinate of a scalar times a point, given by x and y.
func Product(t testing.TB, c ecdh.Curve, scalar, point []byte) []byte {
	t.Helper()
	k, err := c.NewPrivateKey(scalar)
	if err != nil {
		t.Fatal(err)
	}
	p, err := c.NewPublicKey(append([]byte{4}, point...))
	if err != nil {
		t.Fatal(err)
	}
	out, err := k.ECDH(p)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// Edges are scalars at which windows are zero, sums are infinity, or the order
// is near.
func Edges(p *elliptic.CurveParams) (all [][]byte) {
	size := (p.N.BitLen() + 7) / 8
	add := func(x *big.Int) {
		if x.Sign() > 0 && x.Cmp(p.N) < 0 {
			all = append(all, x.FillBytes(make([]byte, size)))
		}
	}
	one := big.NewInt(1)
	half := new(big.Int).Rsh(p.N, 1)
	add(half)
	add(new(big.Int).Add(half, one))
	for i := range int64(35) {
		add(big.NewInt(i + 1))
		add(new(big.Int).Sub(p.N, big.NewInt(i+1)))
	}
	for i := 4; i < p.BitSize; i += 28 {
		x := new(big.Int).Lsh(one, uint(i))
		add(x)
		add(x.Sub(x, one))
	}
	for _, b := range []byte{0x10, 0x01, 0xf0, 0x88, 0x77} {
		x := new(big.Int).SetBytes(bytes.Repeat([]byte{b}, size))
		add(x.Rsh(x, uint(8*size-p.BitSize)))
	}
	return all
}
