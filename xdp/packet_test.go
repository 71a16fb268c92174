// SPDX-License-Identifier: Apache-2.0

package xdp

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"quicksand/sa"
)

const espSPI, ahSPI, dropSPI, cpuSPI, deviceSPI, socketSPI, staleSPI sa.SPI = 0xc0ffee01, 0xc0ffee02, 0xc0ffee03, 0xc0ffee04, 0xc0ffee05, 0xc0ffee06, 0xc0ffee07

// staleFloor is the floor of staleSPI.
const staleFloor = 0x80000100

// shapes are frames of every kind, with what becomes of them when the table
// is that of shapeProgram.
var shapes = []struct {
	name  string
	frame []byte
	want  Verdict
}{
	{"esp", frame4(50, espPacket(espSPI, 32)), Passed},
	{"esp without payload", frame4(50, espPacket(espSPI, 0)), Passed},
	{"esp cut short", frame4(50, espPacket(espSPI, 0)[:7]), Malformed},
	{"esp, padded frame", join(frame4(50, espPacket(espSPI, 4)), make([]byte, 20)), Passed},
	{"esp, one option", join(ethernet(0x0800), header4(50, 1, 0, espPacket(espSPI, 32))), Passed},
	{"esp, all options", join(ethernet(0x0800), header4(50, 10, 0, espPacket(espSPI, 32))), Passed},
	{"esp, do not fragment", join(ethernet(0x0800), header4(50, 0, 0x4000, espPacket(espSPI, 32))), Passed},
	{"esp, first fragment", join(ethernet(0x0800), header4(50, 0, 0x2000, espPacket(espSPI, 32))), Fragment},
	{"esp, later fragment", join(ethernet(0x0800), header4(50, 0, 0x2010, espPacket(espSPI, 32))), Fragment},
	{"esp, last fragment", join(ethernet(0x0800), header4(50, 0, 0x0010, espPacket(espSPI, 32))), Fragment},
	{"esp, one tag", join(ethernet(0x0800, 0x8100), header4(50, 0, 0, espPacket(espSPI, 32))), Passed},
	{"esp, two tags", join(ethernet(0x0800, 0x88a8, 0x8100), header4(50, 0, 0, espPacket(espSPI, 32))), Passed},
	{"esp, three tags", join(ethernet(0x0800, 0x88a8, 0x8100, 0x8100), header4(50, 0, 0, espPacket(espSPI, 32))), Other},
	{"esp, not in the table", frame4(50, espPacket(0xdead, 32)), UnknownPassed},
	{"esp, ah's", frame4(50, espPacket(ahSPI, 32)), UnknownPassed},
	{"esp to drop", frame4(50, espPacket(dropSPI, 32)), Dropped},
	{"esp to a cpu", frame4(50, espPacket(cpuSPI, 32)), OnCPU},
	{"esp to a device", frame4(50, espPacket(deviceSPI, 32)), Forwarded},
	{"esp to a socket that is not there", frame4(50, espPacket(socketSPI, 32)), NoTarget},
	{"esp, first sequence number", numbered(50, staleSPI, 0), Stale},
	{"esp, left of the window", numbered(50, staleSPI, staleFloor-1), Stale},
	{"esp, at the window's edge", numbered(50, staleSPI, staleFloor), Passed},
	{"esp, last sequence number", numbered(50, staleSPI, 1<<32-1), Passed},
	{"esp in udp, left of the window", frame4(17, udpPacket(4500, espPacket(staleSPI, 32))), Stale},
	{"esp6, left of the window", frame6(50, espPacket(staleSPI, 32)), Stale},
	{"ah, left of the window", numbered(51, staleSPI, staleFloor-1), Stale},
	{"ah, in the window", numbered(51, staleSPI, staleFloor+63), Passed},
	{"ah", frame4(51, ahPacket(ahSPI)), Passed},
	{"ah cut short", frame4(51, ahPacket(ahSPI)[:11]), Malformed},
	{"ah, one tag", join(ethernet(0x0800, 0x8100), header4(51, 0, 0, ahPacket(ahSPI))), Passed},
	{"esp in udp", frame4(17, udpPacket(4500, espPacket(espSPI, 32))), Passed},
	{"esp in udp, all options", join(ethernet(0x0800), header4(17, 10, 0, udpPacket(4500, espPacket(espSPI, 32)))), Passed},
	{"esp in udp, cut short", frame4(17, udpPacket(4500, espPacket(espSPI, 0)[:7])), Malformed},
	{"esp in udp, second port", frame4(17, udpPacket(4501, espPacket(espSPI, 32))), Passed},
	{"esp in udp, other port", frame4(17, udpPacket(4502, espPacket(espSPI, 32))), Other},
	{"esp in udp, port 0", frame4(17, udpPacket(0, espPacket(espSPI, 32))), Other},
	{"keepalive", frame4(17, udpPacket(4500, []byte{0xff})), Keepalive},
	{"keepalive, padded frame", join(frame4(17, udpPacket(4500, []byte{0xff})), make([]byte, 17)), Keepalive},
	{"no keepalive", frame4(17, udpPacket(4500, []byte{0xfe})), Malformed},
	{"no keepalive, two octets", frame4(17, udpPacket(4500, []byte{0xff, 0xff})), Malformed},
	{"nothing on 4500", frame4(17, udpPacket(4500, nil)), Malformed},
	{"ike", frame4(17, udpPacket(500, ikePacket(false))), IKE},
	{"ike, new", frame4(17, udpPacket(500, ikePacket(true))), IKE},
	{"ike, cut short", frame4(17, udpPacket(500, ikePacket(false)[:27])), Malformed},
	{"ike on 4500", frame4(17, udpPacket(4500, join(make([]byte, 4), ikePacket(false)))), IKE},
	{"ike on 4500, new", frame4(17, udpPacket(4500, join(make([]byte, 4), ikePacket(true)))), IKE},
	{"marker alone", frame4(17, udpPacket(4500, make([]byte, 4))), Malformed},
	{"udp", frame4(17, udpPacket(53, make([]byte, 30))), Other},
	{"udp, length too long", frame4(17, edit(udpPacket(4500, espPacket(espSPI, 32)), 5, 0xff)), Malformed},
	{"udp, length too short", frame4(17, edit(udpPacket(4500, espPacket(espSPI, 32)), 5, 7)), Malformed},
	{"udp, shorter than the packet", frame4(17, edit(udpPacket(4500, espPacket(espSPI, 32)), 5, 16)), Passed},
	{"tcp", frame4(6, make([]byte, 20)), Other},
	{"arp", join(ethernet(0x0806), make([]byte, 28)), Other},
	{"ipv4, version 5", edit(frame4(50, espPacket(espSPI, 32)), 14, 0x55), Malformed},
	{"ipv4, header too short", edit(frame4(50, espPacket(espSPI, 32)), 14, 0x44), Malformed},
	{"ipv4, longer than the frame", edit(frame4(50, espPacket(espSPI, 32)), 17, 200), Malformed},
	{"ipv4, shorter than its header", edit(frame4(50, espPacket(espSPI, 32)), 17, 19), Malformed},
	{"ipv6 in ipv4's type", join(ethernet(0x0800), header6(50, espPacket(espSPI, 32))), Malformed},
	{"esp6", frame6(50, espPacket(espSPI, 32)), Passed},
	{"esp6, two tags", join(ethernet(0x86dd, 0x88a8, 0x8100), header6(50, espPacket(espSPI, 32))), Passed},
	{"esp6, not in the table", frame6(50, espPacket(0xdead, 32)), UnknownPassed},
	{"esp6 to a device", frame6(50, espPacket(deviceSPI, 32)), Forwarded},
	{"ah6", frame6(51, ahPacket(ahSPI)), Passed},
	{"esp6 in udp", frame6(17, udpPacket(4500, espPacket(espSPI, 32))), Passed},
	{"keepalive6", frame6(17, udpPacket(4500, []byte{0xff})), Keepalive},
	{"ike6", frame6(17, udpPacket(500, ikePacket(false))), IKE},
	{"ike6, new", frame6(17, udpPacket(4500, join(make([]byte, 4), ikePacket(true)))), IKE},
	{"esp6, hop by hop", frame6(0, join(extension(50, 0), espPacket(espSPI, 32))), Passed},
	{"esp6, hop by hop of 256 octets", frame6(0, join(extension(50, 31), espPacket(espSPI, 32))), Passed},
	{"esp6, three headers", frame6(0, join(extension(60, 1), extension(43, 2), extension(50, 0), espPacket(espSPI, 32))), Passed},
	{"esp6, six headers", frame6(60, join(extension(60, 0), extension(60, 1), extension(60, 2), extension(60, 3), extension(60, 0), extension(50, 1), espPacket(espSPI, 32))), Passed},
	{"esp6, seven headers", frame6(60, join(bytes.Repeat(extension(60, 0), 6), extension(50, 0), espPacket(espSPI, 32))), Malformed},
	{"esp6, routing with a hop left", frame6(43, join(edit(extension(50, 0), 3, 1), espPacket(espSPI, 32))), Other},
	{"esp6, whole fragment", frame6(44, join(extension(50, 0), espPacket(espSPI, 32))), Passed},
	{"esp6, first fragment", frame6(44, join(edit(extension(50, 0), 3, 1), espPacket(espSPI, 32))), Fragment},
	{"esp6, later fragment", frame6(44, join(edit(extension(50, 0), 2, 1), espPacket(espSPI, 32))), Fragment},
	{"esp6, header longer than the packet", frame6(0, join(extension(50, 0)[:1], []byte{255}, make([]byte, 6), espPacket(espSPI, 32))), Malformed},
	{"tcp6 behind such a header", frame6(0, join([]byte{6, 255}, make([]byte, 6), espPacket(espSPI, 32))), Other},
	{"no next header", frame6(59, nil), Other},
	{"ipv6, longer than the frame", edit(frame6(50, espPacket(espSPI, 32)), 19, 41), Malformed},
	{"ipv4 in ipv6's type", join(ethernet(0x86dd), header4(50, 0, 0, espPacket(espSPI, 32))), Malformed},
}

// numbered is a packet with a sequence number.
func numbered(proto byte, spi sa.SPI, sequence uint32) []byte {
	b, at := espPacket(spi, 32), 4
	if proto == 51 {
		b, at = ahPacket(spi), 8
	}
	binary.BigEndian.PutUint32(b[at:], sequence)
	return frame4(proto, b)
}

func edit(b []byte, at int, value byte) []byte {
	b[at] = value
	return b
}

var shapePorts = Ports{IKE: 500, Encaps: []uint16{4500, 4501}}

// shapeProgram is a program with every kind of target, and its twin.
func shapeProgram(t testing.TB, o Options) (*Program, *FakeTable) {
	t.Helper()
	o.Ports, o.MaxSPIs = shapePorts, 64
	p, twin := open(t, o), NewFakeTable(o)
	if err := p.SetCPU(0, 64); err != nil {
		t.Fatal(err)
	}
	// Devices in the map need only be there: nothing is sent in test runs.
	if err := p.SetNextHop(3, NextHop{Device: 1, Destination: []byte{2, 0, 0, 0, 9, 1}, Source: []byte{2, 0, 0, 0, 9, 2}}); err != nil {
		t.Fatal(err)
	}
	for spi, to := range map[sa.SPI]Target{
		espSPI: {Action: Pass}, ahSPI: {Action: Pass}, dropSPI: {Action: Drop},
		cpuSPI: {Action: ToCPU}, deviceSPI: {Action: ToDevice, Number: 3}, socketSPI: {Action: ToSocket},
	} {
		proto := sa.ESP
		if spi == ahSPI {
			proto = sa.AH
		}
		for _, table := range []Steering{p, twin} {
			insert(t, table, Key{local4, spi, proto}, to)
			insert(t, table, Key{local6, spi, proto}, to)
		}
	}
	for _, k := range []Key{{local4, staleSPI, sa.ESP}, {local4, staleSPI, sa.AH}, {local6, staleSPI, sa.ESP}} {
		for _, table := range []interface {
			Steering
			SetFloor(Key, uint32) error
		}{p, twin} {
			insert(t, table, k, Target{Action: Pass})
			if err := table.SetFloor(k, staleFloor); err != nil {
				t.Fatal(err)
			}
		}
	}
	return p, twin
}

// same checks that program and twin judge a frame alike.
func same(t testing.TB, p *Program, twin *FakeTable, frame []byte) {
	t.Helper()
	want, to := twin.Steer(frame)
	if to.Action == ToSocket {
		want = NoTarget
	}
	got, action := judge(t, p, frame)
	if got != want || action != does(want) {
		t.Fatalf("%x\nis %s (%d) to the program, %s to its twin", frame, got, action, want)
	}
}

func TestShapes(t *testing.T) {
	needKernel(t)
	p, twin := shapeProgram(t, Options{})
	for _, shape := range shapes {
		t.Run(shape.name, func(t *testing.T) {
			if got, action := judge(t, p, shape.frame); got != shape.want || action != does(shape.want) {
				t.Errorf("got %s (%d), want %s", got, action, shape.want)
			}
			same(t, p, twin, shape.frame)
		})
	}
}

// The kernel runs programs on no less than an Ethernet header; below that the
// twin is alone.
func TestTruncated(t *testing.T) {
	needKernel(t)
	p, twin := shapeProgram(t, Options{})
	for _, shape := range shapes {
		for n := range ethernetHeader {
			if v, _ := twin.Steer(shape.frame[:n]); v != Malformed {
				t.Errorf("%s, %d octets: %s", shape.name, n, v)
			}
		}
		for n := ethernetHeader; n <= len(shape.frame); n++ {
			same(t, p, twin, shape.frame[:n:n])
		}
	}
}

// The lengths in the headers shrink with the frame here, so that what is cut
// is what they announce.
func TestTruncatedInside(t *testing.T) {
	needKernel(t)
	p, twin := shapeProgram(t, Options{})
	for n := range 61 {
		esp := espPacket(espSPI, 52)[:n]
		same(t, p, twin, frame4(50, esp))
		same(t, p, twin, frame4(51, ahPacket(ahSPI)[:min(n, 24)]))
		same(t, p, twin, frame4(17, udpPacket(4500, esp)))
		same(t, p, twin, frame4(17, udpPacket(4500, esp)[:n]))
		same(t, p, twin, frame4(17, udpPacket(500, join(ikePacket(true), esp)[:n])))
		same(t, p, twin, frame6(50, esp))
		same(t, p, twin, frame6(0, join(extension(60, 1), extension(17, 2), udpPacket(4500, esp))[:n]))
	}
}

func TestDropUnknown(t *testing.T) {
	needKernel(t)
	p, twin := shapeProgram(t, Options{DropUnknown: true})
	for frame, want := range map[string]Verdict{
		string(frame4(50, espPacket(0xdead, 32))):                Verdict(UnknownDropped),
		string(frame4(17, udpPacket(4500, espPacket(256, 32)))):  UnknownDropped,
		string(frame4(50, espPacket(espSPI, 32))):                Passed,
		string(frame4(17, udpPacket(500, ikePacket(true)))):      IKE,
		string(frame4(17, udpPacket(4500, []byte{0xff}))):        Keepalive,
		string(frame4(6, make([]byte, 20))):                      Other,
		string(frame4(50, espPacket(0xdead, 32)[:4])):            Malformed,
		string(frame6(51, ahPacket(0xdead))):                     UnknownDropped,
		string(frame6(0, join(extension(51, 0), ahPacket(777)))): UnknownDropped,
	} {
		if got, action := judge(t, p, []byte(frame)); got != want || action != does(want) {
			t.Errorf("%x: got %s (%d), want %s", frame, got, action, want)
		}
		same(t, p, twin, []byte(frame))
	}
}

// A frame that leaves by another device has the next hop's addresses, and one
// that cannot leave has its own.
func TestAddresses(t *testing.T) {
	needKernel(t)
	p, _ := shapeProgram(t, Options{})
	frame := frame4(50, espPacket(deviceSPI, 32))
	run := func() []byte {
		out := make([]byte, len(frame))
		if _, err := p.objects.QuicksandSteer.Run(&ebpf.RunOptions{Data: frame, DataOut: out}); err != nil {
			t.Fatal(err)
		}
		return out
	}
	want := join([]byte{2, 0, 0, 0, 9, 1, 2, 0, 0, 0, 9, 2}, frame[12:])
	if out := run(); !bytes.Equal(out, want) {
		t.Errorf("sent\n%x, want\n%x", out, want)
	}
	if err := p.RemoveNextHop(3); err != nil {
		t.Fatal(err)
	}
	if out := run(); !bytes.Equal(out, frame) {
		t.Errorf("passed\n%x, want\n%x", out, frame)
	}
	if v, action := judge(t, p, frame); v != NoTarget || action != xdpPass {
		t.Errorf("no next hop: %s (%d)", v, action)
	}
}

func TestLimit(t *testing.T) {
	needKernel(t)
	p := open(t, Options{IKEInterval: time.Hour, IKEBurst: 3, MaxSources: 64})
	from := func(b []byte, at int, values ...byte) []byte {
		b = bytes.Clone(b)
		copy(b[at:], values)
		return b
	}
	plain, later := frame4(17, udpPacket(500, ikePacket(true))), frame4(17, udpPacket(500, ikePacket(false)))
	marked := frame4(17, udpPacket(4500, join(make([]byte, 4), ikePacket(true))))
	plain6 := frame6(17, udpPacket(500, ikePacket(true)))
	for _, step := range []struct {
		name  string
		frame []byte
		want  []Verdict
	}{
		{"a burst", plain, []Verdict{IKE, IKE, IKE, IKELimited, IKELimited}},
		{"the same source on 4500", marked, []Verdict{IKELimited}},
		{"exchanges that are under way", later, []Verdict{IKE, IKE, IKE, IKE, IKE}},
		{"another source", from(plain, 29, 8), []Verdict{IKE, IKE, IKE, IKELimited}},
		{"an IPv6 source", plain6, []Verdict{IKE, IKE}},
		{"another of its /64", from(plain6, 36, 1, 2), []Verdict{IKE, IKELimited}},
		{"another /64", from(plain6, 29, 9), []Verdict{IKE, IKE, IKE, IKELimited}},
	} {
		for i, want := range step.want {
			if got, action := judge(t, p, step.frame); got != want || action != does(want) {
				t.Errorf("%s: exchange %d is %s (%d), want %s", step.name, i+1, got, action, want)
			}
		}
	}

	// An allowance comes back with time.
	p = open(t, Options{IKEInterval: time.Nanosecond, IKEBurst: 1})
	for range 100 {
		if got, _ := judge(t, p, plain); got != IKE {
			t.Fatalf("one a nanosecond: %s", got)
		}
	}
	// No number of sources is too many.
	p = open(t, Options{IKEInterval: time.Hour, MaxSources: 128})
	for i := range 2000 {
		if got, _ := judge(t, p, from(plain, 28, byte(i>>8), byte(i))); got != IKE {
			t.Fatalf("source %d: %s", i, got)
		}
	}
}

// The verifier walks far fewer than the million instructions that it allows,
// so that the kernels that see more ways than this one load the programs too.
func TestVerifier(t *testing.T) {
	needKernel(t)
	defer func(is bool) { weaklyOrdered = is }(weaklyOrdered)
	for name, o := range map[string]Options{
		"default": {},
		"ordered": {},
		"all":     {MaxSPIs: maxSPIs, DropUnknown: true, IKEInterval: time.Second, IKEBurst: 10, Ports: Ports{500, []uint16{4500, 1, 2, 3}}, SocketsPerQueue: 8},
	} {
		weaklyOrdered = name == "ordered"
		p := open(t, o)
		cost, err := p.Cost()
		if err != nil {
			t.Fatal(err)
		}
		for i := range 3 * recentUses {
			k := espKey(sa.SPI(i + 1))
			insert(t, p, k, Target{Action: Pass})
			if v, _ := judge(t, p, frame4(50, espPacket(k.SPI, 32))); v != Passed {
				t.Errorf("%s: %s", name, v)
			}
			if used, err := p.Use(k); err != nil || used.Packets != 1 {
				t.Errorf("%s: counted %+v, %v", name, used, err)
			}
		}
		t.Logf("%s: %d instructions, %d walked by the verifier, %d octets of machine code", name, cost.Instructions, cost.Verified, cost.MachineCode)
		if cost.Verified == 0 || cost.Verified > MaxVerified {
			t.Errorf("%s: %d instructions walked", name, cost.Verified)
		}
	}
}

func FuzzSteer(f *testing.F) {
	needKernel(f)
	for _, shape := range shapes {
		f.Add(shape.frame)
	}
	p, twin := shapeProgram(f, Options{})
	f.Fuzz(func(t *testing.T, frame []byte) {
		if len(frame) > 3000 {
			return
		}
		if len(frame) < ethernetHeader {
			if v, _ := twin.Steer(frame); v != Malformed {
				t.Fatalf("%d octets: %s", len(frame), v)
			}
			return
		}
		same(t, p, twin, frame)
	})
}

// Parse says where the header is that the SPI is in.
func TestParseOffset(t *testing.T) {
	esp := espPacket(espSPI, 32)
	for name, frame := range map[string][]byte{
		"ipv4":     join(ethernet(0x0800, 0x8100), header4(50, 2, 0, esp)),
		"udp":      frame4(17, udpPacket(4500, esp)),
		"ipv6":     frame6(0, join(extension(60, 1), extension(50, 0), esp)),
		"ipv6 udp": frame6(60, join(extension(17, 1), udpPacket(4501, esp))),
	} {
		found := shapePorts.Parse(frame)
		if !found.Steered || found.Key.SPI != espSPI || found.Length != len(frame)-14-4*b2i(name == "ipv4") {
			t.Errorf("%s: found %+v", name, found)
		}
		if !bytes.Equal(frame[found.Offset:], esp) {
			t.Errorf("%s: offset %d of %d", name, found.Offset, len(frame))
		}
	}
	if got := fmt.Sprint(shapePorts.Parse(frame6(17, udpPacket(500, ikePacket(true)))).Source); got != "2001:db8:2::" {
		t.Errorf("new exchange of %s", got)
	}
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}
