// SPDX-License-Identifier: Apache-2.0

package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

const (
	row     = 8 // words of a block
	rowSize = 8 * row
)

// words emits arithmetic on numbers of 64-bit words, by tiles: the product of two
// blocks of eight words is added to sixteen, of which eight are in registers all
// along. A row of tiles hands them on from each tile to the next.
type words struct {
	acc          [row]GPPhysical
	x, y, z      GPPhysical // a tile's factors and sum
	lo, hi, zero GPPhysical
}

func newWords() *words {
	w := &words{
		acc: [row]GPPhysical{R8, R9, R10, R11, R12, R13, R14, R15},
		x:   RSI, y: RBX, z: RDI, lo: RAX, hi: RCX, zero: RBP,
	}
	XORL(w.zero.As32(), w.zero.As32())
	return w
}

func word(p GPPhysical, i int) Mem { return Mem{Base: p, Disp: 8 * i} }

// products adds RDX times the words from to 8 of x to the accumulator from its word
// place on, with two chains of carries. Word place+8-from, the top, is set: it is
// in the register of word free, which is no longer needed.
func (w *words) products(from, place, free int) {
	for i := from; i < row; i++ {
		at := w.acc[(place+i-from)%row]
		if i == row-1 {
			top := w.acc[free%row]
			MULXQ(word(w.x, i), w.lo, top)
			ADCXQ(w.lo, at)
			ADCXQ(w.zero, top)
			ADOXQ(w.zero, top)
			return
		}
		MULXQ(word(w.x, i), w.lo, w.hi)
		ADCXQ(w.lo, at)
		ADOXQ(w.hi, w.acc[(place+i-from+1)%row])
	}
}

// tile adds x times y to z and to the accumulator, which lies on z and moves up by
// eight words. No carry is lost: of words of all ones the sum is all ones.
func (w *words) tile() {
	for j := range row {
		MOVQ(word(w.y, j), RDX)
		XORL(w.lo.As32(), w.lo.As32()) // both carries
		w.tileRow(j)
	}
}

// tileRow is a row of products, of which the lowest word is done with.
func (w *words) tileRow(j int) {
	first := w.acc[j]
	ADOXQ(word(w.z, j), first)
	MULXQ(word(w.x, 0), w.lo, w.hi)
	ADCXQ(w.lo, first)
	ADOXQ(w.hi, w.acc[(j+1)%row])
	MOVQ(first, word(w.z, j))
	w.products(1, j+1, j)
}

// triangle adds to z, which is loaded into the accumulator, the products of x's
// words with higher ones. The accumulator then lies on the eight words above.
func (w *words) triangle() {
	w.loadAcc()
	for j := range row - 1 {
		MOVQ(w.acc[j], word(w.z, j))
		MOVQ(word(w.x, j), RDX)
		XORL(w.lo.As32(), w.lo.As32())
		w.products(j+1, 2*j+1, j)
	}
	MOVQ(w.acc[row-1], word(w.z, row-1))
	XORL(w.acc[row-1].As32(), w.acc[row-1].As32())
}

// digits makes the digits of Montgomery's reduction, which take z's place, and adds
// their multiples of x, whose lowest word is 0.
func (w *words) digits() {
	w.loadAcc()
	for j := range row {
		MOVQ(w.acc[j], RDX)
		XORL(w.lo.As32(), w.lo.As32())
		MOVQ(RDX, word(w.z, j))
		w.products(1, j+1, j)
	}
}

func (w *words) loadAcc() {
	for i, r := range w.acc {
		MOVQ(word(w.z, i), r)
	}
}

func (w *words) storeAcc() {
	for i, r := range w.acc {
		MOVQ(r, word(w.z, i))
	}
}

// tiles runs a number of tiles, in n, along x and z.
func (w *words) tiles(n Mem) {
	l := label("tile")
	Label(l)
	w.tile()
	ADDQ(Imm(rowSize), w.x)
	ADDQ(Imm(rowSize), w.z)
	DECQ(n)
	JNZ(LabelRef(l))
}

// clear sets a number of blocks at t to zero, and uses up both.
func (w *words) clear(t, n GPPhysical) {
	l := label("clear")
	Label(l)
	for i := range row {
		MOVQ(w.zero, word(t, i))
	}
	ADDQ(Imm(rowSize), t)
	DECQ(n)
	JNZ(LabelRef(l))
}

func mulWords() {
	TEXT("mulWords", NOSPLIT, "func(t, a, b *uint64, rows int)")
	Doc("mulWords sets t, of twice their length, to a*b, for numbers of rows*8 words.")
	Pragma("noescape")
	outer, inner, t := AllocLocal(8), AllocLocal(8), AllocLocal(8)
	w := newWords()
	Load(Param("rows"), RCX)
	MOVQ(RCX, outer)
	Load(Param("t"), w.z)
	MOVQ(w.z, t)
	w.clear(w.z, RCX)
	Load(Param("b"), w.y)
	Label("row")
	Load(Param("rows"), RCX)
	MOVQ(RCX, inner)
	Load(Param("a"), w.x)
	MOVQ(t, w.z)
	ADDQ(Imm(rowSize), t)
	for _, r := range w.acc {
		XORL(r.As32(), r.As32())
	}
	w.tiles(inner)
	w.storeAcc()
	ADDQ(Imm(rowSize), w.y)
	DECQ(outer)
	JNZ(LabelRef("row"))
	RET()
}

// sqrWords makes products of different words once, then doubles them and adds the
// squares.
func sqrWords() {
	TEXT("sqrWords", NOSPLIT, "func(t, a *uint64, rows int)")
	Doc("sqrWords sets t, of twice its length, to a*a, for a number of rows*8 words.")
	Pragma("noescape")
	outer, inner, t := AllocLocal(8), AllocLocal(8), AllocLocal(8)
	w := newWords()
	Load(Param("rows"), RCX)
	MOVQ(RCX, outer)
	Load(Param("t"), w.z)
	MOVQ(w.z, t)
	w.clear(w.z, RCX)
	Load(Param("a"), w.y)
	Label("row")
	MOVQ(w.y, w.x)
	MOVQ(t, w.z)
	ADDQ(Imm(2*rowSize), t)
	w.triangle()
	ADDQ(Imm(rowSize), w.x)
	ADDQ(Imm(rowSize), w.z)
	MOVQ(outer, RCX)
	DECQ(RCX)
	JZ(LabelRef("last"))
	MOVQ(RCX, inner)
	w.tiles(inner)
	Label("last")
	w.storeAcc()
	ADDQ(Imm(rowSize), w.y)
	DECQ(outer)
	JNZ(LabelRef("row"))

	Load(Param("t"), w.z)
	Load(Param("a"), w.x)
	n, top, shift, carry := RBX, R8, R9, R10
	Load(Param("rows"), n)
	MOVL(U32(63), shift.As32())
	XORL(top.As32(), top.As32())
	XORL(carry.As32(), carry.As32())
	Label("double")
	ADDQ(carry, carry) // all ones where the block before carried
	for i := range row {
		MOVQ(word(w.x, i), RDX)
		MULXQ(RDX, w.lo, w.hi)
		for half, square := range []GPPhysical{w.lo, w.hi} {
			at := word(w.z, 2*i+half)
			MOVQ(at, R11)
			LEAQ(Mem{Base: top, Index: R11, Scale: 2}, R12)
			SHRXQ(shift, R11, top)
			ADCQ(square, R12)
			MOVQ(R12, at)
		}
	}
	SBBQ(carry, carry)
	ADDQ(Imm(rowSize), w.x)
	ADDQ(Imm(2*rowSize), w.z)
	DECQ(n)
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
	outer, inner, carried := AllocLocal(8), AllocLocal(8), AllocLocal(8)
	w := newWords()
	Load(Param("t"), w.y)
	Load(Param("rows"), RCX)
	MOVQ(RCX, outer)
	MOVQ(w.zero, carried)
	Label("row")
	Load(Param("p1"), w.x)
	MOVQ(w.y, w.z)
	w.digits()
	ADDQ(Imm(rowSize), w.x)
	ADDQ(Imm(rowSize), w.z)
	Load(Param("rows"), RCX)
	DECQ(RCX)
	JZ(LabelRef("last"))
	MOVQ(RCX, inner)
	w.tiles(inner)
	Label("last")
	MOVQ(carried, RCX)
	ADDQ(RCX, RCX) // all ones where the row before carried
	for i, r := range w.acc {
		ADCQ(r, word(w.z, i))
	}
	SBBQ(RCX, RCX)
	MOVQ(RCX, carried)
	ADDQ(Imm(rowSize), w.y)
	DECQ(outer)
	JNZ(LabelRef("row"))

	// What is carried out of the top is worth 2^(512*rows): take p away for it.
	out, t, p, n, mask, borrow := RDI, RBX, RSI, RBP, RCX, RDX
	Load(Param("out"), out)
	Load(Param("p"), p)
	Load(Param("rows"), n)
	XORL(borrow.As32(), borrow.As32())
	Label("less")
	for i, r := range w.acc {
		MOVQ(word(p, i), r)
		ANDQ(mask, r)
	}
	NEGQ(borrow) // of the block before
	for i, r := range w.acc {
		MOVQ(word(t, i), RAX)
		SBBQ(r, RAX)
		MOVQ(RAX, word(out, i))
	}
	SBBQ(borrow, borrow)
	ADDQ(Imm(rowSize), p)
	ADDQ(Imm(rowSize), t)
	ADDQ(Imm(rowSize), out)
	DECQ(n)
	JNZ(LabelRef("less"))
	RET()
}

// pickBlocks keeps an entry by a mask, as choose does, eight words at a time.
func pickBlocks() {
	TEXT("pickBlocks", NOSPLIT, "func(out, table *uint64, digit uint64, entries, rows int)")
	Doc("pickBlocks sets out to entry digit of a table of numbers of rows*8 words. Every",
		"entry is read.")
	Pragma("noescape")
	out, table, rows, entries, stride, p, n := RDI, RSI, RDX, RCX, R8, R9, R10
	Load(Param("out"), out)
	Load(Param("table"), table)
	Load(Param("rows"), rows)
	Load(Param("entries"), entries)
	MOVQ(rows, stride)
	SHLQ(Imm(6), stride) // bytes of an entry
	digit, index, one, mask, sum, sum2, part, part2 := Y0, Y1, Y2, Y3, Y4, Y5, Y6, Y7
	d, err := Param("digit").Resolve()
	if err != nil {
		panic(err)
	}
	VPBROADCASTQ(d.Addr, digit)
	VPCMPEQQ(one, one, one)
	VPSRLQ(Imm(63), one, one)
	Label("block")
	VPXOR(index, index, index)
	VPXOR(sum, sum, sum)
	VPXOR(sum2, sum2, sum2)
	MOVQ(table, p)
	MOVQ(entries, n)
	Label("entry")
	VPCMPEQQ(index, digit, mask)
	VPADDQ(one, index, index)
	VPAND(Mem{Base: p}, mask, part)
	VPAND(Mem{Base: p, Disp: 32}, mask, part2)
	VPOR(part, sum, sum)
	VPOR(part2, sum2, sum2)
	ADDQ(stride, p)
	DECQ(n)
	JNZ(LabelRef("entry"))
	VMOVDQU(sum, Mem{Base: out})
	VMOVDQU(sum2, Mem{Base: out, Disp: 32})
	ADDQ(Imm(rowSize), out)
	ADDQ(Imm(rowSize), table)
	DECQ(rows)
	JNZ(LabelRef("block"))
	VZEROUPPER()
	RET()
}
