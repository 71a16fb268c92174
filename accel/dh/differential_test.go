// SPDX-License-Identifier: Apache-2.0

package dh

import (
	"bytes"
	"crypto/elliptic"
	"math/big"
	"math/rand/v2"
	"slices"
	"testing"
)

// Each kernel against the same arithmetic in math/big, which takes a time that
// depends on its operands and is for tests only.

func TestMODPAgainstBig(t *testing.T) {
	rng := rand.New(rand.NewChaCha8([32]byte{7}))
	bytesOf := func(n int) []byte {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(rng.Uint32())
		}
		return b
	}
	for g, prime := range primes {
		t.Run(g.String(), func(t *testing.T) {
			m := groups[g].best().(*modp)
			p, n := number(t, prime), g.PublicLen()
			one := big.NewInt(1)
			bases := []*big.Int{
				big.NewInt(2), big.NewInt(3), new(big.Int).Sub(p, big.NewInt(2)), new(big.Int).Rsh(p, 1),
				new(big.Int).Lsh(one, 64), new(big.Int).Sub(new(big.Int).Lsh(one, 64), one),
				new(big.Int).Lsh(one, uint(8*n-1)), new(big.Int).Sub(new(big.Int).Lsh(one, uint(8*n-64)), one),
			}
			for range 4 {
				bases = append(bases, new(big.Int).Mod(new(big.Int).SetBytes(bytesOf(n)), p))
			}
			size := (m.bits + 7) / 8
			top := make([]byte, size)
			top[0] = 0x80
			exponents := [][]byte{
				{1}, {2}, {0x10}, {0, 0, 5}, top, bytes.Repeat([]byte{0xff}, size), bytes.Repeat([]byte{0x0f}, size),
				bytesOf(size), bytesOf(size + 1),
			}
			for i, base := range bases {
				y := base.FillBytes(make([]byte, n))
				if err := m.check(y); err != nil {
					t.Fatal(err)
				}
				// Every exponent meets an edge base and a random one, the rest
				// take turns: the largest groups are slow.
				for j, x := range exponents {
					if i != 0 && i != len(bases)-1 && j != i%len(exponents) {
						continue
					}
					want := new(big.Int).Exp(base, new(big.Int).SetBytes(x), p).FillBytes(make([]byte, n))
					k := &PrivateKey{group: g, exponent: x}
					if got, err := shared(g, k, y); err != nil || !bytes.Equal(got, want) {
						t.Errorf("%x ^ %x is %x, %v, want %x", base, x, got, err, want)
					}
				}
			}
		})
	}
}

// point is an affine point of y^2 = x^3 - 3x + b; nil is the point at infinity.
type point struct{ x, y *big.Int }

func addPoints(p *elliptic.CurveParams, a, b *point) *point {
	if a == nil {
		return b
	}
	if b == nil {
		return a
	}
	num, den := new(big.Int).Sub(b.y, a.y), new(big.Int).Sub(b.x, a.x)
	if den.Mod(den, p.P).Sign() == 0 {
		if num.Mod(num, p.P).Sign() != 0 || a.y.Sign() == 0 {
			return nil
		}
		num.Mul(a.x, a.x)
		num.Sub(num.Mul(num, big.NewInt(3)), big.NewInt(3))
		den.Lsh(a.y, 1)
	}
	slope := num.Mul(num, den.ModInverse(den, p.P))
	x := new(big.Int).Mul(slope, slope)
	x.Sub(x.Sub(x, a.x), b.x)
	x.Mod(x, p.P)
	y := new(big.Int).Sub(a.x, x)
	y.Sub(y.Mul(y, slope), a.y)
	return &point{x, y.Mod(y, p.P)}
}

func multiply(p *elliptic.CurveParams, at *point, k *big.Int) *point {
	var sum *point
	for i := k.BitLen() - 1; i >= 0; i-- {
		sum = addPoints(p, sum, sum)
		if k.Bit(i) == 1 {
			sum = addPoints(p, sum, at)
		}
	}
	return sum
}

func TestECPAgainstBig(t *testing.T) {
	for _, c := range []struct {
		group Group
		p     *elliptic.CurveParams
	}{{ECP256, elliptic.P256().Params()}, {ECP384, elliptic.P384().Params()}, {ECP521, elliptic.P521().Params()}} {
		size := c.group.SharedLen()
		base := &point{c.p.Gx, c.p.Gy}
		rng := rand.New(rand.NewChaCha8([32]byte{byte(c.group)}))
		random := new(big.Int)
		for random.BitLen() < c.p.BitSize-8 {
			random.Lsh(random, 64).Or(random, new(big.Int).SetUint64(rng.Uint64()))
		}
		random.Mod(random, c.p.N)
		scalars := []*big.Int{
			big.NewInt(1), big.NewInt(2), random,
			new(big.Int).Sub(c.p.N, big.NewInt(1)), new(big.Int).Rsh(c.p.N, 1),
			new(big.Int).Lsh(big.NewInt(1), uint(c.p.BitSize-1)),
		}
		for i, x := range scalars {
			k := key(t, c.group, x.FillBytes(make([]byte, size)))
			mine := multiply(c.p, base, x)
			if want := slices.Concat(mine.x.FillBytes(make([]byte, size)), mine.y.FillBytes(make([]byte, size))); !bytes.Equal(k.public, want) {
				t.Errorf("%s: %x times the base is %x, want %x", c.group, x, k.public, want)
			}
			peer := key(t, c.group, scalars[(i+2)%len(scalars)].FillBytes(make([]byte, size)))
			at := &point{new(big.Int).SetBytes(peer.public[:size]), new(big.Int).SetBytes(peer.public[size:])}
			want := multiply(c.p, at, x).x.FillBytes(make([]byte, size))
			if got, err := shared(c.group, k, peer.public); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s: %x times %x is %x, %v, want %x", c.group, x, peer.public, got, err, want)
			}
		}
	}
}

// ladder is RFC 7748 section 5's X25519, with branches.
func ladder(scalar, u []byte) []byte {
	p := new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 255), big.NewInt(19))
	little := func(b []byte) *big.Int {
		b = bytes.Clone(b)
		slices.Reverse(b)
		return new(big.Int).SetBytes(b)
	}
	s := bytes.Clone(scalar)
	s[0] &= 248
	s[31] = s[31]&127 | 64
	v := bytes.Clone(u)
	v[31] &= 127
	k, x1 := little(s), little(v)
	mod := func(z *big.Int) *big.Int { return z.Mod(z, p) }
	add := func(a, b *big.Int) *big.Int { return mod(new(big.Int).Add(a, b)) }
	sub := func(a, b *big.Int) *big.Int { return mod(new(big.Int).Sub(a, b)) }
	mul := func(a, b *big.Int) *big.Int { return mod(new(big.Int).Mul(a, b)) }
	x2, z2, x3, z3 := big.NewInt(1), big.NewInt(0), x1, big.NewInt(1)
	for i := 254; i >= 0; i-- {
		if k.Bit(i) == 1 {
			x2, x3, z2, z3 = x3, x2, z3, z2
		}
		a, b, c, d := add(x2, z2), sub(x2, z2), add(x3, z3), sub(x3, z3)
		aa, bb, da, cb := mul(a, a), mul(b, b), mul(d, a), mul(c, b)
		e := sub(aa, bb)
		x3, z3 = add(da, cb), sub(da, cb)
		x3, z3 = mul(x3, x3), mul(x1, mul(z3, z3))
		x2, z2 = mul(aa, bb), mul(e, add(aa, mul(big.NewInt(121665), e)))
		if k.Bit(i) == 1 {
			x2, x3, z2, z3 = x3, x2, z3, z2
		}
	}
	out := mul(x2, new(big.Int).Exp(z2, new(big.Int).Sub(p, big.NewInt(2)), p)).FillBytes(make([]byte, 32))
	slices.Reverse(out)
	return out
}

func TestCurve25519AgainstBig(t *testing.T) {
	rng := rand.NewChaCha8([32]byte{31})
	base := make([]byte, 32)
	base[0] = 9
	for i := range 24 {
		x, u := make([]byte, 32), make([]byte, 32)
		rng.Read(x)
		rng.Read(u)
		switch i {
		case 0:
			clear(x)
		case 1:
			x = bytes.Repeat([]byte{0xff}, 32)
		case 2:
			u = bytes.Repeat([]byte{0xff}, 32)
		case 3:
			clear(u)
			u[0] = 2
		}
		k := key(t, Curve25519, x)
		if want := ladder(x, base); !bytes.Equal(k.public, want) {
			t.Errorf("%x times the base is %x, want %x", x, k.public, want)
		}
		want := ladder(x, u)
		if got, err := shared(Curve25519, k, u); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%x times %x is %x, %v, want %x", x, u, got, err, want)
		}
	}
}
