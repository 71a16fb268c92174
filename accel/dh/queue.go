// SPDX-License-Identifier: Apache-2.0

package dh

// queue holds the requests that wait: a line for each group, so that requests
// of one group can be taken together. The group whose first request has waited
// longest is served first, so no group starves. The zero value with a limit is
// ready; it is not safe for concurrent use.
type queue struct {
	limit  int // of length
	length int // requests in all lines
	next   uint64
	lines  map[Group][]waiting
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
		q.lines = make(map[Group][]waiting)
	}
	q.lines[r.Group] = append(q.lines[r.Group], waiting{q.next, r})
	q.next++
	q.length++
	return true
}

// take removes and returns, in the order of arrival, up to lanes requests of the
// group that is to be served next, of which a number waits. It returns nil where
// none does.
func (q *queue) take(lanes func(g Group, waiting int) int) []*Request {
	if q.length == 0 {
		return nil
	}
	var group Group
	first := q.next
	for g, line := range q.lines {
		if len(line) > 0 && line[0].place < first {
			group, first = g, line[0].place
		}
	}
	line := q.lines[group]
	n := min(lanes(group, len(line)), len(line))
	batch := make([]*Request, n)
	for i := range batch {
		batch[i] = line[i].r
	}
	rest := copy(line, line[n:])
	clear(line[rest:])
	q.lines[group] = line[:rest]
	q.length -= n
	return batch
}
