// SPDX-License-Identifier: Apache-2.0

//go:build guest

package offload

import (
	"fmt"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"quicksand/sa"
)

// These tests need a kernel with ESP and AH.

// newSites makes the test network with a backend at each site.
func newSites(t *testing.T) (a, b *site) {
	t.Helper()
	a, b = &site{t: t, ns: newNamespace(t)}, &site{t: t, ns: newNamespace(t)}
	sh(t, "ip link add eth0 netns %s type veth peer name eth0 netns %s", a.ns, b.ns)
	a.address(0, "eth0")
	b.address(1, "eth0")
	a.open(Options{})
	b.open(Options{})
	return a, b
}

// sides are the sites' addresses.
var sides = [2]struct{ outer, outer6, inner, inner6 string }{
	{outerA, outerA6, innerA, innerA6}, {outerB, outerB6, innerB, innerB6},
}

// address gives a site its addresses: side 0 is a, 1 is b.
func (s *site) address(side int, device string) {
	s.t.Helper()
	for _, c := range []string{
		"link set " + device + " up",
		"addr add " + sides[side].outer + "/24 dev " + device,
		"addr add " + sides[side].outer6 + "/64 dev " + device + " nodad",
		"addr add " + sides[side].inner + "/32 dev lo",
		"addr add " + sides[side].inner6 + "/128 dev lo nodad",
	} {
		sh(s.t, "ip -n %s %s", s.ns, c)
	}
}

func addrPort(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

func (s *site) install(p *sa.Pair) sa.Placement {
	s.t.Helper()
	at, err := s.b.Install(p)
	if err != nil {
		s.t.Fatalf("install in %s: %v", s.ns, err)
	}
	return at
}

func (s *site) activate(p *sa.Pair) {
	s.t.Helper()
	if err := s.b.Activate(p); err != nil {
		s.t.Fatalf("activate in %s: %v", s.ns, err)
	}
}

func (s *site) remove(p *sa.Pair) {
	s.t.Helper()
	if err := s.b.Remove(p); err != nil {
		s.t.Fatalf("remove in %s: %v", s.ns, err)
	}
}

// connect installs and activates a pair on both sides.
func connect(a, b *site, p *sa.Pair) {
	a.t.Helper()
	a.install(p)
	b.install(mirror(p))
	a.activate(p)
	b.activate(mirror(p))
}

// forget has both sites forget the pair's child.
func forget(a, b *site, p *sa.Pair) {
	a.t.Helper()
	for s, policy := range map[*site]sa.Policy{a: p.Policy, b: mirror(p).Policy} {
		if err := s.b.Untrap(policy); err != nil {
			s.t.Error(err)
		}
	}
}

func (s *site) tryPing(to, args string) (string, error) {
	return tryShell("ip netns exec %s ping -c 3 -i 0.1 -W 2 %s %s", s.ns, args, to)
}

func (s *site) ping(to, args string) {
	s.t.Helper()
	out, err := s.tryPing(to, args)
	if err != nil || !strings.Contains(out, " 0% packet loss") {
		s.t.Fatalf("ping %s %s from %s: %v\n%s\n%s", args, to, s.ns, err, out, s.state())
	}
}

// state is what the kernel of the site holds and has dropped.
func (s *site) state() string {
	out, _ := tryShell("ip -n %s -s xfrm state; ip -n %s xfrm policy; ip netns exec %s cat /proc/net/xfrm_stat | awk '$2 > 0'", s.ns, s.ns, s.ns)
	return out
}

func TestTunnel(t *testing.T) {
	a, b := newSites(t)
	p := pairOf("aes128gcm16")
	connect(a, b, p)
	a.ping(innerB, "-I "+innerA)
	if e := b.expect(sa.FirstUse); e.Pair != p.ID {
		t.Errorf("first use of pair %d", e.Pair)
	}
	for _, s := range []*site{a, b} {
		in, out, err := s.b.Counters(p)
		if err != nil || in.Packets != 3 || out.Packets != 3 || in.Bytes != 3*84 || out.Bytes != 3*84 {
			t.Errorf("%s: counters %+v %+v %v", s.ns, in, out, err)
		}
	}
	a.remove(p)
	if out, err := a.tryPing(innerB, "-I "+innerA); err == nil {
		t.Errorf("a ping goes without a pair:\n%s%s", out, a.state())
	}
	t.Log(a.state())
}

func TestSuites(t *testing.T) {
	a, b := newSites(t)
	id := uint32(0)
	for _, suite := range []string{"aes128gcm16", "aes256gcm16", "aes192gcm8", "aes128gcm12", "aes128-sha256", "aes256-sha512",
		"aes192-sha384", "aes128-sha1", "aes128-md5", "3des-sha1", "null-sha256", "aes128ctr-sha256", "ah:sha256", "ah:sha1", "ah:sha512",
		"aes128gcm16-esn", "aes128-sha256-esn", "ah:sha256-esn"} {
		for mode, window := range map[sa.Mode]uint32{sa.Tunnel: 32, sa.Transport: 256} {
			id++
			p := pairOf(suite, func(p *sa.Pair) {
				p.ID, p.Mode, p.ReplayWindow = id, mode, window
				p.Child = fmt.Sprint(suite, mode)
				if mode == sa.Transport {
					p.LocalTS, p.RemoteTS = sel(outerA), sel(outerB)
				}
			})
			connect(a, b, p)
			if mode == sa.Transport {
				a.ping(outerB, "")
			} else {
				a.ping(innerB, "-I "+innerA)
			}
			for _, s := range []*site{a, b} {
				in, out, err := s.b.Counters(p)
				if err != nil || in != out || in.Packets != 3 || in.Bytes != 3*84 {
					t.Errorf("%s %s window %d: counters %+v %+v %v", suite, mode, window, in, out, err)
				}
			}
			a.remove(p)
			b.remove(mirror(p))
			forget(a, b, p)
		}
	}
}

// flood sends echo requests until stop is called, which wants every one
// answered and says how many there were.
func (s *site) flood(args string) (stop func() string) {
	s.t.Helper()
	cmd := exec.Command("sh", "-c", fmt.Sprintf("exec ip netns exec %s ping -i 0.01 -W 2 -q %s", s.ns, args))
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	return func() string {
		s.t.Helper()
		cmd.Process.Signal(unix.SIGINT)
		cmd.Wait()
		if !strings.Contains(out.String(), " 0% packet loss") {
			s.t.Errorf("packets were lost:\n%s\n%s", &out, s.state())
		}
		return out.String()
	}
}

// rekeys renegotiates a pair some times under traffic, in the order in which
// Quick Mode does it, and returns the last pair.
func rekeys(a, b *site, p *sa.Pair, n int) *sa.Pair {
	a.t.Helper()
	for range n {
		q := next(p)
		b.install(mirror(q))
		a.install(q)
		a.activate(q)
		b.activate(mirror(q))
		if e := b.expect(sa.FirstUse); e.Pair != q.ID {
			a.t.Errorf("first use of pair %d, not %d", e.Pair, q.ID)
		}
		time.Sleep(50 * time.Millisecond) // what is still on the way
		a.remove(p)
		b.remove(mirror(p))
		p = q
	}
	return p
}

func TestRekeyUnderTraffic(t *testing.T) {
	a, b := newSites(t)
	p := pairOf("aes128gcm16")
	connect(a, b, p)
	a.ping(innerB, "-I "+innerA)
	b.expect(sa.FirstUse)
	stop := a.flood("-I " + innerA + " " + innerB)
	rekeys(a, b, p, 5)
	t.Log(stop())
}

func TestFamilies(t *testing.T) {
	a, b := newSites(t)
	outer6 := func(p *sa.Pair) {
		p.Local, p.Remote = netip.MustParseAddrPort("["+outerA6+"]:500"), netip.MustParseAddrPort("["+outerB6+"]:500")
	}
	inner6 := func(p *sa.Pair) { p.LocalTS, p.RemoteTS = sel(netA6), sel(netB6) }
	for i, c := range []struct {
		name   string
		change []func(*sa.Pair)
		ping   string
	}{
		{"6 in 6", []func(*sa.Pair){outer6, inner6}, "-6 -I " + innerA6 + " " + innerB6},
		{"6 in 4", []func(*sa.Pair){inner6}, "-6 -I " + innerA6 + " " + innerB6},
		{"4 in 6", []func(*sa.Pair){outer6}, "-I " + innerA + " " + innerB},
		{"transport 6", []func(*sa.Pair){outer6, func(p *sa.Pair) {
			p.Mode, p.LocalTS, p.RemoteTS = sa.Transport, sel(outerA6), sel(outerB6)
		}}, "-6 " + outerB6},
		{"one protocol", []func(*sa.Pair){func(p *sa.Pair) { p.LocalTS, p.RemoteTS = sel(netA+"[icmp]"), sel(netB+"[icmp]") }},
			"-I " + innerA + " " + innerB},
		{"a range", []func(*sa.Pair){func(p *sa.Pair) { p.RemoteTS = sel("10.71.2.1..10.71.2.6") }}, "-I " + innerA + " " + innerB},
	} {
		p := pairOf("aes128-sha256", append(c.change, func(p *sa.Pair) { p.ID, p.Child = uint32(i+1), c.name })...)
		connect(a, b, p)
		a.ping(c.ping, "")
		for _, s := range []*site{a, b} {
			in, out, err := s.b.Counters(p)
			if err != nil || in.Packets != 3 || in.Packets != out.Packets || in.Bytes != out.Bytes {
				t.Errorf("%s: counters %+v %+v %v", c.name, in, out, err)
			}
		}
		a.remove(p)
		b.remove(mirror(p))
		forget(a, b, p)
	}
}

func TestExpiryByTraffic(t *testing.T) {
	a, b := newSites(t)
	p := pairOf("aes128gcm16", func(p *sa.Pair) {
		p.Lifetime.Soft.Packets, p.Lifetime.Hard.Bytes = 4, 10*84
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
	a.remove(p)
}

// encapsulating is a NAT traversal port of the kernel's alone.
type encapsulating struct{ fd int }

func (e encapsulating) KernelSPI(sa.SPI, bool) error { return nil }

func (s *site) encapsulate(port int) encapsulating {
	s.t.Helper()
	var fd int
	var err error
	inside(s.t, s.ns, func() {
		if fd, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0); err == nil {
			if err = unix.SetsockoptInt(fd, unix.IPPROTO_UDP, unix.UDP_ENCAP, espInUDP); err == nil {
				err = unix.Bind(fd, &unix.SockaddrInet4{Port: port})
			}
		}
	})
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { unix.Close(fd) })
	return encapsulating{fd}
}

// TestNAT: ESP in UDP, and a NAT that changes its mind.
func TestNAT(t *testing.T) {
	a, b := &site{t: t, ns: newNamespace(t)}, &site{t: t, ns: newNamespace(t)}
	sh(t, "ip link add eth0 netns %s type veth peer name eth0 netns %s", a.ns, b.ns)
	a.address(0, "eth0")
	b.address(1, "eth0")
	a.encapsulate(4501)
	a.open(Options{NATT: a.encapsulate(4500)})
	b.open(Options{NATT: b.encapsulate(4500)})
	p := pairOf("aes128-sha256", func(p *sa.Pair) { p.Encap = true })
	connect(a, b, p)
	a.ping(innerB, "-I "+innerA)
	// a's packets come from another port from now on, as behind a NAT that has
	// been restarted.
	moved := *p
	moved.Local = netip.AddrPortFrom(p.Local.Addr(), 4501)
	if err := a.b.Update(&moved); err != nil {
		t.Fatal(err)
	}
	a.tryPing(innerB, "-I "+innerA)
	e := b.expect(sa.Remapped)
	if e.Pair != p.ID || e.Remote != moved.Local {
		t.Errorf("pair %d comes from %s", e.Pair, e.Remote)
	}
	if err := b.b.Update(mirror(&moved)); err != nil {
		t.Fatal(err)
	}
	a.ping(innerB, "-I "+innerA)
	// And from another address.
	sh(t, "ip -n %s addr add 192.0.2.9/24 dev eth0", a.ns)
	again := moved
	again.Local = netip.MustParseAddrPort("192.0.2.9:4500")
	if err := a.b.Update(&again); err != nil {
		t.Fatal(err)
	}
	a.tryPing(innerB, "-I "+innerA)
	e = b.expect(sa.Remapped)
	if e.Remote != again.Local {
		t.Errorf("pair %d comes from %s", e.Pair, e.Remote)
	}
	if err := b.b.Update(mirror(&again)); err != nil {
		t.Fatal(err)
	}
	a.ping(innerB, "-I "+innerA)
	in, _, err := b.b.Counters(p)
	if err != nil || in.Packets < 12 {
		t.Errorf("the counters did not go on: %+v %v", in, err)
	}
}

// TestClearTextNever watches what leaves from before the trap to after the last
// pair. At the other end, the kernel shows a device's packets decrypted as well.
func TestClearTextNever(t *testing.T) {
	a, b := newSites(t)
	wire := exec.Command("ip", "netns", "exec", a.ns, "tcpdump", "-i", "eth0", "-Q", "out", "-n", "-l", "--immediate-mode", "net", netA, "or", "net", netB)
	var seen strings.Builder
	wire.Stdout = &seen
	stderr, _ := wire.StderrPipe()
	if err := wire.Start(); err != nil {
		t.Fatal(err)
	}
	ready := make([]byte, 1000)
	stderr.Read(ready) // "listening on eth0"
	p := pairOf("aes128gcm16", func(p *sa.Pair) { p.Lifetime.Hard.Packets = 20 })
	if err := a.b.Trap(p.Policy); err != nil {
		t.Fatal(err)
	}
	traffic := exec.Command("ip", "netns", "exec", a.ns, "ping", "-i", "0.01", "-q", "-I", innerA, innerB)
	if err := traffic.Start(); err != nil {
		t.Fatal(err)
	}
	if e := a.expect(sa.Acquire); e.Policy != p.Policy {
		t.Errorf("acquire for %+v", e.Policy)
	}
	connect(a, b, p)
	a.expect(sa.HardExpired)
	q := next(p)
	connect(a, b, q)
	a.remove(p)
	a.expect(sa.HardExpired)
	a.remove(q)
	if err := a.b.Trap(p.Policy); err != nil {
		t.Fatal(err)
	}
	time.Sleep(200 * time.Millisecond)
	traffic.Process.Signal(unix.SIGINT)
	traffic.Wait()
	wire.Process.Signal(unix.SIGINT)
	wire.Wait()
	if strings.TrimSpace(seen.String()) != "" { // it ends its output with an empty line
		t.Errorf("in clear on the wire:\n%s", &seen)
	}
}

// TestCrash: what a killed process leaves goes with the next one's start but for
// what blocks, and nothing that is not ours.
func TestCrash(t *testing.T) {
	a, b := newSites(t)
	key := "0x" + strings.Repeat("61", 20)
	a.run("ip xfrm state add src 192.0.2.1 dst 192.0.2.77 proto esp spi 0x77 reqid 1 mode tunnel aead 'rfc4106(gcm(aes))' %s 128", key)
	connect(a, b, pairOf("aes128gcm16"))
	again := &site{t: t, ns: a.ns}
	again.open(Options{Table: 222, Priority: 222})
	list := a.run("ip xfrm state") + a.run("ip xfrm policy")
	if strings.Count(list, "proto esp") != 1 || !strings.Contains(list, "192.0.2.77") || strings.Count(list, "dir ") != 1 ||
		!strings.Contains(list, "dir out action block") {
		t.Errorf("left behind:\n%s", list)
	}
	again.install(pairOf("aes128gcm16"))
}

func TestThousandChildren(t *testing.T) {
	a, b := newSites(t)
	const n = 1000
	var pairs []*sa.Pair
	for i := range n {
		pairs = append(pairs, pairOf("aes128gcm16", func(p *sa.Pair) {
			p.ID, p.Child, p.Reqid = uint32(i+1), fmt.Sprint(i), uint32(i+1)
			p.In.SPI, p.Out.SPI = sa.SPI(0x10000+i), sa.SPI(0x20000+i)
			p.RemoteTS = sel(fmt.Sprintf("10.%d.%d.0/24", 80+i/250, i%250))
		}))
	}
	start := time.Now()
	for _, p := range pairs {
		a.install(p)
		a.activate(p)
	}
	t.Logf("%d pairs installed and activated in %v", n, time.Since(start))
	last := pairs[n-1]
	b.run("ip addr add %s dev lo", last.RemoteTS.From.Next())
	b.install(mirror(last))
	b.activate(mirror(last))
	a.ping(last.RemoteTS.From.Next().String(), "-I "+innerA)
	start = time.Now()
	for _, p := range pairs {
		a.remove(p)
		if err := a.b.Untrap(p.Policy); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("and removed in %v", time.Since(start))
	if list := a.run("ip xfrm state") + a.run("ip xfrm policy"); list != "" {
		t.Errorf("left behind:\n%s", list)
	}
}
