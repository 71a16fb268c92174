// SPDX-License-Identifier: Apache-2.0

package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// lanes8 writes eight words into read-only memory, the four twice.
func lanes8(name string, four ...uint64) Mem {
	m := GLOBL(name, RODATA|NOPTR)
	for i := range 8 {
		v := four[i%4]
		if name != "ladderConstant" && name != "two" && i >= 4 {
			v += 4
		}
		DATA(8*i, U64(v))
	}
	return m
}

func x25519Lone(p16 Mem) {
	firstX := lanes8("firstX", 3, 1, 0, 1) // D B A B
	firstY := lanes8("firstY", 0, 2, 0, 1) // A C A B
	two := lanes8("two", 2, 2, 2, 2)
	constant := lanes8("ladderConstant", ladderK, ladderK, ladderK, ladderK)

	// Lanes 0 to 3 belong to one ladder, lanes 4 to 7 to another.
	const x2z2x3z3, factor, factor152 = 0, 1, 2
	TEXT("ladderPair", NOSPLIT, "func(work, swaps *uint64)")
	Doc("ladderPair runs the steps of ladder for two scalars. work holds three elements:",
		"the first is x2, z2, x3, z3 of the one and of the other, the second 1, 1, 1, x1",
		"of both, the third 152 times the second. swaps are ladder's: lanes 2 and 3 have",
		"the one's, 6 and 7 the other's, the rest are zero. swaps is used up.")
	Pragma("noescape")
	work, swaps, words, bits := RDI, RSI, R8, R9
	Load(Param("work"), work)
	Load(Param("swaps"), swaps)
	p := newField(work)
	odd, first, firstTwo, last := K2, K3, K4, K5
	for _, m := range []struct {
		lanes uint64
		to    Register
	}{{0xaa, odd}, {0x11, first}, {0x33, firstTwo}, {0x88, last}} {
		MOVQ(U64(m.lanes), RAX)
		KMOVQ(RAX, m.to)
	}
	p.load(x2z2x3z3, p.acc)
	MOVQ(U64(4), words)
	MOVQ(U64(63), bits)
	VMOVDQU64(Mem{Base: swaps}, p.a[0])
	VPADDQ(p.a[0], p.a[0], p.a[0])
	VMOVDQU64(p.a[0], Mem{Base: swaps})

	Label("bit")
	sixteenP := func(i int) Mem {
		if i == 0 {
			return p16
		}
		return p16.Offset(zmm)
	}
	// A B C D, as in ladder.
	for i := range fe {
		VPUNPCKLQDQ(p.acc[i], p.acc[i], p.a[i])
		VPUNPCKHQDQ(p.acc[i], p.acc[i], p.b[i])
		VPADDQ(p.b[i], p.a[i], p.low[i])
		VPADDQ(sixteenP(i), p.a[i], p.a[i])
		VPSUBQ(p.b[i], p.a[i], odd, p.low[i])
	}
	x, y, swap := p.fold[1], p.fold[2], p.fold[3]
	VMOVDQU64(Mem{Base: swaps}, swap)
	VPMOVQ2M(swap, K1)
	VPADDQ(swap, swap, swap)
	VMOVDQU64(swap, Mem{Base: swaps})
	VMOVDQU64(firstX, x)
	VMOVDQU64(firstY, y)
	VPADDQ(two, x, K1, x)
	VPADDQ(two, y, K1, y)
	for i := range fe {
		VPERMQ(p.low[i], x, p.a[i])
	}
	for i := fe - 1; i >= 0; i-- {
		VPERMQ(p.low[i], y, p.b[i])
	}
	p.mulLoaded()
	// DA CB AA BB become DA+CB, DA-CB, AA, E and the same, but for BB and k.
	for i := range fe {
		VPUNPCKLQDQ(p.acc[i], p.acc[i], p.a[i])
		VPUNPCKHQDQ(p.acc[i], p.acc[i], p.b[i])
		VPADDQ(sixteenP(i), p.a[i], p.low[i])
		VPSUBQ(p.b[i], p.low[i], p.low[i])
		VPXORQ(p.acc[i], p.acc[i], p.acc[i])
		VPMADD52HUQ(constant, p.low[i], p.acc[i])
	}
	for i := range fe {
		VPSLLQ(Imm(limbBits), p.acc[i], p.acc[i])
		VPADDQ(p.a[i], p.acc[i], p.acc[i])
		VPMADD52LUQ(constant, p.low[i], p.acc[i])
		VPADDQ(p.b[i], p.a[i], first, p.a[i])
		VMOVDQA64(p.low[i], odd, p.a[i])
		VMOVDQA64(p.a[i], firstTwo, p.b[i])
	}
	p.carry()
	for i := range fe {
		VMOVDQA64(p.acc[i], last, p.b[i])
	}
	p.mulLoaded()
	// x3, (DA-CB)^2, x2, z2: put them in order, and multiply by 1, 1, 1, x1.
	for i := range fe {
		VPERMQ(Imm(0x4e), p.acc[i], p.a[i])
		VMOVDQU64(p.at(factor, i), p.b[i])
	}
	for i := 1; i < fe; i++ {
		VMOVDQU64(p.at(factor152, i), p.fold[i])
	}
	p.mulHeld()
	DECQ(bits)
	JNZ(LabelRef("bit"))
	ADDQ(Imm(zmm), swaps)
	MOVQ(U64(64), bits)
	DECQ(words)
	JNZ(LabelRef("bit"))
	p.store(x2z2x3z3)
	VZEROUPPER()
	RET()
}
