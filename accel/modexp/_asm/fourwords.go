// SPDX-License-Identifier: Apache-2.0

package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// fourWords emits arithmetic on numbers of four 64-bit words, the elements of two
// fields, with MULX and two carry chains.
type fourWords struct {
	work         GPPhysical
	r            [8]GPPhysical
	lo, hi, zero GPPhysical
}

const (
	fw     = 4 // words of an element
	fwSize = 8 * fw
)

func newFourWords(work GPPhysical) *fourWords {
	return &fourWords{work, [8]GPPhysical{R8, R9, R10, R11, R12, R13, R14, R15}, RAX, RCX, RBX}
}

// at is word i of an element of the work memory.
func (f *fourWords) at(element, i int) Mem { return wordOf(f.work, element, i) }

func wordOf(p GPPhysical, element, i int) Mem {
	return Mem{Base: p, Disp: element*fwSize + 8*i}
}

// element names an element's words.
func (f *fourWords) element(e int) func(int) Mem {
	return func(i int) Mem { return f.at(e, i) }
}

func pointed(p GPPhysical) func(int) Mem { return func(i int) Mem { return wordOf(p, 0, i) } }

func (f *fourWords) store(to func(int) Mem) {
	for i := range fw {
		MOVQ(f.r[i], to(i))
	}
}

// row adds a word's multiple of b to the lower four of five words of a sum, with two
// chains of carries, and sets the fifth; the first row sets them all.
func (f *fourWords) row(r []GPPhysical, first bool, a Mem, b func(int) Mem) {
	MOVQ(a, RDX)
	XORL(f.zero.As32(), f.zero.As32()) // and both carries
	if first {
		MULXQ(b(0), r[0], r[1])
		for j := 1; j < fw; j++ {
			MULXQ(b(j), f.lo, r[j+1])
			ADCXQ(f.lo, r[j])
		}
		ADCXQ(f.zero, r[fw])
		return
	}
	for j := range fw - 1 {
		MULXQ(b(j), f.lo, f.hi)
		ADCXQ(f.lo, r[j])
		ADOXQ(f.hi, r[j+1])
	}
	MULXQ(b(fw-1), f.lo, r[fw])
	ADCXQ(f.lo, r[fw-1])
	ADCXQ(f.zero, r[fw])
	ADOXQ(f.zero, r[fw])
}

// square sets r to a*a: products of different words once, doubled while the
// squares are added. a may be four registers that are not of r.
func (f *fourWords) square(a func(int) Op) {
	r, lo, hi, zero := f.r, f.lo, f.hi, f.r[7]
	MOVQ(a(0), RDX)
	XORL(zero.As32(), zero.As32()) // and both carries
	MULXQ(a(1), r[1], r[2])
	MULXQ(a(2), lo, r[3])
	ADCXQ(lo, r[2])
	MULXQ(a(3), lo, r[4])
	ADCXQ(lo, r[3])
	MOVQ(a(1), RDX)
	MULXQ(a(2), lo, hi)
	ADOXQ(lo, r[3])
	ADCXQ(hi, r[4])
	MULXQ(a(3), lo, r[5])
	ADOXQ(lo, r[4])
	ADCXQ(zero, r[5])
	MOVQ(a(2), RDX)
	MULXQ(a(3), lo, r[6])
	ADOXQ(lo, r[5])
	ADOXQ(zero, r[6])

	XORL(r[7].As32(), r[7].As32()) // and both carries
	MOVQ(a(0), RDX)
	MULXQ(RDX, r[0], hi)
	ADCXQ(r[1], r[1])
	ADOXQ(hi, r[1])
	for i := 1; i < fw; i++ {
		MOVQ(a(i), RDX)
		MULXQ(RDX, lo, hi)
		ADCXQ(r[2*i], r[2*i])
		ADOXQ(lo, r[2*i])
		ADCXQ(r[2*i+1], r[2*i+1])
		ADOXQ(hi, r[2*i+1])
	}
}

// product sets r to a*b.
func (f *fourWords) product(a, b func(int) Mem) {
	for i := range fw {
		f.row(f.r[i:i+fw+1], i == 0, a(i), b)
	}
}
