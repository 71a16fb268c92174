// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

const ymm = 32 // bytes of a register

// pickPoint keeps an entry by a mask, as choose does, in so many registers.
func pickPoint(name string, entries, registers int) {
	TEXT(name, NOSPLIT, "func(out, table *uint64, digit uint64)")
	Doc(fmt.Sprintf("%s sets out, of %d words, to entry digit of a table of %d that begins with", name, 4*registers, entries),
		"entry 1, or to zeros where digit is 0. Every entry is read.")
	Pragma("noescape")
	out, table, n := RDI, RSI, RCX
	Load(Param("out"), out)
	Load(Param("table"), table)
	digit, index, one, mask := Y0, Y1, Y2, Y3
	sums := []VecPhysical{Y4, Y5, Y6, Y7, Y8, Y9, Y10}[:registers]
	parts := []VecPhysical{Y11, Y12, Y13, Y14, Y15}
	d, err := Param("digit").Resolve()
	if err != nil {
		panic(err)
	}
	VPBROADCASTQ(d.Addr, digit)
	VPCMPEQQ(one, one, one)
	VPSRLQ(Imm(63), one, one)
	VMOVDQA(one, index)
	for _, s := range sums {
		VPXOR(s, s, s)
	}
	MOVL(U32(uint32(entries/2)), n.As32())
	Label("entry")
	for half := range 2 {
		VPCMPEQQ(index, digit, mask)
		VPADDQ(one, index, index)
		for i := range sums {
			part := parts[i%len(parts)]
			VPAND(Mem{Base: table, Disp: (half*registers + i) * ymm}, mask, part)
			VPOR(part, sums[i], sums[i])
		}
	}
	ADDQ(I32(int32(2*registers*ymm)), table)
	DECQ(n)
	JNZ(LabelRef("entry"))
	for i, s := range sums {
		VMOVDQU(s, Mem{Base: out, Disp: i * ymm})
	}
	VZEROUPPER()
	RET()
}
