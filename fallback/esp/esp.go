// SPDX-License-Identifier: Apache-2.0

// Package esp is ESP (RFC 4303) and AH (RFC 4302) over packets in memory:
// encapsulation and decapsulation in tunnel and transport mode, sequence
// numbers and the replay window, what passes between inner and outer headers
// (RFC 4301 section 5.1.2, RFC 6040), and the counters that end an SA. Sockets
// and policies are somebody else's.
package esp

import (
	"encoding/binary"
	"errors"

	"quicksand/sa"
)

// Headroom and Tailroom are what a buffer needs before and behind a packet
// for any suite, mode and outer header.
const (
	Headroom = 128 // outer IPv6, UDP, ESP or AH, IV
	Tailroom = 64  // padding, trailer, ICV
)

// Why a packet was not sealed or opened.
var (
	ErrMalformed = errors.New("packet is malformed")
	ErrRoom      = errors.New("buffer has too little room around the packet")
	ErrReplay    = errors.New("sequence number was seen before or is too old")
	ErrICV       = errors.New("ICV is wrong")
	ErrPadding   = errors.New("padding is wrong")
	ErrSelector  = errors.New("inner packet is outside the SA's selectors")
	ErrECN       = errors.New("congestion was marked on a packet that cannot say so")
	ErrDummy     = errors.New("dummy packet") // no fault: traffic flow confidentiality
	ErrExhausted = errors.New("sequence numbers are used up")
	ErrExpired   = errors.New("hard lifetime is reached, or the SA wiped")
	ErrFragment  = errors.New("transport mode does not protect fragments")
	ErrHeader    = errors.New("extension header or option is not supported here")
)

// Packet is a packet in a buffer of its own, Buf[Off:Off+Len]. Seal and Open
// change the bytes in place, move Off and Len, and set Err on every packet
// they are given. They need Headroom before Off and Tailroom behind the end.
//
// Of ESP the bytes outside are those from the SPI to the ICV, without an outer
// IP or UDP header. Of AH, whose ICV covers the outer header, they are the
// whole outer IP packet.
type Packet struct {
	Buf      []byte
	Off, Len int
	// TOS is the outer header's TOS or traffic class, DSCP and ECN: set by
	// Seal for whoever sends, and given to Open by whoever received.
	TOS uint8
	// DF is the outer IPv4 header's: set by Seal, and given to Open in
	// transport mode, whose inner header takes it over.
	DF bool
	// TTL is likewise given to Open in transport mode; 0 stands for 64.
	TTL uint8
	// Seq is the sequence number in full, set by Seal and by Open.
	Seq uint64
	// Err is nil, or one of the package's errors, and the packet then goes
	// nowhere; its bytes are undefined.
	Err error
}

// valid reports whether Off and Len lie in Buf.
func (p *Packet) valid() bool {
	return p.Off >= 0 && p.Len >= 0 && p.Off <= len(p.Buf) && p.Len <= len(p.Buf)-p.Off
}

// Bytes returns the packet without the room around it.
func (p *Packet) Bytes() []byte { return p.Buf[p.Off : p.Off+p.Len] }

// SPIOf returns the SPI of an ESP packet, which begins with it; 0, which no
// SA has, where it is too short.
func SPIOf(b []byte) sa.SPI {
	if len(b) < 8 {
		return 0
	}
	return sa.SPI(binary.BigEndian.Uint32(b))
}
