// SPDX-License-Identifier: Apache-2.0

package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// field521 emits arithmetic modulo p = 2^521 - 1 on numbers of nine 64-bit words.
// They have 55 bits to spare: what mul, sqr and sub leave is below 2^521 + 2^55,
// and sums of up to 31 of those may be factors, or be taken away.
type field521 struct {
	acc     []GPPhysical
	x, y, z GPPhysical
	lo, hi  GPPhysical
}

const (
	words521 = 9
	top521   = 521 - 64*(words521-1) // bits of the top word
)

func newField521() *field521 {
	return &field521{
		acc: []GPPhysical{R8, R9, R10, R11, R12, R13, R14, R15, RBP},
		x:   RSI, y: RBX, z: RDI, lo: RAX, hi: RCX,
	}
}

// products adds RDX times the words from to 8 of x to the accumulator from its word
// place on, with two chains of carries. The top is set: it is in the register of
// word free, which is no longer needed.
func (f *field521) products(from, place, free int) {
	for i := from; i < words521; i++ {
		at := f.acc[(place+i-from)%words521]
		if i == words521-1 {
			top := f.acc[free%words521]
			MULXQ(word(f.x, i), f.lo, top)
			ADCXQ(f.lo, at)
			MOVL(U32(0), f.lo.As32()) // leaves the flags alone
			ADCXQ(f.lo, top)
			ADOXQ(f.lo, top)
			return
		}
		MULXQ(word(f.x, i), f.lo, f.hi)
		ADCXQ(f.lo, at)
		ADOXQ(f.hi, f.acc[(place+i-from+1)%words521])
	}
}

// reduce takes a product, whose lower nine words are at low and whose upper are in
// the accumulator, and stores what is left of it at z.
func (f *field521) reduce(low func(int) Mem) {
	h0, t := RDX, f.lo
	next := func(r, above GPPhysical) { // r and what is above it, 521 bits lower
		SHRQ(Imm(top521), r)
		MOVQ(above, f.hi)
		SHLQ(Imm(64-top521), f.hi)
		ORQ(f.hi, r)
	}
	MOVQ(low(words521-1), h0)
	MOVQ(h0, t)
	ANDL(U32(1<<top521-1), t.As32())
	next(h0, f.acc[0])
	for i := range words521 - 1 {
		next(f.acc[i], f.acc[i+1])
	}
	r := append([]GPPhysical{h0}, f.acc[:words521-1]...)
	ADDQ(low(0), r[0])
	for i := 1; i < words521-1; i++ {
		ADCQ(low(i), r[i])
	}
	ADCQ(t, r[words521-1])
	f.fold(r)
}

// fold adds what is above 521 bits to the lowest word, and stores r at z.
func (f *field521) fold(r []GPPhysical) {
	top := r[words521-1]
	MOVQ(top, f.lo)
	SHRQ(Imm(top521), f.lo)
	ANDL(U32(1<<top521-1), top.As32())
	ADDQ(f.lo, r[0])
	MOVQ(r[0], word(f.z, 0))
	for i := 1; i < words521; i++ {
		ADCQ(Imm(0), r[i])
		MOVQ(r[i], word(f.z, i))
	}
}

func p521() {
	p521Mul()
	p521Sqr()
	p521Sub()
	p521Add()
	p521Scale()
	p521Half()
	pickPoint("pick", 8, 7) // a word more than three elements
}

func p521Mul() {
	TEXT("mul", NOSPLIT, "func(out, a, b *uint64)")
	Doc("mul sets the element out to a*b.")
	Pragma("noescape")
	low := AllocLocal(8 * words521)
	f := newField521()
	Load(Param("a"), f.x)
	Load(Param("b"), f.y)
	Load(Param("out"), f.z)
	for _, r := range f.acc {
		XORL(r.As32(), r.As32())
	}
	for j := range words521 {
		first := f.acc[j] // is done with in this row
		MOVQ(word(f.y, j), RDX)
		XORL(f.lo.As32(), f.lo.As32()) // both carries
		MULXQ(word(f.x, 0), f.lo, f.hi)
		ADCXQ(f.lo, first)
		ADOXQ(f.hi, f.acc[(j+1)%words521])
		MOVQ(first, low.Offset(8*j))
		f.products(1, j+1, j)
	}
	f.reduce(func(i int) Mem { return low.Offset(8 * i) })
	RET()
}

// p521Sqr makes products of different words once, then doubles them and adds the
// squares.
func p521Sqr() {
	TEXT("sqr", NOSPLIT, "func(out, a *uint64)")
	Doc("sqr sets the element out to a*a.")
	Pragma("noescape")
	low := AllocLocal(8 * words521)
	f := newField521()
	Load(Param("a"), f.x)
	Load(Param("out"), f.z)
	for _, r := range f.acc {
		XORL(r.As32(), r.As32())
	}
	for j := range words521 - 1 {
		MOVQ(f.acc[j], low.Offset(8*j))
		MOVQ(word(f.x, j), RDX)
		XORL(f.lo.As32(), f.lo.As32()) // both carries
		f.products(j+1, 2*j+1, j)
	}
	MOVQ(f.acc[words521-1], low.Offset(8*(words521-1)))
	top := f.acc[words521-1]
	XORL(top.As32(), top.As32()) // and both carries: one for the doubling, one for the squares
	for i := range words521 {
		MOVQ(word(f.x, i), RDX)
		MULXQ(RDX, f.lo, f.hi)
		for half, square := range []GPPhysical{f.lo, f.hi} {
			k := 2*i + half
			if k < words521 {
				MOVQ(low.Offset(8*k), f.y)
				ADCXQ(f.y, f.y)
				ADOXQ(square, f.y)
				MOVQ(f.y, low.Offset(8*k))
			} else {
				r := f.acc[k-words521]
				ADCXQ(r, r)
				ADOXQ(square, r)
			}
		}
	}
	f.reduce(func(i int) Mem { return low.Offset(8 * i) })
	RET()
}

func p521Sub() {
	TEXT("sub", NOSPLIT, "func(out, a, b *uint64)")
	Doc("sub sets the element out to a-b, for a b below 32p.")
	Pragma("noescape")
	f := newField521()
	Load(Param("a"), f.x)
	Load(Param("b"), f.y)
	Load(Param("out"), f.z)
	r := f.acc
	for i := range words521 {
		MOVQ(word(f.x, i), r[i])
	}
	// 32p is 2^526 - 32.
	ADDQ(I8(-32), r[0])
	for i := 1; i < words521-1; i++ {
		ADCQ(I8(-1), r[i])
	}
	ADCQ(U32(1<<(top521+5)-1), r[words521-1])
	SUBQ(word(f.y, 0), r[0])
	for i := 1; i < words521; i++ {
		SBBQ(word(f.y, i), r[i])
	}
	f.fold(r)
	RET()
}

func p521Add() {
	TEXT("add", NOSPLIT, "func(out, a, b *uint64)")
	Doc("add sets out to a+b.")
	Pragma("noescape")
	f := newField521()
	Load(Param("a"), f.x)
	Load(Param("b"), f.y)
	Load(Param("out"), f.z)
	for i, r := range f.acc {
		MOVQ(word(f.x, i), r)
	}
	ADDQ(word(f.y, 0), f.acc[0])
	for i, r := range f.acc {
		if i > 0 {
			ADCQ(word(f.y, i), r)
		}
		MOVQ(r, word(f.z, i))
	}
	RET()
}

func p521Scale() {
	TEXT("scale", NOSPLIT, "func(out, a *uint64, k uint64)")
	Doc("scale sets out to a times a small number.")
	Pragma("noescape")
	f := newField521()
	Load(Param("k"), RDX)
	f.scale()
	for i, r := range f.acc {
		MOVQ(r, word(f.z, i))
	}
	RET()
}

// p521Half moves the lowest bit to the place of 2^520, which is 1/2.
func p521Half() {
	TEXT("threeHalves", NOSPLIT, "func(out, a *uint64)")
	Doc("threeHalves sets out to 3/2 of a.")
	Pragma("noescape")
	f := newField521()
	MOVL(U32(3), EDX)
	f.scale()
	r := f.acc
	XORL(f.lo.As32(), f.lo.As32()) // no carry
	for i := words521 - 1; i >= 0; i-- {
		RCRQ(Imm(1), r[i])
	}
	ADCQ(f.lo, f.lo)
	SHLQ(Imm(top521-1), f.lo)
	ADDQ(f.lo, r[words521-1])
	for i := range r {
		MOVQ(r[i], word(f.z, i))
	}
	RET()
}

// scale sets the accumulator to a times RDX.
func (f *field521) scale() {
	Load(Param("a"), f.x)
	Load(Param("out"), f.z)
	MULXQ(word(f.x, 0), f.acc[0], f.hi)
	XORL(f.lo.As32(), f.lo.As32()) // no carry
	high := []GPPhysical{f.hi, f.y}
	for i := 1; i < words521; i++ {
		MULXQ(word(f.x, i), f.acc[i], high[i%2])
		ADCQ(high[1-i%2], f.acc[i])
	}
}
