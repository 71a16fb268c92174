// SPDX-License-Identifier: Apache-2.0

package steered

import (
	"encoding/binary"
	"errors"
	"log/slog"
	"net/netip"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"quicksand/fallback/esp"
	"quicksand/fallback/tunnel"
	"quicksand/sa"
	"quicksand/xdp"
)

// machine is a host in memory with one device of so many queues. Frames come in
// by receive, as a driver's poll of a queue would have them.
type machine struct {
	queues int

	mu       sync.Mutex // guards what follows
	present  int        // interface index, 0 is gone
	refuses  error      // to attach
	table    *xdp.FakeTable
	far      [][]*xdp.FakePort // other ends of the ports, by queue and worker
	polls    sync.RWMutex      // held for reading while a driver polls
	detached int
}

func (m *machine) cpus() int     { return 2 }
func (m *machine) pin(int) error { return nil }

func (m *machine) prepare(Options) error { return nil }
func (m *machine) close() error          { return nil }

func (m *machine) index(string) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.present
}

func (m *machine) set(index int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.present = index
}

func (m *machine) settle() error {
	m.polls.Lock()
	defer m.polls.Unlock()
	return nil
}

func (m *machine) load(string, Options) (steering, error) {
	m.table = xdp.NewFakeTable(xdp.Options{})
	return fakeSteering{m.table, m}, nil
}

type fakeSteering struct {
	*xdp.FakeTable
	m *machine
}

func (f fakeSteering) start(_ string, workers int) (*attachment, error) {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if f.m.refuses != nil {
		return nil, f.m.refuses
	}
	if f.m.present == 0 {
		return nil, errors.New("no such device")
	}
	a := &attachment{Attachment: xdp.Attachment{Mode: xdp.Native}, index: f.m.present}
	f.m.far = nil
	for range f.m.queues {
		var ports []xdp.Port
		var far []*xdp.FakePort
		for range workers {
			near, other := xdp.NewWire(4096, 256)
			ports, far = append(ports, near), append(far, other)
		}
		a.ports = append(a.ports, ports)
		f.m.far = append(f.m.far, far)
	}
	return a, nil
}

func (f fakeSteering) end(string) error {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	f.m.detached++
	return nil
}

func (f fakeSteering) Remove() error { return nil }

// receive is a poll of the queue: all frames are judged, and only then handed
// over, to the last worker first. It returns how many were steered.
func (m *machine) receive(queue int, frames [][]byte) int {
	m.polls.RLock()
	defer m.polls.RUnlock()
	to := map[int][][]byte{}
	n := 0
	for _, f := range frames {
		if v, target := m.table.Steer(f); v == xdp.Socketed {
			to[int(target.Number)] = append(to[int(target.Number)], f)
			n++
		}
	}
	for worker := len(m.far[queue]) - 1; worker >= 0; worker-- {
		far := m.far[queue][worker]
		for _, data := range to[worker] {
			var f [1]xdp.Frame
			for far.Alloc(f[:]) == 0 {
			}
			f[0].Data = append(f[0].Data, data...)
			far.Send(f[:])
		}
	}
	return n
}

// floor is the wire below, which remembers what went by it.
type floor struct {
	*tunnel.MemoryWire
	mu   sync.Mutex // guards sent
	sent int
}

func newFloor() *floor {
	a, _ := tunnel.NewMemoryWires()
	return &floor{MemoryWire: a}
}

func (f *floor) Send(_ tunnel.Path, batch []esp.Packet) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.sent += len(batch)
}

func newWire(t *testing.T, m *machine, f *floor) *Wire {
	t.Helper()
	w, err := New(Options{Devices: []string{"fake0"}, Sockets: f, Ports: [2]uint16{500, 4500},
		Log: slog.New(slog.DiscardHandler), host: m})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	})
	return w
}

var (
	path4 = tunnel.Path{Local: netip.MustParseAddrPort("192.0.2.1:0"), Remote: netip.MustParseAddrPort("192.0.2.2:0"),
		Proto: uint8(sa.ESP), MTU: 1500}
	path6 = tunnel.Path{Local: netip.MustParseAddrPort("[2001:db8::1]:0"), Remote: netip.MustParseAddrPort("[2001:db8::2]:0"),
		Proto: uint8(sa.ESP), MTU: 1500}
	path4UDP = tunnel.Path{Local: netip.MustParseAddrPort("192.0.2.1:4500"), Remote: netip.MustParseAddrPort("192.0.2.2:4501"),
		Proto: unix.IPPROTO_UDP, MTU: 1500}
	path6UDP = tunnel.Path{Local: netip.MustParseAddrPort("[2001:db8::1]:4500"), Remote: netip.MustParseAddrPort("[2001:db8::2]:4501"),
		Proto: unix.IPPROTO_UDP, MTU: 1500}
)

// sealed is an ESP packet with room around it.
func sealed(spi sa.SPI, seq uint32) esp.Packet {
	p := esp.Packet{Buf: make([]byte, esp.Headroom+48+esp.Tailroom), Off: esp.Headroom, Len: 48, TOS: 0x28, DF: true}
	binary.BigEndian.PutUint32(p.Bytes(), uint32(spi))
	binary.BigEndian.PutUint32(p.Bytes()[4:], seq)
	return p
}

// mirror is the path as the other end has it.
func mirror(p tunnel.Path) tunnel.Path {
	p.Local, p.Remote = p.Remote, p.Local
	return p
}

// frame is a frame that brings the packet from the path's remote end.
func frame(t testing.TB, p tunnel.Path, q esp.Packet, tags ...byte) []byte {
	t.Helper()
	link := append([]byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2}, tags...)
	kind := uint16(etherIPv4)
	if p.Local.Addr().Is6() {
		kind = etherIPv6
	}
	f := xdp.Frame{Data: make([]byte, 0, 256)}
	if err := fill(&f, binary.BigEndian.AppendUint16(link, kind), mirror(p), &q, 7); err != nil {
		t.Fatal(err)
	}
	return f.Data
}
