// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// lone multiplies one number of width*8 limbs by another. Lane l of register v
// holds limb l*width+v, so that moving a number down by a limb is to rename the
// registers; only the one that held limb 0 has its lanes moved.
//
// A step adds one limb b_i of b times a, and the multiple of p that makes limb 0
// vanish: its digit is limb 0 itself, as in reduce. What waits on the digit is
// the bottleneck for short numbers. Their sums of a*b and of q*p are therefore
// in registers of their own, and b_(i+1)*a_0 is added a step ahead, before
// anything that needs the digit.
type lone struct {
	width int
	split bool          // the sums of q*p have registers of their own
	x     []VecPhysical // the sum of a*b, or of both
	y     []VecPhysical // the sum of q*p where split
	extra VecPhysical   // else high(q*p) of limb 0, kept out of the chain
	b     [2]VecPhysical
	digit VecPhysical
	carry VecPhysical
	temp  []VecPhysical

	pa, pb, pp GPPhysical
	held       []VecPhysical // a and then p where they fit in registers
}

func lones() {
	for _, width := range []int{3, 4, 5, 8, 10, 15, 20} {
		newLone(width).generate()
	}
}

func newLone(width int) *lone {
	k := &lone{width: width, split: width <= 5, pa: RSI, pb: RDX, pp: RBX}
	k.b, k.digit, k.carry = [2]VecPhysical{z[31], z[30]}, z[29], z[28]
	k.x = z[:width]
	next := width
	if k.split {
		k.y = z[width : 2*width]
		k.held = z[2*width : 4*width]
		next = 4 * width
	} else {
		k.extra = z[width]
		next++
	}
	k.temp = z[next:28]
	return k
}

// limbs returns register v of a (or of p), loaded into a register in turn where
// they are not held.
func (k *lone) limbs(base GPPhysical, v, turn int) VecPhysical {
	if k.held != nil {
		if base == k.pp {
			v += k.width
		}
		return k.held[v]
	}
	r := k.temp[turn%len(k.temp)]
	VMOVDQU64(Mem{Base: base, Disp: v * zmm}, r)
	return r
}

func (k *lone) generate() {
	w := k.width
	TEXT(fmt.Sprintf("mulLone%d", w), NOSPLIT, "func(out, a, b, p1 *uint64)")
	Doc(fmt.Sprintf("mulLone%d sets out to a*b / 2^(52*%d) modulo p, for numbers of %d limbs", w, 8*w, 8*w),
		fmt.Sprintf("below 2^52, limb l*%d+v at word 8*v+l. p1 is p+1. Where a and b are below", w),
		"2p, so is out, which may be either of them.")
	Pragma("noescape")
	out, n := RDI, R8
	Load(Param("out"), out)
	Load(Param("a"), k.pa)
	Load(Param("b"), k.pb)
	Load(Param("p1"), k.pp)
	MOVQ(U64(1), RAX)
	KMOVQ(RAX, K1) // lane 0
	for v := range k.held {
		if v < w {
			VMOVDQU64(Mem{Base: k.pa, Disp: v * zmm}, k.held[v])
		} else {
			VMOVDQU64(Mem{Base: k.pp, Disp: (v - w) * zmm}, k.held[v])
		}
	}
	for _, r := range append(append([]VecPhysical{}, k.x...), k.y...) {
		VPXORQ(r, r, r)
	}
	if !k.split {
		VPXORQ(k.extra, k.extra, k.extra)
	}
	VPBROADCASTQ(Mem{Base: k.pb}, k.b[0])
	VPMADD52LUQ(k.limbs(k.pa, 0, 0), k.b[0], k.x[0])
	MOVQ(U64(8), n)
	Label("lane")
	// The limb after the last is 0: K2 lets all lanes through but at the end.
	XORQ(RAX, RAX)
	CMPQ(n, Imm(2))
	SBBQ(RAX, RAX)
	NOTQ(RAX)
	KMOVQ(RAX, K2)
	for v := range w {
		k.step(v)
	}
	if w%2 == 1 {
		VMOVDQA64(k.b[1], k.b[0])
	}
	ADDQ(Imm(8), k.pb)
	DECQ(n)
	JNZ(LabelRef("lane"))
	k.normalise(out)
	VZEROUPPER()
	RET()
}

// step leaves the registers of x and y renamed; after width steps each has its
// first name again.
func (k *lone) step(v int) {
	w := k.width
	x := func(i int) VecPhysical { return k.x[(v+i)%w] }
	y := x
	if k.split {
		y = func(i int) VecPhysical { return k.y[(v+i)%w] }
	}
	b, next := k.b[v%2], k.b[(v+1)%2]
	// Limb 0's register takes the digit, then is moved down by a lane.
	low := y(0)
	if k.split {
		VPADDQ(x(0), low, low)
		VPXORQ(x(0), x(0), x(0))
	} else {
		VPADDQ(k.extra, low, low)
	}
	VPBROADCASTQ(low.(Vec).AsX(), k.digit)
	// What needs no digit fills the wait.
	if v < w-1 {
		VPBROADCASTQ(Mem{Base: k.pb, Disp: (v + 1) * zmm}, next)
	} else {
		VPBROADCASTQ_Z(Mem{Base: k.pb, Disp: 8}, K2, next)
	}
	turn := 0
	a := k.limbs(k.pa, 0, turn)
	VPMADD52HUQ(a, b, x(1))
	VPMADD52LUQ(a, next, x(1)) // x(1) is the next step's limb 0
	for i := 1; i < w; i++ {
		turn++
		a := k.limbs(k.pa, i, turn)
		VPMADD52LUQ(a, b, x(i))
		if i < w-1 {
			VPMADD52HUQ(a, b, x(i+1))
		} else if k.split {
			VPMADD52HUQ(a, b, x(0))
		}
	}
	VPSRLQ_Z(Imm(limbBits), low, K1, k.carry)
	VPADDQ(k.carry, y(1), y(1))
	turn++
	p0 := k.limbs(k.pp, 0, turn)
	turn++
	p1 := k.limbs(k.pp, 1, turn)
	VPMADD52LUQ(p1, k.digit, y(1))
	VPMADD52LUQ(p0, k.digit, low)
	if k.split {
		VPMADD52HUQ(p0, k.digit, x(1))
	} else {
		VPXORQ(k.extra, k.extra, k.extra)
		VPMADD52HUQ(p0, k.digit, k.extra)
	}
	// The carry's register is free again; its zero comes in at the top lane.
	VPXORQ(k.carry, k.carry, k.carry)
	VALIGNQ(Imm(1), low, k.carry, low)
	for i := 1; i < w; i++ {
		p := p1
		if i > 1 {
			turn++
			p = k.limbs(k.pp, i, turn)
			VPMADD52LUQ(p, k.digit, y(i))
		}
		if i < w-1 {
			VPMADD52HUQ(p, k.digit, y(i+1))
		} else {
			VPMADD52HUQ(p, k.digit, low)
		}
	}
	if !k.split {
		turn++
		VPMADD52HUQ(k.limbs(k.pa, w-1, turn), b, low)
	}
}

// normalise adds the sums up and carries them to limbs below 2^52.
func (k *lone) normalise(out GPPhysical) {
	w := k.width
	mask, one := k.b[0], k.b[1]
	if k.split {
		for i := range w {
			VPADDQ(k.y[i], k.x[i], k.x[i])
		}
	} else {
		VPADDQ(k.extra, k.x[0], k.x[0])
	}
	MOVQ(U64(1<<limbBits-1), RAX)
	VPBROADCASTQ(RAX, mask)
	zero := k.digit
	VPXORQ(zero, zero, zero)
	// ripple carries inside the lanes and leaves what goes to the next lane.
	ripple := func(into VecPhysical) {
		for i := range w {
			VPSRLQ(Imm(limbBits), k.x[i], into)
			VPANDQ(mask, k.x[i], k.x[i])
			if i < w-1 {
				VPADDQ(into, k.x[i+1], k.x[i+1])
			}
		}
	}
	ripple(k.carry)
	VALIGNQ(Imm(7), zero, k.carry, k.carry) // up by a lane
	VPADDQ(k.carry, k.x[0], k.x[0])
	ripple(k.carry)
	// Now a lane sends 1 or 0 on, and passes a 1 on if all its limbs are ones.
	// Adding the senders, moved up by a lane, to those that pass on, as 8-bit
	// numbers, finds every lane that a 1 reaches.
	VPTESTMQ(k.carry, k.carry, K3)
	all := k.carry
	VMOVDQA64(k.x[0], all)
	for i := 1; i < w; i++ {
		VPANDQ(k.x[i], all, all)
	}
	VPCMPEQQ(mask, all, K4)
	KMOVB(K3, EAX)
	KMOVB(K4, ECX)
	LEAL(Mem{Base: ECX, Index: EAX, Scale: 2}, EAX)
	XORL(ECX, EAX)
	KMOVB(EAX, K3)
	VPTERNLOGQ(Imm(0xff), one, one, one)
	VPSUBQ(one, k.x[0], K3, k.x[0])
	ripple(k.carry)
	for i := range w {
		VMOVDQU64(k.x[i], Mem{Base: out, Disp: i * zmm})
	}
}

// chooseLone is choose for one number.
func chooseLone() {
	TEXT("chooseLone", NOSPLIT, "func(out, table *uint64, digit uint64, entries, width int)")
	Doc("chooseLone sets out to entry digit of the table, whose entries have width*8",
		"limbs each. Every entry is read.")
	Pragma("noescape")
	out, table, entries, width := RDI, RSI, R8, R9
	p, n, stride := R10, R11, R12
	Load(Param("out"), out)
	Load(Param("table"), table)
	Load(Param("digit"), RAX)
	Load(Param("entries"), entries)
	Load(Param("width"), width)
	VPBROADCASTQ(RAX, z[30])
	MOVQ(U64(1), RAX)
	VPBROADCASTQ(RAX, z[29])
	IMUL3Q(Imm(zmm), width, stride)
	Label("limb")
	VPXORQ(z[0], z[0], z[0])
	VPXORQ(z[31], z[31], z[31])
	MOVQ(table, p)
	MOVQ(entries, n)
	Label("entry")
	VPCMPEQQ(z[30], z[31], K1)
	VMOVDQU64(Mem{Base: p}, K1, z[0])
	VPADDQ(z[29], z[31], z[31])
	ADDQ(stride, p)
	DECQ(n)
	JNZ(LabelRef("entry"))
	VMOVDQU64(z[0], Mem{Base: out})
	ADDQ(Imm(zmm), out)
	ADDQ(Imm(zmm), table)
	DECQ(width)
	JNZ(LabelRef("limb"))
	VZEROUPPER()
	RET()
}
