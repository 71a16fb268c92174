// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"quicksand/ike"
	"quicksand/internal/vici"
	"quicksand/sa"
)

// fakeBackend is a backend in memory. Its fields are set before it is used.
type fakeBackend struct {
	name       string
	kinds      []sa.Kind
	places     sa.Kind // what Install says; 0: the first of kinds
	refuses    error   // of Supports
	failure    error   // of Install
	spis       []sa.SPI
	events     chan sa.Event
	closeWaits chan struct{} // Close returns when it is closed
	in, out    sa.Counters

	mu    sync.Mutex // guards what follows
	calls []string
	pairs map[uint32]*sa.Pair
}

func newFakeBackend(name string, kinds ...sa.Kind) *fakeBackend {
	return &fakeBackend{name: name, kinds: kinds, events: make(chan sa.Event, 16), pairs: make(map[uint32]*sa.Pair)}
}

func (b *fakeBackend) note(format string, args ...any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.calls = append(b.calls, fmt.Sprintf(format, args...))
}

// took returns the calls since the last time.
func (b *fakeBackend) took() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	c := b.calls
	b.calls = nil
	return c
}

func (b *fakeBackend) pair(id uint32) *sa.Pair {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.pairs[id]
}

func (b *fakeBackend) installed() []uint32 {
	b.mu.Lock()
	defer b.mu.Unlock()
	var ids []uint32
	for id := range b.pairs {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}

func (b *fakeBackend) Kinds() []sa.Kind          { return b.kinds }
func (b *fakeBackend) Supports(*sa.Pair) error   { return b.refuses }
func (b *fakeBackend) Events() <-chan sa.Event   { return b.events }
func (b *fakeBackend) Activate(p *sa.Pair) error { b.note("activate %d", p.ID); return nil }
func (b *fakeBackend) Trap(p sa.Policy) error {
	b.note("trap %s %s === %s", p.Child, p.LocalTS, p.RemoteTS)
	return b.failure
}
func (b *fakeBackend) Untrap(p sa.Policy) error { b.note("untrap %s", p.Child); return nil }

func (b *fakeBackend) ReserveSPI(sa.Protocol, netip.Addr) (sa.SPI, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.spis) == 0 {
		return 0, errors.New("no SPI is left")
	}
	spi := b.spis[0]
	b.spis = b.spis[1:]
	b.calls = append(b.calls, fmt.Sprintf("reserve %s", spi))
	return spi, nil
}

func (b *fakeBackend) ReleaseSPI(_ sa.Protocol, _ netip.Addr, spi sa.SPI) { b.note("release %s", spi) }

func (b *fakeBackend) Install(p *sa.Pair) (sa.Placement, error) {
	b.note("install %d", p.ID)
	if b.failure != nil {
		return sa.Placement{}, b.failure
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.pairs[p.ID] = p
	k := b.places
	if k == 0 {
		k = b.kinds[0]
	}
	return sa.Placement{Kind: k, Device: b.name}, nil
}

func (b *fakeBackend) Update(p *sa.Pair) error {
	b.note("update %d to %s", p.ID, p.Remote)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.pairs[p.ID] = p
	return nil
}

func (b *fakeBackend) Remove(p *sa.Pair) error {
	b.note("remove %d", p.ID)
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.pairs, p.ID)
	return nil
}

func (b *fakeBackend) Counters(*sa.Pair) (in, out sa.Counters, err error) { return b.in, b.out, nil }

func (b *fakeBackend) Close() error {
	if b.closeWaits != nil {
		<-b.closeWaits
	}
	b.note("close")
	return nil
}

// fakeEngine answers as its fields say and notes what it is asked; what it does
// not know it answers with nothing.
type fakeEngine struct {
	handle      func(ike.Datagram) []ike.Action
	tick        func() []ike.Action
	next        func() (time.Time, bool)
	dhDone      func(ike.DHResult) []ike.Action
	spiReserved func(token uint64, spi sa.SPI, err error) []ike.Action
	installed   func(token uint64, p sa.Placement, err error) []ike.Action
	event       func(sa.Event) []ike.Action
	initiate    func(ike.Initiate) []ike.Action
	terminate   func(ike.Select) (int, []ike.Action)
	rekey       func(ike.Select) (int, []ike.Action)
	reload      func(*ike.Config) []ike.Action
	shutdown    func() []ike.Action
	sas         []ike.IKEInfo
	counters    map[string]uint64
}

func (e *fakeEngine) Handle(_ time.Time, d ike.Datagram) []ike.Action { return answer(e.handle, d) }
func (e *fakeEngine) DHDone(_ time.Time, r ike.DHResult) []ike.Action { return answer(e.dhDone, r) }
func (e *fakeEngine) Event(_ time.Time, ev sa.Event) []ike.Action     { return answer(e.event, ev) }
func (e *fakeEngine) Reload(_ time.Time, c *ike.Config) []ike.Action  { return answer(e.reload, c) }
func (e *fakeEngine) Initiate(_ time.Time, i ike.Initiate) []ike.Action {
	return answer(e.initiate, i)
}
func (e *fakeEngine) SAs() []ike.IKEInfo          { return slices.Clone(e.sas) }
func (e *fakeEngine) Counters() map[string]uint64 { return e.counters }

func answer[T any](f func(T) []ike.Action, v T) []ike.Action {
	if f == nil {
		return nil
	}
	return f(v)
}

func (e *fakeEngine) Tick(time.Time) []ike.Action {
	if e.tick == nil {
		return nil
	}
	return e.tick()
}

func (e *fakeEngine) Next() (time.Time, bool) {
	if e.next == nil {
		return time.Time{}, false
	}
	return e.next()
}

func (e *fakeEngine) SPIReserved(_ time.Time, token uint64, spi sa.SPI, err error) []ike.Action {
	if e.spiReserved == nil {
		return nil
	}
	return e.spiReserved(token, spi, err)
}

func (e *fakeEngine) Installed(_ time.Time, token uint64, p sa.Placement, err error) []ike.Action {
	if e.installed == nil {
		return nil
	}
	return e.installed(token, p, err)
}

func (e *fakeEngine) Terminate(_ time.Time, s ike.Select) (int, []ike.Action) {
	if e.terminate == nil {
		return 0, nil
	}
	return e.terminate(s)
}

func (e *fakeEngine) Rekey(_ time.Time, s ike.Select) (int, []ike.Action) {
	if e.rekey == nil {
		return 0, nil
	}
	return e.rekey(s)
}

func (e *fakeEngine) Shutdown(time.Time) []ike.Action {
	if e.shutdown == nil {
		return nil
	}
	return e.shutdown()
}

// fakeTransport keeps what is sent.
type fakeTransport struct {
	mu     sync.Mutex
	sent   [][]byte
	fails  error
	closed bool
}

func (t *fakeTransport) Send(_, _ netip.AddrPort, _ bool, data []byte) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.sent = append(t.sent, data)
	return t.fails
}

func (t *fakeTransport) Keepalive(_, _ netip.AddrPort) error {
	return t.Send(netip.AddrPort{}, netip.AddrPort{}, true, []byte{0xff})
}

func (t *fakeTransport) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed = true
	return nil
}

func (t *fakeTransport) all() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var out []string
	for _, b := range t.sent {
		out = append(out, string(b))
	}
	return out
}

// fakeComputer answers when the test says so.
type fakeComputer struct {
	mu   sync.Mutex
	busy bool
	done []func(ike.DHResult)
}

func (c *fakeComputer) Compute(_ ike.ComputeDH, done func(ike.DHResult)) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.busy {
		return ike.ErrBusy
	}
	c.done = append(c.done, done)
	return nil
}

func (c *fakeComputer) Load() (workers, busy, queued int) { return 2, 1, len(c.done) }
func (c *fakeComputer) Close() error                      { return nil }

// fakeReporter keeps what it hears.
type fakeReporter struct {
	mu      sync.Mutex
	actions []ike.Action
	lines   []vici.Line
}

func (r *fakeReporter) Report(a ike.Action) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.actions = append(r.actions, a)
}

func (r *fakeReporter) Logs() bool { return true }

func (r *fakeReporter) Log(l vici.Line) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lines = append(r.lines, l)
}

// says reports whether a line at or above the level holds the text.
func (r *fakeReporter) says(level slog.Level, text string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.ContainsFunc(r.lines, func(l vici.Line) bool {
		return l.Level >= level && containsFold(l.Text, text)
	})
}

// reportLog is a slog.Handler that keeps levels and texts.
type reportLog struct{ *fakeReporter }

func newReportLog() reportLog { return reportLog{&fakeReporter{}} }

func (reportLog) Enabled(context.Context, slog.Level) bool { return true }
func (l reportLog) WithAttrs([]slog.Attr) slog.Handler     { return l }
func (l reportLog) WithGroup(string) slog.Handler          { return l }
func (l reportLog) has(level slog.Level, text string) bool { return l.says(level, text) }

func (l reportLog) Handle(_ context.Context, r slog.Record) error {
	l.Log(vici.Line{Level: r.Level, Text: r.Message})
	return nil
}

// fakeResolver knows a few names.
type fakeResolver map[string][]netip.Addr

func (r fakeResolver) LookupNetIP(_ context.Context, _, host string) ([]netip.Addr, error) {
	if a, ok := r[host]; ok {
		return a, nil
	}
	return nil, fmt.Errorf("lookup %s: no such host", host)
}

// collect returns a function that adds lines' texts to a list.
func collect(to *[]string) func(vici.Line) {
	return func(l vici.Line) { *to = append(*to, l.Text) }
}

func mustAddrPort(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

var (
	localAddr  = netip.MustParseAddr("192.0.2.1")
	remoteAddr = netip.MustParseAddr("198.51.100.2")
	local500   = netip.AddrPortFrom(localAddr, 500)
	remote500  = netip.AddrPortFrom(remoteAddr, 500)
)

// rig is a daemon of fakes.
type rig struct {
	*Daemon
	engine    *fakeEngine
	transport *fakeTransport
	computer  *fakeComputer
	reporter  *fakeReporter
	stop      context.CancelFunc
	ended     chan error
}

// newRig starts a daemon of fakes; it is stopped when the test ends.
func newRig(t *testing.T, e *fakeEngine, p Parts) *rig {
	t.Helper()
	r := &rig{engine: e, transport: &fakeTransport{}, computer: &fakeComputer{}, reporter: &fakeReporter{}}
	p.DH, p.Transport, p.Inbox = r.computer, r.transport, NewInbox()
	if p.LocalAddr == nil {
		p.LocalAddr = func(netip.AddrPort) (netip.Addr, error) { return localAddr, nil }
	}
	if p.Resolver == nil {
		p.Resolver = fakeResolver{}
	}
	p.Logger = slog.New(slog.DiscardHandler)
	r.Daemon = newDaemon(p)
	r.Daemon.engine = e
	r.SetReporter(r.reporter)
	return runRig(t, r)
}

// runRig starts a rig's daemon.
func runRig(t *testing.T, r *rig) *rig {
	ctx, cancel := context.WithCancel(t.Context())
	r.stop, r.ended = cancel, make(chan error, 1)
	go func() { r.ended <- r.Run(ctx) }()
	t.Cleanup(cancel)
	return r
}

// sync waits until the loop has done what it was given.
func (r *rig) sync(t *testing.T) {
	t.Helper()
	if err := r.call(t.Context(), func() {}); err != nil {
		t.Fatal(err)
	}
}
