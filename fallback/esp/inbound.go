// SPDX-License-Identifier: Apache-2.0

package esp

import (
	"encoding/binary"

	"quicksand/sa"
)

// Inbound is the inbound SA of a pair. Its methods are not safe for concurrent
// use, except those of Usage.
type Inbound struct {
	association
	replay   Replay
	noReplay bool
	// src and dst are the selectors of what comes in: the peer's and ours.
	src, dst sa.Selector
	// mend is what TCP's and UDP's checksums lack in transport mode behind a
	// NAT.
	mend   uint16
	natted bool
}

// NewInbound returns the inbound SA of a pair. It keeps copies of the keys.
func NewInbound(p *sa.Pair) (*Inbound, error) {
	i := &Inbound{
		replay:   NewReplay(p.ReplayWindow, p.Suite.ESN),
		noReplay: p.ReplayWindow == 0,
		src:      p.RemoteTS,
		dst:      p.LocalTS,
	}
	if err := i.init(p, &p.In); err != nil {
		return nil, err
	}
	i.setNAT(p)
	return i, nil
}

// Update takes over the pair's endpoints and Encap; SPI, keys and replay
// window stay.
func (i *Inbound) Update(p *sa.Pair) error {
	if err := i.association.Update(p); err != nil {
		return err
	}
	i.setNAT(p)
	return nil
}

// setNAT computes the difference between the pseudo header that the peer knew
// and the one that we know.
func (i *Inbound) setNAT(p *sa.Pair) {
	src, dst := i.remote.Addr(), i.local.Addr()
	now := sumAddr(sumAddr(0, src), dst)
	if p.OriginalRemote.IsValid() {
		src = p.OriginalRemote.Unmap()
	}
	if p.OriginalLocal.IsValid() {
		dst = p.OriginalLocal.Unmap()
	}
	i.natted = src != i.remote.Addr() || dst != i.local.Addr()
	i.mend = fold(uint32(^fold(sumAddr(sumAddr(0, src), dst))) + now)
}

// Open turns ESP packets, or AH's outer IP packets, of this SA's SPI into the
// inner IP packets: the replay window is checked, the ICV verified, the window
// moved, the payload decrypted, its padding checked and cut off, and the inner
// header compared with the pair's selectors (RFC 4301 section 5.2). In
// transport mode the IP header is made anew from the pair's endpoints, TOS and
// TTL, and behind a NAT the checksum of TCP and UDP is mended (RFC 3948
// section 3.1.2).
//
// Err: ErrMalformed, ErrRoom, ErrReplay, ErrICV, ErrPadding, ErrSelector,
// ErrECN, ErrDummy, ErrExpired, ErrFragment, ErrHeader.
func (i *Inbound) Open(pkts []Packet) {
	i.batch().Open([]*Inbound{i}, pkts)
}

// admit checks what can be known of a packet before it is authentic.
func (i *Inbound) admit(p *Packet) error {
	p.Err, p.Seq = nil, 0
	if !p.valid() || p.Len < i.front+2+i.icv || (p.Len-i.front-i.icv)%i.block != 0 {
		return ErrMalformed
	}
	b := p.Bytes()
	if binary.BigEndian.Uint32(b) != i.spi {
		return ErrMalformed
	}
	return i.sequence(p, binary.BigEndian.Uint32(b[4:]))
}

// sequence infers the full sequence number and looks at the window.
func (i *Inbound) sequence(p *Packet, low uint32) error {
	if i.tally.expired(&i.Usage) {
		return ErrExpired
	}
	var fresh bool
	if p.Seq, fresh = i.replay.Infer(low); !fresh && !i.noReplay {
		return ErrReplay
	}
	return nil
}

// accept takes an ESP packet that came through the cipher.
func (i *Inbound) accept(p *Packet, authentic bool) error {
	switch {
	case !authentic:
		return ErrICV
	case i.tally.expired(&i.Usage):
		return ErrExpired // by the packets before it in the batch
	}
	if fresh := i.replay.Update(p.Seq); !fresh && !i.noReplay {
		return ErrReplay // twice in one batch
	}
	p.Off += i.front
	p.Len -= i.front + i.icv
	next, err := trim(p)
	if err != nil {
		return err
	}
	if next == protoNone {
		return ErrDummy // RFC 4303 section 2.6
	}
	if i.mode == sa.Transport {
		return i.rebuild(p, next)
	}
	return i.inner(p, next, p.TOS)
}

// trim checks the padding and cuts it and the trailer off (RFC 4303 section
// 2.4).
func trim(p *Packet) (next uint8, err error) {
	b := p.Bytes()
	pad, next := int(b[len(b)-2]), b[len(b)-1]
	end := len(b) - 2 - pad
	if end < 0 {
		return 0, ErrPadding
	}
	for k, v := range b[end : len(b)-2] {
		if v != uint8(k+1) {
			return 0, ErrPadding
		}
	}
	p.Len = end
	return next, nil
}

// inner checks what came out of a tunnel, and cuts off what lies behind the
// packet's length by its header: padding for traffic flow confidentiality
// (RFC 4303 section 2.7).
func (i *Inbound) inner(p *Packet, next uint8, outerTOS uint8) error {
	b := p.Bytes()
	var h Header
	if !h.Parse(b) || next != protoIPv4 && next != protoIPv6 || (next == protoIPv4) != h.Src.Is4() {
		return ErrMalformed
	}
	if !h.Matches(&i.src, &i.dst) {
		return ErrSelector
	}
	p.Len = h.Len
	return i.tunnel.inner(b, outerTOS)
}

// rebuild makes the IP header of a packet in transport mode. Its addresses are
// the endpoints by definition; of the selectors the rest is compared.
func (i *Inbound) rebuild(p *Packet, next uint8) error {
	h := Outer{
		Src: i.remote.Addr(), Dst: i.local.Addr(),
		Protocol: next, TOS: p.TOS, TTL: p.TTL, DF: p.DF,
	}
	if i.natted {
		mendChecksum(next, p.Bytes(), i.mend)
	}
	if err := push(p, &h); err != nil {
		return err
	}
	return i.checkUpper(p.Bytes())
}

func (i *Inbound) checkUpper(b []byte) error {
	var h Header
	if !h.Parse(b) {
		return ErrMalformed
	}
	if !h.matchesUpper(&i.src, &i.dst) {
		return ErrSelector
	}
	return nil
}

// Floor returns the lowest sequence number that the window has not passed: packets
// with lower ones are refused, now and later. It reports false where numbers are
// extended, so that packets do not show them in full, or where there is no window.
func (i *Inbound) Floor() (sequence uint32, ok bool) {
	top, window := i.replay.top, i.replay.window()
	if i.esn || i.noReplay || top < window {
		return 0, false
	}
	return uint32(top - window + 1), true
}

// Authentic reports whether a packet with this Err came from the peer: a NAT's
// new port is then to be believed.
func Authentic(err error) bool {
	switch err {
	case nil, ErrDummy, ErrPadding, ErrSelector, ErrECN:
		return true
	}
	return false
}
