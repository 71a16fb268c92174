// SPDX-License-Identifier: Apache-2.0

package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// A field element of Curve25519 has six limbs of 43 bits, in six registers or at
// a multiple of six registers' size in memory. 2^258 is 152 modulo 2^255-19, and
// six limbs leave enough room below 52 bits that sums, differences and 152 times
// either can be factors without a carry.
const (
	fe       = 6
	feBits   = 43
	feSize   = fe * zmm
	feFold   = 152
	ladderK  = 121665 // (A-2)/4 of RFC 7748 section 5
	feMinus  = 2      // 16p is 2^44-304 and five limbs of 2^44-2
	feMinus0 = 304
)

// field emits arithmetic on elements in memory, given by their place.
type field struct {
	base       GPPhysical
	acc        []VecPhysical // seven sums of high halves; the last is column 6
	low        []VecPhysical // six sums of low halves
	a, b, fold []VecPhysical
	mask, c152 VecPhysical
}

func newField(base GPPhysical) *field {
	f := &field{
		base: base, acc: z[0:7], low: z[7:13], a: z[13:19], b: z[19:25], fold: z[24:30], // fold[0] is not used
		mask: z[31], c152: z[30],
	}
	broadcast(1<<feBits-1, f.mask)
	broadcast(feFold, f.c152)
	return f
}

func broadcast(x uint64, into VecPhysical) {
	MOVQ(U64(x), RAX)
	VPBROADCASTQ(RAX, into)
}

func (f *field) at(element, limb int) Mem {
	return Mem{Base: f.base, Disp: element*feSize + limb*zmm}
}

func (f *field) load(element int, into []VecPhysical) {
	for i := range fe {
		VMOVDQU64(f.at(element, i), into[i])
	}
}

func (f *field) store(element int) {
	for i := range fe {
		VMOVDQU64(f.acc[i], f.at(element, i))
	}
}

// times152 sets fold[i] to 152*from[i].
func (f *field) times152(from []VecPhysical, first int) {
	for i := first; i < fe; i++ {
		VPXORQ(f.fold[i], f.fold[i], f.fold[i])
		VPMADD52LUQ(from[i], f.c152, f.fold[i])
	}
}

// A product of limbs i and j is one of these: where i+j is 6 or more, limb j is
// multiplied by 152, and the product moved down by six limbs.
type term struct {
	x, y   VecPhysical
	column int
}

// sum adds the halves of all products up, shifts the high ones to the limbs'
// width and puts both together. Two sums for a column halve the time that the
// last of its products waits for the first.
func (f *field) sum(terms []term) {
	for i := range fe {
		VPXORQ(f.acc[i], f.acc[i], f.acc[i])
		VPXORQ(f.low[i], f.low[i], f.low[i])
	}
	VPXORQ(f.acc[fe], f.acc[fe], f.acc[fe])
	for _, t := range terms {
		VPMADD52HUQ(t.x, t.y, f.acc[t.column+1])
		VPMADD52LUQ(t.x, t.y, f.low[t.column])
	}
	VPMADD52LUQ(f.acc[fe], f.c152, f.acc[0])
	for i := range fe {
		VPSLLQ(Imm(limbBits-feBits), f.acc[i], f.acc[i])
		VPADDQ(f.low[i], f.acc[i], f.acc[i])
	}
	f.carry()
}

// carry brings limbs of up to 2^60 below 2^43+2^21. It uses the registers of low.
func (f *field) carry() {
	for i := range fe {
		VPSRLQ(Imm(feBits), f.acc[i], f.low[i])
		VPANDQ(f.mask, f.acc[i], f.acc[i])
	}
	VPMADD52LUQ(f.low[fe-1], f.c152, f.acc[0])
	for i := 1; i < fe; i++ {
		VPADDQ(f.low[i-1], f.acc[i], f.acc[i])
	}
}

// mul sets out to a*b. a is below 2^45 in each limb, 152*b below 2^52.
func (f *field) mul(out, a, b int) {
	f.load(a, f.a)
	f.load(b, f.b)
	f.mulLoaded()
	f.store(out)
}

func (f *field) mulLoaded() {
	f.times152(f.b, 1)
	f.mulHeld()
}

// mulHeld is for a factor b whose multiples fold holds already.
func (f *field) mulHeld() {
	var terms []term
	for j := range fe {
		for i := range fe {
			if i+j < fe {
				terms = append(terms, term{f.a[i], f.b[j], i + j})
			} else {
				terms = append(terms, term{f.a[i], f.fold[j], i + j - fe})
			}
		}
	}
	f.sum(terms)
}

// sqrLoaded sets acc to the square of what a holds. Twice a goes to b.
func (f *field) sqrLoaded() {
	f.times152(f.a, fe/2)
	for i := range fe - 1 {
		VPADDQ(f.a[i], f.a[i], f.b[i])
	}
	var terms []term
	for j := range fe {
		for i := 0; i <= j; i++ {
			x, y := f.b[i], f.a[j]
			if i == j {
				x = f.a[i]
			}
			if i+j < fe {
				terms = append(terms, term{x, y, i + j})
			} else {
				terms = append(terms, term{x, f.fold[j], i + j - fe})
			}
		}
	}
	f.sum(terms)
}

func (f *field) sqr(out, a int) {
	f.load(a, f.a)
	f.sqrLoaded()
	f.store(out)
}

// Registers that additions use: those of products' folded factors.
var spare = z[25:30]

func (f *field) add(out, a, b int) {
	for i := range fe {
		r := spare[i%len(spare)]
		VMOVDQU64(f.at(a, i), r)
		VPADDQ(f.at(b, i), r, r)
		VMOVDQU64(r, f.at(out, i))
	}
}

// sub adds 16p, whose limbs are in memory at p16 and p16 plus a register.
func (f *field) sub(out, a, b int, p16 Mem) {
	for i := range fe {
		r := spare[i%len(spare)]
		VMOVDQU64(f.at(a, i), r)
		if i == 0 {
			VPADDQ(p16, r, r)
		} else {
			VPADDQ(p16.Offset(zmm), r, r)
		}
		VPSUBQ(f.at(b, i), r, r)
		VMOVDQU64(r, f.at(out, i))
	}
}

func x25519() {
	p16 := GLOBL("p16", RODATA|NOPTR)
	for i := range 16 {
		v := uint64(1<<44 - feMinus)
		if i < 8 {
			v = 1<<44 - feMinus0
		}
		DATA(8*i, U64(v))
	}

	const (
		x2, z2, x3, z3, x1, a, b, c, d, da, cb, aa, bb, e = 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13
	)
	TEXT("ladder", NOSPLIT, "func(work, swaps *uint64)")
	Doc("ladder runs RFC 7748's steps from bit 254 down. work holds fourteen elements of",
		"eight lanes: x2, z2, x3, z3 and x1 are set, the rest is room. swaps has four",
		"words of eight lanes, the highest first: bit t is bit t of a lane's scalar xor",
		"bit t+1. swaps is used up.")
	Pragma("noescape")
	work, swaps, words, bits := RDI, RSI, R8, R9
	Load(Param("work"), work)
	Load(Param("swaps"), swaps)
	f := newField(work)
	nextSwap := func() {
		swap := spare[0]
		VMOVDQU64(Mem{Base: swaps}, swap)
		VPMOVQ2M(swap, K1)
		VPADDQ(swap, swap, swap)
		VMOVDQU64(swap, Mem{Base: swaps})
	}
	MOVQ(U64(4), words)
	MOVQ(U64(63), bits)
	nextSwap() // bit 255 is none of the scalar's
	Label("bit")
	f.add(a, x2, z2)
	f.sub(b, x2, z2, p16)
	f.add(c, x3, z3)
	f.sub(d, x3, z3, p16)
	// The sum and the difference of DA and CB are the same, but for a sign that
	// is squared away, whether the points are swapped or not. So only what is
	// doubled is picked.
	f.mul(da, d, a)
	f.mul(cb, b, c)
	nextSwap()
	pickSqr := func(out, one, other int) {
		for i := range fe {
			VMOVDQU64(f.at(one, i), f.a[i])
			VMOVDQU64(f.at(other, i), K1, f.a[i])
		}
		f.sqrLoaded()
		f.store(out)
	}
	pickSqr(aa, a, c)
	pickSqr(bb, b, d)
	f.add(a, da, cb)
	f.sub(b, da, cb, p16)
	f.sub(e, aa, bb, p16)
	f.mul(x2, aa, bb)
	f.sqr(x3, a)
	f.sqr(c, b)
	// k = aa + 121665e: the product has up to 62 bits, cut at 52.
	f.load(e, f.a)
	broadcast(ladderK, spare[0])
	for i := range fe {
		VPXORQ(f.acc[i], f.acc[i], f.acc[i])
		VPMADD52HUQ(spare[0], f.a[i], f.acc[i])
	}
	for i := range fe {
		VPSLLQ(Imm(limbBits), f.acc[i], f.acc[i])
		VPADDQ(f.at(aa, i), f.acc[i], f.acc[i])
		VPMADD52LUQ(spare[0], f.a[i], f.acc[i])
	}
	f.carry()
	for i := range fe {
		VMOVDQA64(f.acc[i], f.b[i])
	}
	f.mulLoaded()
	f.store(z2)
	f.mul(z3, c, x1)
	DECQ(bits)
	JNZ(LabelRef("bit"))
	ADDQ(Imm(zmm), swaps)
	MOVQ(U64(64), bits)
	DECQ(words)
	JNZ(LabelRef("bit"))
	VZEROUPPER()
	RET()

	TEXT("mulSqr", NOSPLIT, "func(out, a, b *uint64, squarings int)")
	Doc("mulSqr sets the element out to a*b, then squares it a number of times.")
	Pragma("noescape")
	pa, pb, out, n := RSI, RDX, RDI, R8
	Load(Param("out"), out)
	Load(Param("a"), pa)
	Load(Param("b"), pb)
	Load(Param("squarings"), n)
	f = newField(out)
	for i := range fe {
		VMOVDQU64(Mem{Base: pa, Disp: i * zmm}, f.a[i])
		VMOVDQU64(Mem{Base: pb, Disp: i * zmm}, f.b[i])
	}
	f.mulLoaded()
	TESTQ(n, n)
	JZ(LabelRef("store"))
	Label("square")
	for i := range fe {
		VMOVDQA64(f.acc[i], f.a[i])
	}
	f.sqrLoaded()
	DECQ(n)
	JNZ(LabelRef("square"))
	Label("store")
	f.store(0)
	VZEROUPPER()
	RET()

	x25519Lone(p16)
}
