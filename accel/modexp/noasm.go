// SPDX-License-Identifier: Apache-2.0

//go:build !amd64 || purego

package modexp

const haveAssembly = false

// Levels lists nothing that would need these.
func newWide([]byte, int) fast { return nil }
func newADX([]byte, int) fast  { return nil }
