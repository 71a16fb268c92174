// SPDX-License-Identifier: Apache-2.0

package dh

import (
	"errors"
	"runtime"
	"time"

	"quicksand/accel"
)

// worker computes requests. One that costs much makes way in between for those
// that cost little, where they are to be served first: a key exchange of some
// tens of microseconds does not wait for one of milliseconds to end.
type worker struct {
	e       *Engine
	pausing map[Group]kernel // the kernels that can make way
	group   Group            // that is computed
	aside   time.Duration    // spent on others meanwhile, in all
}

func newWorker(e *Engine) *worker {
	w := &worker{e: e, pausing: make(map[Group]kernel)}
	for g, k := range e.kernels {
		if p, ok := k.(pauser); ok {
			w.pausing[g] = p.pausing(w.makeWay)
		}
	}
	return w
}

// run is the worker's goroutine. One with a core of its own never unlocks its
// thread, so that the thread ends with it: nothing else of the process is to
// inherit the pinning. One without takes whatever thread there is: to hand a
// request to a locked thread and back costs two more wake-ups, half as much as
// X25519 itself.
func (w *worker) run(core []int, ready chan<- error) {
	defer w.e.workers.Done()
	if core != nil {
		runtime.LockOSThread()
		nameThread()
		if err := accel.Pin(core...); err != nil {
			ready <- err
			return
		}
	}
	ready <- nil
	for {
		batch := w.e.take()
		if batch == nil {
			return
		}
		w.group = batch[0].Group
		k, ok := w.pausing[w.group]
		if !ok {
			k = w.e.kernels[w.group]
		}
		w.answer(k, batch)
	}
}

// answer computes the requests of one group and answers them.
func (w *worker) answer(k kernel, batch []*Request) {
	out := make([]Result, len(batch))
	begun, aside := time.Now(), w.aside
	k.compute(w.e.random, batch, out)
	w.e.count(batch[0].Group, out, time.Since(begun)-(w.aside-aside))
	for i, r := range batch {
		r.Done(out[i])
	}
}

// makeWay answers what costs little and is to be served before what is being
// computed.
func (w *worker) makeWay() {
	if w.e.waiting.Load() == 0 {
		return
	}
	begun := time.Now()
	batch := w.e.takeCheap(w.group)
	if batch == nil {
		return
	}
	w.answer(w.e.kernels[batch[0].Group], batch)
	w.aside += time.Since(begun)
}

// take waits for requests of one group, and returns nil once the engine is
// closed. It never waits for more of them: a request that comes alone is computed
// alone at once, and while that runs others gather, so lanes fill by themselves
// when there is more to do than time. It leaves a fair part to workers that have
// nothing to do.
func (e *Engine) take() []*Request {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.idle++
	for e.queue.length == 0 && !e.closed {
		e.work.Wait()
	}
	e.idle--
	return e.taken(e.queue.take(e.part))
}

// takeCheap returns requests that are to be served before those of the group,
// which are being computed, or nil.
func (e *Engine) takeCheap(than Group) []*Request {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.taken(e.queue.takeCheap(than, e.part))
}

func (e *Engine) taken(batch []*Request) []*Request {
	e.stats.Running += len(batch)
	e.waiting.Store(int64(e.queue.length))
	return batch
}

// part is how many of a group's waiting requests a worker takes. e.mu is held.
func (e *Engine) part(g Group, waiting int) int {
	return fairPart(e.kernels[g].lanes(), waiting, e.idle)
}

// fairPart is how many of the waiting requests a worker takes while a number of
// others is idle.
func fairPart(lanes, waiting, idle int) int {
	return min(lanes, (waiting+idle)/(idle+1))
}

func (e *Engine) count(g Group, out []Result, took time.Duration) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.queue.took(g, took)
	e.stats.Running -= len(out)
	e.stats.Answered += uint64(len(out))
	e.stats.Batches++
	for _, r := range out {
		if errors.Is(r.Err, ErrPublic) {
			e.stats.Invalid++
		}
	}
}
