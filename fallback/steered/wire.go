// SPDX-License-Identifier: Apache-2.0

// Package steered is a tunnel.Wire over XDP: packets of the SAs that it is told
// of are steered by their SPI (ESP, RFC 4303; AH, RFC 4302; ESP in UDP, RFC
// 3948) to AF_XDP sockets, each of which has a goroutine that takes them
// through the plane where they lie; and packets that leave by a steered device
// are written into its frames. Another wire, the sockets', stays below it and
// carries whatever cannot go so.
//
// Each device has a program and tables of its own. An inbound SA belongs to one
// worker by number; of each receive queue the worker has one socket. Which
// worker that is follows the load.
package steered

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"quicksand/fallback/esp"
	"quicksand/fallback/tunnel"
	"quicksand/sa"
	"quicksand/xdp"
)

// Options are a wire's settings.
type Options struct {
	// Devices are steered as soon as they are there. Auto adds each device that
	// SAs' packets leave by, as long as the wire is open.
	Devices []string
	Auto    bool
	// Cores are the CPUs that workers are bound to, one each; without any,
	// Workers of them run anywhere, and 0 is one for each CPU, up to 8.
	Cores   []int
	Workers int
	// PinPath is a folder in a BPF file system below which tables and links of
	// Devices are kept, so that a process that comes after a crash takes steering over with
	// no gap; they go with Close. Empty is none.
	PinPath string
	// Sockets is the wire for the rest; Close closes it as well.
	Sockets tunnel.Wire
	Mark    int       // SO_MARK by which routes are found
	Ports   [2]uint16 // IKE, and IKE and ESP
	// IKEInterval and IKEBurst limit new exchanges of one source, as in
	// xdp.Options.
	IKEInterval time.Duration
	IKEBurst    int
	Log         *slog.Logger

	host host // the machine, of which tests have their own
}

// Wire is the joined wire.
type Wire struct {
	o      Options
	log    *slog.Logger
	floor  tunnel.Wire
	host   host
	routes *routes
	input  atomic.Pointer[func(*tunnel.Batch)]
	moved  atomic.Pointer[func(sa.SPI, string)]
	bad    atomic.Uint64 // frames that were steered and hold no packet
	id     atomic.Uint32 // last IPv4 identification
	stop   chan struct{}
	done   sync.WaitGroup

	live atomic.Pointer[map[string]*device] // those attached

	telling sync.Mutex // keeps reports of moves in order
	mu      sync.Mutex // guards what follows
	closed  bool
	devices map[string]*device
	sas     map[sa.SPI]*admitted
	workers []worker
}

var _ tunnel.Wire = (*Wire)(nil)

// admitted is an inbound SA.
type admitted struct {
	key    xdp.Key
	worker int
	way    *way
	how    string // its packets go
	bytes  uint64 // at the last look at the load
	moving bool
}

// worker is what is known of the load of all sockets of one number.
type worker struct {
	sas  int
	busy time.Duration // at the last look
}

const maxWorkers = 8

// New opens the named devices that are there; that one cannot be steered is
// told by Status and by every placement, and no error.
func New(o Options) (*Wire, error) {
	if o.Log == nil {
		o.Log = slog.Default()
	}
	if o.host == nil {
		o.host = &linux{}
	}
	switch {
	case len(o.Cores) > 0:
		o.Workers = len(o.Cores)
	case o.Workers == 0:
		o.Workers = min(o.host.cpus(), maxWorkers)
	}
	w := &Wire{
		o: o, log: o.Log, floor: o.Sockets, host: o.host,
		stop:    make(chan struct{}),
		devices: map[string]*device{},
		sas:     map[sa.SPI]*admitted{},
		workers: make([]worker, o.Workers),
	}
	w.live.Store(&map[string]*device{})
	err := w.host.prepare(w.o)
	if err != nil {
		w.log.Warn("only some devices can be steered", "error", err)
	}
	if w.routes, err = newRoutes(w); err != nil {
		return nil, errors.Join(fmt.Errorf("steer packets: %w", err), w.host.close())
	}
	w.mu.Lock()
	for _, name := range o.Devices {
		w.steer(name)
	}
	w.mu.Unlock()
	w.done.Go(w.routes.follow)
	w.done.Go(w.routes.tick)
	w.done.Go(w.balance)
	return w, nil
}

// steer begins to steer the device, or tries again. w.mu is held.
func (w *Wire) steer(name string) *device {
	d := w.devices[name]
	if d == nil {
		d = &device{name: name, wire: w}
		w.devices[name] = d
	}
	if w.closed || d.attached() || !d.retry.due() {
		return d
	}
	err := d.attach()
	why := ""
	if err != nil {
		why = err.Error()
		d.retry.failed()
	} else {
		d.retry = backoff{}
	}
	d.say(why)
	w.publish()
	return d
}

// publish shows which devices are attached to those who send. w.mu is held.
func (w *Wire) publish() {
	live := map[string]*device{}
	for name, d := range w.devices {
		if d.attached() {
			live[name] = d
		}
	}
	w.live.Store(&live)
}

// unattached says whether it is time to try again to attach to a device that is
// there.
func (w *Wire) unattached() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for name, d := range w.devices {
		if !d.attached() && d.retry.wait > 0 && d.retry.due() && w.host.index(name) != 0 {
			return true
		}
	}
	return false
}

// linksChanged lets devices go that are not there any more, and begins with
// those that are back.
func (w *Wire) linksChanged() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for name, d := range w.devices {
		index := w.host.index(name)
		if d.attached() && d.at.index != index {
			if err := d.detach(); err != nil {
				w.log.Debug("detach from a device that is gone", "device", name, "error", err)
			}
			d.say("the interface is gone")
			d.retry = backoff{}
			w.publish()
		}
		if !d.attached() && index != 0 {
			w.steer(name)
		}
	}
}

// wanted says whether the device is to be steered. w.mu is held.
func (w *Wire) wanted(name string) bool {
	return w.o.Auto || slices.Contains(w.o.Devices, name)
}

// Carries implements tunnel.Wire.
func (w *Wire) Carries(p tunnel.Path) error { return w.floor.Carries(p) }

// keyOf is how the program finds the packets of an inbound SA.
func keyOf(spi sa.SPI, p tunnel.Path) xdp.Key {
	k := xdp.Key{Destination: p.Local.Addr(), SPI: spi, Protocol: sa.ESP}
	if p.Proto == uint8(sa.AH) {
		k.Protocol = sa.AH
	}
	return k
}

// Admit implements tunnel.Wire: when it returns, the SPI is in the table of
// every steered device.
func (w *Wire) Admit(spi sa.SPI, p tunnel.Path) string {
	w.floor.Admit(spi, p)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return "sockets"
	}
	key := keyOf(spi, p)
	a := w.sas[spi]
	if a != nil && a.key != key {
		w.forget(a)
		a = nil
	}
	way := w.routes.hold(ends{p.Local.Addr(), p.Remote.Addr()})
	if a != nil {
		w.routes.release(a.way)
		a.way = way
	} else {
		a = &admitted{key: key, worker: w.idlest(), way: way}
		w.sas[spi] = a
		w.workers[a.worker].sas++
		for _, d := range w.devices {
			d.insert(a)
		}
	}
	device, why := w.routes.words(way)
	if device != "" && w.wanted(device) && !w.devices[device].attached() {
		w.steer(device)
		w.routes.again(way)
	}
	a.how = w.words(device, why)
	return a.how
}

// tellMoves reports the SAs whose packets take another way than before.
func (w *Wire) tellMoves() {
	w.telling.Lock()
	defer w.telling.Unlock()
	how := map[sa.SPI]string{}
	w.mu.Lock()
	for spi, a := range w.sas {
		if now := w.words(w.routes.words(a.way)); now != a.how {
			a.how, how[spi] = now, now
		}
	}
	w.mu.Unlock()
	if moved := w.moved.Load(); moved != nil && *moved != nil {
		for spi, now := range how {
			(*moved)(spi, now)
		}
	}
}

// words says how the packets of an SA go, for its placement: by the device, or
// why not.
func (w *Wire) words(device, why string) string {
	d := w.devices[device]
	switch {
	case device == "":
		return "sockets: " + why
	case d.attached():
		return d.words()
	case d == nil:
		return "sockets: xdp_interfaces does not name " + device
	}
	return "sockets: " + d.why
}

// idlest is the worker that a new SA goes to.
func (w *Wire) idlest() int {
	best := 0
	for i := range w.workers {
		if w.workers[i].sas < w.workers[best].sas {
			best = i
		}
	}
	return best
}

// Dismiss implements tunnel.Wire.
func (w *Wire) Dismiss(spi sa.SPI, p tunnel.Path) {
	w.floor.Dismiss(spi, p)
	w.mu.Lock()
	defer w.mu.Unlock()
	if a := w.sas[spi]; a != nil && a.key == keyOf(spi, p) {
		w.forget(a)
	}
}

// Advance implements tunnel.Wire. Packets of extended sequence numbers do not come
// here, whose low half alone tells nothing. It is called by workers, and so does not
// wait for whoever changes the wire.
func (w *Wire) Advance(spi sa.SPI, p tunnel.Path, floor uint32) bool {
	if !w.mu.TryLock() {
		return false
	}
	defer w.mu.Unlock()
	a := w.sas[spi]
	if a == nil || a.key != keyOf(spi, p) {
		return true
	}
	for _, d := range w.devices {
		if d.table == nil {
			continue
		}
		if err := d.table.SetFloor(a.key, floor); err != nil && !errors.Is(err, xdp.ErrUnknown) {
			w.log.Debug("a replay window's floor is not set", "device", d.name, "spi", spi, "error", err)
		}
	}
	return true
}

func (w *Wire) forget(a *admitted) {
	delete(w.sas, a.key.SPI)
	w.workers[a.worker].sas--
	for _, d := range w.devices {
		d.delete(a)
	}
	w.routes.release(a.way)
}

// Send implements tunnel.Wire. What fits goes into the frames of the device,
// and the rest to the sockets.
func (w *Wire) Send(p tunnel.Path, batch []esp.Packet) {
	out := w.routes.find(ends{p.Local.Addr(), p.Remote.Addr()})
	if out == nil {
		w.floor.Send(p, batch)
		return
	}
	most := min(p.MTU, out.mtu) - overhead(p)
	for len(batch) > 0 {
		fits := batch[0].Len <= most
		n := 1
		for n < len(batch) && (batch[n].Len <= most) == fits {
			n++
		}
		if !fits || !out.device.send(out, p, batch[:n]) {
			w.floor.Send(p, batch[:n])
		}
		batch = batch[n:]
	}
}

// Receive implements tunnel.Wire.
func (w *Wire) Receive(input func(*tunnel.Batch), moved func(sa.SPI, string)) {
	w.input.Store(&input)
	w.moved.Store(&moved)
	w.floor.Receive(input, moved)
}

// PathMTU implements tunnel.Wire.
func (w *Wire) PathMTU(local, remote netip.Addr) (int, error) { return w.floor.PathMTU(local, remote) }

// Close takes the programs off the devices and closes everything, the sockets'
// wire too.
func (w *Wire) Close() error {
	w.mu.Lock()
	if w.closed {
		w.mu.Unlock()
		return nil
	}
	w.closed = true
	close(w.stop)
	w.mu.Unlock()
	errs := []error{w.routes.close()}
	w.done.Wait()
	for _, d := range w.devices {
		errs = append(errs, d.close())
	}
	errs = append(errs, w.host.close())
	if w.o.PinPath != "" {
		// Not there, or still somebody else's: both are well.
		_ = os.Remove(w.o.PinPath)
		_ = os.Remove(filepath.Dir(w.o.PinPath))
	}
	return errors.Join(append(errs, w.floor.Close())...)
}
