// SPDX-License-Identifier: Apache-2.0

package esp

import (
	"encoding/binary"
	"math"
	"net/netip"

	"quicksand/sa"
)

// Outbound is the outbound SA of a pair. Its methods are not safe for
// concurrent use, except those of Usage.
type Outbound struct {
	association
	seq, last uint64 // used last, and to be used at all
}

// NewOutbound returns the outbound SA of a pair. It keeps copies of the keys.
func NewOutbound(p *sa.Pair) (*Outbound, error) {
	o := &Outbound{last: math.MaxUint32}
	if p.Suite.ESN {
		o.last = math.MaxUint64
	}
	if err := o.init(p, &p.Out); err != nil {
		return nil, err
	}
	o.exhausted = o.last
	return o, nil
}

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
func (o *Outbound) Seal(pkts []Packet) {
	o.batch().Seal([]*Outbound{o}, pkts)
}

// admit checks an inner packet and what is left of the SA, cuts off what lies
// behind the packet's length by its header, and returns that.
func (o *Outbound) admit(p *Packet) (int, error) {
	p.Err = nil
	if !p.valid() {
		return 0, ErrMalformed
	}
	total, _, ok := ipLengths(p.Bytes())
	switch {
	case !ok:
		return 0, ErrMalformed
	case o.tally.expired(&o.Usage):
		return 0, ErrExpired
	case o.seq == o.last:
		return 0, ErrExhausted
	}
	p.Len = total
	return total, nil
}

// encapsulate puts everything of an ESP packet in its place but IV, ICV and
// encryption, under the next sequence number (RFC 4303 section 3.3).
func (o *Outbound) encapsulate(p *Packet) error {
	b := p.Bytes()
	next := uint8(protoIPv4)
	if b[0]>>4 == 6 {
		next = protoIPv6
	}
	off := 0
	if o.mode == sa.Transport {
		var err error
		if off, next, err = transportPayload(b); err != nil {
			return err
		}
		if b[0]>>4 == 4 && off != ipv4HeaderLen || b[0]>>4 == 6 && (next == protoHopByHop || next == protoRouting) {
			return ErrHeader
		}
		p.TOS, p.DF = trafficClass(b), dontFragment(b)
	} else {
		p.TOS, p.DF = o.tunnel.outer(b)
	}
	payload := p.Len - off
	pad := -(payload + 2) & (o.align - 1)
	begin, end := p.Off+off-o.front, p.Off+p.Len+pad+2+o.icv
	if begin < 0 || end > len(p.Buf) {
		return ErrRoom
	}
	trailer := p.Buf[p.Off+p.Len:]
	for i := range pad {
		trailer[i] = uint8(i + 1)
	}
	trailer[pad], trailer[pad+1] = uint8(pad), next
	o.seq++
	p.Off, p.Len = begin, end-begin
	binary.BigEndian.PutUint32(p.Buf[begin:], o.spi)
	binary.BigEndian.PutUint32(p.Buf[begin+4:], uint32(o.seq))
	return nil
}

// InnerMTU returns the length of the longest inner packet, in bytes, that fits
// a path of the given MTU with its outer IP header, UDP header (Encap) and
// everything between. It is 0 where none does.
func (o *Outbound) InnerMTU(path int) int {
	header := ipHeaderLen(o.remote.Addr())
	room := path - header
	if o.encap {
		room -= udpHeaderLen
	}
	if o.mac != nil {
		room -= o.ahLen()
	} else {
		room -= o.front + o.icv
		room = room&^(o.align-1) - 2
	}
	if o.mode == sa.Transport {
		room += header
	}
	return max(room, 0)
}

// Local and Remote are the outer endpoints.
func (o *Outbound) Local() netip.AddrPort  { return o.local }
func (o *Outbound) Remote() netip.AddrPort { return o.remote }
