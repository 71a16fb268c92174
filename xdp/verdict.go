// SPDX-License-Identifier: Apache-2.0

package xdp

import (
	"fmt"
	"net/netip"
	"time"

	"quicksand/sa"
)

// Verdict is what became of a packet. Only IKELimited, UnknownDropped,
// Dropped and Stale are dropped; whatever the program does not understand goes to the
// stack as if there were no program.
type Verdict uint8

// The verdicts, in the order of bpf/steer.h.
const (
	Other          Verdict = iota // passed: neither IPsec nor IKE
	Malformed                     // passed: cut short, lengths that disagree, too many headers
	Fragment                      // passed: any fragment
	Keepalive                     // passed: NAT keepalive (RFC 3948 section 2.3)
	IKE                           // passed: IKE, new exchanges within the limit included
	IKELimited                    // dropped: a new exchange, its source is over the limit
	UnknownPassed                 // passed: the SPI is not in the table
	UnknownDropped                // dropped: the SPI is not in the table
	Passed                        // passed, as the table says
	Dropped                       // dropped, as the table says
	Socketed                      // to an AF_XDP socket
	OnCPU                         // to a CPU
	Forwarded                     // to another device
	NoTarget                      // passed: the socket, CPU or device is not there
	Stale                         // dropped: left of the replay window (SetFloor)
	verdicts
)

var verdictNames = [verdicts]string{
	"other", "malformed", "fragment", "keepalive", "ike", "ike limited", "unknown passed",
	"unknown dropped", "passed", "dropped", "to socket", "to cpu", "to device", "no target", "stale",
}

func (v Verdict) String() string {
	if v >= verdicts {
		return "none"
	}
	return verdictNames[v]
}

// Total is what one verdict has seen since the table was made.
type Total struct {
	Packets uint64
	Bytes   uint64 // of the frames
}

// Totals are indexed by Verdict.
type Totals [verdicts]Total

// Action is what the table does with a packet.
type Action uint8

// The actions.
const (
	Pass     Action = iota + 1 // to the stack
	Drop                       // away with it
	ToSocket                   // to an AF_XDP socket of the queue it came in on
	ToCPU                      // to the stack, on another CPU
	ToDevice                   // out of another device with the addresses of a next hop
)

var actionNames = [...]string{"none", "pass", "drop", "socket", "cpu", "device"}

func (a Action) String() string {
	if int(a) >= len(actionNames) {
		a = 0
	}
	return actionNames[a]
}

// Target is where the packets of an SPI go. Number is the socket among those
// of a queue, the CPU or the next hop, up to 8191; 0 with other actions.
type Target struct {
	Action Action
	Number uint16
}

func (t Target) String() string {
	if t.Action < ToSocket {
		return t.Action.String()
	}
	return fmt.Sprintf("%s %d", t.Action, t.Number)
}

// Key is what the table finds a packet by. ESP in UDP is ESP.
type Key struct {
	Destination netip.Addr
	SPI         sa.SPI
	Protocol    sa.Protocol
}

func (k Key) String() string {
	return fmt.Sprintf("%s %s to %s", k.Protocol, k.SPI, k.Destination)
}

// Use is what an SPI's packets came to, over all CPUs; those below its floor
// are not among them, as nothing shows that they are the peer's.
type Use struct {
	Packets uint64
	Bytes   uint64    // of the IP packets
	Last    time.Time // to a timer tick, 10 ms or less; zero if there was none
}

// Entry is a line of the table.
type Entry struct {
	Key    Key
	Target Target
	Use    Use
}

// Steering is the table as its users see it. Each method is atomic for a
// packet: it sees the table before or after, and never without an SPI that is
// being moved. All may be called from several goroutines while packets come
// in.
type Steering interface {
	// Insert adds an SPI with counters at zero. It returns ErrExists if there
	// is one already, ErrFull if there is no room, and leaves the table then.
	Insert(k Key, t Target) error
	// Move sends an SPI's packets elsewhere and keeps its counters. It returns
	// ErrUnknown if there is no such SPI.
	Move(k Key, t Target) error
	// Delete takes an SPI out and returns what it was used for, or ErrUnknown.
	Delete(k Key) (Use, error)
	// Use returns an SPI's counters, or ErrUnknown.
	Use(k Key) (Use, error)
	// Entries calls f with each line until f returns false. An SPI that comes
	// or goes meanwhile may be missed; one that stays is seen at least once.
	Entries(f func(Entry) bool) error
	// Totals returns the global counters.
	Totals() (Totals, error)
}
