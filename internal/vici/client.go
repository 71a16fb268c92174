// SPDX-License-Identifier: Apache-2.0

package vici

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

// ErrUnknown is returned for a command or an event that the daemon does not
// know.
var ErrUnknown = errors.New("the daemon does not know it")

// Client speaks to a daemon, quicksand or charon. It is not safe for
// concurrent use, and of no use after an error that is not the daemon's answer.
type Client struct{ conn net.Conn }

// Dial connects to the daemon's Unix socket.
func Dial(ctx context.Context, path string) (*Client, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("connect to the daemon: %w", err)
	}
	return &Client{c}, nil
}

// Close ends the connection.
func (c *Client) Close() error { return c.conn.Close() }

// Call sends a command and returns its response; req may be nil. Where the
// response says that the command failed, it is returned with an error that
// has the daemon's words. Events of the given name that come before the
// response are handed to each; an empty name asks for none.
func (c *Client) Call(ctx context.Context, command string, req *Message, name string, each func(*Message)) (*Message, error) {
	defer c.interruptible(ctx)()
	if name != "" {
		if err := c.register(ctx, eventRegister, name); err != nil {
			return nil, err
		}
	}
	p, err := c.exchange(ctx, cmdRequest, command, req, func(_ string, m *Message) { each(m) })
	if err != nil {
		return nil, err
	}
	resp, err := DecodeMessage(p.body)
	if err != nil {
		return nil, err
	}
	if name != "" {
		if err := c.register(ctx, eventUnregister, name); err != nil {
			return nil, err
		}
	}
	if resp.Get("success") == "no" {
		return resp, errors.New(resp.Get("errmsg"))
	}
	return resp, nil
}

// Listen hands events to each until ctx ends, which is no error, or the
// connection does. It calls ready once it is registered for all of them.
func (c *Client) Listen(ctx context.Context, events []string, ready func(), each func(event string, m *Message)) error {
	defer c.interruptible(ctx)()
	for _, name := range events {
		if err := c.register(ctx, eventRegister, name); err != nil {
			return err
		}
	}
	ready()
	for {
		p, err := c.read(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		if p.kind != event {
			continue
		}
		m, err := DecodeMessage(p.body)
		if err != nil {
			return err
		}
		each(p.name, m)
	}
}

func (c *Client) register(ctx context.Context, kind packetType, name string) error {
	_, err := c.exchange(ctx, kind, name, nil, func(string, *Message) {})
	return err
}

// exchange sends a packet and reads up to its answer.
func (c *Client) exchange(ctx context.Context, kind packetType, name string, m *Message, each func(string, *Message)) (packet, error) {
	b, err := encodePacket(kind, name, m)
	if err != nil {
		return packet{}, err
	}
	_, err = c.conn.Write(b)
	clear(b)
	if err != nil {
		return packet{}, c.fail(ctx, err)
	}
	for {
		p, err := c.read(ctx)
		if err != nil {
			return packet{}, err
		}
		switch {
		case p.kind == event:
			m, err := DecodeMessage(p.body)
			if err != nil {
				return packet{}, err
			}
			each(p.name, m)
		case p.kind == cmdUnknown && kind == cmdRequest, p.kind == eventUnknown && kind != cmdRequest:
			return packet{}, fmt.Errorf("%s: %w", name, ErrUnknown)
		case p.kind == cmdResponse && kind == cmdRequest, p.kind == eventConfirm && kind != cmdRequest:
			return p, nil
		default:
			return packet{}, fmt.Errorf("read packet: %w: type %d answers type %d", ErrMessage, p.kind, kind)
		}
	}
}

func (c *Client) read(ctx context.Context) (packet, error) {
	p, err := readPacket(c.conn)
	if errors.Is(err, io.EOF) {
		err = errors.New("the daemon closed the connection")
	}
	return p, c.fail(ctx, err)
}

// fail prefers the reason that ctx has for err.
func (c *Client) fail(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// interruptible makes ctx's end break off what waits on the connection, until
// the function returned is called.
func (c *Client) interruptible(ctx context.Context) func() {
	stop := context.AfterFunc(ctx, func() { c.conn.SetDeadline(time.Unix(1, 0)) })
	return func() { stop() }
}
