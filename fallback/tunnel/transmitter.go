// SPDX-License-Identifier: Apache-2.0

package tunnel

import (
	"encoding/binary"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"quicksand/fallback/esp"
)

// maxSegments and maxSegmented bound what one UDP_SEGMENT message holds, in
// datagrams and in bytes: the oldest kernels' own bounds.
const (
	maxSegments  = 64
	maxSegmented = 65000
)

// transmitter is a vector of messages for sendmmsg(2), shared by whoever sends
// on the socket. ESP in UDP goes with a UDP checksum, over IPv4 too, where RFC
// 3948 section 2.1 would rather have none: UDP_SEGMENT wants it, and the NIC
// computes it.
type transmitter struct {
	c  *conn
	mu sync.Mutex // guards all that follows

	hdrs  []unix.Mmsghdr
	iovs  []unix.Iovec
	name  unix.RawSockaddrInet6
	ctrl  [][controlLen]byte
	first []int // index in the batch of each message's first packet

	call     func(fd uintptr) bool
	callOne  func(fd uintptr) bool
	from, to int
	n        int
	errno    syscall.Errno
	df       bool // the socket's IP_MTU_DISCOVER is IP_PMTUDISC_DO
	single   bool // UDP_SEGMENT does not work here
}

func (t *transmitter) init(c *conn) {
	t.c = c
	t.hdrs = make([]unix.Mmsghdr, batchSize)
	t.iovs = make([]unix.Iovec, 0, 2*batchSize)
	t.ctrl = make([][controlLen]byte, batchSize)
	t.first = make([]int, batchSize+1)
	// Neither call sleeps, so Go's scheduler need not hear of it, which saves the
	// wake-up of its monitor thread and hand-overs to other threads.
	t.call = func(fd uintptr) bool {
		for {
			n, _, errno := unix.RawSyscall6(unix.SYS_SENDMMSG, fd, uintptr(unsafe.Pointer(&t.hdrs[t.from])),
				uintptr(t.to-t.from), unix.MSG_DONTWAIT, 0, 0)
			if errno == unix.EINTR || errno == unix.EAGAIN && c.wait(fd, unix.POLLOUT, false) {
				continue
			}
			t.n, t.errno = int(n), errno
			return true
		}
	}
	t.callOne = func(fd uintptr) bool {
		for {
			_, _, errno := unix.RawSyscall(unix.SYS_SENDMSG, fd, uintptr(unsafe.Pointer(&t.hdrs[0].Hdr)), unix.MSG_DONTWAIT)
			if errno == unix.EINTR || errno == unix.EAGAIN && c.wait(fd, unix.POLLOUT, false) {
				continue
			}
			t.errno = errno
			return true
		}
	}
}

// send sends the packets and sets Err in those that could not be sent.
func (t *transmitter) send(p Path, batch []esp.Packet) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.address(p.Remote)
	for len(batch) > 0 {
		n := t.fill(p, batch)
		used := t.first[n]
		t.setDF(t.wholeDF(p, &batch[0]))
		single := t.single
		for t.from, t.to = 0, n; t.from < n; {
			var err error = os.ErrClosed
			if t.c.raw.Write(t.call) == nil {
				if t.errno == 0 {
					t.from += t.n
					continue
				}
				err = t.errno
			}
			lo, hi := t.first[t.from], t.first[t.from+1]
			if hi-lo > 1 && !single && (err == unix.EIO || err == unix.EINVAL) {
				// The device below, or the kernel, cannot cut datagrams: from
				// here on it is one message each.
				t.single = true
				used = lo
				break
			}
			for i := lo; i < hi; i++ {
				batch[i].Err = err
			}
			t.from++
		}
		batch = batch[used:]
	}
}

// sendOne sends one datagram, in parts of which there are two at most. The lock
// is held.
func (t *transmitter) sendOne(parts [][]byte, local netip.Addr, to netip.AddrPort) error {
	t.address(to)
	t.iovs = t.iovs[:0]
	for _, b := range parts {
		iov := unix.Iovec{Base: unsafe.SliceData(b)}
		iov.SetLen(len(b))
		t.iovs = append(t.iovs, iov)
	}
	t.message(0, t.iovs)
	t.control(0, Path{Local: netip.AddrPortFrom(local, 0)}, 0, 0)
	if t.c.raw.Write(t.callOne) != nil {
		return os.ErrClosed
	}
	clear(t.iovs)
	if t.errno != 0 {
		return t.errno
	}
	return nil
}

// wholeDF reports whether the packet goes with DF: not where it has to be
// fragmented.
func (t *transmitter) wholeDF(p Path, q *esp.Packet) bool {
	return t.c.udp && !t.c.v6 && q.DF && !t.long(p, q)
}

// long reports whether the packet is longer than the path takes in one piece.
func (t *transmitter) long(p Path, q *esp.Packet) bool {
	n := q.Len
	if t.c.udp {
		n += 8
	}
	if t.c.v6 {
		n += 40
	} else if t.c.udp {
		n += 20
	}
	return n > p.MTU
}

// fill makes messages of the first packets of the batch and returns how many.
// All of them agree on DF.
func (t *transmitter) fill(p Path, batch []esp.Packet) (n int) {
	t.iovs = t.iovs[:0]
	used := 0
	df := t.wholeDF(p, &batch[0])
	for used < len(batch) && n < len(t.hdrs) && len(t.iovs) < cap(t.iovs) {
		if t.wholeDF(p, &batch[used]) != df {
			break
		}
		t.first[n] = used
		count := 1
		if t.c.udp && !t.single {
			count = t.joinable(p, batch[used:], cap(t.iovs)-len(t.iovs))
		}
		at := len(t.iovs)
		for i := used; i < used+count; i++ {
			iov := unix.Iovec{Base: &batch[i].Buf[batch[i].Off]}
			iov.SetLen(batch[i].Len)
			t.iovs = append(t.iovs, iov)
		}
		t.message(n, t.iovs[at:])
		segment := 0
		if count > 1 {
			segment = batch[used].Len
		}
		t.control(n, p, batch[used].TOS, segment)
		used += count
		n++
	}
	t.first[n] = used
	return n
}

// message gives the n-th message its parts and its destination.
func (t *transmitter) message(n int, parts []unix.Iovec) {
	h := &t.hdrs[n].Hdr
	h.Iov = &parts[0]
	h.SetIovlen(len(parts))
	h.Name = (*byte)(unsafe.Pointer(&t.name))
	h.Namelen = unix.SizeofSockaddrInet4
	if t.c.v6 {
		h.Namelen = unix.SizeofSockaddrInet6
	}
}

// joinable returns how many of the first packets can go in one message with
// UDP_SEGMENT: equally long, only the last one shorter, none to be fragmented.
func (t *transmitter) joinable(p Path, batch []esp.Packet, most int) int {
	first := &batch[0]
	if t.long(p, first) {
		return 1
	}
	total, n := first.Len, 1
	for most = min(most, maxSegments, len(batch)); n < most; n++ {
		q := &batch[n]
		total += q.Len
		if q.Len > first.Len || total > maxSegmented || q.DF != first.DF || q.TOS != first.TOS {
			break
		}
		if q.Len < first.Len {
			return n + 1
		}
	}
	return n
}

func (t *transmitter) address(to netip.AddrPort) {
	port := networkOrder(to.Port())
	if !t.c.udp {
		port = 0
	}
	if t.c.v6 {
		t.name = unix.RawSockaddrInet6{Family: unix.AF_INET6, Port: port,
			Addr: to.Addr().As16(), Scope_id: zoneID(to.Addr().Zone())}
		return
	}
	*(*unix.RawSockaddrInet4)(unsafe.Pointer(&t.name)) = unix.RawSockaddrInet4{Family: unix.AF_INET,
		Port: port, Addr: to.Addr().As4()}
}

// control writes the message's ancillary data: source address, DSCP and ECN,
// and the length at which the kernel cuts it into datagrams.
func (t *transmitter) control(i int, p Path, class uint8, segment int) {
	h := &t.hdrs[i].Hdr
	h.Control = nil
	h.SetControllen(0)
	if !t.c.udp && !t.c.v6 {
		return // all of it is in the packet's own header
	}
	b := appendSource(t.ctrl[i][:0], p.Local.Addr())
	if class != 0 {
		var v []byte
		if t.c.v6 {
			b, v = appendControl(b, unix.IPPROTO_IPV6, unix.IPV6_TCLASS, 4)
		} else {
			b, v = appendControl(b, unix.IPPROTO_IP, unix.IP_TOS, 4)
		}
		binary.NativeEndian.PutUint32(v, uint32(class))
	}
	if segment > 0 {
		var v []byte
		b, v = appendControl(b, unix.IPPROTO_UDP, unix.UDP_SEGMENT, 2)
		binary.NativeEndian.PutUint16(v, uint16(segment))
	}
	if len(b) > 0 {
		h.Control = &b[0]
		h.SetControllen(len(b))
	}
}

// appendSource appends the ancillary data that gives a message its source
// address, where there is one.
func appendSource(b []byte, local netip.Addr) []byte {
	var v []byte
	switch {
	case !given(local):
	case local.Is4():
		b, v = appendControl(b, unix.IPPROTO_IP, unix.IP_PKTINFO, unix.SizeofInet4Pktinfo)
		a := local.As4()
		copy(v[4:8], a[:])
	default:
		b, v = appendControl(b, unix.IPPROTO_IPV6, unix.IPV6_PKTINFO, unix.SizeofInet6Pktinfo)
		a := local.As16()
		copy(v, a[:])
		binary.NativeEndian.PutUint32(v[16:], zoneID(local.Zone()))
	}
	return b
}

// appendControl appends a control message to b, whose capacity is enough, and
// returns b and the place of the value.
func appendControl(b []byte, level, typ int32, length int) ([]byte, []byte) {
	at := len(b)
	b = b[:at+unix.CmsgSpace(length)]
	clear(b[at:])
	h := (*unix.Cmsghdr)(unsafe.Pointer(&b[at]))
	h.Level, h.Type = level, typ
	h.SetLen(unix.CmsgLen(length))
	return b, b[at+unix.CmsgLen(0):][:length]
}

// setDF makes the kernel set the Don't Fragment bit, or fragment to the path's
// MTU, from now on.
func (t *transmitter) setDF(df bool) {
	if t.df == df || !t.c.udp || t.c.v6 {
		return
	}
	mode := unix.IP_PMTUDISC_DONT
	if df {
		mode = unix.IP_PMTUDISC_DO
	}
	if t.c.setInt(unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, mode) == nil {
		t.df = df
	}
}
