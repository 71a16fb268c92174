// SPDX-License-Identifier: Apache-2.0

package vici

import (
	"io"
	"net"
	"sync"
)

// outbox is a connection's queue of packets to be sent, bounded in bytes: the
// daemon never waits for a slow reader, and never keeps more than this for it.
type outbox struct {
	limit int

	mu     sync.Mutex
	change *sync.Cond // of everything below
	frames net.Buffers
	size   int
	closed bool
}

func newOutbox(limit int) *outbox {
	o := &outbox{limit: limit}
	o.change = sync.NewCond(&o.mu)
	return o
}

// push queues a packet and reports whether it did. Where the queue is full it
// waits for room if wait is set, and gives up if not. An empty queue takes any
// packet. The packet may be queued elsewhere too and is not changed.
func (o *outbox) push(frame []byte, wait bool) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	for !o.closed && o.size > 0 && o.size+len(frame) > o.limit {
		if !wait {
			return false
		}
		o.change.Wait()
	}
	if o.closed {
		return false
	}
	o.frames = append(o.frames, frame)
	o.size += len(frame)
	o.change.Broadcast()
	return true
}

// close lets what is queued go out and takes nothing more.
func (o *outbox) close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.closed = true
	o.change.Broadcast()
}

// drain writes the queue to w until it is closed and empty, or w fails. A
// packet counts as queued until it is written.
func (o *outbox) drain(w io.Writer) error {
	for {
		o.mu.Lock()
		for len(o.frames) == 0 && !o.closed {
			o.change.Wait()
		}
		batch := o.frames
		o.frames = nil
		o.mu.Unlock()
		if len(batch) == 0 {
			return nil
		}
		n, err := batch.WriteTo(w)
		o.mu.Lock()
		o.size -= int(n)
		if err != nil {
			o.closed = true
		}
		o.change.Broadcast()
		o.mu.Unlock()
		if err != nil {
			return err
		}
	}
}
