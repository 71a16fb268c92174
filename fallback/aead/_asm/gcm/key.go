// SPDX-License-Identifier: Apache-2.0

package main

import (
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// powers writes the function that fills in the powers of the hash key, the
// first of which is there.
func powers(g *generator) {
	g.function("gcmPowers", "(k *byte)")
	g.Pragma("noescape")
	g.Load(g.Param("k"), RDI)
	g.VMOVDQU(at(RDI, keyPower1), X0)
	g.VMOVDQA(X0, X1)
	g.VMOVDQU(g.constant("gcmPoly", 1, 0xc2<<56), X2)
	g.LEAQ(at(RDI, keyPower1-block), RSI)
	g.LEAQ(at(RDI, keyPowers), RAX)
	g.Label("power")
	g.VPCLMULQDQ(U8(0x00), X0, X1, X3)
	g.VPCLMULQDQ(U8(0x01), X0, X1, X4)
	g.VPCLMULQDQ(U8(0x10), X0, X1, X5)
	g.VPCLMULQDQ(U8(0x11), X0, X1, X1)
	g.VPXOR(X4, X5, X4)
	for _, sum := range []VecPhysical{X4, X1} {
		g.VPCLMULQDQ(U8(0x01), X3, X2, X5)
		g.VPSHUFD(U8(0x4e), X3, X3)
		g.VPXOR(X3, sum, sum)
		g.VPXOR(X5, sum, sum)
		g.VMOVDQA(sum, X3)
	}
	g.VMOVDQU(X1, at(RSI, 0))
	g.SUBQ(Imm(block), RSI)
	g.CMPQ(RSI, RAX)
	g.JAE(LabelRef("power"))
	g.RET()
}
