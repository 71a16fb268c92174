// SPDX-License-Identifier: Apache-2.0

// Package bench measures what a machine's kinds of engine carry: the same
// traffic, over the same SAs, with NIC packet offload, NIC crypto offload, the
// kernel's ESP and the user-space tunnel, by the number of tunnels. A source
// sends to a sink; the two agree over a TCP connection beside the tunnels.
package bench

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net"
	"time"

	"quicksand/internal/measure"
)

// DefaultPort is where a sink listens, over TCP for a source's requests and over
// UDP inside the tunnels.
const DefaultPort = 4520

// MaxTunnels is how many tunnels there are at most: addresses of 198.19.0.0/16
// (RFC 2544 appendix C.2.2) but for the first.
const MaxTunnels = 1<<16 - 2

// The lengths of the IP packets in the tunnels, in bytes: at least one of
// payload.
const (
	MinSize = measure.Headers + 1
	MaxSize = math.MaxUint16
)

// The operations of a source's requests, in the order in which they come.
const (
	opHello   = "hello"   // who is there
	opPrepare = "prepare" // install the tunnels
	opReceive = "receive" // begin to count
	opStop    = "stop"    // and end
	opRemove  = "remove"  // the tunnels
)

// request is what a source asks of a sink, a line of JSON.
type request struct {
	Op        string   `json:"op"`
	Placement string   `json:"placement,omitempty"` // of prepare
	Seed      []byte   `json:"seed,omitempty"`      // of the keys; 32 bytes
	SPIs      []uint32 `json:"spis,omitempty"`      // of the source's inbound SAs, one for each tunnel
}

// answer is the sink's answer to a request.
type answer struct {
	Error   string   `json:"error,omitempty"`
	Machine string   `json:"machine,omitempty"` // of hello
	SPIs    []uint32 `json:"spis,omitempty"`    // of prepare: those of the sink's inbound SAs
	Detail  string   `json:"detail,omitempty"`  // and where the first tunnel runs, in words
	count
}

// count is what a sink has counted between receive and stop.
type count struct {
	Packets int     `json:"packets,omitempty"`
	Seconds float64 `json:"seconds,omitempty"` // from the first to the last packet
	SAs     uint64  `json:"sas,omitempty"`     // packets that the SAs have carried, by their own counters
	Busy    float64 `json:"busy,omitempty"`    // CPU seconds of the machine
	Elapsed float64 `json:"elapsed,omitempty"` // between receive and stop, in seconds
}

// A message takes 12 bytes for an SPI at most.
const maxMessage = 12*MaxTunnels + 4096

// answerTimeout is how long the other end may take to install the tunnels.
const answerTimeout = 10 * time.Minute

// channel carries messages between source and sink.
type channel struct {
	conn  net.Conn
	lines *bufio.Scanner
}

func newChannel(c net.Conn) *channel {
	lines := bufio.NewScanner(c)
	lines.Buffer(make([]byte, 4096), maxMessage)
	return &channel{c, lines}
}

func (c *channel) write(v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if err := c.conn.SetWriteDeadline(time.Now().Add(answerTimeout)); err != nil {
		return err
	}
	_, err = c.conn.Write(append(b, '\n'))
	return err
}

// errEnded is returned by read where the other end has hung up.
var errEnded = errors.New("the other end has hung up")

func (c *channel) read(v any) error {
	if err := c.conn.SetReadDeadline(time.Now().Add(answerTimeout)); err != nil {
		return err
	}
	if !c.lines.Scan() {
		if err := c.lines.Err(); err != nil {
			return err
		}
		return errEnded
	}
	return json.Unmarshal(c.lines.Bytes(), v)
}

// ask sends a request and returns the answer; one with an error is an error.
func (c *channel) ask(r request) (a answer, err error) {
	if err := c.write(r); err != nil {
		return a, fmt.Errorf("ask the sink to %s: %w", r.Op, err)
	}
	if err := c.read(&a); err != nil {
		return a, fmt.Errorf("ask the sink to %s: %w", r.Op, err)
	}
	if a.Error != "" {
		return a, fmt.Errorf("at the sink: %s", a.Error)
	}
	return a, nil
}
