// SPDX-License-Identifier: Apache-2.0

package x25519

import (
	"bytes"
	"crypto/ecdh"
	"math/rand/v2"
	"strconv"
	"testing"
)

// product is crypto/ecdh's, and zero for a point of low order.
func product(t testing.TB, scalar, point []byte) []byte {
	t.Helper()
	k, err := ecdh.X25519().NewPrivateKey(scalar)
	if err != nil {
		t.Fatal(err)
	}
	if point == nil {
		return k.PublicKey().Bytes()
	}
	p, err := ecdh.X25519().NewPublicKey(point)
	if err != nil {
		t.Fatal(err)
	}
	if out, err := k.ECDH(p); err == nil {
		return out
	}
	return make([]byte, Size)
}

func room(n int) [][]byte {
	b := make([][]byte, n)
	for i := range b {
		b[i] = make([]byte, Size)
	}
	return b
}

// edges are points, and scalars, at which carries and reductions could go wrong.
func edges() [][]byte {
	little := func(low byte, rest, top byte) []byte {
		b := bytes.Repeat([]byte{rest}, Size)
		b[0], b[Size-1] = low, top
		return b
	}
	list := [][]byte{
		little(0, 0, 0), little(1, 0, 0), little(2, 0, 0), little(9, 0, 0), little(0xff, 0xff, 0xff),
		little(0xec, 0xff, 0x7f), little(0xed, 0xff, 0x7f), little(0xee, 0xff, 0x7f), little(0xff, 0xff, 0x7f),
		little(0xda, 0xff, 0xff), little(0, 0, 0x80), little(0, 0, 0x40),
	}
	// Ones up to every limb's end, and the powers of two there.
	for i := 43; i < 255; i += 43 {
		ones, power := make([]byte, Size), make([]byte, Size)
		power[i/8] = 1 << (i % 8)
		for j := range i {
			ones[j/8] |= 1 << (j % 8)
		}
		list = append(list, ones, power)
	}
	return list
}

func TestMultiply(t *testing.T) {
	if !Available() {
		t.Log("the CPU has no AVX-512 IFMA, or the build does not use it: nothing to compare")
		return
	}
	rng := rand.NewChaCha8([32]byte{25})
	var scalars, points [][]byte
	for _, e := range edges() {
		x := make([]byte, Size)
		rng.Read(x)
		scalars, points = append(scalars, x, e, e), append(points, e, x, nil)
	}
	for range 200 {
		b := room(2)
		rng.Read(b[0])
		rng.Read(b[1])
		scalars, points = append(scalars, b[0]), append(points, b[1])
	}
	for i := 0; i < len(scalars); {
		n := min(i%Lanes+1, len(scalars)-i)
		out := room(n)
		Multiply(out, scalars[i:i+n], points[i:i+n])
		for j := range out {
			if want := product(t, scalars[i+j], points[i+j]); !bytes.Equal(out[j], want) {
				t.Errorf("%x times %x, lane %d of %d, is %x, want %x", scalars[i+j], points[i+j], j, n, out[j], want)
			}
		}
		i += n
	}
}

// RFC 7748 section 5.2: the iterated test, a thousand times, in all lanes.
func TestIterated(t *testing.T) {
	if !Available() {
		t.Log("the CPU has no AVX-512 IFMA, or the build does not use it: nothing to compute")
		return
	}
	k, u := room(Lanes), room(Lanes)
	for i := range k {
		k[i][0], u[i][0] = 9, 9
	}
	for range 1000 {
		out := room(Lanes)
		Multiply(out, k, u)
		u, k = k, out
	}
	for _, b := range k {
		if want := "\x68\x4c\xf5\x9b\xa8\x33\x09\x55\x28\x00\xef\x56\x6f\x2f\x4d\x3c\x1c\x38\x87\xc4\x93\x60\xe3\x87\x5f\x2e\xb9\x4d\x99\x53\x2c\x51"; string(b) != want {
			t.Errorf("after 1000 rounds: %x, want %x", b, want)
		}
	}
}

func FuzzMultiply(f *testing.F) {
	for _, e := range edges() {
		f.Add(e, e)
	}
	f.Fuzz(func(t *testing.T, scalar, point []byte) {
		if !Available() || len(scalar) != Size || len(point) != Size {
			return
		}
		out := room(2)
		Multiply(out, [][]byte{scalar, scalar}, [][]byte{point, nil})
		for i, p := range [][]byte{point, nil} {
			if want := product(t, scalar, p); !bytes.Equal(out[i], want) {
				t.Errorf("%x times %x is %x, want %x", scalar, p, out[i], want)
			}
		}
	})
}

func BenchmarkMultiply(b *testing.B) {
	if !Available() {
		b.Skip("the CPU has no AVX-512 IFMA, or the build does not use it")
	}
	for _, n := range []int{1, 2, Lanes} {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			scalars, points, out := room(n), room(n), room(n)
			for i := range scalars {
				scalars[i][1], points[i][0] = byte(i), 9
			}
			for b.Loop() {
				Multiply(out, scalars, points)
			}
			b.ReportMetric(float64(b.N*n)/b.Elapsed().Seconds(), "ops/s")
		})
	}
}
