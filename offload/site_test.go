// SPDX-License-Identifier: Apache-2.0

package offload

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"quicksand/sa"
)

// The test network: two sites with the outer addresses 192.0.2.1 and .2 and
// the inner ones 10.71.1.1 and 10.71.2.1, each of both families.
const (
	outerA, outerB   = "192.0.2.1", "192.0.2.2"
	outerA6, outerB6 = "2001:db8:1::1", "2001:db8:1::2"
	innerA, innerB   = "10.71.1.1", "10.71.2.1"
	innerA6, innerB6 = "fd71:1::1", "fd71:2::1"
	netA, netB       = "10.71.1.0/24", "10.71.2.0/24"
	netA6, netB6     = "fd71:1::/64", "fd71:2::/64"
)

// A thread that has entered a namespace ends with its goroutine, but the first
// one of a process cannot, and would keep the namespace and its devices. So
// nothing is run on it.
func init() { runtime.LockOSThread() }

// site is a namespace with a backend in it.
type site struct {
	t  testing.TB
	ns string
	b  *Backend
}

func tryShell(format string, args ...any) (string, error) {
	out, err := exec.Command("sh", "-c", fmt.Sprintf(format, args...)).CombinedOutput()
	return string(out), err
}

func sh(t testing.TB, format string, args ...any) string {
	t.Helper()
	out, err := tryShell(format, args...)
	if err != nil {
		t.Fatalf("%s: %v\n%s", fmt.Sprintf(format, args...), err, out)
	}
	return out
}

func (s *site) run(format string, args ...any) string {
	s.t.Helper()
	return sh(s.t, "ip netns exec %s %s", s.ns, fmt.Sprintf(format, args...))
}

// namespaces makes the namespaces' names unique.
var namespaces atomic.Uint32

func newNamespace(t testing.TB) string {
	t.Helper()
	ns := fmt.Sprintf("off-%d-%d", os.Getpid(), namespaces.Add(1))
	sh(t, "ip netns add %s", ns)
	t.Cleanup(func() { tryShell("ip netns del %s", ns) })
	sh(t, "ip -n %s link set lo up", ns)
	return ns
}

// inside calls f on a thread that is in the namespace.
func inside(t testing.TB, ns string, f func()) {
	t.Helper()
	done := make(chan error)
	go func() {
		// The thread is not given back, and dies with the goroutine.
		runtime.LockOSThread()
		fd, err := unix.Open("/run/netns/"+ns, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err == nil {
			err = errors.Join(unix.Setns(fd, unix.CLONE_NEWNET), unix.Close(fd))
		}
		if err == nil {
			f()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// open makes the site's backend.
func (s *site) open(o Options) {
	s.t.Helper()
	o.Log = slog.New(slog.NewTextHandler(testWriter{s.t}, nil))
	o.Mark = 0x7153
	var err error
	inside(s.t, s.ns, func() { s.b, err = New(o) })
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		if err := s.b.Close(); err != nil {
			s.t.Error(err)
		}
	})
}

type testWriter struct{ testing.TB }

func (w testWriter) Write(p []byte) (int, error) {
	w.Log(strings.TrimSpace(string(p)))
	return len(p), nil
}

// pairOf makes a pair of which both ends have the other side; its keys follow
// from the SPIs.
func pairOf(proposal string, change ...func(*sa.Pair)) *sa.Pair {
	proto := sa.ESP
	if name, ok := strings.CutPrefix(proposal, "ah:"); ok {
		proto, proposal = sa.AH, name
	}
	parsed, err := sa.ParseProposal(proto, proposal)
	if err != nil {
		panic(err)
	}
	p := &sa.Pair{ID: 1, Suite: parsed[0].Suite, ReplayWindow: 32}
	p.Conn, p.Child, p.Reqid = "conn", "child", 7
	p.Local, p.Remote = netip.MustParseAddrPort(outerA+":4500"), netip.MustParseAddrPort(outerB+":4500")
	p.LocalTS, p.RemoteTS = sel(netA), sel(netB)
	p.In.SPI, p.Out.SPI = 0x1001, 0x1002
	for _, f := range change {
		f(p)
	}
	keyed(p)
	return p
}

func keyed(p *sa.Pair) {
	for _, s := range []*sa.SA{&p.In, &p.Out} {
		fill := func(n int) sa.Key {
			k := make(sa.Key, n)
			for i := range k {
				k[i] = byte(uint32(s.SPI)>>(i%4*8)) + byte(i*11)
			}
			return k
		}
		s.EncryptionKey, s.IntegrityKey = fill(p.Suite.EncryptionKeyLen()), fill(p.Suite.Integrity.KeyLen())
	}
}

func sel(s string) sa.Selector {
	out, err := sa.ParseSelector(s)
	if err != nil {
		panic(err)
	}
	return out
}

// mirror is the peer's side of the pair.
func mirror(p *sa.Pair) *sa.Pair {
	q := *p
	q.Local, q.Remote = p.Remote, p.Local
	q.LocalTS, q.RemoteTS = p.RemoteTS, p.LocalTS
	q.In, q.Out = p.Out, p.In
	q.OriginalLocal, q.OriginalRemote = p.OriginalRemote, p.OriginalLocal
	return &q
}

// next is the pair that a rekeying of p gives.
func next(p *sa.Pair) *sa.Pair {
	q := *p
	q.ID++
	q.In.SPI += 16
	q.Out.SPI += 16
	keyed(&q)
	return &q
}

// expect waits for an event of the kind.
func (s *site) expect(kind sa.EventKind) sa.Event {
	s.t.Helper()
	deadline := time.After(20 * time.Second)
	for {
		select {
		case e := <-s.b.Events():
			if e.Kind == kind {
				return e
			}
			s.t.Logf("%s: event %s of pair %d on the way", s.ns, e.Kind, e.Pair)
		case <-deadline:
			s.t.Fatalf("no event %q in %s", kind, s.ns)
		}
	}
}

// eventually waits until f is true.
func (s *site) eventually(what string, f func() bool) {
	s.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !f(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			s.t.Fatalf("%s: %s did not come", s.ns, what)
		}
	}
}
