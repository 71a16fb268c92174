// SPDX-License-Identifier: Apache-2.0

package esp

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"net/netip"
	"testing"

	"quicksand/fallback/aead"
	"quicksand/sa"
)

// craft seals what stands behind the IV, padding and trailer included.
func craft(t testing.TB, p *sa.Pair, seq uint64, payload []byte) []byte {
	t.Helper()
	c, err := aead.New(p.Suite, &p.Out)
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, aead.HeaderLen+c.IVLen()+len(payload)+c.ICVLen())
	binary.BigEndian.PutUint32(b, uint32(p.Out.SPI))
	binary.BigEndian.PutUint32(b[4:], uint32(seq))
	copy(b[aead.HeaderLen+c.IVLen():], payload)
	q := []aead.Packet{{Data: b, Seq: seq}}
	if c.Seal(q); !q[0].OK {
		t.Fatal("not sealed")
	}
	return b
}

func cat(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

// TestTrailer is what comes out of the cipher of an authentic packet.
func TestTrailer(t *testing.T) {
	v4, v6 := udp("10.0.0.1", "10.1.0.1", 4), udp("fd00::1", "fd00::2", 4)
	long := bytes.Clone(v4)
	long[3]++
	for name, c := range map[string]struct {
		payload []byte
		want    error
		inner   []byte
	}{
		"no padding":         {cat(v4, []byte{0, 4}), nil, v4},
		"padding":            {cat(v4, []byte{1, 2, 3, 4, 4, 4}), nil, v4},
		"more than needed":   {cat(v4, []byte{1, 2, 3, 4, 5, 6, 7, 8, 8, 4}), nil, v4},
		"TFC padding":        {cat(v4, fill(700), []byte{1, 2, 2, 4}), nil, v4},
		"zero padding":       {cat(v4, []byte{0, 0, 0, 0, 4, 4}), ErrPadding, nil},
		"padding is cut":     {[]byte{1, 2, 3, 4}, ErrPadding, nil},
		"padding too long":   {cat(v4, []byte{255, 4}), ErrPadding, nil},
		"dummy":              {cat(fill(40), []byte{1, 2, 2, protoNone}), ErrDummy, nil},
		"empty dummy":        {[]byte{0, protoNone}, ErrDummy, nil},
		"IPv6 as IPv4":       {cat(v6, []byte{0, 4}), ErrMalformed, nil},
		"IPv4 as IPv6":       {cat(v4, []byte{0, 41}), ErrMalformed, nil},
		"transport payload":  {cat(v4, []byte{0, 17}), ErrMalformed, nil},
		"nothing":            {[]byte{0, 4}, ErrMalformed, nil},
		"inner is cut":       {cat(long, []byte{0, 4}), ErrMalformed, nil},
		"IPv6, other TS":     {cat(v6, []byte{0, 41}), ErrSelector, nil},
		"from elsewhere":     {cat(udp("10.9.0.1", "10.1.0.1", 4), []byte{0, 4}), ErrSelector, nil},
		"to elsewhere":       {cat(udp("10.0.0.1", "10.9.0.1", 4), []byte{0, 4}), ErrSelector, nil},
		"to another port":    {cat(func() []byte { b := bytes.Clone(v4); b[23] = 54; return b }(), []byte{0, 4}), ErrSelector, nil},
		"another protocol":   {cat(func() []byte { b := bytes.Clone(v4); b[9] = 6; return b }(), []byte{0, 4}), ErrSelector, nil},
		"a later fragment":   {cat(func() []byte { b := bytes.Clone(v4); b[7] = 9; return b }(), []byte{0, 4}), ErrSelector, nil},
		"congestion is lost": {cat(v4, []byte{0, 4}), ErrECN, nil},
	} {
		pair := newPair(gcm16, sa.Tunnel, false, false)
		pair.RemoteTS, pair.LocalTS = mustSelector("10.0.0.0/24"), mustSelector("10.1.0.0/24[udp/53]")
		pair.CopyECN = true
		i := mustInbound(t, pair)
		outer := Packet{}
		if c.want == ErrECN {
			outer.TOS = ecnCE
		}
		q := open(i, craft(t, pair, 1, c.payload), outer)
		if q.Err != c.want || c.want == nil && !bytes.Equal(q.Bytes(), c.inner) {
			t.Errorf("%s: %v, want %v", name, q.Err, c.want)
		}
		if got := Authentic(q.Err); got != (c.want != ErrMalformed) {
			t.Errorf("%s: authentic: %v", name, got)
		}
		if again := open(i, craft(t, pair, 1, c.payload), outer); again.Err != ErrReplay {
			t.Errorf("%s: the window did not move: %v", name, again.Err)
		}
		if n := i.Counters().Packets; (n == 1) != (c.want == nil) {
			t.Errorf("%s: %d packets counted", name, n)
		}
	}
}

// TestForgedSequence has a forged packet far ahead, which must not move the
// window.
func TestForgedSequence(t *testing.T) {
	for _, s := range []sa.Suite{gcm16, ah256} {
		pair := newPair(s, sa.Tunnel, false, false)
		o, i := mustOutbound(t, pair), mustInbound(t, pair)
		p := seal(o, udp("10.0.0.1", "10.1.0.1", 4))
		at := 4
		if s.Protocol == sa.AH {
			at = 28
		}
		forged := bytes.Clone(p.Bytes())
		forged[at] = 0xff
		if q := open(i, forged, p); q.Err != ErrICV {
			t.Errorf("%s: forged: %v", s, q.Err)
		}
		if q := open(i, p.Bytes(), p); q.Err != nil {
			t.Errorf("%s: %v", s, q.Err)
		}
	}
}

func TestNoReplayProtection(t *testing.T) {
	for _, s := range []sa.Suite{gcm16, cbcSHA, ah256} {
		for _, s.ESN = range []bool{false, true} {
			pair := newPair(s, sa.Tunnel, false, false)
			pair.ReplayWindow = 0
			o, i := mustOutbound(t, pair), mustInbound(t, pair)
			o.seq = 1<<32 - 50
			if s.ESN {
				i.replay.Update(o.seq)
			}
			for range 40 {
				p := seal(o, udp("10.0.0.1", "10.1.0.1", 4))
				for range 2 {
					if q := open(i, p.Bytes(), p); q.Err != nil {
						t.Fatalf("%s: %d: %v", s, p.Seq, q.Err)
					}
				}
			}
		}
	}
}

// TestSequenceEnd is the end of 32-bit numbers, and ESN across it.
func TestSequenceEnd(t *testing.T) {
	for _, s := range []sa.Suite{gcm16, cbc256, ah256} {
		for _, s.ESN = range []bool{false, true} {
			pair := newPair(s, sa.Tunnel, false, false)
			o, i := mustOutbound(t, pair), mustInbound(t, pair)
			o.seq = math.MaxUint32 - 3
			i.replay.Update(o.seq)
			for n := range 10 {
				p := seal(o, udp("10.0.0.1", "10.1.0.1", n))
				if n >= 3 && !s.ESN {
					if p.Err != ErrExhausted {
						t.Fatalf("%s: packet %d: %v", s, n, p.Err)
					}
					continue
				}
				if q := open(i, p.Bytes(), p); p.Err != nil || q.Err != nil || q.Seq != p.Seq {
					t.Fatalf("%s: packet %d: %v, %v, number %#x", s, n, p.Err, q.Err, q.Seq)
				}
			}
			o.seq = math.MaxUint64
			if p := seal(o, udp("10.0.0.1", "10.1.0.1", 1)); s.ESN && p.Err != ErrExhausted {
				t.Fatalf("%s: after 2^64 packets: %v", s, p.Err)
			}
		}
	}
	o := mustOutbound(t, newPair(gcm16, sa.Tunnel, false, false))
	o.packets.Store(math.MaxUint32 / 32 * 31)
	if !o.SoftReached() || o.HardReached() {
		t.Error("near the end of the sequence numbers")
	}
	o.packets.Store(math.MaxUint32)
	if !o.HardReached() {
		t.Error("at the end of the sequence numbers")
	}
}

func TestLifetime(t *testing.T) {
	in := udp("10.0.0.1", "10.1.0.1", 72) // 100 bytes
	for name, l := range map[string]sa.Lifetime{
		"packets": {Soft: sa.Limits{Packets: 3}, Hard: sa.Limits{Packets: 5}},
		"bytes":   {Soft: sa.Limits{Bytes: 300}, Hard: sa.Limits{Bytes: 401, Packets: 100}},
	} {
		for _, s := range []sa.Suite{gcm16, ah256} {
			pair := newPair(s, sa.Tunnel, false, false)
			out := mustOutbound(t, pair)
			pair.Lifetime = l
			o, i := mustOutbound(t, pair), mustInbound(t, pair)
			var sealed, received []Packet
			for range 8 {
				sealed = append(sealed, packet(in))
				p := seal(out, in)
				received = append(received, packet(p.Bytes()))
			}
			for n := range 3 {
				if o.SoftReached() || i.SoftReached() {
					t.Errorf("%s: soft limit after %d packets", name, n)
				}
				o.Seal(sealed[n : n+1])
				i.Open(received[n : n+1])
			}
			if !o.SoftReached() || !i.SoftReached() || o.HardReached() || i.HardReached() {
				t.Errorf("%s: soft limit", name)
			}
			o.Seal(sealed[3:])
			i.Open(received[3:])
			if !o.HardReached() || !i.HardReached() {
				t.Errorf("%s: hard limit", name)
			}
			for n := range 8 {
				var want error
				if n >= 5 {
					want = ErrExpired
				}
				if sealed[n].Err != want || received[n].Err != want {
					t.Errorf("%s: packet %d: %v, %v", name, n, sealed[n].Err, received[n].Err)
				}
			}
		}
	}
}

// TestNAT is transport mode behind a NAT: what arrives has TCP's and UDP's
// checksums for the addresses it has now (RFC 3948 section 3.1.2).
func TestNAT(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		addrs := []string{"192.168.1.7", "203.0.113.9", "192.0.2.1", "10.5.5.5"}
		if v6 {
			addrs = []string{"fd00:1::7", "2001:db8:9::9", "2001:db8::1", "fd00:5::5"}
		}
		for _, protocol := range []uint8{protoUDP, protoTCP} {
			for n := range 80 {
				// The peer at addrs[0] sent to addrs[1], which we know as
				// addrs[2] to addrs[3].
				at := map[uint8]int{protoUDP: 6, protoTCP: 16}[protocol]
				payload := fill(20 + n)
				payload[at], payload[at+1] = 0, 0
				pseudo := func(src, dst string) uint32 {
					return sumAddr(sumAddr(uint32(len(payload))+uint32(protocol), netip.MustParseAddr(src)), netip.MustParseAddr(dst))
				}
				binary.BigEndian.PutUint16(payload[at:], ^fold(sum(pseudo(addrs[0], addrs[1]), payload)))

				pair := newPair(cbcSHA, sa.Transport, v6, v6)
				pair.OriginalRemote, pair.OriginalLocal = netip.MustParseAddr(addrs[0]), netip.MustParseAddr(addrs[1])
				pair.Remote = netip.AddrPortFrom(netip.MustParseAddr(addrs[2]), 1024)
				pair.Local = netip.AddrPortFrom(netip.MustParseAddr(addrs[3]), 4500)
				// Selectors may name addresses that only the peer knows.
				pair.RemoteTS, pair.LocalTS = sa.PrefixSelector(netip.PrefixFrom(pair.OriginalRemote, 16)), sa.PrefixSelector(netip.PrefixFrom(pair.OriginalLocal, 16))
				i := mustInbound(t, pair)
				b := packet(payload)
				if err := push(&b, &Outer{Src: pair.OriginalRemote, Dst: pair.OriginalLocal, Protocol: protocol}); err != nil {
					t.Fatal(err)
				}
				p := seal(mustOutbound(t, pair), b.Bytes())
				q := open(i, p.Bytes(), p)
				var h Header
				if q.Err != nil || !h.Parse(q.Bytes()) || h.Src.String() != addrs[2] || h.Dst.String() != addrs[3] {
					t.Fatalf("%v, %+v", q.Err, h)
				}
				if c := sum(pseudo(addrs[2], addrs[3]), q.Bytes()[h.PayloadOff:]); fold(c) != 0xffff {
					t.Fatalf("protocol %d, length %d: checksum is wrong", protocol, n)
				}
			}
		}
	}
	none := []byte{0, 1, 0, 2, 0, 9, 0, 0, 1}
	mendChecksum(protoUDP, none, 0x1234)
	if none[6] != 0 || none[7] != 0 {
		t.Error("UDP without a checksum got one")
	}
	zero := []byte{0, 1, 0, 2, 0, 9, 0x12, 0x34, 1}
	mendChecksum(protoUDP, zero, 0x1234)
	if zero[6] != 0xff || zero[7] != 0xff {
		t.Errorf("UDP checksum %x", zero[6:8])
	}
}

// TestUpdate moves a pair to other endpoints: its packets go on.
func TestUpdate(t *testing.T) {
	pair := newPair(cbcSHA, sa.Transport, false, false)
	o, i := mustOutbound(t, pair), mustInbound(t, pair)
	in := udp("198.51.100.2", "192.0.2.1", 9)
	p := seal(o, in)
	open(i, p.Bytes(), p)
	moved := *pair
	moved.Remote, moved.Encap = netip.MustParseAddrPort("203.0.113.5:999"), true
	before := o.InnerMTU(1500)
	if o.Update(&moved) != nil || i.Update(&moved) != nil {
		t.Fatal("not moved")
	}
	if o.Remote() != moved.Remote || o.InnerMTU(1500) >= before {
		t.Error("endpoints stayed")
	}
	p = seal(o, in)
	q := open(i, p.Bytes(), p)
	var h Header
	if q.Err != nil || q.Seq != 2 || !h.Parse(q.Bytes()) || h.Src != moved.Remote.Addr() {
		t.Errorf("%v, number %d, from %s", q.Err, q.Seq, h.Src)
	}
	moved.Local = netip.MustParseAddrPort("[2001:db8::1]:1")
	if o.Update(&moved) == nil {
		t.Error("endpoints of two families")
	}
}

// TestInnerMTU compares with what is sealed in fact.
func TestInnerMTU(t *testing.T) {
	for _, s := range shapes() {
		if s.suite.ESN {
			continue
		}
		for _, encap := range []bool{false, true} {
			if encap && s.suite.Protocol == sa.AH {
				continue
			}
			pair := newPair(s.suite, s.mode, s.outer6, s.inner6)
			pair.Encap = encap
			o := mustOutbound(t, pair)
			outer := func(n int) int {
				b := inner(s.mode, s.outer6, s.inner6, n)
				p := seal(o, b)
				if s.suite.Protocol == sa.AH {
					return p.Len
				}
				if encap {
					p.Len += udpHeaderLen
				}
				return p.Len + ipHeaderLen(o.remote.Addr())
			}
			headers := len(inner(s.mode, s.outer6, s.inner6, 0))
			for path := 1400; path < 1418; path++ {
				n := o.InnerMTU(path) - headers
				if outer(n) > path || outer(n+1) <= path {
					t.Fatalf("%s, encap %v: path %d, inner %d: %d, %d", s, encap, path, n+headers, outer(n), outer(n+1))
				}
			}
			if o.InnerMTU(20) != 0 {
				t.Fatalf("%s: nothing fits 20 bytes", s)
			}
		}
	}
}

// TestSealRefuses are the packets that transport mode cannot take, and buffers
// without room.
func TestSealRefuses(t *testing.T) {
	options := packet(fill(32))
	push(&options, &Outer{Src: netip.MustParseAddr("192.0.2.1"), Dst: netip.MustParseAddr("198.51.100.2"), Protocol: 17})
	options.Bytes()[0] = 0x46
	fragment := udp("192.0.2.1", "198.51.100.2", 8)
	fragment[6] = 0x20
	v6 := func(next uint8) []byte {
		b := udp("fd00::1", "fd00::2", 30)
		b[6] = next
		return b
	}
	for name, c := range map[string]struct {
		b    []byte
		esp  error
		none bool // nor in a tunnel
	}{
		"IPv4 options":     {options.Bytes(), ErrHeader, false},
		"IPv4 fragment":    {fragment, ErrFragment, false},
		"IPv6 fragment":    {v6(protoFragment), ErrFragment, false},
		"IPv6 hop by hop":  {v6(protoHopByHop), ErrHeader, false},
		"IPv6 routing":     {v6(protoRouting), ErrHeader, false},
		"IPv6 destination": {v6(protoDestOptions), nil, false},
		"nothing":          {nil, ErrMalformed, true},
		"cut":              {fragment[:30], ErrMalformed, true},
	} {
		p := seal(mustOutbound(t, newPair(gcm16, sa.Transport, c.b != nil && c.b[0]>>4 == 6, false)), c.b)
		if p.Err != c.esp {
			t.Errorf("%s: %v, want %v", name, p.Err, c.esp)
		}
		if p = seal(mustOutbound(t, newPair(gcm16, sa.Tunnel, false, false)), c.b); (p.Err != nil) != c.none {
			t.Errorf("%s in a tunnel: %v", name, p.Err)
		}
	}
	for _, s := range shapes() {
		pair := newPair(s.suite, s.mode, s.outer6, s.inner6)
		in := inner(s.mode, s.outer6, s.inner6, 40)
		o := mustOutbound(t, pair)
		for room := range Headroom + Tailroom {
			for _, off := range []int{0, room / 2, room} {
				p := []Packet{{Buf: make([]byte, room+len(in)), Off: off, Len: len(in)}}
				copy(p[0].Bytes(), in)
				if o.Seal(p); p[0].Err != nil && p[0].Err != ErrRoom {
					t.Fatalf("%s, room %d: %v", s, room, p[0].Err)
				}
				if room == 0 && p[0].Err != ErrRoom {
					t.Fatalf("%s: sealed without room", s)
				}
			}
		}
		if o.seq == 0 {
			t.Fatalf("%s: never sealed", s)
		}
	}
}

// TestUsageElsewhere reads the counters while another goroutine carries
// packets, as the race detector sees.
func TestUsageElsewhere(t *testing.T) {
	pair := newPair(gcm16, sa.Tunnel, false, false)
	o := mustOutbound(t, pair)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range 200 {
			seal(o, udp("10.0.0.1", "10.1.0.1", 1))
			seal(o, nil)
		}
	}()
	for last := uint64(0); last < 200; {
		n := o.Counters().Packets
		if n < last || o.HardReached() || o.SoftReached() || len(o.Drops()) > 1 {
			t.Fatal("counters went back")
		}
		last = n
	}
	<-done
}

func TestNewRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		change func(p *sa.Pair)
		want   error
	}{
		"good":         {func(*sa.Pair) {}, nil},
		"suite":        {func(p *sa.Pair) { p.Suite.Encryption = sa.EncryptionNone }, aead.ErrSuite},
		"keys":         {func(p *sa.Pair) { p.In, p.Out = sa.SA{SPI: 1}, sa.SA{SPI: 1} }, aead.ErrKeyLen},
		"SPI":          {func(p *sa.Pair) { p.In.SPI, p.Out.SPI = 0, 0 }, nil},
		"families":     {func(p *sa.Pair) { p.Local = netip.MustParseAddrPort("[::1]:1") }, nil},
		"no endpoints": {func(p *sa.Pair) { p.Local, p.Remote = netip.AddrPort{}, netip.AddrPort{} }, nil},
		"AH, cipher":   {func(p *sa.Pair) { p.Suite.Protocol = sa.AH }, aead.ErrSuite},
		"AH in UDP":    {func(p *sa.Pair) { *p = *newPair(ah256, sa.Tunnel, false, false); p.Encap = true }, nil},
		"AH, no HMAC":  {func(p *sa.Pair) { p.Suite = sa.Suite{Protocol: sa.AH} }, aead.ErrSuite},
	} {
		pair := newPair(gcm16, sa.Tunnel, false, false)
		c.change(pair)
		_, err1 := NewOutbound(pair)
		_, err2 := NewInbound(pair)
		for _, err := range []error{err1, err2} {
			if (err == nil) != (name == "good") || c.want != nil && !errors.Is(err, c.want) {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

// TestWipe has a wiped SA refuse what it sealed and opened before.
func TestWipe(t *testing.T) {
	for _, s := range append(espSuites(), ahSuites()...) {
		p := newPair(s, sa.Tunnel, false, false)
		o, i := mustOutbound(t, p), mustInbound(t, p)
		first, second := seal(o, udp("10.0.0.1", "10.1.0.1", 4)), seal(o, udp("10.0.0.1", "10.1.0.1", 4))
		if q := open(i, bytes.Clone(first.Bytes()), first); first.Err != nil || second.Err != nil || q.Err != nil {
			t.Fatalf("%s: %v, %v, %v", s, first.Err, second.Err, q.Err)
		}
		o.Wipe()
		i.Wipe()
		q := seal(o, udp("10.0.0.1", "10.1.0.1", 4))
		if r := open(i, second.Bytes(), second); q.Err != ErrExpired || r.Err != ErrExpired {
			t.Errorf("%s: a wiped SA answers %v and %v, want ErrExpired", s, q.Err, r.Err)
		}
		if c := i.Counters(); c.Packets != 1 || len(i.Drops()) != 1 {
			t.Errorf("%s: counted %+v and %v", s, c, i.Drops())
		}
	}
}
