// SPDX-License-Identifier: Apache-2.0

package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// field25519 emits arithmetic modulo 2^255-19 on numbers of four 64-bit words.
// Products are below 2^255 + 2^24, and not reduced further. Sums and differences of
// two of them are below 2^256, and may be factors but not terms.
type field25519 struct{ *fourWords }

func newField25519(work GPPhysical) *field25519 { return &field25519{newFourWords(work)} }

// mulPair sets two elements to the products of two pairs, row by row in turn:
// neither waits for the other, and each row of one gives the other's time to
// finish. The lower words lie in the outcome's memory until the end, which is not
// to be a factor's.
func (f *field25519) mulPair(out, a, b [2]func(int) Mem) {
	// Five words of each are in use at a time.
	sums := [2][]GPPhysical{{R8, R9, R10, R11, R12}, {R13, R14, R15, RSI, RBP}}
	for i := range fw {
		for k, r := range sums {
			f.row(r, i == 0, a[k](i), b[k])
			MOVQ(r[0], out[k](i))
			sums[k] = append(r[1:5:5], r[0])
		}
	}
	for k, r := range sums {
		MOVQ(U32(38), RDX)
		XORL(f.zero.As32(), f.zero.As32())
		high := []GPPhysical{f.hi, r[4]}
		for i := range fw {
			MULXQ(r[i], r[i], high[i%2])
			ADCXQ(out[k](i), r[i])
			if i > 0 {
				ADOXQ(high[1-i%2], r[i])
			}
		}
		ADCXQ(f.zero, high[1])
		ADOXQ(f.zero, high[1])
		fold(r[:fw], high[1])
		for i := range fw {
			MOVQ(r[i], out[k](i))
		}
	}
}

func (f *field25519) mul(a, b func(int) Mem) {
	f.product(a, b)
	f.reduce()
}

func (f *field25519) sqr(a func(int) Mem) {
	f.square(func(i int) Op { return a(i) })
	f.reduce()
}

// reduce adds 38 times the upper half of a product to the lower: 2^256 is 38.
func (f *field25519) reduce() {
	r := f.r
	MOVQ(U32(38), RDX)
	XORL(f.lo.As32(), f.lo.As32()) // both carries
	for i := range fw {
		MULXQ(r[fw+i], f.lo, f.hi)
		ADCXQ(f.lo, r[i])
		if i < fw-1 {
			ADOXQ(f.hi, r[i+1])
		}
	}
	MOVQ(U32(0), f.lo) // leaves the flags alone
	ADOXQ(f.lo, f.hi)
	ADCXQ(f.lo, f.hi)
	fold(f.r[:fw], f.hi)
}

// fold adds 19 times what is above 255 bits, of which high is below 2^18.
func fold(r []GPPhysical, high GPPhysical) {
	ADDQ(r[3], r[3])
	ADCQ(high, high)
	IMUL3Q(U8(19), high, high)
	SHRQ(Imm(1), r[3])
	ADDQ(high, r[0])
	for i := 1; i < fw; i++ {
		ADCQ(Imm(0), r[i])
	}
}

// combine sets r to a+b or a-b, and lo to 38 where that carries or borrows.
func (f *field25519) combine(first, next func(Op, Op), a, b func(int) Mem) {
	for i := range fw {
		MOVQ(a(i), f.r[i])
	}
	first(b(0), f.r[0])
	for i := 1; i < fw; i++ {
		next(b(i), f.r[i])
	}
	SBBQ(f.lo, f.lo)
	ANDL(Imm(38), f.lo.As32())
}

// add sets r to a+b. What is left where it carries is below 2^25, so that 38 more
// do not carry.
func (f *field25519) add(a, b func(int) Mem) {
	f.combine(ADDQ, ADCQ, a, b)
	ADDQ(f.lo, f.r[0])
}

// sub sets r to a-b. A borrow is 2^256 too much, and 38 less; what is left then is
// not below 2^254, so that it does not borrow again.
func (f *field25519) sub(a, b func(int) Mem) {
	f.combine(SUBQ, SBBQ, a, b)
	SUBQ(f.lo, f.r[0])
	for i := 1; i < fw; i++ {
		SBBQ(Imm(0), f.r[i])
	}
}

// mulSmallAdd sets r to r*k + a, for a k below 2^20.
func (f *field25519) mulSmallAdd(k uint32, a func(int) Mem) {
	r := f.r
	MOVQ(U32(k), RDX)
	MULXQ(r[0], r[0], f.lo)
	MULXQ(r[1], r[1], f.hi)
	ADDQ(f.lo, r[1])
	MULXQ(r[2], r[2], f.lo)
	ADCQ(f.hi, r[2])
	MULXQ(r[3], r[3], f.hi)
	ADCQ(f.lo, r[3])
	ADCQ(Imm(0), f.hi)
	ADDQ(a(0), r[0])
	for i := 1; i < fw; i++ {
		ADCQ(a(i), r[i])
	}
	ADCQ(Imm(0), f.hi)
	fold(r[:fw], f.hi)
}

func x25519Words() {
	ladderWords()
	mulSqrWords()
}

// ladderWords never swaps: it chooses which of its two points is doubled.
func ladderWords() {
	const x2, z2, x3, z3, x1, swaps, a, b, c, d, da, cb, p, q = 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13
	TEXT("ladderWords", NOSPLIT, "func(work *uint64)")
	Doc("ladderWords runs RFC 7748's steps from bit 254 down. work holds fourteen elements",
		"of four words: x2, z2, x3, z3 and x1 are set, and the sixth, whose bit t is bit t",
		"of the scalar xor bit t+1; the rest is room.")
	Pragma("noescape")
	work := RDI
	Load(Param("work"), work)
	bit := AllocLocal(8)
	f := newField25519(work)
	e := f.element
	MOVQ(U32(254), bit)

	Label("bit")
	f.add(e(x2), e(z2))
	f.store(e(a))
	f.sub(e(x2), e(z2))
	f.store(e(b))
	f.add(e(x3), e(z3))
	f.store(e(c))
	f.sub(e(x3), e(z3))
	f.store(e(d))
	f.mulPair([2]func(int) Mem{e(da), e(cb)}, [2]func(int) Mem{e(d), e(c)}, [2]func(int) Mem{e(a), e(b)})

	MOVQ(bit, f.hi)
	MOVQ(f.hi, f.lo)
	SHRQ(Imm(6), f.lo)
	MOVQ(Mem{Base: work, Disp: swaps * fwSize, Index: f.lo, Scale: 8}, f.lo)
	BTQ(f.hi, f.lo)
	for i := range fw {
		MOVQ(f.at(a, i), f.r[i])
		CMOVQCS(f.at(c, i), f.r[i])
		MOVQ(f.at(b, i), f.r[4+i])
		CMOVQCS(f.at(d, i), f.r[4+i])
	}
	f.store(e(p))
	for i := range fw {
		MOVQ(f.r[4+i], f.at(q, i))
	}
	f.sqr(e(p))
	f.store(e(a))
	f.sqr(e(q))
	f.store(e(b))

	f.add(e(da), e(cb))
	f.store(e(c))
	f.sub(e(da), e(cb))
	f.store(e(d))
	f.sqr(e(c))
	f.store(e(x3))
	f.sqr(e(d))
	f.store(e(p))

	f.sub(e(a), e(b))
	f.store(e(c))
	f.mulSmallAdd(121665, e(a)) // RFC 7748's a24
	f.store(e(d))
	f.mulPair([2]func(int) Mem{e(z3), e(z2)}, [2]func(int) Mem{e(p), e(c)}, [2]func(int) Mem{e(x1), e(d)})
	f.mul(e(a), e(b))
	f.store(e(x2))
	DECQ(bit)
	JNS(LabelRef("bit"))
	RET()
}

func mulSqrWords() {
	TEXT("mulSqrWords", NOSPLIT, "func(out, a, b *uint64, squarings int)")
	Doc("mulSqrWords sets the element out to a*b, then squares it a number of times.")
	Pragma("noescape")
	a, b, out := RSI, RBP, RDI
	f := newField25519(out)
	n := AllocLocal(8)
	Load(Param("squarings"), f.lo)
	MOVQ(f.lo, n)
	Load(Param("a"), a)
	Load(Param("b"), b)
	f.mul(pointed(a), pointed(b))
	// From here on the number stays in registers: each squaring waits for the one
	// before, and would wait for memory too.
	held := []GPPhysical{RSI, RBP, RBX, RDI}
	JMP(LabelRef("more"))
	Label("square")
	for i := range fw {
		MOVQ(f.r[i], held[i])
	}
	f.square(func(i int) Op { return held[i] })
	f.reduce()
	Label("more")
	DECQ(n)
	JNS(LabelRef("square"))
	Load(Param("out"), out)
	f.store(pointed(out))
	RET()
}
