// SPDX-License-Identifier: Apache-2.0

package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// choose reads the whole table whatever the digits are: a lane keeps the entry
// that is its own by a mask.
func choose() {
	const part = 2 * block // limbs that are gathered at a time, in registers
	TEXT("choose", NOSPLIT, "func(out, table, digits *uint64, blocks int)")
	Doc("choose sets out, lane by lane, to entry digits[lane] of the 16 in table,",
		"each blocks*10 limbs of eight numbers. Every entry is read.")
	Pragma("noescape")
	out, table, digits, blocks := RDI, RSI, RDX, R8
	p, n, stride := R9, R10, R11
	Load(Param("out"), out)
	Load(Param("table"), table)
	Load(Param("digits"), digits)
	Load(Param("blocks"), blocks)
	VMOVDQU64(Mem{Base: digits}, z[30])
	MOVQ(U64(1), RAX)
	VPBROADCASTQ(RAX, z[29])
	IMUL3Q(I32(blockSize), blocks, stride)
	gather := func(limbs int, name string) {
		clearColumns(0, limbs)
		VPXORQ(z[31], z[31], z[31])
		MOVQ(table, p)
		MOVQ(U64(16), n)
		Label(name)
		VPCMPEQQ(z[30], z[31], K1)
		for i := range limbs {
			VMOVDQU64(Mem{Base: p, Disp: i * zmm}, K1, z[i])
		}
		VPADDQ(z[29], z[31], z[31])
		ADDQ(stride, p)
		DECQ(n)
		JNZ(LabelRef(name))
		for i := range limbs {
			VMOVDQU64(z[i], Mem{Base: out, Disp: i * zmm})
		}
		ADDQ(I32(int32(limbs*zmm)), out)
		ADDQ(I32(int32(limbs*zmm)), table)
	}
	Label("part")
	CMPQ(blocks, Imm(2))
	JB(LabelRef("half"))
	gather(part, "entry")
	SUBQ(Imm(2), blocks)
	JMP(LabelRef("part"))
	Label("half")
	TESTQ(blocks, blocks)
	JZ(LabelRef("done"))
	gather(block, "halfEntry")
	Label("done")
	VZEROUPPER()
	RET()
}

// chooseShared picks by permuting registers, whose time and addresses do not
// depend on the digits: sixteen entries of one limb lie in two registers, and
// a lane's digit is its index into them.
func chooseShared() {
	const entries = 64
	TEXT("chooseShared", NOSPLIT, "func(out, table, digits *uint64, limbs int)")
	Doc("chooseShared sets out, lane by lane, to entry digits[lane] of the 64 in",
		"table, which holds limb 0 of each entry, then limb 1 of each, and so on:",
		"the lanes share one table. Every entry is read.")
	Pragma("noescape")
	out, table, digits, limbs := RDI, RSI, RDX, R8
	Load(Param("out"), out)
	Load(Param("table"), table)
	Load(Param("digits"), digits)
	Load(Param("limbs"), limbs)
	VMOVDQU64(Mem{Base: digits}, z[31])
	MOVQ(U64(16), RAX)
	VPBROADCASTQ(RAX, z[30])
	VPTESTMQ(z[30], z[31], K1) // bit 4
	VPADDQ(z[30], z[30], z[30])
	VPTESTMQ(z[30], z[31], K2) // bit 5
	Label("limb")
	for i := range entries / 16 {
		VMOVDQU64(Mem{Base: table, Disp: 2 * i * zmm}, z[i])
		VMOVDQA64(z[31], z[8+i])
		VPERMI2Q(Mem{Base: table, Disp: (2*i + 1) * zmm}, z[i], z[8+i])
	}
	VMOVDQA64(z[9], K1, z[8])
	VMOVDQA64(z[11], K1, z[10])
	VMOVDQA64(z[10], K2, z[8])
	VMOVDQU64(z[8], Mem{Base: out})
	ADDQ(I32(entries*8), table)
	ADDQ(Imm(zmm), out)
	DECQ(limbs)
	JNZ(LabelRef("limb"))
	VZEROUPPER()
	RET()
}
