// SPDX-License-Identifier: Apache-2.0

package dh

import "time"

// queue holds the requests that wait: a line for each group, so that requests
// of one group can be taken together. The lines share the workers' time evenly:
// the one that has had least of it is served first, so that a flood in a costly
// group holds a cheap request up for one computation and not for all of them,
// and no line starves. Who waited has no claim on time that it did not ask for
// then (start-time fair queueing, Goyal, Vin and Cheng 1996). The zero value
// with a limit is ready; it is not safe for concurrent use.
type queue struct {
	limit  int // of length
	length int // requests in all lines
	next   uint64
	clock  time.Duration // what the line served last had had before
	lines  map[Group]*line
}

// line is the requests of one group.
type line struct {
	waiting []waiting
	had     time.Duration // of the workers' time, or what others had while it was empty
	cost    time.Duration // of what was last taken together; 0: not known yet
}

// waiting is a request and its place in the order of arrival.
type waiting struct {
	place uint64
	r     *Request
}

// put adds a request, and reports false where the queue is full.
func (q *queue) put(r *Request) bool {
	if q.length >= q.limit {
		return false
	}
	if q.lines == nil {
		q.lines = make(map[Group]*line)
	}
	l := q.lines[r.Group]
	if l == nil {
		l = &line{}
		q.lines[r.Group] = l
	}
	if len(l.waiting) == 0 {
		l.had = max(l.had, q.clock)
	}
	l.waiting = append(l.waiting, waiting{q.next, r})
	q.next++
	q.length++
	return true
}

// before reports whether l is to be served before m: it has had less time, or
// as much and its first request came earlier.
func (l *line) before(m *line) bool {
	if l.had != m.had {
		return l.had < m.had
	}
	return l.waiting[0].place < m.waiting[0].place
}

// take removes and returns, in the order of arrival, up to lanes requests of the
// group that is to be served next, of which a number waits. It returns nil where
// none does.
func (q *queue) take(lanes func(g Group, waiting int) int) []*Request {
	g, l := q.first()
	if l == nil {
		return nil
	}
	return q.remove(l, lanes(g, len(l.waiting)))
}

// cheap is what requests cost that others make way for: at most so much of what
// those cost, in whose caches they leave their own numbers.
const cheap = 8

// takeCheap is take for a worker that computes requests of a group already. It
// returns nil unless those that are next are to be served before that group's
// and cost little.
func (q *queue) takeCheap(than Group, lanes func(g Group, waiting int) int) []*Request {
	g, l := q.first()
	m := q.lines[than]
	if l == nil || m == nil || l.cost == 0 || l.cost > m.cost/cheap || l.had >= m.had {
		return nil
	}
	return q.remove(l, lanes(g, len(l.waiting)))
}

// first returns the line that is to be served next, nil where nothing waits.
func (q *queue) first() (group Group, l *line) {
	if q.length == 0 {
		return 0, nil
	}
	for g, m := range q.lines {
		if len(m.waiting) > 0 && (l == nil || m.before(l)) {
			group, l = g, m
		}
	}
	return group, l
}

// remove takes up to n requests out of a line, and charges it for them.
func (q *queue) remove(l *line, n int) []*Request {
	batch := make([]*Request, min(n, len(l.waiting)))
	for i := range batch {
		batch[i] = l.waiting[i].r
	}
	rest := copy(l.waiting, l.waiting[len(batch):])
	clear(l.waiting[rest:])
	l.waiting = l.waiting[:rest]
	q.length -= len(batch)
	q.clock = l.had
	l.had += l.cost
	return batch
}

// took tells what requests of the group cost that were taken together; the next
// ones are charged as much.
func (q *queue) took(g Group, d time.Duration) {
	if l := q.lines[g]; l != nil {
		l.cost = d
	}
}
