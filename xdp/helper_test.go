// SPDX-License-Identifier: Apache-2.0

package xdp

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"os"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"quicksand/sa"
)

// needKernel is the probe for what these tests need: the right to load a
// program, and a kernel that has such programs. A continuous integration that
// lacks it is broken, and is not to pass.
func needKernel(t testing.TB) {
	t.Helper()
	m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.XSKMap, KeySize: 4, ValueSize: 4, MaxEntries: 1})
	if err == nil {
		m.Close()
		return
	}
	if os.Getenv("CI") == "" && (errors.Is(err, unix.EPERM) || errors.Is(err, ebpf.ErrNotSupported)) {
		t.Skipf("XDP programs cannot be loaded here: %v", err)
	}
	t.Fatal(err)
}

func open(t testing.TB, o Options) *Program {
	t.Helper()
	p, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

func insert(t testing.TB, s Steering, k Key, to Target) {
	t.Helper()
	if err := s.Insert(k, to); err != nil {
		t.Fatal(err)
	}
}

func totals(t testing.TB, s Steering) Totals {
	t.Helper()
	all, err := s.Totals()
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// What the kernel does with a frame.
const (
	xdpDrop     = 1
	xdpPass     = 2
	xdpRedirect = 4
)

// judge has the program look at the frame and returns its verdict, which it
// takes from the one counter that moved, with what the kernel is told to do.
func judge(t testing.TB, p *Program, frame []byte) (Verdict, uint32) {
	t.Helper()
	before := totals(t, p)
	action, err := p.objects.QuicksandSteer.Run(&ebpf.RunOptions{Data: frame})
	if err != nil {
		t.Fatalf("run on %d octets: %v", len(frame), err)
	}
	verdict := verdicts
	for v, total := range totals(t, p) {
		if total == before[v] {
			continue
		}
		if verdict != verdicts {
			t.Fatalf("both %s and %s were counted", verdict, Verdict(v))
		}
		if total.Packets-before[v].Packets != 1 || total.Bytes-before[v].Bytes != uint64(len(frame)) {
			t.Fatalf("%s: counted %v after %v for %d octets", Verdict(v), total, before[v], len(frame))
		}
		verdict = Verdict(v)
	}
	return verdict, action
}

// does is what the kernel must be told for a verdict.
func does(v Verdict) uint32 {
	switch v {
	case IKELimited, UnknownDropped, Dropped, Stale:
		return xdpDrop
	case Socketed, OnCPU, Forwarded:
		return xdpRedirect
	}
	return xdpPass
}

var (
	local4, remote4 = netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("198.51.100.7")
	local6, remote6 = netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8:2::7")
)

func join(parts ...[]byte) []byte {
	var all []byte
	for _, p := range parts {
		all = append(all, p...)
	}
	return all
}

func ethernet(kind uint16, vlans ...uint16) []byte {
	b := []byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2}
	for _, v := range vlans {
		b = binary.BigEndian.AppendUint16(b, v)
		b = append(b, 0, 7)
	}
	return binary.BigEndian.AppendUint16(b, kind)
}

// header4 is an IPv4 header with words of options, which are padding.
func header4(proto byte, options int, fragment uint16, payload []byte) []byte {
	b := make([]byte, 20+4*options)
	b[0] = 0x45 + byte(options)
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)+len(payload)))
	binary.BigEndian.PutUint16(b[6:], fragment)
	b[8], b[9] = 64, proto
	copy(b[12:], remote4.AsSlice())
	copy(b[16:], local4.AsSlice())
	return append(b, payload...)
}

func header6(next byte, payload []byte) []byte {
	b := make([]byte, 40)
	b[0], b[6], b[7] = 0x60, next, 64
	binary.BigEndian.PutUint16(b[4:], uint16(len(payload)))
	copy(b[8:], remote6.AsSlice())
	copy(b[24:], local6.AsSlice())
	return append(b, payload...)
}

func frame4(proto byte, payload []byte) []byte {
	return join(ethernet(0x0800), header4(proto, 0, 0, payload))
}

func frame6(next byte, payload []byte) []byte {
	return join(ethernet(0x86dd), header6(next, payload))
}

// extension is an IPv6 extension header of eight octets and more times eight.
func extension(next, more byte) []byte {
	b := make([]byte, 8+8*int(more))
	b[0], b[1] = next, more
	return b
}

func espPacket(spi sa.SPI, size int) []byte {
	b := make([]byte, 8+size)
	binary.BigEndian.PutUint32(b, uint32(spi))
	b[7] = 1
	return b
}

func ahPacket(spi sa.SPI) []byte {
	b := make([]byte, 24)
	b[0], b[1] = 4, 4
	binary.BigEndian.PutUint32(b[4:], uint32(spi))
	return b
}

func udpPacket(port uint16, payload []byte) []byte {
	b := binary.BigEndian.AppendUint16(nil, 40000)
	b = binary.BigEndian.AppendUint16(b, port)
	b = binary.BigEndian.AppendUint16(b, uint16(8+len(payload)))
	return join(b, []byte{0, 0}, payload)
}

// ikePacket is an ISAKMP header; a new exchange has no responder cookie.
func ikePacket(fresh bool) []byte {
	b := make([]byte, isakmpHeader)
	b[0], b[27] = 0xaa, isakmpHeader
	if !fresh {
		b[15] = 1
	}
	return b
}
