// SPDX-License-Identifier: Apache-2.0

package esp

import (
	"net/netip"

	"quicksand/sa"
)

// Outbound is the outbound SA of a pair. Its methods are not safe for
// concurrent use, except those of Usage.
type Outbound struct {
	Usage
}

// NewOutbound returns the outbound SA of a pair. It keeps copies of the keys.
func NewOutbound(p *sa.Pair) (*Outbound, error) { return nil, nil }

// Seal turns inner IP packets, which the caller has found to be the SA's, into
// ESP packets, or into AH's outer IP packets. The inner TTL stays as it is:
// whoever routed the packet to the tunnel has decremented it.
//
// In transport mode ESP the packet's IP header is taken off, and the sender
// makes it anew from the pair's endpoints, TOS and DF; a packet with IPv4
// options, or IPv6 headers that come before ESP, is refused with ErrHeader.
//
// Err: ErrMalformed, ErrRoom, ErrExhausted, ErrExpired, ErrFragment,
// ErrHeader.
func (o *Outbound) Seal(pkts []Packet) {}

// InnerMTU returns the length of the longest inner packet, in bytes, that fits
// a path of the given MTU with its outer IP header, UDP header (Encap) and
// everything between.
func (o *Outbound) InnerMTU(path int) int { return 0 }

// Update takes over the pair's endpoints and Encap; SPI, keys and sequence
// number stay.
func (o *Outbound) Update(p *sa.Pair) {}

// Local and Remote are the outer endpoints.
func (o *Outbound) Local() netip.AddrPort  { return netip.AddrPort{} }
func (o *Outbound) Remote() netip.AddrPort { return netip.AddrPort{} }
