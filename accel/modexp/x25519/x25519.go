// SPDX-License-Identifier: Apache-2.0

// Package x25519 computes RFC 7748's X25519 eight at a time with AVX-512 IFMA,
// in constant time in the scalars and the points.
package x25519

import "quicksand/accel"

// Size is the length in bytes of a scalar, a point and a product.
const Size = 32

// Lanes is the largest number of products that are computed together.
const Lanes = 8

// Available reports whether this build and the CPU have what Multiply needs.
func Available() bool { return haveIFMA && accel.Detect().Has(accel.IFMA) }
