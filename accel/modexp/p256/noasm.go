// SPDX-License-Identifier: Apache-2.0

//go:build !amd64 || purego

package p256

const haveAssembly = false

// Multiply needs a level, of which this build has none.
func Multiply(_ Level, _, _, _ [][]byte) { panic("p256: not available") }

// MultiplyBase needs a level, of which this build has none.
func MultiplyBase(_ Level, _, _ [][]byte) { panic("p256: not available") }
