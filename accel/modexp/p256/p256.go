// SPDX-License-Identifier: Apache-2.0

// Package p256 multiplies points of NIST's P-256 (SP 800-186), eight at a time
// with AVX-512 IFMA or one at a time with MULX and ADX, in constant time in the
// scalars.
package p256

import "quicksand/accel"

// Size is the length in bytes of a coordinate and of a scalar.
const Size = 32

// Lanes is the largest number of products that are computed together.
const Lanes = 8

// Level is a way to compute.
type Level uint8

// The levels, worst first.
const (
	ADX  Level = iota // MULX and two carry chains, one product at a time
	IFMA              // AVX-512 IFMA, eight products at a time
)

// String returns the level's name, as package accel has it.
func (l Level) String() string { return l.feature().String() }

func (l Level) feature() accel.Feature {
	if l == IFMA {
		return accel.IFMA
	}
	return accel.ADX
}

// Lanes is how many products the level computes best at a time.
func (l Level) Lanes() int {
	if l == IFMA {
		return Lanes
	}
	return 1
}

// Levels lists the levels that this build has and the CPU can run, best first;
// none where only crypto/ecdh is left.
func Levels() []Level {
	var all []Level
	for _, l := range []Level{IFMA, ADX} {
		if haveAssembly && accel.Detect().Has(l.feature()) {
			all = append(all, l)
		}
	}
	return all
}
