// SPDX-License-Identifier: Apache-2.0

package tunnel

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"quicksand/sa"
)

// The test network: two sites with outer addresses 192.0.2.1 and .2 (or, with
// a router between them, 192.0.2.1 and 198.51.100.2), and inner ones
// 10.71.1.1 and 10.71.2.1, each of both families.
const (
	outerA, outerB   = "192.0.2.1", "192.0.2.2"
	outerA6, outerB6 = "2001:db8:1::1", "2001:db8:1::2"
	innerA, innerB   = "10.71.1.1", "10.71.2.1"
	innerA6, innerB6 = "fd71:1::1", "fd71:2::1"
	netA, netB       = "10.71.1.0/24", "10.71.2.0/24"
	netA6, netB6     = "fd71:1::/64", "fd71:2::/64"
)

// needRoot is the probe for what these tests need. A continuous integration
// that lacks it is broken, and is not to pass.
func needRoot(t testing.TB) {
	t.Helper()
	var why string
	if os.Geteuid() != 0 {
		why = "network namespaces need root"
	} else if _, err := os.Stat("/dev/net/tun"); err != nil {
		why = err.Error()
	} else if _, err := exec.LookPath("ip"); err != nil {
		why = err.Error()
	}
	if why == "" {
		return
	}
	if os.Getenv("CI") != "" {
		t.Fatal(why)
	}
	t.Skip(why)
}

// site is a namespace and the helper process in it.
type site struct {
	t      testing.TB
	peer   *site
	cores  []int // of the plane's workers
	ns     string
	helper *exec.Cmd
	stdin  io.WriteCloser
	stderr *safeBuffer
	out    chan answer
	events chan sa.Event
}

// safeBuffer is a buffer that one goroutine fills and another looks at.
type safeBuffer struct {
	mu  sync.Mutex // guards buf
	buf bytes.Buffer
}

func (b *safeBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *safeBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func sh(t testing.TB, format string, args ...any) string {
	t.Helper()
	out, err := tryShell(format, args...)
	if err != nil {
		t.Fatalf("%s: %v\n%s", fmt.Sprintf(format, args...), err, out)
	}
	return out
}

func tryShell(format string, args ...any) (string, error) {
	out, err := exec.Command("sh", "-c", fmt.Sprintf(format, args...)).CombinedOutput()
	return string(out), err
}

func (s *site) run(format string, args ...any) string {
	s.t.Helper()
	return sh(s.t, "ip netns exec %s %s", s.ns, fmt.Sprintf(format, args...))
}

// namespaces makes the namespaces' names unique.
var namespaces atomic.Uint32

func newNamespace(t testing.TB, name string) string {
	t.Helper()
	ns := fmt.Sprintf("tun-%d-%d%s", os.Getpid(), namespaces.Add(1), name)
	sh(t, "ip netns add %s", ns)
	t.Cleanup(func() { tryShell("ip netns del %s", ns) })
	sh(t, "ip -n %s link set lo up", ns)
	return ns
}

// joinNamespaces lays a cable between two namespaces.
func joinNamespaces(t testing.TB, a, devA, b, devB string, mtu int) {
	t.Helper()
	sh(t, "ip link add %s mtu %d netns %s type veth peer name %s mtu %d netns %s", devA, mtu, a, devB, mtu, b)
	sh(t, "ip -n %s link set %s up && ip -n %s link set %s up", a, devA, b, devB)
}

// newSites makes the test network and a plane at each site.
func newSites(t testing.TB) (a, b *site) {
	t.Helper()
	needRoot(t)
	a, b = &site{t: t, ns: newNamespace(t, "a")}, &site{t: t, ns: newNamespace(t, "b")}
	a.peer, b.peer = b, a
	joinNamespaces(t, a.ns, "eth0", b.ns, "eth0", 1500)
	for _, s := range []struct {
		*site
		outer, outer6, inner, inner6 string
	}{{a, outerA, outerA6, innerA, innerA6}, {b, outerB, outerB6, innerB, innerB6}} {
		s.run("ip addr add %s/24 dev eth0", s.outer)
		s.run("ip addr add %s/64 dev eth0 nodad", s.outer6)
		s.inside(s.inner, s.inner6)
		s.start()
	}
	return a, b
}

// newRoutedSites makes a network whose sites have a router between them, and
// an MTU of 1300 bytes behind it.
func newRoutedSites(t testing.TB) (a, b *site) {
	t.Helper()
	needRoot(t)
	a, b = &site{t: t, ns: newNamespace(t, "a")}, &site{t: t, ns: newNamespace(t, "b")}
	r := &site{t: t, ns: newNamespace(t, "r")}
	a.peer, b.peer = b, a
	joinNamespaces(t, a.ns, "eth0", r.ns, "ra", 1500)
	joinNamespaces(t, b.ns, "eth0", r.ns, "rb", 1300)
	r.run("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1")
	r.run("ip addr add 192.0.2.254/24 dev ra")
	r.run("ip addr add 198.51.100.254/24 dev rb")
	a.run("ip addr add 192.0.2.1/24 dev eth0")
	b.run("ip addr add 198.51.100.2/24 dev eth0")
	a.run("ip route add default via 192.0.2.254")
	b.run("ip route add default via 198.51.100.254")
	a.inside(innerA, innerA6)
	b.inside(innerB, innerB6)
	a.start()
	b.start()
	return a, b
}

func (s *site) inside(inner, inner6 string) {
	s.t.Helper()
	s.run("ip addr add %s/32 dev lo", inner)
	s.run("ip addr add %s/128 dev lo nodad", inner6)
}

// start starts the helper with a plane.
func (s *site) start() {
	s.t.Helper()
	s.helper = exec.Command("ip", "netns", "exec", s.ns, os.Args[0])
	s.helper.Env = append(os.Environ(), "TUNNEL_HELPER=1")
	s.stderr = &safeBuffer{}
	s.helper.Stderr = io.MultiWriter(os.Stderr, s.stderr)
	s.stdin, _ = s.helper.StdinPipe()
	stdout, _ := s.helper.StdoutPipe()
	if err := s.helper.Start(); err != nil {
		s.t.Fatal(err)
	}
	out, events := make(chan answer), make(chan sa.Event, 1000)
	s.out, s.events = out, events
	go func() {
		defer close(out)
		lines := bufio.NewScanner(stdout)
		for lines.Scan() {
			var a answer
			if err := json.Unmarshal(lines.Bytes(), &a); err != nil {
				a.Err = fmt.Sprintf("%v: %s", err, lines.Bytes())
			}
			if a.Event != nil {
				events <- *a.Event
				continue
			}
			out <- a
		}
	}()
	helper, stdin := s.helper, s.stdin
	s.t.Cleanup(func() {
		stdin.Close()
		helper.Process.Kill()
		helper.Wait()
	})
	s.do("new", pairSpec{})
}

// kill ends the helper as a crash would.
func (s *site) kill() {
	s.helper.Process.Kill()
	s.helper.Wait()
}

func (s *site) try(op string, p pairSpec) (answer, error) {
	s.t.Helper()
	line, err := json.Marshal(command{Op: op, Pair: p, Port: 4500, Cores: s.cores})
	if err != nil {
		s.t.Fatal(err)
	}
	if _, err := s.stdin.Write(append(line, '\n')); err != nil {
		s.t.Fatal(err)
	}
	select {
	case a, ok := <-s.out:
		if !ok {
			s.t.Fatalf("%s: helper in %s died", op, s.ns)
		}
		if a.Err != "" {
			return a, fmt.Errorf("%s", a.Err)
		}
		return a, nil
	case <-time.After(20 * time.Second):
		s.t.Fatalf("%s: helper in %s does not answer", op, s.ns)
		return answer{}, nil
	}
}

func (s *site) do(op string, p pairSpec) answer {
	s.t.Helper()
	a, err := s.try(op, p)
	if err != nil {
		s.t.Fatalf("%s in %s: %v", op, s.ns, err)
	}
	return a
}

// expect waits for an event of the kind.
func (s *site) expect(kind sa.EventKind) sa.Event {
	s.t.Helper()
	deadline := time.After(10 * time.Second)
	for {
		select {
		case e := <-s.events:
			if e.Kind == kind {
				return e
			}
		case <-deadline:
			s.t.Fatalf("no event %q in %s", kind, s.ns)
		}
	}
}

// connect installs and activates a pair on both sides.
func connect(a, b *site, p pairSpec) {
	a.t.Helper()
	a.do("install", p)
	b.do("install", p.mirror())
	a.do("activate", p)
	b.do("activate", p.mirror())
}

// ping sends echo requests and wants every one answered. They are sent at
// once: ping then waits long enough for the last one, on a busy machine too.
func (s *site) ping(to, args string) {
	s.t.Helper()
	out, err := tryShell("ip netns exec %s ping -c 5 -l 5 -W 5 %s %s", s.ns, args, to)
	if err != nil || !strings.Contains(out, " 0% packet loss") {
		s.t.Fatalf("ping %s %s from %s: %v\n%s\n%s%s", args, to, s.ns, err, out, s.dropped(), s.peer.dropped())
	}
}

// noPing wants no echo request answered.
func (s *site) noPing(to, args string) string {
	s.t.Helper()
	out, err := tryShell("ip netns exec %s ping -c 2 -i 0.01 -W 0.3 %s %s", s.ns, args, to)
	if err == nil {
		s.t.Fatalf("ping %s %s from %s is answered:\n%s", args, to, s.ns, out)
	}
	return out
}

// dropped says what the plane and the kernel of the site dropped.
func (s *site) dropped() string {
	var b strings.Builder
	for name, n := range s.do("stats", pairSpec{}).Stats {
		if n != 0 {
			fmt.Fprintf(&b, "%s: %s %d\n", s.ns, name, n)
		}
	}
	kernel, _ := tryShell("ip netns exec %s nstat -as | grep -E 'Discard|Drop|Err|Filter|Fail|Unknown|NoPorts|Martian'", s.ns)
	return b.String() + kernel
}

func (s *site) stat(name string) uint64 {
	s.t.Helper()
	v, ok := s.do("stats", pairSpec{}).Stats[name]
	if !ok {
		s.t.Fatalf("no counter %q", name)
	}
	return v
}
