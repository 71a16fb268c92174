// SPDX-License-Identifier: Apache-2.0

package tun

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"testing"
)

// gather runs packets through a Coalescer and returns how many packets each
// frame holds, and all of them.
func gather(t testing.TB, packets ...[]byte) (counts []int, out [][]byte) {
	t.Helper()
	c := Coalescer{UDP: true}
	var r recorder
	for _, p := range packets {
		c.Add(slices.Clone(p))
	}
	if n := c.Flush(&r); n != 0 {
		t.Fatalf("%d packets refused", n)
	}
	for _, f := range r.frames {
		got, ok := cut(f)
		if !ok {
			t.Fatalf("malformed frame %x", f)
		}
		counts = append(counts, len(got))
		out = append(out, got...)
	}
	return counts, out
}

// change makes a variant of a packet.
func change(m made, f func(m *made)) made {
	f(&m)
	return m
}

func TestCoalesce(t *testing.T) {
	for name, start := range map[string]made{"TCP over IPv4": tcp4(100), "TCP over IPv6": tcp6(100), "UDP over IPv4": udp4(100), "UDP over IPv6": udp6(100)} {
		next := start.then(100)
		tcp, v4 := start.protocol == protoTCP, start.src == "10.1.0.1"
		joins := func(yes bool) []int {
			if yes {
				return []int{2}
			}
			return []int{1, 1}
		}
		for _, c := range []struct {
			name   string
			second made
			want   []int
		}{
			{"next", next, joins(true)},
			{"shorter", start.then(1), joins(true)},
			{"longer", start.then(101), joins(false)},
			{"empty", start.then(0), joins(false)},
			{"again", start, joins(!tcp && !v4)},
			{"gap", change(next, func(m *made) { m.seq++ }), joins(!tcp)},
			{"another port", change(next, func(m *made) { m.from++ }), joins(false)},
			{"another class", change(next, func(m *made) { m.tos = 4 }), joins(false)},
			{"congestion", change(next, func(m *made) { m.tos = 3 }), joins(false)},
			{"wrong checksum", change(next, func(m *made) { m.wrong = true }), joins(false)},
			{"DF", change(next, func(m *made) { m.df = true }), joins(!v4)},
			{"another identification", change(next, func(m *made) { m.id += 5 }), joins(!v4)},
			{"another acknowledgement", change(next, func(m *made) { m.ack++ }), joins(!tcp)},
			{"another window", change(next, func(m *made) { m.window++ }), joins(!tcp)},
			{"options", change(next, func(m *made) { m.options = randomBytes(len(m.options)) }), joins(!tcp)},
			{"PSH", change(next, func(m *made) { m.flags |= tcpPSH }), joins(true)},
			{"FIN", change(next, func(m *made) { m.flags |= tcpFIN }), joins(!tcp)},
			{"SYN", change(next, func(m *made) { m.flags |= 2 }), joins(!tcp)},
			{"CWR", change(next, func(m *made) { m.flags |= tcpCWR }), joins(!tcp)},
			{"ECE", change(next, func(m *made) { m.flags |= tcpECE }), joins(!tcp)},
		} {
			want := [][]byte{start.bytes(), c.second.bytes()}
			counts, got := gather(t, want...)
			if !slices.Equal(counts, c.want) {
				t.Errorf("%s, %s: frames of %v packets, want %v", name, c.name, counts, c.want)
			}
			if !slices.EqualFunc(got, want, bytes.Equal) {
				t.Errorf("%s, %s: packets changed:\n%x\nwant\n%x", name, c.name, got, want)
			}
		}
		for _, flags := range []uint8{tcpACK | tcpPSH, tcpACK | tcpCWR} {
			first := change(start, func(m *made) { m.flags = flags })
			if counts, _ := gather(t, first.bytes(), first.then(100).bytes()); tcp != (len(counts) == 2) {
				t.Errorf("%s behind flags %02x: frames of %v packets", name, flags, counts)
			}
		}
		if counts, got := gather(t, change(start, func(m *made) { m.wrong = true }).bytes(), next.bytes()); len(counts) != 2 ||
			!bytes.Equal(got[0], change(start, func(m *made) { m.wrong = true }).bytes()) {
			t.Errorf("%s: a wrong checksum is joined or mended", name)
		}
	}
}

// TestCoalesceLimits fills super-packets to the last byte, and UDP's to the
// last datagram.
func TestCoalesceLimits(t *testing.T) {
	m := tcp4(1348)
	var packets [][]byte
	for range 100 {
		packets = append(packets, m.bytes())
		m = m.then(1348)
	}
	counts, got := gather(t, packets...)
	if !slices.Equal(counts, []int{48, 48, 4}) || !slices.EqualFunc(got, packets, bytes.Equal) {
		t.Errorf("frames of %v packets", counts)
	}
	u := udp4(10)
	packets = packets[:0]
	for range 100 {
		packets = append(packets, u.bytes())
		u = u.then(10)
	}
	if counts, _ = gather(t, packets...); !slices.Equal(counts, []int{64, 36}) {
		t.Errorf("frames of %v datagrams", counts)
	}
}

// TestCoalesceFragment wants no datagram to pass a fragment.
func TestCoalesceFragment(t *testing.T) {
	m := udp4(100)
	fragment := m.bytes()
	fragment[6] = 0x20
	counts, got := gather(t, m.bytes(), fragment, m.then(100).bytes())
	if len(counts) != 3 || !bytes.Equal(got[1], fragment) {
		t.Errorf("frames of %v packets", counts)
	}
}

// TestCoalesceMix wants the packets of each of many flows back as they were and
// in their order.
func TestCoalesceMix(t *testing.T) {
	starts := []made{tcp4(1000), tcp6(1000), udp4(300), udp6(300)}
	for range 200 {
		flows := map[uint16]made{}
		sent := map[uint16][][]byte{}
		var packets [][]byte
		for range 60 {
			port := uint16(rand.IntN(12))
			m, ok := flows[port]
			if ok {
				m = m.then(rand.IntN(2) * len(m.payload))
			} else {
				m = starts[rand.IntN(len(starts))]
				m.from = port
			}
			if rand.IntN(10) == 0 {
				m.flags ^= tcpPSH
			}
			m.wrong = rand.IntN(20) == 0
			flows[port] = m
			packets = append(packets, m.bytes())
			sent[port] = append(sent[port], m.bytes())
		}
		_, got := gather(t, packets...)
		back := map[uint16][][]byte{}
		for _, p := range got {
			transport := 20
			if p[0]>>4 == 6 {
				transport = 40
			}
			port := binary.BigEndian.Uint16(p[transport:])
			back[port] = append(back[port], p)
		}
		for port := range sent {
			if !slices.EqualFunc(back[port], sent[port], bytes.Equal) {
				t.Fatalf("flow %d: %d packets of %d came back, or other ones", port, len(back[port]), len(sent[port]))
			}
		}
	}
}

// FuzzCoalesce adds packets that may be anything.
func FuzzCoalesce(f *testing.F) {
	f.Add(tcp4(100).bytes(), tcp4(100).then(100).bytes())
	f.Add(udp6(100).bytes(), udp6(100).then(100).bytes())
	f.Fuzz(func(t *testing.T, a, b []byte) {
		if len(a) == 0 || len(b) == 0 || len(a) > maxPacket || len(b) > maxPacket {
			return
		}
		if _, got := gather(t, a, b); len(got) != 2 || !bytes.Equal(got[0], a) {
			t.Fatalf("%d packets came back, or other ones", len(got))
		}
	})
}

func TestCoalesceAllocatesNothing(t *testing.T) {
	m := tcp4(1000)
	var packets [][]byte
	for range 64 {
		packets = append(packets, m.bytes())
		m = m.then(1000)
	}
	var c Coalescer
	if n := testing.AllocsPerRun(100, func() {
		for _, p := range packets {
			c.Add(p)
		}
		c.Flush(nothing{})
	}); n != 0 {
		t.Errorf("%v allocations a batch", n)
	}
}

// nothing is a queue that forgets what it gets.
type nothing struct{}

func (nothing) Read([]byte, bool) (int, error) { return 0, ErrEmpty }
func (nothing) Write([][]byte) error           { return nil }

func BenchmarkCoalesce(b *testing.B) {
	for name, m := range map[string]made{"TCP, 1400 bytes": tcp4(1348), "UDP, 64 bytes": udp4(36)} {
		b.Run(name, func(b *testing.B) {
			var packets [][]byte
			for range 46 {
				packets = append(packets, m.bytes())
				m = m.then(len(m.payload))
			}
			first := slices.Clone(packets[0])
			c := Coalescer{UDP: true}
			for b.Loop() {
				copy(packets[0], first[:60])
				for _, p := range packets {
					c.Add(p)
				}
				c.Flush(nothing{})
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/46, "ns/packet")
		})
	}
}

func BenchmarkSegment(b *testing.B) {
	for name, m := range map[string]made{"TCP, 1400 bytes": tcp4(0), "UDP, 64 bytes": udp4(0)} {
		b.Run(name, func(b *testing.B) {
			size := map[uint8]int{protoTCP: 1348, protoUDP: 36}[m.protocol]
			frame := superPacket(m, size, randomBytes(46*size))
			saved := slices.Clone(frame)
			dst := make([]byte, 46*2048)
			var s Segmenter
			for b.Loop() {
				copy(frame, saved[:100])
				s.Load(frame)
				at := 0
				for n := s.Len(); n > 0; n = s.Len() {
					s.Next(dst[at:][:n])
					at += (n + 255) &^ 63
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/46, "ns/packet")
		})
	}
}
