// SPDX-License-Identifier: Apache-2.0

package ike

import (
	"container/heap"
	"time"
)

// timer is something due at a time. It belongs to one timers heap; index is
// -1 while it is in none.
type timer struct {
	at    time.Time
	fire  func()
	index int
}

// timers are what is due, soonest first.
type timers []*timer

func (t timers) Len() int           { return len(t) }
func (t timers) Less(i, j int) bool { return t[i].at.Before(t[j].at) }
func (t timers) Swap(i, j int) {
	t[i], t[j] = t[j], t[i]
	t[i].index, t[j].index = i, j
}
func (t *timers) Push(x any) {
	x.(*timer).index = len(*t)
	*t = append(*t, x.(*timer))
}
func (t *timers) Pop() any {
	old := *t
	x := old[len(old)-1]
	old[len(old)-1] = nil
	*t = old[:len(old)-1]
	x.index = -1
	return x
}

// after has fire called when d has passed.
func (e *Engine) after(d time.Duration, fire func()) *timer {
	t := &timer{at: e.now.Add(d), fire: fire}
	heap.Push(&e.timers, t)
	return t
}

// stop keeps a timer, which may be nil, from firing.
func (e *Engine) stop(t *timer) {
	if t != nil && t.index >= 0 {
		heap.Remove(&e.timers, t.index)
		t.index = -1
	}
}

// Next returns when Tick is due, and whether it ever is.
func (e *Engine) Next() (time.Time, bool) {
	if len(e.timers) == 0 {
		return time.Time{}, false
	}
	return e.timers[0].at, true
}

// Tick does what is due.
func (e *Engine) Tick(now time.Time) []Action {
	e.begin(now)
	for len(e.timers) > 0 && !e.timers[0].at.After(now) {
		heap.Pop(&e.timers).(*timer).fire()
	}
	return e.end()
}

// retransmit sends an exchange's last message again until an answer comes: the
// n-th wait is base * factor^n (strongSwan's schedule).
type retransmit struct {
	tries int
	timer *timer
}

func (e *Engine) retransmitDelay(tries int) time.Duration {
	d := float64(e.opt.RetransmitBase)
	for range tries {
		d *= e.opt.RetransmitFactor
	}
	if j := e.opt.RetransmitJitter; j > 0 {
		d -= d * float64(e.random(uint64(j)*1000)) / 100_000
	}
	if l := e.opt.RetransmitLimit; l > 0 && d > float64(l) {
		d = float64(l)
	}
	return time.Duration(d)
}

// linger is how long the answer to a message is kept for the peer's repeats of
// it: about what a peer with strongSwan's schedule takes to give up.
const linger = 170 * time.Second
