// SPDX-License-Identifier: Apache-2.0

package tunnel

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"

	"quicksand/fallback/tun"
)

// socketBuffer is how many bytes a socket's receive and send buffers take:
// some milliseconds at 10 Gbit/s.
const socketBuffer = 4 << 20

// conn is a socket of one family, UDP or raw, that moves packets in batches. No
// call of it blocks: whoever has to waits by poll. It is not one of the
// runtime's poller, which would wake a thread for each packet, also while the
// one that receives is at work.
type conn struct {
	file *os.File
	shut atomic.Bool // close was called
	raw  syscall.RawConn
	v6   bool
	udp  bool
	tx   transmitter
}

// openConn opens a UDP socket on the port where proto is 17, and a raw one of
// the protocol else. mark is its SO_MARK where not 0.
func openConn(v6 bool, proto int, port uint16, mark int) (*conn, error) {
	return bindConn(v6, proto, port, mark, false)
}

// bindConn is openConn for a port that with again set is bound already, by a
// socket that allows it.
func bindConn(v6 bool, proto int, port uint16, mark int, again bool) (*conn, error) {
	family, typ, name := unix.AF_INET, unix.SOCK_RAW, "raw"
	if v6 {
		family = unix.AF_INET6
	}
	udp := proto == unix.IPPROTO_UDP
	if udp {
		typ, name = unix.SOCK_DGRAM, "udp"
	}
	fd, err := unix.Socket(family, typ|unix.SOCK_CLOEXEC, proto)
	if err != nil {
		return nil, fmt.Errorf("open %s socket: %w", name, err)
	}
	fail := func(err error) (*conn, error) {
		unix.Close(fd)
		return nil, err
	}
	if err := setOptions(fd, v6, udp, mark); err != nil {
		return fail(err)
	}
	if again {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1); err != nil {
			return fail(fmt.Errorf("set socket option SO_REUSEPORT: %w", err))
		}
	}
	if udp {
		var any unix.Sockaddr = &unix.SockaddrInet4{Port: int(port)}
		if v6 {
			any = &unix.SockaddrInet6{Port: int(port)}
		}
		if err := unix.Bind(fd, any); err != nil {
			return fail(fmt.Errorf("bind port %d: %w", port, err))
		}
	}
	c := &conn{file: os.NewFile(uintptr(fd), name), v6: v6, udp: udp}
	if c.raw, err = c.file.SyscallConn(); err != nil {
		c.file.Close()
		return nil, fmt.Errorf("open %s socket: %w", name, err)
	}
	c.tx.init(c)
	if !udp {
		// Packets of SAs are not for the kernel's IPsec policies, where it has
		// any.
		_ = c.exempt()
	}
	return c, nil
}

func setOptions(fd int, v6, udp bool, mark int) error {
	type option struct {
		level, name, value int
		what               string
	}
	var options []option
	switch {
	case v6:
		options = []option{
			{unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1, "IPV6_RECVPKTINFO"},
			{unix.IPPROTO_IPV6, unix.IPV6_RECVTCLASS, 1, "IPV6_RECVTCLASS"},
			{unix.IPPROTO_IPV6, unix.IPV6_RECVHOPLIMIT, 1, "IPV6_RECVHOPLIMIT"},
			{unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_DONT, "IPV6_MTU_DISCOVER"},
		}
		if udp {
			options = append(options, option{unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1, "IPV6_V6ONLY"})
		}
	case udp:
		options = []option{
			{unix.IPPROTO_IP, unix.IP_PKTINFO, 1, "IP_PKTINFO"},
			{unix.IPPROTO_IP, unix.IP_RECVTOS, 1, "IP_RECVTOS"},
			{unix.IPPROTO_IP, unix.IP_RECVTTL, 1, "IP_RECVTTL"},
			{unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DONT, "IP_MTU_DISCOVER"},
		}
	default: // packets come and go with their IP header
		options = []option{
			{unix.IPPROTO_IP, unix.IP_HDRINCL, 1, "IP_HDRINCL"},
			{unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DONT, "IP_MTU_DISCOVER"},
		}
	}
	if mark != 0 {
		options = append(options, option{unix.SOL_SOCKET, unix.SO_MARK, mark, "SO_MARK"})
	}
	for _, o := range options {
		if err := unix.SetsockoptInt(fd, o.level, o.name, o.value); err != nil {
			return fmt.Errorf("set socket option %s: %w", o.what, err)
		}
	}
	for _, o := range [][2]int{{unix.SO_RCVBUFFORCE, unix.SO_RCVBUF}, {unix.SO_SNDBUFFORCE, unix.SO_SNDBUF}} {
		if unix.SetsockoptInt(fd, unix.SOL_SOCKET, o[0], socketBuffer) != nil {
			// Not allowed to go beyond the system's limit; up to it will do.
			_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, o[1], socketBuffer)
		}
	}
	return nil
}

// localPort returns the port the socket is bound to.
func (c *conn) localPort() (port uint16) {
	c.raw.Control(func(fd uintptr) {
		switch sa, _ := unix.Getsockname(int(fd)); sa := sa.(type) {
		case *unix.SockaddrInet4:
			port = uint16(sa.Port)
		case *unix.SockaddrInet6:
			port = uint16(sa.Port)
		}
	})
	return port
}

func (c *conn) setInt(level, name, value int) error {
	var err error
	if e := c.raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), level, name, value) }); e != nil {
		return e
	}
	return err
}

// sendTo sends one datagram, in parts, by itself. The parts are two at most.
func (c *conn) sendTo(parts [][]byte, local netip.Addr, remote netip.AddrPort) error {
	c.tx.mu.Lock()
	defer c.tx.mu.Unlock()
	c.tx.setDF(false)
	return c.tx.sendOne(parts, local, remote)
}

// close closes the socket, and ends whoever waits.
func (c *conn) close() error {
	c.shut.Store(true)
	_ = c.raw.Control(func(fd uintptr) {
		// It is not connected, which is an error, but those who poll are woken.
		_ = unix.Shutdown(int(fd), unix.SHUT_RDWR)
	})
	return c.file.Close()
}

// wait waits until the socket is ready for events, and reports false once it is
// closed. Under load the wait is short, and busy says that there is load.
func (c *conn) wait(fd uintptr, events int16, busy bool) bool {
	fds := [1]unix.PollFd{{Fd: int32(fd), Events: events}}
	if !c.shut.Load() && !(busy && tun.PollBusy(fds[:])) && !c.shut.Load() {
		// An error is EINTR, or comes again with the call that follows.
		_, _ = unix.Poll(fds[:], -1)
	}
	return !c.shut.Load()
}

// pathMTU asks the kernel for the path's MTU: it is what the kernel would
// say to a socket connected to the other end.
func pathMTU(local, remote netip.Addr, mark int) (int, error) {
	family, level, option := unix.AF_INET, unix.IPPROTO_IP, unix.IP_MTU
	if remote.Is6() {
		family, level, option = unix.AF_INET6, unix.IPPROTO_IPV6, unix.IPV6_MTU
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("find path MTU to %s: %w", remote, err)
	}
	defer unix.Close(fd)
	if mark != 0 {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, mark); err != nil {
			return 0, fmt.Errorf("set socket option SO_MARK: %w", err)
		}
	}
	if given(local) {
		if err := unix.Bind(fd, sockaddr(netip.AddrPortFrom(local, 0))); err != nil {
			return 0, fmt.Errorf("bind %s: %w", local, err)
		}
	}
	// Any port does: nothing is sent.
	if err := unix.Connect(fd, sockaddr(netip.AddrPortFrom(remote, 9))); err != nil {
		return 0, fmt.Errorf("find path to %s: %w", remote, err)
	}
	mtu, err := unix.GetsockoptInt(fd, level, option)
	if err != nil {
		return 0, fmt.Errorf("find path MTU to %s: %w", remote, err)
	}
	return mtu, nil
}

// given reports whether a is a real address, and not one for the kernel to
// choose.
func given(a netip.Addr) bool { return a.IsValid() && !a.IsUnspecified() }

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16(), ZoneId: zoneID(a.Addr().Zone())}
}

// zoneID is the interface index a link-local address's zone stands for.
func zoneID(zone string) uint32 {
	if zone == "" {
		return 0
	}
	if i, err := strconv.ParseUint(zone, 10, 32); err == nil {
		return uint32(i)
	}
	if ifi, err := net.InterfaceByName(zone); err == nil {
		return uint32(ifi.Index)
	}
	return 0
}
