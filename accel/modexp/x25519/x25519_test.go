// SPDX-License-Identifier: Apache-2.0

package x25519

import (
	"bytes"
	"crypto/ecdh"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"
	"time"
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

func buffers(n int) [][]byte {
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
	for _, i := range []int{43, 64, 86, 128, 129, 172, 192, 215} {
		ones, power := make([]byte, Size), make([]byte, Size)
		power[i/8] = 1 << (i % 8)
		for j := range i {
			ones[j/8] |= 1 << (j % 8)
		}
		list = append(list, ones, power)
	}
	return list
}

// A way is a function that computes up to a number of products. That a lone one
// at level IFMA goes to the faster kernel is left out: each is tested by itself.
type way struct {
	name     string
	lanes    int
	multiply func(out, scalars, points [][]byte)
}

// each runs a test for every way that the machine has.
func each(t *testing.T, f func(t *testing.T, w way)) {
	all := ways()
	if len(all) == 0 {
		t.Log("the CPU has neither AVX-512 IFMA nor ADX, or the build does not use them: nothing to compute")
	}
	for _, w := range all {
		t.Run(w.name, func(t *testing.T) { f(t, w) })
	}
}

func TestMultiply(t *testing.T) { each(t, testMultiply) }

func testMultiply(t *testing.T, w way) {
	rng := rand.NewChaCha8([32]byte{25})
	var scalars, points [][]byte
	for _, e := range edges() {
		x := make([]byte, Size)
		rng.Read(x)
		scalars, points = append(scalars, x, e, e), append(points, e, x, nil)
	}
	for range 200 {
		b := buffers(2)
		rng.Read(b[0])
		rng.Read(b[1])
		scalars, points = append(scalars, b[0]), append(points, b[1])
	}
	for i := 0; i < len(scalars); {
		n := min(i%w.lanes+1, len(scalars)-i)
		out := buffers(n)
		w.multiply(out, scalars[i:i+n], points[i:i+n])
		for j := range out {
			if want := product(t, scalars[i+j], points[i+j]); !bytes.Equal(out[j], want) {
				t.Errorf("%x times %x, lane %d of %d, is %x, want %x", scalars[i+j], points[i+j], j, n, out[j], want)
			}
		}
		i += n
	}
}

// RFC 7748 section 5.2: the iterated test, a thousand times, in all lanes.
func TestIterated(t *testing.T) { each(t, testIterated) }

func testIterated(t *testing.T, w way) {
	k, u := buffers(w.lanes), buffers(w.lanes)
	for i := range k {
		k[i][0], u[i][0] = 9, 9
	}
	for range 1000 {
		out := buffers(w.lanes)
		w.multiply(out, k, u)
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
		if len(scalar) != Size || len(point) != Size {
			return
		}
		for _, l := range Levels() {
			out := buffers(2)
			Multiply(l, out, [][]byte{scalar, scalar}, [][]byte{point, nil})
			for i, p := range [][]byte{point, nil} {
				if want := product(t, scalar, p); !bytes.Equal(out[i], want) {
					t.Errorf("%s: %x times %x is %x, want %x", l, scalar, p, out[i], want)
				}
			}
		}
	})
}

func BenchmarkMultiply(b *testing.B) {
	for _, w := range ways() {
		for _, n := range slices.Compact([]int{1, min(2, w.lanes), w.lanes}) {
			b.Run(w.name+"/"+strconv.Itoa(n), func(b *testing.B) {
				scalars, points, out := buffers(n), buffers(n), buffers(n)
				for i := range scalars {
					scalars[i][1], points[i][0] = byte(i), 9
				}
				best := time.Duration(math.MaxInt64)
				for b.Loop() {
					start := time.Now()
					w.multiply(out, scalars, points)
					best = min(best, time.Since(start))
				}
				b.ReportMetric(float64(n)/best.Seconds(), "best-ops/s")
			})
		}
	}
}
