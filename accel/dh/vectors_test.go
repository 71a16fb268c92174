// SPDX-License-Identifier: Apache-2.0

package dh

import (
	"bytes"
	"errors"
	"math/big"
	"testing"
)

// pi returns floor(2^bits * pi) by Machin's formula.
func pi(bits uint) *big.Int {
	const guard = 64
	arctan := func(x int64) *big.Int { // of 1/x
		term := new(big.Int).Div(new(big.Int).Lsh(big.NewInt(1), bits+guard), big.NewInt(x))
		sum := new(big.Int).Set(term)
		for k := int64(3); term.Sign() != 0; k += 2 {
			term.Div(term, big.NewInt(x*x))
			part := new(big.Int).Div(term, big.NewInt(k))
			if k%4 == 3 {
				part.Neg(part)
			}
			sum.Add(sum, part)
		}
		return sum
	}
	sum := arctan(5)
	sum.Mul(sum, big.NewInt(4))
	sum.Sub(sum, arctan(239))
	sum.Mul(sum, big.NewInt(4))
	return sum.Rsh(sum, guard)
}

// RFC 2409 section 6.2 and RFC 3526 give each prime twice, in hexadecimal and
// as a formula.
func TestPrimesByFormula(t *testing.T) {
	one := big.NewInt(1)
	for _, c := range []struct {
		group Group
		n     uint
		k     int64
	}{
		{MODP1024, 1024, 129093},
		{MODP1536, 1536, 741804},
		{MODP2048, 2048, 124476},
		{MODP3072, 3072, 1690314},
		{MODP4096, 4096, 240904},
		{MODP6144, 6144, 929484},
		{MODP8192, 8192, 4743158},
	} {
		p := pi(c.n - 130)
		p.Add(p, big.NewInt(c.k))
		p.Lsh(p, 64)
		p.Add(p, new(big.Int).Lsh(one, c.n))
		p.Sub(p, new(big.Int).Lsh(one, c.n-64))
		p.Sub(p, one)
		got := number(t, primes[c.group])
		if got.Cmp(p) != 0 {
			t.Errorf("%s: the prime is not the formula's", c.group)
		}
		if got.Bit(1) != 1 || got.Bit(2) != 1 { // p = 7 mod 8
			t.Errorf("%s: 2 makes the whole group, not its half", c.group)
		}
	}
	// Primality itself takes a second for the large ones; the RFCs and the
	// formula vouch for those.
	p := number(t, prime1024)
	if q := new(big.Int).Rsh(p, 1); !p.ProbablyPrime(1) || !q.ProbablyPrime(1) {
		t.Error("modp1024: not a safe prime")
	}
}

// RFC 5903 section 8.
func TestRFC5903(t *testing.T) {
	for _, c := range []struct {
		group                        Group
		i, gix, giy, r, grx, gry, gi string
	}{
		{
			group: ECP256,
			i:     "C88F01F510D9AC3F70A292DAA2316DE544E9AAB8AFE84049C62A9C57862D1433",
			gix:   "DAD0B65394221CF9B051E1FECA5787D098DFE637FC90B9EF945D0C3772581180",
			giy:   "5271A0461CDB8252D61F1C456FA3E59AB1F45B33ACCF5F58389E0577B8990BB3",
			r:     "C6EF9C5D78AE012A011164ACB397CE2088685D8F06BF9BE0B283AB46476BEE53",
			grx:   "D12DFB5289C8D4F81208B70270398C342296970A0BCCB74C736FC7554494BF63",
			gry:   "56FBF3CA366CC23E8157854C13C58D6AAC23F046ADA30F8353E74F33039872AB",
			gi:    "D6840F6B42F6EDAFD13116E0E12565202FEF8E9ECE7DCE03812464D04B9442DE",
		},
		{
			group: ECP384,
			i:     "099F3C7034D4A2C699884D73A375A67F7624EF7C6B3C0F160647B67414DCE655E35B538041E649EE3FAEF896783AB194",
			gix:   "667842D7D180AC2CDE6F74F37551F55755C7645C20EF73E31634FE72B4C55EE6DE3AC808ACB4BDB4C88732AEE95F41AA",
			giy:   "9482ED1FC0EEB9CAFC4984625CCFC23F65032149E0E144ADA024181535A0F38EEB9FCFF3C2C947DAE69B4C634573A81C",
			r:     "41CB0779B4BDB85D47846725FBEC3C9430FAB46CC8DC5060855CC9BDA0AA2942E0308312916B8ED2960E4BD55A7448FC",
			grx:   "E558DBEF53EECDE3D3FCCFC1AEA08A89A987475D12FD950D83CFA41732BC509D0D1AC43A0336DEF96FDA41D0774A3571",
			gry:   "DCFBEC7AACF3196472169E838430367F66EEBE3C6E70C416DD5F0C68759DD1FFF83FA40142209DFF5EAAD96DB9E6386C",
			gi:    "11187331C279962D93D604243FD592CB9D0A926F422E47187521287E7156C5C4D603135569B9E9D09CF5D4A270F59746",
		},
		{
			group: ECP521,
			i:     "0037ADE9319A89F4DABDB3EF411AACCCA5123C61ACAB57B5393DCE47608172A095AA85A30FE1C2952C6771D937BA9777F5957B2639BAB072462F68C27A57382D4A52",
			gix:   "0015417E84DBF28C0AD3C278713349DC7DF153C897A1891BD98BAB4357C9ECBEE1E3BF42E00B8E380AEAE57C2D107564941885942AF5A7F4601723C4195D176CED3E",
			giy:   "017CAE20B6641D2EEB695786D8C946146239D099E18E1D5A514C739D7CB4A10AD8A788015AC405D7799DC75E7B7D5B6CF2261A6A7F1507438BF01BEB6CA3926F9582",
			r:     "0145BA99A847AF43793FDD0E872E7CDFA16BE30FDC780F97BCCC3F078380201E9C677D600B343757A3BDBF2A3163E4C2F869CCA7458AA4A4EFFC311F5CB151685EB9",
			grx:   "00D0B3975AC4B799F5BEA16D5E13E9AF971D5E9B984C9F39728B5E5739735A219B97C356436ADC6E95BB0352F6BE64A6C2912D4EF2D0433CED2B6171640012D9460F",
			gry:   "015C68226383956E3BD066E797B623C27CE0EAC2F551A10C2C724D9852077B87220B6536C5C408A1D2AEBB8E86D678AE49CB57091F4732296579AB44FCD17F0FC56A",
			gi:    "01144C7D79AE6956BC8EDB8E7C787C4521CB086FA64407F97894E5E6B2D79B04D1427E73CA4BAA240A34786859810C06B3C715A3A8CC3151F2BEE417996D19F3DDEA",
		},
	} {
		i, r := key(t, c.group, unhex(t, c.i)), key(t, c.group, unhex(t, c.r))
		if want := unhex(t, c.gix+c.giy); !bytes.Equal(i.public, want) {
			t.Errorf("%s: g^i is %x, want %x", c.group, i.public, want)
		}
		if want := unhex(t, c.grx+c.gry); !bytes.Equal(r.public, want) {
			t.Errorf("%s: g^r is %x, want %x", c.group, r.public, want)
		}
		for _, side := range []struct{ own, peer *PrivateKey }{{i, r}, {r, i}} {
			got, err := shared(c.group, side.own, side.peer.public)
			if want := unhex(t, c.gi); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s: g^ir is %x, %v, want %x", c.group, got, err, want)
			}
		}
	}
}

// RFC 7748 section 6.1.
func TestRFC7748(t *testing.T) {
	a := key(t, Curve25519, unhex(t, "77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a"))
	b := key(t, Curve25519, unhex(t, "5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb"))
	if want := unhex(t, "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a"); !bytes.Equal(a.public, want) {
		t.Errorf("Alice's public value is %x, want %x", a.public, want)
	}
	if want := unhex(t, "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f"); !bytes.Equal(b.public, want) {
		t.Errorf("Bob's public value is %x, want %x", b.public, want)
	}
	want := unhex(t, "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742")
	for _, side := range []struct{ own, peer *PrivateKey }{{a, b}, {b, a}} {
		if got, err := shared(Curve25519, side.own, side.peer.public); err != nil || !bytes.Equal(got, want) {
			t.Errorf("the secret is %x, %v, want %x", got, err, want)
		}
	}
}

func TestACVPSafePrimes(t *testing.T) {
	var file struct {
		Tests []struct {
			TcID       int
			TestPassed bool
			X, Y       string
		}
	}
	readJSON(t, "acvp_safeprimes_keyver.json", &file)
	if len(file.Tests) != 3 {
		t.Fatalf("%d tests in the file, want 3", len(file.Tests))
	}
	for _, c := range file.Tests {
		public := key(t, MODP2048, unhex(t, c.X)).public
		if bytes.Equal(public, unhex(t, c.Y)) != c.TestPassed {
			t.Errorf("test %d: y = g^x is %v, want %v", c.TcID, !c.TestPassed, c.TestPassed)
		}
	}
}

func TestOpenSSL(t *testing.T) {
	var file struct {
		Vectors []struct {
			Group                         Group
			Private, Public, Peer, Shared string
		}
	}
	readJSON(t, "openssl_modp.json", &file)
	seen := map[Group]bool{}
	for _, v := range file.Vectors {
		seen[v.Group] = true
		k := key(t, v.Group, unhex(t, v.Private))
		if !bytes.Equal(k.public, unhex(t, v.Public)) {
			t.Errorf("%s: g^x differs", v.Group)
		}
		got, err := shared(v.Group, k, unhex(t, v.Peer))
		if err != nil || !bytes.Equal(got, unhex(t, v.Shared)) {
			t.Errorf("%s: g^xy differs, %v", v.Group, err)
		}
	}
	for g := range primes {
		if !seen[g] {
			t.Errorf("no vector for %s", g)
		}
	}
}

// wycheproof is the form of both of its files.
type wycheproof struct {
	TestGroups []struct {
		Tests []struct {
			TcID                                     int
			Comment, Public, Private, Shared, Result string
		}
	}
}

func TestWycheproofX25519(t *testing.T) {
	var file wycheproof
	readJSON(t, "wycheproof_x25519.json", &file)
	refused := 0
	for _, c := range file.TestGroups[0].Tests {
		want := unhex(t, c.Shared)
		got, err := shared(Curve25519, key(t, Curve25519, unhex(t, c.Private)), unhex(t, c.Public))
		if bytes.Equal(want, make([]byte, 32)) {
			refused++
			if !errors.Is(err, ErrPublic) {
				t.Errorf("test %d (%s): %x, %v, want ErrPublic", c.TcID, c.Comment, got, err)
			}
		} else if err != nil || !bytes.Equal(got, want) {
			t.Errorf("test %d (%s): %x, %v, want %x", c.TcID, c.Comment, got, err, want)
		}
	}
	if refused != 9 {
		t.Errorf("%d values of low order seen, want 9", refused)
	}
}

func TestWycheproofECP256(t *testing.T) {
	var file wycheproof
	readJSON(t, "wycheproof_ecdh_secp256r1_ecpoint.json", &file)
	refused := 0
	for _, c := range file.TestGroups[0].Tests {
		private := unhex(t, c.Private)
		private = private[len(private)-32:] // ASN.1 puts a zero before some
		// RFC 5903 leaves SEC 1's mark out.
		got, err := shared(ECP256, key(t, ECP256, private), unhex(t, c.Public)[1:])
		if c.Result == "invalid" {
			refused++
			if !errors.Is(err, ErrPublic) {
				t.Errorf("test %d (%s): %x, %v, want ErrPublic", c.TcID, c.Comment, got, err)
			}
		} else if err != nil || !bytes.Equal(got, unhex(t, c.Shared)) {
			t.Errorf("test %d (%s): %x, %v, want %s", c.TcID, c.Comment, got, err, c.Shared)
		}
	}
	if refused != 16 {
		t.Errorf("%d points off the curve seen, want 16", refused)
	}
}
