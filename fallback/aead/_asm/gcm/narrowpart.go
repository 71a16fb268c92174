// SPDX-License-Identifier: Apache-2.0

package main

import (
	"github.com/mmcloughlin/avo/attr"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// partMask has 16 bytes of ones, then as many of zeros.
func (n *narrowGen) partMask() Mem {
	return n.bytes("gcmPartMask", 32, func(i int) byte {
		if i < 16 {
			return 0xff
		}
		return 0
	})
}

// partShuffle moves bytes down, and zeros in.
func (n *narrowGen) partShuffle() Mem {
	return n.bytes("gcmPartShuffle", 32, func(i int) byte {
		if i < 16 {
			return byte(i)
		}
		return 0x80
	})
}

func (n *narrowGen) bytes(name string, count int, f func(int) byte) Mem {
	if m, ok := n.consts[name]; ok {
		return m
	}
	m := n.StaticGlobal(name)
	n.DataAttributes(attr.RODATA | attr.NOPTR)
	for i := range count {
		n.AppendDatum(U8(f(i)))
	}
	n.consts[name] = m
	return m
}

// loadPart loads the last 1 to 15 bytes of a packet, followed by zeros. It
// reads what precedes them instead of what follows.
func (n *narrowGen) loadPart(to, from, count Register) {
	n.VMOVDQU(Mem{Base: from, Index: count, Scale: 1, Disp: -16}, to)
	n.LEAQ(n.partShuffle(), R14)
	n.SUBQ(count, R14)
	n.VPSHUFB(at(R14, 16), to, to)
}

// storePart stores the first count bytes, 1 to 15. It uses R11 and R14, and
// moves the address.
func (n *narrowGen) storePart(from, to, count Register) {
	n.VMOVQ(from, R14)
	n.VPEXTRQ(U8(1), from, R11)
	for _, size := range []int{8, 4, 2, 1} {
		skip := n.label("not")
		n.TESTL(U32(size), count.(GP).As32())
		n.JZ(LabelRef(skip))
		switch size {
		case 8:
			n.MOVQ(R14, at(to, 0))
			n.MOVQ(R11, R14)
		case 4:
			n.MOVL(R14L, at(to, 0))
			n.SHRQ(U8(32), R14)
		case 2:
			n.MOVW(R14W, at(to, 0))
			n.SHRQ(U8(16), R14)
		case 1:
			n.MOVB(R14B, at(to, 0))
		}
		if size > 1 {
			n.ADDQ(Imm(uint64(size)), to)
		}
		n.Label(skip)
	}
}
