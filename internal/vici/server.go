// SPDX-License-Identifier: Apache-2.0

package vici

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Options are a server's settings.
type Options struct {
	Path       string       // of the socket
	MaxConns   int          // at a time, 32 by default
	QueueBytes int          // kept for a slow reader, 1 MiB by default
	Logger     *slog.Logger // slog.Default() by default
}

// Handler answers a command. emit sends an event to the connection that asked,
// where it is registered for it, and waits while the connection is slow. ctx
// ends when the client goes away. The request is not to be kept: it is wiped
// after the return. A nil response is an empty one; an error adds success "no"
// and its own text to it.
type Handler func(ctx context.Context, req *Message, emit func(event string, m *Message) error) (*Message, error)

var errClosed = errors.New("the connection is closed")

// closeTimeout is how long a connection that ends tries to send what is queued;
// acceptPause is the wait where there are no file descriptors.
const (
	closeTimeout = time.Second
	acceptPause  = 100 * time.Millisecond
)

// Server answers commands and sends events on a Unix socket. Handle and
// Announce come before Listen; all other methods may be called at any time
// from any goroutine.
type Server struct {
	options  Options
	handlers map[string]Handler
	events   map[string]*subscribers

	listener *net.UnixListener
	socket   os.FileInfo // what Listen made, to remove that and nothing else

	mu    sync.Mutex
	conns map[*conn]struct{}
}

// subscribers are the connections registered for one event.
type subscribers struct {
	droppable bool         // lost for a slow reader, where others cost it the connection
	count     atomic.Int32 // of conns, to be asked without the lock

	mu    sync.Mutex
	conns map[*conn]struct{}
}

// NewServer returns a server that knows no command and no event.
func NewServer(o Options) *Server {
	if o.MaxConns <= 0 {
		o.MaxConns = 32
	}
	if o.QueueBytes <= 0 {
		o.QueueBytes = 1 << 20
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	return &Server{
		options:  o,
		handlers: map[string]Handler{},
		events:   map[string]*subscribers{},
		conns:    map[*conn]struct{}{},
	}
}

// Handle sets the handler of a command.
func (s *Server) Handle(command string, h Handler) { s.handlers[command] = h }

// Announce makes events known: a client can register for no other. Where
// droppable is set, a reader too slow loses events; else it is disconnected,
// so that it never misses one unknowingly.
func (s *Server) Announce(droppable bool, events ...string) {
	for _, e := range events {
		s.events[e] = &subscribers{droppable: droppable, conns: map[*conn]struct{}{}}
	}
}

// Listen makes the socket, for root and the daemon's own user alone. A socket
// that is already there is replaced where nobody answers on it.
func (s *Server) Listen() error {
	l, info, err := listen(s.options.Path)
	if err != nil {
		return fmt.Errorf("listen for control connections: %w", err)
	}
	s.listener, s.socket = l, info
	return nil
}

// Serve answers connections until ctx ends, then sends what is queued, closes
// them all and removes the socket.
func (s *Server) Serve(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { s.listener.Close() })
	defer stop()
	var wg sync.WaitGroup
	defer wg.Wait()
	defer s.closeConns()
	defer removeSocket(s.options.Path, s.socket)
	for {
		nc, err := s.listener.AcceptUnix()
		if ctx.Err() != nil {
			if err == nil {
				nc.Close()
			}
			return nil
		}
		if errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) {
			s.options.Logger.Warn("control connection not accepted", "error", err)
			select {
			case <-time.After(acceptPause):
			case <-ctx.Done():
			}
			continue
		}
		if err != nil {
			s.listener.Close()
			cancel()
			return fmt.Errorf("accept control connection: %w", err)
		}
		if c := s.admit(nc); c != nil {
			wg.Go(func() { c.serve(ctx) })
		}
	}
}

// admit takes a new connection on, or refuses it.
func (s *Server) admit(nc *net.UnixConn) *conn {
	if err := checkPeer(nc); err != nil {
		s.options.Logger.Warn("control connection refused", "error", err)
		nc.Close()
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.conns) >= s.options.MaxConns {
		s.options.Logger.Warn("control connection refused", "error", "too many at a time", "limit", s.options.MaxConns)
		nc.Close()
		return nil
	}
	c := &conn{
		server:     s,
		nc:         nc,
		out:        newOutbox(s.options.QueueBytes),
		registered: map[string]struct{}{},
	}
	s.conns[c] = struct{}{}
	return c
}

func (s *Server) closeConns() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		c.nc.CloseRead()
	}
}

// Wants reports whether anybody is registered for the event.
func (s *Server) Wants(event string) bool {
	e := s.events[event]
	return e != nil && e.count.Load() > 0
}

// Broadcast sends an event to all that registered for it. It never waits.
func (s *Server) Broadcast(name string, m *Message) {
	if !s.Wants(name) {
		return
	}
	frame, err := encodePacket(event, name, m)
	if err != nil {
		s.options.Logger.Warn("event not sent", "event", name, "error", err)
		return
	}
	e := s.events[name]
	e.mu.Lock()
	defer e.mu.Unlock()
	for c := range e.conns {
		if !c.out.push(frame, false) && !e.droppable {
			c.abandon()
		}
	}
}

// add registers the connection and confirms it in one step: no event comes
// before the confirmation, and none that happens after it is missed. It
// reports whether there was room for the confirmation.
func (e *subscribers) add(c *conn) bool {
	frame, err := encodePacket(eventConfirm, "", nil)
	e.mu.Lock()
	defer e.mu.Unlock()
	if err != nil || !c.out.push(frame, false) {
		return false
	}
	e.conns[c] = struct{}{}
	e.count.Store(int32(len(e.conns)))
	return true
}

func (e *subscribers) remove(c *conn) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.conns, c)
	e.count.Store(int32(len(e.conns)))
}
