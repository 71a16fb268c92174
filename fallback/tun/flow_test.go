// SPDX-License-Identifier: Apache-2.0

package tun

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
)

// flowPacket makes the start of a packet of the flow: IPv4 with so many words of
// options, or IPv6; a fragment by its flags and offset.
func flowPacket(f Flow, options int, fragment uint16, protocol uint8) []byte {
	var b []byte
	if f.Src.Is4() {
		b = make([]byte, 20+4*options)
		b[0] = 0x45 + byte(options)
		binary.BigEndian.PutUint16(b[6:], fragment)
		b[9] = protocol
		copy(b[12:], f.Src.AsSlice())
		copy(b[16:], f.Dst.AsSlice())
	} else {
		b = make([]byte, 40)
		b[0], b[6] = 0x60, protocol
		copy(b[8:], f.Src.AsSlice())
		copy(b[24:], f.Dst.AsSlice())
	}
	return append(binary.BigEndian.AppendUint32(b, f.Ports), make([]byte, 16)...)
}

func randomFlow(r *rand.Rand) Flow {
	addr := func(v4 bool) netip.Addr {
		var b [16]byte
		binary.NativeEndian.PutUint64(b[:], r.Uint64())
		binary.NativeEndian.PutUint64(b[8:], r.Uint64())
		if v4 {
			return netip.AddrFrom4([4]byte(b[:4]))
		}
		return netip.AddrFrom16(b)
	}
	v4 := r.IntN(2) == 0
	return Flow{addr(v4), addr(v4), []uint8{6, 17, 132, 33, 136}[r.IntN(5)], r.Uint32()}
}

// TestLaneProgram has the kernel run the steering program on packets and
// compares it with its twin.
func TestLaneProgram(t *testing.T) { inNamespace(t, compareLanes) }

func compareLanes(t *testing.T) {
	d, err := Open("lanes0", 1400, 2)
	if err != nil {
		t.Error(err)
		return
	}
	defer d.Close()
	s := d.(*device).steering
	const first, lanes = 3, 7
	for _, p := range []string{"0.0.0.0/0", "::/0"} {
		if err := d.Steer(netip.MustParsePrefix(p), first, lanes); err != nil {
			t.Error(err)
		}
	}
	r := rand.New(rand.NewPCG(1, 2))
	check := func(what string, f Flow, packet []byte) {
		t.Helper()
		got, _, err := s.program.Test(append(make([]byte, 14), packet...))
		if want := first + f.Hash().Lane(lanes); int(got) != want || err != nil {
			t.Errorf("%s: queue %d of %+v, want %d; %v", what, got, f, want, err)
		}
	}
	for range 500 {
		f := randomFlow(r)
		check("whole", f, flowPacket(f, r.IntN(11), 0x4000, f.Protocol))
		if plain := f; f.Src.Is4() {
			plain.Protocol, plain.Ports = 0, 0
			check("first fragment", plain, flowPacket(f, 0, 0x2000, f.Protocol))
			check("later fragment", plain, flowPacket(f, 0, 0x0010, f.Protocol))
		} else {
			plain.Protocol, plain.Ports = 0, 0
			check("IPv6 fragment", plain, flowPacket(f, 0, 0, 44))
		}
		icmp := f
		icmp.Protocol, icmp.Ports = 1, 0
		check("without ports", icmp, flowPacket(f, 0, 0, 1))
	}
	if err := d.Steer(netip.MustParsePrefix("::/0"), 1, 1); err != nil {
		t.Error(err)
	}
	f := Flow{netip.MustParseAddr("fd00::1"), netip.MustParseAddr("fd00::2"), 6, 80}
	if got, _, err := s.program.Test(append(make([]byte, 14), flowPacket(f, 0, 0, 6)...)); got != 1 || err != nil {
		t.Errorf("queue %d with one lane, %v", got, err)
	}
}

// TestLanesAreEven spreads flows that differ in little: one port, or the last
// bits of an address.
func TestLanesAreEven(t *testing.T) {
	host := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 1, 0, byte(i)}) }
	peer := netip.MustParseAddr("10.2.0.1")
	for name, flow := range map[string]func(i int) Flow{
		"source port":      func(i int) Flow { return Flow{host(1), peer, 6, uint32(32768+i)<<16 | 443} },
		"destination port": func(i int) Flow { return Flow{host(1), peer, 17, 5000<<16 | uint32(i)} },
		"source":           func(i int) Flow { return Flow{host(i), peer, 6, 5000<<16 | 443} },
		"destination":      func(i int) Flow { return Flow{peer, host(i), 0, 0} },
		"IPv6 source": func(i int) Flow {
			return Flow{netip.MustParseAddr(fmt.Sprintf("fd00::%x", i)), netip.MustParseAddr("fd00:1::1"), 6, 443}
		},
	} {
		for _, n := range []int{2, 3, 8} {
			first, again := make([]int, n), make([]int, n)
			const flows = 250
			for i := range flows {
				f := flow(i)
				first[f.Hash().Lane(n)]++
				if f.Hash().Lane(n) == 0 {
					again[f.Hash().Again(n)]++
				}
			}
			for i := range n {
				if fair := flows / n; first[i] < fair/2 || first[i] > 2*fair {
					t.Errorf("%s: lane %d of %d gets %d of %d flows", name, i, n, first[i], flows)
				}
				if fair := first[0] / n; again[i] < fair/4 {
					t.Errorf("%s: lane %d of %d gets %d of %d flows of another", name, i, n, again[i], first[0])
				}
			}
		}
	}
}
