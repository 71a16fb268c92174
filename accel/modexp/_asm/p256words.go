// SPDX-License-Identifier: Apache-2.0

package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// field256 emits arithmetic modulo P-256's prime on numbers of four 64-bit words, in
// Montgomery's form with R = 2^256. Every number is below p.
type field256 struct {
	*fourWords
	p3, shift GPPhysical // p's top word, and 32
	p1        Mem        // its second lowest; the lowest is all ones, the other zero
}

const (
	p256Word1 = 0x00000000ffffffff
	p256Word3 = 0xffffffff00000001
)

func newField256(work GPPhysical, p1 Mem) *field256 {
	f := &field256{newFourWords(work), RBP, RSI, p1}
	f.constants()
	return f
}

func (f *field256) constants() {
	MOVQ(U64(p256Word3), f.p3)
	MOVL(U32(32), f.shift.As32())
}

// low and high are the halves of r.
func (f *field256) low() []GPPhysical  { return f.r[:fw] }
func (f *field256) high() []GPPhysical { return f.r[fw:] }

func registers(r []GPPhysical) func(int) Op { return func(i int) Op { return r[i] } }

func memory(m func(int) Mem) func(int) Op { return func(i int) Op { return m(i) } }

func move(from, to func(int) Op) {
	for i := range fw {
		MOVQ(from(i), to(i))
	}
}

// mul leaves a*b/R in the lower half of r, as does sqr with a*a/R.
func (f *field256) mul(a, b int) {
	f.product(f.element(a), f.element(b))
	f.reduce()
}

func (f *field256) sqr(a int) {
	f.square(memory(f.element(a)))
	f.reduce()
}

// reduce makes the lower half of a product a multiple of R, digit by digit, and adds
// what that leaves above to the upper half. The lowest word q is its own digit, as p
// is 2^96 - 1 and p3*2^192: q*2^96 is two shifts, and so is q*p3, as p3 is
// 2^64 - 2^32 + 1. What is left of a number below 2^256 is again below that.
func (f *field256) reduce() {
	low, high := f.low(), f.high()
	for range fw {
		q := low[0]
		SHLXQ(f.shift, q, f.lo)
		SHRXQ(f.shift, q, f.hi)
		MOVQ(q, RDX)
		SUBQ(f.lo, RDX)
		SBBQ(f.hi, q) // with RDX q*p3
		ADDQ(f.lo, low[1])
		ADCQ(f.hi, low[2])
		ADCQ(RDX, low[3])
		ADCQ(Imm(0), q)
		low = []GPPhysical{low[1], low[2], low[3], q}
	}
	carry := f.zero
	XORL(carry.As32(), carry.As32())
	ADDQ(low[0], high[0])
	for i := 1; i < fw; i++ {
		ADCQ(low[i], high[i])
	}
	ADCQ(Imm(0), carry)
	move(registers(high), registers(low))
	f.less(low, high, carry)
}

// less takes p away from r and carry, of which other is a copy, where that leaves
// no less than nothing.
func (f *field256) less(r, other []GPPhysical, carry GPPhysical) {
	SUBQ(I8(-1), r[0])
	SBBQ(f.p1, r[1])
	SBBQ(Imm(0), r[2])
	SBBQ(f.p3, r[3])
	SBBQ(Imm(0), carry)
	for i := range fw {
		CMOVQCS(other[i], r[i])
	}
}

// add sets r to r+b and uses up other.
func (f *field256) add(r, other []GPPhysical, b func(int) Op) {
	carry := f.zero
	XORL(carry.As32(), carry.As32())
	ADDQ(b(0), r[0])
	for i := 1; i < fw; i++ {
		ADCQ(b(i), r[i])
	}
	ADCQ(Imm(0), carry)
	move(registers(r), registers(other))
	f.less(r, other, carry)
}

// sub sets r to r-b.
func (f *field256) sub(r []GPPhysical, b func(int) Op) {
	SUBQ(b(0), r[0])
	for i := 1; i < fw; i++ {
		SBBQ(b(i), r[i])
	}
	SBBQ(f.lo, f.lo)
	f.addMasked(r)
}

// addMasked adds p to r where lo is all ones, and leaves the carry.
func (f *field256) addMasked(r []GPPhysical) {
	MOVL(f.lo.As32(), f.hi.As32()) // p's word 1
	MOVQ(f.lo, RDX)
	ANDQ(f.p3, RDX)
	ADDQ(f.lo, r[0])
	ADCQ(f.hi, r[1])
	ADCQ(Imm(0), r[2])
	ADCQ(RDX, r[3])
}

// threeHalves sets the lower half of r to 3/2 of it, and uses up the upper.
func (f *field256) threeHalves() {
	low, high := f.low(), f.high()
	move(registers(low), registers(high))
	MOVQ(low[0], f.lo)
	ANDL(Imm(1), f.lo.As32())
	NEGQ(f.lo)
	f.addMasked(high) // which is even then
	for i := fw - 1; i >= 0; i-- {
		RCRQ(Imm(1), high[i])
	}
	f.add(low, high, registers(high))
}

func (f *field256) put(r []GPPhysical, element int) {
	move(registers(r), memory(f.element(element)))
}

func (f *field256) get(element int, r []GPPhysical) {
	move(memory(f.element(element)), registers(r))
}

// Elements of the points' memory: the sum, the summand, the square of the sum's z,
// and room.
const (
	pwX, pwY, pwZ    = 0, 1, 2
	pwX2, pwY2, pwZ2 = 3, 4, 5
	pwZZ             = 6
	pwRoom           = 7
)

func p256Words() {
	p1 := GLOBL("p256Word1", RODATA|NOPTR)
	DATA(0, U64(p256Word1))
	p256DoubleWords(p1)
	p256AddWords(p1, "addWords", false)
	p256AddWords(p1, "addAffineWords", true)
	p256MulSqrWords(p1)
	pickPoint("pickWords", 16, 3)
	pickPoint("pickAffineWords", 64, 2)
}

// p256DoubleWords is the textbook's doubling for a = -3 with all of Z halved: with
// l = 3/2 (X-Z^2)(X+Z^2), X' = l^2 - 2XY^2, Y' = l(XY^2-X') - Y^4, Z' = YZ. Between
// an operation and the one that waits for it lies, where there is one, another that
// does not: the CPU looks ahead no further than about one product.
func p256DoubleWords(p1 Mem) {
	const l, t, beta, gamma = pwRoom, pwRoom + 1, pwRoom + 2, pwRoom + 3
	TEXT("doubleWords", NOSPLIT, "func(work *uint64, times int)")
	Doc("doubleWords doubles the first point in work, in Jacobian coordinates with the",
		"square of z, a number of times. Infinity, where z is 0, stays that.")
	Pragma("noescape")
	n := AllocLocal(8)
	Load(Param("times"), RAX)
	MOVQ(RAX, n)
	Load(Param("work"), RDI)
	f := newField256(RDI, p1)
	low, high := f.low(), f.high()
	Label("again")
	f.get(pwX, low)
	f.sub(low, memory(f.element(pwZZ)))
	f.put(low, l)
	f.get(pwX, low)
	f.add(low, high, memory(f.element(pwZZ)))
	f.put(low, t)
	f.mulTo(l, l, t)
	f.sqrTo(gamma, pwY)
	f.mulTo(pwZ, pwY, pwZ)
	f.get(l, low)
	f.threeHalves()
	f.put(low, l)
	f.mulTo(beta, pwX, gamma)
	f.sqrTo(t, l)
	f.sqrTo(gamma, gamma)
	f.get(t, low)
	f.minus(beta)
	f.minus(beta)
	f.put(low, pwX)
	f.get(beta, high)
	f.sub(high, registers(low))
	f.put(high, t)
	f.sqrTo(pwZZ, pwZ)
	f.mul(l, t)
	f.minus(gamma)
	f.put(low, pwY)
	DECQ(n)
	JNZ(LabelRef("again"))
	RET()
}

func (f *field256) mulTo(to, a, b int) { f.mul(a, b); f.put(f.low(), to) }
func (f *field256) sqrTo(to, a int)    { f.sqr(a); f.put(f.low(), to) }

// minus takes an element away from the lower half of r.
func (f *field256) minus(element int) { f.sub(f.low(), memory(f.element(element))) }

// p256AddWords is p256Add for one point, in an order as p256DoubleWords has it.
func p256AddWords(p1 Mem, name string, affine bool) {
	const zz2, u1, u2, s1, s2, h, r, infinite = pwRoom, pwRoom + 1, pwRoom + 2, pwRoom + 3, pwRoom + 4, pwRoom + 5, pwRoom + 6, pwRoom + 7
	const hh, hhh, v, rr, z3 = u2, s2, u1, pwZZ, zz2
	TEXT(name, NOSPLIT, "func(work *uint64, digit uint64)")
	doc := []string{
		name + " adds the second point in work to the first, with the square of whose z it",
		"begins and ends. The second is infinity where digit is 0, the first where its z",
		"is. Else they are neither equal nor opposite.",
	}
	if affine {
		doc = append(doc, "The second point's z is 1, and its memory holds that.")
	}
	Doc(doc...)
	Pragma("noescape")
	Load(Param("work"), RDI)
	f := newField256(RDI, p1)
	low, high := f.low(), f.high()
	MOVQ(f.at(pwZ, 0), f.lo)
	for i := 1; i < fw; i++ {
		ORQ(f.at(pwZ, i), f.lo)
	}
	MOVQ(f.lo, f.at(infinite, 0))
	// choose puts what is in registers into the sum's element, where neither point is
	// infinity: else the other one's.
	choose := func(sum int) {
		CMPQ(f.at(infinite, 0), Imm(0))
		for i := range fw {
			CMOVQEQ(f.at(sum+pwX2, i), low[i])
		}
		Load(Param("digit"), f.lo)
		TESTQ(f.lo, f.lo)
		for i := range fw {
			CMOVQEQ(f.at(sum, i), low[i])
		}
		f.put(low, sum)
	}

	x1, y1 := u1, s1
	if affine {
		x1, y1 = pwX, pwY
	} else {
		f.sqrTo(zz2, pwZ2)
	}
	f.mulTo(u2, pwX2, pwZZ)
	f.mulTo(s2, pwY2, pwZ)
	if !affine {
		f.mulTo(u1, pwX, zz2)
		f.mulTo(s1, pwY, pwZ2)
	}
	f.get(u2, low)
	f.minus(x1)
	f.put(low, h)
	f.mulTo(s2, s2, pwZZ)
	if affine {
		f.mulTo(z3, pwZ, h)
	} else {
		f.mulTo(s1, s1, zz2)
		f.mulTo(z3, pwZ, pwZ2)
	}
	f.sqrTo(hh, h)
	f.get(s2, low)
	f.minus(y1)
	f.put(low, r)
	if !affine {
		f.mulTo(z3, z3, h)
	}
	f.mulTo(v, x1, hh)
	f.mulTo(hhh, hh, h)
	f.sqrTo(rr, r)
	f.get(z3, low)
	choose(pwZ)
	f.mulTo(hh, hhh, y1)
	f.get(rr, low)
	f.minus(hhh)
	f.minus(v)
	f.minus(v)
	f.get(v, high)
	f.sub(high, registers(low))
	f.put(high, v)
	choose(pwX)
	f.sqrTo(pwZZ, pwZ)
	f.mul(r, v)
	f.minus(hh)
	choose(pwY)
	RET()
}

func p256MulSqrWords(p1 Mem) {
	TEXT("mulSqrWords", NOSPLIT, "func(out, a, b *uint64, squarings int)")
	Doc("mulSqrWords sets the element out to a*b/R, then squares it a number of times.")
	Pragma("noescape")
	a, b, n := RSI, RBP, AllocLocal(8)
	f := &field256{newFourWords(RDI), RBP, RSI, p1}
	Load(Param("squarings"), f.lo)
	MOVQ(f.lo, n)
	Load(Param("a"), a)
	Load(Param("b"), b)
	f.product(pointed(a), pointed(b))
	f.constants()
	f.reduce()
	// Each squaring waits for the one before, and would wait for memory too.
	held := []GPPhysical{RSI, RBP, RBX, RDI}
	JMP(LabelRef("more"))
	Label("square")
	move(registers(f.low()), registers(held))
	f.square(registers(held))
	f.constants()
	f.reduce()
	Label("more")
	DECQ(n)
	JNS(LabelRef("square"))
	Load(Param("out"), RDI)
	f.put(f.low(), 0)
	RET()
}
