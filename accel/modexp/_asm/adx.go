// SPDX-License-Identifier: Apache-2.0

package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// mulWords multiplies by rows of eight words with MULX and two carry chains,
// which meet again at the end of a row. As in reduce, p+1 is a multiple of 2^64: a word is its own digit,
// and the digit's multiple begins one word higher.
func mulWords() {
	const row = 8
	TEXT("mulWords", NOSPLIT, "func(out, a, b, p, p1, t *uint64, rows int)")
	Doc("mulWords sets out to a*b / 2^(512*rows) modulo p, for numbers of rows*8 words.",
		"It is below 2^(512*rows), as the factors are, and not reduced further. p1 is p+1;",
		"t is room for twice a number. out may be a or b.")
	Pragma("noescape")
	out, zero, a, b, t, rows := RDI, RDI, RSI, R15, RBX, R14
	x, z, n, high, next, carry, outer := R8, R9, RCX, R10, R11, R12, R13
	Load(Param("a"), a)
	Load(Param("b"), b)
	Load(Param("t"), t)
	Load(Param("rows"), rows)

	// addRow adds RDX times the number at x to the one at z and leaves what is
	// carried out of the top in high.
	addRow := func(name string) {
		MOVQ(rows, n)
		XORQ(high, high)
		Label(name)
		XORQ(RAX, RAX) // and both carries
		prev, hi := high, next
		for i := range row {
			MULXQ(Mem{Base: x, Disp: 8 * i}, RAX, hi)
			ADCXQ(prev, RAX)
			ADOXQ(Mem{Base: z, Disp: 8 * i}, RAX)
			MOVQ(RAX, Mem{Base: z, Disp: 8 * i})
			prev, hi = hi, prev
		}
		ADCXQ(zero, high)
		ADOXQ(zero, high)
		ADDQ(Imm(8*row), x)
		ADDQ(Imm(8*row), z)
		DECQ(n)
		JNZ(LabelRef(name))
	}

	// The product.
	MOVQ(t, z)
	MOVQ(rows, n)
	XORQ(zero, zero)
	Label("zero")
	for i := range row {
		MOVQ(zero, Mem{Base: z, Disp: 8 * i})
	}
	ADDQ(Imm(8*row), z)
	DECQ(n)
	JNZ(LabelRef("zero"))
	MOVQ(rows, outer)
	SHLQ(Imm(3), outer)
	MOVQ(t, RBP)
	Label("word")
	MOVQ(Mem{Base: b}, RDX)
	ADDQ(Imm(8), b)
	MOVQ(a, x)
	MOVQ(RBP, z)
	addRow("product")
	MOVQ(high, Mem{Base: z})
	ADDQ(Imm(8), RBP)
	DECQ(outer)
	JNZ(LabelRef("word"))

	// The reduction.
	Load(Param("p1"), a)
	MOVQ(rows, outer)
	SHLQ(Imm(3), outer)
	XORQ(carry, carry)
	Label("digit")
	MOVQ(Mem{Base: t}, RDX)
	MOVQ(a, x)
	MOVQ(t, z)
	addRow("multiple")
	ADDQ(carry, high)
	MOVQ(zero, carry) // leaves the flags alone
	ADCQ(Imm(0), carry)
	ADDQ(high, Mem{Base: z})
	ADCQ(Imm(0), carry)
	ADDQ(Imm(8), t)
	DECQ(outer)
	JNZ(LabelRef("digit"))

	// What is carried out of the top is worth 2^(512*rows): take p away for it.
	Load(Param("out"), out)
	Load(Param("p"), a)
	NEGQ(carry)
	MOVQ(rows, n)
	XORQ(high, high)
	Label("less")
	masked := []GPPhysical{RAX, RDX, R8, R9, R11, R13, R15, RBP}
	for i, r := range masked {
		MOVQ(Mem{Base: a, Disp: 8 * i}, r)
		ANDQ(carry, r)
	}
	NEGQ(high) // the borrow of the row before
	for i, r := range masked {
		MOVQ(Mem{Base: t, Disp: 8 * i}, R14)
		SBBQ(r, R14)
		MOVQ(R14, Mem{Base: out, Disp: 8 * i})
	}
	SBBQ(high, high)
	ADDQ(Imm(8*row), a)
	ADDQ(Imm(8*row), t)
	ADDQ(Imm(8*row), out)
	DECQ(n)
	JNZ(LabelRef("less"))
	RET()
}
