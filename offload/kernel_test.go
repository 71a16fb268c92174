// SPDX-License-Identifier: Apache-2.0

package offload

import (
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"testing"

	"quicksand/sa"
)

// needRoot is the probe for what these tests need: a namespace with XFRM, and
// no more of it than its core. A continuous integration that lacks it is
// broken, and is not to pass.
func needRoot(t testing.TB) {
	t.Helper()
	var why string
	if os.Geteuid() != 0 {
		why = "network namespaces need root"
	} else if _, err := exec.LookPath("ip"); err != nil {
		why = err.Error()
	} else if c, err := dialXFRM(); err != nil {
		why = err.Error()
	} else {
		c.Close()
	}
	if why == "" {
		return
	}
	if os.Getenv("CI") != "" {
		t.Fatal(why)
	}
	t.Skip(why)
}

// newCore makes a backend on the kernel's XFRM without asking whether there is
// ESP behind it.
func newCore(t *testing.T, ns string) *site {
	t.Helper()
	s := &site{t: t, ns: ns}
	inside(t, ns, func() {
		c, err := dialXFRM()
		if err != nil {
			t.Error(err)
			return
		}
		s.b = newBackend(c, Options{Mark: 0x7153, Log: slog.New(slog.NewTextHandler(testWriter{t}, nil))})
		if err := errors.Join(s.b.sweep(), s.b.open()); err != nil {
			t.Error(err)
		}
	})
	if t.Failed() {
		t.FailNow()
	}
	t.Cleanup(func() {
		if err := s.b.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func coreNamespace(t *testing.T) string {
	t.Helper()
	needRoot(t)
	ns := newNamespace(t)
	sh(t, "ip -n %s link add eth0 type veth peer name far && ip -n %s link set far up && ip -n %s link set eth0 up", ns, ns, ns)
	sh(t, "ip -n %s addr add %s/24 dev eth0 && ip -n %s addr add %s/32 dev lo", ns, outerA, ns, innerA)
	return ns
}

// routes are those in the backend's table; there is no table before the first.
func (s *site) routes() string {
	out, _ := tryShell("ip -n %s route show table 221", s.ns)
	return out
}

// TestNoESP: where the kernel has no ESP, that is what is said.
func TestNoESP(t *testing.T) {
	needRoot(t)
	ns := newNamespace(t)
	inside(t, ns, func() {
		err := Ready()
		if err != nil && (!errors.Is(err, ErrNoESP) || !strings.Contains(err.Error(), "refuses ESP:")) {
			t.Errorf("the error is %v", err)
		}
		t.Logf("this kernel: %v", err)
		if b, nerr := New(Options{}); (nerr == nil) != (err == nil) {
			t.Errorf("ready: %v; made: %v", err, nerr)
		} else if nerr == nil {
			b.Close()
		}
	})
}

func TestSPIs(t *testing.T) {
	s := newCore(t, coreNamespace(t))
	local := pairOf("aes128gcm16").Local.Addr()
	a, err := s.b.ReserveSPI(sa.ESP, local)
	if err != nil || a < 256 {
		t.Fatalf("reserved %s, %v", a, err)
	}
	b, err := s.b.ReserveSPI(sa.ESP, local)
	if err != nil || a == b {
		t.Fatalf("reserved %s, %v", b, err)
	}
	list := s.run("ip xfrm state")
	if !strings.Contains(list, "0x"+a.String()) || !strings.Contains(list, "0x"+b.String()) {
		t.Errorf("the kernel has\n%s", list)
	}
	s.b.ReleaseSPI(sa.ESP, local, a)
	s.b.ReleaseSPI(sa.ESP, local, a)
	if list = s.run("ip xfrm state"); strings.Contains(list, "0x"+a.String()) || !strings.Contains(list, "0x"+b.String()) {
		t.Errorf("the kernel has\n%s", list)
	}
}

// TestTrapOnKernel: traffic that meets a trap is reported, and not sent.
func TestTrapOnKernel(t *testing.T) {
	s := newCore(t, coreNamespace(t))
	p := pairOf("aes128gcm16").Policy
	for range 2 {
		if err := s.b.Trap(p); err != nil {
			t.Fatal(err)
		}
	}
	list := s.run("ip xfrm policy")
	for _, want := range []string{
		"src " + netA + " dst " + netB, "dir out", "dir in", "dir fwd", "mode tunnel",
		"tmpl src " + outerA + " dst " + outerB, "tmpl src " + outerB + " dst " + outerA,
	} {
		if !strings.Contains(list, want) {
			t.Errorf("no %q in\n%s", want, list)
		}
	}
	if routes := s.routes(); !strings.Contains(routes, netB+" via "+outerB+" dev eth0 proto 113") || !strings.Contains(routes, "src "+innerA) {
		t.Errorf("routes are\n%s", routes)
	}
	tryShell("ip netns exec %s ping -c 1 -W 0.1 -I %s %s", s.ns, innerA, innerB)
	if e := s.expect(sa.Acquire); e.Policy != p {
		t.Errorf("acquire of %+v", e.Policy)
	}
	for range 2 {
		if err := s.b.Untrap(p); err != nil {
			t.Fatal(err)
		}
	}
	if list := s.run("ip xfrm policy"); list != "" || strings.Contains(s.routes(), netB) {
		t.Errorf("left behind:\n%s%s", list, s.routes())
	}
}

// TestAfterCrash: what a process leaves that is killed is taken back by the next
// one, and nothing else. What was protected is blocked until a child has it
// again, or none wants it.
func TestAfterCrash(t *testing.T) {
	ns := coreNamespace(t)
	foreign := "src 10.99.0.0/24 dst 10.98.0.0/24"
	sh(t, "ip -n %s xfrm policy add %s dir out action block priority 5", ns, foreign)
	sh(t, "ip -n %s route add 10.97.0.0/24 dev eth0 table 221", ns)
	first := newCore(t, ns)
	p := pairOf("aes128gcm16").Policy
	if err := first.b.Trap(p); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(first.run("ip xfrm policy"), "dir "); n != 4 {
		t.Fatalf("there are %d policies", n)
	}
	second := newCore(t, ns)
	holds := func(policies int, out string) {
		t.Helper()
		list := first.run("ip xfrm policy")
		if strings.Count(list, "dir ") != policies || !strings.Contains(list, foreign) || !strings.Contains(list, out) {
			t.Errorf("there are\n%s", list)
		}
	}
	const block = "src " + netA + " dst " + netB + " \n\tdir out action block"
	holds(2, block)
	if err := second.b.Trap(p); err != nil {
		t.Errorf("the second process cannot go on: %v", err)
	}
	holds(4, "src "+netA+" dst "+netB+" \n\tdir out priority")
	second.b.forgetRemains() // which are a child's now
	holds(4, "src "+netA+" dst "+netB+" \n\tdir out priority")
	third := newCore(t, ns)
	holds(2, block)
	third.b.forgetRemains()
	holds(1, foreign)
	if err := third.b.Trap(p); err != nil {
		t.Errorf("the third process cannot go on: %v", err)
	}
	if routes := first.routes() + first.run("ip rule"); !strings.Contains(routes, "10.97.0.0/24") ||
		strings.Count(routes, "lookup 221") != 1 || strings.Count(routes, netB) != 1 {
		t.Errorf("routes and rules are\n%s", routes)
	}
}

// TestNetworkComesAndGoes: routes are made once there is a way to the peer, and
// again after the device was down.
func TestNetworkComesAndGoes(t *testing.T) {
	ns := coreNamespace(t)
	sh(t, "ip -n %s link set eth0 down", ns)
	s := newCore(t, ns)
	if err := s.b.Trap(pairOf("aes128gcm16").Policy); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		s.run("ip link set eth0 up")
		s.eventually("a route", func() bool { return strings.Contains(s.routes(), netB) })
		s.run("ip link set eth0 down")
		s.eventually("no route", func() bool { return !strings.Contains(s.routes(), netB) })
	}
}

// TestManyPolicies: a range of addresses is several subnets' policies.
func TestManyPolicies(t *testing.T) {
	s := newCore(t, coreNamespace(t))
	p := pairOf("aes128gcm16", func(p *sa.Pair) { p.RemoteTS = sel("10.71.2.1..10.71.2.4") }).Policy
	if err := s.b.Trap(p); err != nil {
		t.Fatal(err)
	}
	list := s.run("ip xfrm policy")
	for _, want := range []string{"dst 10.71.2.1/32", "dst 10.71.2.2/31", "dst 10.71.2.4/32"} {
		if !strings.Contains(list, want) {
			t.Errorf("no %q in\n%s", want, list)
		}
	}
	if n := strings.Count(list, "dir "); n != 9 {
		t.Errorf("there are %d policies", n)
	}
}

// TestEthtool reads what the kernel's own device is known to have.
func TestEthtool(t *testing.T) {
	e, err := openEthtool()
	if err != nil {
		t.Fatal(err)
	}
	defer e.close()
	f, err := e.features("lo")
	if err != nil {
		t.Fatal(err)
	}
	if len(f) < 30 || !f["loopback"].active || f[espFeature].active {
		t.Errorf("lo has %d features: %+v", len(f), f)
	}
	if _, err := e.features("no-such-device"); err == nil {
		t.Error("a device that is not there has features")
	}
}

// TestSurvey looks at everything and leaves it as it was.
func TestSurvey(t *testing.T) {
	ns := coreNamespace(t)
	var r *Report
	var err error
	inside(t, ns, func() { r, err = Survey() })
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Kernel) != 7 || r.Ready != (r.Kernel[0].Err == nil || r.Kernel[2].Err == nil) {
		t.Errorf("the kernel: %+v", r)
	}
	found := false
	for _, i := range r.Interfaces {
		if i.Name == "lo" {
			t.Error("the loopback is there")
		}
		if i.Name == "eth0" {
			found = true
			if i.Driver == "" || i.Packet == nil || i.Crypto == nil || (i.Expected == sa.Kernel) != r.Ready {
				t.Errorf("a veth: %+v", i)
			}
		}
	}
	s := &site{t: t, ns: ns}
	if list := s.run("ip xfrm state") + s.run("ip xfrm policy"); !found || list != "" {
		t.Errorf("eth0 found: %v; left behind:\n%s", found, list)
	}
}
