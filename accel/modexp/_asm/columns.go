// SPDX-License-Identifier: Apache-2.0

package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

func mulColumns() {
	TEXT("mulColumns", NOSPLIT, "func(t, a, b *uint64, blocks int)")
	Doc("mulColumns sets the 2*blocks*10 columns t to a times b, eight numbers of",
		"blocks*10 limbs each. A limb is below 2^52; a column is not carried.")
	Pragma("noescape")
	t, a, b, blocks := RDI, RSI, RDX, R8
	c, pa, pb, n, end := R9, R10, R11, R12, R13
	Load(Param("t"), t)
	Load(Param("a"), a)
	Load(Param("b"), b)
	Load(Param("blocks"), blocks)
	clearColumns(0, 2*block)
	XORQ(c, c)
	LEAQ(Mem{Base: blocks, Index: blocks, Scale: 1}, end)
	Label("columns")
	tilePointers(c, blocks, a, b, pa, pb, n, blockSize)
	TESTQ(n, n)
	JZ(LabelRef("store"))
	Label("tile")
	loadBlock(pa)
	for j := range block {
		VMOVDQU64(Mem{Base: pb, Disp: j * zmm}, z[30])
		tileRow(j)
	}
	ADDQ(I32(blockSize), pa)
	SUBQ(I32(blockSize), pb)
	DECQ(n)
	JNZ(LabelRef("tile"))
	Label("store")
	for i := range block {
		VMOVDQU64(z[i], Mem{Base: t, Disp: i * zmm})
	}
	nextColumns()
	ADDQ(I32(blockSize), t)
	INCQ(c)
	CMPQ(c, end)
	JB(LabelRef("columns"))
	VZEROUPPER()
	RET()
}

func sqrColumns() {
	TEXT("sqrColumns", NOSPLIT, "func(t, a *uint64, blocks int)")
	Doc("sqrColumns sets the 2*blocks*10 columns t to a times a. Products of two",
		"different limbs are made once and doubled.")
	Pragma("noescape")
	t, a, blocks, square := RDI, RSI, R8, RDX
	c, pa, pb, n, end, pairs := R9, R10, R11, R12, R13, RAX
	Load(Param("t"), t)
	Load(Param("a"), a)
	Load(Param("blocks"), blocks)
	clearColumns(0, 2*block)
	XORQ(c, c)
	LEAQ(Mem{Base: blocks, Index: blocks, Scale: 1}, end)
	MOVQ(a, square)
	Label("columns")
	tilePointers(c, blocks, a, a, pa, pb, n, blockSize)
	MOVQ(n, pairs)
	SHRQ(Imm(1), pairs)
	JZ(LabelRef("diagonal"))
	Label("tile")
	loadBlock(pa)
	for j := range block {
		VMOVDQU64(Mem{Base: pb, Disp: j * zmm}, z[30])
		tileRow(j)
	}
	ADDQ(I32(blockSize), pa)
	SUBQ(I32(blockSize), pb)
	DECQ(pairs)
	JNZ(LabelRef("tile"))
	Label("diagonal")
	TESTQ(I32(1), n)
	JZ(LabelRef("store"))
	loadBlock(pa)
	for j := range block {
		for i := j + 1; i < block; i++ {
			VPMADD52LUQ(z[20+i], z[20+j], z[i+j])
		}
		for i := j + 1; i < block; i++ {
			VPMADD52HUQ(z[20+i], z[20+j], z[i+j+1])
		}
	}
	Label("store")
	for i := range block {
		VPADDQ(z[i], z[i], z[i])
	}
	for i := range block / 2 {
		VMOVDQU64(Mem{Base: square, Disp: i * zmm}, z[20+i])
		VPMADD52LUQ(z[20+i], z[20+i], z[2*i])
		VPMADD52HUQ(z[20+i], z[20+i], z[2*i+1])
	}
	for i := range block {
		VMOVDQU64(z[i], Mem{Base: t, Disp: i * zmm})
	}
	nextColumns()
	ADDQ(I32(blockSize), t)
	ADDQ(I32(blockSize/2), square)
	INCQ(c)
	CMPQ(c, end)
	JB(LabelRef("columns"))
	VZEROUPPER()
	RET()
}
