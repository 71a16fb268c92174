// SPDX-License-Identifier: Apache-2.0

package esp

import (
	"sync/atomic"

	"quicksand/sa"
)

// Usage counts what one direction of a pair has carried, in inner packets. Its
// methods may be called from any goroutine.
type Usage struct {
	bytes, packets atomic.Uint64
	last           atomic.Int64 // Unix nanoseconds; 0: never
}

// Counters returns what was carried.
func (u *Usage) Counters() sa.Counters { return sa.Counters{} }

// SoftReached reports whether the pair's soft limit of bytes or packets is
// reached in this direction, or its sequence numbers near their end: time to
// renegotiate.
func (u *Usage) SoftReached() bool { return false }

// HardReached reports whether the hard limit of bytes or packets is reached,
// or the sequence numbers used up: the SA carries nothing any more.
func (u *Usage) HardReached() bool { return false }

// Drop is a reason for which packets were dropped.
type Drop struct {
	Err   error
	Count uint64
}

// Drops returns how many packets each error befell, without those it never
// did.
func (u *Usage) Drops() []Drop { return nil }
