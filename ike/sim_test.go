// SPDX-License-Identifier: Apache-2.0

package ike

import (
	"bytes"
	"container/heap"
	"crypto/ecdh"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"quicksand/sa"
)

// sim drives engines in one goroutine over a network with loss, duplication,
// delay and so reordering, on a clock and a random source of its own.
type sim struct {
	t      testing.TB
	now    time.Time
	rand   *rand.Rand
	seed   uint64
	nodes  []*node
	nats   []*simNAT
	queue  simQueue
	net    simNet
	steps  int
	trace  bool
	serial int
}

// simNet is what the network does to a datagram.
type simNet struct {
	loss, duplicate float64
	delay           time.Duration // at most
}

// node is an engine and what it has been given to carry.
type node struct {
	sim     *sim
	name    string
	addr    netip.Addr
	e       *Engine
	pairs   map[uint32]*sa.Pair // installed
	active  map[string]*sa.Pair // by laneName
	done    map[uint64]error
	logs    []string
	sent    []Send
	actions []Action              // all, in order
	tap     func(*Send) bool      // sees, changes or drops what is sent
	dhFail  func(ComputeDH) error // nil: none fails
	spiErr  error
	refuse  error // installs
	spi     uint32
	nextSPI sa.SPI  // 0: by itself
	nat     *simNAT // that the node is behind

	shared []byte              // the last g^xy
	hold   func(answer func()) // takes answers back; nil: they come by themselves

	// What the engine has taken and must give back.
	reserved map[sa.SPI]bool
	keys     map[*simKey]bool
}

// simNAT rewrites the source of what a node sends to its own address, a port
// of its own for each of the node's, and lets in what comes back to them.
type simNAT struct {
	addr  netip.Addr
	inner *node
	next  uint16
	ports map[uint16]uint16 // outer port to inner
}

func (n *simNAT) out(a netip.AddrPort) netip.AddrPort {
	for outer, inner := range n.ports {
		if inner == a.Port() {
			return netip.AddrPortFrom(n.addr, outer)
		}
	}
	n.next++
	n.ports[n.next] = a.Port()
	return netip.AddrPortFrom(n.addr, n.next)
}

// forget has the NAT lose its mappings, so that the next packets come from
// other ports.
func (n *simNAT) forget() { clear(n.ports) }

type simEvent struct {
	at    time.Time
	order int
	run   func()
}

type simQueue []simEvent

func (q simQueue) Len() int { return len(q) }
func (q simQueue) Less(i, j int) bool {
	return q[i].at.Before(q[j].at) || q[i].at.Equal(q[j].at) && q[i].order < q[j].order
}
func (q simQueue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *simQueue) Push(x any)   { *q = append(*q, x.(simEvent)) }
func (q *simQueue) Pop() any {
	x := (*q)[len(*q)-1]
	*q = (*q)[:len(*q)-1]
	return x
}

func newSim(t testing.TB, seed uint64) *sim {
	return &sim{
		t: t, seed: seed, now: time.Unix(1_800_000_000, 0),
		rand: rand.New(rand.NewPCG(seed, 1)),
		net:  simNet{delay: 20 * time.Millisecond},
	}
}

func (s *sim) node(name, addr string, c *Config, o Options) *node {
	var key [32]byte
	copy(key[:], fmt.Sprintf("%s %d", name, s.seed))
	o.Rand = rand.NewChaCha8(key)
	n := &node{sim: s, name: name, addr: netip.MustParseAddr(addr),
		e: NewEngine(s.now, c, o), pairs: map[uint32]*sa.Pair{}, active: map[string]*sa.Pair{}, done: map[uint64]error{},
		reserved: map[sa.SPI]bool{}, keys: map[*simKey]bool{}}
	n.spi = uint32(len(s.nodes) % 2)
	s.nodes = append(s.nodes, n)
	return n
}

// behindNAT puts the node behind a NAT with the given outer address.
func (n *node) behindNAT(addr string) *simNAT {
	n.nat = &simNAT{addr: netip.MustParseAddr(addr), inner: n, next: 40000, ports: map[uint16]uint16{}}
	n.sim.nats = append(n.sim.nats, n.nat)
	return n.nat
}

func (s *sim) at(d time.Duration, run func()) {
	s.serial++
	heap.Push(&s.queue, simEvent{s.now.Add(d), s.serial, run})
}

// run lets time pass.
func (s *sim) run(d time.Duration) {
	end := s.now.Add(d)
	for {
		if s.steps++; s.steps > 2_000_000 {
			s.t.Fatalf("seed %d: the engines do not come to rest", s.seed)
		}
		next, node := end, (*node)(nil)
		for _, n := range s.nodes {
			if at, ok := n.e.Next(); ok && at.Before(next) {
				next, node = at, n
			}
		}
		if len(s.queue) > 0 && !s.queue[0].at.After(next) && !s.queue[0].at.After(end) {
			ev := heap.Pop(&s.queue).(simEvent)
			if ev.at.After(s.now) {
				s.now = ev.at
			}
			ev.run()
			continue
		}
		if node == nil {
			s.now = end
			return
		}
		if next.After(s.now) {
			s.now = next
		}
		node.do(node.e.Tick(s.now))
	}
}

func (s *sim) delay() time.Duration {
	return time.Duration(s.rand.Int64N(int64(s.net.delay))) + time.Millisecond
}

// simKey is a private key that its node knows of until it is wiped.
type simKey struct {
	k *ecdh.PrivateKey
	n *node
}

func (k *simKey) Wipe() { delete(k.n.keys, k) }

// do carries actions out.
func (n *node) do(actions []Action) {
	s := n.sim
	n.actions = append(n.actions, actions...)
	for _, a := range actions {
		switch a := a.(type) {
		case Send:
			n.sent = append(n.sent, a)
			n.deliver(a)
		case ComputeDH:
			n.answer(s.delay()/4, func() { n.do(n.e.DHDone(s.now, n.dh(a))) })
		case ReserveSPI:
			n.spi += 2 + 2*uint32(s.rand.IntN(500)) // odd at every other node
			spi := sa.SPI(0x1000 + n.spi)
			if n.nextSPI != 0 {
				spi, n.nextSPI = n.nextSPI, 0
			}
			if n.spiErr == nil {
				n.reserved[spi] = true
			}
			n.answer(0, func() { n.do(n.e.SPIReserved(s.now, a.Token, spi, n.spiErr)) })
		case ReleaseSPI:
			if !n.reserved[a.SPI] {
				s.t.Errorf("seed %d: %s releases %s, which is not reserved", s.seed, n.name, a.SPI)
			}
			delete(n.reserved, a.SPI)
		case Install:
			if n.refuse == nil {
				n.pairs[a.Pair.ID] = a.Pair
				delete(n.reserved, a.Pair.In.SPI)
			}
			n.answer(0, func() { n.do(n.e.Installed(s.now, a.Token, sa.Placement{Kind: sa.Userspace}, n.refuse)) })
		case Activate:
			n.active[laneName(a.Pair)] = a.Pair
		case Update:
			n.pairs[a.Pair.ID] = a.Pair
		case Remove:
			if n.pairs[a.Pair.ID] == nil {
				s.t.Errorf("seed %d: %s removes pair %v twice", s.seed, n.name, a.Pair)
			}
			delete(n.pairs, a.Pair.ID)
		case Done:
			if _, ok := n.done[a.Command]; ok {
				s.t.Errorf("seed %d: %s answers command %d twice", s.seed, n.name, a.Command)
			}
			n.done[a.Command] = a.Err
		case Log:
			n.logs = append(n.logs, a.Text)
			if s.trace {
				s.t.Logf("%s %s %v: %s %v", s.now.Format("05.000"), n.name, a.Level, a.Text, a.Attrs)
			}
		}
	}
}

// laneName is the child's name, and the lane but the first.
func laneName(p *sa.Pair) string {
	if p.Lane == 0 {
		return p.Child
	}
	return fmt.Sprint(p.Child, "/", p.Lane)
}

// answer has the answer to a request come after d.
func (n *node) answer(d time.Duration, f func()) {
	if n.hold != nil {
		n.hold(f)
		return
	}
	n.sim.at(d, f)
}

// deliver puts what a node sends on the network.
func (n *node) deliver(a Send) {
	s := n.sim
	if n.tap != nil && !n.tap(&a) {
		return
	}
	if n.nat != nil {
		a.Local = n.nat.out(a.Local)
	}
	to := s.find(&a)
	if to == nil {
		return
	}
	copies := 1
	if s.rand.Float64() < s.net.loss {
		copies = 0
	} else if s.rand.Float64() < s.net.duplicate {
		copies = 2
	}
	for range copies {
		d := Datagram{Local: a.Remote, Remote: a.Local, NATT: a.NATT, Data: append([]byte(nil), a.Data...)}
		s.at(s.delay(), func() { to.do(to.e.Handle(s.now, d)) })
	}
}

// find returns the node that a datagram reaches, and has a NAT before it
// rewrite the destination.
func (s *sim) find(a *Send) *node {
	for _, n := range s.nodes {
		if n.nat == nil && n.addr == a.Remote.Addr() {
			return n
		}
	}
	for _, nat := range s.nats {
		if nat.addr == a.Remote.Addr() {
			if inner, ok := nat.ports[a.Remote.Port()]; ok {
				a.Remote = netip.AddrPortFrom(nat.inner.addr, inner)
				return nat.inner
			}
		}
	}
	return nil
}

// dh computes every group as X25519: the engine does not look inside.
func (n *node) dh(a ComputeDH) DHResult {
	r := DHResult{Token: a.Token, Private: a.Private}
	if n.dhFail != nil {
		if r.Err = n.dhFail(a); r.Err != nil {
			return r
		}
	}
	k, _ := a.Private.(*simKey)
	if k == nil {
		var b [32]byte
		io.ReadFull(n.e.opt.Rand, b[:])
		private, _ := ecdh.X25519().NewPrivateKey(b[:])
		k = &simKey{private, n}
		n.keys[k] = true
	}
	r.Private, r.Public = k, k.k.PublicKey().Bytes()
	if a.Peer != nil {
		pub, err := ecdh.X25519().NewPublicKey(a.Peer)
		if err == nil {
			var shared []byte
			shared, err = k.k.ECDH(pub)
			r.Shared, n.shared = shared, append([]byte(nil), shared...)
		}
		if err != nil {
			r.Err = ErrPublic
		}
	}
	return r
}

var lastSimCommand uint64

// initiate asks for the child net and returns the command's number.
func (n *node) initiate(to *node, child string) uint64 {
	lastSimCommand++
	n.do(n.e.Initiate(n.sim.now, Initiate{
		Command: lastSimCommand, Conn: "peer", Child: child,
		Local: netip.AddrPortFrom(n.addr, 500), Remote: netip.AddrPortFrom(to.addr, 500),
	}))
	return lastSimCommand
}

func mustIKE(s string) sa.IKEProposal {
	p, err := sa.ParseIKEProposal(s)
	if err != nil {
		panic(err)
	}
	return p
}

func mustESP(s string) sa.Proposal {
	p, err := sa.ParseProposal(sa.ESP, s)
	if err != nil {
		panic(err)
	}
	return p
}

func selector(s string) Dynamic {
	sel, err := sa.ParseSelector(s)
	if err != nil {
		panic(err)
	}
	return Dynamic{Selector: sel}
}

// simConfig is one connection with one child, from the side of the first or of
// the second end.
func simConfig(first bool) *Config {
	l, r := "10.1.0.0/16", "10.2.0.0/16"
	if !first {
		l, r = r, l
	}
	return &Config{
		Connections: []*Connection{{
			Name: "peer", Proposals: mustIKE("aes256-sha256-curve25519"), KeyingTries: 1,
			Children: []*Child{{
				Name: "net", Proposals: []sa.Proposal{mustESP("aes128gcm16-curve25519")},
				LocalTS: selector(l), RemoteTS: selector(r), ReplayWindow: 32,
			}},
		}},
		Secrets: []*Secret{{Name: "psk", Key: sa.Key("a pre-shared key")}},
	}
}

func (s *sim) pair(change func(a, b *Config)) (a, b *node) {
	ca, cb := simConfig(true), simConfig(false)
	if change != nil {
		change(ca, cb)
	}
	return s.node("a", "192.0.2.1", ca, Options{}), s.node("b", "192.0.2.2", cb, Options{})
}

// differ says how the two ends differ, or "": every pair that one end holds
// must be held with the same keys by the other.
func differ(a, b *node) string {
	for _, ends := range [][2]*node{{a, b}, {b, a}} {
		n, o := ends[0], ends[1]
		for _, p := range n.pairs {
			q := o.byOut(p.In.SPI)
			switch {
			case q == nil:
				return fmt.Sprintf("%s holds %v, %s does not", n.name, p, o.name)
			case p.Out.SPI != q.In.SPI || p.Suite != q.Suite || p.Mode != q.Mode || p.Encap != q.Encap,
				p.LocalTS != q.RemoteTS || p.RemoteTS != q.LocalTS:
				return fmt.Sprintf("the ends differ in %v and %v", p, q)
			case !sameKeys(p.In, q.Out), !sameKeys(p.Out, q.In), sameKeys(p.In, p.Out),
				len(p.In.EncryptionKey) != p.Suite.EncryptionKeyLen(), len(p.In.EncryptionKey)+len(p.In.IntegrityKey) != p.Suite.KeymatLen():
				return fmt.Sprintf("the keys of %v and %v differ", p, q)
			}
		}
	}
	return ""
}

func sameKeys(a, b sa.SA) bool {
	return bytes.Equal(a.EncryptionKey, b.EncryptionKey) && bytes.Equal(a.IntegrityKey, b.IntegrityKey)
}

func (n *node) byOut(spi sa.SPI) *sa.Pair {
	for _, p := range n.pairs {
		if p.Out.SPI == spi {
			return p
		}
	}
	return nil
}

func TestMain(m *testing.M) {
	slog.SetDefault(slog.New(slog.DiscardHandler))
	m.Run()
}
