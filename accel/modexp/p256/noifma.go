// SPDX-License-Identifier: Apache-2.0

//go:build !amd64 || purego

package p256

const haveIFMA = false

// Multiply needs AVX-512 IFMA, which this build does not use.
func Multiply(_, _, _ [][]byte) { panic("p256: not available") }

// MultiplyBase needs AVX-512 IFMA, which this build does not use.
func MultiplyBase(_, _ [][]byte) { panic("p256: not available") }
