// SPDX-License-Identifier: Apache-2.0

package ike

import (
	"log/slog"
	"net/netip"
	"time"

	"quicksand/sa"
)

// Action is something the engine wants done. The caller carries actions out in
// their order.
type Action interface{ action() }

// Send asks for a datagram to be sent. Data has no non-ESP marker; where
// NATT is set it goes from the NAT-T socket behind one (RFC 3948 section 2.2).
type Send struct {
	Local, Remote netip.AddrPort
	NATT          bool
	Data          []byte
}

// Keepalive asks for a NAT keepalive (RFC 3948 section 2.3).
type Keepalive struct{ Local, Remote netip.AddrPort }

// PrivateKey is a Diffie-Hellman private key that only its maker can use.
type PrivateKey interface{ Wipe() }

// ComputeDH asks for a Diffie-Hellman computation, answered by DHDone with the
// same Token. A nil Private asks for a new key pair; a nil Peer for no shared
// secret. Peers take turns by their addresses where many computations wait.
type ComputeDH struct {
	Token   uint64
	Group   sa.Group
	Private PrivateKey
	Peer    []byte
	From    netip.Addr
}

// DHResult is the answer to ComputeDH. Shared is wiped by the engine. Err is
// ErrBusy where the queue was full, ErrPublic where the peer's value was bad.
type DHResult struct {
	Token   uint64
	Private PrivateKey
	Public  []byte
	Shared  sa.Key
	Err     error
}

// ReserveSPI asks for an inbound SPI, answered by SPIReserved.
type ReserveSPI struct {
	Token    uint64
	Protocol sa.Protocol
	Local    netip.Addr
	Pair     *sa.Pair // what is going to be installed, without SPIs and keys
}

// ReleaseSPI gives back a reserved SPI that will not be used.
type ReleaseSPI struct {
	Protocol sa.Protocol
	Local    netip.Addr
	SPI      sa.SPI
}

// Install asks for a pair's inbound SA to be made live and its outbound one
// ready, answered by Installed.
type Install struct {
	Token uint64
	Pair  *sa.Pair
}

// Activate asks for the child's traffic to go over the pair from now on.
type Activate struct{ Pair *sa.Pair }

// Update asks for an installed pair to be moved to the endpoints in Pair.
type Update struct{ Pair *sa.Pair }

// Remove asks for a pair to be taken out and its keys wiped.
type Remove struct{ Pair *sa.Pair }

// Reconnect asks for a child to be brought up again from the start: dpd_action,
// close_action, identity PFS, or a keying attempt that starts over. The caller
// resolves the addresses and calls Initiate.
type Reconnect struct{ Conn, Child string }

// Trap asks for a child's trap policy to stand while it has no SA: dpd_action
// and close_action.
type Trap struct{ Policy sa.Policy }

// Done answers a command.
type Done struct {
	Command uint64
	Err     error
}

// Log is one line for the operator. Conn and IKE tell whose it is; Command is
// the command it came from, or 0.
type Log struct {
	Level   slog.Level
	Text    string
	Conn    string
	IKE     uint32
	Command uint64
	Attrs   []slog.Attr
}

// IKEUpdown and ChildUpdown tell of IKE SAs and children that came up or went
// down; Rekeyed of one that took another's place. The IKE of a child's event
// has no Children.
type (
	IKEUpdown struct {
		Up  bool
		IKE IKEInfo
	}
	ChildUpdown struct {
		Up    bool
		IKE   IKEInfo
		Child ChildInfo
	}
	IKERekeyed   struct{ Old, New IKEInfo }
	ChildRekeyed struct {
		IKE      IKEInfo
		Old, New ChildInfo
	}
)

// KeyLog carries secrets for the operator's explicit key log: the cipher key of
// an IKE SA by its initiator cookie. It is made only where Options.KeyLog asks.
type KeyLog struct {
	Cookie [8]byte
	Key    sa.Key
}

func (Send) action()         {}
func (Keepalive) action()    {}
func (ComputeDH) action()    {}
func (ReserveSPI) action()   {}
func (ReleaseSPI) action()   {}
func (Install) action()      {}
func (Activate) action()     {}
func (Update) action()       {}
func (Remove) action()       {}
func (Reconnect) action()    {}
func (Trap) action()         {}
func (Done) action()         {}
func (Log) action()          {}
func (IKEUpdown) action()    {}
func (ChildUpdown) action()  {}
func (IKERekeyed) action()   {}
func (ChildRekeyed) action() {}
func (KeyLog) action()       {}

// IKEState is the state of an IKE SA as swanctl names it.
type IKEState string

// The states of an IKE SA.
const (
	IKEConnecting  IKEState = "CONNECTING"
	IKEEstablished IKEState = "ESTABLISHED"
	IKERekeyedAway IKEState = "REKEYED"
	IKEDeleting    IKEState = "DELETING"
)

// ChildState is the state of a child SA as swanctl names it.
type ChildState string

// The states of a child SA.
const (
	ChildInstalling ChildState = "INSTALLING"
	ChildInstalled  ChildState = "INSTALLED"
	ChildRekeying   ChildState = "REKEYING"
	ChildSuperseded ChildState = "REKEYED"
	ChildDeleted    ChildState = "DELETED"
)

// IKEInfo describes an IKE SA.
type IKEInfo struct {
	ID                uint32
	Conn              string
	State             IKEState
	Initiator         bool
	Cookies           [2]string // initiator's, responder's
	Local, Remote     netip.AddrPort
	LocalID, RemoteID Identity
	Transform         sa.IKETransform
	NATLocal          bool // we are behind a NAT
	NATRemote         bool // the peer is
	NATT              bool // floated to the NAT-T port
	Established       time.Time
	Rekey             time.Time // zero: never
	Expire            time.Time
	Children          []ChildInfo
}

// ChildInfo describes a child SA. Pair is not to be kept beyond the call.
type ChildInfo struct {
	State     ChildState
	Pair      *sa.Pair
	Group     sa.Group // of PFS
	Placement sa.Placement
	Installed time.Time
	Rekey     time.Time // zero: never
	Expire    time.Time
	Rekeyed   bool // came of a renegotiation
}
