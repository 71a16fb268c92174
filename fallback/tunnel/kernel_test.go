// SPDX-License-Identifier: Apache-2.0

package tunnel

import (
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	"quicksand/accel"
	"quicksand/sa"
)

// spec is the pair most tests use: IPv4 in IPv4, plain ESP, AES-128-GCM.
func spec() pairSpec {
	return pairSpec{ID: 1, Child: "net", Proposal: "aes128gcm16", CopyDF: true,
		Local: outerA + ":4500", Remote: outerB + ":4500", LocalTS: netA, RemoteTS: netB, In: 0x1001, Out: 0x2001}
}

func TestPing(t *testing.T) {
	for name, change := range map[string]func(p *pairSpec){
		"v4 in v4":      func(p *pairSpec) {},
		"v4 in v4, UDP": func(p *pairSpec) { p.Encap = true },
		"v6 in v4":      func(p *pairSpec) { p.LocalTS, p.RemoteTS = netA6, netB6 },
		"v6 in v4, UDP": func(p *pairSpec) { p.LocalTS, p.RemoteTS, p.Encap = netA6, netB6, true },
		"v4 in v6": func(p *pairSpec) {
			p.Local, p.Remote = "["+outerA6+"]:4500", "["+outerB6+"]:4500"
		},
		"v4 in v6, UDP": func(p *pairSpec) {
			p.Local, p.Remote, p.Encap = "["+outerA6+"]:4500", "["+outerB6+"]:4500", true
		},
		"v6 in v6, AH": func(p *pairSpec) {
			p.Local, p.Remote, p.AH, p.Proposal = "["+outerA6+"]:4500", "["+outerB6+"]:4500", true, "sha256"
			p.LocalTS, p.RemoteTS = netA6, netB6
		},
		"v4 in v4, AH":       func(p *pairSpec) { p.AH, p.Proposal = true, "sha256" },
		"v4 in v4, CBC, ESN": func(p *pairSpec) { p.Proposal = "aes256-sha512-esn" },
		"transport v4":       func(p *pairSpec) { transport(p, outerA, outerB) },
		"transport v4, UDP":  func(p *pairSpec) { transport(p, outerA, outerB); p.Encap = true },
		"transport v4, AH":   func(p *pairSpec) { transport(p, outerA, outerB); p.AH, p.Proposal = true, "sha1" },
		"transport v6": func(p *pairSpec) {
			p.Local, p.Remote = "["+outerA6+"]:4500", "["+outerB6+"]:4500"
			transport(p, outerA6, outerB6)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a, b := newSites(t)
			p := spec()
			change(&p)
			connect(a, b, p)
			from, to := innerA, innerB
			if strings.Contains(p.LocalTS, "fd71") {
				from, to = innerA6, innerB6
			}
			if p.Transport {
				from, to = strings.Split(p.LocalTS, "/")[0], strings.Split(p.RemoteTS, "/")[0]
			}
			a.ping(to, "")
			b.ping(from, "")
			a.ping(to, "-s 1300")
			// More than the device's MTU: the kernel fragments before us.
			a.ping(to, "-s 4000")
			for _, s := range []*site{a, b} {
				got := s.do("counters", p)
				want := uint64(10 + 5 + 5*3)
				if p.Transport {
					want = 10 + 5 + 5 // put together again
				}
				if got.In.Packets != want || got.Out.Packets != want || got.In.Bytes == 0 || got.In.Last.IsZero() {
					t.Errorf("counters in %s: %+v %+v, want %d packets each way", s.ns, got.In, got.Out, want)
				}
				s.expect(sa.FirstUse)
			}
			// One after the other: what is sent at once goes as one buffer, and
			// tcpdump shows it so.
			wire := tcpdump(t, b, func() { a.run("ping -c 3 -i 0.02 -W 5 %s", to) })
			want := ": ESP(spi="
			if p.Encap {
				want = ": UDP-encap: ESP(spi="
			} else if p.AH {
				want = ": AH(spi="
			}
			if lines := strings.Count(wire, "\n"); lines != 6 || strings.Count(wire, want) != lines {
				t.Errorf("want nothing but %q on the wire:\n%s", want, wire)
			}
		})
	}
}

func transport(p *pairSpec, local, remote string) {
	p.Transport = true
	p.LocalTS, p.RemoteTS = local, remote
}

// tcpdump returns what passes the site's outer device while f runs.
func tcpdump(t *testing.T, s *site, f func()) string {
	t.Helper()
	cmd := exec.Command("ip", "netns", "exec", s.ns, "tcpdump", "-l", "--immediate-mode", "-n", "-i", "eth0", "-Z", "root", "-c", "6", "-t", "-p", "not icmp6 and not arp and not ip6 multicast")
	var out strings.Builder
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout = &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	// It is ready once it has said what it listens on.
	said := make([]byte, 4096)
	for text := ""; !strings.Contains(text, "listening on"); {
		n, err := stderr.Read(said)
		text += string(said[:n])
		if err != nil {
			t.Fatalf("tcpdump: %v\n%s", err, text)
		}
	}
	f()
	kill := time.AfterFunc(5*time.Second, func() { cmd.Process.Kill() })
	defer kill.Stop()
	cmd.Wait()
	return out.String()
}

func TestTCP(t *testing.T) {
	for _, encap := range []bool{false, true} {
		t.Run(fmt.Sprintf("encap=%v", encap), func(t *testing.T) {
			a, b := newSites(t)
			p := spec()
			p.Encap = encap
			connect(a, b, p)
			t.Log(gbits(t, a, b, innerB, "-n 20M"))
		})
	}
}

// TestQueues gives each child's traffic a queue and a worker of its own.
func TestQueues(t *testing.T) {
	cpus, err := accel.Allowed()
	if err != nil {
		t.Fatal(err)
	}
	a, b := newSites(t)
	a.do("close", spec())
	a.cores = []int{cpus[0], cpus[len(cpus)-1]}
	a.do("new", pairSpec{})
	b.run("ip addr add 10.71.3.1/32 dev lo")
	first := spec()
	second, third := first.next(), first.next().next()
	second.Child, second.RemoteTS = "second", "10.71.3.0/24"
	third.Child, third.LocalTS, third.RemoteTS = "third", netA6, netB6
	for _, p := range []pairSpec{first, second, third} {
		connect(a, b, p)
	}
	for i, c := range []struct {
		to  string
		own string
	}{{innerB, "out.queue.0"}, {"10.71.3.1", "out.queue.1"}, {innerB6, "out.queue.0"}} {
		before := a.do("stats", first).Stats
		a.ping(c.to, "")
		after := a.do("stats", first).Stats
		for _, q := range []string{"out.queue.0", "out.queue.1"} {
			want := uint64(0)
			if q == c.own {
				want = 5
			}
			if got := after[q] - before[q]; got != want {
				t.Errorf("child %d: %d packets by %s, want %d", i, got, q, want)
			}
		}
	}
	t.Log(gbits(t, a, b, innerB, "-P 4 -n 40M"))
	if n := b.stat("in.drop.replay"); n != 0 {
		t.Errorf("%d packets were too late for the window", n)
	}
	a.do("close", first)
	nothingLeft(t, a)
}

func TestRekeyUnderFlood(t *testing.T) {
	a, b := newSites(t)
	p := spec()
	connect(a, b, p)
	flood := exec.Command("ip", "netns", "exec", a.ns, "ping", "-f", "-c", "10000", "-q", innerB)
	var out strings.Builder
	flood.Stdout, flood.Stderr = &out, &out
	if err := flood.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- flood.Wait() }()
	rekeys := 0
	for running := true; running; rekeys++ {
		q := p.next()
		// The responder installs before it answers, the initiator when it has
		// the answer, and the responder goes over with the third message.
		b.do("install", q.mirror())
		a.do("install", q)
		a.do("activate", q)
		b.do("activate", q.mirror())
		// What is still on the wire comes before what follows it; and the flood may
		// have ended.
		a.ping(innerB, "")
		a.expect(sa.FirstUse)
		a.do("remove", p)
		b.do("remove", p.mirror())
		p = q
		select {
		case <-ended:
			running = false
		default:
		}
	}
	t.Logf("%d rekeyings", rekeys)
	if rekeys < 3 || !strings.Contains(out.String(), " 0% packet loss") {
		t.Errorf("packets were lost:\n%s\n%v\n%v", &out, a.do("stats", p).Stats, b.do("stats", p).Stats)
	}
}

func TestTrapOnKernel(t *testing.T) {
	a, b := newSites(t)
	p := spec()
	a.do("trap", p)
	ping := exec.Command("ip", "netns", "exec", a.ns, "ping", "-c", "3", "-i", "0.01", "-W", "8", innerB)
	var out strings.Builder
	ping.Stdout, ping.Stderr = &out, &out
	if err := ping.Start(); err != nil {
		t.Fatal(err)
	}
	e := a.expect(sa.Acquire)
	if e.Policy != p.policy() {
		t.Errorf("acquire of %+v, want %+v", e.Policy, p.policy())
	}
	b.do("install", p.mirror())
	b.do("activate", p.mirror())
	a.do("install", p)
	a.do("activate", p)
	if err := ping.Wait(); err != nil || !strings.Contains(out.String(), " 0% packet loss") {
		t.Errorf("the packets that asked for the tunnel were not sent through it: %v\n%s", err, &out)
	}
}

func TestPathMTU(t *testing.T) {
	for _, encap := range []bool{false, true} {
		t.Run(fmt.Sprintf("encap=%v", encap), func(t *testing.T) {
			a, b := newRoutedSites(t)
			p := spec()
			p.Encap, p.Remote = encap, "198.51.100.2:4500"
			connect(a, b, p)
			a.ping(innerB, "-M do -s 1000")
			// The first is lost at the router, which tells us; then we tell.
			a.noPing(innerB, "-M do -s 1300")
			out := a.noPing(innerB, "-M do -s 1300")
			if !strings.Contains(out, "mtu") {
				t.Errorf("the sender was not told of the MTU:\n%s\n%v", out, a.do("stats", p).Stats)
			}
			// A host that may fragment goes through all the same.
			a.ping(innerB, "-M dont -s 1300")
			t.Log(gbits(t, a, b, innerB, "-n 5M"))
			p6 := p.next()
			p6.LocalTS, p6.RemoteTS = netA6, netB6
			connect(a, b, p6)
			// One is lost until each end has been told.
			a.noPing(innerB6, "-s 1340")
			a.ping(innerB6, "-s 1340")
		})
	}
}

func TestSelectorsOnKernel(t *testing.T) {
	a, b := newSites(t)
	p := spec()
	connect(a, b, p)
	// Within A's policy, outside B's: B's selectors are narrower.
	q := spec().next()
	q.Child, q.LocalTS, q.RemoteTS = "narrow", outerA, "10.71.2.0/25"
	a.do("install", q)
	a.do("activate", q)
	m := q.mirror()
	m.RemoteTS = "192.0.2.77"
	b.do("install", m)
	b.do("activate", m)
	a.noPing(innerB, "-I "+outerA)
	if n := b.stat("in.drop.selector"); n != 2 {
		t.Errorf("%d packets dropped for their selectors, want 2", n)
	}
	// What is routed to the tunnel, and no policy admits.
	a.run("ip addr add 10.99.9.9/32 dev lo")
	a.noPing(innerB, "-I 10.99.9.9")
	if n := a.stat("out.drop.no_policy"); n != 2 {
		t.Errorf("%d packets dropped for want of a policy, want 2", n)
	}
	a.ping(innerB, "-I "+innerA)
}

// TestEverything sends all traffic into a tunnel, the peer's own address with
// it: the tunnel's own packets must not go the same way.
func TestEverything(t *testing.T) {
	a, b := newSites(t)
	p := spec()
	p.LocalTS, p.RemoteTS, p.Encap = "0.0.0.0/0", "0.0.0.0/0", true
	a.run("sysctl -qw net.ipv4.conf.eth0.rp_filter=1")
	connect(a, b, p)
	if said := a.stderr.String(); !strings.Contains(said, "rp_filter") || !strings.Contains(said, "eth0") {
		t.Errorf("nothing said of the reverse path filter: %q", said)
	}
	a.noPing(outerB, "")
	a.run("sysctl -qw net.ipv4.conf.eth0.rp_filter=2")
	a.ping(outerB, "")
	a.ping(innerB, "")
	if got := a.do("counters", p); got.Out.Packets != 12 {
		t.Errorf("%d packets went through the tunnel, want 12", got.Out.Packets)
	}
}

func TestRemoveIsNoClearText(t *testing.T) {
	a, b := newSites(t)
	// The networks reach each other without a tunnel too.
	a.run("ip route add %s via %s", netB, outerB)
	b.run("ip route add %s via %s", netA, outerA)
	p := spec()
	connect(a, b, p)
	a.ping(innerB, "")
	a.do("remove", p)
	a.noPing(innerB, "")
	if n := a.stat("out.drop.no_sa"); n != 2 {
		t.Errorf("%d packets dropped for want of an SA, want 2", n)
	}
	b.do("remove", p.mirror())
	a.do("untrap", p)
	b.do("untrap", p.mirror())
	a.ping(innerB, "")
}

// TestKilledIsNoClearText wants nothing of a tunnel's networks on the wire after
// its process was killed, though they reach each other without it.
func TestKilledIsNoClearText(t *testing.T) {
	a, b := newSites(t)
	a.run("ip route add %s via %s", netB, outerB)
	a.run("ip -6 route add %s via %s", netB6, outerB6)
	p := spec()
	p6 := p.next()
	p6.Child, p6.LocalTS, p6.RemoteTS = "net6", netA6, netB6
	connect(a, b, p)
	connect(a, b, p6)
	a.ping(innerB, "")
	a.ping(innerB6, "")
	a.kill()
	wire := tcpdump(t, b, func() {
		for _, to := range []string{innerB, innerB6} {
			if out := a.noPing(to, ""); !strings.Contains(out, "nreachable") && !strings.Contains(out, "No route") {
				t.Errorf("ping %s does not say that it is unreachable:\n%s", to, out)
			}
		}
		a.run("ping -c 3 -i 0.02 -W 5 %s", outerB) // what it waits for
	})
	if strings.Count(wire, "IP "+outerA) != 3 || strings.Count(wire, "IP "+outerB) != 3 {
		t.Errorf("not only the outer addresses on the wire:\n%s", wire)
	}
	a.start()
	if out := a.run("ip route show table 220; ip netns exec %s ip -6 route show table 220", a.ns); strings.Contains(out, "unreachable") {
		t.Errorf("left behind after a new start:\n%s", out)
	}
	a.do("close", p)
	nothingLeft(t, a)
}

// nothingLeft wants no device, rule or route of the plane in the namespace.
func nothingLeft(t *testing.T, s *site) {
	t.Helper()
	for _, what := range []string{"rule", "-6 rule", "route show table all", "-6 route show table all", "link"} {
		out := s.run("ip %s", what)
		if strings.Contains(out, "qsand0") || strings.Contains(out, "220") || strings.Contains(out, "proto 113") {
			t.Errorf("left behind in ip %s:\n%s", what, out)
		}
	}
}

func TestCloseLeavesNothing(t *testing.T) {
	a, b := newSites(t)
	p := spec()
	p6 := p.next()
	p6.Child, p6.LocalTS, p6.RemoteTS, p6.Encap = "net6", netA6, netB6, true
	trap := spec()
	trap.Child, trap.RemoteTS = "trap", "10.77.0.5..10.77.0.99"
	connect(a, b, p)
	connect(a, b, p6)
	a.do("trap", trap)
	if out := a.run("ip route show table 220"); !strings.Contains(out, netB) || !strings.Contains(out, "src "+innerA) {
		t.Errorf("routes of the tunnel:\n%s", out)
	}
	a.ping(innerB, "")
	a.do("close", p)
	b.do("close", p)
	nothingLeft(t, a)
	nothingLeft(t, b)
}

func TestCrashIsSweptUp(t *testing.T) {
	a, _ := newSites(t)
	p := spec()
	a.do("install", p)
	a.kill()
	if out := a.run("ip rule"); !strings.Contains(out, "220") {
		t.Fatalf("a crash left no rule to sweep up:\n%s", out)
	}
	a.run("ip rule add not fwmark 0x99 table 220 priority 219")
	a.start()
	if out := a.run("ip rule"); strings.Count(out, "fwmark 0x7153") != 1 || strings.Count(out, "fwmark 0x99") != 1 {
		t.Errorf("rules after a new start:\n%s", out)
	}
	a.run("ip rule del priority 219")
	a.do("close", p)
	nothingLeft(t, a)
}

// A second plane under another name has the same table, and takes nothing away
// from the first.
func TestSecondPlaneIsRefused(t *testing.T) {
	a, b := newSites(t)
	connect(a, b, spec())
	if _, err := a.try("new beside", pairSpec{}); err == nil || !strings.Contains(err.Error(), "another quicksand uses it") {
		t.Errorf("the second plane: %v", err)
	}
	if _, err := a.try("new again", pairSpec{}); err == nil || !strings.Contains(err.Error(), "another process has it") {
		t.Errorf("a plane of the same name: %v", err)
	}
	if out := a.run("ip link"); strings.Contains(out, "beside0") {
		t.Errorf("left behind:\n%s", out)
	}
	a.ping(innerB, "")
}

func TestDeviceLost(t *testing.T) {
	a, b := newSites(t)
	p := spec()
	connect(a, b, p)
	a.run("ip link del qsand0")
	if e := a.expect(sa.Lost); e.Pair != p.ID {
		t.Errorf("pair %d lost, want %d", e.Pair, p.ID)
	}
	a.do("close", p)
	nothingLeft(t, a)
}
