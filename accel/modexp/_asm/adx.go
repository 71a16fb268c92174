// SPDX-License-Identifier: Apache-2.0

package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

const (
	row     = 8 // words that are multiplied in a row
	rowSize = 8 * row
)

// words emits arithmetic on numbers of 64-bit words, by rows of eight with MULX
// and two carry chains, which meet again at the end of a row.
type words struct {
	x, z, n    GPPhysical // of the running row: factor, sum, rows left
	high, next GPPhysical
	zero       GPPhysical
}

func newWords() *words {
	w := &words{x: R8, z: R9, n: RCX, high: R10, next: R11, zero: RDI}
	XORQ(w.zero, w.zero)
	return w
}

// addRow adds RDX times the number at x to the one at z, both of n rows, and
// leaves what is carried out of the top in high.
func (w *words) addRow() {
	XORQ(w.high, w.high)
	l := label("row")
	Label(l)
	XORQ(RAX, RAX) // and both carries
	prev, hi := w.high, w.next
	for i := range row {
		MULXQ(Mem{Base: w.x, Disp: 8 * i}, RAX, hi)
		ADCXQ(prev, RAX)
		ADOXQ(Mem{Base: w.z, Disp: 8 * i}, RAX)
		MOVQ(RAX, Mem{Base: w.z, Disp: 8 * i})
		prev, hi = hi, prev
	}
	ADCXQ(w.zero, w.high)
	ADOXQ(w.zero, w.high)
	ADDQ(Imm(rowSize), w.x)
	ADDQ(Imm(rowSize), w.z)
	DECQ(w.n)
	JNZ(LabelRef(l))
}

// clear sets a number of rows, in n, at z to zero.
func (w *words) clear() {
	l := label("clear")
	Label(l)
	for i := range row {
		MOVQ(w.zero, Mem{Base: w.z, Disp: 8 * i})
	}
	ADDQ(Imm(rowSize), w.z)
	DECQ(w.n)
	JNZ(LabelRef(l))
}

func mulWords() {
	TEXT("mulWords", NOSPLIT, "func(t, a, b *uint64, rows int)")
	Doc("mulWords sets t, of twice their length, to a*b, for numbers of rows*8 words.")
	Pragma("noescape")
	a, b, t, rows, outer := RSI, R15, RBX, R14, R13
	Load(Param("t"), t)
	Load(Param("a"), a)
	Load(Param("b"), b)
	Load(Param("rows"), rows)
	w := newWords()
	MOVQ(t, w.z)
	MOVQ(rows, w.n)
	w.clear()
	MOVQ(rows, outer)
	SHLQ(Imm(3), outer)
	Label("word")
	MOVQ(Mem{Base: b}, RDX)
	ADDQ(Imm(8), b)
	MOVQ(a, w.x)
	MOVQ(t, w.z)
	MOVQ(rows, w.n)
	w.addRow()
	MOVQ(w.high, Mem{Base: w.z})
	ADDQ(Imm(8), t)
	DECQ(outer)
	JNZ(LabelRef("word"))
	RET()
}

// sqrWords makes products of words of different rows once and doubles them. The
// squares of the rows themselves lie beside each other without a gap.
func sqrWords() {
	TEXT("sqrWords", NOSPLIT, "func(t, squares, a *uint64, rows int)")
	Doc("sqrWords sets t, of twice its length, to a*a, for a number of rows*8 words.",
		"squares is room of the same length as t.")
	Pragma("noescape")
	a, t, rows, squares, outer, inner := RSI, RBX, R14, R15, R13, R12
	Load(Param("a"), a)
	Load(Param("t"), t)
	Load(Param("rows"), rows)
	Load(Param("squares"), squares)
	w := newWords()
	MOVQ(t, w.z)
	LEAQ(Mem{Base: rows, Index: rows, Scale: 1}, w.n)
	w.clear()
	MOVQ(rows, outer)
	Label("rows")
	MOVQ(squares, w.z)
	MOVQ(U32(1), w.n)
	w.clear()
	MOVQ(U32(row), inner)
	Label("word")
	MOVQ(Mem{Base: a}, RDX)
	// x begins at the row, wherever a is in it.
	LEAQ(Mem{Base: a, Index: inner, Scale: 8, Disp: -rowSize}, w.x)
	MOVQ(squares, w.z)
	MOVQ(U32(1), w.n)
	w.addRow()
	MOVQ(w.high, Mem{Base: w.z})
	LEAQ(Mem{Base: t, Disp: rowSize}, w.z)
	LEAQ(Mem{Base: outer, Disp: -1}, w.n)
	TESTQ(w.n, w.n)
	JZ(LabelRef("last"))
	w.addRow()
	MOVQ(w.high, Mem{Base: w.z})
	Label("last")
	ADDQ(Imm(8), a)
	ADDQ(Imm(8), t)
	ADDQ(Imm(8), squares)
	DECQ(inner)
	JNZ(LabelRef("word"))
	ADDQ(Imm(rowSize), t)
	ADDQ(Imm(rowSize), squares)
	DECQ(outer)
	JNZ(LabelRef("rows"))

	Load(Param("t"), t)
	Load(Param("squares"), squares)
	LEAQ(Mem{Base: rows, Index: rows, Scale: 1}, w.n)
	top, shift, carry := R12, R13, R10
	MOVQ(U32(63), shift)
	XORQ(top, top)
	XORQ(carry, carry)
	Label("double")
	ADDQ(carry, carry) // all ones where the row before carried
	for i := range row {
		MOVQ(Mem{Base: t, Disp: 8 * i}, RAX)
		LEAQ(Mem{Base: top, Index: RAX, Scale: 2}, RDX)
		SHRXQ(shift, RAX, top)
		ADCQ(Mem{Base: squares, Disp: 8 * i}, RDX)
		MOVQ(RDX, Mem{Base: t, Disp: 8 * i})
	}
	SBBQ(carry, carry)
	ADDQ(Imm(rowSize), t)
	ADDQ(Imm(rowSize), squares)
	DECQ(w.n)
	JNZ(LabelRef("double"))
	RET()
}

// reduceWords uses, as reduce does, that p+1 is a multiple of 2^64: a word is its
// own digit, and taking the digit away leaves nothing to carry.
func reduceWords() {
	TEXT("reduceWords", NOSPLIT, "func(out, t, p, p1 *uint64, rows int)")
	Doc("reduceWords sets out, of rows*8 words, to t / 2^(512*rows) modulo p, where t has",
		"twice that length and is used up. out is below 2^(512*rows) where t is a product",
		"of factors that are, and not reduced further. p1 is p+1.")
	Pragma("noescape")
	t, p1, rows, carry, outer := RBX, RSI, R14, R12, R13
	Load(Param("t"), t)
	Load(Param("p1"), p1)
	Load(Param("rows"), rows)
	w := newWords()
	MOVQ(rows, outer)
	SHLQ(Imm(3), outer)
	XORQ(carry, carry)
	Label("digit")
	MOVQ(Mem{Base: t}, RDX)
	MOVQ(p1, w.x)
	MOVQ(t, w.z)
	MOVQ(rows, w.n)
	w.addRow()
	ADDQ(carry, w.high)
	MOVQ(w.zero, carry) // leaves the flags alone
	ADCQ(Imm(0), carry)
	ADDQ(w.high, Mem{Base: w.z})
	ADCQ(Imm(0), carry)
	ADDQ(Imm(8), t)
	DECQ(outer)
	JNZ(LabelRef("digit"))

	// What is carried out of the top is worth 2^(512*rows): take p away for it.
	out, p, borrow := RDI, RSI, R10
	Load(Param("out"), out)
	Load(Param("p"), p)
	NEGQ(carry)
	MOVQ(rows, w.n)
	XORQ(borrow, borrow)
	Label("less")
	masked := []GPPhysical{RAX, RDX, R8, R9, R11, R13, R15, RBP}
	for i, r := range masked {
		MOVQ(Mem{Base: p, Disp: 8 * i}, r)
		ANDQ(carry, r)
	}
	NEGQ(borrow) // of the row before
	for i, r := range masked {
		MOVQ(Mem{Base: t, Disp: 8 * i}, R14)
		SBBQ(r, R14)
		MOVQ(R14, Mem{Base: out, Disp: 8 * i})
	}
	SBBQ(borrow, borrow)
	ADDQ(Imm(rowSize), p)
	ADDQ(Imm(rowSize), t)
	ADDQ(Imm(rowSize), out)
	DECQ(w.n)
	JNZ(LabelRef("less"))
	RET()
}
