// SPDX-License-Identifier: Apache-2.0

package dh

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync"
	"sync/atomic"
)

// Request asks for a key pair, a shared secret, or both. Its fields stay
// unchanged until Done is called.
type Request struct {
	Group   Group
	Private *PrivateKey // nil: make a key pair
	Peer    []byte      // the peer's public value; nil: no shared secret is wanted
	// Requester names, in the caller's terms, for whom this is. Requests of one
	// group are served one for each requester in turn, and one requester cannot
	// fill the queue. Requests without a name count as one requester's, which may.
	Requester string
	// Done takes the answer. It is called exactly once for each request that
	// Submit accepted, from a worker's thread or from Close, and must neither
	// block nor call Close.
	Done func(Result)
}

// Result answers a Request. Where Err is set nothing else is: a key pair that
// was made for the request is gone, one that came with it stays its owner's.
// Otherwise the caller owns all of it, and wipes Private and Shared when it has
// no more use for them. Err is ErrPublic, ErrWiped, ErrClosed, or the random
// source's error.
type Result struct {
	Private *PrivateKey // the request's own, or the new one
	Public  []byte      // our public value, Group.PublicLen bytes
	Shared  []byte      // g^xy, Group.SharedLen bytes; nil if Peer was
	Err     error
}

// Options sets an Engine up.
type Options struct {
	// Cores are the CPUs that workers are pinned to, one worker on each. The
	// rest of the process is kept away from them by accel.KeepAway.
	Cores []int
	// Workers is the number of workers where Cores is empty; they then run on
	// any CPU. 0 is half of GOMAXPROCS, at least 1.
	Workers int
	// Queue is how many requests may wait; 0 is 1024, which at 1 ms each takes
	// four workers a quarter of a second, well under a peer's patience.
	Queue int
	// Rand is where private keys come from; nil is crypto/rand's Reader. It
	// need not be safe for concurrent use.
	Rand io.Reader
}

const defaultQueue = 1024

// Stats is what an Engine has done since it was made.
type Stats struct {
	Workers  int
	Cores    []int  // that they are pinned to, if any
	Capacity int    // of the queue
	Waiting  int    // requests in the queue now
	Running  int    // requests being computed now
	Answered uint64 // requests answered, errors included
	Invalid  uint64 // of those, with ErrPublic
	Batches  uint64 // groups of requests computed together
	Refused  uint64 // requests refused because the queue was full
}

// Engine computes requests on workers of its own. Requests of one group that
// wait at the same time are handed to the group's kernel together, as many as
// it has lanes.
type Engine struct {
	random  io.Reader
	cores   []int
	kernels map[Group]kernel
	workers sync.WaitGroup

	mu     sync.Mutex // guards what follows
	work   sync.Cond  // a request waits, or the engine is closed
	closed bool
	queue  queue
	idle   int // workers that wait for work
	stats  Stats

	waiting atomic.Int64 // length of the queue, for who does not hold mu
}

// New makes an engine and starts its workers. It fails where a worker cannot be
// pinned to its core.
func New(o Options) (*Engine, error) {
	if o.Rand == nil {
		o.Rand = rand.Reader
	}
	if o.Queue <= 0 {
		o.Queue = defaultQueue
	}
	if o.Workers <= 0 {
		o.Workers = max(1, runtime.GOMAXPROCS(0)/2)
	}
	if len(o.Cores) > 0 {
		o.Workers = len(o.Cores)
	}
	e := &Engine{
		random:  &lockedReader{r: o.Rand},
		cores:   append([]int(nil), o.Cores...),
		kernels: make(map[Group]kernel),
		queue:   queue{limit: o.Queue},
		stats:   Stats{Workers: o.Workers, Capacity: o.Queue},
	}
	for g, info := range groups {
		e.kernels[g] = info.best()
	}
	e.work.L = &e.mu
	ready := make(chan error)
	for i := range o.Workers {
		var core []int
		if len(o.Cores) > 0 {
			core = o.Cores[i : i+1]
		}
		e.workers.Add(1)
		go newWorker(e).run(core, ready)
	}
	var err error
	for range o.Workers {
		err = errors.Join(err, <-ready)
	}
	if err != nil {
		e.Close()
		return nil, fmt.Errorf("start DH workers: %w", err)
	}
	return e, nil
}

// Submit queues a request. It never blocks: it returns ErrQueueFull where the queue
// is, or its Requester has its share of it, ErrClosed, or ErrGroup where the group
// is unknown or is not the private key's, and Done is then not called.
func (e *Engine) Submit(r Request) error {
	if r.Done == nil {
		return errors.New("submit request: no Done to answer it with")
	}
	if _, ok := groups[r.Group]; !ok {
		return fmt.Errorf("submit request: %w: %s", ErrGroup, r.Group)
	}
	if r.Private != nil && r.Private.group != r.Group {
		return fmt.Errorf("submit request: %w: %s with a key of %s", ErrGroup, r.Group, r.Private.group)
	}
	if err := e.put(&r); err != nil {
		return fmt.Errorf("submit request: %w", err)
	}
	// Without the lock, for which the worker would have to wait again.
	e.work.Signal()
	return nil
}

// put queues a request.
func (e *Engine) put(r *Request) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return ErrClosed
	}
	if !e.queue.put(r) {
		e.stats.Refused++
		return ErrQueueFull
	}
	e.waiting.Store(int64(e.queue.length))
	return nil
}

// Compute answers a request on the calling thread, as a worker does: for who has
// nothing else to do. Done is not called.
func (e *Engine) Compute(r Request) Result {
	k, ok := e.kernels[r.Group]
	if !ok || r.Private != nil && r.Private.group != r.Group {
		return Result{Err: fmt.Errorf("compute request: %w: %s", ErrGroup, r.Group)}
	}
	out := make([]Result, 1)
	k.compute(e.random, []*Request{&r}, out)
	return out[0]
}

// Stats returns what the engine has done so far.
func (e *Engine) Stats() Stats {
	e.mu.Lock()
	defer e.mu.Unlock()
	s := e.stats
	s.Cores = append([]int(nil), e.cores...)
	s.Waiting = e.queue.length
	return s
}

// Close answers the requests that wait with ErrClosed, lets those being
// computed finish, and returns when every worker and its thread has ended. A
// second Close does nothing more.
func (e *Engine) Close() {
	e.mu.Lock()
	e.closed = true
	var waiting []*Request
	for e.queue.length > 0 {
		waiting = append(waiting, e.queue.take(func(_ Group, waiting int) int { return waiting })...)
	}
	e.stats.Answered += uint64(len(waiting))
	e.work.Broadcast()
	e.mu.Unlock()
	for _, r := range waiting {
		r.Done(Result{Err: ErrClosed})
	}
	e.workers.Wait()
}

// lockedReader lets workers share a random source.
type lockedReader struct {
	mu sync.Mutex
	r  io.Reader
}

func (l *lockedReader) Read(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return io.ReadFull(l.r, p)
}
