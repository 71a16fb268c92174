// SPDX-License-Identifier: Apache-2.0

package xdp

import (
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
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
	// Poll waits a moment for files, and says whether one is ready, before Wait
	// leaves waiting to the runtime's poller; nil is not at all.
	Poll func([]unix.PollFd) bool
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
// its packets. What it sends goes by a second one. A kernel that copies also
// sends when the socket is polled for what it receives, and lets only one
// thread send at a time: whoever waits for frames would do the work of those
// who send, or wait for them.
type Socket struct {
	fd, out  int // receives; sends
	wake     int // an eventfd
	queue    int
	umem     *umem
	rx       *ring[unix.XDPDesc]
	tx       *ring[unix.XDPDesc]
	zeroCopy bool
	poll     func([]unix.PollFd) bool
	closed   atomic.Bool
	woken    atomic.Bool
	waiting  sync.Mutex // held by Wait, so that Close does not pull its rings away
	waking   sync.Mutex // guards wake, which goes with Close
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
		s := &Socket{queue: queue, umem: u, fd: -1, out: -1, wake: -1, poll: o.Poll}
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
	if s.fd, err = newSocket(); err != nil {
		return err
	}
	if s.wake, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return fmt.Errorf("create eventfd: %w", err)
	}
	if s == first {
		// The kernel never has more completions than frames.
		if err := s.umem.register(s.fd, o.Frames); err != nil {
			return err
		}
	}
	if s.rx, err = openRing(s.fd, unix.XDP_RX_RING, o.Ring); err != nil {
		return err
	}
	if o.BusyPoll > 0 {
		if err := s.busyPoll(o.BusyPoll); err != nil {
			return err
		}
	}
	if s == first {
		err = s.bindFirst(index, o.Copy)
	} else {
		err = s.share(s.fd, index, first)
	}
	if err != nil {
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
	return s.openOut(index, first, o)
}

// openOut opens the socket that sends.
func (s *Socket) openOut(index int, first *Socket, o SocketOptions) (err error) {
	if s.out, err = newSocket(); err != nil {
		return err
	}
	// When it copies, the kernel counts what it sends against the send buffer,
	// and leaves the rest in the ring. Room for all frames at once is enough.
	room := o.Frames * 2 * o.FrameSize
	if unix.SetsockoptInt(s.out, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, room) != nil {
		_ = unix.SetsockoptInt(s.out, unix.SOL_SOCKET, unix.SO_SNDBUF, room) // up to the system's limit
	}
	if s.tx, err = openRing(s.out, unix.XDP_TX_RING, o.Ring); err != nil {
		return err
	}
	if err := s.share(s.out, index, first); err != nil {
		return fmt.Errorf("bind to send: %w", err)
	}
	return nil
}

func newSocket() (int, error) {
	fd, err := unix.Socket(unix.AF_XDP, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, fmt.Errorf("create socket: %w", err)
	}
	return fd, nil
}

// openRing makes and maps the ring of descriptors that is named by the socket
// option that sizes it.
func openRing(fd, option, entries int) (*ring[unix.XDPDesc], error) {
	if err := unix.SetsockoptInt(fd, unix.SOL_XDP, option, entries); err != nil {
		return nil, fmt.Errorf("size ring: %w", err)
	}
	at, err := ringOffsets(fd)
	if err != nil {
		return nil, err
	}
	if option == unix.XDP_TX_RING {
		return mapRing[unix.XDPDesc](fd, unix.XDP_PGOFF_TX_RING, at.Tx, entries)
	}
	return mapRing[unix.XDPDesc](fd, unix.XDP_PGOFF_RX_RING, at.Rx, entries)
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

// bindFirst binds the socket that has the queue's frames.
func (s *Socket) bindFirst(index int, copied bool) error {
	address := &unix.SockaddrXDP{Ifindex: uint32(index), QueueID: uint32(s.queue)}
	if !copied {
		address.Flags = unix.XDP_ZEROCOPY | unix.XDP_USE_NEED_WAKEUP
		if unix.Bind(s.fd, address) == nil {
			return nil
		}
	}
	address.Flags = unix.XDP_COPY | unix.XDP_USE_NEED_WAKEUP
	return unix.Bind(s.fd, address)
}

// share binds a socket beside the first one.
func (s *Socket) share(fd, index int, first *Socket) error {
	return unix.Bind(fd, &unix.SockaddrXDP{Ifindex: uint32(index), QueueID: uint32(s.queue),
		Flags: unix.XDP_SHARED_UMEM, SharedUmemFD: uint32(first.fd)})
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

// Wait implements Port. It does not go through the runtime's poller, which
// would wake a thread for each frame, also while the socket's own is at work.
func (s *Socket) Wait(timeout time.Duration) (bool, error) {
	s.waiting.Lock()
	defer s.waiting.Unlock()
	var end time.Time
	if timeout >= 0 {
		end = time.Now().Add(timeout)
	}
	for {
		switch {
		case s.closed.Load():
			return false, ErrClosed
		case s.rx.ready() > 0:
			return true, nil
		case s.woken.Swap(false):
			return false, nil
		case timeout >= 0 && !time.Now().Before(end):
			return false, nil
		}
		fds := [2]unix.PollFd{{Fd: int32(s.fd), Events: unix.POLLIN}, {Fd: int32(s.wake), Events: unix.POLLIN}}
		if s.poll == nil || timeout >= 0 || !s.poll(fds[:]) {
			most := -1
			if timeout >= 0 {
				most = int((time.Until(end) + time.Millisecond - 1).Milliseconds())
			}
			if _, err := unix.Poll(fds[:], max(most, -1)); err != nil && err != unix.EINTR {
				return false, fmt.Errorf("wait for frames: %w", err)
			}
		}
		if fds[0].Revents&(unix.POLLERR|unix.POLLHUP) != 0 {
			return false, errors.New("wait for frames: the device is gone")
		}
		if fds[1].Revents != 0 {
			var count [8]byte
			_, _ = unix.Read(s.wake, count[:]) // it is there
		}
	}
}

// Wake implements Port.
func (s *Socket) Wake() {
	s.waking.Lock()
	defer s.waking.Unlock()
	s.woken.Store(true)
	if s.wake >= 0 {
		one := [8]byte{1}
		_, _ = unix.Write(s.wake, one[:]) // it can only be readable already
	}
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
		// It ends in the device's queue: the runtime need not be told.
		_, _, errno := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(s.out), 0, 0, unix.MSG_DONTWAIT, 0, 0)
		switch {
		case errno == 0 && s.zeroCopy, errno == unix.EBUSY, errno == unix.ENOBUFS:
			// The driver sends when it can; what is left waits for the next call.
			return nil
		case errno != 0 && errno != unix.EAGAIN && errno != unix.EINTR:
			return fmt.Errorf("send frames: %w", errno)
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
	var in, out unix.XDPStatistics
	for fd, x := range map[int]*unix.XDPStatistics{s.fd: &in, s.out: &out} {
		if err := getsockopt(fd, unix.XDP_STATISTICS, unsafe.Pointer(x), unsafe.Sizeof(*x)); err != nil {
			return SocketStats{}, fmt.Errorf("read socket counters: %w", err)
		}
	}
	return SocketStats{
		Dropped: in.Rx_dropped, RingFull: in.Rx_ring_full, FillEmpty: in.Rx_fill_ring_empty_descs,
		InvalidReceive: in.Rx_invalid_descs, InvalidSend: out.Tx_invalid_descs,
	}, nil
}

// Close implements Port. The memory goes with the last socket of the queue;
// until then the frames that this one had received are lost to the others.
func (s *Socket) Close() error {
	if s.closed.Swap(true) {
		return nil
	}
	s.Wake()
	s.waiting.Lock()
	defer s.waiting.Unlock()
	s.waking.Lock()
	defer s.waking.Unlock()
	var errs []error
	for _, fd := range []*int{&s.fd, &s.out, &s.wake} {
		if *fd >= 0 {
			errs = append(errs, unix.Close(*fd))
			*fd = -1
		}
	}
	errs = append(errs, s.rx.unmap(), s.tx.unmap(), s.umem.close())
	return errors.Join(errs...)
}
