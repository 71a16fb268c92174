// SPDX-License-Identifier: Apache-2.0

package esp

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"

	"quicksand/sa"
)

// espSuites are all of ESP, without ESN.
func espSuites() (out []sa.Suite) {
	add := func(e sa.Encryption, sizes ...uint16) {
		for _, bits := range sizes {
			if e.AEAD() {
				out = append(out, sa.Suite{Protocol: sa.ESP, Encryption: e, KeyBits: bits})
				continue
			}
			for i := sa.HMACMD5; i <= sa.HMACSHA512; i++ {
				out = append(out, sa.Suite{Protocol: sa.ESP, Encryption: e, KeyBits: bits, Integrity: i})
			}
		}
	}
	add(sa.EncryptionNull, 0)
	add(sa.TripleDESCBC, 192)
	for _, e := range []sa.Encryption{sa.AESCBC, sa.AESCTR, sa.AESGCM8, sa.AESGCM12, sa.AESGCM16} {
		add(e, 128, 192, 256)
	}
	return out
}

func ahSuites() (out []sa.Suite) {
	for i := sa.HMACMD5; i <= sa.HMACSHA512; i++ {
		out = append(out, sa.Suite{Protocol: sa.AH, Integrity: i})
	}
	return out
}

var (
	gcm16  = sa.Suite{Protocol: sa.ESP, Encryption: sa.AESGCM16, KeyBits: 128}
	cbcSHA = sa.Suite{Protocol: sa.ESP, Encryption: sa.AESCBC, KeyBits: 128, Integrity: sa.HMACSHA1}
	cbc256 = sa.Suite{Protocol: sa.ESP, Encryption: sa.AESCBC, KeyBits: 128, Integrity: sa.HMACSHA256}
	ah256  = sa.Suite{Protocol: sa.AH, Integrity: sa.HMACSHA256}
)

func random() *rand.ChaCha8 { return rand.NewChaCha8([32]byte{'q', 's'}) }

func fill(n int) []byte {
	b := make([]byte, n)
	random().Read(b)
	return b
}

var everything = map[bool][2]sa.Selector{
	false: {mustSelector("0.0.0.0/0"), mustSelector("0.0.0.0/0")},
	true:  {mustSelector("::/0"), mustSelector("::/0")},
}

func mustSelector(s string) sa.Selector {
	x, err := sa.ParseSelector(s)
	if err != nil {
		panic(err)
	}
	return x
}

// newPair returns a pair whose two directions have the same SPI and keys, so
// that its inbound SA opens what its outbound SA seals. Its endpoints and its
// selectors, which take everything, are of the given families.
func newPair(s sa.Suite, mode sa.Mode, outer6, inner6 bool) *sa.Pair {
	local, remote := "192.0.2.1", "198.51.100.2"
	if outer6 {
		local, remote = "2001:db8::1", "2001:db8:ffff::2"
	}
	k := sa.SA{SPI: 0xc0ffee01, EncryptionKey: fill(s.EncryptionKeyLen()), IntegrityKey: fill(s.Integrity.KeyLen())}
	return &sa.Pair{
		Policy: sa.Policy{
			Mode:    mode,
			Local:   netip.AddrPortFrom(netip.MustParseAddr(local), 4500),
			Remote:  netip.AddrPortFrom(netip.MustParseAddr(remote), 4500),
			LocalTS: everything[inner6][0], RemoteTS: everything[inner6][1],
		},
		Suite: s, In: k, Out: k, ReplayWindow: 64,
	}
}

func mustOutbound(t testing.TB, p *sa.Pair) *Outbound {
	t.Helper()
	o, err := NewOutbound(p)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func mustInbound(t testing.TB, p *sa.Pair) *Inbound {
	t.Helper()
	i, err := NewInbound(p)
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// packet returns a packet in a buffer with room around it.
func packet(b []byte) Packet {
	p := Packet{Buf: make([]byte, Headroom+len(b)+Tailroom), Off: Headroom, Len: len(b)}
	copy(p.Buf[Headroom:], b)
	return p
}

func seal(o *Outbound, b []byte) Packet {
	p := []Packet{packet(b)}
	o.Seal(p)
	return p[0]
}

// open opens a received packet, whose outer header was that of from.
func open(i *Inbound, b []byte, from Packet) Packet {
	p := packet(b)
	p.TOS, p.DF = from.TOS, from.DF
	q := []Packet{p}
	i.Open(q)
	return q[0]
}

// udp returns a UDP packet with right checksums and n bytes of payload.
func udp(src, dst string, n int) []byte {
	p := packet(append([]byte{0x12, 0x34, 0x00, 0x35, 0, 0, 0, 0}, fill(n)...))
	b := p.Bytes()
	binary.BigEndian.PutUint16(b[4:], uint16(len(b)))
	h := Outer{Src: netip.MustParseAddr(src), Dst: netip.MustParseAddr(dst), Protocol: protoUDP, DF: true}
	setUDPChecksum(b, h.Src, h.Dst)
	if err := PushIP(&p, h); err != nil {
		panic(err)
	}
	return p.Bytes()
}

// inner returns a packet that a pair carries: in transport mode one between its
// endpoints.
func inner(mode sa.Mode, outer6, inner6 bool, n int) []byte {
	switch {
	case mode == sa.Transport && outer6:
		return udp("2001:db8:ffff::2", "2001:db8::1", n)
	case mode == sa.Transport:
		return udp("198.51.100.2", "192.0.2.1", n)
	case inner6:
		return udp("fd00::1", "fd00::2", n)
	}
	return udp("10.0.0.1", "10.1.0.1", n)
}

// shape is a form a pair can take.
type shape struct {
	suite          sa.Suite
	mode           sa.Mode
	outer6, inner6 bool
}

func (s shape) String() string {
	family := map[bool]string{false: "4", true: "6"}
	return fmt.Sprintf("%s/%s/%sin%s", s.suite, s.mode, family[s.inner6], family[s.outer6])
}

func shapes() (out []shape) {
	for _, s := range append(espSuites(), ahSuites()...) {
		for _, esn := range []bool{false, true} {
			s.ESN = esn
			for _, v6 := range []bool{false, true} {
				out = append(out,
					shape{s, sa.Transport, v6, v6},
					shape{s, sa.Tunnel, v6, v6},
				)
				if !esn {
					out = append(out, shape{s, sa.Tunnel, v6, !v6})
				}
			}
		}
	}
	return out
}

// lengths are those of payloads to try: all, for the shapes that differ in how
// they pad.
func lengths(s shape) (out []int) {
	all := s.suite == gcm16 || s.suite == cbc256 || s.suite == ah256
	step := 1
	for n := 0; n <= 1500; n += step {
		out = append(out, n)
		if n >= 34 && !all {
			step = 293
		}
	}
	return out
}

// TestRoundTrip is every suite, mode and family, over packets of every length.
func TestRoundTrip(t *testing.T) {
	for _, s := range shapes() {
		pair := newPair(s.suite, s.mode, s.outer6, s.inner6)
		o, i := mustOutbound(t, pair), mustInbound(t, pair)
		carried := uint64(0)
		for k, n := range lengths(s) {
			in := inner(s.mode, s.outer6, s.inner6, n)
			if s.mode == sa.Transport && s.suite.Protocol == sa.AH && !s.outer6 {
				in[4], in[5] = 7, 7 // identification: AH keeps it
				setIPv4Checksum(in[:20])
			}
			p := seal(o, in)
			if p.Err != nil || p.Seq != uint64(k+1) {
				t.Fatalf("%s, length %d: seal: %v, sequence number %d", s, n, p.Err, p.Seq)
			}
			if s.suite.Encryption != sa.EncryptionNull && s.suite.Protocol == sa.ESP && n > 16 && bytes.Contains(p.Bytes(), in[len(in)-16:]) {
				t.Fatalf("%s, length %d: payload is in clear", s, n)
			}
			checkWire(t, s, &p)
			q := open(i, p.Bytes(), p)
			if q.Err != nil || q.Seq != p.Seq || !bytes.Equal(q.Bytes(), in) {
				t.Fatalf("%s, length %d: open: %v\n%x, want\n%x", s, n, q.Err, q.Bytes(), in)
			}
			if r := open(i, p.Bytes(), p); r.Err != ErrReplay {
				t.Fatalf("%s, length %d: replay: %v", s, n, r.Err)
			}
			carried += uint64(len(in))
		}
		for _, c := range []sa.Counters{o.Counters(), i.Counters()} {
			if c.Bytes != carried || c.Packets != uint64(len(lengths(s))) || c.Last.IsZero() {
				t.Fatalf("%s: counters %+v, want %d bytes", s, c, carried)
			}
		}
	}
}

// checkWire checks what a sealed packet looks like from outside.
func checkWire(t *testing.T, s shape, p *Packet) {
	t.Helper()
	b := p.Bytes()
	if s.suite.Protocol == sa.AH {
		var h Header
		if !h.Parse(b) || h.Protocol != protoAH || h.Len != len(b) || AHSPIOf(b) != 0xc0ffee01 {
			t.Fatalf("%s: outer header %+v", s, h)
		}
		if !s.outer6 && fold(sum(0, b[:20])) != 0xffff {
			t.Fatalf("%s: header checksum", s)
		}
		if n := (int(b[h.PayloadOff+1]) + 2) * 4; n%4 != 0 || s.outer6 && n%8 != 0 {
			t.Fatalf("%s: AH has %d bytes", s, n)
		}
		return
	}
	front := 8 + s.suite.Encryption.IVLen()
	if SPIOf(b) != 0xc0ffee01 || (len(b)-front-s.suite.ICVLen())%max(4, s.suite.Encryption.BlockLen()) != 0 {
		t.Fatalf("%s: SPI %s, %d bytes", s, SPIOf(b), len(b))
	}
}

// TestTampering changes every byte of a packet and cuts it at every length.
func TestTampering(t *testing.T) {
	for _, s := range shapes() {
		if s.suite.KeyBits == 192 && s.suite.Encryption != sa.TripleDESCBC {
			continue
		}
		pair := newPair(s.suite, s.mode, s.outer6, s.inner6)
		o, i := mustOutbound(t, pair), mustInbound(t, pair)
		p := seal(o, inner(s.mode, s.outer6, s.inner6, 40))
		good := bytes.Clone(p.Bytes())
		for k := range good {
			b := bytes.Clone(good)
			b[k] ^= 0x10
			q := open(i, b, p)
			if mutable(s, k) {
				if q.Err != nil {
					t.Fatalf("%s: byte %d may change: %v", s, k, q.Err)
				}
				i = mustInbound(t, pair)
				continue
			}
			if q.Err == nil || Authentic(q.Err) {
				t.Fatalf("%s: byte %d: %v", s, k, q.Err)
			}
		}
		for k := range good {
			if q := open(i, good[:k], p); q.Err == nil || Authentic(q.Err) {
				t.Fatalf("%s: cut to %d: %v", s, k, q.Err)
			}
		}
		if q := open(i, good, p); q.Err != nil {
			t.Fatalf("%s: %v", s, q.Err)
		}
	}
}

// mutable tells the bytes of AH's outer header whose bit 4 may change on the
// way.
func mutable(s shape, k int) bool {
	if s.suite.Protocol != sa.AH {
		return false
	}
	if s.outer6 {
		return k == 1 || k == 2 || k == 3 || k == 7
	}
	return k == 1 || k == 8 || k == 10 || k == 11
}

// TestBatch has good and bad packets beside each other in one long batch.
func TestBatch(t *testing.T) {
	for _, s := range []sa.Suite{gcm16, cbcSHA, ah256} {
		pair := newPair(s, sa.Tunnel, false, false)
		o, i := mustOutbound(t, pair), mustInbound(t, pair)
		pkts := make([]Packet, 150)
		for k := range pkts {
			pkts[k] = packet(udp("10.0.0.1", "10.1.0.1", k*7))
		}
		pkts[3].Len = 10
		pkts[70].Off = 0
		pkts[80].Len = 1 << 30
		pkts[81].Off = -1
		o.Seal(pkts)
		bad := map[int]error{3: ErrMalformed, 70: ErrMalformed, 80: ErrMalformed, 81: ErrMalformed}
		for k := range pkts {
			if pkts[k].Err != bad[k] {
				t.Fatalf("%s: seal %d: %v", s, k, pkts[k].Err)
			}
		}
		pkts[100].Buf[pkts[100].Off+30] ^= 1
		bad[100] = ErrICV
		pkts[101] = pkts[99]
		pkts[101].Buf = bytes.Clone(pkts[99].Buf)
		bad[101] = ErrReplay
		for k := range pkts {
			if bad[k] == ErrMalformed {
				pkts[k] = Packet{Buf: make([]byte, 500), Off: 100, Len: 0}
			}
		}
		i.Open(pkts)
		for k := range pkts {
			if pkts[k].Err != bad[k] {
				t.Fatalf("%s: open %d: %v, want %v", s, k, pkts[k].Err, bad[k])
			}
			if bad[k] == nil && !bytes.Equal(pkts[k].Bytes(), udp("10.0.0.1", "10.1.0.1", k*7)) {
				t.Fatalf("%s: packet %d changed", s, k)
			}
		}
		if got := fmt.Sprint(i.Drops()); got != fmt.Sprintf("[{%v 4} {%v 1} {%v 1}]", ErrMalformed, ErrReplay, ErrICV) {
			t.Fatalf("%s: drops %s", s, got)
		}
		if c := i.Counters(); c.Packets != 144 {
			t.Fatalf("%s: %d packets", s, c.Packets)
		}
	}
}

// TestNoAllocation seals and opens batches without the heap.
func TestNoAllocation(t *testing.T) {
	for _, s := range shapes() {
		if s.suite.ESN || s.suite.KeyBits == 192 && s.suite.Encryption != sa.TripleDESCBC {
			continue
		}
		pair := newPair(s.suite, s.mode, s.outer6, s.inner6)
		pair.CopyDF, pair.CopyECN, pair.CopyDSCP = true, true, sa.DSCPBoth
		o, i := mustOutbound(t, pair), mustInbound(t, pair)
		in := inner(s.mode, s.outer6, s.inner6, 300)
		pkts := make([]Packet, 3)
		for k := range pkts {
			pkts[k] = packet(in)
		}
		run := func() {
			for k := range pkts {
				pkts[k].Off, pkts[k].Len = Headroom, len(in)
				copy(pkts[k].Buf[Headroom:], in)
			}
			o.Seal(pkts)
			i.Open(pkts)
		}
		run()
		if n := testing.AllocsPerRun(5, run); n != 0 || pkts[2].Err != nil {
			t.Fatalf("%s: %v allocations, %v", s, n, pkts[2].Err)
		}
	}
}

func BenchmarkESP(b *testing.B) {
	for _, s := range []sa.Suite{gcm16, cbcSHA, cbc256} {
		for _, n := range []int{64, 576, 1420} {
			pair := newPair(s, sa.Tunnel, false, false)
			pair.ReplayWindow = 0
			in := udp("10.0.0.1", "10.1.0.1", n-28)
			const batch = 32
			pkts := make([]Packet, batch)
			reset := func() {
				for k := range pkts {
					if pkts[k].Buf == nil {
						pkts[k] = packet(in)
					}
					pkts[k].Off, pkts[k].Len = Headroom, len(in)
					copy(pkts[k].Buf[Headroom:], in)
				}
			}
			b.Run(fmt.Sprintf("%s/seal/%d", s, n), func(b *testing.B) {
				o := mustOutbound(b, pair)
				b.SetBytes(int64(n))
				for i := 0; i < b.N; i += batch {
					reset()
					o.Seal(pkts)
				}
			})
			b.Run(fmt.Sprintf("%s/open/%d", s, n), func(b *testing.B) {
				b.SetBytes(int64(n))
				reset()
				mustOutbound(b, pair).Seal(pkts)
				sealed := make([][]byte, batch)
				for k := range pkts {
					sealed[k] = bytes.Clone(pkts[k].Bytes())
				}
				i := mustInbound(b, pair)
				off := pkts[0].Off
				for n := 0; n < b.N; n += batch {
					for k := range pkts {
						pkts[k].Off, pkts[k].Len = off, len(sealed[k])
						copy(pkts[k].Buf[off:], sealed[k])
					}
					i.Open(pkts)
					if pkts[0].Err != nil {
						b.Fatal(pkts[0].Err)
					}
				}
			})
		}
	}
}
