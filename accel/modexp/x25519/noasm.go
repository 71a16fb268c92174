// SPDX-License-Identifier: Apache-2.0

//go:build !amd64 || purego

package x25519

const haveAssembly = false

// Multiply needs a level, of which this build has none.
func Multiply(_ Level, _, _, _ [][]byte) { panic("x25519: not available") }
