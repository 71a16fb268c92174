// SPDX-License-Identifier: Apache-2.0

package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// reduce uses that p+1 is a multiple of 2^64. The digit that makes a column a
// multiple of 2^52 is then the column itself: adding q*p means adding q*(p+1),
// whose lowest limb is 0, and taking q away, which leaves the column's carry.
func reduce() {
	TEXT("reduce", NOSPLIT, "func(out, t, q, p1 *uint64, blocks int)")
	Doc("reduce sets out to t / 2^(52*blocks*10) modulo p, carried to limbs below",
		"2^52, for the columns t of a product. p1 is p+1, one number of blocks*10",
		"limbs; q is room for blocks*10 limbs of eight numbers. Where t is below",
		"4p^2, out is below 2p.")
	Pragma("noescape")
	out, t, q, p1, blocks := RDI, RSI, RDX, RBX, R8
	c, pq, pp, n, end := R9, R10, R11, R12, R13
	const limb = 8 // bytes of a limb of one number
	Load(Param("out"), out)
	Load(Param("t"), t)
	Load(Param("q"), q)
	Load(Param("p1"), p1)
	Load(Param("blocks"), blocks)
	clearColumns(0, 2*block)
	MOVQ(U64(1<<limbBits-1), RAX)
	VPBROADCASTQ(RAX, z[31])
	XORQ(c, c)
	LEAQ(Mem{Base: blocks, Index: blocks, Scale: 1}, end)

	Label("columns")
	for i := range block {
		VPADDQ(Mem{Base: t, Disp: i * zmm}, z[i], z[i])
	}
	ADDQ(I32(blockSize), t)
	tilePointers(c, blocks, q, p1, pq, pp, n, limb*block)
	CMPQ(c, blocks)
	JAE(LabelRef("tiles"))
	DECQ(n) // block c of q is not known yet
	Label("tiles")
	TESTQ(n, n)
	JZ(LabelRef("finish"))
	Label("tile")
	loadBlock(pq)
	for j := range block {
		VPBROADCASTQ(Mem{Base: pp, Disp: j * limb}, z[30])
		tileRow(j)
	}
	ADDQ(I32(blockSize), pq)
	SUBQ(I32(limb*block), pp)
	DECQ(n)
	JNZ(LabelRef("tile"))

	Label("finish")
	CMPQ(c, blocks)
	JAE(LabelRef("high"))
	for j := 1; j < block; j++ {
		VPBROADCASTQ(Mem{Base: p1, Disp: j * limb}, z[20+j])
	}
	for i := range block {
		digit := z[i]
		VPMADD52LUQ(z[21], digit, z[i+1])
		VPSRLQ(Imm(limbBits), digit, z[30])
		VPADDQ(z[30], z[i+1], z[i+1])
		for j := 2; j < block; j++ {
			VPMADD52LUQ(z[20+j], digit, z[i+j])
		}
		for j := 1; j < block; j++ {
			VPMADD52HUQ(z[20+j], digit, z[i+j+1])
		}
		VMOVDQU64(digit, Mem{Base: pq, Disp: i * zmm})
	}
	JMP(LabelRef("next"))

	Label("high")
	for i := range block {
		VPSRLQ(Imm(limbBits), z[i], z[30])
		VPADDQ(z[30], z[i+1], z[i+1])
		VPANDQ(z[31], z[i], z[i])
		VMOVDQU64(z[i], Mem{Base: out, Disp: i * zmm})
	}
	ADDQ(I32(blockSize), out)

	Label("next")
	nextColumns()
	INCQ(c)
	CMPQ(c, end)
	JB(LabelRef("columns"))
	VZEROUPPER()
	RET()
}
