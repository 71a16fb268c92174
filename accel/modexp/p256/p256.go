// SPDX-License-Identifier: Apache-2.0

// Package p256 multiplies points of NIST's P-256 (SP 800-186) eight at a time
// with AVX-512 IFMA, in constant time in the scalars.
package p256

import "quicksand/accel"

// Size is the length in bytes of a coordinate and of a scalar.
const Size = 32

// Lanes is the largest number of products that are computed together.
const Lanes = 8

// Available reports whether this build and the CPU have what Multiply and
// MultiplyBase need.
func Available() bool { return haveIFMA && accel.Detect().Has(accel.IFMA) }
