// SPDX-License-Identifier: Apache-2.0

package xdp

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"sync/atomic"
)

const (
	probes        = 16
	hashShift     = 16
	signpostsEach = 8 // signposts for each home
	removed       = 0xffff << 48
)

// errNoHome is returned when there are as many destinations as there may be.
var errNoHome = errors.New("too many destinations")

// home is struct home: an address in network order.
type home struct{ high, low uint64 }

func homeOf(a netip.Addr) home {
	b := a.As16()
	return home{binary.NativeEndian.Uint64(b[:8]), binary.NativeEndian.Uint64(b[8:])}
}

func (h home) addr() netip.Addr {
	var b [16]byte
	binary.NativeEndian.PutUint64(b[:8], h.high)
	binary.NativeEndian.PutUint64(b[8:], h.low)
	return netip.AddrFrom16(b).Unmap()
}

func (h home) hash() uint64 { return mix(h.high*mix2 + h.low) }

// homes numbers destinations, in the memory that the program reads. A number
// is kept when its last entry goes, as another one mostly follows, and given
// to another destination when there is no other left. It is not safe for
// concurrent use; packets may read meanwhile.
type homes struct {
	signposts []uint64
	homes     []home // by number; 0 is none
	entries   []uint32
	free      []uint16
}

// newHomes takes over what is in the memory. No packet may be under way that
// saw a signpost which was removed. Entries are counted by the caller.
func newHomes(signposts []uint64, memory []home) *homes {
	h := &homes{signposts: signposts, homes: memory, entries: make([]uint32, len(memory))}
	used := make([]bool, len(memory))
	for _, s := range signposts {
		if number := s & 0xffff; number < uint64(len(used)) {
			used[number] = true
		}
	}
	for number := len(memory) - 1; number > 0; number-- {
		if !used[number] {
			h.free = append(h.free, uint16(number))
		}
	}
	return h
}

// find returns the number of a destination, or 0.
func (h *homes) find(to home) uint64 {
	hash := to.hash()
	for i := range uint32(probes) {
		word := h.signposts[(uint32(hash)+i)&uint32(len(h.signposts)-1)]
		if word == 0 {
			break
		}
		if (word^hash)>>hashShift == 0 && word&0xffff != 0 && h.homes[word&0xffff] == to {
			return word & 0xffff
		}
	}
	return 0
}

// add numbers a destination that has no number.
func (h *homes) add(to home) (number uint64, err error) {
	hash := to.hash()
	for i := range uint32(probes) {
		at := (uint32(hash) + i) & uint32(len(h.signposts)-1)
		if h.signposts[at]&0xffff != 0 {
			continue
		}
		if len(h.free) == 0 {
			break
		}
		last := len(h.free) - 1
		number, h.free = uint64(h.free[last]), h.free[:last]
		atomic.StoreUint64(&h.homes[number].high, to.high)
		atomic.StoreUint64(&h.homes[number].low, to.low)
		atomic.StoreUint64(&h.signposts[at], hash>>hashShift<<hashShift|number)
		return number, nil
	}
	return 0, errNoHome
}

// removeIdle removes the signposts to destinations without entries and returns
// their numbers. They may be given back to free when no packet is under way
// that saw the signposts.
func (h *homes) removeIdle() []uint16 {
	var idle []uint16
	for at, word := range h.signposts {
		if number := uint16(word); number != 0 && h.entries[number] == 0 {
			idle = append(idle, number)
			atomic.StoreUint64(&h.signposts[at], removed)
		}
	}
	// A signpost that leads to none and that none follows is not needed. Two
	// rounds see those at the end that are followed by the beginning.
	mask := len(h.signposts) - 1
	for at := 2*len(h.signposts) - 1; at >= 0; at-- {
		if h.signposts[at&mask] == removed && h.signposts[(at+1)&mask] == 0 {
			atomic.StoreUint64(&h.signposts[at&mask], 0)
		}
	}
	return idle
}
