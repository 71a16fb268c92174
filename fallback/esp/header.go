// SPDX-License-Identifier: Apache-2.0

package esp

import (
	"net/netip"

	"quicksand/sa"
)

// Header is what policies and SAs need of an IP packet.
type Header struct {
	Src, Dst         netip.Addr
	Protocol         uint8  // of the payload behind IPv6 extension headers
	SrcPort, DstPort uint16 // TCP, UDP, UDP-Lite, DCCP, SCTP; else 0
	HasPorts         bool   // false in a later fragment too
	Fragment         bool   // any fragment, the first too
	DF               bool   // IPv4's; true for IPv6
	TOS              uint8  // TOS or traffic class
	Len              int    // of the whole packet by its header, in bytes
	PayloadOff       int    // of the payload behind all headers known
}

// Parse reads an IP packet's headers. It reports false where they are
// malformed or the packet is longer than b.
func (h *Header) Parse(b []byte) bool { return false }

// Matches reports whether a packet from src's to dst's traffic is selected by
// both. A selector with a port matches only packets whose ports are known.
func (h *Header) Matches(src, dst *sa.Selector) bool { return false }
