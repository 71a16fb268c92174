// SPDX-License-Identifier: Apache-2.0

package sa

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/netip"
	"time"
)

// SPI is a security parameter index in host order. 0 to 255 are reserved
// (RFC 4303 section 2.1).
type SPI uint32

// String returns the SPI as eight hexadecimal digits.
func (s SPI) String() string {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], uint32(s))
	return hex.EncodeToString(b[:])
}

// SA is what is particular to one direction: its SPI and keys.
type SA struct {
	SPI           SPI
	EncryptionKey Key // key, then salt: Suite.EncryptionKeyLen bytes
	IntegrityKey  Key
}

// Wipe overwrites the keys.
func (s *SA) Wipe() { s.EncryptionKey.Wipe(); s.IntegrityKey.Wipe() }

// Limits end an SA at the first of them that is reached; 0 is no limit. Time
// counts from the pair's installation, Bytes and Packets count either
// direction by itself.
type Limits struct {
	Time    time.Duration
	Bytes   uint64
	Packets uint64
}

// Lifetime is when a pair is to be renegotiated (Soft) and when it must not
// carry traffic any more (Hard).
type Lifetime struct {
	Soft, Hard Limits
}

// Offload is what a child's hw_offload asks for.
type Offload uint8

// The values of hw_offload.
const (
	OffloadAuto Offload = iota
	OffloadNo
	OffloadCrypto
	OffloadPacket
)

func (o Offload) String() string { return [...]string{"auto", "no", "crypto", "packet"}[o] }

// DSCPCopy is copy_dscp: in which direction DSCP is copied between the inner
// and the outer header of a tunnel (RFC 4301 section 5.1.2).
type DSCPCopy uint8

// The values of copy_dscp; "out", strongSwan's default, is the zero value.
const (
	DSCPOut DSCPCopy = iota
	DSCPIn
	DSCPBoth
	DSCPNone
)

// Policy says which packets a child protects, and how. It stands as long as
// the child does, whatever becomes of its SAs.
type Policy struct {
	Conn, Child   string
	Reqid         uint32
	Mode          Mode
	Local, Remote netip.AddrPort // outer endpoints; the ports count with Encap only
	LocalTS       Selector       // our side's traffic
	RemoteTS      Selector       // the peer's
	Marking       Marking
}

// Mark is a firewall mark, and which of its bits count; with the zero value
// none does.
type Mark struct{ Value, Mask uint32 }

// Marking ties a child to firewall marks and XFRM interfaces; 0 is none.
type Marking struct {
	In, Out         Mark   // that packets have to have, by direction
	SetIn, SetOut   Mark   // that they get behind the SA of the direction
	IfIDIn, IfIDOut uint32 // of the XFRM interfaces that they have to pass
}

// Pair is one inbound and one outbound SA, as Quick Mode negotiates them
// (RFC 2409 section 5.5). Whoever holds the pair must not change it; its keys
// are wiped by Wipe once no backend and no engine holds it.
type Pair struct {
	Policy
	ID       uint32 // unique while the daemon runs
	Suite    Suite
	Encap    bool // UDP encapsulation, RFC 3948
	In       SA   // SPI chosen by us
	Out      SA   // SPI chosen by the peer
	Lifetime Lifetime
	// ReplayWindow is in packets; 0 turns replay protection off.
	ReplayWindow uint32
	// Lane is which of its child's parallel pairs this is, and Lanes how many
	// the child has: each carries the part of the outbound flows that falls to
	// it. 0 and 1 (or 0) where there are no others; a pair that renegotiates
	// another has its lane.
	Lane, Lanes uint8
	// OriginalLocal and OriginalRemote are the addresses that transport mode's
	// checksums were made with, where a NAT changed them (RFC 3948 section
	// 3.1.2); else they are not valid.
	OriginalLocal, OriginalRemote netip.Addr
	CopyDF                        bool // copy the DF bit to the outer header
	CopyECN                       bool
	CopyDSCP                      DSCPCopy
	Offload                       Offload
}

// Wipe overwrites the keys of both directions.
func (p *Pair) Wipe() { p.In.Wipe(); p.Out.Wipe() }

// String names the pair in logs: child, SPIs and selectors, never keys.
func (p *Pair) String() string {
	return fmt.Sprintf("%s{%d} %s_i %s_o %s === %s", p.Child, p.ID, p.In.SPI, p.Out.SPI, p.LocalTS, p.RemoteTS)
}
