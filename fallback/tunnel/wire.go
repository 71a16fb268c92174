// SPDX-License-Identifier: Apache-2.0

package tunnel

import (
	"net/netip"

	"quicksand/fallback/esp"
)

// Path is the way of an SA's packets through the network.
type Path struct {
	// Local and Remote are the outer addresses; the ports count with Proto 17
	// only.
	Local, Remote netip.AddrPort
	// Proto is the outer IP protocol: UDP (17) for ESP encapsulated in it
	// (RFC 3948), else ESP (50) or AH (51).
	Proto uint8
	// MTU is the longest IP packet, in bytes, that the path takes in one
	// piece. What is longer is fragmented, whatever its DF says: who sends it
	// has decided that.
	MTU int
}

// Batch is a batch of packets that came in and what they came from. ESP
// packets begin at the SPI, AH packets at the outer IP header; each has
// esp.Headroom before it. Its memory is used again for the next one.
type Batch struct {
	Packets []esp.Packet
	From    []Path // of each packet; MTU is not set

	out [][]byte // of whoever handles the batch
}

func (b *Batch) reset() { b.Packets, b.From = b.Packets[:0], b.From[:0] }

func (b *Batch) add(p esp.Packet, from Path) {
	b.Packets = append(b.Packets, p)
	b.From = append(b.From, from)
}

// A Wire moves IPsec packets between a plane and the network.
type Wire interface {
	// Carries says why packets cannot go this way, or returns nil.
	Carries(p Path) error
	// Send sends sealed packets along the path: ESP packets, or whole outer IP
	// packets of AH. It sets Err in those it could not send; EMSGSIZE there
	// says that the path's MTU became smaller. The batch is the caller's again
	// when it returns.
	Send(p Path, batch []esp.Packet)
	// Receive names the function that packets which come in are handed to,
	// from goroutines of the wire's own, each with a batch of its own. The
	// batch and what its buffers hold are the function's until it returns.
	Receive(input func(*Batch))
	// PathMTU returns the longest IP packet, in bytes, that goes from local to
	// remote in one piece, as far as is known.
	PathMTU(local, remote netip.Addr) (int, error)
	// Close ends Receive: the function is not called any more once Close
	// returned.
	Close() error
}
