// SPDX-License-Identifier: Apache-2.0

package offload

import (
	"bufio"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"quicksand/sa"
)

// ErrNoESP is why there is no backend on a kernel that has neither ESP nor the
// modules for it.
var ErrNoESP = errors.New("the kernel has no ESP")

// Decapsulation is the daemon's NAT traversal port as far as the kernel takes
// part in it: packets with these SPIs are the kernel's, all others go on to
// user space.
type Decapsulation interface {
	// KernelSPI says whether packets with the SPI are for the kernel.
	KernelSPI(spi sa.SPI, on bool) error
}

// Options are a backend's settings.
type Options struct {
	// Kinds are those of sa.Packet, sa.Crypto and sa.Kernel that may be used;
	// none stands for all of them.
	Kinds []sa.Kind
	// Mark is put on the packets that the kernel sends for an SA, so that the
	// rules which lead traffic into tunnels leave them alone.
	Mark uint32
	// Table and Priority are those of the routes to the children's remote
	// subnets and of the rule that looks them up; 0 is the default.
	Table, Priority int
	// Ports are the UDP ports of IKE, which devices with packet offload have to
	// let pass; 500 and 4500 where not set.
	Ports [2]uint16
	// NATT is the NAT traversal port; without it no pair is UDP-encapsulated.
	NATT Decapsulation
	Log  *slog.Logger
}

// Backend carries pairs in the kernel.
type Backend struct {
	conn   *conn
	router *router
	events *events
	notes  *notes // of XFRM
	links  *notes // of devices
	log    *slog.Logger
	o      Options

	devices devices

	// directions is whether the kernel knows XFRMA_SA_DIR, from 6.10 on.
	directions bool

	stop chan struct{}
	done sync.WaitGroup

	mu         sync.Mutex // guards what follows
	closed     bool
	children   map[childKey]*child
	pairs      map[uint32]*pair
	states     map[stateID]*pair // by both SAs
	unused     map[uint32]*pair  // that wait for their first use
	watching   time.Time         // when they are looked at next
	lost       map[uint32]*pair  // that are to be reported; see reportLost
	slots      map[slotKey]*slot
	byIndex    map[uint32]*slot
	reserved   map[stateID]struct{}
	trials     map[trialKey]trial
	refused    map[refusalKey]refusal
	bypass     map[bypassKey][]*policy
	discovery  []*policy   // of letNeighboursPass
	remains    []*slot     // see sweep
	forgetting *time.Timer // of remains
	settling   *time.Timer // see settleLinks
	lastIndex  uint32
	trapReqids uint32 // given out
	count      uint64 // of activations
	wake       chan struct{}
}

var _ sa.Backend = (*Backend)(nil)

// Ready reports whether the kernel can carry SAs at all; the error is ErrNoESP
// where it can not. It changes nothing there.
func Ready() error {
	c, err := dialXFRM()
	if err != nil {
		return err
	}
	return errors.Join(newBackend(c, Options{}).probe(), c.Close())
}

// New opens the kernel's XFRM, takes back what an earlier process of quicksand
// left there, and watches for events. What that one protected is blocked for
// half a minute, unless it is a child's again before. It returns ErrNoESP where the kernel
// cannot carry any pair.
func New(o Options) (*Backend, error) {
	c, err := dialXFRM()
	if err != nil {
		return nil, err
	}
	b := newBackend(c, o)
	if err := errors.Join(b.sweep(), b.probe()); err != nil {
		return nil, errors.Join(err, b.Close())
	}
	if err := b.open(); err != nil {
		return nil, errors.Join(err, b.Close())
	}
	return b, nil
}

func newBackend(c *conn, o Options) *Backend {
	if o.Log == nil {
		o.Log = slog.Default()
	}
	if len(o.Kinds) == 0 {
		o.Kinds = []sa.Kind{sa.Packet, sa.Crypto, sa.Kernel}
	}
	if o.Ports == [2]uint16{} {
		o.Ports = [2]uint16{500, 4500}
	}
	return &Backend{
		conn: c, log: o.Log, o: o,
		stop:     make(chan struct{}),
		wake:     make(chan struct{}, 1),
		children: map[childKey]*child{},
		pairs:    map[uint32]*pair{},
		states:   map[stateID]*pair{},
		unused:   map[uint32]*pair{},
		lost:     map[uint32]*pair{},
		slots:    map[slotKey]*slot{},
		byIndex:  map[uint32]*slot{},
		reserved: map[stateID]struct{}{},
		trials:   map[trialKey]trial{},
		refused:  map[refusalKey]refusal{},
		bypass:   map[bypassKey][]*policy{},
	}
}

// open opens what the backend needs beside XFRM, and starts to watch.
func (b *Backend) open() error {
	b.events = newEvents()
	var err error
	if b.router, err = newRouter(b.o); err != nil {
		return err
	}
	b.devices.router, b.devices.known = b.router, map[int]*egress{}
	if b.devices.ethtool, err = openEthtool(); err != nil {
		return err
	}
	if b.notes, err = dialNotes(); err != nil {
		return err
	}
	if b.links, err = dialLinks(); err != nil {
		return err
	}
	if len(b.remains) > 0 {
		b.forgetting = time.AfterFunc(remainTime, b.forgetRemains)
	}
	b.done.Go(b.listen)
	b.done.Go(b.listenLinks)
	b.done.Go(b.watchPairs)
	return nil
}

// Kinds implements sa.Backend.
func (b *Backend) Kinds() []sa.Kind { return slices.Clone(b.o.Kinds) }

// Events implements sa.Backend.
func (b *Backend) Events() <-chan sa.Event { return b.events.out }

// Close removes every SA, policy and route that the backend made.
func (b *Backend) Close() error {
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return nil
	}
	b.closed = true
	var errs []error
	for _, c := range b.children {
		errs = append(errs, b.vacate(c))
	}
	var requests []request
	for id := range b.states {
		requests = append(requests, deletion(id))
	}
	for id := range b.reserved {
		requests = append(requests, deletion(id))
	}
	for _, r := range b.conn.do(requests...) {
		if r.err != nil && !absent(r.err) {
			errs = append(errs, r.err)
		}
	}
	for _, p := range b.pairs {
		errs = append(errs, b.decapsulate(p.Pair, false))
	}
	errs = append(errs, b.stopIKEPass(), b.stopNeighbours(), b.settle(b.remains))
	if b.forgetting != nil {
		b.forgetting.Stop()
	}
	clear(b.children)
	clear(b.pairs)
	clear(b.states)
	clear(b.unused)
	clear(b.reserved)
	b.mu.Unlock()

	close(b.stop)
	errs = append(errs, b.notes.close(), b.links.close())
	b.done.Wait()
	errs = append(errs, b.router.close(), b.devices.ethtool.close(), b.conn.Close())
	if b.events != nil {
		b.events.close()
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("close XFRM: %w", err)
	}
	return nil
}

func deletion(id stateID) request {
	return request{what: "remove SA " + id.SPI.String(), kind: msgDelSA, body: id.encode()}
}

// ReserveSPI implements sa.Backend. The kernel keeps the SPI for half a minute
// (net.core.xfrm_acq_expires); after that it is as good as any other number
// that is not in use.
func (b *Backend) ReserveSPI(proto sa.Protocol, local netip.Addr) (sa.SPI, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	local = local.WithZone("")
	body, err := b.conn.one(request{what: "reserve SPI", kind: msgAllocSPI, get: true,
		body: encodeSPIRequest(proto, local, 0x100, 0xffffffff)})
	if err != nil {
		return 0, err
	}
	got, err := decodeState(body, lenState)
	if err != nil {
		return 0, fmt.Errorf("reserve SPI: %w", err)
	}
	b.reserved[stateID{local, got.ID.SPI, proto}] = struct{}{}
	return got.ID.SPI, nil
}

// ReleaseSPI implements sa.Backend.
func (b *Backend) ReleaseSPI(proto sa.Protocol, local netip.Addr, spi sa.SPI) {
	b.mu.Lock()
	defer b.mu.Unlock()
	id := stateID{local.WithZone(""), spi, proto}
	if _, ok := b.reserved[id]; !ok {
		return
	}
	delete(b.reserved, id)
	if _, err := b.conn.one(deletion(id)); err != nil && !absent(err) {
		b.log.Warn(err.Error())
	}
}

// Counters implements sa.Backend.
func (b *Backend) Counters(q *sa.Pair) (in, out sa.Counters, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	p := b.pairs[q.ID]
	if p == nil {
		return in, out, fmt.Errorf("count pair %d: not installed", q.ID)
	}
	results := b.conn.do(reading(p.in.ID), reading(p.out.ID))
	now := time.Now()
	for i, c := range []struct {
		to   *sa.Counters
		last *activity
	}{{&in, &p.lastIn}, {&out, &p.lastOut}} {
		if absent(results[i].err) && p.expired {
			*c.to = c.last.Counters
			continue
		}
		s, err := answer(results[i])
		if err != nil {
			return in, out, fmt.Errorf("count pair %d: %w", q.ID, err)
		}
		*c.to = c.last.update(s, now)
		if p.Mode == sa.Transport {
			// The kernel counts what comes behind the IP header.
			c.to.Bytes += c.to.Packets * headerLen(p.Local.Addr())
		}
	}
	return in, out, nil
}

// activity is what is known of a direction's counters.
type activity struct{ sa.Counters }

// update takes a reading in. Where the kernel does not tell when an SA was
// last used it is when its counters were last seen to grow.
func (a *activity) update(s *seen, now time.Time) sa.Counters {
	switch {
	case !s.Used.IsZero():
		a.Last = s.Used
	case s.Packets > a.Packets:
		a.Last = now
	}
	a.Packets, a.Bytes = s.Packets, s.Bytes
	return a.Counters
}

func reading(id stateID) request {
	return request{what: "read SA " + id.SPI.String(), kind: msgGetSA, get: true, body: id.encode()}
}

// answer is the SA that a reading gave.
func answer(r result) (*seen, error) {
	if r.err != nil {
		return nil, r.err
	}
	return decodeState(r.body, lenState)
}

// headerLen is the length of an IP header without options.
func headerLen(a netip.Addr) uint64 {
	if a.Is4() {
		return 20
	}
	return 40
}

// Stats returns what the kernel has dropped of IPsec, by the names of
// /proc/net/xfrm_stat. It counts for all programs.
func (b *Backend) Stats() map[string]uint64 {
	f, err := os.Open("/proc/self/net/xfrm_stat")
	if err != nil {
		return nil // a kernel without statistics
	}
	defer f.Close()
	out := map[string]uint64{}
	for lines := bufio.NewScanner(f); lines.Scan(); {
		var name string
		var n uint64
		if _, err := fmt.Sscan(lines.Text(), &name, &n); err == nil {
			out["kernel."+strings.TrimPrefix(name, "Xfrm")] = n
		}
	}
	return out
}
