// SPDX-License-Identifier: Apache-2.0

package measure

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"os"
	"runtime"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// batch is how many messages one system call moves at most.
	batch = 64
	// tick is how far apart a sender's batches are, as long as the rate does not
	// fill them.
	tick = 200 * time.Microsecond
	// buffer is a receiver's: more than comes in many of its pauses.
	buffer = 64 << 20
	pause  = time.Millisecond
	// patience is how long a receiver waits for silence.
	patience = 10 * time.Second
)

// Headers is the length of the IPv4 and UDP headers of the packets, in bytes.
const Headers = 20 + 8

// Sender sends UDP datagrams over IPv4. It hands them over in batches
// (sendmmsg(2)), each a packet of its own unless it was opened with segments.
type Sender struct {
	file     *os.File
	msgs     []unix.Mmsghdr
	names    []unix.RawSockaddrInet4 // destinations in turn; none where connected
	next     int
	segments int
}

// NewSender opens a sender of IP packets of size bytes from an address to each
// of the destinations in turn. Where segments is above 1, so many packets to one
// destination are handed over as one that the kernel or the NIC cuts (UDP GSO,
// udp(7)).
func NewSender(source netip.Addr, to []netip.AddrPort, size, segments int) (*Sender, error) {
	fail := func(err error) (*Sender, error) { return nil, fmt.Errorf("open sender at %s: %w", source, err) }
	payload := size - Headers
	if payload < 1 || segments < 1 || payload*segments > math.MaxUint16-Headers || len(to) == 0 || !source.Is4() {
		return fail(fmt.Errorf("%d packets of %d bytes at once to %d destinations", segments, size, len(to)))
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fail(err)
	}
	s := &Sender{file: os.NewFile(uintptr(fd), "udp"), msgs: vector(payload * segments), segments: segments}
	err = unix.Bind(fd, &unix.SockaddrInet4{Addr: source.As4()})
	if err == nil && segments > 1 {
		err = unix.SetsockoptInt(fd, unix.IPPROTO_UDP, unix.UDP_SEGMENT, payload)
	}
	if err == nil && len(to) == 1 {
		err = unix.Connect(fd, &unix.SockaddrInet4{Port: int(to[0].Port()), Addr: to[0].Addr().As4()})
	} else {
		for _, d := range to {
			port := binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, d.Port()))
			s.names = append(s.names, unix.RawSockaddrInet4{Family: unix.AF_INET, Port: port, Addr: d.Addr().As4()})
		}
	}
	if err != nil {
		s.Close()
		return fail(err)
	}
	return s, nil
}

// Close closes the socket.
func (s *Sender) Close() error { return s.file.Close() }

// vector makes messages for sendmmsg(2) and recvmmsg(2), each of a buffer of
// that many bytes.
func vector(size int) []unix.Mmsghdr {
	hdrs, iovs := make([]unix.Mmsghdr, batch), make([]unix.Iovec, batch)
	for i := range hdrs {
		iovs[i].Base = unsafe.SliceData(make([]byte, size))
		iovs[i].SetLen(size)
		hdrs[i].Hdr.Iov = &iovs[i]
		hdrs[i].Hdr.SetIovlen(1)
	}
	return hdrs
}

// Send sends for some time and returns how many packets. The rate is in packets
// a second; 0 is as fast as they can be sent. What has fallen behind the rate is
// made up for as long as that is not more than some batches.
func (s *Sender) Send(rate float64, d time.Duration) (sent int, err error) {
	// A thread of its own wakes up when it is told to; it ends with the slack.
	runtime.LockOSThread()
	if err := unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0); err != nil {
		return 0, fmt.Errorf("set timer slack: %w", err)
	}
	defer func() {
		if unix.Prctl(unix.PR_SET_TIMERSLACK, 0, 0, 0, 0) == nil { // the default again
			runtime.UnlockOSThread()
		}
	}()
	n := batch
	var gap time.Duration
	if rate > 0 {
		n = min(max(int(rate*tick.Seconds())/s.segments, 1), batch)
		gap = time.Duration(float64(n*s.segments) / rate * 1e9)
	}
	start := time.Now()
	next := start
	for now := start; now.Sub(start) < d; now = time.Now() {
		if wait := next.Sub(now); wait > 0 {
			ts := unix.NsecToTimespec(int64(wait))
			_ = unix.Nanosleep(&ts, nil) // cut short by a signal it is as good
			continue
		}
		if next = next.Add(gap); now.Sub(next) > 10*max(gap, tick) {
			next = now
		}
		k, err := s.batch(n)
		if err != nil {
			return sent, err
		}
		sent += k * s.segments
	}
	return sent, nil
}

// batch sends n messages to the next destinations and returns how many went.
func (s *Sender) batch(n int) (int, error) {
	if len(s.names) > 0 {
		for i := range n {
			s.msgs[i].Hdr.Name = (*byte)(unsafe.Pointer(&s.names[s.next]))
			s.msgs[i].Hdr.Namelen = unix.SizeofSockaddrInet4
			if s.next++; s.next == len(s.names) {
				s.next = 0
			}
		}
	}
	sent, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, s.file.Fd(), uintptr(unsafe.Pointer(&s.msgs[0])), uintptr(n), 0, 0, 0)
	switch errno {
	case 0:
		return int(sent), nil
	case unix.EINTR, unix.ENOBUFS, unix.EAGAIN: // what the kernel had no room for is lost
		return 0, nil
	}
	return 0, fmt.Errorf("sendmmsg: %w", errno)
}

// Receiver counts UDP datagrams. It takes them in batches a millisecond apart,
// so that what it costs is little.
type Receiver struct{ file *os.File }

// Received is what a receiver has counted.
type Received struct {
	Packets     int
	First, Last time.Time // when they were seen; the zero value where none was
}

// NewReceiver opens a receiver at an IPv4 address, which may be 0.0.0.0. Several
// of the same address share what comes, by its addresses and ports.
func NewReceiver(at netip.AddrPort) (*Receiver, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open receiver: %w", err)
	}
	r := &Receiver{os.NewFile(uintptr(fd), "udp")}
	err = errors.Join(unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, buffer),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1),
		unix.Bind(fd, &unix.SockaddrInet4{Port: int(at.Port()), Addr: at.Addr().As4()}))
	if err != nil {
		r.Close()
		return nil, fmt.Errorf("open receiver at %s: %w", at, err)
	}
	return r, nil
}

// Close closes the socket.
func (r *Receiver) Close() error { return r.file.Close() }

// Port returns the port that the receiver is bound to.
func (r *Receiver) Port() (uint16, error) {
	a, err := unix.Getsockname(int(r.file.Fd()))
	if err != nil {
		return 0, fmt.Errorf("find port: %w", err)
	}
	return uint16(a.(*unix.SockaddrInet4).Port), nil
}

// Receive counts until ended is closed and nothing has come for that long.
func (r *Receiver) Receive(ended <-chan struct{}, silence time.Duration) (c Received, err error) {
	msgs := vector(2048)
	quiet := time.Now() // since then
	var over time.Time
	for {
		n, _, errno := unix.Syscall6(unix.SYS_RECVMMSG, r.file.Fd(), uintptr(unsafe.Pointer(&msgs[0])), batch, unix.MSG_DONTWAIT, 0, 0)
		switch errno {
		case 0:
			quiet = time.Now()
			if c.Packets == 0 {
				c.First = quiet
			}
			c.Packets, c.Last = c.Packets+int(n), quiet
			if n == batch {
				continue
			}
		case unix.EINTR, unix.EAGAIN:
		default:
			return c, fmt.Errorf("recvmmsg: %w", errno)
		}
		select {
		case <-ended:
			if over.IsZero() {
				over = time.Now()
			}
			if min(time.Since(quiet), time.Since(over)) > silence || time.Since(over) > patience {
				return c, nil
			}
		default:
		}
		time.Sleep(pause)
	}
}
