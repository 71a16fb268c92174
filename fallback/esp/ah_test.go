// SPDX-License-Identifier: Apache-2.0

package esp

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"

	"quicksand/sa"
)

// withOptions returns an IPv4 packet with options of 4 bytes' multiple.
func withOptions(options ...byte) []byte {
	b := udp("198.51.100.2", "192.0.2.1", 20)
	out := append(append(bytes.Clone(b[:20]), options...), b[20:]...)
	out[0] += uint8(len(options) / 4)
	out[4], out[5] = 1, 2
	setIPLength(out)
	setIPv4Checksum(out[:20+len(options)])
	return out
}

// withExtension returns an IPv6 packet with one extension header.
func withExtension(next uint8, body ...byte) []byte {
	b := udp("2001:db8:ffff::2", "2001:db8::1", 20)
	out := append(append(bytes.Clone(b[:40]), body...), b[40:]...)
	out[40], out[6] = out[6], next
	setIPLength(out)
	return out
}

// TestAHHeaders is transport mode with options and extension headers: what may
// change on the way may, and nothing else.
func TestAHHeaders(t *testing.T) {
	for name, c := range map[string]struct {
		b       []byte
		mutable []int // bytes that may change on the way
		err     error
	}{
		"router alert":     {withOptions(optionRouterAlert, 4, 0, 0), nil, nil},
		"record route":     {withOptions(optionNop, 7, 7, 4, 0, 0, 0, 0), []int{21, 23, 24, 25, 26, 27}, nil},
		"loose route":      {withOptions(optionLooseRoute, 7, 4, 1, 2, 3, 4, 0), nil, ErrHeader},
		"strict route":     {withOptions(optionStrictRoute, 3, 4, 0), nil, ErrHeader},
		"option too long":  {withOptions(7, 9, 4, 0), nil, ErrMalformed},
		"option too short": {withOptions(7, 1, 4, 0), nil, ErrMalformed},
		"option cut":       {withOptions(1, 1, 1, 7), nil, ErrMalformed},
		"end of options":   {withOptions(0, 7, 255, 9), nil, nil},
		"hop by hop":       {withExtension(protoHopByHop, 0, 0, 5, 2, 0, 0, 0, 0), nil, nil},
		"changing option":  {withExtension(protoHopByHop, 0, 0, 0x3e, 4, 1, 2, 3, 4), []int{44, 45, 46, 47}, nil},
		"option over end":  {withExtension(protoHopByHop, 0, 0, 0x3e, 5, 1, 2, 3, 4), nil, ErrMalformed},
		"hop by hop cut":   {withExtension(protoHopByHop, 0, 255, 0, 0, 0, 0, 0, 0), nil, ErrMalformed},
		"routing at end":   {withExtension(protoRouting, 0, 0, 4, 0, 0, 0, 0, 0), nil, nil},
		"routing":          {withExtension(protoRouting, 0, 0, 4, 1, 0, 0, 0, 0), nil, ErrHeader},
		"routing type 0":   {withExtension(protoRouting, 0, 0, 0, 0, 0, 0, 0, 0), nil, ErrHeader},
		"fragment":         {withExtension(protoFragment, 0, 0, 0, 1, 0, 0, 0, 1), nil, ErrFragment},
		"destination":      {withExtension(protoDestOptions, 0, 0, 1, 4, 0, 0, 0, 0), nil, nil},
	} {
		pair := newPair(ah256, sa.Transport, c.b[0]>>4 == 6, c.b[0]>>4 == 6)
		o, i := mustOutbound(t, pair), mustInbound(t, pair)
		p := seal(o, c.b)
		if p.Err != c.err {
			t.Errorf("%s: seal: %v, want %v", name, p.Err, c.err)
		}
		if c.err != nil {
			continue
		}
		for k := 20 + 20*int(c.b[0]>>4/6); k < 28+20*int(c.b[0]>>4/6); k++ {
			b := bytes.Clone(p.Bytes())
			b[k] ^= 0x80
			q := open(i, b, p)
			if may := bytes.IndexByte(toBytes(c.mutable), uint8(k)) >= 0; may != (q.Err == nil) {
				t.Errorf("%s: byte %d: %v", name, k, q.Err)
			}
			if q.Err == nil {
				i = mustInbound(t, pair)
			}
		}
		if q := open(i, p.Bytes(), p); q.Err != nil || !bytes.Equal(q.Bytes(), c.b) {
			t.Errorf("%s: open: %v\n%x, want\n%x", name, q.Err, q.Bytes(), c.b)
		}
	}
}

func toBytes(n []int) (b []byte) {
	for _, v := range n {
		b = append(b, uint8(v))
	}
	return b
}

// TestAHPadding accepts a sender that fills AH up to 8 bytes under IPv4 too.
func TestAHPadding(t *testing.T) {
	pair := newPair(ah256, sa.Tunnel, false, false)
	in := udp("10.0.0.1", "10.1.0.1", 20)
	for _, pad := range []int{0, 4, 8} {
		o, i := mustOutbound(t, pair), mustInbound(t, pair)
		p := seal(o, in)
		n := 28 + pad
		b := cat(p.Bytes()[:20+28], make([]byte, pad), in)
		b[21] = uint8(n/4 - 2)
		setIPLength(b)
		setIPv4Checksum(b[:20])
		clear(b[20+ahFixed:][:16])
		icv, err := o.computeICV(b, 20, 1)
		if err != nil {
			t.Fatal(err)
		}
		copy(b[20+ahFixed:], icv)
		q := open(i, b, p)
		if (q.Err == nil) != (pad <= 4) || q.Err == nil && !bytes.Equal(q.Bytes(), in) {
			t.Errorf("padding of %d: %v", pad, q.Err)
		}
	}
}

// TestAHIdentification is never 0, which a kernel would fill in behind the ICV.
func TestAHIdentification(t *testing.T) {
	o := mustOutbound(t, newPair(ah256, sa.Tunnel, false, false))
	for _, seq := range []uint64{0, 1, 0xfffd, 0xfffe, 0xffff, 0x10000, 0x1fffd} {
		o.seq = seq
		if p := seal(o, udp("10.0.0.1", "10.1.0.1", 1)); binary.BigEndian.Uint16(p.Bytes()[4:]) == 0 {
			t.Errorf("number %d: identification 0", p.Seq)
		}
	}
}

func TestAHSPIOf(t *testing.T) {
	plain := udp("10.0.0.1", "10.1.0.1", 40)
	cut := packet(make([]byte, 11))
	push(&cut, &Outer{Src: netip.MustParseAddr("192.0.2.1"), Dst: netip.MustParseAddr("192.0.2.2"), Protocol: protoAH})
	for name, b := range map[string][]byte{"none": plain, "nothing": nil, "cut": cut.Bytes()} {
		if spi := AHSPIOf(b); spi != 0 {
			t.Errorf("%s: %s", name, spi)
		}
	}
	if SPIOf([]byte{0, 0, 1, 2, 0, 0, 0}) != 0 || SPIOf([]byte{0, 0, 1, 2, 0, 0, 0, 1}) != 0x102 {
		t.Error("SPI of ESP")
	}
}

// FuzzOpen gives arbitrary bytes to every kind of SA. Nothing may panic, and
// what is accepted was sealed by the same keys and lies in the buffer.
func FuzzOpen(f *testing.F) {
	var in []*Inbound
	for _, s := range shapes() {
		pair := newPair(s.suite, s.mode, s.outer6, s.inner6)
		pair.CopyECN, pair.CopyDSCP, pair.ReplayWindow = true, sa.DSCPBoth, 0
		o, i := mustOutbound(f, pair), mustInbound(f, pair)
		if len(in)%9 == 0 {
			p := seal(o, inner(s.mode, s.outer6, s.inner6, 30))
			f.Add(uint16(len(in)), uint8(0), p.Bytes())
		}
		in = append(in, i)
	}
	f.Add(uint16(0), uint8(3), []byte{})
	f.Fuzz(func(t *testing.T, n uint16, tos uint8, b []byte) {
		p := packet(b)
		p.TOS = tos
		q := []Packet{p}
		in[int(n)%len(in)].Open(q)
		var h Header
		if q[0].Err == nil && (!h.Parse(q[0].Bytes()) || h.Len != q[0].Len) {
			t.Fatalf("accepted %x", q[0].Bytes())
		}
		h.Parse(b)
		AHSPIOf(b)
		SPIOf(b)
	})
}

// FuzzSeal gives arbitrary inner packets to every kind of SA, and opens what
// comes out.
func FuzzSeal(f *testing.F) {
	all := shapes()
	for n := 0; n < len(all); n += 9 {
		f.Add(uint16(n), inner(all[n].mode, all[n].outer6, all[n].inner6, 30))
	}
	f.Add(uint16(len(all)-1), withExtension(protoHopByHop, 0, 0, 0x3e, 4, 1, 2, 3, 4))
	f.Add(uint16(len(all)-4), withOptions(optionNop, 7, 7, 4, 0, 0, 0, 0))
	pairs := make([]*sa.Pair, len(all))
	out := make([]*Outbound, len(all))
	in := make([]*Inbound, len(all))
	for n, s := range all {
		pairs[n] = newPair(s.suite, s.mode, s.outer6, s.inner6)
		out[n], in[n] = mustOutbound(f, pairs[n]), mustInbound(f, pairs[n])
	}
	f.Fuzz(func(t *testing.T, n uint16, b []byte) {
		k := int(n) % len(all)
		p := seal(out[k], b)
		if p.Err != nil {
			return
		}
		var want Header
		sane := want.Parse(b)
		q := open(in[k], p.Bytes(), p)
		if all[k].mode == sa.Tunnel && sane && want.Src.Is6() == all[k].inner6 && (q.Err != nil || !bytes.Equal(q.Bytes(), b[:want.Len])) {
			t.Fatalf("%s: %v\n%x, want\n%x", all[k], q.Err, q.Bytes(), b)
		}
	})
}
