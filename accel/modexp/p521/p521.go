// SPDX-License-Identifier: Apache-2.0

// Package p521 multiplies points of NIST's P-521 (SP 800-186) with MULX and ADX, in
// constant time in the scalars.
package p521

import "quicksand/accel"

// Size is the length in bytes of a coordinate and of a scalar.
const Size = 66

// Available reports whether this build and the CPU have what Multiply needs.
func Available() bool { return haveAssembly && accel.Detect().Has(accel.ADX) }
