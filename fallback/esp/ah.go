// SPDX-License-Identifier: Apache-2.0

package esp

import (
	"encoding/binary"
	"errors"
	"fmt"

	"quicksand/fallback/aead"
	"quicksand/sa"
)

// ahFixed is the length of AH before the ICV (RFC 4302 section 2).
const ahFixed = 12

// maxHeaders bounds what may stand before AH in a packet, in bytes.
const maxHeaders = 512

func (a *association) initAH(s sa.Suite, k *sa.SA) error {
	if s.Encryption != sa.EncryptionNone || s.KeyBits != 0 || len(k.EncryptionKey) != 0 {
		return fmt.Errorf("make SA %s: %w", s, aead.ErrSuite)
	}
	m, err := aead.NewMAC(s.Integrity, k.IntegrityKey)
	if err != nil {
		return fmt.Errorf("make SA %s: %w", s, err)
	}
	a.mac, a.icv = m, m.Len()
	return nil
}

// ahLen is AH's length with its padding: a multiple of 4 bytes under IPv4, of 8
// under IPv6 (RFC 4302 section 3.3.3.2.1).
func (a *association) ahLen() int {
	n := ahFixed + a.icv
	if a.remote.Addr().Is6() {
		n = (n + 7) &^ 7
	}
	return n
}

// computeICV returns the ICV of an outer packet whose AH of ahLen bytes begins
// at off with an ICV of zeros, good until the next one (RFC 4302 section
// 3.3.3).
func (a *association) computeICV(b []byte, off int, seq uint64) ([]byte, error) {
	if off > maxHeaders {
		return nil, ErrHeader
	}
	if a.scratch == nil {
		a.scratch = make([]byte, maxHeaders)
	}
	header := a.scratch[:off]
	copy(header, b)
	if err := zeroMutable(header); err != nil {
		return nil, err
	}
	a.mac.Reset()
	a.mac.Write(header)
	a.mac.Write(b[off:])
	if a.esn {
		a.mac.WriteHigh(seq)
	}
	return a.mac.Sum(), nil
}

func (o *Outbound) sealAH(p *Packet) {
	inner, err := o.admit(p)
	if err == nil {
		err = o.authenticate(p)
	}
	if err != nil {
		o.fail(p, err)
		return
	}
	o.tally.add(inner)
}

// authenticate turns an inner packet into an outer one with AH.
func (o *Outbound) authenticate(p *Packet) error {
	n := o.ahLen()
	off, err := o.insertAH(p, n)
	if err != nil {
		return err
	}
	o.seq++
	p.Seq = o.seq
	b := p.Bytes()
	ah := b[off : off+n]
	ah[1], ah[2], ah[3] = uint8(n/4-2), 0, 0
	binary.BigEndian.PutUint32(ah[4:], o.spi)
	binary.BigEndian.PutUint32(ah[8:], uint32(p.Seq))
	clear(ah[ahFixed:])
	if b[0]>>4 == 4 {
		// Identification is authentic, and a kernel that is handed the header
		// would fill in one that is 0.
		if b[4] == 0 && b[5] == 0 {
			binary.BigEndian.PutUint16(b[4:], uint16(p.Seq%0xffff+1))
		}
		setIPv4Checksum(b[:int(b[0]&15)*4])
	}
	icv, err := o.computeICV(b, off, p.Seq)
	if err != nil {
		return err
	}
	copy(ah[ahFixed:], icv)
	return nil
}

// insertAH makes room for n bytes of AH, with the outer header before them, and
// returns where they begin. Only AH's next header is set.
func (o *Outbound) insertAH(p *Packet, n int) (off int, err error) {
	b := p.Bytes()
	if o.mode == sa.Tunnel {
		next := uint8(protoIPv4)
		if b[0]>>4 == 6 {
			next = protoIPv6
		}
		p.TOS, p.DF = o.tunnel.outer(b)
		h := Outer{
			Src: o.local.Addr(), Dst: o.remote.Addr(),
			Protocol: protoAH, TOS: p.TOS, DF: p.DF,
		}
		off = ipHeaderLen(h.Dst)
		switch {
		case p.Len+n+off > 0xffff:
			return 0, ErrMalformed
		case p.Off < n+off:
			return 0, ErrRoom
		}
		p.Off -= n
		p.Len += n
		p.Buf[p.Off] = next
		return off, push(p, &h)
	}
	off, field, err := placeAH(b)
	if err != nil {
		return 0, err
	}
	if (b[0]>>4 == 6) != o.remote.Addr().Is6() {
		return 0, ErrMalformed
	}
	p.TOS, p.DF = trafficClass(b), dontFragment(b)
	switch {
	case p.Len+n > 0xffff:
		return 0, ErrMalformed
	case p.Off < n:
		return 0, ErrRoom
	}
	p.Off -= n
	p.Len += n
	whole := p.Bytes()
	copy(whole, b[:off])
	whole[off], whole[field] = whole[field], protoAH
	setIPLength(whole)
	return off, nil
}

// setIPLength writes the packet's length into its IP header.
func setIPLength(b []byte) {
	if b[0]>>4 == 4 {
		binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
	} else {
		binary.BigEndian.PutUint16(b[4:], uint16(len(b)-ipv6HeaderLen))
	}
}

// placeAH returns where AH goes in a packet in transport mode, or where it is,
// and which byte names what stands there: behind the headers that are looked at
// on the way, before those that the destination reads (RFC 4302 section 3.1.1).
func placeAH(b []byte) (off, field int, err error) {
	off, _, err = transportPayload(b)
	if err != nil {
		return 0, 0, err
	}
	field = 9
	if b[0]>>4 == 4 {
		return off, field, nil
	}
	for field = 6; ; {
		rest := b[off:]
		switch b[field] {
		case protoHopByHop, protoRouting:
			if len(rest) < 8 || len(rest) < 8+int(rest[1])*8 {
				return 0, 0, ErrMalformed
			}
			field = off
			off += 8 + int(rest[1])*8
		case protoFragment:
			return 0, 0, ErrFragment
		default:
			return off, field, nil
		}
	}
}

var errNoAH = errors.New("no AH in the packet")

// findAH returns where AH begins in an outer packet, and which byte names it.
// Before it a peer may have put destination options too.
func findAH(b []byte) (off, field int, err error) {
	off, field, err = placeAH(b)
	for err == nil && b[0]>>4 == 6 && b[field] == protoDestOptions {
		rest := b[off:]
		if len(rest) < 8 || len(rest) < 8+int(rest[1])*8 {
			return 0, 0, ErrMalformed
		}
		field = off
		off += 8 + int(rest[1])*8
	}
	if err == nil && (b[field] != protoAH || len(b)-off < ahFixed) {
		err = errNoAH
	}
	return off, field, err
}

// AHSPIOf returns the SPI of an outer IP packet with AH; 0, which no SA has,
// where there is none.
func AHSPIOf(b []byte) sa.SPI {
	total, _, ok := ipLengths(b)
	if !ok {
		return 0
	}
	off, _, err := findAH(b[:total])
	if err != nil {
		return 0
	}
	return sa.SPI(binary.BigEndian.Uint32(b[off+4:]))
}

func (i *Inbound) openAH(p *Packet) {
	p.Err, p.Seq = nil, 0
	if err := i.verify(p); err != nil {
		i.fail(p, err)
	} else {
		i.tally.add(p.Len)
	}
}

// verify turns an outer packet with AH into the inner one.
func (i *Inbound) verify(p *Packet) error {
	if !p.valid() {
		return ErrMalformed
	}
	total, _, ok := ipLengths(p.Bytes())
	if !ok {
		return ErrMalformed
	}
	p.Len = total
	b := p.Bytes()
	off, field, err := findAH(b)
	if err != nil {
		if err == errNoAH {
			err = ErrMalformed
		}
		return err
	}
	ah := b[off:]
	n := (int(ah[1]) + 2) * 4
	// Some senders fill up to 8 bytes under IPv4 too.
	if least := ahFixed + i.icv; n != least && n != (least+7)&^7 || len(ah) < n {
		return ErrMalformed
	}
	if binary.BigEndian.Uint32(ah[4:]) != i.spi {
		return ErrMalformed
	}
	if err := i.sequence(p, binary.BigEndian.Uint32(ah[8:])); err != nil {
		return err
	}
	if err := i.verifyICV(b, off, p.Seq); err != nil {
		return err
	}
	if fresh := i.replay.Update(p.Seq); !fresh && !i.noReplay {
		return ErrReplay
	}
	next := ah[0]
	if i.mode == sa.Tunnel {
		p.TOS = trafficClass(b)
		p.Off += off + n
		p.Len -= off + n
		return i.inner(p, next, p.TOS)
	}
	b[field] = next
	copy(b[n:], b[:off])
	p.Off += n
	p.Len -= n
	b = p.Bytes()
	setIPLength(b)
	if b[0]>>4 == 4 {
		setIPv4Checksum(b[:off])
	}
	return i.checkUpper(b)
}

func (i *Inbound) verifyICV(b []byte, off int, seq uint64) error {
	field := b[off+ahFixed : off+ahFixed+i.icv]
	var got [64]byte
	copy(got[:], field)
	clear(field)
	want, err := i.computeICV(b, off, seq)
	if err != nil {
		return err
	}
	if !aead.Equal(want, got[:i.icv]) {
		return ErrICV
	}
	return nil
}

// zeroMutable zeros what may change on the way in the headers before AH (RFC
// 4302 section 3.3.3.1 and appendix A). Source routes, which change the
// destination, are refused.
func zeroMutable(b []byte) error {
	if b[0]>>4 == 4 {
		b[1] = 0            // DSCP and ECN
		b[6], b[7] = 0, 0   // flags and fragment offset
		b[8] = 0            // TTL
		b[10], b[11] = 0, 0 // checksum
		return zeroIPv4Options(b[ipv4HeaderLen:])
	}
	b[0], b[1], b[2], b[3] = 6<<4, 0, 0, 0 // traffic class and flow label
	b[7] = 0                               // hop limit
	next := b[6]
	for rest := b[ipv6HeaderLen:]; len(rest) >= 8; {
		n := 8 + int(rest[1])*8
		if n > len(rest) {
			return ErrMalformed
		}
		if next == protoRouting && rest[3] != 0 || next == protoRouting && rest[2] == 0 {
			return ErrHeader
		}
		if next != protoRouting {
			if err := zeroIPv6Options(rest[2:n]); err != nil {
				return err
			}
		}
		next, rest = rest[0], rest[n:]
	}
	return nil
}

// IPv4's options that do not change on the way (RFC 4302 appendix A1).
const (
	optionEnd         = 0
	optionNop         = 1
	optionSecurity    = 130
	optionLooseRoute  = 131
	optionExtSecurity = 133
	optionCIPSO       = 134
	optionStrictRoute = 137
	optionRouterAlert = 148
	optionMultiDest   = 149
)

func zeroIPv4Options(b []byte) error {
	for len(b) > 0 {
		if b[0] == optionEnd {
			return nil
		}
		if b[0] == optionNop {
			b = b[1:]
			continue
		}
		if len(b) < 2 || b[1] < 2 || int(b[1]) > len(b) {
			return ErrMalformed
		}
		n := int(b[1])
		switch b[0] {
		case optionLooseRoute, optionStrictRoute:
			return ErrHeader
		case optionSecurity, optionExtSecurity, optionCIPSO, optionRouterAlert, optionMultiDest:
		default:
			clear(b[:n])
		}
		b = b[n:]
	}
	return nil
}

// zeroIPv6Options zeros the data of hop-by-hop and destination options whose
// type says that it may change on the way (RFC 8200 section 4.2).
func zeroIPv6Options(b []byte) error {
	const pad1, mayChange = 0, 0x20
	for len(b) > 0 {
		if b[0] == pad1 {
			b = b[1:]
			continue
		}
		if len(b) < 2 || 2+int(b[1]) > len(b) {
			return ErrMalformed
		}
		n := 2 + int(b[1])
		if b[0]&mayChange != 0 {
			clear(b[2:n])
		}
		b = b[n:]
	}
	return nil
}
