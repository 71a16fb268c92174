// SPDX-License-Identifier: Apache-2.0

package esp

import "quicksand/sa"

// Inbound is the inbound SA of a pair. Its methods are not safe for concurrent
// use, except those of Usage.
type Inbound struct {
	Usage
}

// NewInbound returns the inbound SA of a pair. It keeps copies of the keys.
func NewInbound(p *sa.Pair) (*Inbound, error) { return nil, nil }

// Open turns ESP packets, or AH's outer IP packets, of this SA's SPI into the
// inner IP packets: the replay window is checked, the ICV verified, the window
// moved, the payload decrypted, its padding checked and cut off, and the inner
// header compared with the pair's selectors (RFC 4301 section 5.2). In
// transport mode the IP header is made anew from the pair's endpoints, TOS and
// TTL, and behind a NAT the checksum of TCP and UDP is mended (RFC 3948
// section 3.1.2).
//
// Err: ErrMalformed, ErrRoom, ErrReplay, ErrICV, ErrPadding, ErrSelector,
// ErrECN, ErrDummy, ErrExpired, ErrHeader. A packet with ErrDummy, ErrPadding,
// ErrSelector, ErrECN or none was authentic: Authentic says so.
func (i *Inbound) Open(pkts []Packet) {}

// Authentic reports whether a packet with this Err came from the peer: a NAT's
// new port is then to be believed.
func Authentic(err error) bool { return false }

// Update takes over the pair's endpoints and Encap; SPI, keys and replay
// window stay.
func (i *Inbound) Update(p *sa.Pair) {}
