// SPDX-License-Identifier: Apache-2.0

// Package p256 multiplies points of NIST's P-256 (SP 800-186), eight at a time
// with AVX-512 IFMA or one at a time with MULX and ADX, in constant time in the
// scalars.
package p256

import "quicksand/accel/modexp/internal/level"

// Size is the length in bytes of a coordinate and of a scalar.
const Size = 32

// Lanes is the largest number of products that are computed together.
const Lanes = level.Lanes

// Level is a way to compute.
type Level = level.Level

// The levels, worst first.
const (
	ADX  = level.ADX  // MULX and two carry chains, one product at a time
	IFMA = level.IFMA // AVX-512 IFMA, eight products at a time
)

// Levels lists the levels that this build has and the CPU can run, best first;
// none where only crypto/ecdh is left.
func Levels() []Level {
	if !haveAssembly {
		return nil
	}
	return level.Found()
}
