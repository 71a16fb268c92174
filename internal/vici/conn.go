// SPDX-License-Identifier: Apache-2.0

package vici

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"time"
)

// conn is one client. Three goroutines serve it: serve reads, work answers in
// the order of asking, and the outbox writes.
type conn struct {
	server *Server
	nc     *net.UnixConn
	out    *outbox
	// registered holds the names of events; work alone uses it.
	registered map[string]struct{}
}

// serve runs the connection until the client goes away, breaks the protocol,
// or the server stops.
func (c *conn) serve(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	requests := make(chan packet, 1)
	wg.Go(func() { c.work(ctx, requests) })
	wg.Go(func() {
		if err := c.out.drain(c.nc); err != nil {
			c.nc.CloseRead()
		}
	})
	err := c.read(ctx, requests)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) && ctx.Err() == nil {
		c.server.options.Logger.Warn("control connection broken off", "error", err)
	}
	cancel()
	close(requests)
	c.nc.SetWriteDeadline(time.Now().Add(closeTimeout))
	c.out.close()
	wg.Wait()
	c.nc.Close()
	c.server.mu.Lock()
	delete(c.server.conns, c)
	c.server.mu.Unlock()
}

// read hands what the client asks to work. It goes on reading while a command
// is at work, to see the client leave.
func (c *conn) read(ctx context.Context, requests chan<- packet) error {
	for {
		p, err := readPacket(c.nc)
		if err != nil {
			return err
		}
		select {
		case requests <- p:
		case <-ctx.Done():
			return nil
		}
	}
}

// abandon ends a connection that cannot follow.
func (c *conn) abandon() {
	c.server.options.Logger.Warn("control connection broken off", "error", "it reads events too slowly")
	c.nc.Close()
	c.out.close()
}

func (c *conn) work(ctx context.Context, requests <-chan packet) {
	defer func() {
		for name := range c.registered {
			c.server.events[name].remove(c)
		}
	}()
	for p := range requests {
		if ctx.Err() != nil {
			return
		}
		if e := c.server.events[p.name]; e != nil && p.kind == eventRegister {
			if !e.add(c) {
				c.abandon()
				return
			}
			c.registered[p.name] = struct{}{}
			continue
		}
		kind, m := c.answer(ctx, p)
		frame, err := encodePacket(kind, "", m)
		clear(p.body)
		if err != nil {
			c.server.options.Logger.Warn("control response not sent", "command", p.name, "error", err)
			frame, err = encodePacket(kind, "", failure(err))
		}
		if err != nil || !c.out.push(frame, true) {
			return
		}
	}
}

// answer carries out one packet, other than the registration for a known
// event, and returns the packet that answers it.
func (c *conn) answer(ctx context.Context, p packet) (packetType, *Message) {
	switch p.kind {
	case eventRegister:
		return eventUnknown, nil
	case eventUnregister:
		if _, ok := c.registered[p.name]; !ok {
			return eventUnknown, nil
		}
		delete(c.registered, p.name)
		c.server.events[p.name].remove(c)
		return eventConfirm, nil
	case cmdRequest:
		return c.command(ctx, p)
	}
	return cmdUnknown, nil
}

func (c *conn) command(ctx context.Context, p packet) (packetType, *Message) {
	h := c.server.handlers[p.name]
	if h == nil {
		return cmdUnknown, nil
	}
	req, err := DecodeMessage(p.body)
	if err != nil {
		return cmdResponse, failure(err)
	}
	m, err := h(ctx, req, c.emit)
	if err != nil {
		if m == nil {
			m = &Message{}
		}
		m.Set("success", "no")
		m.Set("errmsg", err.Error())
	}
	return cmdResponse, m
}

// emit sends an event of the command at work.
func (c *conn) emit(name string, m *Message) error {
	if _, ok := c.registered[name]; !ok {
		return nil
	}
	frame, err := encodePacket(event, name, m)
	if err != nil {
		return err
	}
	if !c.out.push(frame, true) {
		return errClosed
	}
	return nil
}

// success and failure are the responses of a command that does something.
func success() *Message {
	m := &Message{}
	m.Set("success", "yes")
	return m
}

func failure(err error) *Message {
	m := &Message{}
	m.Set("success", "no")
	m.Set("errmsg", err.Error())
	return m
}
