// SPDX-License-Identifier: Apache-2.0

package sa

import (
	"net/netip"
	"time"
)

// Kind is a kind of engine that carries SAs, best first.
type Kind uint8

// The kinds of engine.
const (
	Packet    Kind = iota + 1 // the NIC does ESP, headers, replay and policy
	Crypto                    // the NIC does cipher and ICV, the kernel the rest
	Kernel                    // the kernel's own ESP and AH
	Userspace                 // quicksand's software ESP and AH
)

func (k Kind) String() string {
	if k < Packet || k > Userspace {
		return "none"
	}
	return [...]string{"packet", "crypto", "kernel", "userspace"}[k-1]
}

// Placement is where a pair really runs, as read back from what runs it.
type Placement struct {
	Kind   Kind
	Device string // interface the pair's packets pass: the NIC, or the TUN device
	Detail string // in words, for the operator: the path, and why no better one
}

// Counters are what a direction of a pair has carried.
type Counters struct {
	Bytes   uint64 // of the inner packets
	Packets uint64
	Last    time.Time // of the last packet; zero if there was none
}

// EventKind is what a backend has to report.
type EventKind uint8

// The events of a backend.
const (
	SoftExpired EventKind = iota + 1 // bytes or packets: renegotiate the pair
	HardExpired                      // bytes or packets: the pair carries nothing any more
	FirstUse                         // the first authentic packet came in on the pair
	Acquire                          // a packet met a trap policy with no pair
	Remapped                         // authentic packets come from a new Remote
	Moved                            // the pair's packets take another way: its placement is another
	Lost                             // the pair is gone: its device went away
)

func (k EventKind) String() string {
	if k < SoftExpired || k > Lost {
		return "none"
	}
	return [...]string{"soft expired", "hard expired", "first use", "acquire", "remapped", "moved", "lost"}[k-1]
}

// Event is a backend's report. Pair is the pair's ID; Acquire has Policy in
// its place.
type Event struct {
	Kind   EventKind
	Pair   uint32
	Policy Policy         // of Acquire
	Packet [2]Selector    // of Acquire: what met the trap, from and to, where that is known
	Remote netip.AddrPort // of Remapped

	Placement Placement // of Moved
}

// Backend carries pairs. Its methods are called from one goroutine and return
// soon; a pair handed in stays unchanged and with its keys until Remove
// returns.
type Backend interface {
	// Kinds lists what the backend can be, best first.
	Kinds() []Kind
	// Supports says why the pair cannot be carried, in words for the operator,
	// or returns nil. Only Policy, Suite, Encap, Offload and Lanes need be set.
	// A backend that cannot spread a child's flows over pairs refuses those with
	// several Lanes.
	Supports(p *Pair) error
	// ReserveSPI returns an SPI for an inbound SA at the local address that
	// nothing else there uses, until it is installed or released.
	ReserveSPI(proto Protocol, local netip.Addr) (SPI, error)
	// ReleaseSPI gives back an SPI that was reserved and not installed.
	ReleaseSPI(proto Protocol, local netip.Addr, spi SPI)
	// Install makes the inbound SA live and holds the outbound one ready. It
	// either succeeds and returns the placement read back, or leaves nothing
	// behind and returns the backend's own words.
	Install(p *Pair) (Placement, error)
	// Activate sends the child's outbound traffic over the pair from now on.
	// A pair of the same child that was active goes on receiving.
	//
	// With several Lanes it is the traffic of the pair's lane, which p names anew:
	// a pair may come to another lane than it was installed with. Which lane a
	// packet belongs to follows from its addresses, protocol and ports, of a
	// fragment from its addresses alone, so that no flow is ever reordered while
	// its lane has a pair. What belongs to a lane that has none goes over those of
	// the others, at once and in the same way.
	Activate(p *Pair) error
	// Update moves an installed pair to the endpoints and Encap in p, which is
	// otherwise the pair installed under p.ID.
	Update(p *Pair) error
	// Remove takes the pair out. Traffic of its lane goes over the lane's newest
	// pair that is left, or over other lanes; where the child has no pair any more
	// to a trap, or nowhere: never out in clear.
	Remove(p *Pair) error
	// Counters returns what the pair has carried.
	Counters(p *Pair) (in, out Counters, err error)
	// Trap holds the policy's traffic and reports an Acquire when there is
	// some and no pair; Untrap ends that. Both are idempotent.
	Trap(p Policy) error
	Untrap(p Policy) error
	// Events delivers reports until the backend is closed.
	Events() <-chan Event
	// Close removes everything the backend made.
	Close() error
}
