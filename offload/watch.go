// SPDX-License-Identifier: Apache-2.0

package offload

import (
	"time"

	"quicksand/sa"
)

// The kernel does not say when an SA is first used, so new pairs are looked at:
// soon and often where another pair of the child is to go then, for the daemon
// waits for that; at leisure where there is none.
const (
	watchFirst = 10 * time.Millisecond
	watchAlone = time.Second
	watchLast  = 30 * time.Second
)

// watch is when a pair is next looked at.
type watch struct{ since, next time.Time }

// interval is how long to wait before the pair is looked at again: half its
// age.
func (w watch) interval(now time.Time) time.Duration {
	return min(max(now.Sub(w.since)/2, watchFirst), watchLast)
}

// due reports whether the pair is looked at now: early, rather than that each
// of many pairs has a time of its own.
func (w watch) due(now time.Time) bool {
	return w.next.Sub(now) <= w.interval(now)/4
}

// watchSoon has a new pair watched. The lock is held.
func (b *Backend) watchSoon(p *pair) {
	now := time.Now()
	wait := watchFirst
	if len(p.child.pairs) == 1 {
		wait = watchAlone
	}
	p.watch = watch{now, now.Add(wait)}
	b.unused[p.ID] = p
	if !p.watch.next.Before(b.watching) {
		return
	}
	b.watching = p.watch.next
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

// watchPairs looks at pairs that were not used yet, until the backend is
// closed.
func (b *Backend) watchPairs() {
	timer := time.NewTimer(watchLast)
	defer timer.Stop()
	for {
		b.mu.Lock()
		now := time.Now()
		wait := b.lookForUse(now)
		b.watching = now.Add(wait)
		timer.Reset(wait)
		b.mu.Unlock()
		select {
		case <-b.stop:
			return
		case <-b.wake:
		case <-timer.C:
		}
	}
}

// lookForUse looks at the pairs that are due, and returns when the next ones
// are. The lock is held.
func (b *Backend) lookForUse(now time.Time) time.Duration {
	wait := watchLast
	var due []*pair
	var requests []request
	for _, p := range b.unused {
		if !p.watch.due(now) {
			wait = min(wait, p.watch.next.Sub(now))
			continue
		}
		due = append(due, p)
		requests = append(requests, reading(p.in.ID))
	}
	for i, r := range b.conn.do(requests...) {
		p := due[i]
		if s, err := answer(r); err == nil && s.Packets > 0 {
			delete(b.unused, p.ID)
			b.events.emit(sa.Event{Kind: sa.FirstUse, Pair: p.ID})
			continue
		}
		d := p.watch.interval(now)
		p.watch.next = now.Add(d)
		wait = min(wait, d)
	}
	return wait
}
