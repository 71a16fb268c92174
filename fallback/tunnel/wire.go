// SPDX-License-Identifier: Apache-2.0

package tunnel

import (
	"net/netip"

	"quicksand/fallback/esp"
	"quicksand/sa"
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
// esp.Headroom before it and esp.Tailroom behind it. Its memory is used again
// for the next one.
type Batch struct {
	Packets []esp.Packet
	From    []Path // of each packet; MTU is not set

	inward *inward // of the plane that handles the batch
}

// Reset empties the batch.
func (b *Batch) Reset() { b.Packets, b.From = b.Packets[:0], b.From[:0] }

// Add adds a packet.
func (b *Batch) Add(p esp.Packet, from Path) {
	b.Packets = append(b.Packets, p)
	b.From = append(b.From, from)
}

// A Wire moves IPsec packets between a plane and the network.
type Wire interface {
	// Carries says why packets cannot go this way, or returns nil.
	Carries(p Path) error
	// Admit tells of an inbound SA before its peer may use it: its packets come
	// along the path, from Remote to Local. Its SPI, Local's address and the
	// protocol name it; who is told of one again is told that its path changed.
	// The wire says how the packets come and go, in words for a placement:
	// "sockets", or "AF_XDP (native, copy) on eth0".
	Admit(spi sa.SPI, p Path) string
	// Dismiss tells that an admitted SA ends. The plane holds no lock that input
	// waits for.
	Dismiss(spi sa.SPI, p Path)
	// Advance tells of an admitted SA that packets with a sequence number below
	// floor would be refused as too old, so that they may be dropped before they
	// are looked at. It does not block, and reports false where the caller
	// should tell again.
	Advance(spi sa.SPI, p Path, floor uint32) bool
	// Send sends sealed packets along the path: ESP packets, or whole outer IP
	// packets of AH. It sets Err in those it could not send; EMSGSIZE there
	// says that the path's MTU became smaller. The batch is the caller's again
	// when it returns. Several goroutines may send at once; one after the
	// other, packets of one SA stay in order.
	Send(p Path, batch []esp.Packet)
	// Receive names the function that packets which come in are handed to,
	// from goroutines of the wire's own, each with a batch of its own. Packets
	// of one SA come from one goroutine, until the way they take changes. The
	// batch and what its buffers hold are the function's until it returns.
	//
	// Moved is told when packets of an admitted SA come and go otherwise than
	// Admit said, in the same words; the wire holds no lock then.
	Receive(input func(*Batch), moved func(spi sa.SPI, how string))
	// PathMTU returns the longest IP packet, in bytes, that goes from local to
	// remote in one piece, as far as is known.
	PathMTU(local, remote netip.Addr) (int, error)
	// Close ends Receive: the function is not called any more once Close
	// returned.
	Close() error
}
