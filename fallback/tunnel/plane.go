// SPDX-License-Identifier: Apache-2.0

// Package tunnel is the user-space data plane: an sa.Backend that carries
// pairs between a TUN device and the network's sockets with software ESP and
// AH (RFC 4301 sections 4.4.1, 5 and 8). It decides which packets a pair may
// carry and drops all others; the packets themselves are made by package esp.
//
// The way out: each queue of the TUN device has a worker, which reads
// super-packets, cuts them into packets, finds their child by the selectors,
// seals them in a batch and sends that. The way in: each of the wire's goroutines
// reads a batch, finds the pairs by SPI, opens the batch, and joins neighbours of
// a flow to super-packets for the TUN device. No packet is handed from one
// goroutine to another, and no queue of packets is kept but the kernel's own,
// which are bounded: where packets come faster than they can be sealed or opened
// it drops them and counts them.
//
// The traffic of a child comes by one queue, by its destination. Where two
// workers meet at an SA all the same, one of them seals at a time, and sends what
// it sealed before the other may: an SA's packets are on the wire in the order of
// their sequence numbers.
//
// On fragmentation (RFC 4301 section 8): a packet that is too long for its
// path once it is sealed and has DF set, or is IPv6, is dropped and its sender
// told the length that fits; IPv6 is never told less than its minimum of 1280
// and fragmented outside below that. A packet without DF is sealed and
// fragmented outside. The outer DF follows copy_df. Paths' MTUs are the
// kernel's own knowledge, asked for again when it refuses a packet and every
// half minute.
package tunnel

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"quicksand/fallback/esp"
	"quicksand/fallback/tun"
	"quicksand/sa"
)

// Defaults of Options.
const (
	DefaultDevice   = "qsand0"
	DefaultMTU      = 1400
	DefaultTable    = 220
	DefaultPriority = 220
)

const (
	heldPackets  = 16               // wait at most for a child's pair
	heldTime     = 30 * time.Second // and no longer than this
	acquireAgain = 5 * time.Second  // until a trap may report another Acquire
	remapAgain   = time.Second      // until a pair may report another Remapped
	refreshEvery = 30 * time.Second // path MTUs
	defaultPath  = 1500             // MTU of a path nobody knows yet
)

// Options are a plane's settings; all have a default.
type Options struct {
	Device          string // of the TUN device
	MTU             int    // of the TUN device, in bytes
	Table, Priority int    // of the routes, and of the rule that looks them up
	Mark            int    // SO_MARK of what the plane sends, as of the NATT socket
	// NATT is the daemon's NAT traversal port; without it no pair is
	// UDP-encapsulated.
	NATT *Socket
	Log  *slog.Logger

	// Cores are the CPUs that the workers of the TUN device run on, one for each
	// of its queues; without any the workers run where they like.
	Cores []int
	// TUN stands in for a real device; no routes are made then. Wire stands in
	// for the kernel's sockets.
	TUN  tun.Device
	Wire Wire
}

// Plane is the user-space data plane.
type Plane struct {
	tun    tun.Device
	device string
	wire   Wire
	router *router // nil with a TUN of the caller's
	log    *slog.Logger
	events *events
	stats  stats
	suites suites
	mtus   *pathMTUs

	closing atomic.Bool
	gone    atomic.Bool   // the TUN device
	inputs  atomic.Uint32 // goroutines of the wire that were seen
	workers []*worker
	stop    chan struct{}
	done    sync.WaitGroup

	ctl   sync.Mutex // serialises the Backend's methods, and guards flush
	flush outbound

	// mu is held for reading while a batch is sealed or opened, so that a pair
	// that was taken out is used no more once Lock was had.
	mu       sync.RWMutex
	policies policies
	traps    map[*child]struct{} // children that have one
	pairs    map[uint32]*pair
	inbound  map[sa.SPI]*pair
	reserved map[sa.SPI]sa.Protocol
	count    uint64 // of activations

	// holding guards, under mu held for reading, what waits for children.
	holding sync.Mutex
}

var _ sa.Backend = (*Plane)(nil)

// pair is an installed pair. What is not guarded by a lock of its own is
// written under the plane's lock.
type pair struct {
	id    uint32
	child *child
	lane  int
	spi   sa.SPI
	path  Path // MTU is in mtu
	gone  bool // taken out

	outMu sync.Mutex // guards out, and is held until what it sealed is sent
	out   *esp.Outbound

	transport bool
	format    string // of its packets, in words
	detail    string // of the placement: the format, and the way they take

	mtu   atomic.Int32 // path's
	inner atomic.Int32 // longest inner packet that fits it

	inMu     sync.Mutex // guards in, floor and remapped
	in       *esp.Inbound
	floor    uint32 // of the replay window, as the wire was told
	remapped struct {
		to netip.AddrPort
		at time.Time
	}

	used, soft, hard atomic.Bool // reported
}

// New makes the TUN device, its rule and the sockets. What an earlier process
// of the same settings left behind is removed.
func New(o Options) (*Plane, error) {
	if o.Device == "" {
		o.Device = DefaultDevice
	}
	if o.MTU == 0 {
		o.MTU = DefaultMTU
	}
	if o.Table == 0 {
		o.Table = DefaultTable
	}
	if o.Priority == 0 {
		o.Priority = DefaultPriority
	}
	if o.Mark == 0 {
		o.Mark = DefaultMark
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	p := &Plane{
		tun: o.TUN, device: o.Device, wire: o.Wire, log: o.Log,
		stop:     make(chan struct{}),
		policies: newPolicies(),
		traps:    map[*child]struct{}{},
		pairs:    map[uint32]*pair{},
		inbound:  map[sa.SPI]*pair{},
		reserved: map[sa.SPI]sa.Protocol{},
	}
	if p.tun == nil {
		var err error
		p.tun, err = tun.Open(o.Device, o.MTU, max(len(o.Cores), 1))
		if errors.Is(err, unix.EBUSY) {
			return nil, fmt.Errorf("%w: another process has it", err)
		}
		if err != nil {
			return nil, err
		}
		if p.router, err = newRouter(p.tun, o.Table, o.Priority, uint32(o.Mark)); err != nil {
			return nil, errors.Join(err, p.tun.Close())
		}
	}
	if p.wire == nil {
		p.wire = NewSocketWire(o.NATT, o.Mark)
	}
	p.mtus = newPathMTUs(p.wire.PathMTU)
	p.events = newEvents()
	p.wire.Receive(p.Input, p.moved)
	for i, q := range p.tun.Queues() {
		w := newWorker(p, q)
		if i < len(o.Cores) {
			w.core = o.Cores[i : i+1]
		}
		p.workers = append(p.workers, w)
		p.done.Go(w.run)
	}
	p.done.Go(p.maintain)
	return p, nil
}

// Close stops the traffic and removes the device, the rule and the routes.
func (p *Plane) Close() error {
	p.ctl.Lock()
	defer p.ctl.Unlock()
	if p.closing.Swap(true) {
		return nil
	}
	close(p.stop)
	err := errors.Join(p.wire.Close(), p.router.close())
	p.tun.Stop()
	p.done.Wait()
	err = errors.Join(err, p.tun.Close())
	p.mu.Lock()
	for _, pr := range p.pairs {
		pr.end()
	}
	p.policies = newPolicies()
	clear(p.traps)
	clear(p.pairs)
	clear(p.inbound)
	p.mu.Unlock()
	p.events.close()
	if err != nil {
		return fmt.Errorf("close tunnel: %w", err)
	}
	return nil
}

// maintain asks for the paths' MTUs again from time to time: they grow back,
// and routes change.
func (p *Plane) maintain() {
	t := time.NewTicker(refreshEvery)
	defer t.Stop()
	for {
		select {
		case <-p.stop:
			return
		case <-t.C:
		}
		p.mtus.forget()
		paths := map[pathEnds][]*pair{}
		p.mu.RLock()
		for _, pr := range p.pairs {
			e := pathEnds{pr.path.Local.Addr(), pr.path.Remote.Addr()}
			paths[e] = append(paths[e], pr)
		}
		p.mu.RUnlock()
		for e, prs := range paths {
			if mtu, err := p.mtus.fresh(e.local, e.remote); err == nil {
				p.mu.RLock()
				for _, pr := range prs {
					pr.setMTU(mtu)
				}
				p.mu.RUnlock()
			}
		}
	}
}

// end overwrites the keys of a pair that is taken out. The plane's lock is held,
// so that no packet is being sealed or opened, and none will be.
func (pr *pair) end() {
	pr.gone = true
	pr.out.Wipe()
	pr.in.Wipe()
}

func (pr *pair) setMTU(mtu int) {
	if int(pr.mtu.Swap(int32(mtu))) != mtu {
		pr.inner.Store(int32(pr.out.InnerMTU(mtu)))
	}
}

// refresh asks for the MTU of a path that turned out to be smaller.
func (p *Plane) refresh(pr *pair, path Path) {
	if mtu, err := p.mtus.fresh(path.Local.Addr(), path.Remote.Addr()); err == nil {
		pr.setMTU(mtu)
	}
}

// expiry reports the limits that a direction of the pair has reached, each
// once.
func (p *Plane) expiry(pr *pair, u *esp.Usage) {
	if u.SoftReached() && !pr.soft.Load() && !pr.soft.Swap(true) {
		p.events.emit(sa.Event{Kind: sa.SoftExpired, Pair: pr.id})
	}
	if u.HardReached() && !pr.hard.Load() && !pr.hard.Swap(true) {
		p.events.emit(sa.Event{Kind: sa.HardExpired, Pair: pr.id})
	}
}
