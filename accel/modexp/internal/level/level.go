// SPDX-License-Identifier: Apache-2.0

// Package level names the ways to multiply points that the curves' packages have in
// common.
package level

import "quicksand/accel"

// Level is a way to compute.
type Level uint8

// The levels, worst first.
const (
	ADX  Level = iota // MULX and two carry chains, one product at a time
	IFMA              // AVX-512 IFMA, eight products at a time
)

// Lanes is the largest number of products that are computed together.
const Lanes = 8

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

// Found lists the levels that the CPU can run, best first.
func Found() []Level {
	var all []Level
	for _, l := range []Level{IFMA, ADX} {
		if accel.Detect().Has(l.feature()) {
			all = append(all, l)
		}
	}
	return all
}
