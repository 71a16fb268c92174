// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"math/big"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// An element of P-256's field has five limbs of 52 bits, in Montgomery's form
// with R = 2^260. p+1 is 2^96 + 2^192 - 2^224 + 2^256: limb 0 of a sum is again
// its own digit, and the multiple of p+1 has three limbs.
//
// 2^260 is nearly 16p. A product of factors below k*p and l*p is below
// (k*l/16+1)p, so sums and differences need to be carried but seldom reduced.
const (
	pe     = 5
	peSize = pe * zmm
)

var p256Prime, _ = new(big.Int).SetString("ffffffff00000001000000000000000000000000ffffffffffffffffffffffff", 16)

// prime emits arithmetic on elements in memory.
type prime struct {
	base          GPPhysical
	acc, a, b     []VecPhysical
	temp          VecPhysical
	ones, mask    VecPhysical
	c44, c36, c48 VecPhysical
	bias          map[int64]Mem
}

func newPrime(base GPPhysical, bias map[int64]Mem) *prime {
	p := &prime{
		base: base, acc: z[0:10], a: z[10:15], b: z[15:20], temp: z[25],
		ones: z[26], mask: z[27], c44: z[28], c36: z[29], c48: z[30], bias: bias,
	}
	VPTERNLOGQ(Imm(0xff), p.ones, p.ones, p.ones)
	VPSRLQ(Imm(64-limbBits), p.ones, p.mask)
	broadcast(1<<44, p.c44)
	broadcast(1<<36, p.c36)
	broadcast(1<<48-1<<16, p.c48)
	return p
}

func (p *prime) at(element, limb int) Mem {
	return Mem{Base: p.base, Disp: element*peSize + limb*zmm}
}

func (p *prime) load(element int, into []VecPhysical) {
	for i := range pe {
		VMOVDQU64(p.at(element, i), into[i])
	}
}

func (p *prime) store(from []VecPhysical, element int) {
	for i := range pe {
		VMOVDQU64(from[i], p.at(element, i))
	}
}

func (p *prime) mul(out, a, b int) {
	p.load(a, p.a)
	p.load(b, p.b)
	p.mulLoaded()
	p.store(p.acc[pe:], out)
}

func (p *prime) sqr(out, a int) {
	p.load(a, p.a)
	p.sqrLoaded()
	p.store(p.acc[pe:], out)
}

// mulLoaded leaves a*b/R in the upper half of acc.
func (p *prime) mulLoaded() {
	for _, r := range p.acc {
		VPXORQ(r, r, r)
	}
	for j := range pe {
		for i := range pe {
			VPMADD52LUQ(p.a[i], p.b[j], p.acc[i+j])
		}
		for i := range pe {
			VPMADD52HUQ(p.a[i], p.b[j], p.acc[i+j+1])
		}
	}
	p.reduce()
}

func (p *prime) sqrLoaded() {
	for _, r := range p.acc {
		VPXORQ(r, r, r)
	}
	for j := range pe {
		for i := range j {
			VPMADD52LUQ(p.a[i], p.a[j], p.acc[i+j])
			VPMADD52HUQ(p.a[i], p.a[j], p.acc[i+j+1])
		}
	}
	for i := range pe {
		if i > 0 {
			VPADDQ(p.acc[2*i], p.acc[2*i], p.acc[2*i])
		}
		VPADDQ(p.acc[2*i+1], p.acc[2*i+1], p.acc[2*i+1])
		VPMADD52LUQ(p.a[i], p.a[i], p.acc[2*i])
		VPMADD52HUQ(p.a[i], p.a[i], p.acc[2*i+1])
	}
	p.reduce()
}

func (p *prime) reduce() {
	for i := range pe {
		q := p.acc[i]
		VPMADD52LUQ(p.c44, q, p.acc[i+1])
		VPSRLQ(Imm(limbBits), q, p.temp)
		VPADDQ(p.temp, p.acc[i+1], p.acc[i+1])
		VPMADD52HUQ(p.c44, q, p.acc[i+2])
		VPMADD52LUQ(p.c36, q, p.acc[i+3])
		VPMADD52HUQ(p.c36, q, p.acc[i+4])
		VPMADD52LUQ(p.c48, q, p.acc[i+4])
		VPMADD52HUQ(p.c48, q, p.acc[i+5])
	}
	p.carry(p.acc[pe:])
}

// carry brings limbs below 2^52; they may be negative, their sum may not.
func (p *prime) carry(r []VecPhysical) {
	for i := range pe - 1 {
		VPSRAQ(Imm(limbBits), r[i], p.temp)
		VPANDQ(p.mask, r[i], r[i])
		VPADDQ(p.temp, r[i+1], r[i+1])
	}
}

// part is a summand: an element times times, a power of two, or minus one.
type part struct {
	element, times int
}

// linear sets out to a sum that is at least 0 with bias*p added.
func (p *prime) linear(out int, bias int64, parts ...part) {
	r := p.acc[:pe]
	p.combine(r, bias, parts)
	p.carry(r)
	p.store(r, out)
}

// reduced is linear, and leaves less than 2.01p of a sum below 15p: it takes
// away one multiple of p less than the top limb shows, which the limbs below
// cannot make wrong.
func (p *prime) reduced(out int, bias int64, parts ...part) {
	r := p.acc[:pe]
	p.combine(r, bias+1, parts)
	h, t := p.acc[pe], p.acc[pe+1]
	VPSRAQ(Imm(48), r[4], h)
	VPADDQ(p.ones, h, h)
	VPADDQ(h, r[0], r[0])
	for _, s := range []struct {
		limb  int
		shift uint64
		add   bool
	}{{1, 44, false}, {3, 36, false}, {4, 48, false}, {4, 16, true}} {
		VPSLLQ(Imm(s.shift), h, t)
		if s.add {
			VPADDQ(t, r[s.limb], r[s.limb])
		} else {
			VPSUBQ(t, r[s.limb], r[s.limb])
		}
	}
	p.carry(r)
	p.store(r, out)
}

func (p *prime) combine(r []VecPhysical, bias int64, parts []part) {
	for i := range pe {
		t := p.acc[pe+i]
		for n, s := range parts {
			times := s.times
			if times < 0 {
				times = -times
			}
			shift := uint64(0)
			for 1<<shift < times {
				shift++
			}
			into := t
			if n == 0 {
				into = r[i]
			}
			VMOVDQU64(p.at(s.element, i), into)
			if shift > 0 {
				VPSLLQ(Imm(shift), into, into)
			}
			switch {
			case n == 0:
			case s.times > 0:
				VPADDQ(t, r[i], r[i])
			default:
				VPSUBQ(t, r[i], r[i])
			}
		}
		if bias > 0 {
			VPADDQ_BCST(p.bias[bias].Offset(8*i), r[i], r[i])
		}
	}
}

// multiples writes limbs of k*p into read-only memory.
func multiples(ks ...int64) map[int64]Mem {
	all := map[int64]Mem{}
	for _, k := range ks {
		m := GLOBL(fmt.Sprintf("p256x%d", k), RODATA|NOPTR)
		x := new(big.Int).Mul(p256Prime, big.NewInt(k))
		for i := range pe {
			limb := new(big.Int).Rsh(x, uint(limbBits*i))
			limb.And(limb, big.NewInt(1<<limbBits-1))
			DATA(8*i, U64(limb.Uint64()))
		}
		all[k] = m
	}
	return all
}

// Elements of the points' memory: the sum, the summand, and room.
const (
	peX, peY, peZ    = 0, 1, 2
	peX2, peY2, peZ2 = 3, 4, 5
	peRoom           = 6
)

func p256() {
	bias := multiples(2, 3, 6, 11)
	p256Double(bias)
	p256Add(bias, "add", false)
	p256Add(bias, "addAffine", true)
	p256MulSqr(bias)
	chooseEntry("choose", 3*pe)
	chooseAffine()
}

// p256Double is dbl-2001-b of the Explicit-Formulas Database, with 2*Y*Z for the
// new Z. Beside each line is the bound of its result, in p.
func p256Double(bias map[int64]Mem) {
	const delta, gamma, beta, t1, t2, alpha = peRoom, peRoom + 1, peRoom + 2, peRoom + 3, peRoom + 4, peRoom + 5
	TEXT("double", NOSPLIT, "func(work *uint64, times int)")
	Doc("double doubles the first point in work, in Jacobian coordinates, a number of",
		"times. x and y are below 2.01p, z below 2.9p, before and after.")
	Pragma("noescape")
	Load(Param("work"), RDI)
	Load(Param("times"), RSI)
	p := newPrime(RDI, bias)
	Label("again")
	p.sqr(delta, peZ)                                  // 1.5
	p.sqr(gamma, peY)                                  // 1.3
	p.linear(t1, 2, part{peX, 1}, part{delta, -1})     // 4.1
	p.linear(t2, 0, part{peX, 1}, part{delta, 1})      // 3.6
	p.mul(beta, peX, gamma)                            // 1.2
	p.mul(alpha, t1, t2)                               // 2
	p.mul(peZ, peY, peZ)                               // 1.4
	p.linear(alpha, 0, part{alpha, 1}, part{alpha, 2}) // 6
	p.sqr(gamma, gamma)                                // 1.2
	p.sqr(t1, alpha)                                   // 3.3
	p.linear(peZ, 0, part{peZ, 2})                     // 2.8
	p.reduced(peX, 10, part{t1, 1}, part{beta, -8})    // 2.01, of 13.3
	p.linear(t2, 3, part{beta, 4}, part{peX, -1})      // 7.8
	p.mul(t1, alpha, t2)                               // 4
	p.reduced(peY, 10, part{t1, 1}, part{gamma, -8})   // 2.01, of 14
	DECQ(RSI)
	JNZ(LabelRef("again"))
	VZEROUPPER()
	RET()
}

// p256Add is the textbook's addition of Jacobian points. The points differ, and
// none is the other's negative; infinity is what the masks are for.
func p256Add(bias map[int64]Mem, name string, affine bool) {
	const zz1, zz2, u1, u2, s1, s2, h, r, hh, v = peRoom, peRoom + 1, peRoom + 2, peRoom + 3, peRoom + 4, peRoom + 5,
		peRoom + 6, peRoom + 7, peRoom + 8, peRoom + 9
	TEXT(name, NOSPLIT, "func(work, digits, infinity *uint64)")
	doc := []string{
		name + " adds the second point in work to the first. Where a lane's digit is 0, the",
		"second is infinity; where its word of infinity is all ones, the first is, and it",
		"becomes 0 where the sum is not. Bounds are those of double.",
	}
	if affine {
		doc = append(doc, "The second point's z is 1, and its memory holds that.")
	}
	Doc(doc...)
	Pragma("noescape")
	Load(Param("work"), RDI)
	Load(Param("digits"), RSI)
	Load(Param("infinity"), RDX)
	p := newPrime(RDI, bias)
	VMOVDQU64(Mem{Base: RSI}, z[20])
	VPTESTNMQ(z[20], z[20], K1) // the second is infinity
	VMOVDQU64(Mem{Base: RDX}, z[21])
	VPTESTMQ(z[21], z[21], K2) // the first is
	VMOVDQA64_Z(z[21], K1, z[21])
	VMOVDQU64(z[21], Mem{Base: RDX})
	x1, y1 := u1, s1
	p.sqr(zz1, peZ) // 1.5
	if affine {
		x1, y1 = peX, peY // 2.01
	} else {
		p.sqr(zz2, peZ2)
		p.mul(u1, peX, zz2) // 1.2
		p.mul(s1, peY, peZ2)
	}
	p.mul(u2, peX2, zz1) // 1.2
	p.mul(s2, peY2, peZ)
	if !affine {
		p.mul(s1, s1, zz2)
	}
	p.mul(s2, s2, zz1)
	if !affine {
		p.mul(zz2, peZ, peZ2)
	}
	p.linear(h, 3, part{u2, 1}, part{x1, -1}) // 4.3
	p.linear(r, 3, part{s2, 1}, part{y1, -1}) // 4.3
	p.sqr(hh, h)                              // 2.2
	p.sqr(u2, r)                              // 2.2
	p.mul(v, x1, hh)                          // 1.3
	p.mul(hh, hh, h)                          // 1.6
	if affine {
		p.mul(zz2, peZ, h) // 1.7
	} else {
		p.mul(zz2, zz2, h) // 1.4
	}
	p.mul(s1, y1, hh)                                       // 1.3
	p.reduced(h, 5, part{u2, 1}, part{hh, -1}, part{v, -2}) // 2.01, of 8
	p.linear(v, 3, part{v, 1}, part{h, -1})                 // 4.3
	p.mul(v, r, v)                                          // 2.2
	p.reduced(v, 2, part{v, 1}, part{s1, -1})               // 2.01
	for i, sum := range []int{h, v, zz2} {
		p.load(sum, p.a)
		for limb := range pe {
			VMOVDQU64(p.at(peX2+i, limb), K2, p.a[limb])
			VMOVDQU64(p.at(peX+i, limb), K1, p.a[limb])
		}
		p.store(p.a, peX+i)
	}
	VZEROUPPER()
	RET()
}

func p256MulSqr(bias map[int64]Mem) {
	TEXT("mulSqr", NOSPLIT, "func(out, a, b *uint64, squarings int)")
	Doc("mulSqr sets the element out to a*b/R, then squares it a number of times.")
	Pragma("noescape")
	Load(Param("out"), RDI)
	Load(Param("a"), RSI)
	Load(Param("b"), RDX)
	Load(Param("squarings"), R8)
	p := newPrime(RDI, bias)
	for i := range pe {
		VMOVDQU64(Mem{Base: RSI, Disp: i * zmm}, p.a[i])
		VMOVDQU64(Mem{Base: RDX, Disp: i * zmm}, p.b[i])
	}
	p.mulLoaded()
	TESTQ(R8, R8)
	JZ(LabelRef("store"))
	Label("square")
	for i := range pe {
		VMOVDQA64(p.acc[pe+i], p.a[i])
	}
	p.sqrLoaded()
	DECQ(R8)
	JNZ(LabelRef("square"))
	Label("store")
	p.store(p.acc[pe:], 0)
	VZEROUPPER()
	RET()
}

// chooseEntry is choose for entries that fit in registers.
func chooseEntry(name string, limbs int) {
	TEXT(name, NOSPLIT, "func(out, table, digits *uint64)")
	Doc(fmt.Sprintf("%s sets out, lane by lane, to entry digits[lane] of the 16 in table, each %d", name, limbs),
		"limbs of eight lanes. Every entry is read.")
	Pragma("noescape")
	Load(Param("out"), RDI)
	Load(Param("table"), RSI)
	Load(Param("digits"), RDX)
	VMOVDQU64(Mem{Base: RDX}, z[30])
	broadcast(1, z[29])
	clearColumns(0, limbs)
	VPXORQ(z[31], z[31], z[31])
	MOVQ(U64(16), RCX)
	Label("entry")
	VPCMPEQQ(z[30], z[31], K1)
	for i := range limbs {
		VMOVDQU64(Mem{Base: RSI, Disp: i * zmm}, K1, z[i])
	}
	VPADDQ(z[29], z[31], z[31])
	ADDQ(I32(int32(limbs*zmm)), RSI)
	DECQ(RCX)
	JNZ(LabelRef("entry"))
	for i := range limbs {
		VMOVDQU64(z[i], Mem{Base: RDI, Disp: i * zmm})
	}
	VZEROUPPER()
	RET()
}

// chooseAffine is chooseShared for 16 affine points.
func chooseAffine() {
	const limbs = 2 * pe
	TEXT("chooseAffine", NOSPLIT, "func(out, table, digits *uint64)")
	Doc("chooseAffine sets out, lane by lane, to the digits[lane]-th of 16 points of ten",
		"limbs: table holds limb 0 of each, then limb 1 of each, and so on. Every point",
		"is read.")
	Pragma("noescape")
	Load(Param("out"), RDI)
	Load(Param("table"), RSI)
	Load(Param("digits"), RDX)
	VMOVDQU64(Mem{Base: RDX}, z[31])
	for i := range limbs {
		VMOVDQU64(Mem{Base: RSI, Disp: 2 * i * zmm}, z[20])
		VMOVDQA64(z[31], z[i])
		VPERMI2Q(Mem{Base: RSI, Disp: (2*i + 1) * zmm}, z[20], z[i])
		VMOVDQU64(z[i], Mem{Base: RDI, Disp: i * zmm})
	}
	VZEROUPPER()
	RET()
}
