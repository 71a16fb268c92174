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
	waits  map[string]int // requests of each requester, in all lines
}

// put adds a request, and reports false where the queue is full: for a requester
// that has a name it is when as many of its requests wait as there are places
// left, so that one alone leaves half of them to others (Choudhury and Hahne 1998).
func (q *queue) put(r *Request) bool {
	if q.length >= q.limit || r.Requester != "" && q.waits[r.Requester] >= q.limit-q.length {
		return false
	}
	if q.lines == nil {
		q.lines, q.waits = make(map[Group]*line), make(map[string]int)
	}
	l := q.lines[r.Group]
	if l == nil {
		l = &line{requesters: make(map[string]*requester)}
		q.lines[r.Group] = l
	}
	if l.length == 0 {
		l.had = max(l.had, q.clock)
	}
	l.put(waiting{q.next, r})
	q.waits[r.Requester]++
	q.next++
	q.length++
	return true
}

// take removes and returns up to lanes requests of the group that is to be served
// next, of which a number waits. It returns nil where none does.
func (q *queue) take(lanes func(g Group, waiting int) int) []*Request {
	g, l := q.first()
	if l == nil {
		return nil
	}
	return q.remove(l, lanes(g, l.length))
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
	return q.remove(l, lanes(g, l.length))
}

// first returns the line that is to be served next, nil where nothing waits.
func (q *queue) first() (group Group, l *line) {
	if q.length == 0 {
		return 0, nil
	}
	for g, m := range q.lines {
		if m.length > 0 && (l == nil || m.before(l)) {
			group, l = g, m
		}
	}
	return group, l
}

// remove takes up to n requests out of a line, and charges it for them.
func (q *queue) remove(l *line, n int) []*Request {
	batch := l.take(min(n, l.length))
	for _, r := range batch {
		if q.waits[r.Requester]--; q.waits[r.Requester] == 0 {
			delete(q.waits, r.Requester)
		}
	}
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

// line is the requests of one group, which cost the same. Its requesters are served
// in turn, one request each. Who was served takes its next turn after all who came
// until the next requests are taken: a flood holds another's request up for the
// computation that runs. Nobody overtakes who has a turn, so that no multitude of
// requesters starves another.
type line struct {
	length     int
	had        time.Duration // of the workers' time, or what others had while it was empty
	cost       time.Duration // of what was last taken together; 0: not known yet
	requesters map[string]*requester
	turns      []*requester // who is served next; each has requests waiting
	served     []*requester // who was served last and has more
}

// requester is what waits of one of them, in the order of arrival.
type requester struct {
	name    string
	waiting []waiting
}

// waiting is a request and its place in the order of arrival.
type waiting struct {
	place uint64
	r     *Request
}

func (l *line) put(w waiting) {
	of := l.requesters[w.r.Requester]
	if of == nil {
		of = &requester{name: w.r.Requester}
		l.requesters[of.name] = of
		l.turns = append(l.turns, of)
	}
	of.waiting = append(of.waiting, w)
	l.length++
}

// take removes n requests, of which at least as many wait.
func (l *line) take(n int) []*Request {
	l.turnAgain()
	batch := make([]*Request, n)
	for i := range batch {
		if len(l.turns) == 0 {
			l.turnAgain()
		}
		of := shift(&l.turns)
		batch[i] = shift(&of.waiting).r
		if len(of.waiting) > 0 {
			l.served = append(l.served, of)
		} else {
			delete(l.requesters, of.name)
		}
	}
	l.length -= n
	return batch
}

// turnAgain gives those who were served their next turn.
func (l *line) turnAgain() {
	l.turns = append(l.turns, l.served...)
	clear(l.served)
	l.served = l.served[:0]
}

// shift removes the first of a list that has one, and keeps its memory.
func shift[T any](list *[]T) T {
	all := *list
	first := all[0]
	rest := copy(all, all[1:])
	clear(all[rest:])
	*list = all[:rest]
	return first
}

// first returns the place of the request that is taken next. A request waits.
func (l *line) first() uint64 {
	for _, of := range [][]*requester{l.turns, l.served} {
		if len(of) > 0 {
			return of[0].waiting[0].place
		}
	}
	return 0
}

// before reports whether l is to be served before m: it has had less time, or
// as much and its next request came earlier.
func (l *line) before(m *line) bool {
	if l.had != m.had {
		return l.had < m.had
	}
	return l.first() < m.first()
}
