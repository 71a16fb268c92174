// SPDX-License-Identifier: Apache-2.0

//go:build !purego

package tun

import "quicksand/accel"

//go:generate go run -C _asm . -dir ..

//go:noescape
func sumAVX2(p *byte, n int) uint64

//go:noescape
func copySumAVX2(dst, src *byte, n int) uint64

// chunk is what the kernels add up in one step; of less the plain code is
// faster.
const chunk = 64

var wide = accel.Detect().Has(accel.AVX2)

// sum adds b to s.
func sum(s uint64, b []byte) uint64 {
	if n := len(b) &^ (chunk - 1); wide && n > 0 {
		s += sumAVX2(&b[0], n)
		b = b[n:]
	}
	return sumGeneric(s, b)
}

// copySum copies src to dst, which is at least as long, and adds it to s.
func copySum(s uint64, dst, src []byte) uint64 {
	if n := len(src) &^ (chunk - 1); wide && n > 0 {
		_ = dst[:len(src)]
		s += copySumAVX2(&dst[0], &src[0], n)
		dst, src = dst[n:], src[n:]
	}
	return copySumGeneric(s, dst, src)
}
