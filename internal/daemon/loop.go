// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"quicksand/ike"
	"quicksand/sa"
)

// shutdownTime bounds how long closing the backends and sockets may take.
const shutdownTime = 5 * time.Second

// Run carries out the start actions and serves until ctx ends, then deletes
// every SA, tells the peers, and closes all parts. It is called once.
func (d *Daemon) Run(ctx context.Context) error {
	helpers, stop := context.WithCancel(context.WithoutCancel(ctx))
	d.resolved = helpers
	for _, b := range d.place.backends {
		d.helpers.Go(func() { d.forward(helpers, b.Events()) })
	}
	d.start()
	d.loop(ctx)
	d.say(slog.LevelInfo, "DMN", "shutting down: deleting all SAs")
	d.run(d.engine.Shutdown(time.Now()))
	close(d.quit)
	stop()
	for id := range d.waiters {
		d.finish(id, errStopped)
	}
	for _, at := range d.attempts {
		at.stop()
	}
	err := d.close()
	if err != nil {
		d.say(slog.LevelError, "DMN", "shutdown was not clean: "+err.Error())
	} else {
		d.say(slog.LevelInfo, "DMN", "shut down")
	}
	return err
}

// loop takes one input after the other until ctx ends. Datagrams that come while
// it has nothing to do are handled by the sockets' readers instead.
func (d *Daemon) loop(ctx context.Context) {
	d.turn.Lock()
	d.timer = time.NewTimer(time.Hour)
	d.armed = time.Time{}
	d.endTurn()
	handler := d.handleNow
	d.in.handler.Store(&handler)
	defer func() {
		d.in.handler.Store(nil)
		d.turn.Lock()
		d.over = true
		d.timer.Stop()
		d.turn.Unlock()
	}()
	for {
		select {
		case <-ctx.Done():
			return
		case f := <-d.calls:
			d.turn.Lock()
			f()
		case r := <-d.results:
			d.turn.Lock()
			d.computes--
			d.run(d.engine.DHDone(time.Now(), r))
		case ev := <-d.events:
			d.turn.Lock()
			d.event(ev)
		case <-d.timer.C:
			d.turn.Lock()
			d.tick()
		case in := <-d.in.datagrams:
			d.turn.Lock()
			d.run(d.engine.Handle(time.Now(), in))
		}
		d.endTurn()
	}
}

// handleNow handles a datagram in a socket's reader, and refuses where it would
// have to wait. The loop never waits long for readers that keep coming: a mutex
// that somebody has waited for a millisecond is not to be had by trying.
func (d *Daemon) handleNow(in ike.Datagram) bool {
	if !d.turn.TryLock() {
		return false
	}
	if d.over {
		d.turn.Unlock()
		return false
	}
	d.run(d.engine.Handle(time.Now(), in))
	d.endTurn()
	return true
}

// endTurn gives the turn back.
func (d *Daemon) endTurn() {
	d.arm()
	d.turn.Unlock()
}

// arm has the loop woken when the engine wants to be called. A timer that is set
// for earlier stays: most messages set a deadline and strike another off, and
// moving the timer each time costs more than one wake-up in vain.
func (d *Daemon) arm() {
	next, ok := d.engine.Next()
	if !ok || !d.armed.IsZero() && !next.Before(d.armed) {
		return
	}
	d.armed = next
	d.timer.Reset(time.Until(next))
}

// tick does what is due.
func (d *Daemon) tick() {
	now := time.Now()
	d.armed = time.Time{}
	if next, ok := d.engine.Next(); ok && !next.After(now) {
		d.run(d.engine.Tick(now))
	}
}

// forward hands a backend's events to the loop.
func (d *Daemon) forward(ctx context.Context, from <-chan sa.Event) {
	for {
		select {
		case <-ctx.Done():
			return
		case ev, ok := <-from:
			if !ok {
				return
			}
			select {
			case d.events <- ev:
			case <-ctx.Done():
				return
			}
		}
	}
}

// event handles a backend's event: an acquire is the daemon's own, what befalls
// a manually keyed pair as well, the rest is the engine's.
func (d *Daemon) event(ev sa.Event) {
	if ev.Kind == sa.Moved {
		d.moved(&ev)
	}
	switch {
	case ev.Kind == sa.Acquire:
		t := target{ev.Policy.Conn, ev.Policy.Child}
		from, to := ev.Packet[0], ev.Packet[1]
		if !from.IsValid() || !to.IsValid() {
			from, to = ev.Policy.LocalTS, ev.Policy.RemoteTS
		}
		d.say(slog.LevelInfo, "KNL", fmt.Sprintf("traffic for %s === %s wants child %s", from, to, t), connAttr(t.conn))
		d.want(t)
	case ev.Pair >= firstManualID:
		d.manualEvent(ev)
	default:
		d.run(d.engine.Event(time.Now(), ev))
	}
}

// close closes all parts, and gives up waiting for those that hang.
func (d *Daemon) close() error {
	closed := make(chan error, 1)
	go func() {
		errs := []error{d.place.close(), d.transport.Close(), d.dh.Close()}
		if d.keys != nil {
			errs = append(errs, d.keys.close())
		}
		d.helpers.Wait()
		d.discard()
		closed <- errors.Join(errs...)
	}()
	timer := time.NewTimer(shutdownTime)
	defer timer.Stop()
	select {
	case err := <-closed:
		return err
	case <-timer.C:
		return fmt.Errorf("close: not done after %s", shutdownTime)
	}
}

// discard wipes the answers that nobody takes any more.
func (d *Daemon) discard() {
	for {
		select {
		case r := <-d.results:
			r.Shared.Wipe()
			if r.Private != nil {
				r.Private.Wipe()
			}
		default:
			return
		}
	}
}

// run carries out actions in their order. What the engine makes of an answer
// comes after what it had asked for before; so does what is asked for while
// run is at work.
func (d *Daemon) run(actions []ike.Action) {
	d.queue = append(d.queue, actions...)
	if d.running {
		return
	}
	d.running = true
	for i := 0; i < len(d.queue); i++ {
		d.do(d.queue[i])
	}
	clear(d.queue)
	d.queue = d.queue[:0]
	d.running = false
}
