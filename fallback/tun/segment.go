// SPDX-License-Identifier: Apache-2.0

package tun

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// A Segmenter cuts frames into the packets that they stand for, as a NIC with
// segmentation offload would: TCP's sequence numbers and flags, UDP's lengths,
// IPv4's identifications, and all checksums.
type Segmenter struct {
	packet []byte // header and payload
	at     int    // of the payload that comes next
	done   bool   // all is cut

	csum      bool // the checksum is to be computed
	transport int  // offset of TCP's or UDP's header
	check     int  // and in it of the checksum
	header    int  // length of all headers
	size      int  // payload of each packet; 0: the frame is one packet

	tcp       bool
	seq       uint32
	flags     uint8
	id        uint16
	ip, upper uint64 // sums of what is the same in all headers
}

// Load takes a frame, which it changes, and which is not to be changed by
// others until all of it is cut. It reports false where the frame is malformed.
func (s *Segmenter) Load(frame []byte) bool {
	*s = Segmenter{done: true}
	if len(frame) <= HeaderLen {
		return false
	}
	var h header
	h.get(frame)
	s.packet = frame[HeaderLen:]
	s.csum = h.flags&unix.VIRTIO_NET_HDR_F_NEEDS_CSUM != 0
	s.transport, s.check = int(h.csumStart), int(h.csumOff)
	if s.csum && s.transport+s.check+2 > len(s.packet) {
		return false
	}
	if h.gso != unix.VIRTIO_NET_HDR_GSO_NONE && !s.loadSegments(&h) {
		return false
	}
	s.done = false
	return true
}

// loadSegments reads the headers of a super-packet and makes of them what each
// packet's begin as.
func (s *Segmenter) loadSegments(h *header) bool {
	b := s.packet
	v4 := len(b) >= 20 && b[0]>>4 == 4
	if v4 && s.transport != int(b[0]&15)*4 || !v4 && s.transport < 40 || !v4 && b[0]>>4 != 6 || !s.csum || h.size == 0 {
		return false
	}
	protocol := uint8(protoTCP)
	switch h.gso &^ unix.VIRTIO_NET_HDR_GSO_ECN {
	case unix.VIRTIO_NET_HDR_GSO_TCPV4, unix.VIRTIO_NET_HDR_GSO_TCPV6:
		// The length that the kernel tells may be that of the first packet.
		if s.tcp = true; s.check != tcpCheck || s.transport+20 > len(b) {
			return false
		}
		s.header = s.transport + int(b[s.transport+12]>>4)*4
		if s.header < s.transport+20 {
			return false
		}
	case unix.VIRTIO_NET_HDR_GSO_UDP_L4:
		protocol, s.header = protoUDP, s.transport+8
		if s.check != udpCheck {
			return false
		}
	default:
		return false
	}
	if s.header >= len(b) {
		return false
	}
	s.at, s.size = s.header, int(h.size)
	l4 := b[s.transport:s.header]
	if s.tcp {
		s.seq, s.flags = binary.BigEndian.Uint32(l4[4:]), l4[13]
		clear(l4[4:8])
		l4[13] = 0
	} else {
		clear(l4[4:6])
	}
	clear(l4[s.check:][:2])
	s.upper = sum(pseudoSum(b, protocol), l4)
	if v4 {
		s.id = binary.BigEndian.Uint16(b[4:])
		clear(b[2:6])
		clear(b[10:12])
		s.ip = sum(0, b[:s.transport])
	}
	return true
}

// Len is the length of the packet that comes next, 0 where there is none.
func (s *Segmenter) Len() int {
	switch {
	case s.done:
		return 0
	case s.size == 0:
		return len(s.packet)
	}
	return s.header + min(s.size, len(s.packet)-s.at)
}

// First reports whether the packet that comes next is the frame's first. Those
// behind it are of the same flow, and no longer.
func (s *Segmenter) First() bool { return s.at == s.header }

// Next writes the next packet, of Len bytes, to dst.
func (s *Segmenter) Next(dst []byte) {
	if s.size == 0 {
		s.whole(dst)
		return
	}
	payload := s.packet[s.at:min(s.at+s.size, len(s.packet))]
	dst = dst[:s.header+len(payload)]
	copy(dst, s.packet[:s.header])
	s.at += len(payload)
	s.done = s.at == len(s.packet)
	if dst[0]>>4 == 4 {
		binary.BigEndian.PutUint16(dst[2:], uint16(len(dst)))
		binary.BigEndian.PutUint16(dst[4:], s.id)
		c := ^fold(s.ip + unfold(uint16(len(dst))) + unfold(s.id))
		binary.BigEndian.PutUint16(dst[10:], c)
		s.id++
	} else {
		binary.BigEndian.PutUint16(dst[4:], uint16(len(dst)-40))
	}
	l4 := dst[s.transport:]
	length := unfold(uint16(len(l4)))
	c := s.upper + length
	if s.tcp {
		flags := s.flags
		if !s.done {
			flags &^= tcpFIN | tcpPSH
		}
		binary.BigEndian.PutUint32(l4[4:], s.seq)
		l4[13] = flags
		c += unfold(uint16(s.seq>>16)) + unfold(uint16(s.seq)) + unfold(uint16(flags))
		s.seq += uint32(len(payload))
		s.flags &^= tcpCWR // RFC 3168 section 6.1.2: once
	} else {
		binary.BigEndian.PutUint16(l4[4:], uint16(len(l4)))
		c += length
	}
	setCheck(l4[s.check:], copySum(c, dst[s.header:], payload))
}

// whole writes the packet of a frame that is no super-packet.
func (s *Segmenter) whole(dst []byte) {
	s.done = true
	if !s.csum {
		copy(dst, s.packet)
		return
	}
	// The checksum's place holds the sum of the pseudo header.
	copy(dst, s.packet[:s.transport])
	setCheck(dst[s.transport+s.check:], copySum(0, dst[s.transport:], s.packet[s.transport:]))
}

// setCheck writes the checksum that belongs to a sum. 0 is UDP's way to say
// that there is none (RFC 768), and the same number otherwise.
func setCheck(b []byte, sum uint64) {
	c := ^fold(sum)
	if c == 0 {
		c = 0xffff
	}
	binary.BigEndian.PutUint16(b, c)
}
