// SPDX-License-Identifier: Apache-2.0

//go:build !purego

package aead

import "unsafe"

// The kernels in lanes make whole HMACs, of messages of at most so many blocks
// with their padding, and write the first bytes of each.

//go:noescape
func hmacSHA1Lanes(lanes *hmacLanes, inner, outer *hmacStart, blocks int, icvs *[32]byte)

//go:noescape
func hmacSHA256Lanes(lanes *hmacLanes, inner, outer *hmacStart, blocks int, icvs *[32]byte)

//go:noescape
func hmacSHA384Lanes(lanes *hmacLanes, inner, outer *hmacStart, blocks int, icvs *[32]byte)

//go:noescape
func hmacSHA512Lanes(lanes *hmacLanes, inner, outer *hmacStart, blocks int, icvs *[32]byte)

// The same in eight lanes of AVX2.

//go:noescape
func hmacSHA1AVX2(lanes *hmacLanes, inner, outer *hmacStart, blocks int, icvs *[32]byte)

//go:noescape
func hmacSHA256AVX2(lanes *hmacLanes, inner, outer *hmacStart, blocks int, icvs *[32]byte)

// The block functions of one message and of two. There is at least one block.

//go:noescape
func sha1NI(state *hmacState, p unsafe.Pointer, blocks int)

//go:noescape
func sha1NIPair(state0 *hmacState, p0 unsafe.Pointer, state1 *hmacState, p1 unsafe.Pointer, blocks int)

//go:noescape
func sha256NI(state *hmacState, p unsafe.Pointer, blocks int)

//go:noescape
func sha256NIPair(state0 *hmacState, p0 unsafe.Pointer, state1 *hmacState, p1 unsafe.Pointer, blocks int)
