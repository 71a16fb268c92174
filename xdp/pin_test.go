// SPDX-License-Identifier: Apache-2.0

package xdp

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"quicksand/sa"
)

func bpfFS(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("bpf", dir, "bpf", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return filepath.Join(dir, "quicksand")
}

// A program that is pinned steers on when its process is gone, and the next
// one takes its tables, counters and place over while packets come in.
func TestRestart(t *testing.T) {
	n := newNetwork(t, "a", "b")
	n.join("a", "b")
	n.ip("-n %s addr add %s/24 dev a", n.ns("b"), local4)
	n.ip("-n %s route add default dev a", n.ns("b"))
	o := Options{PinPath: bpfFS(t), MaxSPIs: 100, DropUnknown: true}
	p := open(t, o)
	if a := n.attach(p, "b", "a"); a.TakenOver {
		t.Errorf("attached %+v", a)
	}
	if err := p.SetCPU(0, 2048); err != nil {
		t.Fatal(err)
	}
	insert(t, p, espKey(espSPI), Target{Action: ToCPU})
	raw, sender := n.raw("b", unix.AF_INET), n.sockets("a", "b", 0, 1)[0]

	stop, stopped := make(chan struct{}), make(chan int)
	go func() {
		sent := 0
		defer func() { stopped <- sent }()
		for {
			select {
			case <-stop:
				return
			default:
				send(t, sender, to("b", "a", frame4(50, espPacket(espSPI, 40))))
				n.take(raw, 1)
				sent++
			}
		}
	}()
	for i := range 5 {
		if err := p.Close(); err != nil {
			t.Fatal(err)
		}
		p = open(t, o)
		if a := n.attach(p, "b", "a"); !a.TakenOver || a.Mode != Native {
			t.Errorf("restart %d: attached %+v", i, a)
		}
		// A slot that is in use is not given to another SPI.
		insert(t, p, espKey(sa.SPI(1000+i)), Target{Action: Drop})
	}
	close(stop)
	sent := <-stopped
	used, err := p.Use(espKey(espSPI))
	if err != nil || used.Packets != uint64(sent) || totals(t, p)[OnCPU].Packets != uint64(sent) {
		t.Errorf("%d packets sent, counted %+v, %v: %v", sent, used, totals(t, p), err)
	}
	t.Logf("%d packets over five restarts, none lost", sent)

	refused := func(o Options, want error) {
		t.Helper()
		if other, err := Open(o); !errors.Is(err, want) || !strings.Contains(err.Error(), "take over pinned tables") {
			if err == nil {
				other.Close()
			}
			t.Errorf("opened: %v, want %v", err, want)
		}
	}
	refused(o, ErrBusy)
	// With the device gone, its link is no reason not to attach to the next.
	n.ip("-n %s link del dev a", n.ns("b"))
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	different := o
	different.MaxSPIs = 200
	refused(different, ebpf.ErrMapIncompatible)
	n.join("a", "b")
	p = open(t, o)
	if a := n.attach(p, "b", "a"); a.TakenOver {
		t.Errorf("attached to a new device: %+v", a)
	}
	if err := p.Remove(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(o.PinPath); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("pins are left: %v", err)
	}
	n.in("b", func() error {
		if index, err := deviceIndex("a"); err != nil {
			return err
		} else if m, err := mode(index); err == nil {
			t.Errorf("removed, but attached: %s", m)
		}
		return nil
	})
}

// Tables of another layout are refused and left as they are, until they are
// removed.
func TestLayout(t *testing.T) {
	needKernel(t)
	pin := func(path string, spec *ebpf.MapSpec, value uint64) {
		t.Helper()
		m, err := ebpf.NewMap(spec)
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		if spec.Type == ebpf.Array {
			err = m.Update(uint32(0), value, ebpf.UpdateAny)
		}
		if err = errors.Join(err, os.MkdirAll(path, 0o700), m.Pin(filepath.Join(path, spec.Name))); err != nil {
			t.Fatal(err)
		}
	}
	layout := &ebpf.MapSpec{Name: "layout", Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 1}
	first := &ebpf.MapSpec{Name: "spis", Type: ebpf.Hash, KeySize: 24, ValueSize: 8, MaxEntries: 100}
	root := bpfFS(t)
	for name, c := range map[string]struct {
		spec   *ebpf.MapSpec
		layout uint64
		want   string
	}{
		"first":  {first, 0, "layout: 1, and this is 2"},
		"later":  {layout, 3, "layout: 3, and this is 2"},
		"begun":  {layout, 0, ""},
		"itself": {layout, layoutVersion, ""},
	} {
		path := filepath.Join(root, name)
		pin(path, c.spec, c.layout)
		p, err := Open(Options{PinPath: path})
		if c.want == "" {
			if err != nil {
				t.Errorf("%s: %v", name, err)
			} else if err := p.Remove(); err != nil {
				t.Error(err)
			}
			continue
		}
		if !errors.Is(err, ErrLayout) || !strings.HasSuffix(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
		if pins, err := os.ReadDir(path); err != nil || len(pins) != 1 {
			t.Errorf("%s: %d pins were left of one: %v", name, len(pins), err)
		}
		if err := Unpin(path); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		p = open(t, Options{PinPath: path})
		if err := p.Remove(); err != nil {
			t.Error(err)
		}
	}
}

// A table that is taken over has its entries, floors, counters and
// destinations, and the places of what was deleted just before are free.
func TestTakeOver(t *testing.T) {
	needKernel(t)
	const room = 100
	o := Options{PinPath: bpfFS(t), MaxSPIs: room, Destinations: 3}
	p := open(t, o)
	want := map[Key]Entry{}
	for i := range room {
		k := Key{[]netip.Addr{local4, local6, remote4}[i%3], sa.SPI(1000 + i/3), []sa.Protocol{sa.ESP, sa.AH}[i%2]}
		e := Entry{Key: k, Target: Target{ToCPU, uint16(i)}}
		insert(t, p, k, e.Target)
		want[k] = e
	}
	for range 5 {
		if v, _ := judge(t, p, frame4(50, espPacket(1000, 32))); v != NoTarget {
			t.Fatal(v)
		}
	}
	if err := p.SetFloor(espKey(1000), 2); err != nil {
		t.Fatal(err)
	}
	e := want[espKey(1000)]
	e.Use.Packets, e.Use.Bytes = 5, 5*60
	want[espKey(1000)] = e
	gone := 0
	for k := range want {
		if k != espKey(1000) && gone < room/4 {
			if _, err := p.Delete(k); err != nil {
				t.Fatal(err)
			}
			delete(want, k)
			gone++
		}
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	p = open(t, o)
	n := 0
	err := p.Entries(func(got Entry) bool {
		n++
		got.Use.Last = time.Time{}
		if got != want[got.Key] {
			t.Errorf("got %+v, want %+v", got, want[got.Key])
		}
		return true
	})
	if err != nil || n != len(want) {
		t.Errorf("%d entries, want %d: %v", n, len(want), err)
	}
	if v, _ := judge(t, p, frame4(50, espPacket(1000, 32))); v != Stale {
		t.Errorf("a packet under the floor: %s", v)
	}
	for i := range gone {
		insert(t, p, Key{local6, sa.SPI(5000 + i), sa.ESP}, Target{Action: Drop})
	}
	if err := p.Insert(espKey(6000), Target{Action: Drop}); !errors.Is(err, ErrFull) {
		t.Errorf("one more: %v", err)
	}
	if err := p.Remove(); err != nil {
		t.Error(err)
	}
}
