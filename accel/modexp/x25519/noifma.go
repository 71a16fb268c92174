// SPDX-License-Identifier: Apache-2.0

//go:build !amd64 || purego

package x25519

const haveIFMA = false

// Multiply needs AVX-512 IFMA, which this build does not use.
func Multiply(_, _, _ [][]byte) { panic("x25519: not available") }
