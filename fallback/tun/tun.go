// SPDX-License-Identifier: Apache-2.0

// Package tun is the machine's own side of a tunnel: a TUN device of several
// queues that moves packets in super-packets (Linux
// Documentation/networking/tuntap.rst and the virtio_net_hdr of linux/virtio_net.h).
// The kernel hands over up to 64 KiB of a TCP or UDP flow at once, not yet cut
// into packets and without checksums; a Segmenter cuts them, copying and
// computing the checksums in one pass. On the way back a Coalescer puts the
// packets of a flow together again and hands them over in one call, without
// copying.
package tun

import (
	"encoding/binary"
	"errors"
	"net/netip"
)

// A frame is a virtio_net_hdr, in the machine's byte order, and a packet or a
// super-packet behind it.
const (
	HeaderLen = 10
	MaxFrame  = HeaderLen + maxPacket
	maxPacket = 65535
)

// ErrEmpty says that no frame waits.
var ErrEmpty = errors.New("no frame waits")

// A Device is a TUN device.
type Device interface {
	// Name is the interface's name.
	Name() string
	// Queues are the device's queues, always the same.
	Queues() []Queue
	// Steer has packets to the prefix come by the queue of the index, of several
	// prefixes that hold a packet the longest. With several lanes, 255 at most,
	// those of each lane of FlowHash.Lane come by a queue of their own, from the index
	// on and around. What is not steered comes by the first queue. Unsteer ends
	// that.
	Steer(p netip.Prefix, queue, lanes int) error
	Unsteer(p netip.Prefix) error
	// UDP reports whether a frame may hold a super-packet of UDP.
	UDP() bool
	// Stop makes every Read return os.ErrClosed, now and from now on.
	Stop()
	// Close takes the device away. Nobody uses its queues any more.
	Close() error
}

// A Queue is one queue of a device.
type Queue interface {
	// Read reads a frame into a buffer of MaxFrame bytes and returns its
	// length. Where there is none it waits, or returns ErrEmpty. One goroutine
	// reads a queue.
	Read(frame []byte, wait bool) (int, error)
	// Write writes one frame, given in pieces of which there are MaxPieces at
	// most. It may be called from several goroutines.
	Write(pieces [][]byte) error
}

// MaxPieces is how many pieces a frame can be written in.
const MaxPieces = 128

// header is a virtio_net_hdr.
type header struct {
	flags, gso         uint8
	length, size       uint16 // of the headers; of each packet's payload
	csumStart, csumOff uint16
}

func (h *header) get(b []byte) {
	h.flags, h.gso = b[0], b[1]
	h.length, h.size = binary.NativeEndian.Uint16(b[2:]), binary.NativeEndian.Uint16(b[4:])
	h.csumStart, h.csumOff = binary.NativeEndian.Uint16(b[6:]), binary.NativeEndian.Uint16(b[8:])
}

func (h *header) put(b []byte) {
	b[0], b[1] = h.flags, h.gso
	binary.NativeEndian.PutUint16(b[2:], h.length)
	binary.NativeEndian.PutUint16(b[4:], h.size)
	binary.NativeEndian.PutUint16(b[6:], h.csumStart)
	binary.NativeEndian.PutUint16(b[8:], h.csumOff)
}

// Protocols, and where their headers hold the checksum.
const (
	protoTCP = 6
	protoUDP = 17
	tcpCheck = 16
	udpCheck = 6
)

// TCP's flags (RFC 9293 section 3.1).
const (
	tcpFIN = 0x01
	tcpPSH = 0x08
	tcpACK = 0x10
	tcpECE = 0x40
	tcpCWR = 0x80
)

// pseudoSum adds the addresses and the protocol of TCP's and UDP's pseudo
// header; the length is still to come. b is a whole IP header.
func pseudoSum(b []byte, protocol uint8) uint64 {
	s := unfold(uint16(protocol))
	if b[0]>>4 == 4 {
		return sumGeneric(s, b[12:20])
	}
	return sumGeneric(s, b[8:40])
}
