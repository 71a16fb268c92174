// SPDX-License-Identifier: Apache-2.0

package tun

import (
	"bytes"
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// A Coalescer gathers packets and writes them to a queue in as few frames as
// can be: neighbours of one TCP or UDP flow become a super-packet that cuts into
// exactly them. A packet's checksum is verified before it is joined to others,
// because the kernel then takes it for good; one that is wrong goes alone, for
// the kernel to judge. Packets of a flow keep their order.
//
// The zero value joins TCP alone. One goroutine uses it.
type Coalescer struct {
	// UDP says whether UDP is joined too, which the device must allow.
	UDP bool

	packets []gathered
	groups  []group
	latest  [64]int32 // of a flow's groups, by its hash: its index and 1
	pieces  [][]byte
	header  [HeaderLen]byte
}

type gathered struct {
	data []byte
	next int32 // packet of the group, or 0
}

// group is what becomes a frame.
type group struct {
	flow
	first, last int32 // packets
	count       int
	total       int    // bytes of the super-packet
	next        uint32 // TCP's sequence number
	push        bool   // TCP's PSH was seen, the group's end
	open        bool   // another packet may be joined
	verified    bool   // the first packet's checksum
}

// flow is what is read from a packet.
type flow struct {
	protocol  uint8
	transport int  // offset of TCP's or UDP's header
	header    int  // length of all headers
	payload   int  // bytes behind them
	joins     bool // it may be joined to others
}

// maxDatagrams is how many datagrams a super-packet of UDP may hold:
// UDP_MAX_SEGMENTS of the oldest kernels.
const maxDatagrams = 64

// Add takes a packet, whose memory is the Coalescer's until Flush returns.
func (c *Coalescer) Add(packet []byte) {
	index := int32(len(c.packets))
	c.packets = append(c.packets, gathered{data: packet})
	f, ok := parse(packet)
	if !ok {
		// It may be of any flow, a fragment for example; none passes it.
		clear(c.latest[:])
		c.groups = append(c.groups, group{first: index, last: index, count: 1})
		return
	}
	slot := &c.latest[f.hash(packet)]
	checked := false
	if *slot != 0 {
		g := &c.groups[*slot-1]
		if g.open && f.joins && c.continues(g, &f, packet) {
			if !g.verified {
				g.verified = valid(c.packets[g.first].data, &g.flow)
				g.open = g.verified
			}
			if checked = g.open; checked && valid(packet, &f) {
				c.join(g, &f, packet, index)
				return
			}
		}
	}
	g := group{flow: f, first: index, last: index, count: 1, total: len(packet)}
	g.open = f.joins && (f.protocol == protoTCP || c.UDP) && !checked
	if f.protocol == protoTCP {
		l4 := packet[f.transport:]
		g.next = binary.BigEndian.Uint32(l4[4:]) + uint32(f.payload)
		g.open = g.open && l4[13]&tcpPSH == 0
	}
	c.groups = append(c.groups, g)
	*slot = int32(len(c.groups))
}

// parse reads a packet of TCP or UDP, without IPv4's options, IPv6's extension
// headers and fragmentation.
func parse(b []byte) (f flow, ok bool) {
	switch {
	case len(b) >= 28 && b[0] == 0x45 && b[6]&0x3f == 0 && b[7] == 0 && int(binary.BigEndian.Uint16(b[2:])) == len(b):
		f.protocol, f.transport = b[9], 20
	case len(b) >= 48 && b[0]>>4 == 6 && 40+int(binary.BigEndian.Uint16(b[4:])) == len(b):
		f.protocol, f.transport = b[6], 40
	default:
		return f, false
	}
	switch f.protocol {
	case protoTCP:
		if len(b) < f.transport+20 {
			return f, false
		}
		f.header = f.transport + int(b[f.transport+12]>>4)*4
		f.payload = len(b) - f.header
		f.joins = f.header >= f.transport+20 && f.payload > 0 &&
			b[f.transport+13]&^(tcpPSH|tcpECE) == tcpACK
	case protoUDP:
		f.header = f.transport + 8
		f.payload = len(b) - f.header
		f.joins = f.payload > 0 && int(binary.BigEndian.Uint16(b[f.transport+4:])) == 8+f.payload &&
			(b[f.transport+6] != 0 || b[f.transport+7] != 0)
	default:
		return f, false
	}
	return f, true
}

// hash is an index for the flow's groups.
func (f *flow) hash(b []byte) uint64 {
	h := uint64(binary.LittleEndian.Uint32(b[f.transport:]))
	if f.transport == 20 {
		h ^= binary.LittleEndian.Uint64(b[12:])
	} else {
		h ^= binary.LittleEndian.Uint64(b[16:]) ^ binary.LittleEndian.Uint64(b[32:])
	}
	return h * 0x9e3779b97f4a7c15 >> (64 - 6)
}

// continues reports whether a packet is what follows in the group, so that
// cutting the super-packet gives back its very header.
func (c *Coalescer) continues(g *group, f *flow, b []byte) bool {
	a := c.packets[g.first].data
	if g.protocol != f.protocol || g.transport != f.transport || g.header != f.header ||
		f.payload > g.payload || g.total+f.payload > maxPacket || g.count+1 >= MaxPieces {
		return false
	}
	if f.transport == 20 {
		// Addresses; TOS; DF; TTL and protocol. Without DF the identification
		// counts (RFC 6864 section 4), and cutting makes it go up by one.
		if binary.LittleEndian.Uint64(a[12:]) != binary.LittleEndian.Uint64(b[12:]) || a[1] != b[1] ||
			a[6] != b[6] || a[8] != b[8] ||
			a[6]&0x40 == 0 && binary.BigEndian.Uint16(b[4:]) != binary.BigEndian.Uint16(a[4:])+uint16(g.count) {
			return false
		}
	} else if !bytes.Equal(a[:4], b[:4]) || !bytes.Equal(a[6:40], b[6:40]) {
		return false
	}
	p, q := a[f.transport:f.header], b[f.transport:f.header]
	if binary.LittleEndian.Uint32(p) != binary.LittleEndian.Uint32(q) {
		return false // ports
	}
	if f.protocol == protoUDP {
		return g.count < maxDatagrams
	}
	// Sequence number; acknowledgement; flags and window; urgent pointer and
	// options.
	return binary.BigEndian.Uint32(q[4:]) == g.next &&
		binary.LittleEndian.Uint32(p[8:]) == binary.LittleEndian.Uint32(q[8:]) &&
		p[12] == q[12] && (p[13]^q[13])&^tcpPSH == 0 && bytes.Equal(p[14:16], q[14:16]) && bytes.Equal(p[18:], q[18:])
}

// valid reports whether IPv4's and TCP's or UDP's checksums are right.
func valid(b []byte, f *flow) bool {
	if b[0]>>4 == 4 && fold(sumGeneric(0, b[:f.transport])) != 0xffff {
		return false
	}
	l4 := b[f.transport:]
	return fold(sum(pseudoSum(b, f.protocol)+unfold(uint16(len(l4))), l4)) == 0xffff
}

// join adds a packet to the group.
func (c *Coalescer) join(g *group, f *flow, packet []byte, index int32) {
	c.packets[g.last].next = index
	g.last = index
	g.count++
	g.total += f.payload
	g.next += uint32(f.payload)
	g.push = f.protocol == protoTCP && packet[f.transport+13]&tcpPSH != 0
	g.open = !g.push && f.payload == g.payload
}

// Flush writes what was gathered, in the order it came, and returns how many
// packets the device refused.
func (c *Coalescer) Flush(q Queue) (refused int) {
	for i := range c.groups {
		g := &c.groups[i]
		h := header{}
		if g.count > 1 {
			h = c.head(g)
		}
		h.put(c.header[:])
		c.pieces = append(c.pieces[:0], c.header[:], c.packets[g.first].data)
		for at := c.packets[g.first].next; at != 0; at = c.packets[at].next {
			c.pieces = append(c.pieces, c.packets[at].data[g.header:])
		}
		if q.Write(c.pieces) != nil {
			refused += g.count
		}
	}
	clear(c.packets)
	clear(c.pieces)
	c.packets, c.groups = c.packets[:0], c.groups[:0]
	clear(c.latest[:])
	return refused
}

// head makes the first packet's headers those of the super-packet, whose
// checksum is that of the pseudo header alone.
func (c *Coalescer) head(g *group) header {
	b := c.packets[g.first].data
	h := header{flags: unix.VIRTIO_NET_HDR_F_NEEDS_CSUM, gso: unix.VIRTIO_NET_HDR_GSO_UDP_L4,
		length: uint16(g.header), size: uint16(g.payload), csumStart: uint16(g.transport), csumOff: udpCheck}
	length := uint16(g.total - g.transport)
	l4 := b[g.transport:]
	if g.protocol == protoTCP {
		h.gso, h.csumOff = unix.VIRTIO_NET_HDR_GSO_TCPV4, tcpCheck
		if g.transport != 20 {
			h.gso = unix.VIRTIO_NET_HDR_GSO_TCPV6
		}
		if g.push {
			l4[13] |= tcpPSH
		}
	} else {
		binary.BigEndian.PutUint16(l4[4:], length)
	}
	if g.transport == 20 {
		binary.BigEndian.PutUint16(b[2:], uint16(g.total))
		clear(b[10:12])
		binary.BigEndian.PutUint16(b[10:], ^fold(sumGeneric(0, b[:20])))
	} else {
		binary.BigEndian.PutUint16(b[4:], length)
	}
	binary.BigEndian.PutUint16(l4[h.csumOff:], fold(pseudoSum(b, g.protocol)+unfold(length)))
	return h
}
