// SPDX-License-Identifier: Apache-2.0

package xdp

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Options of busy polling that x/sys/unix has no name for on every
// architecture.
const (
	soPreferBusyPoll = 69
	soBusyPollBudget = 70
)

// SocketOptions shape the sockets of a queue. The zero value is usable.
type SocketOptions struct {
	Frames    int           // shared by the queue's sockets, a power of two; 0 is 4096
	FrameSize int           // 2048 or 4096; 0 is 2048
	Ring      int           // entries of each ring, a power of two; 0 is 2048
	Copy      bool          // do not try without a copy
	BusyPoll  time.Duration // poll the driver so long when waiting; 0 is off
}

func (o *SocketOptions) defaults() error {
	if o.Frames == 0 {
		o.Frames = 4096
	}
	if o.FrameSize == 0 {
		o.FrameSize = 2048
	}
	if o.Ring == 0 {
		o.Ring = 2048
	}
	for _, n := range []int{o.Frames, o.FrameSize, o.Ring} {
		if n <= 0 || n&(n-1) != 0 {
			return fmt.Errorf("check options: %d is no power of two", n)
		}
	}
	if o.FrameSize != 2048 && o.FrameSize != 4096 {
		return fmt.Errorf("check options: frames of %d octets: neither 2048 nor 4096", o.FrameSize)
	}
	return nil
}

// Socket is an AF_XDP socket: the Port of one receive queue, or of some of
// its packets.
type Socket struct {
	fd       int
	queue    int
	file     *os.File // has fd
	raw      syscall.RawConn
	umem     *umem
	rx       *ring[unix.XDPDesc]
	tx       *ring[unix.XDPDesc]
	zeroCopy bool
	closed   atomic.Bool
	waiting  sync.Mutex // held by Wait, so that Close does not pull its rings away
}

var _ Port = (*Socket)(nil)

// OpenSockets opens n sockets on a receive queue of the device of the calling
// thread's network namespace. They share frames; each is a port by itself,
// and its frames may be freed or sent through another. A queue has one group
// of sockets. They receive nothing before Program.SetSocket.
func OpenSockets(device string, queue, n int, o SocketOptions) ([]*Socket, error) {
	if err := o.defaults(); err != nil {
		return nil, err
	}
	at, err := net.InterfaceByName(device)
	if err != nil {
		return nil, fmt.Errorf("open sockets on %s: %w", device, err)
	}
	u, err := newUmem(o.Frames, o.FrameSize)
	if err != nil {
		return nil, fmt.Errorf("open sockets on %s: %w", device, err)
	}
	var sockets []*Socket
	for i := range n {
		s := &Socket{queue: queue, umem: u}
		sockets = append(sockets, s)
		u.users++
		if err = s.open(at.Index, sockets[0], o); err != nil {
			for _, s := range sockets {
				err = errors.Join(err, s.Close())
			}
			return nil, fmt.Errorf("open socket %d on queue %d of %s: %w", i, queue, device, err)
		}
	}
	return sockets, nil
}

func (s *Socket) open(index int, first *Socket, o SocketOptions) (err error) {
	if s.fd, err = unix.Socket(unix.AF_XDP, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0); err != nil {
		return fmt.Errorf("create socket: %w", err)
	}
	s.file = os.NewFile(uintptr(s.fd), "AF_XDP")
	if s.raw, err = s.file.SyscallConn(); err != nil {
		return fmt.Errorf("create socket: %w", err)
	}
	if s == first {
		// The kernel never has more completions than frames.
		if err := s.umem.register(s.fd, o.Frames); err != nil {
			return err
		}
	}
	// When it copies, the kernel counts what it sends against the send buffer,
	// and leaves the rest in the ring. Room for all frames at once is enough.
	room := o.Frames * 2 * o.FrameSize
	if unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, room) != nil {
		_ = unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_SNDBUF, room) // up to the system's limit
	}
	for _, option := range []int{unix.XDP_RX_RING, unix.XDP_TX_RING} {
		if err := unix.SetsockoptInt(s.fd, unix.SOL_XDP, option, o.Ring); err != nil {
			return fmt.Errorf("size ring: %w", err)
		}
	}
	at, err := ringOffsets(s.fd)
	if err != nil {
		return err
	}
	if s.rx, err = mapRing[unix.XDPDesc](s.fd, unix.XDP_PGOFF_RX_RING, at.Rx, o.Ring); err != nil {
		return err
	}
	if s.tx, err = mapRing[unix.XDPDesc](s.fd, unix.XDP_PGOFF_TX_RING, at.Tx, o.Ring); err != nil {
		return err
	}
	if o.BusyPoll > 0 {
		if err := s.busyPoll(o.BusyPoll); err != nil {
			return err
		}
	}
	if err := s.bind(index, first, o.Copy); err != nil {
		return fmt.Errorf("bind: %w", err)
	}
	if s == first {
		s.umem.refill()
	}
	var options uint32
	if err := getsockopt(s.fd, unix.XDP_OPTIONS, unsafe.Pointer(&options), unsafe.Sizeof(options)); err != nil {
		return fmt.Errorf("read mode: %w", err)
	}
	s.zeroCopy = options&unix.XDP_OPTIONS_ZEROCOPY != 0
	return nil
}

func (s *Socket) busyPoll(d time.Duration) error {
	for _, o := range [][2]int{
		{soPreferBusyPoll, 1}, {unix.SO_BUSY_POLL, int(d.Microseconds())}, {soBusyPollBudget, 64},
	} {
		if err := unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, o[0], o[1]); err != nil {
			return fmt.Errorf("set busy polling: %w", err)
		}
	}
	return nil
}

func (s *Socket) bind(index int, first *Socket, copied bool) error {
	address := &unix.SockaddrXDP{Ifindex: uint32(index), QueueID: uint32(s.queue)}
	if s != first {
		address.Flags, address.SharedUmemFD = unix.XDP_SHARED_UMEM, uint32(first.fd)
		return unix.Bind(s.fd, address)
	}
	if !copied {
		address.Flags = unix.XDP_ZEROCOPY | unix.XDP_USE_NEED_WAKEUP
		if unix.Bind(s.fd, address) == nil {
			return nil
		}
	}
	address.Flags = unix.XDP_COPY | unix.XDP_USE_NEED_WAKEUP
	return unix.Bind(s.fd, address)
}

// ZeroCopy says whether frames are moved without a copy, as the kernel says.
func (s *Socket) ZeroCopy() bool { return s.zeroCopy }

// Queue is the receive queue the socket is bound to.
func (s *Socket) Queue() int { return s.queue }

// Receive implements Port.
func (s *Socket) Receive(frames []Frame) int {
	n := min(s.rx.ready(), len(frames))
	u := s.umem
	for i := range n {
		d := s.rx.take()
		begin := u.frame(d.Addr)
		end := begin + uint64(u.frameSize)
		frames[i] = Frame{Data: u.memory[d.Addr : d.Addr+uint64(d.Len) : end], Buf: u.memory[begin:end:end],
			Off: int(d.Addr - begin), addr: d.Addr}
	}
	if n > 0 {
		s.rx.release()
	}
	u.mu.Lock()
	u.filled -= n
	u.complete()
	u.refill()
	sleeping := n == 0 && u.fill.sleeping()
	u.mu.Unlock()
	if sleeping {
		// A driver that ran out of frames looks for new ones when told to.
		unix.Recvfrom(s.fd, nil, unix.MSG_DONTWAIT)
	}
	return n
}

// Wait implements Port. The goroutine waits by the runtime's own poller, so
// that no processor of the runtime's waits with it.
func (s *Socket) Wait(timeout time.Duration) (bool, error) {
	s.waiting.Lock()
	defer s.waiting.Unlock()
	if timeout >= 0 {
		late := time.AfterFunc(timeout, s.Wake)
		defer late.Stop()
	}
	first, gone := true, false
	err := s.raw.Read(func(fd uintptr) bool {
		if s.rx.ready() > 0 {
			return true
		}
		if !first {
			// The poller says that there is something.
			fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
			n, err := unix.Poll(fds, 0)
			gone = err == nil && n > 0 && fds[0].Revents&(unix.POLLERR|unix.POLLHUP) != 0
		}
		first = false
		return gone
	})
	switch {
	case gone:
		return false, errors.New("wait for frames: the device is gone")
	case err == nil:
		return true, nil
	case !errors.Is(err, os.ErrDeadlineExceeded):
		return false, ErrClosed
	}
	if err := s.file.SetReadDeadline(time.Time{}); err != nil {
		return false, ErrClosed
	}
	return s.rx.ready() > 0, nil
}

// Wake implements Port.
func (s *Socket) Wake() {
	// It fails once the socket is closed, when there is nobody to wake.
	_ = s.file.SetReadDeadline(time.Unix(1, 0))
}

// Alloc implements Port.
func (s *Socket) Alloc(frames []Frame) int {
	u := s.umem
	u.mu.Lock()
	defer u.mu.Unlock()
	u.complete()
	n := min(len(frames), len(u.free))
	for i, addr := range u.free[len(u.free)-n:] {
		end := addr + uint64(u.frameSize)
		frames[i] = Frame{Data: u.memory[addr:addr:end], Buf: u.memory[addr:end:end], addr: addr}
	}
	u.free = u.free[:len(u.free)-n]
	return n
}

// Send implements Port.
func (s *Socket) Send(frames []Frame) (int, error) {
	n := min(s.tx.room(), len(frames))
	for i := range n {
		f := &frames[i]
		s.tx.put(unix.XDPDesc{Addr: f.addr, Len: uint32(len(f.Data))})
		*f = Frame{}
	}
	s.tx.publish()
	return n, s.push()
}

// atOnce is how many frames the kernel sends for one call when it copies.
const atOnce = 32

// push tells the kernel to send. When it copies it sends some frames for each
// call, and asks to be called again; older kernels do not show in the ring
// what is sent before all of it is.
func (s *Socket) push() error {
	waiting := len(s.tx.entries) - s.tx.room()
	for calls := waiting/atOnce + 2; calls > 0 && s.tx.sleeping() && s.tx.room() < len(s.tx.entries); calls-- {
		err := unix.Sendto(s.fd, nil, unix.MSG_DONTWAIT, nil)
		switch {
		case err == nil && s.zeroCopy, errors.Is(err, unix.EBUSY), errors.Is(err, unix.ENOBUFS):
			// The driver sends when it can; what is left waits for the next call.
			return nil
		case err != nil && !errors.Is(err, unix.EAGAIN):
			return fmt.Errorf("send frames: %w", err)
		}
	}
	return nil
}

// Free implements Port.
func (s *Socket) Free(frames []Frame) {
	u := s.umem
	u.mu.Lock()
	defer u.mu.Unlock()
	for i := range frames {
		if frames[i].Data != nil {
			u.free = append(u.free, u.frame(frames[i].addr))
		}
		frames[i] = Frame{}
	}
	u.refill()
}

// SocketStats are what the kernel has counted for a socket.
type SocketStats struct {
	Dropped        uint64 // for another reason than a full ring
	RingFull       uint64 // dropped: frames were not received fast enough
	FillEmpty      uint64 // times there was no frame to receive into
	InvalidReceive uint64 // frames offered for receiving that were refused
	InvalidSend    uint64 // frames offered for sending that were refused
}

// Stats returns the kernel's counters of the socket.
func (s *Socket) Stats() (SocketStats, error) {
	var x unix.XDPStatistics
	if err := getsockopt(s.fd, unix.XDP_STATISTICS, unsafe.Pointer(&x), unsafe.Sizeof(x)); err != nil {
		return SocketStats{}, fmt.Errorf("read socket counters: %w", err)
	}
	return SocketStats{
		Dropped: x.Rx_dropped, RingFull: x.Rx_ring_full, FillEmpty: x.Rx_fill_ring_empty_descs,
		InvalidReceive: x.Rx_invalid_descs, InvalidSend: x.Tx_invalid_descs,
	}, nil
}

// Close implements Port. The memory goes with the last socket of the queue;
// until then the frames that this one had received are lost to the others.
func (s *Socket) Close() error {
	if s.closed.Swap(true) {
		return nil
	}
	var errs []error
	if s.file != nil {
		errs = append(errs, s.file.Close())
		s.waiting.Lock()
		defer s.waiting.Unlock()
	}
	errs = append(errs, s.rx.unmap(), s.tx.unmap(), s.umem.close())
	return errors.Join(errs...)
}
