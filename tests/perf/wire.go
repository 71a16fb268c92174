// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"quicksand/tests/harness"
)

// packet is an IKE or ESP packet over IPv4 on a host's uplink.
type packet struct {
	at   time.Time // by the kernel
	ike  bool
	mine bool   // sent by host a
	spi  uint32 // of ESP
}

// watcher captures a host's uplink.
type watcher struct{ fd int }

// watch begins to capture.
func watch(h *harness.Host) (*watcher, error) {
	w := &watcher{fd: -1}
	err := h.Do(func() error {
		dev, err := net.InterfaceByName(h.Uplink())
		if err != nil {
			return err
		}
		const all = 0x0300 // ETH_P_ALL in network order
		if w.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0); err != nil {
			return err
		}
		return errors.Join(
			unix.SetsockoptInt(w.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20),
			unix.SetsockoptInt(w.fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1),
			unix.Bind(w.fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: dev.Index}))
	})
	if err != nil {
		if w.fd >= 0 {
			unix.Close(w.fd)
		}
		return nil, fmt.Errorf("watch %s: %w", h.Name(), err)
	}
	return w, nil
}

// stop ends the capture and returns what was seen.
func (w *watcher) stop() (seen []packet, err error) {
	defer unix.Close(w.fd)
	data, control := make([]byte, 2048), make([]byte, 256)
	for {
		n, cn, _, _, err := unix.Recvmsg(w.fd, data, control, 0)
		if errors.Is(err, unix.EAGAIN) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("read capture: %w", err)
		}
		p, ok := parse(data[:n])
		if !ok {
			continue
		}
		if p.at, err = stamp(control[:cn]); err != nil {
			return nil, err
		}
		seen = append(seen, p)
	}
	s, err := unix.GetsockoptTpacketStats(w.fd, unix.SOL_PACKET, unix.PACKET_STATISTICS)
	if err == nil && s.Drops > 0 {
		err = fmt.Errorf("the capture lost %d packets", s.Drops)
	}
	return seen, err
}

// parse reads an IPv4 header and what is told from the next one.
func parse(b []byte) (p packet, ok bool) {
	if len(b) < 20 || b[0]>>4 != 4 {
		return p, false
	}
	p.mine = netip.AddrFrom4([4]byte(b[12:16])).String() == harness.AddrA
	body := b[min(len(b), 4*int(b[0]&15)):]
	if len(body) < 8 {
		return p, false
	}
	switch b[9] {
	case unix.IPPROTO_ESP:
		p.spi = binary.BigEndian.Uint32(body)
	case unix.IPPROTO_UDP:
		const port = 500
		p.ike = binary.BigEndian.Uint16(body[2:]) == port
		return p, p.ike
	default:
		return p, false
	}
	return p, true
}

// stamp returns when the kernel saw the packet.
func stamp(control []byte) (time.Time, error) {
	all, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return time.Time{}, fmt.Errorf("read time of packet: %w", err)
	}
	for _, m := range all {
		if m.Header.Level == unix.SOL_SOCKET && m.Header.Type == unix.SO_TIMESTAMPNS && len(m.Data) >= int(unsafe.Sizeof(unix.Timespec{})) {
			return time.Unix(int64(binary.NativeEndian.Uint64(m.Data)), int64(binary.NativeEndian.Uint64(m.Data[8:]))), nil
		}
	}
	return time.Time{}, errors.New("read time of packet: the kernel gave none")
}
