// SPDX-License-Identifier: Apache-2.0

package ike

import (
	"crypto/ecdh"
	"crypto/rand"
	"net/netip"
	"runtime"
	"syscall"
	"testing"
	"time"

	"quicksand/sa"
)

// link joins two engines without a network, a clock or a backend: what one
// sends the other handles at once, and every request is granted.
type link struct {
	t    testing.TB
	ends [2]*Engine
	now  time.Time
	todo []func()
	spi  sa.SPI
	last [2]*sa.Pair
	key  *ecdh.PrivateKey
}

func newLink(t testing.TB, child string) *link {
	l := &link{t: t, now: time.Unix(1_800_000_000, 0)}
	l.key, _ = ecdh.X25519().GenerateKey(rand.Reader)
	for i := range l.ends {
		c := simConfig(i == 0)
		c.Connections[0].Children[0].Proposals = []sa.Proposal{mustESP(child)}
		c.Connections[0].Unique = UniqueNever
		l.ends[i] = NewEngine(l.now, c, Options{HalfOpenPerAddr: 1 << 20, HalfOpenTotal: 1 << 20})
	}
	return l
}

// do carries one end's actions out, and what comes of them.
func (l *link) do(i int, actions []Action) {
	e, o := l.ends[i], l.ends[1-i]
	for _, a := range actions {
		switch a := a.(type) {
		case Send:
			l.todo = append(l.todo, func() {
				l.do(1-i, o.Handle(l.now, Datagram{Local: a.Remote, Remote: a.Local, NATT: a.NATT, Data: a.Data}))
			})
		case ReserveSPI:
			l.spi++
			l.do(i, e.SPIReserved(l.now, a.Token, 1000+l.spi, nil))
		case Install:
			l.last[i] = a.Pair
			l.do(i, e.Installed(l.now, a.Token, sa.Placement{Kind: sa.Userspace}, nil))
		case Remove:
			a.Pair.Wipe()
		case ComputeDH:
			r := DHResult{Token: a.Token, Private: benchKey{}, Public: l.key.PublicKey().Bytes()}
			if a.Peer != nil {
				r.Shared = append(sa.Key(nil), a.Peer...)
			}
			l.do(i, e.DHDone(l.now, r))
		}
	}
}

type benchKey struct{}

func (benchKey) Wipe() {}

func (l *link) settle() {
	for len(l.todo) > 0 {
		f := l.todo[0]
		l.todo = l.todo[1:]
		f()
	}
}

func (l *link) pass(d time.Duration) {
	l.now = l.now.Add(d)
	for i, e := range l.ends {
		l.do(i, e.Tick(l.now))
	}
	l.settle()
}

// initiate has the first end begin, the second being at the given address.
func (l *link) initiate(child string, to netip.Addr) {
	l.do(0, l.ends[0].Initiate(l.now, Initiate{Conn: "peer", Child: child,
		Local: netip.AddrPortFrom(netip.MustParseAddr("192.0.2.1"), 500), Remote: netip.AddrPortFrom(to, 500)}))
	l.settle()
}

// BenchmarkQuickMode is whole Quick Modes without PFS between two engines in
// one process: the work of both ends, and the deletion of what they made. Run
// it with -cpu 1; quickmodes/cpu-s is what one core does when it has nothing
// else to do.
func BenchmarkQuickMode(b *testing.B) {
	l, peer := newLink(b, "aes128gcm16"), netip.MustParseAddr("192.0.2.2")
	l.initiate("", peer)
	b.ReportAllocs()
	b.ResetTimer()
	cpu := cpuTime(b)
	for range b.N {
		l.initiate("net", peer)
		l.do(0, second(l.ends[0].Terminate(l.now, Select{Child: "net"})))
		l.settle()
		if len(l.ends[0].children)+len(l.ends[1].children) != 0 || l.last[0].Out.SPI != l.last[1].In.SPI {
			b.Fatal("the ends differ")
		}
		l.now = l.now.Add(time.Millisecond)
	}
	b.ReportMetric(float64(b.N)/(cpuTime(b)-cpu).Seconds(), "quickmodes/cpu-s")
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "quickmodes/s")
}

// cpuTime is what the process has computed so far.
func cpuTime(t testing.TB) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// idleLimit is what an idle IKE SA with one child may take in memory, all
// included, in bytes.
const idleLimit = 16 << 10

// TestIdleMemory measures it at 10,000 IKE SAs at either end.
func TestIdleMemory(t *testing.T) {
	const n = 10_000 / slower
	heap := func() uint64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapInuse
	}
	l := newLink(t, "aes256-sha256")
	before := heap()
	start := time.Now()
	for i := range n {
		l.initiate("net", netip.AddrFrom4([4]byte{10, 99, byte(i >> 8), byte(i)}))
		l.pass(time.Millisecond)
	}
	took := time.Since(start)
	l.pass(linger)
	for i, e := range l.ends {
		if len(e.byID) != n || len(e.children) != n {
			t.Fatalf("end %d has %d IKE SAs with %d children", i, len(e.byID), len(e.children))
		}
	}
	each := (heap() - before) / (2 * n)
	t.Logf("%d bytes of heap in use for an idle IKE SA with one child; %d set up at two ends in %v", each, n, took.Round(time.Millisecond))
	if each > idleLimit {
		t.Errorf("%d bytes, the limit is %d", each, idleLimit)
	}
	runtime.KeepAlive(l)
}
