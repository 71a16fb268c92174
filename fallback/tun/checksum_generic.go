// SPDX-License-Identifier: Apache-2.0

//go:build !amd64 || purego

package tun

// sum adds b to s.
func sum(s uint64, b []byte) uint64 { return sumGeneric(s, b) }

// copySum copies src to dst, which is at least as long, and adds it to s.
func copySum(s uint64, dst, src []byte) uint64 { return copySumGeneric(s, dst, src) }
