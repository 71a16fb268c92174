// SPDX-License-Identifier: Apache-2.0

//go:build guest

package offload

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"quicksand/sa"
)

// The two ends of the test NIC.
const nicA, nicB = "qsnic0", "qsnic1"

// turn sets a knob of a test NIC.
func turn(t *testing.T, device, knob, value string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join("/sys/kernel/debug/qsnic", device, knob), []byte(value), 0); err != nil {
		t.Fatal(err)
	}
}

// newNICs makes the test network over the test NIC, with its knobs at rest.
func newNICs(t *testing.T) (a, b *site) {
	t.Helper()
	a, b = &site{t: t, ns: newNamespace(t)}, &site{t: t, ns: newNamespace(t)}
	for device, s := range map[string]*site{nicA: a, nicB: b} {
		// It comes back from the namespace of the test before.
		s.eventually(device, func() bool { _, err := os.Stat("/sys/class/net/" + device); return err == nil })
		for knob, value := range map[string]string{"model": "any", "refuse": "0", "error": "22", "slots": "65535", "policy_slots": "65535"} {
			turn(t, device, knob, value)
		}
		sh(t, "ip link set %s netns %s", device, s.ns)
	}
	a.address(0, nicA)
	b.address(1, nicB)
	a.open(Options{})
	b.open(Options{})
	return a, b
}

func TestNIC(t *testing.T) {
	a, b := newNICs(t)
	for i, c := range []struct {
		offload sa.Offload
		kind    sa.Kind
	}{{sa.OffloadPacket, sa.Packet}, {sa.OffloadCrypto, sa.Crypto}, {sa.OffloadAuto, sa.Packet}, {sa.OffloadNo, sa.Kernel}} {
		p := pairOf("aes128gcm16", func(p *sa.Pair) { p.ID, p.Offload, p.Child = uint32(10*i+1), c.offload, c.offload.String() })
		at := a.install(p)
		t.Logf("%s: %s on %s: %s", c.offload, at.Kind, at.Device, at.Detail)
		if at.Kind != c.kind || (at.Device != "") != (c.kind != sa.Kernel) {
			t.Errorf("hw_offload = %s runs as %s on %q", c.offload, at.Kind, at.Device)
		}
		b.install(mirror(p))
		a.activate(p)
		b.activate(mirror(p))
		a.ping(innerB, "-I "+innerA)
		b.expect(sa.FirstUse)
		stop := a.flood("-I " + innerA + " " + innerB)
		p = rekeys(a, b, p, 3)
		stop()
		for _, s := range []*site{a, b} {
			in, out, err := s.b.Counters(p)
			if err != nil || in.Packets == 0 || out.Packets == 0 || in.Bytes != in.Packets*84 || out.Bytes != out.Packets*84 {
				t.Errorf("%s: counters %+v %+v %v", c.offload, in, out, err)
			}
		}
		a.remove(p)
		b.remove(mirror(p))
		if out, err := a.tryPing(innerB, "-I "+innerA); err == nil {
			t.Errorf("%s: traffic passes without a pair:\n%s", c.offload, out)
		}
		forget(a, b, p)
	}
}

// TestRefusalsOfNIC goes down the chain at every step, and says why.
func TestRefusalsOfNIC(t *testing.T) {
	a, _ := newNICs(t)
	for i, c := range []struct {
		name   string
		knobs  map[string]string
		suite  string
		mode   sa.Mode
		change func(*sa.Pair)
		kind   sa.Kind
		says   []string
	}{
		{"no packet offload", map[string]string{"model": "crypto"}, "aes128gcm16", sa.Tunnel, nil, sa.Crypto, []string{"not packet:", "has no packet offload"}},
		{"policies refused", map[string]string{"refuse": "12"}, "aes128gcm16", sa.Tunnel, nil, sa.Crypto, []string{"policy refused on request"}},
		{"states refused", map[string]string{"refuse": "3"}, "aes128gcm16", sa.Tunnel, nil, sa.Kernel, []string{"not packet:", "not crypto:", "state refused on request"}},
		{"outbound states refused", map[string]string{"refuse": "2"}, "aes128gcm16", sa.Tunnel, nil, sa.Kernel, []string{"state refused on request"}},
		{"silently in software", map[string]string{"refuse": "3", "error": "95"}, "aes128gcm16", sa.Tunnel, nil, sa.Kernel, []string{"keeps the SA in software"}},
		{"no slots", map[string]string{"slots": "0"}, "aes128gcm16", sa.Tunnel, nil, sa.Kernel, []string{"no slot is left"}},
		{"a cipher it has not", nil, "aes128-sha256", sa.Tunnel, nil, sa.Kernel, []string{"only AES-GCM"}},
		{"a short ICV", map[string]string{"model": "mlx5"}, "aes128gcm8", sa.Tunnel, nil, sa.Kernel, []string{"mlx5_core: AES-GCM with a 16-byte ICV only"}},
		{"no encapsulating NIC", map[string]string{"model": "ixgbe"}, "aes128gcm16", sa.Tunnel, nil, sa.Kernel, []string{"ixgbe: transport mode only"}},
		{"AH", nil, "ah:sha256", sa.Tunnel, nil, sa.Kernel, []string{"only ESP can be offloaded"}},
		{"a wide window", map[string]string{"model": "mlx5"}, "aes256gcm16-esn", sa.Tunnel, func(p *sa.Pair) { p.ReplayWindow = 100 }, sa.Packet, nil},
		{"limits", map[string]string{"model": "mlx5"}, "aes256gcm16", sa.Tunnel, func(p *sa.Pair) {
			p.Lifetime.Hard.Bytes, p.Lifetime.Hard.Packets, p.Lifetime.Soft.Packets = 1e6, 1000, 1000
		}, sa.Packet, nil},
	} {
		for knob, value := range c.knobs {
			turn(t, nicA, knob, value)
		}
		// The device is looked at afresh once it has changed.
		a.run("ip link set %s alias x%d", nicA, i)
		p := pairOf(c.suite, func(p *sa.Pair) { p.ID, p.Child, p.Mode = uint32(i+1), c.name, c.mode })
		if c.change != nil {
			c.change(p)
		}
		a.eventually("a fresh look", func() bool { a.b.mu.Lock(); defer a.b.mu.Unlock(); return len(a.b.refused) == 0 })
		at := a.install(p)
		if at.Kind != c.kind {
			t.Errorf("%s: runs as %s: %s", c.name, at.Kind, at.Detail)
		}
		for _, w := range c.says {
			if !strings.Contains(at.Detail, w) {
				t.Errorf("%s: says %q, not %q", c.name, at.Detail, w)
			}
		}
		t.Logf("%s: %s on %s: %s", c.name, at.Kind, at.Device, at.Detail)
		a.remove(p)
		a.b.Untrap(p.Policy)
		// What is asked for and not to be had fails, and leaves nothing.
		if c.kind == sa.Kernel {
			p.Offload = sa.OffloadPacket
			if _, err := a.b.Install(p); err == nil {
				t.Errorf("%s: hw_offload = packet was installed", c.name)
			} else if list := a.run("ip xfrm state"); list != "" {
				t.Errorf("%s: left behind:\n%s", c.name, list)
			}
		}
		for knob, value := range map[string]string{"model": "any", "refuse": "0", "error": "22", "slots": "65535"} {
			turn(t, nicA, knob, value)
		}
	}
}

func TestSurveyOfNIC(t *testing.T) {
	a, _ := newNICs(t)
	for model, want := range map[string]sa.Kind{"any": sa.Packet, "crypto": sa.Crypto} {
		turn(t, nicA, "model", model)
		inside(t, a.ns, func() {
			r, err := Survey()
			if err != nil || !r.Ready || len(r.Interfaces) != 1 || r.Interfaces[0].Expected != want {
				t.Errorf("%s: %+v %v", model, r, err)
			}
		})
	}
	if list := a.run("ip xfrm state") + a.run("ip xfrm policy"); list != "" {
		t.Errorf("left behind:\n%s", list)
	}
}

// TestLinkDown: the kernel drops what is offloaded to a device that goes down.
func TestLinkDown(t *testing.T) {
	a, b := newNICs(t)
	for i, offload := range []sa.Offload{sa.OffloadPacket, sa.OffloadCrypto} {
		p := pairOf("aes128gcm16", func(p *sa.Pair) { p.ID, p.Offload, p.Child = uint32(10*i+1), offload, offload.String() })
		connect(a, b, p)
		a.ping(innerB, "-I "+innerA)
		a.run("ip link set %s down", nicA)
		a.eventually("a block", func() bool { return strings.Contains(a.run("ip xfrm policy"), "dir out action block") })
		a.run("ip link set %s up", nicA)
		if e := a.expect(sa.Lost); e.Pair != p.ID {
			t.Errorf("pair %d is lost", e.Pair)
		}
		a.eventually("a route", func() bool { return strings.Contains(a.routes(), netB) })
		if out, err := a.tryPing(innerB, "-I "+innerA); err == nil {
			t.Errorf("%s: traffic passes without a pair:\n%s%s", offload, out, a.state())
		}
		a.remove(p)
		q := next(p)
		connect(a, b, q)
		b.remove(mirror(p))
		a.ping(innerB, "-I "+innerA)
		a.remove(q)
		b.remove(mirror(q))
		forget(a, b, p)
	}
}

// TestVolumesOnNIC: what a NIC has carried by itself counts.
func TestVolumesOnNIC(t *testing.T) {
	a, b := newNICs(t)
	p := pairOf("aes128gcm16", func(p *sa.Pair) {
		p.Offload, p.Lifetime.Soft.Packets, p.Lifetime.Hard.Bytes = sa.OffloadPacket, 4, 10*84
	})
	connect(a, b, p)
	a.ping(innerB, "-I "+innerA)
	a.ping(innerB, "-I "+innerA)
	if e := a.expect(sa.SoftExpired); e.Pair != p.ID {
		t.Errorf("pair %d is due", e.Pair)
	}
	for range 3 {
		a.tryPing(innerB, "-I "+innerA)
	}
	if e := a.expect(sa.HardExpired); e.Pair != p.ID {
		t.Errorf("pair %d has expired", e.Pair)
	}
	if _, err := a.tryPing(innerB, "-I "+innerA); err == nil {
		t.Errorf("an expired pair goes on:\n%s", a.state())
	}
}

// TestNetdevsim: crypto offload as a driver of the kernel's own does it.
func TestNetdevsim(t *testing.T) {
	needNetdevsim(t)
	a := &site{t: t, ns: newNamespace(t)}
	if err := os.WriteFile("/sys/bus/netdevsim/new_device", []byte("77 1"), 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.WriteFile("/sys/bus/netdevsim/del_device", []byte("77"), 0) })
	var device string
	a.eventually("a simulated device", func() bool {
		names, _ := filepath.Glob("/sys/bus/netdevsim/devices/netdevsim77/net/*")
		if len(names) == 0 {
			return false
		}
		device = filepath.Base(names[0])
		return true
	})
	time.Sleep(100 * time.Millisecond) // it may be given another name
	if names, _ := filepath.Glob("/sys/bus/netdevsim/devices/netdevsim77/net/*"); len(names) == 1 {
		device = filepath.Base(names[0])
	}
	sh(t, "ip link set %s up && ip addr add 203.0.113.1/24 dev %s", device, device)
	t.Cleanup(func() { tryShell("ip addr flush dev %s", device) })
	var b *Backend
	var err error
	if b, err = New(Options{Mark: 0x7153}); err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	for i, c := range []struct {
		suite   string
		offload sa.Offload
		kind    sa.Kind
		says    string
	}{
		{"aes128gcm16", sa.OffloadAuto, sa.Crypto, "not packet: netdevsim: crypto offload only"},
		{"aes256gcm16", sa.OffloadAuto, sa.Kernel, "not crypto: netdevsim: no keys of 256 bits"},
		{"aes128gcm16", sa.OffloadPacket, 0, "netdevsim: crypto offload only"},
		{"aes128-sha256", sa.OffloadCrypto, 0, "AES-GCM with a 16-byte ICV only"},
	} {
		p := pairOf(c.suite, func(p *sa.Pair) {
			p.ID, p.Offload = uint32(i+1), c.offload
			p.Local, p.Remote = addrPort("203.0.113.1:0"), addrPort("203.0.113.2:0")
		})
		says := ""
		err := b.Supports(p)
		at := sa.Placement{}
		if err == nil {
			at, err = b.Install(p)
			says = at.Detail
		}
		if err != nil {
			says = err.Error()
		}
		if at.Kind != c.kind || !strings.Contains(says, c.says) {
			t.Errorf("%s %s: %s: %s", c.suite, c.offload, at.Kind, says)
		}
		if c.kind == sa.Crypto {
			held, err := exec.Command("sh", "-c", "cat /sys/kernel/debug/netdevsim/netdevsim77/ports/0/ipsec").CombinedOutput()
			if err != nil || !strings.Contains(string(held), "SA count=2") {
				t.Errorf("the device holds: %v\n%s", err, held)
			}
		}
		if err == nil {
			b.Remove(p)
		}
		b.Untrap(p.Policy)
	}
	// A VLAN on it is no place for an SA, and neither is a bond without slaves.
	sh(t, "ip link add link %s name sim.5 type vlan id 5 && ip link set sim.5 up && ip addr add 198.51.100.1/24 dev sim.5", device)
	t.Cleanup(func() { tryShell("ip link del sim.5") })
	p := pairOf("aes128gcm16", func(p *sa.Pair) {
		p.Local, p.Remote = addrPort("198.51.100.1:0"), addrPort("198.51.100.2:0")
	})
	at, err := b.Install(p)
	if want := "sim.5 is a VLAN on " + device; err != nil || at.Kind != sa.Kernel || !strings.Contains(at.Detail, want) {
		t.Errorf("on a VLAN: %+v %v", at, err)
	}
}

func needNetdevsim(t *testing.T) {
	if _, err := os.Stat("/sys/bus/netdevsim"); err != nil {
		t.Fatal(err)
	}
}
