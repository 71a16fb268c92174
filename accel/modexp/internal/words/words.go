// SPDX-License-Identifier: Apache-2.0

// Package words lends the memory that the kernels compute in: aligned to cache
// lines, so that no vector register's load crosses one, and overwritten when it
// is given back.
package words

import (
	"math/bits"
	"sync"
	"unsafe"
)

const line = 64 // bytes of a cache line and of a vector register

// Aligned returns n words that begin on a cache line.
func Aligned(n int) []uint64 {
	b := make([]uint64, n+line/8-1)
	skip := int(-uintptr(unsafe.Pointer(&b[0]))%line) / 8
	return b[skip : skip+n : skip+n]
}

// spare keeps what was given back, by the power of two that is its capacity.
var spare [bits.UintSize]sync.Pool

// Take returns n words of zeros, at least 1, that begin on a cache line.
func Take(n int) []uint64 {
	class := bits.Len(uint(n - 1))
	if b, ok := spare[class].Get().(*[]uint64); ok {
		return (*b)[:n]
	}
	return Aligned(1 << class)[:n]
}

// Give takes words from Take back and overwrites them.
func Give(b []uint64) {
	clear(b)
	spare[bits.Len(uint(cap(b)-1))].Put(&b)
}
