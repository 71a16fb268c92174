// SPDX-License-Identifier: Apache-2.0

package ike

import (
	"net/netip"
	"time"

	"quicksand/sa"
)

// Config is everything the operator decides. The engine takes it whole and
// does not change it.
type Config struct {
	Connections []*Connection // looked through in order
	Secrets     []*Secret
}

// Connection is a section of swanctl.conf's connections. Times of 0 mean
// "never" where nothing else is said; defaults are applied by whoever makes
// the Connection.
type Connection struct {
	Name string
	// LocalAddrs and RemoteAddrs are what an endpoint's address is matched
	// against; empty matches any.
	LocalAddrs, RemoteAddrs []AddrMatch
	LocalPort, RemotePort   uint16 // 500 by default
	Proposals               sa.IKEProposal
	LocalID, RemoteID       Identity // the zero Identity: the endpoint's address, or any peer

	Encap       bool          // force UDP encapsulation
	DPDDelay    time.Duration // 0: no dead peer detection
	DPDTimeout  time.Duration // 0: by the retransmission schedule
	RekeyTime   time.Duration // both make a new IKE SA by Main Mode and
	ReauthTime  time.Duration // its children pass to it
	OverTime    time.Duration // after RekeyTime, when the IKE SA is given up
	RandTime    time.Duration // a random time up to this is taken off RekeyTime
	KeyingTries int           // Main Mode attempts; 0: without end
	Unique      Unique
	// IdentityPFS deletes the IKE SA once a Quick Mode under it is done and
	// makes a new one for the next (RFC 2409 section 8).
	IdentityPFS bool

	Children []*Child
}

// AddrMatch is one entry of local_addrs or remote_addrs: a range of addresses
// (From == To: a single one), or a host name that the caller resolves before
// it initiates.
type AddrMatch struct {
	From, To netip.Addr
	Host     string
}

// Unique is a connection's uniqueness policy: what becomes of other IKE SAs
// with the same two identities.
type Unique uint8

// The uniqueness policies, strongSwan's.
const (
	UniqueNo      Unique = iota // replace only where the peer says INITIAL_CONTACT
	UniqueReplace               // delete the old one
	UniqueKeep                  // refuse the new one
	UniqueNever                 // and not even INITIAL_CONTACT counts
)

// StartAction is what start_action, close_action and dpd_action ask for.
type StartAction uint8

// The actions. ActionNone is "clear" in dpd_action.
const (
	ActionNone StartAction = iota
	ActionTrap
	ActionStart // "restart" in dpd_action
)

// Child is a section of a connection's children.
type Child struct {
	Name      string
	Proposals []sa.Proposal // offered in order, each under a number of its own
	Mode      sa.Mode
	// LocalTS and RemoteTS are invalid ("dynamic") where they are the IKE SA's
	// own endpoints.
	LocalTS, RemoteTS Dynamic
	Lifetime          Lifetime
	ReplayWindow      uint32
	Offload           sa.Offload
	CopyDF            bool
	CopyECN           bool
	CopyDSCP          sa.DSCPCopy
	Marking           sa.Marking
	ReqID             uint32 // 0: chosen by the engine
	// Parallel is how many pairs of SAs the child has side by side, 1 by default
	// and MaxParallel at most.
	Parallel    int
	StartAction StartAction
	CloseAction StartAction
	DPDAction   StartAction
	// Manual is set for a child with keys of its own and no IKE.
	Manual *Manual
}

// MaxParallel is the most that Child.Parallel may be.
const MaxParallel = 64

// lanes is how many pairs the child has side by side.
func (c *Child) lanes() int { return max(c.Parallel, 1) }

// Dynamic is a selector that may stand for the IKE SA's own endpoint, with the
// given protocol and port.
type Dynamic struct {
	sa.Selector
	IsDynamic bool
}

// Lifetime is a child's renegotiation in swanctl.conf's terms. The Rand values
// are the most that is taken off the matching Rekey value.
type Lifetime struct {
	RekeyTime, LifeTime, RandTime          time.Duration
	RekeyBytes, LifeBytes, RandBytes       uint64
	RekeyPackets, LifePackets, RandPackets uint64
}

// Manual is a manually keyed child: both SAs as they stand in the
// configuration (RFC 4301 section 4.5.1).
type Manual struct {
	Suite   sa.Suite
	In, Out sa.SA
	Encap   bool
	Local   netip.AddrPort
	Remote  netip.AddrPort
}

// Secret is a pre-shared key and whom it belongs to; with no owners it is
// anybody's.
type Secret struct {
	Name   string
	Owners []Identity
	Key    sa.Key
}
