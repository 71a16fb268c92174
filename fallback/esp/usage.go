// SPDX-License-Identifier: Apache-2.0

package esp

import (
	"sync/atomic"
	"time"

	"quicksand/sa"
)

// Usage counts what one direction of a pair has carried, in inner packets. Its
// methods may be called from any goroutine.
type Usage struct {
	bytes, packets atomic.Uint64
	last           atomic.Int64 // Unix nanoseconds; 0: never
	drops          [len(reasons)]atomic.Uint64

	// The limits do not change.
	lifetime  sa.Lifetime
	exhausted uint64 // packets at which the sequence numbers end; 0: somebody else's
}

// reasons are the errors that are counted.
var reasons = [...]error{
	ErrMalformed, ErrRoom, ErrReplay, ErrICV, ErrPadding, ErrSelector, ErrECN, ErrDummy,
	ErrExhausted, ErrExpired, ErrFragment, ErrHeader,
}

// Counters returns what was carried.
func (u *Usage) Counters() sa.Counters {
	c := sa.Counters{Bytes: u.bytes.Load(), Packets: u.packets.Load()}
	if n := u.last.Load(); n != 0 {
		c.Last = time.Unix(0, n)
	}
	return c
}

// SoftReached reports whether the pair's soft limit of bytes or packets is
// reached in this direction, or its sequence numbers near their end: time to
// renegotiate.
func (u *Usage) SoftReached() bool {
	return u.reached(u.lifetime.Soft, u.exhausted-u.exhausted/16)
}

// HardReached reports whether the hard limit of bytes or packets is reached,
// or the sequence numbers used up: the SA carries nothing any more.
func (u *Usage) HardReached() bool { return u.reached(u.lifetime.Hard, u.exhausted) }

func (u *Usage) reached(l sa.Limits, sequence uint64) bool {
	packets := u.packets.Load()
	return limitsReached(l, u.bytes.Load(), packets) || sequence > 0 && packets >= sequence
}

func limitsReached(l sa.Limits, bytes, packets uint64) bool {
	return l.Bytes > 0 && bytes >= l.Bytes || l.Packets > 0 && packets >= l.Packets
}

// Drop is a reason for which packets were dropped.
type Drop struct {
	Err   error
	Count uint64
}

// Drops returns how many packets each error befell, without those it never
// did.
func (u *Usage) Drops() []Drop {
	var out []Drop
	for i, err := range reasons {
		if n := u.drops[i].Load(); n > 0 {
			out = append(out, Drop{err, n})
		}
	}
	return out
}

func (u *Usage) drop(err error) {
	for i, r := range reasons {
		if r == err {
			u.drops[i].Add(1)
			return
		}
	}
}

// tally is what a batch adds to a usage: published at its end, and looked at in
// between so that no packet passes beyond a hard limit.
type tally struct {
	bytes, packets uint64
	begun          bool
}

// begin is called with each packet of a batch; the first one counts.
func (t *tally) begin(u *Usage) {
	if !t.begun {
		*t = tally{u.bytes.Load(), u.packets.Load(), true}
	}
}

func (t *tally) expired(u *Usage) bool {
	return limitsReached(u.lifetime.Hard, t.bytes, t.packets)
}

func (t *tally) add(inner int) {
	t.bytes += uint64(inner)
	t.packets++
}

// publish is called at the batch's end, once or more often; now is in Unix
// nanoseconds.
func (t *tally) publish(u *Usage, now int64) {
	if t.begun && t.packets != u.packets.Load() {
		u.bytes.Store(t.bytes)
		u.packets.Store(t.packets)
		u.last.Store(now)
	}
	t.begun = false
}
