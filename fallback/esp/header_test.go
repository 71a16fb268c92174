// SPDX-License-Identifier: Apache-2.0

package esp

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"quicksand/sa"
)

func TestParse(t *testing.T) {
	v6 := func(next uint8, rest ...byte) []byte {
		p := packet(rest)
		if err := PushIP(&p, Outer{Src: netip.MustParseAddr("fd00::1"), Dst: netip.MustParseAddr("fd00::2"), Protocol: next, TOS: 0xb9}); err != nil {
			t.Fatal(err)
		}
		return p.Bytes()
	}
	ports := []byte{0, 80, 1, 187}
	cat := func(parts ...[]byte) (out []byte) {
		for _, p := range parts {
			out = append(out, p...)
		}
		return out
	}
	options := []byte{6, 1, 1, 4, 0, 0, 0, 0, 1, 6, 0, 0, 0, 0, 0, 0}
	first := []byte{17, 0, 0, 1, 0, 0, 0, 9}
	later := []byte{17, 0, 0, 8, 0, 0, 0, 9}
	fragment4 := udp("10.0.0.1", "10.1.0.1", 8)
	fragment4[6], fragment4[7] = 0, 1
	for name, c := range map[string]struct {
		b    []byte
		ok   bool
		want Header
	}{
		"UDP":            {udp("10.0.0.1", "10.1.0.1", 3), true, Header{Protocol: 17, SrcPort: 0x1234, DstPort: 53, HasPorts: true, DF: true, Len: 31, PayloadOff: 20}},
		"behind it more": {append(udp("10.0.0.1", "10.1.0.1", 3), 1, 2, 3), true, Header{Protocol: 17, SrcPort: 0x1234, DstPort: 53, HasPorts: true, DF: true, Len: 31, PayloadOff: 20}},
		"cut":            {udp("10.0.0.1", "10.1.0.1", 3)[:30], false, Header{}},
		"later fragment": {fragment4, true, Header{Protocol: 17, Fragment: true, Len: 36, PayloadOff: 20}},
		"nothing":        {nil, false, Header{}},
		"version 5":      {append([]byte{0x55}, make([]byte, 60)...), false, Header{}},
		"short header":   {append([]byte{0x44, 0, 0, 30}, make([]byte, 60)...), false, Header{}},
		"v6 TCP":         {v6(6, ports...), true, Header{Protocol: 6, SrcPort: 80, DstPort: 443, HasPorts: true, DF: true, TOS: 0xb9, Len: 44, PayloadOff: 40}},
		"v6 no ports":    {v6(6, 1, 2, 3), true, Header{Protocol: 6, DF: true, TOS: 0xb9, Len: 43, PayloadOff: 40}},
		"v6 options":     {v6(0, cat(options, ports)...), true, Header{Protocol: 6, SrcPort: 80, DstPort: 443, HasPorts: true, DF: true, TOS: 0xb9, Len: 60, PayloadOff: 56}},
		"v6 first":       {v6(44, cat(first, ports)...), true, Header{Protocol: 17, SrcPort: 80, DstPort: 443, HasPorts: true, Fragment: true, DF: true, TOS: 0xb9, Len: 52, PayloadOff: 48}},
		"v6 later":       {v6(44, cat(later, ports)...), true, Header{Protocol: 17, Fragment: true, DF: true, TOS: 0xb9, Len: 52, PayloadOff: 48}},
		"v6 cut options": {v6(60, options[:15]...), false, Header{}},
		"v6 cut header":  {v6(43, 6), false, Header{}},
		"v6 none":        {v6(59), true, Header{Protocol: 59, DF: true, TOS: 0xb9, Len: 40, PayloadOff: 40}},
	} {
		var h Header
		ok := h.Parse(c.b)
		h.Src, h.Dst = netip.Addr{}, netip.Addr{}
		if ok != c.ok || ok && h != c.want {
			t.Errorf("%s: %v %+v, want %+v", name, ok, h, c.want)
		}
	}
}

func TestMatches(t *testing.T) {
	var h Header
	h.Parse(udp("10.0.0.1", "10.1.0.1", 8)) // port 0x1234 to 53
	for _, c := range []struct {
		src, dst string
		want     bool
	}{
		{"10.0.0.0/24", "10.1.0.1", true},
		{"10.0.0.0/24[udp]", "10.1.0.1[udp/53]", true},
		{"10.0.0.0/24[/4660]", "10.1.0.1", true},
		{"10.0.0.0/24[udp/4661]", "10.1.0.1", false},
		{"10.0.0.0/24", "10.1.0.1[udp/54]", false},
		{"10.0.0.0/24[tcp]", "10.1.0.1", false},
		{"10.0.0.2..10.0.0.9", "10.1.0.1", false},
		{"10.0.0.1", "10.1.0.2", false},
		{"::/0", "::/0", false},
	} {
		src, dst := mustSelector(c.src), mustSelector(c.dst)
		if got := h.Matches(&src, &dst); got != c.want {
			t.Errorf("%s to %s: %v", c.src, c.dst, got)
		}
	}
	h.HasPorts = false // a later fragment
	port, any := mustSelector("0.0.0.0/0[udp/53]"), mustSelector("0.0.0.0/0[udp]")
	if h.Matches(&any, &port) || !h.Matches(&any, &any) {
		t.Error("ports that are not known")
	}
}

// TestTrafficClass changes TOS to every value and checks IPv4's checksum.
func TestTrafficClass(t *testing.T) {
	for tos := range 256 {
		for from := 0; from < 256; from += 51 {
			b := udp("10.0.0.1", "10.1.0.1", 1)
			b[1] = uint8(from)
			setIPv4Checksum(b[:20])
			setTrafficClass(b, uint8(tos))
			if trafficClass(b) != uint8(tos) || fold(sum(0, b[:20])) != 0xffff {
				t.Fatalf("TOS %d from %d: %x", tos, from, b[:20])
			}
		}
		b := udp("fd00::1", "fd00::2", 1)
		b[2], b[3], b[1] = 0xbe, 0xef, 0x0f
		setTrafficClass(b, uint8(tos))
		if trafficClass(b) != uint8(tos) || b[0]>>4 != 6 || b[1]&15 != 15 || b[2] != 0xbe {
			t.Fatalf("traffic class %d: %x", tos, b[:4])
		}
	}
}

// TestTunnelHeaders is RFC 4301 section 5.1.2 and RFC 6040 figures 3 and 4.
func TestTunnelHeaders(t *testing.T) {
	const drop = 99
	ecn := [4][4]uint8{ // [inner][outer]: 0 Not-ECT, 1 ECT(1), 2 ECT(0), 3 CE
		{0, 0, 0, drop},
		{1, 1, 1, 3},
		{2, 1, 2, 3},
		{3, 3, 3, 3},
	}
	for in := range uint8(4) {
		for out := range uint8(4) {
			for _, dscp := range []sa.DSCPCopy{sa.DSCPOut, sa.DSCPIn, sa.DSCPBoth, sa.DSCPNone} {
				for _, copyECN := range []bool{false, true} {
					h := headers{ecn: copyECN, dscp: dscp}
					b := udp("10.0.0.1", "10.1.0.1", 1)
					setTrafficClass(b, 46<<2|in)

					wantTOS := uint8(0)
					if dscp == sa.DSCPOut || dscp == sa.DSCPBoth {
						wantTOS = 46 << 2
					}
					if copyECN {
						wantTOS |= in
					}
					if tos, _ := h.outer(b); tos != wantTOS {
						t.Fatalf("outer TOS %#x, want %#x", tos, wantTOS)
					}

					err := h.inner(b, 10<<2|out)
					wantECN := in
					if copyECN {
						wantECN = ecn[in][out]
					}
					if (err == ErrECN) != (wantECN == drop) {
						t.Fatalf("ECN %d in %d: %v", in, out, err)
					}
					wantTOS = 46<<2 | wantECN
					if dscp == sa.DSCPIn || dscp == sa.DSCPBoth {
						wantTOS = 10<<2 | wantECN
					}
					if err == nil && trafficClass(b) != wantTOS {
						t.Fatalf("ECN %d in %d: inner TOS %#x, want %#x", in, out, trafficClass(b), wantTOS)
					}
				}
			}
		}
	}
	with, without := udp("10.0.0.1", "10.1.0.1", 1), udp("10.0.0.1", "10.1.0.1", 1)
	without[6] = 0
	for _, c := range []struct {
		copy       bool
		b          []byte
		wantFlagDF bool
	}{{true, with, true}, {true, without, false}, {false, with, false}, {true, udp("fd00::1", "fd00::2", 1), true}} {
		if _, df := (&headers{df: c.copy}).outer(c.b); df != c.wantFlagDF {
			t.Errorf("DF %v", df)
		}
	}
}

// slowSum is RFC 1071 by the letter.
func slowSum(b []byte) uint16 {
	s := uint32(0)
	for i := range b {
		if i%2 == 0 {
			s += uint32(b[i]) << 8
		} else {
			s += uint32(b[i])
		}
		s = s>>16 + s&0xffff
	}
	return uint16(s)
}

func TestChecksum(t *testing.T) {
	b := fill(2048)
	for n := range b {
		if got, want := fold(sum(0, b[:n])), slowSum(b[:n]); got != want {
			t.Fatalf("length %d: %#x, want %#x", n, got, want)
		}
	}
	ones := make([]byte, 65535)
	for i := range ones {
		ones[i] = 0xff
	}
	if fold(sum(0, ones)) != slowSum(ones) {
		t.Error("64 KiB of ones")
	}
}

func TestPush(t *testing.T) {
	src, dst := netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::2")
	p := packet(fill(101))
	if err := PushUDP(&p, 4500, 1024); err != nil {
		t.Fatal(err)
	}
	if b := p.Bytes(); len(b) != 109 || binary.BigEndian.Uint16(b[4:]) != 109 || b[6] != 0 || b[7] != 0 {
		t.Errorf("UDP header %x", b[:8])
	}
	if err := PushIP(&p, Outer{Src: src, Dst: dst, Protocol: 17, TOS: 0xb8}); err != nil {
		t.Fatal(err)
	}
	var h Header
	b := p.Bytes()
	if !h.Parse(b) || h.Src != src || h.Dst != dst || h.SrcPort != 4500 || h.DstPort != 1024 || h.TOS != 0xb8 || h.Len != 149 {
		t.Errorf("header %+v", h)
	}
	if c := sum(sumAddr(sumAddr(109+17, src), dst), b[40:]); fold(c) != 0xffff {
		t.Errorf("UDP checksum: sum is %#x", fold(c))
	}
	full := Packet{Buf: make([]byte, 65535), Len: 65535}
	tight := Packet{Buf: make([]byte, 50), Off: 7, Len: 10}
	bad := Packet{Buf: make([]byte, 50), Off: 41, Len: 10}
	v4 := Outer{Src: netip.MustParseAddr("192.0.2.1"), Dst: netip.MustParseAddr("192.0.2.2")}
	for want, got := range map[error]error{
		ErrMalformed: PushUDP(&full, 1, 2), ErrRoom: PushUDP(&tight, 1, 2),
	} {
		if got != want {
			t.Errorf("%v, want %v", got, want)
		}
	}
	if PushIP(&full, v4) != ErrMalformed || PushIP(&tight, v4) != ErrRoom || PushIP(&bad, v4) != ErrMalformed {
		t.Error("no room for an IP header")
	}
	if PushIP(&tight, Outer{Src: src, Dst: v4.Dst}) != ErrMalformed || PushIP(&tight, Outer{}) != ErrMalformed {
		t.Error("addresses of two families")
	}
}
