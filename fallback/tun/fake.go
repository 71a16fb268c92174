// SPDX-License-Identifier: Apache-2.0

package tun

import (
	"net/netip"
	"os"
	"sync"
)

// Memory is a Device in memory, for tests of whatever stands on one.
type Memory struct {
	// Out gets each packet that is written to the device, super-packets cut
	// into theirs, while there is room in it.
	Out chan []byte

	queues []Queue
	once   sync.Once
	closed chan struct{}
}

type memoryQueue struct {
	m  *Memory
	in chan []byte
}

// NewMemory makes a device whose Out has room for some packets.
func NewMemory(room, queues int) *Memory {
	m := &Memory{Out: make(chan []byte, room), closed: make(chan struct{})}
	for range queues {
		m.queues = append(m.queues, &memoryQueue{m, make(chan []byte)})
	}
	return m
}

// Inject sends a packet into a queue of the device, as the machine's own stack
// would, and returns once it is taken.
func (m *Memory) Inject(queue int, packet []byte) {
	m.InjectFrame(queue, append(make([]byte, HeaderLen), packet...))
}

// InjectFrame does the same with a frame.
func (m *Memory) InjectFrame(queue int, frame []byte) {
	select {
	case m.queues[queue].(*memoryQueue).in <- frame:
	case <-m.closed:
	}
}

// Name, Queues, Steer, Unsteer, UDP, Stop and Close implement Device.
func (m *Memory) Name() string    { return "memory" }
func (m *Memory) Queues() []Queue { return m.queues }
func (m *Memory) UDP() bool       { return true }

func (m *Memory) Steer(netip.Prefix, int, int) error { return nil }
func (m *Memory) Unsteer(netip.Prefix) error         { return nil }

func (m *Memory) Stop()        { m.once.Do(func() { close(m.closed) }) }
func (m *Memory) Close() error { return nil }

func (q *memoryQueue) Read(frame []byte, wait bool) (int, error) {
	if !wait {
		select {
		case p := <-q.in:
			return copy(frame, p), nil
		default:
			return 0, ErrEmpty
		}
	}
	select {
	case p := <-q.in:
		return copy(frame, p), nil
	case <-q.m.closed:
		return 0, os.ErrClosed
	}
}

func (q *memoryQueue) Write(pieces [][]byte) error {
	var frame []byte
	for _, p := range pieces {
		frame = append(frame, p...)
	}
	var s Segmenter
	if !s.Load(frame) {
		return os.ErrInvalid
	}
	for n := s.Len(); n > 0; n = s.Len() {
		packet := make([]byte, n)
		s.Next(packet)
		select {
		case q.m.Out <- packet:
		default:
			return os.ErrDeadlineExceeded
		}
	}
	return nil
}
