// SPDX-License-Identifier: Apache-2.0

package offload

import (
	"errors"
	"fmt"
	"sync"

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
}

// result is the kernel's answer to one request: an object where it gives one.
type result struct {
	body []byte
	err  error
}

// conn sends requests to the kernel's XFRM.
type conn struct {
	mu sync.Mutex // serialises the exchanges
	nl *netlink.Conn
}

func dialXFRM() (*conn, error) {
	nl, err := netlink.Dial(netlinkXFRM, nil)
	if err != nil {
		return nil, fmt.Errorf("open NETLINK_XFRM: %w", err)
	}
	// Without them errors come without the kernel's words.
	_ = nl.SetOption(netlink.ExtendedAcknowledge, true)
	return &conn{nl: nl}, nil
}

func (c *conn) Close() error { return c.nl.Close() }

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

// batch is do for as many requests as fit. The lock is held.
func (c *conn) batch(requests []request) []result {
	results := make([]result, len(requests))
	messages := make([]netlink.Message, len(requests))
	for i, r := range requests {
		messages[i] = netlink.Message{Header: netlink.Header{Type: r.kind, Flags: netlink.Request}, Data: r.body}
		if !r.get {
			messages[i].Header.Flags |= netlink.Acknowledge
		}
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
	at := make(map[uint32]int, len(sent))
	for i, m := range sent {
		at[m.Header.Sequence] = i
	}
	for len(at) > 0 {
		got, err := c.nl.Receive()
		if err != nil {
			i, known := at[sequenceOf(err)]
			if !known {
				for _, i := range at {
					results[i].err = explain(requests[i].what, err)
				}
				return results
			}
			results[i].err = explain(requests[i].what, err)
			delete(at, sequenceOf(err))
		}
		for _, m := range got {
			i, known := at[m.Header.Sequence]
			if !known {
				continue // of an exchange that was given up
			}
			if m.Header.Type != netlink.Error {
				results[i].body = m.Data
			}
			delete(at, m.Header.Sequence)
		}
	}
	return results
}

// dump returns every object of a kind.
func (c *conn) dump(what string, kind netlink.HeaderType, body []byte) ([][]byte, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
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
