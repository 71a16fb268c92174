// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"quicksand/sa"
)

func TestPlacement(t *testing.T) {
	nic := func() *fakeBackend { return newFakeBackend("nic", sa.Packet, sa.Crypto, sa.Kernel) }
	soft := func() *fakeBackend { return newFakeBackend("tun", sa.Userspace) }
	with := func(b *fakeBackend, f func(*fakeBackend)) *fakeBackend { f(b); return b }
	for name, c := range map[string]struct {
		backends []*fakeBackend
		allowed  []sa.Kind
		offload  sa.Offload
		device   string   // where it runs; empty: nowhere
		detail   []string // what the placement or the error says
	}{
		"the first that can": {
			backends: []*fakeBackend{nic(), soft()}, device: "nic"},
		"one that does not support it is passed over": {
			backends: []*fakeBackend{with(nic(), func(b *fakeBackend) { b.refuses = errors.New("no such cipher") }), soft()},
			device:   "tun", detail: []string{"packet/crypto/kernel: no such cipher"}},
		"one that fails is passed over": {
			backends: []*fakeBackend{with(nic(), func(b *fakeBackend) { b.failure = errors.New("table full") }), soft()},
			device:   "tun", detail: []string{"table full"}},
		"all fail": {
			backends: []*fakeBackend{
				with(nic(), func(b *fakeBackend) { b.failure = errors.New("table full") }),
				with(soft(), func(b *fakeBackend) { b.failure = errors.New("device gone") })},
			detail: []string{"install pair", "table full", "userspace: device gone"}},
		"the operator allows user space only": {
			backends: []*fakeBackend{nic(), soft()}, allowed: []sa.Kind{sa.Userspace},
			device: "tun", detail: []string{"backend = userspace does not admit"}},
		"packet offload asked for and not there": {
			backends: []*fakeBackend{soft()}, offload: sa.OffloadPacket,
			detail: []string{"userspace: hw_offload = packet does not admit it"}},
		"crypto offload asked for, and the kernel does it alone": {
			backends: []*fakeBackend{with(nic(), func(b *fakeBackend) { b.places = sa.Kernel }), soft()}, offload: sa.OffloadCrypto,
			detail: []string{"it runs as kernel there"}},
		"crypto offload asked for and got": {
			backends: []*fakeBackend{with(nic(), func(b *fakeBackend) { b.places = sa.Crypto })}, offload: sa.OffloadCrypto,
			device: "nic"},
		"no offload asked for": {
			backends: []*fakeBackend{with(nic(), func(b *fakeBackend) { b.places = sa.Kernel }), soft()}, offload: sa.OffloadNo,
			device: "nic"},
		"no backend": {detail: []string{"there is no backend"}},
	} {
		t.Run(name, func(t *testing.T) {
			var list []sa.Backend
			for _, b := range c.backends {
				list = append(list, b)
			}
			pl := newPlacer(list, c.allowed)
			p := testPair(1)
			p.Offload = c.offload
			got, err := pl.install(p)
			if (err == nil) != (c.device != "") || got.Device != c.device {
				t.Fatalf("placement %+v, error %v; want device %q", got, err, c.device)
			}
			says := got.Detail
			if err != nil {
				says = err.Error()
			}
			for _, want := range c.detail {
				if !strings.Contains(says, want) {
					t.Errorf("it says %q, not %q", says, want)
				}
			}
			for _, b := range c.backends {
				if n := len(b.installed()); (n == 1) != (b.name == c.device) {
					t.Errorf("%s carries %d pairs", b.name, n)
				}
			}
		})
	}
}

// A pair whose packets take another way still says why no better engine has it.
func TestMovedKeepsReasons(t *testing.T) {
	nic, soft := newFakeBackend("nic", sa.Kernel), newFakeBackend("tun", sa.Userspace)
	nic.failure = errors.New("table full")
	pl := newPlacer([]sa.Backend{nic, soft}, nil)
	if _, err := pl.install(testPair(1)); err != nil {
		t.Fatal(err)
	}
	ev := sa.Event{Kind: sa.Moved, Pair: 1, Placement: sa.Placement{Kind: sa.Userspace, Device: "tun", Detail: "by sockets"}}
	pl.moved(&ev)
	if want := "by sockets; not kernel: table full"; ev.Placement.Detail != want || pl.pairs[1].placement != ev.Placement {
		t.Errorf("placement %+v, want the detail %q", pl.pairs[1].placement, want)
	}
}

// The SPI goes to the backend that installs in the end, and no other backend
// gives it out as long as it lives.
func TestSPIFollowsThePair(t *testing.T) {
	nic, soft := newFakeBackend("nic", sa.Kernel), newFakeBackend("tun", sa.Userspace)
	nic.spis = []sa.SPI{0x1001}
	soft.spis = []sa.SPI{0x1001, 0x1002}
	nic.failure = errors.New("table full")
	pl := newPlacer([]sa.Backend{nic, soft}, nil)
	p := testPair(1)
	spi, err := pl.reserve(sa.ESP, localAddr, p)
	if err != nil || spi != 0x1001 {
		t.Fatalf("reserved %s, %v", spi, err)
	}
	p.In.SPI = spi
	if _, err := pl.install(p); err != nil {
		t.Fatal(err)
	}
	if got, want := nic.took(), []string{"reserve 00001001", "install 1", "release 00001001"}; !slices.Equal(got, want) {
		t.Errorf("the backend that refused: %q, want %q", got, want)
	}
	// The kernel has no SPI left; user space offers the one in use first.
	if spi, err = pl.reserve(sa.ESP, localAddr, p); err != nil || spi != 0x1002 {
		t.Errorf("reserved %s, %v, want 00001002", spi, err)
	}
	moved := *p
	moved.Local = remote500
	if err := pl.update(&moved); err != nil {
		t.Fatal(err)
	}
	if err := pl.remove(&moved); err != nil {
		t.Fatal(err)
	}
	pl.release(sa.ESP, localAddr, 0x1002)
	pl.release(sa.ESP, localAddr, 0x1002)
	if len(pl.spis) != 0 || len(pl.pairs) != 0 {
		t.Errorf("left behind: %v %v", pl.spis, pl.pairs)
	}
	want := []string{"install 1", "reserve 00001001", "release 00001001", "reserve 00001002", "update 1 to 198.51.100.2:500", "remove 1", "release 00001002"}
	if got := soft.took(); !slices.Equal(got, want) {
		t.Errorf("the backend that took it: %q, want %q", got, want)
	}
}

// A child's policy and trap go with its pairs: two backends that both want its
// traffic would take it from each other.
func TestPolicyFollowsThePair(t *testing.T) {
	nic, soft := newFakeBackend("nic", sa.Kernel), newFakeBackend("tun", sa.Userspace)
	pl := newPlacer([]sa.Backend{nic, soft}, nil)
	old, fresh := testPair(1), testPair(2)
	for _, err := range []error{pl.trap(old), second(pl.install(old)), pl.activate(old)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	nic.failure = errors.New("table full")
	if _, err := pl.install(fresh); err != nil {
		t.Fatal(err)
	}
	nic.took()
	if err := pl.activate(fresh); err != nil {
		t.Fatal(err)
	}
	name := old.Child
	want := "trap " + name + " " + old.LocalTS.String() + " === " + old.RemoteTS.String()
	if got := soft.took(); !slices.Equal(got, []string{"install 2", "activate 2", want}) {
		t.Errorf("the new place: %q", got)
	}
	if got := nic.took(); !slices.Equal(got, []string{"untrap " + name, "untrap " + name}) {
		t.Errorf("the old place: %q", got)
	}
	if err := pl.remove(old); err != nil {
		t.Fatal(err)
	}
	if got := nic.took(); !slices.Equal(got, []string{"remove 1"}) {
		t.Errorf("the old place: %q", got)
	}
	if err := pl.untrap(target{old.Conn, name}); err != nil || len(pl.traps) != 0 {
		t.Errorf("the trap stays: %v", err)
	}
	if got := soft.took(); !slices.Equal(got, []string{"untrap " + name}) {
		t.Errorf("the new place: %q", got)
	}
}

func second[T any](_ T, err error) error { return err }

func TestUnknownPairs(t *testing.T) {
	pl := newPlacer([]sa.Backend{newFakeBackend("tun", sa.Userspace)}, nil)
	p := testPair(1)
	if err := pl.activate(p); err == nil {
		t.Error("an unknown pair was activated")
	}
	if err := pl.update(p); err == nil {
		t.Error("an unknown pair was updated")
	}
	if _, _, err := pl.counters(1); err == nil {
		t.Error("an unknown pair has counters")
	}
	if err := pl.remove(p); err != nil || p.In.EncryptionKey[0] != 0 {
		t.Errorf("removing a pair that was never installed: %v, keys wiped %v", err, p.In.EncryptionKey[0] == 0)
	}
}

func TestTraps(t *testing.T) {
	nic, soft := newFakeBackend("nic", sa.Kernel), newFakeBackend("tun", sa.Userspace)
	nic.failure = errors.New("no policies here")
	pl := newPlacer([]sa.Backend{nic, soft}, nil)
	p := testPair(0)
	if err := pl.trap(p); err != nil {
		t.Fatal(err)
	}
	q := *p
	q.Reqid = 5
	if err := pl.trap(&q); err != nil {
		t.Fatal(err)
	}
	if len(pl.traps) != 1 || pl.traps[target{"site", "net"}].policy.Reqid != 5 {
		t.Errorf("traps %v", pl.traps)
	}
	if err := pl.untrap(target{"site", "net"}); err != nil {
		t.Fatal(err)
	}
	if err := pl.untrap(target{"site", "net"}); err != nil {
		t.Error("taking down a trap that is not there:", err)
	}
	trap := "trap net invalid selector === invalid selector"
	if got, want := soft.took(), []string{trap, "untrap net", trap, "untrap net"}; !slices.Equal(got, want) {
		t.Errorf("calls %q, want %q", got, want)
	}
	soft.failure = errors.New("device gone")
	if err := pl.trap(p); err == nil || !strings.Contains(err.Error(), "device gone") {
		t.Errorf("no backend takes the trap: %v", err)
	}
}
