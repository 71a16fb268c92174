// SPDX-License-Identifier: Apache-2.0

package offload

import (
	"fmt"
	"iter"
	"os"
	"unsafe"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// socket is a netlink socket for requests. The kernel works on a request while
// it is sent, so its answers are there when it was, and neither call has
// anything to wait for. Go's runtime is told nothing of such calls: it would
// wake another thread to take the processor over, which costs more than the
// request. It implements netlink.Socket.
type socket struct {
	fd int
	// waits is set for requests that the kernel may sleep over: it loads
	// modules, and drivers wait for their firmware.
	waits    bool
	out, in  []byte
	messages []netlink.Message
}

// dialSocket opens a socket of the family; it serves one exchange at a time.
func dialSocket(family int) (*socket, *netlink.Conn, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, family)
	if err != nil {
		return nil, nil, os.NewSyscallError("socket", err)
	}
	s := &socket{fd: fd, in: make([]byte, messageBuffer)}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		unix.Close(fd)
		return nil, nil, os.NewSyscallError("bind", err)
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		unix.Close(fd)
		return nil, nil, os.NewSyscallError("getsockname", err)
	}
	// Without them errors come without the kernel's words.
	_ = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_EXT_ACK, 1)
	return s, netlink.NewConn(s, name.(*unix.SockaddrNetlink).Pid), nil
}

// Close implements netlink.Socket.
func (s *socket) Close() error { return os.NewSyscallError("close", unix.Close(s.fd)) }

// Send implements netlink.Socket.
func (s *socket) Send(m netlink.Message) error {
	s.messages = append(s.messages[:0], m)
	return s.SendMessages(s.messages)
}

// SendMessages implements netlink.Socket: all go in one call.
func (s *socket) SendMessages(ms []netlink.Message) error {
	s.out = s.out[:0]
	for _, m := range ms {
		s.out = native.AppendUint32(s.out, uint32(unix.NLMSG_HDRLEN+len(m.Data)))
		s.out = native.AppendUint16(s.out, uint16(m.Header.Type))
		s.out = native.AppendUint16(s.out, uint16(m.Header.Flags))
		s.out = native.AppendUint32(s.out, m.Header.Sequence)
		s.out = native.AppendUint32(s.out, m.Header.PID)
		s.out = append(s.out, m.Data...)
		for len(s.out)%unix.NLMSG_ALIGNTO != 0 {
			s.out = append(s.out, 0)
		}
	}
	defer clear(s.out) // there may be keys in it
	_, errno := s.call(unix.SYS_SENDTO, s.out, 0)
	if errno != 0 {
		return os.NewSyscallError("sendto", errno)
	}
	return nil
}

// Receive implements netlink.Socket.
func (s *socket) Receive() ([]netlink.Message, error) {
	n, errno := s.call(unix.SYS_RECVFROM, s.in, unix.MSG_DONTWAIT|unix.MSG_TRUNC)
	for errno == unix.EAGAIN {
		if _, err := unix.Poll([]unix.PollFd{{Fd: int32(s.fd), Events: unix.POLLIN}}, -1); err != nil && err != unix.EINTR {
			return nil, os.NewSyscallError("poll", err)
		}
		n, errno = s.call(unix.SYS_RECVFROM, s.in, unix.MSG_DONTWAIT|unix.MSG_TRUNC)
	}
	if errno != 0 {
		return nil, os.NewSyscallError("recvfrom", errno)
	}
	if n > len(s.in) {
		return nil, fmt.Errorf("receive: an answer of %d bytes does not fit", n)
	}
	var out []netlink.Message
	for b := s.in[:n]; len(b) >= unix.NLMSG_HDRLEN; {
		length := int(native.Uint32(b))
		if length < unix.NLMSG_HDRLEN || length > len(b) {
			return nil, fmt.Errorf("receive: a message of %d bytes in %d", length, len(b))
		}
		out = append(out, netlink.Message{
			Header: netlink.Header{Length: uint32(length), Type: netlink.HeaderType(native.Uint16(b[4:])),
				Flags: netlink.HeaderFlags(native.Uint16(b[6:])), Sequence: native.Uint32(b[8:]), PID: native.Uint32(b[12:])},
			Data: append([]byte(nil), b[unix.NLMSG_HDRLEN:length]...),
		})
		b = b[min(len(b), (length+unix.NLMSG_ALIGNTO-1)&^(unix.NLMSG_ALIGNTO-1)):]
	}
	return out, nil
}

// ReceiveIter implements netlink.Socket.
func (s *socket) ReceiveIter() iter.Seq2[netlink.Message, error] { return each(s.Receive) }

// each yields what one call receives.
func each(receive func() ([]netlink.Message, error)) iter.Seq2[netlink.Message, error] {
	return func(yield func(netlink.Message, error) bool) {
		ms, err := receive()
		if err != nil {
			yield(netlink.Message{}, err)
			return
		}
		for _, m := range ms {
			if !yield(m, nil) {
				return
			}
		}
	}
}

// call makes one system call over a buffer, and again where a signal came
// between.
func (s *socket) call(number uintptr, b []byte, flags int) (n int, errno unix.Errno) {
	at, size := unsafe.Pointer(&b[0]), uintptr(len(b))
	for {
		var r uintptr
		if s.waits {
			r, _, errno = unix.Syscall6(number, uintptr(s.fd), uintptr(at), size, uintptr(flags), 0, 0)
		} else {
			r, _, errno = unix.RawSyscall6(number, uintptr(s.fd), uintptr(at), size, uintptr(flags), 0, 0)
		}
		if errno != unix.EINTR {
			return int(r), errno
		}
	}
}
