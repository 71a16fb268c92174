// SPDX-License-Identifier: Apache-2.0

package ike

import (
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"quicksand/ike/isakmp"
)

// An exchange is a script: a table of steps for its initiator and one for its
// responder. The steps run in order; a receive step waits for its message, a
// compute step may wait for an answer from outside.
type (
	step struct {
		name       string
		receive    func(*exchange, *message) error
		send       func(*exchange) ([]isakmp.Payload, error)
		compute    func(*exchange) error
		retransmit bool                 // of send: repeat until the next message comes
		when       func(*exchange) bool // nil: always
	}
	script []step
)

// exchange is one exchange under way, or kept for a while after its end to
// answer the peer's repeats.
type exchange struct {
	e         *Engine
	s         *ikeSA
	kind      isakmp.ExchangeType
	mid       uint32
	initiator bool
	command   uint64
	begun     time.Time
	script    script
	at        int    // the step that is next
	asked     uint64 // the answer that is waited for
	over      bool
	iv        []byte // of the next encrypted message; nil while in clear
	lastIn    [sha256.Size]byte
	lastOut   []byte
	rt        retransmit
	busy      int        // times that the DH queue was full
	held      PrivateKey // while a computation is to be asked for again
	hint      string     // what the peer said without proof, for the operator
	m         *mainMode
	q         *quickMode
}

// refusal ends an exchange and tells the peer why.
type refusal struct {
	notify isakmp.NotifyType
	why    string
}

func (r *refusal) Error() string { return fmt.Sprintf("%s (%s)", r.why, r.notify) }

func refuse(n isakmp.NotifyType, format string, args ...any) error {
	return &refusal{n, fmt.Sprintf(format, args...)}
}

// dropped is a message that changes nothing: it costs a counter and a line.
type dropped struct{ counter, why string }

func (d *dropped) Error() string { return d.why }

func drop(counter, format string, args ...any) error {
	return &dropped{counter, fmt.Sprintf(format, args...)}
}

var errStopped = errors.New("the daemon stops")

// run takes the steps that wait for nothing.
func (x *exchange) run() {
	for !x.over && x.asked == 0 {
		st := x.next()
		if st == nil {
			x.finish()
			return
		}
		if st.receive != nil {
			x.giveUpLater()
			return
		}
		x.at++
		var err error
		if st.compute != nil {
			err = st.compute(x)
		} else {
			err = x.send(st)
		}
		if err != nil {
			x.fail(err)
		}
	}
}

// giveUpLater ends an exchange that waits for a message and repeats nothing
// itself, after as long as the peer may go on repeating.
func (x *exchange) giveUpLater() {
	if t := x.rt.timer; t != nil && t.index >= 0 {
		return
	}
	x.rt.timer = x.e.after(linger, func() {
		x.e.count("ike.timeouts")
		x.fail(errors.New("the peer did not go on"))
	})
}

// next returns the step that is due, or nil at the end.
func (x *exchange) next() *step {
	for ; x.at < len(x.script); x.at++ {
		if st := &x.script[x.at]; st.when == nil || st.when(x) {
			return st
		}
	}
	return nil
}

// await has the exchange wait for the answer to a request; next gets it.
func (x *exchange) await(next func(any) error) uint64 {
	x.asked = x.e.ask(func(v any) {
		x.asked = 0
		if x.over {
			x.giveBack(v)
			return
		}
		if err := next(v); err != nil {
			x.fail(err)
			return
		}
		x.run()
	})
	return x.asked
}

// How often and after what time a computation is asked for again.
const (
	busyTries = 10
	busyWait  = time.Second
)

// compute has a Diffie-Hellman computation done. Where the queue is full, new
// negotiations suffer and those under way do not: what we begin fails, what the
// peer begins waits for its repeat, and what is half done asks again.
func (x *exchange) compute(c ComputeDH, done func(DHResult) error) {
	c.From = x.s.remote.Addr()
	c.Token = x.await(func(v any) error {
		r := v.(DHResult)
		switch {
		case !errors.Is(r.Err, ErrBusy):
			return done(r)
		case !x.initiator:
			x.postpone()
			return nil
		case c.Peer != nil && x.busy < busyTries:
			x.busy++
			x.held, x.asked = c.Private, later
			x.rt.timer = x.e.after(busyWait, func() {
				x.held = nil
				x.compute(c, done)
			})
			return nil
		}
		return done(r)
	})
	x.e.emit(c)
}

// later is an answer waited for that a timer asks for.
const later = ^uint64(0)

// postpone takes an exchange of the peer's back to before its last message,
// which counts as new when it is repeated.
func (x *exchange) postpone() {
	x.e.log(x.s, 0, slog.LevelWarn, fmt.Sprintf("%s has to wait for the peer's repeat: %v", x.what(), ErrBusy))
	if x.kind == isakmp.QuickMode {
		x.s.mids.forget(x.mid)
		x.failQuick(ErrBusy)
		return
	}
	for x.at--; x.script[x.at].receive == nil; x.at-- {
	}
	x.lastIn = [sha256.Size]byte{}
}

// giveBack undoes what an answer brings to an exchange that is over.
func (x *exchange) giveBack(v any) {
	switch r := v.(type) {
	case DHResult:
		if r.Private != nil {
			r.Private.Wipe()
		}
	case spiResult:
		if r.err == nil {
			x.releaseSPI(reservation{x.q.reserving, r.spi})
		}
	case installResult:
		if r.err != nil {
			x.notInstalled()
		} else {
			x.q.child.discard()
		}
	}
}

func (x *exchange) send(st *step) error {
	payloads, err := st.send(x)
	if err != nil {
		return err
	}
	flags := isakmp.Flags(0)
	if x.q != nil && x.q.weCommit {
		flags = isakmp.Commit
	}
	x.lastOut, x.iv = x.s.encode(x.kind, x.mid, flags, x.iv, payloads)
	x.s.transmit(x.lastOut)
	x.e.stop(x.rt.timer)
	if next := x.next(); st.retransmit && next != nil && next.receive != nil {
		x.rt = retransmit{}
		x.schedule()
	}
	return nil
}

// schedule sets the timer of the next repeat, or of the end.
func (x *exchange) schedule() {
	x.rt.timer = x.e.after(x.e.retransmitDelay(x.rt.tries), func() {
		if x.rt.tries >= x.e.opt.RetransmitTries {
			x.timeout()
			return
		}
		x.rt.tries++
		x.e.count("ike.tx.retransmits")
		x.e.log(x.s, x.command, slog.LevelInfo, fmt.Sprintf("sending retransmit %d of %s", x.rt.tries, x.sent()))
		x.s.transmit(x.lastOut)
		x.schedule()
		if x.kind == isakmp.QuickMode {
			x.s.nextTurn()
		}
	})
}

// sent names the message that was sent last.
func (x *exchange) sent() string {
	for i := x.at - 1; i >= 0; i-- {
		if x.script[i].send != nil {
			return x.script[i].name
		}
	}
	return "nothing"
}

// receive takes in a message that belongs to the exchange and is no repeat.
func (x *exchange) receive(m *message) {
	var st *step
	if !x.over && x.asked == 0 {
		st = x.next()
	}
	if st == nil || st.receive == nil {
		x.e.reject(x.s, m, drop("ike.rx.out-of-order", "no %s message was due", m.h.Exchange))
		return
	}
	err := st.receive(x, m)
	var d *dropped
	if errors.As(err, &d) {
		x.e.reject(x.s, m, err)
		if d.counter == "ike.rx.bad-hash" {
			x.s.complain(isakmp.InvalidHashInformation)
		}
		return
	}
	x.lastIn = m.sum
	x.e.stop(x.rt.timer)
	if m.iv != nil {
		x.iv = m.iv
	}
	x.s.heard(m)
	if err != nil {
		x.fail(err)
		return
	}
	x.at++
	x.run()
}

// repeated answers a message that has come before with what it was answered
// with then, and reports whether it was one.
func (x *exchange) repeated(m *message) bool {
	if subtle.ConstantTimeCompare(x.lastIn[:], m.sum[:]) != 1 {
		return false
	}
	x.e.count("ike.rx.repeats")
	if x.lastOut != nil && x.asked == 0 {
		x.s.transmit(x.lastOut)
	}
	return true
}

// close ends the exchange, whatever became of it.
func (x *exchange) close() {
	x.over = true
	x.e.stop(x.rt.timer)
	x.asked = 0
	if x.held != nil {
		x.held.Wipe()
		x.held = nil
	}
	if x.m != nil {
		x.m.wipe()
	}
	if x.q != nil {
		x.q.wipe()
	}
}

func (x *exchange) finish() {
	if x.kind == isakmp.MainMode {
		x.finishMain()
	} else {
		x.finishQuick()
	}
}

// fail ends the exchange for a reason that the peer is told where it is a
// refusal.
func (x *exchange) fail(err error) {
	if x.over {
		return
	}
	x.e.log(x.s, x.command, slog.LevelWarn, fmt.Sprintf("%s failed: %v", x.what(), err))
	var r *refusal
	if errors.As(err, &r) {
		x.notifyRefusal(r)
	}
	if x.kind == isakmp.MainMode {
		x.failMain(err)
	} else {
		x.failQuick(err)
	}
}

func (x *exchange) timeout() {
	err := fmt.Errorf("no answer to %s after %d retransmits", x.sent(), x.rt.tries)
	if x.hint != "" {
		err = fmt.Errorf("%w; without proof of who it is, the peer said %s", err, x.hint)
	}
	x.e.count("ike.timeouts")
	x.e.log(x.s, x.command, slog.LevelWarn, fmt.Sprintf("%s failed: %v", x.what(), err))
	if x.kind == isakmp.MainMode {
		x.timeoutMain(err)
		return
	}
	x.failQuick(err)
	if x.initiator && !x.s.lastHeard.After(x.begun) {
		// Perhaps the peer does not know the IKE SA any more.
		x.s.renew()
	}
}

func (x *exchange) what() string {
	if x.q != nil && x.q.cfg != nil {
		return fmt.Sprintf("Quick Mode %08x for %s", x.mid, x.q.cfg.Name)
	}
	if x.kind == isakmp.QuickMode {
		return fmt.Sprintf("Quick Mode %08x", x.mid)
	}
	return "Main Mode"
}
