// SPDX-License-Identifier: Apache-2.0

// Package words lends the memory that the kernels compute in: aligned to cache
// lines, so that no vector register's load crosses one, and overwritten when it
// is given back.
package words

import (
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

// spare keeps what was given back.
var spare sync.Pool

// Take returns n words of zeros that begin on a cache line.
func Take(n int) []uint64 {
	if b, ok := spare.Get().(*[]uint64); ok && cap(*b) >= n {
		return (*b)[:n]
	}
	return Aligned(n)
}

// Give takes words from Take back and overwrites them.
func Give(b []uint64) {
	clear(b)
	spare.Put(&b)
}
