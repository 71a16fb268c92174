// SPDX-License-Identifier: Apache-2.0

//go:build !amd64 || purego

package p521

const haveAssembly = false

// Multiply needs MULX and ADX, which this build does not use.
func Multiply(_, _, _ []byte) { panic("p521: not available") }

// MultiplyBase needs MULX and ADX, which this build does not use.
func MultiplyBase(_, _ []byte) { panic("p521: not available") }
