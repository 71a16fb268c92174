// SPDX-License-Identifier: Apache-2.0

package interop

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"quicksand/tests/harness"
	"quicksand/xdp"
)

// steeredDuo is quicksand on site a, steering its uplink, and on site b a peer:
// quicksand that steers as well, or strongSwan, whose ESP in user space is
// always in UDP. Settings come after those that steer the uplink, and replace
// them.
func steeredDuo(t *testing.T, n *harness.Net, a, b *harness.Host, swan bool, settings ...string) *duo {
	t.Helper()
	if reference {
		t.Skip("strongSwan does not steer")
	}
	d := &duo{net: n}
	run := func(h *harness.Host) *harness.Peer {
		p, err := harness.StartQuicksand(h, harness.QuicksandOptions{Settings: slices.Concat(
			[]string{"backend = userspace", "xdp_interfaces = " + h.Uplink(), "xdp_pins = off"}, settings)})
		ok(t, err)
		return p
	}
	d.q = run(a)
	if !swan {
		d.s = run(b)
		return d
	}
	var err error
	d.s, err = harness.StartStrongSwan(b, harness.StrongSwanOptions{})
	ok(t, err)
	return d
}

// steering is what "quicksand xdp status" says.
type steering struct {
	Workers []struct {
		CPU *int
		SAs int
	}
	Devices []struct {
		Name     string
		Attached bool
		Why      string
		Mode     string
		Taken    bool `json:"taken_over"`
		Entries  int
		Verdicts []struct {
			Verdict string
			Packets uint64
		}
		Sockets []struct{ Packets, Sent, Lost uint64 }
	}
}

// verdict is how many packets came to it on the first device.
func (s steering) verdict(v xdp.Verdict) uint64 {
	for _, one := range s.Devices[0].Verdicts {
		if one.Verdict == v.String() {
			return one.Packets
		}
	}
	return 0
}

func statusOf(t *testing.T, p *harness.Peer) (s steering) {
	t.Helper()
	out, err := p.Host.Run(harness.Binary(), "xdp", "status", "--json", "--uri", "unix://"+p.Socket)
	ok(t, err)
	ok(t, json.Unmarshal([]byte(out), &s))
	return s
}

// carried is how many packets have come and gone by AF_XDP.
func (s steering) carried() (in, out uint64) {
	for _, d := range s.Devices {
		for _, k := range d.Sockets {
			in += k.Packets
			out += k.Sent
		}
	}
	return in, out
}

// pingBoth has both sites ping each other, wants no loss, and wants all of it
// by AF_XDP where the ends steer.
func pingBoth(t *testing.T, d *duo, addrA, addrB string, peers ...*harness.Peer) {
	t.Helper()
	before := map[*harness.Peer][2]uint64{}
	for _, p := range peers {
		in, out := statusOf(t, p).carried()
		before[p] = [2]uint64{in, out}
	}
	const count = 100
	for _, from := range []bool{true, false} {
		h, source, dest := d.q.Host, addrA, addrB
		if !from {
			h, source, dest = d.s.Host, addrB, addrA
		}
		r, err := h.Ping(harness.Ping{Source: source, Dest: dest, Count: count, Interval: time.Millisecond, Size: 1000})
		ok(t, err)
		if r.Lost() != 0 {
			t.Errorf("ping from %s: %s", source, r)
		}
	}
	for _, p := range peers {
		in, out := statusOf(t, p).carried()
		in, out = in-before[p][0], out-before[p][1]
		if in < 2*count || out < 2*count {
			t.Errorf("%s: %d packets came and %d went by AF_XDP, want %d each", p.Host.Name(), in, out, 2*count)
		}
	}
}

func TestSteered(t *testing.T) {
	for _, swan := range []bool{false, true} {
		for _, v6 := range []bool{false, true} {
			for _, encap := range []bool{false, true} {
				if swan && !encap {
					continue // it has no other in user space
				}
				peer := map[bool]string{false: "quicksand", true: "strongSwan"}[swan]
				t.Run(fmt.Sprintf("%s/v6=%v/encap=%v", peer, v6, encap), func(t *testing.T) {
					n := harness.ForTest(t)
					a, b, err := n.Sites(1)
					ok(t, err)
					d := steeredDuo(t, n, a, b, swan)
					c := conn(child("net", 0, "aes128gcm16"))
					if v6 {
						c.LocalAddr, c.RemoteAddr = harness.AddrA6, harness.AddrB6
					}
					if encap {
						c.Options = harness.Options{"encap": "yes"}
					}
					d.load(t, config(c))
					q, _ := d.bringUp(t, role{"initiator", d.q, d.s}, "net")
					if want := "AF_XDP (native, copy) on " + a.Uplink(); !strings.Contains(q.Detail, want) {
						t.Errorf("placement %q, want %q", q.Detail, want)
					}
					steers := []*harness.Peer{d.q}
					if !swan {
						steers = append(steers, d.s)
					}
					pingBoth(t, d, "10.1.0.1", "10.2.0.1", steers...)
					if s := statusOf(t, d.q); s.Devices[0].Entries != 1 {
						t.Errorf("%d SPIs in the table, want 1", s.Devices[0].Entries)
					}
					ok(t, func() error { _, err := d.q.Swanctl("--terminate", "--child", "net"); return err }())
					if s := statusOf(t, d.q); s.Devices[0].Entries != 0 {
						t.Errorf("%d SPIs in the table after the end, want 0", s.Devices[0].Entries)
					}
				})
			}
		}
	}
}

// TestSteeredAuto has devices steered that SAs' packets leave by, which is known
// only when privileges are dropped.
func TestSteeredAuto(t *testing.T) {
	n := harness.ForTest(t)
	a, b, err := n.Sites(1)
	ok(t, err)
	d := steeredDuo(t, n, a, b, false, "xdp_interfaces = auto")
	d.load(t, config(conn(child("net", 0, "aes128gcm16"))))
	if s := statusOf(t, d.q); len(s.Devices) != 0 {
		t.Errorf("steered before there is an SA: %+v", s.Devices)
	}
	q, _ := d.bringUp(t, role{"initiator", d.q, d.s}, "net")
	if want := "AF_XDP (native, copy) on " + a.Uplink(); !strings.Contains(q.Detail, want) {
		t.Errorf("placement %q, want %q", q.Detail, want)
	}
	pingBoth(t, d, "10.1.0.1", "10.2.0.1", d.q, d.s)
}

// TestSteeredOccupied has another XDP program on the interface.
func TestSteeredOccupied(t *testing.T) {
	n := harness.ForTest(t)
	a, b, err := n.Sites(1)
	ok(t, err)
	ok(t, a.Do(func() error {
		p, err := xdp.Open(xdp.Options{MaxSPIs: 16})
		if err == nil {
			t.Cleanup(func() { p.Close() })
			_, err = p.Attach(a.Uplink())
		}
		return err
	}))
	d := steeredDuo(t, n, a, b, false)
	d.load(t, config(conn(child("net", 0, "aes128gcm16"))))
	q, _ := d.bringUp(t, role{"initiator", d.q, d.s}, "net")
	if !strings.Contains(q.Detail, "sockets: ") || !strings.Contains(q.Detail, xdp.ErrOccupied.Error()) {
		t.Errorf("placement %q", q.Detail)
	}
	pingBoth(t, d, "10.1.0.1", "10.2.0.1", d.s)
}

// TestSteeredRekey renegotiates under load, with the peers of both kinds.
func TestSteeredRekey(t *testing.T) {
	for _, swan := range []bool{false, true} {
		t.Run(fmt.Sprintf("strongSwan=%v", swan), func(t *testing.T) {
			n := harness.ForTest(t)
			a, b, err := n.Sites(1)
			ok(t, err)
			d := steeredDuo(t, n, a, b, swan)
			c := conn(child("net", 0, "aes128gcm16"))
			if swan {
				c.Options = harness.Options{"encap": "yes"}
			}
			d.load(t, config(c))
			d.bringUp(t, role{"initiator", d.q, d.s}, "net")
			const count = 2000
			wait := a.StartPing(harness.Ping{Source: "10.1.0.1", Dest: "10.2.0.1", Count: count, Interval: time.Millisecond})
			for range 3 {
				before, err := d.q.Child("net")
				ok(t, err)
				_, err = d.q.Swanctl("--rekey", "--child", "net")
				ok(t, err)
				ok(t, harness.Poll(10*time.Second, func() error {
					now, err := d.q.Children("net")
					if err != nil {
						return err
					}
					if len(now) != 1 || now[0].SPIIn == before.SPIIn {
						return fmt.Errorf("%d children, SPI %s still", len(now), before.SPIIn)
					}
					return nil
				}))
			}
			r, err := wait()
			ok(t, err)
			if r.Lost() != 0 {
				t.Error(r)
			}
			if in, out := statusOf(t, d.q).carried(); in < count || out < count {
				t.Errorf("%d packets came and %d went by AF_XDP, want %d each", in, out, count)
			}
		})
	}
}

// TestSteeredInterface takes the interface away and puts it back: the SAs live
// on and are steered again.
func TestSteeredInterface(t *testing.T) {
	n := harness.ForTest(t)
	a, b, err := n.Sites(1)
	ok(t, err)
	d := steeredDuo(t, n, a, b, false)
	d.load(t, config(conn(child("net", 0, "aes128gcm16"))))
	d.bringUp(t, role{"initiator", d.q, d.s}, "net")
	pingBoth(t, d, "10.1.0.1", "10.2.0.1", d.q, d.s)
	_, err = a.Run("ip", "link", "del", a.Uplink())
	ok(t, err)
	ok(t, harness.Poll(10*time.Second, func() error {
		if s := statusOf(t, d.q); s.Devices[0].Attached || s.Devices[0].Why != "the interface is gone" {
			return fmt.Errorf("status is %+v", s.Devices[0])
		}
		return placed(d.q, "sockets: no route")
	}))
	ok(t, n.Link(a, []string{harness.AddrA + "/24"}, b, []string{harness.AddrB + "/24"}))
	ok(t, harness.Poll(10*time.Second, func() error {
		for _, p := range []*harness.Peer{d.q, d.s} {
			if s := statusOf(t, p); !s.Devices[0].Attached {
				return fmt.Errorf("status is %+v", s.Devices[0])
			}
		}
		r, err := a.Ping(harness.Ping{Source: "10.1.0.1", Dest: "10.2.0.1", Count: 1, Linger: 200 * time.Millisecond})
		if err == nil && r.Lost() > 0 {
			err = fmt.Errorf("no answer yet")
		}
		return err
	}))
	pingBoth(t, d, "10.1.0.1", "10.2.0.1", d.q, d.s)
	ok(t, placed(d.q, "AF_XDP (native, copy) on "+a.Uplink()))
}

// placed says whether the peer's child runs where it is wanted.
func placed(p *harness.Peer, want string) error {
	c, err := p.Child("net")
	if err == nil && !strings.Contains(c.Detail, want) {
		err = fmt.Errorf("placement %q, want %q", c.Detail, want)
	}
	return err
}

// TestSteeredRestart kills a daemon whose steering is pinned: the program stays
// on the device, and the next daemon takes it over.
func TestSteeredRestart(t *testing.T) {
	n := harness.ForTest(t)
	a, b, err := n.Sites(1)
	ok(t, err)
	bpf := filepath.Join(n.Dir(), "bpf")
	ok(t, unix.Mkdir(bpf, 0o700))
	ok(t, unix.Mount("bpf", bpf, "bpf", 0, ""))
	n.OnClose(func() { unix.Unmount(bpf, unix.MNT_DETACH) })
	d := steeredDuo(t, n, a, b, false, "xdp_pins = "+filepath.Join(bpf, "quicksand"))
	d.load(t, config(conn(child("net", 0, "aes128gcm16"))))
	d.bringUp(t, role{"initiator", d.q, d.s}, "net")
	d.q.Kill()
	out, err := a.Run("ip", "-d", "link", "show", "dev", a.Uplink())
	ok(t, err)
	if !strings.Contains(out, "xdp") {
		t.Fatalf("the program is gone with the daemon that was killed:\n%s", out)
	}
	// The stack has all packets meanwhile: nobody holds the sockets.
	r, err := a.Ping(harness.Ping{Source: harness.AddrA, Dest: harness.AddrB, Count: 20, Interval: time.Millisecond})
	ok(t, err)
	if r.Lost() != 0 {
		t.Error(r)
	}
	ok(t, d.q.Restart())
	if s := statusOf(t, d.q); !s.Devices[0].Attached || !s.Devices[0].Taken || s.Devices[0].Entries != 0 {
		t.Errorf("status after the restart: %+v", s.Devices[0])
	}
	d.load(t, config(conn(child("net", 0, "aes128gcm16"))))
	ok(t, d.q.Initiate("net"))
	pingBoth(t, d, "10.1.0.1", "10.2.0.1", d.q, d.s)
	ok(t, d.q.Stop())
	out, err = a.Run("ip", "-d", "link", "show", "dev", a.Uplink())
	ok(t, err)
	if strings.Contains(out, "prog/xdp") {
		t.Errorf("the program is left after a clean stop:\n%s", out)
	}
	if left, _ := filepath.Glob(filepath.Join(bpf, "quicksand", "*", a.Uplink())); len(left) != 0 {
		t.Errorf("%v is left after a clean stop", left)
	}
}

// TestSteeredOverload sends far more than the tunnel carries, and wants memory
// to stay what it was.
func TestSteeredOverload(t *testing.T) {
	n := harness.ForTest(t)
	a, b, err := n.Sites(1)
	ok(t, err)
	d := steeredDuo(t, n, a, b, false)
	d.load(t, config(conn(child("net", 0, "aes128gcm16"))))
	d.bringUp(t, role{"initiator", d.q, d.s}, "net")
	flood := func(d time.Duration) harness.IperfResult {
		r, err := n.Iperf(a, b, harness.Iperf{Source: "10.1.0.1", Dest: "10.2.0.1", Time: d, UDP: true, Rate: "20G",
			Args: []string{"-l", "64"}})
		ok(t, err)
		return r
	}
	flood(time.Second)
	var before, after [2]uint64
	for i, p := range []*harness.Peer{d.q, d.s} {
		before[i], err = p.Proc.RSS()
		ok(t, err)
	}
	r := flood(5 * time.Second)
	for i, p := range []*harness.Peer{d.q, d.s} {
		after[i], err = p.Proc.RSS()
		ok(t, err)
		if after[i] > before[i]+16<<20 {
			t.Errorf("%s grew from %d to %d MiB", p.Host.Name(), before[i]>>20, after[i]>>20)
		}
	}
	t.Logf("%.3f Gbit/s of 64 octets each, %.1f %% lost; memory %d and %d MiB", r.BitsPerSecond/1e9, r.LostPercent, after[0]>>20, after[1]>>20)
	pingBoth(t, d, "10.1.0.1", "10.2.0.1", d.q, d.s)
}
