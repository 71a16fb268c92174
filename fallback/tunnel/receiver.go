// SPDX-License-Identifier: Apache-2.0

package tunnel

import (
	"encoding/binary"
	"net/netip"
	"os"
	"strconv"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"quicksand/fallback/esp"
)

const (
	// batchSize is how many messages one system call moves at most.
	batchSize = 64
	// maxPacket is the longest IP packet.
	maxPacket = 65535
	// rxHeadroom leaves esp.Headroom also where an outer IPv6 header is put
	// back before an AH packet.
	rxHeadroom = esp.Headroom + 40
	controlLen = 128
)

// message is what the kernel told of one received message.
type message struct {
	buf     []byte
	len     int // the data is buf[rxHeadroom:][:len]
	remote  netip.AddrPort
	local   netip.Addr
	class   uint8
	ttl     uint8
	segment int // length of each datagram where the kernel joined several, else 0
}

func (m *message) data() []byte { return m.buf[rxHeadroom:][:m.len] }

// receiver is a vector of buffers for recvmmsg(2). One goroutine uses it.
type receiver struct {
	c     *conn
	hdrs  []unix.Mmsghdr
	iovs  []unix.Iovec
	names []unix.RawSockaddrInet6 // large enough for either family
	ctrl  [][controlLen]byte
	bufs  [][]byte

	call  func(fd uintptr) bool // made once, so that receiving allocates nothing
	n     int
	errno syscall.Errno
	busy  bool // the messages of the last call held traffic, and more is about to come
}

func newReceiver(c *conn, batch int) *receiver {
	r := &receiver{
		c:     c,
		hdrs:  make([]unix.Mmsghdr, batch),
		iovs:  make([]unix.Iovec, batch),
		names: make([]unix.RawSockaddrInet6, batch),
		ctrl:  make([][controlLen]byte, batch),
		bufs:  newBuffers(batch),
	}
	for i := range r.hdrs {
		r.iovs[i].Base = &r.bufs[i][rxHeadroom]
		r.iovs[i].SetLen(maxPacket)
		h := &r.hdrs[i].Hdr
		h.Iov = &r.iovs[i]
		h.SetIovlen(1)
		h.Name = (*byte)(unsafe.Pointer(&r.names[i]))
		h.Control = &r.ctrl[i][0]
	}
	// The call itself never sleeps, so Go's scheduler need not hear of it, which saves
	// the wake-up of its monitor thread.
	r.call = func(fd uintptr) bool {
		for {
			n, _, errno := unix.RawSyscall6(unix.SYS_RECVMMSG, fd, uintptr(unsafe.Pointer(&r.hdrs[0])),
				uintptr(len(r.hdrs)), unix.MSG_DONTWAIT, 0, 0)
			if errno == unix.EINTR || errno == unix.EAGAIN && c.wait(fd, unix.POLLIN, r.busy) {
				continue
			}
			r.n, r.errno = int(n), errno
			return true
		}
	}
	return r
}

// newBuffers makes buffers for packets of any length with room around them.
// Pages of a buffer that no packet reaches are never touched.
func newBuffers(n int) [][]byte {
	bufs := make([][]byte, n)
	for i := range bufs {
		bufs[i] = make([]byte, rxHeadroom+maxPacket+esp.Tailroom)
	}
	return bufs
}

// receive waits for messages and returns how many came, os.ErrClosed once the
// socket is closed, or an error that is a message's own.
func (r *receiver) receive() (int, error) {
	for i := range r.hdrs {
		h := &r.hdrs[i].Hdr
		h.Namelen = uint32(unsafe.Sizeof(r.names[i]))
		h.SetControllen(controlLen)
		h.Flags = 0
	}
	if r.c.raw.Read(r.call) != nil || r.errno == unix.EAGAIN {
		return 0, os.ErrClosed
	}
	if r.errno != 0 {
		return 0, r.errno
	}
	return r.n, nil
}

// message returns the i-th message of the last receive, and whether it is
// whole.
func (r *receiver) message(i int) (m message, ok bool) {
	h := &r.hdrs[i]
	if h.Hdr.Flags&unix.MSG_TRUNC != 0 {
		return m, false
	}
	m.buf = r.bufs[i]
	m.len = int(h.Len)
	name := &r.names[i]
	if r.c.v6 {
		a := netip.AddrFrom16(name.Addr)
		if name.Scope_id != 0 {
			a = a.WithZone(strconv.Itoa(int(name.Scope_id)))
		}
		m.remote = netip.AddrPortFrom(a, networkOrder(name.Port))
	} else {
		n4 := (*unix.RawSockaddrInet4)(unsafe.Pointer(name))
		m.remote = netip.AddrPortFrom(netip.AddrFrom4(n4.Addr), networkOrder(n4.Port))
	}
	m.control(r.ctrl[i][:h.Hdr.Controllen])
	return m, true
}

func networkOrder(p uint16) uint16 {
	var b [2]byte
	binary.NativeEndian.PutUint16(b[:], p)
	return binary.BigEndian.Uint16(b[:])
}

// control reads the message's ancillary data.
func (m *message) control(b []byte) {
	for len(b) >= unix.SizeofCmsghdr {
		h := (*unix.Cmsghdr)(unsafe.Pointer(&b[0]))
		n := int(h.Len)
		if n < unix.CmsgLen(0) || n > len(b) {
			return
		}
		v := b[unix.CmsgLen(0):n]
		switch [2]int32{h.Level, h.Type} {
		case [2]int32{unix.IPPROTO_IP, unix.IP_PKTINFO}:
			if len(v) >= unix.SizeofInet4Pktinfo {
				m.local = netip.AddrFrom4([4]byte(v[4:8]))
			}
		case [2]int32{unix.IPPROTO_IPV6, unix.IPV6_PKTINFO}:
			if len(v) >= unix.SizeofInet6Pktinfo {
				m.local = netip.AddrFrom16([16]byte(v[:16]))
			}
		case [2]int32{unix.IPPROTO_IP, unix.IP_TOS}:
			if len(v) >= 1 {
				m.class = v[0]
			}
		case [2]int32{unix.IPPROTO_IPV6, unix.IPV6_TCLASS}:
			m.class = uint8(controlInt(v))
		case [2]int32{unix.IPPROTO_IP, unix.IP_TTL}, [2]int32{unix.IPPROTO_IPV6, unix.IPV6_HOPLIMIT}:
			m.ttl = uint8(controlInt(v))
		case [2]int32{unix.IPPROTO_UDP, unix.UDP_GRO}:
			m.segment = controlInt(v)
		}
		b = b[min(unix.CmsgSpace(len(v)), len(b)):]
	}
}

func controlInt(v []byte) int {
	if len(v) < 4 {
		return 0
	}
	return int(int32(binary.NativeEndian.Uint32(v)))
}
