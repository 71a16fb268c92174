// SPDX-License-Identifier: Apache-2.0

package steered

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"quicksand/fallback/esp"
	"quicksand/fallback/tunnel"
	"quicksand/xdp"
)

// device is a device that is steered, or is to be. What is not guarded by a
// lock of its own belongs to whoever holds the wire's mu.
type device struct {
	name  string
	wire  *Wire
	table steering // nil until the program is loaded; goes on while the device is away
	why   string   // why it is not attached
	retry backoff  // of attaching
	done  sync.WaitGroup

	mu    sync.RWMutex // held for reading while frames are sent; guards what follows
	at    *attachment  // nil while it is not attached
	ports [][]*port    // by queue and worker
	flat  []*port
}

// backoff keeps what failed from being tried all the time: each attempt is a
// change of the link as well, which would bring about the next.
type backoff struct {
	next time.Time
	wait time.Duration
}

const longestWait = 30 * time.Second

func (b *backoff) due() bool { return !time.Now().Before(b.next) }

func (b *backoff) failed() {
	b.wait = min(max(2*b.wait, time.Second), longestWait)
	b.next = time.Now().Add(b.wait)
}

// words says how it is attached.
func (d *device) words() string {
	kind := "copy"
	if d.at.zeroCopy {
		kind = "zero-copy"
	}
	return fmt.Sprintf("AF_XDP (%s, %s) on %s", d.at.Mode, kind, d.name)
}

// say logs what became of it, once.
func (d *device) say(why string) {
	was := d.why
	d.why = why
	switch {
	case d.attached():
		d.wire.log.Info("packets are steered", "device", d.name, "way", d.words(), "queues", len(d.ports),
			"workers", d.wire.o.Workers, "taken_over", d.at.TakenOver, "not_native", d.at.Why)
	case why != was:
		d.wire.log.Warn("packets are not steered, and go by sockets", "device", d.name, "error", why)
	}
}

func (d *device) attached() bool { return d != nil && d.at != nil }

// attach loads the program if need be, attaches it, and starts the workers;
// then the SPIs go into the table.
func (d *device) attach() error {
	if d.table == nil {
		table, err := d.wire.host.load(d.name, d.wire.o)
		if err != nil {
			return err
		}
		d.table = table
		for _, a := range d.wire.sas {
			d.insert(a)
		}
	}
	at, err := d.table.start(d.name, d.wire.o.Workers)
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.at = at
	for _, queue := range at.ports {
		var row []*port
		for number, p := range queue {
			row = append(row, newPort(d, number, p))
		}
		d.ports = append(d.ports, row)
		d.flat = append(d.flat, row...)
	}
	for _, p := range d.flat {
		d.done.Go(p.run)
	}
	return nil
}

// detach stops the workers and takes the program off the device. The table
// stays, for when the device comes back.
func (d *device) detach() error {
	if !d.attached() {
		return nil
	}
	d.mu.Lock()
	at, flat := d.at, d.flat
	d.at, d.ports, d.flat = nil, nil, nil
	d.mu.Unlock()
	// Off first, so that packets go to the stack and not to a worker that has
	// ended.
	err := d.table.end(d.name)
	for _, p := range flat {
		p.stopping.Store(true)
		p.port.Wake()
	}
	d.done.Wait()
	return errors.Join(err, at.close())
}

func (d *device) close() error {
	err := d.detach()
	if d.table != nil {
		err = errors.Join(err, d.table.Remove())
	}
	return err
}

func (d *device) insert(a *admitted) {
	if d.table == nil {
		return
	}
	if err := d.table.Insert(a.key, target(a.worker)); err != nil {
		d.wire.log.Warn("an SA is not steered, and goes by sockets", "device", d.name, "error", err)
	}
}

func (d *device) delete(a *admitted) {
	if d.table == nil {
		return
	}
	if _, err := d.table.Delete(a.key); err != nil && !errors.Is(err, xdp.ErrUnknown) {
		d.wire.log.Warn("an SA stays in the table", "device", d.name, "error", err)
	}
}

func target(worker int) xdp.Target { return xdp.Target{Action: xdp.ToSocket, Number: uint16(worker)} }

// Waiting for frames that are still being sent: so often, and no longer.
const (
	sendPause = 50 * time.Microsecond
	sendLimit = 10 * time.Millisecond
)

// send sends packets that fit in frames of the device, or returns false and
// leaves them alone if the device is not there any more. Packets of one SA
// take one queue.
func (d *device) send(o *out, p tunnel.Path, batch []esp.Packet) bool {
	d.mu.RLock()
	defer d.mu.RUnlock()
	if d.at == nil || d.at.index != o.index {
		return false
	}
	spi := esp.SPIOf(batch[0].Bytes())
	t := d.flat[uint32(spi)%uint32(len(d.flat))]
	t.sending.Lock()
	defer t.sending.Unlock()
	for len(batch) > 0 {
		frames := t.out[:min(len(batch), len(t.out))]
		n := t.alloc(frames)
		if n == 0 {
			fail(batch, unix.ENOBUFS)
			break
		}
		good := 0
		for i := range batch[:n] {
			if batch[i].Err = fill(&frames[good], o.link, p, &batch[i], uint16(d.wire.id.Add(1))); batch[i].Err == nil {
				good++
			}
		}
		if err := t.push(frames[:good]); err != nil {
			fail(batch[:n], err)
		}
		t.sent.Add(uint64(good))
		t.port.Free(frames[:n]) // what was not sent
		batch = batch[n:]
	}
	return true
}

func fail(batch []esp.Packet, err error) {
	for i := range batch {
		batch[i].Err = err
	}
}

// alloc gets frames, and waits for some if there are none.
func (t *port) alloc(frames []xdp.Frame) int {
	for waited := time.Duration(0); ; waited += sendPause {
		if n := t.port.Alloc(frames); n > 0 || waited >= sendLimit {
			return n
		}
		if _, err := t.port.Send(nil); err != nil {
			return 0
		}
		time.Sleep(sendPause)
	}
}

// push sends all the frames, or says why it does not.
func (t *port) push(frames []xdp.Frame) error {
	for waited := time.Duration(0); ; waited += sendPause {
		n, err := t.port.Send(frames)
		if err != nil {
			return err
		}
		if frames = frames[n:]; len(frames) == 0 {
			return nil
		}
		if waited >= sendLimit {
			return unix.ENOBUFS
		}
		time.Sleep(sendPause)
	}
}
