// SPDX-License-Identifier: Apache-2.0

//go:build amd64 && !purego

package modexp

import "math/big"

// lone computes one power with all eight lanes on the same number, for the
// request that has no company. Its numbers have width*8 limbs; limb l*width+v is
// word 8*v+l.
type lone struct {
	single
	most int
}

// loneKernel is a multiplication, and up to how many powers are sooner computed
// with it, one after the other, than in eight lanes: a run of eight takes the time
// of 2.4 lone ones with 1024 bits, 4.6 with 2048 and 5.9 with 8192
// (BenchmarkPower).
type loneKernel struct {
	mul  func(out, a, b, p1 *uint64)
	most int
}

// loneKernels are by the number of registers of a number.
var loneKernels = map[int]loneKernel{
	3: {mulLone3, 2}, 4: {mulLone4, 3}, 5: {mulLone5, 4}, 8: {mulLone8, 4},
	10: {mulLone10, 5}, 15: {mulLone15, 5}, 20: {mulLone20, 5},
}

// newLone returns nil for a length that is not one of the MODP groups'.
func newLone(n *big.Int, size, length int) *lone {
	width := (limbsFor(size) + Lanes - 1) / Lanes
	kernel, ok := loneKernels[width]
	if !ok {
		return nil
	}
	k := &lone{most: kernel.most}
	k.shape = newShape(n, width*Lanes, limbBits, func(limb int) int { return limb%width*Lanes + limb/width })
	k.prepare(n, length)
	p1 := k.number(new(big.Int).Add(n, big.NewInt(1)))
	k.mul = func(out, a, b, _ []uint64) { kernel.mul(&out[0], &a[0], &b[0], &p1[0]) }
	k.sqr = func(out, a, _ []uint64) { kernel.mul(&out[0], &a[0], &a[0], &p1[0]) }
	k.pick = func(out, table []uint64, digit uint64) {
		chooseLone(&out[0], &table[0], digit, len(table)/len(out), width)
	}
	return k
}
