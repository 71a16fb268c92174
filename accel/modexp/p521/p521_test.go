// SPDX-License-Identifier: Apache-2.0

package p521

import (
	"bytes"
	"crypto/ecdh"
	"crypto/elliptic"
	"math/rand/v2"
	"testing"

	"quicksand/accel/modexp/internal/curvetest"
)

func public(t testing.TB, scalar []byte) []byte {
	t.Helper()
	return curvetest.Public(t, ecdh.P521(), scalar)
}

func product(t testing.TB, scalar, point []byte) []byte {
	t.Helper()
	return curvetest.Product(t, ecdh.P521(), scalar, point)
}

func edges() [][]byte { return curvetest.Edges(elliptic.P521().Params()) }

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
