// SPDX-License-Identifier: Apache-2.0

package offload

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// request is one message to the kernel and what is being done with it, in
// words for its error.
type request struct {
	what string
	kind netlink.HeaderType
	body []byte
	get  bool // it is answered with an object, not with an acknowledgement
	// flags go beside Request.
	flags netlink.HeaderFlags
	// waits is set where the kernel may sleep over it.
	waits bool
}

// result is the kernel's answer to one request: an object where it gives one.
type result struct {
	body []byte
	err  error
}

// conn sends requests to the kernel.
type conn struct {
	mu     sync.Mutex // serialises the exchanges
	nl     *netlink.Conn
	socket *socket // below nl; nil in tests

	// drivers is set once devices have a part in what is asked.
	drivers atomic.Bool
}

func dialXFRM() (*conn, error) {
	s, nl, err := dialSocket(netlinkXFRM)
	if err != nil {
		return nil, fmt.Errorf("open NETLINK_XFRM: %w", err)
	}
	return &conn{nl: nl, socket: s}, nil
}

func dialRoute() (*conn, error) {
	s, nl, err := dialSocket(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open NETLINK_ROUTE: %w", err)
	}
	return &conn{nl: nl, socket: s}, nil
}

func (c *conn) Close() error { return c.nl.Close() }

// messageBuffer is what the kernel's answers fit into, in bytes: it fills the
// parts of a dump up to 32 KiB. With it no answer's length is asked for first.
const messageBuffer = 64 << 10

// batchMax is how many requests go out at once: their answers have to fit the
// socket's receive buffer, 212992 bytes as a rule, of which each takes about
// 1.3 kB.
const batchMax = 100

// do sends the requests in one message each and in as few system calls as
// possible. The kernel works on them in order, and goes on after an error.
func (c *conn) do(requests ...request) []result {
	c.mu.Lock()
	defer c.mu.Unlock()
	results := make([]result, 0, len(requests))
	for len(requests) > 0 {
		n := min(len(requests), batchMax)
		results = append(results, c.batch(requests[:n])...)
		requests = requests[n:]
	}
	return results
}

// one sends one request.
func (c *conn) one(r request) ([]byte, error) {
	res := c.do(r)[0]
	return res.body, res.err
}

// batch is do for as many requests as fit. Only the last one is acknowledged:
// the kernel answers in order, and says nothing of the others but errors and
// the objects that they ask for. The lock is held.
func (c *conn) batch(requests []request) []result {
	results := make([]result, len(requests))
	messages := make([]netlink.Message, len(requests))
	last := len(requests) - 1
	waits := c.drivers.Load()
	for i, r := range requests {
		waits = waits || r.waits
		messages[i] = netlink.Message{Header: netlink.Header{Type: r.kind, Flags: netlink.Request | r.flags}, Data: r.body}
		if i == last && !r.get {
			messages[i].Header.Flags |= netlink.Acknowledge
		}
	}
	if c.socket != nil {
		c.socket.waits = waits
	}
	sent, err := c.nl.SendMessages(messages)
	for i := range messages {
		clear(messages[i].Data) // there may be keys in it
	}
	if err != nil {
		for i, r := range requests {
			results[i].err = fmt.Errorf("%s: %w", r.what, err)
		}
		return results
	}
	// Sequence numbers are consecutive.
	first := sent[0].Header.Sequence
	which := func(sequence uint32) int { return int(int32(sequence - first)) }
	for done := false; !done; {
		got, err := c.nl.Receive()
		if err != nil {
			i := which(sequenceOf(err))
			if sequenceOf(err) == 0 || i > last {
				for i, r := range requests {
					results[i].err = explain(r.what, err)
				}
				return results
			}
			if i >= 0 {
				results[i].err = explain(requests[i].what, err)
			}
			done = i == last
		}
		for _, m := range got {
			i := which(m.Header.Sequence)
			if i < 0 || i > last {
				continue // of an exchange that was given up
			}
			if m.Header.Type != netlink.Error {
				results[i].body = m.Data
			}
			done = done || i == last
		}
	}
	return results
}

// dump returns every object of a kind.
func (c *conn) dump(what string, kind netlink.HeaderType, body []byte) ([][]byte, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.socket != nil {
		c.socket.waits = true
	}
	sent, err := c.nl.Send(netlink.Message{
		Header: netlink.Header{Type: kind, Flags: netlink.Request | netlink.Dump}, Data: body})
	if err != nil {
		return nil, explain(what, err)
	}
	var out [][]byte
	for {
		got, err := c.nl.Receive()
		if err != nil {
			return nil, explain(what, err)
		}
		if len(got) > 0 && got[0].Header.Sequence != sent.Header.Sequence {
			continue
		}
		for _, m := range got {
			out = append(out, m.Data)
		}
		return out, nil
	}
}

func sequenceOf(err error) uint32 {
	var oe *netlink.OpError
	if errors.As(err, &oe) {
		return oe.Sequence
	}
	return 0
}

// explain says what failed, in the kernel's own words where it has some.
func explain(what string, err error) error {
	var oe *netlink.OpError
	if !errors.As(err, &oe) {
		return fmt.Errorf("%s: %w", what, err)
	}
	if oe.Message != "" {
		return fmt.Errorf("%s: %s: %w", what, oe.Message, oe.Err)
	}
	return fmt.Errorf("%s: %w", what, oe.Err)
}

// absent reports that what was to be removed or looked at is not there.
func absent(err error) bool { return errors.Is(err, unix.ESRCH) || errors.Is(err, unix.ENOENT) }
