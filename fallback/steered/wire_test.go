// SPDX-License-Identifier: Apache-2.0

package steered

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"quicksand/fallback/esp"
	"quicksand/fallback/tunnel"
	"quicksand/sa"
	"quicksand/xdp"
)

func TestFrames(t *testing.T) {
	vlan := []byte{0x81, 0, 0, 7}
	for name, c := range map[string]struct {
		path tunnel.Path
		tags []byte
		ah   bool
	}{
		"IPv4":             {path: path4},
		"IPv6":             {path: path6},
		"IPv4 in UDP":      {path: path4UDP},
		"IPv6 in UDP":      {path: path6UDP},
		"IPv4, one tag":    {path: path4, tags: vlan},
		"IPv6, two tags":   {path: path6UDP, tags: append([]byte{0x88, 0xa8, 0, 9}, vlan...)},
		"IPv4, AH":         {path: path4, ah: true},
		"IPv6, AH, tagged": {path: path6, ah: true, tags: vlan},
	} {
		t.Run(name, func(t *testing.T) {
			q := sealed(0x12345678, 9)
			want := bytes.Clone(q.Bytes())
			if c.ah {
				c.path.Proto = uint8(sa.AH)
				copy(q.Bytes(), []byte{6, 4, 0, 0, 0x12, 0x34, 0x56, 0x78})
				err := esp.PushIP(&q, esp.Outer{Src: c.path.Remote.Addr(), Dst: c.path.Local.Addr(), Protocol: uint8(sa.AH),
					TOS: q.TOS, DF: q.DF})
				if err != nil {
					t.Fatal(err)
				}
				want = bytes.Clone(q.Bytes())
			}
			data := frame(t, c.path, q, c.tags...)
			buf := append(append(make([]byte, 256), data...), make([]byte, 256)...)
			f := xdp.Frame{Data: buf[256 : 256+len(data)], Buf: buf, Off: 256}
			got, from, ok := packetOf(xdp.Ports{IKE: 500, Encaps: []uint16{4500}}, &f)
			if !ok || !bytes.Equal(got.Bytes(), want) {
				t.Fatalf("packet %x, %v, want %x", got.Bytes(), ok, want)
			}
			wantFrom := c.path
			wantFrom.MTU = 0
			if from != wantFrom {
				t.Errorf("came along %v, want %v", from, wantFrom)
			}
			if df := c.path.Local.Addr().Is4(); got.TOS != 0x28 || got.TTL != 64 || got.DF != df {
				t.Errorf("TOS %#x, TTL %d, DF %v", got.TOS, got.TTL, got.DF)
			}
			if spiOf(got, from) != 0x12345678 {
				t.Errorf("SPI %v", spiOf(got, from))
			}
		})
	}
}

// TestUnsteered has frames that hold no packet for us, cut at every length.
func TestUnsteered(t *testing.T) {
	data := frame(t, path6UDP, sealed(300, 1), 0x81, 0, 0, 7)
	for n := range data {
		f := xdp.Frame{Data: data[:n], Buf: data}
		if _, _, ok := packetOf(xdp.Ports{Encaps: []uint16{4500}}, &f); ok {
			t.Fatalf("found a packet in %d of %d octets", n, len(data))
		}
	}
}

// arrivals takes what a wire hands to a plane.
type arrivals struct {
	mu   sync.Mutex // guards what follows
	last map[sa.SPI]uint32
	n    int
	bad  string
	some sync.Cond
}

func newArrivals() *arrivals {
	a := &arrivals{last: map[sa.SPI]uint32{}}
	a.some.L = &a.mu
	return a
}

func (a *arrivals) input(b *tunnel.Batch) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for i := range b.Packets {
		spi, seq := spiOf(b.Packets[i], b.From[i]), binary.BigEndian.Uint32(b.Packets[i].Bytes()[4:])
		if seq != a.last[spi]+1 && a.bad == "" {
			a.bad = fmt.Sprintf("SPI %s: sequence number %d after %d", spi, seq, a.last[spi])
		}
		a.last[spi] = seq
		a.n++
	}
	a.some.Broadcast()
}

// wait waits for so many packets, and says what is wrong with them.
func (a *arrivals) wait(n int) string { return a.until(func() bool { return a.n >= n }) }

// waitFor waits for a sequence number.
func (a *arrivals) waitFor(spi sa.SPI, seq uint32) string {
	return a.until(func() bool { return a.last[spi] >= seq })
}

func (a *arrivals) until(f func() bool) string {
	a.mu.Lock()
	defer a.mu.Unlock()
	for !f() && a.bad == "" {
		a.some.Wait()
	}
	return a.bad
}

// TestMove moves SAs between workers without a pause while drivers poll, which
// judge a batch before they hand any of it over.
func TestMove(t *testing.T) {
	m := &machine{queues: 2, present: 3}
	w := newWire(t, m, newFloor())
	got := newArrivals()
	w.Receive(got.input, nil)
	// One SA on each queue, as a NIC spreads them.
	spis := []sa.SPI{1000, 1001}
	for _, spi := range spis {
		if way := w.Admit(spi, path4); !strings.HasPrefix(way, "sockets: ") {
			// 192.0.2.0/24 leads nowhere here, whatever the machine.
			t.Logf("way %q", way)
		}
	}
	const each, polls = 48, 400
	var drivers sync.WaitGroup
	for queue, spi := range spis {
		drivers.Go(func() {
			seq := uint32(0)
			for range polls {
				var frames [][]byte
				for range each {
					seq++
					frames = append(frames, frame(t, path4, sealed(spi, seq)))
				}
				// More than the ports have frames for would be lost.
				if got.waitFor(spi, seq-min(seq, 1000)) != "" {
					return
				}
				if n := m.receive(queue, frames); n != each {
					t.Errorf("%d of %d frames were steered", n, each)
				}
			}
		})
	}
	over := make(chan struct{})
	moves := 0
	var mover sync.WaitGroup
	mover.Go(func() {
		for {
			for _, spi := range spis {
				w.mu.Lock()
				a := w.sas[spi]
				to := 1 - a.worker
				w.mu.Unlock()
				if err := w.move(a, to); err != nil {
					t.Error(err)
				}
				moves++
			}
			select {
			case <-over:
				return
			default:
			}
		}
	})
	drivers.Wait()
	close(over)
	mover.Wait()
	if bad := got.wait(len(spis) * polls * each); bad != "" {
		t.Fatal(bad)
	}
	t.Logf("%d moves", moves)
	for _, spi := range spis {
		if u := w.Use(spi); u.Packets != polls*each {
			t.Errorf("SPI %s counts %d packets, want %d", spi, u.Packets, polls*each)
		}
	}
}

// TestComeAndGo follows a device that goes and comes back, and SAs that come
// and go meanwhile.
func TestComeAndGo(t *testing.T) {
	m := &machine{queues: 1}
	f := newFloor()
	w := newWire(t, m, f)
	got := newArrivals()
	w.Receive(got.input, nil)
	w.Admit(1000, path4)
	if s := w.Status(); len(s.Devices) != 1 || s.Devices[0].Attached || s.Devices[0].Why != "no such device" {
		t.Fatalf("status without the device: %+v", s)
	}
	m.set(3)
	w.devices["fake0"].retry.next = time.Now()
	w.linksChanged()
	if n := m.receive(0, [][]byte{frame(t, path4, sealed(1000, 1))}); n != 1 {
		t.Fatal("an SA that was there before the device is not steered")
	}
	if bad := got.wait(1); bad != "" {
		t.Fatal(bad)
	}
	batch := func() []esp.Packet { return []esp.Packet{sealed(2000, 1), sealed(2000, 2)} }
	d := w.devices["fake0"]
	o := &out{device: d, index: 3, link: make([]byte, ethernetHeader), mtu: 1500}
	if !d.send(o, path4, batch()) {
		t.Error("an attached device does not send")
	}

	m.set(0)
	w.linksChanged()
	if s := w.Status(); s.Devices[0].Attached || s.Devices[0].Why != "the interface is gone" {
		t.Errorf("status after the device is gone: %+v", s.Devices[0])
	}
	if d.send(o, path4, batch()) {
		t.Error("a device that is gone sends")
	}
	w.Dismiss(1000, path4)
	w.Admit(1001, path6)
	m.set(4)
	w.linksChanged()
	if d.send(o, path4, batch()) {
		t.Error("a device sends along a way of its earlier life")
	}
	if n := m.receive(0, [][]byte{frame(t, path4, sealed(1000, 2)), frame(t, path6, sealed(1001, 1))}); n != 1 {
		t.Errorf("%d frames are steered of one SA that ended and one that is new", n)
	}
	if bad := got.wait(2); bad != "" {
		t.Fatal(bad)
	}
	// An SA whose end moves is steered by its new address only.
	w.Admit(1001, path4)
	if n := m.receive(0, [][]byte{frame(t, path6, sealed(1001, 2)), frame(t, path4, sealed(1001, 2))}); n != 1 {
		t.Errorf("%d frames are steered to an old and a new address", n)
	}
	if len(w.sas) != 1 || w.workers[0].sas+w.workers[1].sas != 1 || len(w.routes.ways) != 1 {
		t.Errorf("%d SAs, workers %v, %d ways; want one of each", len(w.sas), w.workers, len(w.routes.ways))
	}
}

// TestRefused has a device on which another program is.
func TestRefused(t *testing.T) {
	m := &machine{queues: 1, present: 3, refuses: xdp.ErrOccupied}
	f := newFloor()
	w := newWire(t, m, f)
	w.Admit(1000, path4)
	if s := w.Status(); s.Devices[0].Attached || !strings.Contains(s.Devices[0].Why, xdp.ErrOccupied.Error()) {
		t.Errorf("status: %+v", s.Devices[0])
	}
	w.Send(path4, []esp.Packet{sealed(1, 1)})
	if f.sent != 1 {
		t.Errorf("%d packets went by the sockets, want 1", f.sent)
	}
	m.refuses = nil
	w.linksChanged()
	if w.devices["fake0"].attached() {
		t.Error("tried again at once")
	}
	w.devices["fake0"].retry.next = time.Now()
	if !w.unattached() {
		t.Error("not to be tried again")
	}
	w.linksChanged()
	if s := w.Status(); !s.Devices[0].Attached {
		t.Errorf("not attached once there was room: %+v", s.Devices[0])
	}
}

// TestSendStuck has a port whose frames do not come back.
func TestSendStuck(t *testing.T) {
	m := &machine{queues: 1, present: 3}
	w := newWire(t, m, newFloor())
	d := w.devices["fake0"]
	for _, p := range d.flat {
		for frames := make([]xdp.Frame, 64); p.port.Alloc(frames) > 0; {
		}
	}
	batch := []esp.Packet{sealed(1, 1), sealed(1, 2)}
	o := &out{device: d, index: 3, link: make([]byte, ethernetHeader), mtu: 1500}
	if !d.send(o, path4, batch) || !errors.Is(batch[0].Err, unix.ENOBUFS) || !errors.Is(batch[1].Err, unix.ENOBUFS) {
		t.Errorf("errors %v and %v, want no buffer space", batch[0].Err, batch[1].Err)
	}
}

// TestBalance has the SA move that makes loads alike.
func TestBalance(t *testing.T) {
	m := &machine{queues: 1, present: 3}
	w := newWire(t, m, newFloor())
	got := newArrivals()
	w.Receive(got.input, nil)
	for spi := sa.SPI(1000); spi < 1006; spi++ {
		w.Admit(spi, path4) // every other one goes to worker 0
	}
	seq := map[sa.SPI]uint32{}
	load := func(n int, spis ...sa.SPI) {
		for _, spi := range spis {
			for range n {
				seq[spi]++
				m.receive(0, [][]byte{frame(t, path4, sealed(spi, seq[spi]))})
			}
		}
	}
	w.imbalance()
	load(60, 1000)
	load(30, 1002)
	load(5, 1004)
	load(10, 1001)
	d := w.devices["fake0"]
	d.ports[0][0].busy.Add(int64(crowded) + 100e6)
	d.ports[0][1].busy.Add(50e6)
	a, to := w.imbalance()
	if a == nil || a.key.SPI != 1002 || to != 1 {
		t.Errorf("moves %v to %d, want SPI 1002 to 1", a, to)
	}
	if a, _ := w.imbalance(); a != nil {
		t.Errorf("moves %v with no load", a)
	}
}
