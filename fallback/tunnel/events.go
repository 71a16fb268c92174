// SPDX-License-Identifier: Apache-2.0

package tunnel

import (
	"sync"

	"quicksand/sa"
)

// events hands reports from the data path, which must never wait, to whoever
// reads the channel. What is queued is bounded by the pairs: each has only so
// much to report; moves follow from what becomes of the machine's interfaces.
type events struct {
	out  chan sa.Event
	wake chan struct{}
	stop chan struct{}
	done sync.WaitGroup

	mu    sync.Mutex // guards queue
	queue []sa.Event
}

func newEvents() *events {
	e := &events{out: make(chan sa.Event), wake: make(chan struct{}, 1), stop: make(chan struct{})}
	e.done.Go(e.run)
	return e
}

func (e *events) emit(ev sa.Event) {
	e.mu.Lock()
	e.queue = append(e.queue, ev)
	e.mu.Unlock()
	select {
	case e.wake <- struct{}{}:
	default:
	}
}

func (e *events) run() {
	defer close(e.out)
	for {
		e.mu.Lock()
		queue := e.queue
		e.queue = nil
		e.mu.Unlock()
		for _, ev := range queue {
			select {
			case e.out <- ev:
			case <-e.stop:
				return
			}
		}
		if len(queue) > 0 {
			continue
		}
		select {
		case <-e.wake:
		case <-e.stop:
			return
		}
	}
}

func (e *events) close() {
	close(e.stop)
	e.done.Wait()
}
