// SPDX-License-Identifier: Apache-2.0

package xdp

import (
	"fmt"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ring is one of the four rings of an AF_XDP socket: indices that only grow,
// of which one side writes the producer's and the other the consumer's. One
// goroutine at a time may use it.
type ring[T any] struct {
	producer, consumer, flags *uint32 // shared with the kernel
	entries                   []T
	next                      uint32 // this side's index, not always published yet
	memory                    []byte
}

// mapRing maps a ring of size entries, a power of two, at its page offset.
func mapRing[T any](fd int, page int64, at unix.XDPRingOffset, size int) (*ring[T], error) {
	var entry T
	memory, err := unix.Mmap(fd, page, int(at.Desc)+size*int(unsafe.Sizeof(entry)),
		unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE)
	if err != nil {
		return nil, fmt.Errorf("map ring: %w", err)
	}
	word := func(off uint64) *uint32 { return (*uint32)(unsafe.Pointer(&memory[off])) }
	return &ring[T]{
		producer: word(at.Producer),
		consumer: word(at.Consumer),
		flags:    word(at.Flags),
		entries:  unsafe.Slice((*T)(unsafe.Pointer(&memory[at.Desc])), size),
		memory:   memory,
	}, nil
}

func (r *ring[T]) unmap() error {
	if r == nil || r.memory == nil {
		return nil
	}
	memory := r.memory
	r.memory = nil
	return unix.Munmap(memory)
}

// room is how many entries may be put.
func (r *ring[T]) room() int {
	return len(r.entries) - int(r.next-atomic.LoadUint32(r.consumer))
}

// put adds an entry for which there is room; publish shows it.
func (r *ring[T]) put(entry T) {
	r.entries[r.next&uint32(len(r.entries)-1)] = entry
	r.next++
}

func (r *ring[T]) publish() { atomic.StoreUint32(r.producer, r.next) }

// ready is how many entries may be taken.
func (r *ring[T]) ready() int { return int(atomic.LoadUint32(r.producer) - r.next) }

// take removes an entry that is ready; release gives its place back.
func (r *ring[T]) take() T {
	entry := r.entries[r.next&uint32(len(r.entries)-1)]
	r.next++
	return entry
}

func (r *ring[T]) release() { atomic.StoreUint32(r.consumer, r.next) }

// sleeping says that the other side has to be woken by a system call.
func (r *ring[T]) sleeping() bool {
	return atomic.LoadUint32(r.flags)&unix.XDP_RING_NEED_WAKEUP != 0
}
