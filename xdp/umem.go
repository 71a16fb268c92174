// SPDX-License-Identifier: Apache-2.0

package xdp

import (
	"errors"
	"fmt"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// umem is the memory that the sockets of one queue share, with the rings by
// which frames come and go.
type umem struct {
	memory    []byte
	frameSize int

	mu         sync.Mutex // guards what follows
	free       []uint64   // addresses of frames
	fill       *ring[uint64]
	completion *ring[uint64]
	filled     int // frames that the kernel has for receiving, at most
	users      int
}

func newUmem(frames, frameSize int) (*umem, error) {
	memory, err := unix.Mmap(-1, 0, frames*frameSize, unix.PROT_READ|unix.PROT_WRITE,
		unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_POPULATE)
	if err != nil {
		return nil, fmt.Errorf("allocate frames: %w", err)
	}
	u := &umem{memory: memory, frameSize: frameSize, free: make([]uint64, 0, frames)}
	for i := range frames {
		u.free = append(u.free, uint64((frames-1-i)*frameSize))
	}
	return u, nil
}

// register makes the memory that of the socket, and maps the two rings.
func (u *umem) register(fd, size int) error {
	reg := unix.XDPUmemReg{
		Addr: uint64(uintptr(unsafe.Pointer(&u.memory[0]))),
		Len:  uint64(len(u.memory)),
		Size: uint32(u.frameSize),
	}
	if err := setsockopt(fd, unix.XDP_UMEM_REG, unsafe.Pointer(&reg), unsafe.Sizeof(reg)); err != nil {
		return fmt.Errorf("register frames: %w", err)
	}
	for _, option := range []int{unix.XDP_UMEM_FILL_RING, unix.XDP_UMEM_COMPLETION_RING} {
		if err := unix.SetsockoptInt(fd, unix.SOL_XDP, option, size); err != nil {
			return fmt.Errorf("size ring: %w", err)
		}
	}
	at, err := ringOffsets(fd)
	if err != nil {
		return err
	}
	if u.fill, err = mapRing[uint64](fd, unix.XDP_UMEM_PGOFF_FILL_RING, at.Fr, size); err != nil {
		return err
	}
	u.completion, err = mapRing[uint64](fd, unix.XDP_UMEM_PGOFF_COMPLETION_RING, at.Cr, size)
	return err
}

// refill gives the kernel frames to receive into, but never more than half of
// all, so that there are always some to send. The caller holds the lock.
func (u *umem) refill() {
	n := min(u.fill.room(), len(u.free), len(u.memory)/u.frameSize/2-u.filled)
	if n <= 0 {
		return
	}
	for _, addr := range u.free[len(u.free)-n:] {
		u.fill.put(addr)
	}
	u.fill.publish()
	u.filled += n
	u.free = u.free[:len(u.free)-n]
}

// complete takes back what was sent. The caller holds the lock.
func (u *umem) complete() {
	n := u.completion.ready()
	if n == 0 {
		return
	}
	for range n {
		u.free = append(u.free, u.frame(u.completion.take()))
	}
	u.completion.release()
}

// frame is the address at which the frame of an address begins.
func (u *umem) frame(addr uint64) uint64 { return addr &^ uint64(u.frameSize-1) }

func (u *umem) close() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.users--; u.users > 0 || u.memory == nil {
		return nil
	}
	memory := u.memory
	u.memory, u.free = nil, nil
	return errors.Join(u.fill.unmap(), u.completion.unmap(), unix.Munmap(memory))
}

func setsockopt(fd, option int, value unsafe.Pointer, size uintptr) error {
	_, _, errno := unix.Syscall6(unix.SYS_SETSOCKOPT, uintptr(fd), unix.SOL_XDP, uintptr(option), uintptr(value), size, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

func getsockopt(fd, option int, value unsafe.Pointer, size uintptr) error {
	length := uint32(size)
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_XDP, uintptr(option),
		uintptr(value), uintptr(unsafe.Pointer(&length)), 0)
	if errno != 0 {
		return errno
	}
	return nil
}

func ringOffsets(fd int) (unix.XDPMmapOffsets, error) {
	var at unix.XDPMmapOffsets
	if err := getsockopt(fd, unix.XDP_MMAP_OFFSETS, unsafe.Pointer(&at), unsafe.Sizeof(at)); err != nil {
		return at, fmt.Errorf("read ring offsets: %w", err)
	}
	return at, nil
}
