// SPDX-License-Identifier: Apache-2.0

package tun

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
)

// made describes a packet that a test makes.
type made struct {
	src, dst         string // addresses
	protocol         uint8
	from, to         uint16
	seq, ack         uint32
	flags, tos       uint8
	window, id       uint16
	options, payload []byte
	df, wrong        bool // DF; the checksum is wrong
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rand.Uint32())
	}
	return b
}

// bytes makes the packet, with checksums by the slow reference.
func (m made) bytes() []byte {
	src, dst := netip.MustParseAddr(m.src), netip.MustParseAddr(m.dst)
	l4 := binary.BigEndian.AppendUint16(nil, m.from)
	l4 = binary.BigEndian.AppendUint16(l4, m.to)
	check := udpCheck
	if m.protocol == protoTCP {
		l4 = binary.BigEndian.AppendUint32(l4, m.seq)
		l4 = binary.BigEndian.AppendUint32(l4, m.ack)
		l4 = append(l4, uint8(20+len(m.options))<<2, m.flags)
		l4 = binary.BigEndian.AppendUint16(l4, m.window)
		l4 = append(l4, 0, 0, 0, 0)
		l4 = append(l4, m.options...)
		check = tcpCheck
	} else {
		l4 = binary.BigEndian.AppendUint16(l4, uint16(8+len(m.payload)))
		l4 = append(l4, 0, 0)
	}
	l4 = append(l4, m.payload...)
	pseudo := append(append(src.AsSlice(), dst.AsSlice()...), 0, m.protocol)
	pseudo = binary.BigEndian.AppendUint16(pseudo, uint16(len(l4)))
	c := ^slowChecksum(slowChecksum(0, pseudo), l4)
	if c == 0 {
		c = 0xffff
	}
	if m.wrong {
		c ^= 0x55
	}
	binary.BigEndian.PutUint16(l4[check:], c)
	var b []byte
	if src.Is4() {
		b = append(b, 0x45, m.tos)
		b = binary.BigEndian.AppendUint16(b, uint16(20+len(l4)))
		b = binary.BigEndian.AppendUint16(b, m.id)
		b = append(b, 0, 0, 64, m.protocol, 0, 0)
		if m.df {
			b[6] = 0x40
		}
		b = append(append(b, src.AsSlice()...), dst.AsSlice()...)
		binary.BigEndian.PutUint16(b[10:], ^slowChecksum(0, b))
	} else {
		b = append(b, 0x60|m.tos>>4, m.tos<<4, 0, 9)
		b = binary.BigEndian.AppendUint16(b, uint16(len(l4)))
		b = append(append(append(b, m.protocol, 64), src.AsSlice()...), dst.AsSlice()...)
	}
	return append(b, l4...)
}

// then is the packet that follows in the flow.
func (m made) then(payload int) made {
	m.seq += uint32(len(m.payload))
	m.id++
	m.payload = randomBytes(payload)
	return m
}

func tcp4(payload int) made {
	return made{src: "10.1.0.1", dst: "10.2.0.2", protocol: protoTCP, from: 1000, to: 5201, seq: 0xffffff00, ack: 7,
		flags: tcpACK, window: 500, id: 0xfffe, options: randomBytes(12), payload: randomBytes(payload)}
}

func tcp6(payload int) made {
	m := tcp4(payload)
	m.src, m.dst = "fd00:1::1", "fd00:2::2"
	return m
}

func udp4(payload int) made {
	m := tcp4(payload)
	m.protocol, m.options = protoUDP, nil
	return m
}

func udp6(payload int) made {
	m := tcp6(payload)
	m.protocol, m.options = protoUDP, nil
	return m
}

// recorder is a queue that keeps the frames it gets.
type recorder struct{ frames [][]byte }

func (r *recorder) Read([]byte, bool) (int, error) { return 0, ErrEmpty }

func (r *recorder) Write(pieces [][]byte) error {
	var frame []byte
	for _, p := range pieces {
		frame = append(frame, p...)
	}
	r.frames = append(r.frames, frame)
	return nil
}

// cut returns the packets of a frame.
func cut(frame []byte) (packets [][]byte, ok bool) {
	var s Segmenter
	if !s.Load(frame) {
		return nil, false
	}
	for n := s.Len(); n > 0; n = s.Len() {
		p := make([]byte, n)
		s.Next(p)
		packets = append(packets, p)
	}
	return packets, true
}
