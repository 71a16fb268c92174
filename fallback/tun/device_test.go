// SPDX-License-Identifier: Apache-2.0

package tun

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// inNamespace runs f in a network namespace of its own. A continuous
// integration that cannot have one is broken, and is not to pass.
func inNamespace(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // for good: the thread ends, and the namespace with it
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			f(t)
		}
		done <- err
	}()
	err := <-done
	switch {
	case errors.Is(err, unix.EPERM) && os.Getenv("CI") == "":
		t.Skipf("network namespaces need root: %v", err)
	case err != nil:
		t.Errorf("make network namespace: %v", err)
	}
}

// TestDevice sends datagrams in one call through a real device, and answers
// them, with and without what the kernel can do for UDP since Linux 6.2.
func TestDevice(t *testing.T) {
	for name, best := range map[string]int{"UDP in super-packets": offloadsUDP, "TCP alone": offloads} {
		t.Run(name, func(t *testing.T) { inNamespace(t, func(t *testing.T) { exchange(t, best) }) })
	}
}

func exchange(t *testing.T, best int) {
	d, err := open("tun0", 1400, 1, best)
	if err != nil {
		t.Error(err)
		return
	}
	if _, err := Open("tun0", 1400, 1); !errors.Is(err, unix.EBUSY) {
		t.Errorf("opened twice: %v", err)
	}
	t.Logf("UDP: %v", d.UDP())
	if best == offloads && d.UDP() {
		t.Error("UDP in super-packets where it was not asked for")
	}
	conn := attach(t, d)
	if conn == nil {
		return
	}
	defer conn.Close()
	sent := randomBytes(1700)
	if _, err := conn.Write(sent); err != nil {
		t.Error(err)
		return
	}
	q := d.Queues()[0]
	c := Coalescer{UDP: d.UDP()}
	var got []byte
	var sizes []int
	for frame := make([]byte, MaxFrame); len(got) < len(sent); {
		n, err := q.Read(frame, true)
		if err != nil {
			t.Error(err)
			return
		}
		packets, ok := cut(frame[:n])
		if !ok {
			t.Errorf("frame %x", frame[:n])
			return
		}
		for _, p := range packets {
			f, ok := parse(p)
			if !ok || f.protocol != protoUDP {
				continue // the kernel's own, to the device's neighbours
			}
			if !valid(p, &f) {
				t.Errorf("checksum of %x is wrong", p)
			}
			got, sizes = append(got, p[f.header:]...), append(sizes, f.payload)
			c.Add(answer(p))
		}
	}
	if !bytes.Equal(got, sent) || len(sizes) != 4 {
		t.Errorf("datagrams of %v bytes, or other ones", sizes)
	}
	if n := c.Flush(q); n != 0 {
		t.Errorf("%d packets refused", n)
	}
	conn.SetReadDeadline(time.Now().Add(5 * time.Second))
	back, buf := []byte(nil), make([]byte, 2000)
	for range sizes {
		n, err := conn.Read(buf)
		if err != nil {
			t.Errorf("an answer: %v", err)
			return
		}
		back = append(back, buf[:n]...)
	}
	if !bytes.Equal(back, sent) {
		t.Error("the answers are not what was sent")
	}
	stop(t, d)
}

// attach brings the device up and returns a socket that sends datagrams of 500
// bytes through it.
func attach(t *testing.T, d Device) *net.UDPConn {
	link, err := netlink.LinkByName(d.Name())
	if err == nil {
		err = netlink.LinkSetUp(link)
	}
	if err == nil {
		err = netlink.AddrAdd(link, &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(10, 9, 0, 1), Mask: net.CIDRMask(24, 32)}})
	}
	var conn *net.UDPConn
	if err == nil {
		conn, err = net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.MustParseAddrPort("10.9.0.2:9")))
	}
	if err != nil {
		t.Error(err)
		return nil
	}
	raw, _ := conn.SyscallConn()
	raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.IPPROTO_UDP, unix.UDP_SEGMENT, 500) })
	if err != nil {
		t.Errorf("set socket option UDP_SEGMENT: %v", err)
	}
	return conn
}

// answer sends a datagram over IPv4 back, which leaves all sums as they are.
func answer(p []byte) []byte {
	p = bytes.Clone(p)
	copy(p[12:], append(bytes.Clone(p[16:20]), p[12:16]...))
	copy(p[20:], append(bytes.Clone(p[22:24]), p[20:22]...))
	return p
}

// stop wants a Read that waits to end when the device is stopped.
func stop(t *testing.T, d Device) {
	ended := make(chan error)
	go func() {
		frame := make([]byte, MaxFrame)
		for {
			if _, err := d.Queues()[0].Read(frame, true); err != nil {
				ended <- err
				return
			}
		}
	}()
	d.Stop()
	if err := <-ended; err != os.ErrClosed {
		t.Errorf("a stopped device reads: %v", err)
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
}
