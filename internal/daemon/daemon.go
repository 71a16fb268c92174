// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"quicksand/fallback/steered"
	"quicksand/ike"
	"quicksand/internal/vici"
	"quicksand/sa"
)

// engine is what the loop needs of ike.Engine.
type engine interface {
	Handle(now time.Time, d ike.Datagram) []ike.Action
	Tick(now time.Time) []ike.Action
	Next() (time.Time, bool)
	DHDone(now time.Time, r ike.DHResult) []ike.Action
	SPIReserved(now time.Time, token uint64, spi sa.SPI, err error) []ike.Action
	Installed(now time.Time, token uint64, p sa.Placement, err error) []ike.Action
	Event(now time.Time, ev sa.Event) []ike.Action
	Initiate(now time.Time, i ike.Initiate) []ike.Action
	Terminate(now time.Time, s ike.Select) (int, []ike.Action)
	Rekey(now time.Time, s ike.Select) (int, []ike.Action)
	Reload(now time.Time, c *ike.Config) []ike.Action
	Shutdown(now time.Time) []ike.Action
	SAs() []ike.IKEInfo
	Counters() map[string]uint64
}

// Transport sends IKE's datagrams. A local address that is not valid leaves
// the choice to the routing table.
type Transport interface {
	// Send sends data, without a non-ESP marker, from the IKE socket or, where
	// natt is set, behind a marker from the NAT-T socket.
	Send(local, remote netip.AddrPort, natt bool, data []byte) error
	// Keepalive sends a NAT keepalive from the NAT-T socket.
	Keepalive(local, remote netip.AddrPort) error
	Close() error
}

// Computer computes Diffie-Hellman. Compute returns at once, with ike.ErrBusy
// where the queue is full; else done is called once, from any goroutine.
type Computer interface {
	Compute(c ike.ComputeDH, done func(ike.DHResult)) error
	// Load tells how many workers there are, how many are busy, and how many
	// computations wait.
	Load() (workers, busy, queued int)
	Close() error
}

// Reporter hears of what happens. It never blocks.
type Reporter interface {
	Report(a ike.Action)
	Log(l vici.Line)
	// Logs reports whether anybody hears what Log is given.
	Logs() bool
}

// Resolver looks up the addresses of a host; *net.Resolver is one.
type Resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// Parts is what a Daemon is made of. Run makes the real ones; tests bring
// their own.
type Parts struct {
	Version  string // of quicksand, for whoever asks
	Config   *ike.Config
	IKE      ike.Options
	Backends []sa.Backend // in order of preference
	Kinds    []sa.Kind    // that pairs may run on; empty: all
	Inbox    *Inbox       // which the sockets fill
	// Transport, DH and the backends are closed by Run.
	Transport Transport
	DH        Computer
	// Ports are the IKE port and the NAT traversal port, 500 and 4500 by default.
	Ports [2]uint16
	// LocalAddr asks the routing table which address packets to remote leave
	// from.
	LocalAddr func(remote netip.AddrPort) (netip.Addr, error)
	Resolver  Resolver
	Logger    *slog.Logger
	// Load reads the configuration file again; nil where there is none.
	Load func() (*ike.Config, error)
	// KeyLog is a directory for Wireshark's key tables; empty: none.
	KeyLog string
	// Steered is the user-space tunnel's wire where packets are steered, else
	// nil.
	Steered *steered.Wire
}

// How many datagrams wait for the loop before more are dropped, how many
// computations may be on their way before more are refused, and how many events
// of backends wait before their sender does.
const (
	datagramQueue = 1024
	computeQueue  = 2048
	eventQueue    = 256
)

var errStopped = errors.New("the daemon is shutting down")

// Inbox is where datagrams come in. Those that wait for the loop are held.
type Inbox struct {
	datagrams chan ike.Datagram
	dropped   atomic.Uint64                           // that found it full
	handler   atomic.Pointer[func(ike.Datagram) bool] // takes one at once, or refuses; nil while no loop runs
}

// NewInbox returns an empty inbox.
func NewInbox() *Inbox { return &Inbox{datagrams: make(chan ike.Datagram, datagramQueue)} }

// Receive takes a datagram in, or drops it where too many wait: a flood costs
// datagrams, never memory. It keeps the data and never blocks.
func (b *Inbox) Receive(in ike.Datagram) {
	select {
	case b.datagrams <- in:
	default:
		b.dropped.Add(1)
	}
}

// Handle has a datagram handled in the caller's goroutine where nothing else is
// in hand, and takes it in like Receive where something is. It saves the hand-over
// to the loop, which costs more than most messages do, and makes the caller wait
// for what the message sets off, the backends' work included.
func (b *Inbox) Handle(in ike.Datagram) {
	if h := b.handler.Load(); h == nil || len(b.datagrams) > 0 || !(*h)(in) {
		b.Receive(in)
	}
}

// Daemon is a running daemon. It implements vici.Daemon.
type Daemon struct {
	log       *slog.Logger
	resolver  Resolver
	localAddr func(netip.AddrPort) (netip.Addr, error)
	load      func() (*ike.Config, error)
	version   string
	ports     [2]uint16
	transport Transport
	dh        Computer
	started   time.Time

	in      *Inbox
	results chan ike.DHResult
	events  chan sa.Event
	calls   chan func()
	quit    chan struct{} // closed when the loop has ended
	helpers sync.WaitGroup

	// turn is held by whoever takes an input: the loop, or a socket's reader
	// that finds it free. It guards what follows.
	turn     sync.Mutex
	over     bool        // the loop has ended: readers take no more turns
	timer    *time.Timer // wakes the loop
	armed    time.Time   // when; zero: not at all
	engine   engine
	queue    []ike.Action // still to be carried out
	running  bool         // run is at work
	place    *placer
	config   configuration
	keys     *keyLog
	steered  *steered.Wire // or nil
	reporter Reporter
	waiters  map[uint64]*waiter
	command  uint64 // last one given out
	computes int    // on their way; results has room for all
	attempts map[target]*attempt
	manual   map[target]*manualChild
	manualID uint32
	count    counts
	resolved context.Context // ends with the loop
}

// counts are the loop's own counters, for MessageCounters and the metrics.
type counts struct {
	sent, sendErrors, dhBusy, installs, installErrors uint64
}

// New makes a daemon of its parts; Run starts it.
func New(p Parts) (*Daemon, error) {
	d := newDaemon(p)
	p.IKE.KeyLog = p.KeyLog != ""
	if p.KeyLog != "" {
		var err error
		if d.keys, err = openKeyLog(p.KeyLog); err != nil {
			return nil, err
		}
		d.say(slog.LevelWarn, "DMN", "THE KEY LOG IS ON: whoever reads it decrypts all traffic; turn it off when done debugging",
			slog.String("directory", p.KeyLog))
	}
	d.engine = ike.NewEngine(d.started, d.config.engine(), p.IKE)
	return d, nil
}

func newDaemon(p Parts) *Daemon {
	d := &Daemon{
		log:       p.Logger,
		resolver:  p.Resolver,
		localAddr: p.LocalAddr,
		load:      p.Load,
		version:   p.Version,
		steered:   p.Steered,
		ports:     p.Ports,
		in:        p.Inbox,
		transport: p.Transport,
		dh:        p.DH,
		started:   time.Now(),
		results:   make(chan ike.DHResult, computeQueue),
		events:    make(chan sa.Event, eventQueue),
		calls:     make(chan func()),
		quit:      make(chan struct{}),
		place:     newPlacer(p.Backends, p.Kinds),
		waiters:   make(map[uint64]*waiter),
		attempts:  make(map[target]*attempt),
		manual:    make(map[target]*manualChild),
		manualID:  firstManualID,
	}
	if d.ports == [2]uint16{} {
		d.ports = [2]uint16{500, 4500}
	}
	d.config.init(p.Config)
	if d.log == nil {
		d.log = slog.Default()
	}
	if d.resolver == nil {
		d.resolver = net.DefaultResolver
	}
	return d
}

// SetReporter says who hears of what happens. It is called before Run.
func (d *Daemon) SetReporter(r Reporter) { d.reporter = r }

// post has the loop call f, and reports whether it will.
func (d *Daemon) post(f func()) bool {
	select {
	case d.calls <- f:
		return true
	case <-d.quit:
		return false
	}
}

// call has the loop call f and waits until it has; it returns an error where
// the loop does not.
func (d *Daemon) call(ctx context.Context, f func()) error {
	done := make(chan struct{})
	select {
	case d.calls <- func() { defer close(done); f() }:
		<-done
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-d.quit:
		return errStopped
	}
}

// waiter waits for the end of a command.
type waiter struct {
	log  func(vici.Line)     // may be nil
	ikes map[uint32]struct{} // IKE SAs that the command's lines named
	done func(error)         // called in the loop
}

// wait registers a command and returns its number.
func (d *Daemon) wait(log func(vici.Line), done func(error)) uint64 {
	d.command++
	d.waiters[d.command] = &waiter{log: log, done: done, ikes: make(map[uint32]struct{})}
	return d.command
}

// finish answers a command, where somebody waits for it.
func (d *Daemon) finish(command uint64, err error) {
	if w := d.waiters[command]; w != nil {
		delete(d.waiters, command)
		w.done(err)
	}
}
