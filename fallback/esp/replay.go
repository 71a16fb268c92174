// SPDX-License-Identifier: Apache-2.0

package esp

// Replay is an anti-replay window (RFC 4303 section 3.4.3, with the ring of RFC
// 6479). The zero value is a window of DefaultWindow packets and 32-bit
// sequence numbers. It is not safe for concurrent use.
type Replay struct {
	// The window is (top-size, top]. Bit seq%64 of ring[seq/64%len(ring)] says
	// that seq was seen; the ring has one block more than a window can lie
	// across, so that whole blocks are cleared as top moves on.
	ring []uint64 // a power of two of blocks; nil until first used
	size uint64   // 0: DefaultWindow
	top  uint64   // highest sequence number seen
	esn  bool
}

// Window sizes, in packets.
const (
	DefaultWindow = 32
	MaxWindow     = 4096
)

// NewReplay returns a window of size packets, at most MaxWindow, at least 1.
func NewReplay(size uint32, esn bool) Replay {
	return Replay{size: uint64(min(max(size, 1), MaxWindow)), esn: esn}
}

func (r *Replay) window() uint64 {
	if r.size == 0 {
		return DefaultWindow
	}
	return r.size
}

// Infer returns the full sequence number of a packet with the low half lo (RFC
// 4303 appendix A2.2), and whether a packet with it can be new. Nothing is
// changed: the packet is not authentic yet.
func (r *Replay) Infer(lo uint32) (seq uint64, ok bool) {
	seq, ok = r.infer(lo)
	return seq, ok && r.fresh(seq)
}

// infer chooses the high half that brings the number into the window or above.
func (r *Replay) infer(lo uint32) (uint64, bool) {
	if !r.esn {
		return uint64(lo), true
	}
	high, low := r.top>>32, uint32(r.top)
	reach := uint32(r.window() - 1)
	bottom := low - reach // modulo 2^32
	switch {
	case low >= reach && lo < bottom: // window in one subspace, lo in the next
		if high++; high > 1<<32-1 {
			return 0, false
		}
	case low < reach && lo >= bottom: // window across two, lo in the lower
		if high == 0 {
			return 0, false
		}
		high--
	}
	return high<<32 | uint64(lo), true
}

// fresh reports whether the number is neither seen nor too old. A sender begins
// with 1.
func (r *Replay) fresh(seq uint64) bool {
	switch {
	case seq == 0:
		return false
	case seq > r.top:
		return true
	case r.top-seq >= r.window():
		return false
	}
	return r.ring[seq>>6&uint64(len(r.ring)-1)]&(1<<(seq&63)) == 0
}

// Update enters an authentic packet's full sequence number. It reports false
// where the number has been seen or is too old.
func (r *Replay) Update(seq uint64) bool {
	if !r.fresh(seq) {
		return false
	}
	if r.ring == nil {
		blocks := 2
		for uint64(blocks) < (r.window()+63)/64+1 {
			blocks *= 2
		}
		r.ring = make([]uint64, blocks)
	}
	mask := uint64(len(r.ring) - 1)
	if seq > r.top {
		last, next := r.top>>6, seq>>6
		for n := min(next-last, uint64(len(r.ring))); n > 0; n-- {
			r.ring[(next-n+1)&mask] = 0
		}
		r.top = seq
	}
	r.ring[seq>>6&mask] |= 1 << (seq & 63)
	return true
}
