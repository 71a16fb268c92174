// SPDX-License-Identifier: Apache-2.0

package dh

import (
	"bytes"
	"crypto/ecdh"
	"crypto/elliptic"
	"errors"
	"fmt"
	"io"
	"math/big"
	"sync"
	"testing"
	"testing/iotest"
)

// The suite runs against every level of every group, through the engine.
func TestConformance(t *testing.T) {
	for _, g := range Groups() {
		for _, c := range groups[g].kernels() {
			engine := func(t *testing.T, o Options) *Engine {
				e := newEngine(t, o)
				e.kernels[g] = c.kernel()
				return e
			}
			t.Run(g.String()+"/"+c.level, func(t *testing.T) {
				e := engine(t, Options{Workers: 2})
				t.Run("agreement", func(t *testing.T) { testAgreement(t, e, g) })
				t.Run("together", func(t *testing.T) { testTogether(t, engine(t, Options{Workers: 1}), g) })
				t.Run("refusals", func(t *testing.T) { testRefusals(t, e, g) })
				t.Run("edges", func(t *testing.T) { testEdges(t, e, g) })
				t.Run("wipe", func(t *testing.T) { testWipe(t, e, g) })
				t.Run("random source", func(t *testing.T) { testRandom(t, engine, g) })
			})
		}
	}
}

// testTogether: good and bad requests of all kinds, computed together, each get
// the answer that they get alone.
func testTogether(t *testing.T, e *Engine, g Group) {
	a, b := ask(t, e, Request{Group: g}), ask(t, e, Request{Group: g})
	want := ask(t, e, Request{Group: g, Private: a.Private, Peer: b.Public})
	gone := ask(t, e, Request{Group: g})
	gone.Private.Wipe()
	if err := errors.Join(a.Err, b.Err, want.Err, gone.Err); err != nil {
		t.Fatal(err)
	}
	requests := []Request{
		{Private: a.Private, Peer: b.Public}, {}, {Peer: a.Public[1:]}, {Private: b.Private, Peer: a.Public},
		{Private: gone.Private, Peer: b.Public}, {Peer: make([]byte, g.PublicLen())}, {Peer: a.Public}, {Private: a.Private},
	}
	answers := make([]Result, len(requests))
	var all sync.WaitGroup
	release := hold(t, e)
	defer release()
	for i, r := range requests {
		all.Add(1)
		r.Group, r.Done = g, func(res Result) { answers[i] = res; all.Done() }
		if err := e.Submit(r); err != nil {
			t.Fatal(err)
		}
	}
	release()
	all.Wait()
	for i, err := range []error{nil, nil, ErrPublic, nil, ErrWiped, ErrPublic, nil, nil} {
		if !errors.Is(answers[i].Err, err) {
			t.Errorf("request %d: %v, want %v", i, answers[i].Err, err)
		}
	}
	if !bytes.Equal(answers[0].Shared, want.Shared) || !bytes.Equal(answers[3].Shared, want.Shared) {
		t.Errorf("a secret in company is %x and %x, alone %x", answers[0].Shared, answers[3].Shared, want.Shared)
	}
	if !bytes.Equal(answers[7].Public, a.Public) || answers[1].Shared != nil {
		t.Error("a request in company got another's answer")
	}
	again := ask(t, e, Request{Group: g, Private: a.Private, Peer: answers[6].Public})
	if !bytes.Equal(again.Shared, answers[6].Shared) || again.Shared == nil {
		t.Errorf("a fresh key's secret in company is %x, and %x again", answers[6].Shared, again.Shared)
	}
}

// testAgreement plays Quick Mode's part: the initiator makes a pair, the
// responder makes a pair and the secret at once, the initiator the secret.
func testAgreement(t *testing.T, e *Engine, g Group) {
	i := ask(t, e, Request{Group: g})
	if i.Err != nil {
		t.Fatal(i.Err)
	}
	if i.Shared != nil || len(i.Public) != g.PublicLen() || i.Private.Group() != g {
		t.Errorf("a key pair: public %d bytes, shared %d, group %s", len(i.Public), len(i.Shared), i.Private.Group())
	}
	r := ask(t, e, Request{Group: g, Peer: i.Public})
	if r.Err != nil {
		t.Fatal(r.Err)
	}
	again := ask(t, e, Request{Group: g, Private: i.Private, Peer: r.Public})
	if again.Err != nil {
		t.Fatal(again.Err)
	}
	if again.Private != i.Private || !bytes.Equal(again.Public, i.Public) {
		t.Error("the second answer is of another key pair")
	}
	if len(r.Shared) != g.SharedLen() || !bytes.Equal(r.Shared, again.Shared) {
		t.Errorf("the secrets differ: %x, %x", r.Shared, again.Shared)
	}
	if bytes.Equal(i.Public, r.Public) {
		t.Error("two key pairs have the same public value")
	}
	// The caller wipes what it was given; the key must not feel it.
	clear(again.Public)
	if only := ask(t, e, Request{Group: g, Private: i.Private}); !bytes.Equal(only.Public, i.Public) || only.Shared != nil {
		t.Errorf("a request for nothing but the public value: %x, shared %x", only.Public, only.Shared)
	}
}

func testRefusals(t *testing.T, e *Engine, g Group) {
	i := ask(t, e, Request{Group: g})
	if i.Err != nil {
		t.Fatal(i.Err)
	}
	n := g.PublicLen()
	bad := map[string][]byte{
		"empty":     {},
		"one byte":  {2},
		"too short": i.Public[1:],
		"too long":  append([]byte{0}, i.Public...),
		"zero":      make([]byte, n),
	}
	if prime, ok := primes[g]; ok {
		p := number(t, prime)
		for name, y := range map[string]*big.Int{
			"one": big.NewInt(1),
			"p-1": new(big.Int).Sub(p, big.NewInt(1)),
			"p":   p,
			"p+1": new(big.Int).Add(p, big.NewInt(1)),
			"p+2": new(big.Int).Add(p, big.NewInt(2)),
		} {
			bad[name] = y.FillBytes(make([]byte, n))
		}
		bad["all ones"] = bytes.Repeat([]byte{0xff}, n)
	} else if g != Curve25519 {
		flipped := bytes.Clone(i.Public)
		flipped[n-1] ^= 1
		bad["off the curve"] = flipped
		bad["x at or above the field"] = append(bytes.Repeat([]byte{0xff}, n/2), i.Public[n/2:]...)
		bad["with SEC 1's mark"] = append([]byte{uncompressed}, i.Public...)
		bad["compressed"] = append([]byte{2}, i.Public[:n/2]...)
		bad["all ones"] = bytes.Repeat([]byte{0xff}, n)
	}
	for name, peer := range bad {
		for _, private := range []*PrivateKey{nil, i.Private} {
			res := ask(t, e, Request{Group: g, Private: private, Peer: peer})
			if !errors.Is(res.Err, ErrPublic) || res.Private != nil || res.Public != nil || res.Shared != nil {
				t.Errorf("%s: error %v, and %v %x %x; want ErrPublic alone", name, res.Err, res.Private, res.Public, res.Shared)
			}
		}
	}
	if res := ask(t, e, Request{Group: g, Private: i.Private, Peer: i.Public}); res.Err != nil {
		t.Errorf("a refusal spoilt the private key: %v", res.Err)
	}
}

// testEdges: the smallest and the largest values that are to be accepted, and
// secrets with leading zeros.
func testEdges(t *testing.T, e *Engine, g Group) {
	prime, ok := primes[g]
	if !ok {
		return // the curves' edges are Wycheproof's
	}
	p, n := number(t, prime), g.PublicLen()
	k := key(t, g, []byte{3})
	for _, c := range []struct{ y, want *big.Int }{
		{big.NewInt(2), big.NewInt(8)},
		{new(big.Int).Sub(p, big.NewInt(2)), new(big.Int).Sub(p, big.NewInt(8))},
		{new(big.Int).Rsh(p, 1), nil},
	} {
		res := ask(t, e, Request{Group: g, Private: k, Peer: c.y.FillBytes(make([]byte, n))})
		if c.want == nil {
			c.want = new(big.Int).Exp(c.y, big.NewInt(3), p)
		}
		if want := c.want.FillBytes(make([]byte, n)); res.Err != nil || !bytes.Equal(res.Shared, want) {
			t.Errorf("%x cubed is %x, %v, want %x", c.y, res.Shared, res.Err, want)
		}
	}
}

func testWipe(t *testing.T, e *Engine, g Group) {
	i := ask(t, e, Request{Group: g})
	if i.Err != nil {
		t.Fatal(i.Err)
	}
	want := fmt.Sprintf("[private key of %s]", g)
	for _, verb := range []string{"%v", "%+v", "%#v", "%x", "%s", "%d"} {
		if got := fmt.Sprintf(verb, i.Private); got != want {
			t.Errorf("%s prints %q", verb, got)
		}
	}
	held := i.Private.exponent
	i.Private.Wipe()
	i.Private.Wipe()
	if held != nil && !bytes.Equal(held, make([]byte, len(held))) {
		t.Error("the exponent is still there after Wipe")
	}
	if i.Private.scalar != nil || i.Private.exponent != nil {
		t.Error("the key still holds its secret after Wipe")
	}
	res := ask(t, e, Request{Group: g, Private: i.Private, Peer: i.Public})
	if !errors.Is(res.Err, ErrWiped) || res.Shared != nil {
		t.Errorf("a wiped key answers %v and %d bytes, want ErrWiped", res.Err, len(res.Shared))
	}
	(*PrivateKey)(nil).Wipe()
}

// testRandom: keys come from the reader given and from nothing else, and have
// the length that the group is to have.
func testRandom(t *testing.T, engine func(*testing.T, Options) *Engine, g Group) {
	one := engine(t, Options{Workers: 1, Rand: seeded(1)})
	same := engine(t, Options{Workers: 1, Rand: seeded(1)})
	other := engine(t, Options{Workers: 1, Rand: iotest.OneByteReader(seeded(2))})
	a, b, c := ask(t, one, Request{Group: g}), ask(t, same, Request{Group: g}), ask(t, other, Request{Group: g})
	if err := errors.Join(a.Err, b.Err, c.Err); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(a.Public, b.Public) || bytes.Equal(a.Public, c.Public) {
		t.Error("public values do not follow from the random source")
	}
	broken := engine(t, Options{Workers: 1, Rand: iotest.ErrReader(io.ErrClosedPipe)})
	if res := ask(t, broken, Request{Group: g}); !errors.Is(res.Err, io.ErrClosedPipe) || res.Private != nil {
		t.Errorf("a broken random source: %v, want its error", res.Err)
	}
	short := engine(t, Options{Workers: 1, Rand: bytes.NewReader([]byte{1, 2, 3})})
	if res := ask(t, short, Request{Group: g}); !errors.Is(res.Err, io.ErrUnexpectedEOF) || res.Private != nil {
		t.Errorf("a random source that ends: %v, want io.ErrUnexpectedEOF", res.Err)
	}
}

func TestExponentLength(t *testing.T) {
	for g := range primes {
		m := groups[g].best().(*modp)
		for _, fill := range []byte{0x00, 0xff, 0x5a} {
			x, err := m.draw(readerFunc(func(p []byte) (int, error) {
				for i := range p {
					p[i] = fill
				}
				return len(p), nil
			}))
			if n := new(big.Int).SetBytes(x).BitLen(); err != nil || n != m.bits {
				t.Errorf("%s: an exponent of %#x bytes has %d bits, %v, want %d", g, fill, n, err, m.bits)
			}
		}
		if m.bits < 200 || g >= MODP2048 && m.bits < 225 {
			t.Errorf("%s: exponents of %d bits are too short", g, m.bits)
		}
	}
}

// A candidate at or above the curve's order, or 0, is passed over.
func TestScalarRejection(t *testing.T) {
	for _, c := range []struct {
		group Group
		curve ecdh.Curve
		size  int
	}{{ECP256, ecdh.P256(), 32}, {ECP384, ecdh.P384(), 48}, {ECP521, ecdh.P521(), 66}} {
		draws := 0
		e := newEngine(t, Options{Workers: 1, Rand: readerFunc(func(p []byte) (int, error) {
			for i := range p {
				p[i] = []byte{0xff, 0x00, 0x01}[min(draws, 2)]
			}
			draws++
			return len(p), nil
		})})
		res := ask(t, e, Request{Group: c.group})
		if res.Err != nil || draws != 3 {
			t.Errorf("%s: %v after %d draws, want a key after 3", c.group, res.Err, draws)
			continue
		}
		want, err := c.curve.NewPrivateKey(bytes.Repeat([]byte{1}, c.size))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(res.Public, want.PublicKey().Bytes()[1:]) {
			t.Errorf("%s: the key is not the third candidate", c.group)
		}
		stuck := newEngine(t, Options{Workers: 1, Rand: readerFunc(func(p []byte) (int, error) { clear(p); return len(p), nil })})
		if res := ask(t, stuck, Request{Group: c.group}); res.Err == nil {
			t.Errorf("%s: a source of zeros made a key", c.group)
		}
	}
}

// The same of our own kernels' check of the order.
func TestScalar(t *testing.T) {
	for _, params := range []*elliptic.CurveParams{elliptic.P256().Params(), elliptic.P521().Params()} {
		n, order := params.N, params.N.Bytes()
		most := new(big.Int).Lsh(big.NewInt(1), uint(8*len(order)))
		for _, c := range []struct {
			x    *big.Int
			want bool
		}{
			{new(big.Int), false}, {big.NewInt(1), true}, {big.NewInt(256), true},
			{new(big.Int).Sub(n, big.NewInt(1)), true}, {n, false}, {new(big.Int).Add(n, big.NewInt(1)), false},
			{new(big.Int).Sub(n, big.NewInt(1<<40)), true}, {new(big.Int).Add(n, big.NewInt(1<<40)), false},
			{new(big.Int).Sub(most, big.NewInt(1)), false},
		} {
			if got := isScalar(c.x.FillBytes(make([]byte, len(order))), order); got != c.want {
				t.Errorf("%x is a scalar of %s: %v, want %v", c.x, params.Name, got, c.want)
			}
		}
	}
}

// Whatever a peer sends makes a secret of the right length or ErrPublic.
func FuzzPeer(f *testing.F) {
	keys := map[Group]*PrivateKey{}
	for _, g := range []Group{MODP1024, ECP256, ECP384, ECP521, Curve25519} {
		x := bytes.Repeat([]byte{1}, g.SharedLen())
		if g == MODP1024 {
			x = x[:25]
		}
		keys[g] = key(f, g, x)
		f.Add(uint16(g), keys[g].public)
		f.Add(uint16(g), make([]byte, g.PublicLen()))
		f.Add(uint16(g), bytes.Repeat([]byte{0xff}, g.PublicLen()))
	}
	f.Fuzz(func(t *testing.T, number uint16, peer []byte) {
		g := Group(number)
		k, ok := keys[g]
		if !ok || peer == nil {
			return
		}
		secret, err := shared(g, k, peer)
		if err != nil && !errors.Is(err, ErrPublic) || err == nil && len(secret) != g.SharedLen() {
			t.Errorf("%s: %x answers %d bytes, %v", g, peer, len(secret), err)
		}
	})
}
