// SPDX-License-Identifier: Apache-2.0

package p521

import (
	"bytes"
	"crypto/ecdh"
	"crypto/elliptic"
	"math/big"
	"math/rand/v2"
	"testing"
)

// public returns x and y of a scalar times the base point, by crypto/ecdh.
func public(t testing.TB, scalar []byte) []byte {
	t.Helper()
	k, err := ecdh.P521().NewPrivateKey(scalar)
	if err != nil {
		t.Fatal(err)
	}
	return k.PublicKey().Bytes()[1:]
}

func product(t testing.TB, scalar, point []byte) []byte {
	t.Helper()
	k, err := ecdh.P521().NewPrivateKey(scalar)
	if err != nil {
		t.Fatal(err)
	}
	p, err := ecdh.P521().NewPublicKey(append([]byte{4}, point...))
	if err != nil {
		t.Fatal(err)
	}
	out, err := k.ECDH(p)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// edges are scalars at which windows are zero, sums are infinity, or the order
// is near.
func edges() (all [][]byte) {
	n, one := elliptic.P521().Params().N, big.NewInt(1)
	add := func(x *big.Int) { all = append(all, x.FillBytes(make([]byte, Size))) }
	for i := range int64(35) {
		add(big.NewInt(i + 1))
		add(new(big.Int).Sub(n, big.NewInt(i+1)))
	}
	add(new(big.Int).Rsh(n, 1))
	for i := uint(4); i < 521; i += 43 {
		x := new(big.Int).Lsh(one, i)
		add(x)
		add(x.Sub(x, one))
	}
	for _, b := range []byte{0x10, 0x01, 0xf0, 0x88, 0x77} {
		x := bytes.Repeat([]byte{b}, Size)
		x[0] = 0
		all = append(all, x)
	}
	return all
}

func TestMultiply(t *testing.T) {
	if !Available() {
		t.Log("the CPU has no ADX, or the build does not use it: nothing to compare")
		return
	}
	rng := rand.NewChaCha8([32]byte{21})
	random := func() []byte {
		x := make([]byte, Size)
		rng.Read(x)
		x[0] = 0
		return x
	}
	check := func(scalar, point []byte) {
		t.Helper()
		out, base := make([]byte, Size), make([]byte, 2*Size)
		MultiplyBase(base, scalar)
		if want := public(t, scalar); !bytes.Equal(base, want) {
			t.Errorf("%x times the base point is %x, want %x", scalar, base, want)
		}
		Multiply(out, scalar, point)
		if want := product(t, scalar, point); !bytes.Equal(out, want) {
			t.Errorf("%x times %x is %x, want %x", scalar, point, out, want)
		}
	}
	for i, e := range edges() {
		check(e, public(t, random()))
		if i%4 == 0 {
			check(random(), public(t, e))
		}
	}
	for range 20 {
		check(random(), public(t, random()))
	}
}

func FuzzMultiply(f *testing.F) {
	for _, e := range edges()[:4] {
		f.Add(e, e)
	}
	f.Fuzz(func(t *testing.T, scalar, other []byte) {
		if !Available() {
			return
		}
		for _, x := range [][]byte{scalar, other} {
			if _, err := ecdh.P521().NewPrivateKey(x); err != nil {
				return
			}
		}
		point, out := public(t, other), make([]byte, Size)
		Multiply(out, scalar, point)
		if want := product(t, scalar, point); !bytes.Equal(out, want) {
			t.Errorf("%x times %x is %x, want %x", scalar, point, out, want)
		}
	})
}

func BenchmarkMultiply(b *testing.B) {
	if !Available() {
		b.Skip("the CPU has no ADX, or the build does not use it")
	}
	scalar, out := bytes.Repeat([]byte{0, 1}, Size/2), make([]byte, Size)
	point := public(b, scalar)
	for b.Loop() {
		Multiply(out, scalar, point)
	}
}
