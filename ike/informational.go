// SPDX-License-Identifier: Apache-2.0

package ike

import (
	"encoding/binary"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"quicksand/ike/isakmp"
	"quicksand/sa"
)

// receiveInformational takes an Informational exchange in (RFC 2409 section
// 5.7). One in clear proves nothing and changes nothing; the operator gets to
// read it.
func (s *ikeSA) receiveInformational(m *message) {
	e := s.e
	if m.h.Flags&isakmp.Encrypted == 0 {
		s.hintFrom(m)
		return
	}
	if s.cipher == nil || s.main == nil {
		e.reject(s, m, drop("ike.rx.out-of-order", "there are no keys yet"))
		return
	}
	mid := m.h.MessageID
	if x := s.quick[mid]; x != nil {
		s.receiveInQuick(x, m)
		return
	}
	if mid == 0 || s.mids.has(mid) {
		e.reject(s, m, drop("ike.rx.replayed", "the message id is zero or was used before"))
		return
	}
	last := s.lastIV
	if last == nil {
		last = s.main.iv
	}
	err := m.decrypt(s.cipher, phase2IV(s.transform.Hash, last, mid))
	if err == nil {
		err = s.checkHash(m, [][]byte{be32(mid)}, true)
	}
	if err != nil && s.state == IKEConnecting {
		// What a peer says that could make no sense of our message 5.
		err = drop("ike.rx.undecryptable", "the answer makes no sense when decrypted; most likely the pre-shared keys differ")
	}
	if err != nil {
		e.reject(s, m, err)
		return
	}
	s.mids.add(mid)
	s.heardFirst(m)
	for _, p := range m.payloads {
		if e.byID[s.id] == nil {
			return
		}
		switch p.Type {
		case isakmp.PayloadNotify:
			n, err := isakmp.ParseNotification(p.Body)
			if err != nil {
				e.reject(s, m, drop("ike.rx.malformed", "%v", err))
				continue
			}
			s.notified(n, m)
		case isakmp.PayloadDelete:
			d, err := isakmp.ParseDelete(p.Body)
			if err != nil {
				e.reject(s, m, drop("ike.rx.malformed", "%v", err))
				continue
			}
			s.deleted(d)
		}
	}
}

// hintFrom keeps what a notification in clear says for the operator.
func (s *ikeSA) hintFrom(m *message) {
	s.e.count("ike.rx.unprotected")
	if m.split(m.Data[isakmp.HeaderLen:]) != nil {
		return
	}
	for _, b := range m.bodies(isakmp.PayloadNotify) {
		n, err := isakmp.ParseNotification(b)
		if err != nil {
			continue
		}
		if s.main != nil && !s.main.over {
			s.main.hint = n.Type.String()
		}
		s.e.log(s, 0, slog.LevelWarn, fmt.Sprintf("%s says %s, unprotected; going on", m.Remote, n.Type))
	}
}

// receiveInQuick takes an Informational message with a Quick Mode's message
// id: CONNECTED, whose IV peers chain or begin afresh.
func (s *ikeSA) receiveInQuick(x *exchange, m *message) {
	if x.repeated(m) {
		return
	}
	for _, iv := range [][]byte{x.iv, phase2IV(s.transform.Hash, s.lastIV, x.mid)} {
		if m.decrypt(s.cipher, iv) == nil && s.checkHash(m, [][]byte{be32(x.mid)}, true) == nil {
			x.receive(m)
			return
		}
	}
	s.e.reject(s, m, drop("ike.rx.bad-hash", "HASH does not verify"))
}

// notified acts on a notification whose sender is proven.
func (s *ikeSA) notified(n isakmp.Notification, m *message) {
	e := s.e
	switch n.Type {
	case isakmp.RUThere:
		s.answerDPD(n, m)
		return
	case isakmp.RUThereAck:
		s.dpdAnswered(n, m)
		return
	case isakmp.InitialContact:
		if s.state != IKEConnecting && s.conn.Unique != UniqueNever {
			e.initialContact(s)
		}
		return
	case isakmp.ResponderLifetime:
		s.responderLifetimeSaid(n)
		return
	}
	if n.Type >= 16384 {
		e.log(s, 0, slog.LevelDebug, fmt.Sprintf("peer says %s", n.Type))
		return
	}
	if s.state == IKEConnecting {
		s.main.fail(fmt.Errorf("the peer refuses: %s", n.Type))
		return
	}
	if n.Type == isakmp.AuthenticationFailed && n.Protocol == isakmp.ProtoISAKMP {
		e.log(s, 0, slog.LevelWarn, "the peer refuses our identity; dropping the IKE SA")
		s.drop(errDeleted)
		return
	}
	if n.Type == isakmp.InvalidSPI {
		if c := s.childByOut(n.Protocol, n.SPI); c != nil {
			c.unknownToPeer()
			return
		}
	}
	if x := s.refused(n); x != nil {
		x.fail(fmt.Errorf("the peer refuses: %s", n.Type))
		return
	}
	e.log(s, 0, slog.LevelWarn, fmt.Sprintf("peer says %s", n.Type))
}

// refused finds the Quick Mode that the peer refuses: the one with the SPI it
// names, else the only one that waits for an answer.
func (s *ikeSA) refused(n isakmp.Notification) *exchange {
	var waits []*exchange
	for _, x := range s.quick {
		if c := x.q.child; !x.initiator && c != nil && string(n.SPI) == string(be32(uint32(c.pair.In.SPI))) {
			return x // the initiator could not use what it agreed to
		}
		if !x.initiator || x.asked != 0 {
			continue
		}
		waits = append(waits, x)
		for _, r := range x.q.reserved {
			if string(n.SPI) == string(be32(uint32(r.spi))) {
				return x
			}
		}
	}
	switch n.Type {
	case isakmp.PayloadMalformed, isakmp.InvalidHashInformation, isakmp.InvalidMessageID:
		// One message was not understood, perhaps one that came too late;
		// repeating it is what helps.
		return nil
	}
	if len(waits) == 1 {
		return waits[0]
	}
	return nil
}

// deleted acts on the peer's Delete. Of IPsec SAs it names those that the peer
// receives on, so that all of them count as ended before one that it replaced
// could come back in its place.
func (s *ikeSA) deleted(d isakmp.Delete) {
	var gone []*child
	for _, spi := range d.SPIs {
		if d.Protocol == isakmp.ProtoISAKMP {
			if string(spi) == string(s.cookieBytes()) {
				s.deletedByPeer()
				return
			}
			s.e.log(s, 0, slog.LevelDebug, "peer deleted an IKE SA that is not this one")
			continue
		}
		c := s.childByOut(d.Protocol, spi)
		if c == nil {
			s.e.log(s, 0, slog.LevelDebug, fmt.Sprintf("peer deleted %s %x, which we do not have", d.Protocol, spi))
			continue
		}
		c.ended = true
		gone = append(gone, c)
	}
	for _, c := range gone {
		if s.e.children[c.pair.ID] == c {
			c.deletedByPeer()
		}
	}
}

// childByOut finds the child that sends with an SPI of the peer: under the IKE
// SA, or under another between the same ends while one replaces the other.
func (s *ikeSA) childByOut(p isakmp.ProtocolID, spi []byte) *child {
	proto, ok := protocolOf(p)
	if !ok || len(spi) != 4 {
		return nil
	}
	out := sa.SPI(binary.BigEndian.Uint32(spi))
	match := func(c *child) bool { return c.pair.Suite.Protocol == proto && c.pair.Out.SPI == out }
	if i := slices.IndexFunc(s.children, match); i >= 0 {
		return s.children[i]
	}
	for _, o := range s.others() {
		if i := slices.IndexFunc(o.children, match); i >= 0 {
			return o.children[i]
		}
	}
	return nil
}

// deletedByPeer ends an IKE SA that the peer has deleted. Its children go to
// another IKE SA with the same ends, live on where the peer protects its
// identities, or go with it.
func (s *ikeSA) deletedByPeer() {
	s.e.log(s, 0, slog.LevelInfo, "peer deleted the IKE SA")
	var heir *ikeSA
	for _, o := range s.others() {
		if o.state == IKEEstablished && o.remote.Addr() == s.remote.Addr() {
			heir = o
		}
	}
	if heir == nil && len(s.children) > 0 {
		for _, o := range s.others() {
			if o.renewedBy == s {
				heir = o
			}
		}
		if heir != nil {
			heir.comeBack()
		}
	}
	if heir != nil {
		for _, c := range s.children {
			c.adopt(heir)
		}
		s.children = nil
		heir.inherit(s)
	}
	if s.conn.IdentityPFS {
		s.disown()
	}
	gone := removeAll(s.children, false)
	s.remove(errDeleted)
	for _, c := range gone {
		c.again(c.cfg.CloseAction)
	}
}

// drop forgets an IKE SA and its children without a word to the peer.
func (s *ikeSA) drop(err error) {
	removeAll(s.children, false)
	s.remove(err)
}

// inform sends an Informational exchange, protected once there are keys that
// the peer shares.
func (s *ikeSA) inform(payload isakmp.Payload) []byte {
	last := s.lastIV
	if last == nil && s.main != nil && s.main.m != nil && s.cipher != nil {
		last = s.main.iv
	}
	mid := s.newMID()
	var data []byte
	if last == nil {
		data, _ = s.encode(isakmp.Informational, mid, 0, nil, []isakmp.Payload{payload})
	} else {
		data, _ = s.encode(isakmp.Informational, mid, 0, phase2IV(s.transform.Hash, last, mid),
			s.withHash([][]byte{be32(mid)}, payload))
	}
	s.transmit(data)
	return data
}

func (s *ikeSA) cookieBytes() []byte {
	return append(append(make([]byte, 0, 16), s.cookies.i[:]...), s.cookies.r[:]...)
}

// sendDelete tells the peer that SAs of ours are gone: the IKE SA, or inbound
// SAs by SPI (RFC 2408 section 3.15).
func (s *ikeSA) sendDelete(p isakmp.ProtocolID, spis ...sa.SPI) {
	if s.lastIV == nil {
		return
	}
	if p == isakmp.ProtoISAKMP {
		s.inform(s.deleteIKE())
		return
	}
	d := isakmp.Delete{DOI: isakmp.DOIIPsec, Protocol: p, SPISize: 4}
	for _, spi := range spis {
		d.SPIs = append(d.SPIs, be32(uint32(spi)))
	}
	s.inform(isakmp.Payload{Type: isakmp.PayloadDelete, Body: d.Append(nil)})
}

func (s *ikeSA) deleteIKE() isakmp.Payload {
	d := isakmp.Delete{DOI: isakmp.DOIIPsec, Protocol: isakmp.ProtoISAKMP, SPISize: 16, SPIs: [][]byte{s.cookieBytes()}}
	return isakmp.Payload{Type: isakmp.PayloadDelete, Body: d.Append(nil)}
}

func (s *ikeSA) notify(n isakmp.Notification) []byte {
	n.DOI = isakmp.DOIIPsec
	return s.inform(isakmp.Payload{Type: isakmp.PayloadNotify, Body: n.Append(nil)})
}

// notifyRefusal tells the peer why an exchange ended.
func (x *exchange) notifyRefusal(r *refusal) {
	s := x.s
	x.e.count("ike.tx.refusals")
	if x.kind == isakmp.MainMode {
		if s.cookies.r == (isakmp.Cookie{}) {
			return
		}
		s.notify(isakmp.Notification{Protocol: isakmp.ProtoISAKMP, SPI: s.cookieBytes(), Type: r.notify})
		if x.initiator && s.cipher != nil {
			// It is message 6 that is refused: for the responder the IKE SA
			// stands already.
			s.inform(s.deleteIKE())
		}
		return
	}
	n := isakmp.Notification{Protocol: isakmp.ProtoESP, Type: r.notify}
	if len(x.q.offer.Proposals) > 0 {
		p := x.q.offer.Proposals[0]
		n.Protocol, n.SPI = p.Protocol, p.SPI
	}
	if x.initiator && x.q.agreement.peerSPI != 0 {
		n.SPI = be32(uint32(x.q.agreement.peerSPI))
	}
	data := s.notify(n)
	if !x.initiator {
		s.keepAnswer(x, data)
	}
}

// complainEvery bounds what garbage can make us send.
const complainEvery = time.Second

// complain answers a Quick Mode message that proves nothing, now and then. It
// is about no exchange: the peer must not end one for it.
func (s *ikeSA) complain(t isakmp.NotifyType) {
	if s.e.now.Sub(s.dpdState.complained) < complainEvery {
		return
	}
	s.dpdState.complained = s.e.now
	s.notify(isakmp.Notification{Protocol: isakmp.ProtoISAKMP, SPI: s.cookieBytes(), Type: t})
}

// notifyClear sends a notification in clear within Main Mode.
func (s *ikeSA) notifyClear(t isakmp.NotifyType) {
	n := isakmp.Notification{DOI: isakmp.DOIIPsec, Protocol: isakmp.ProtoISAKMP, SPI: s.cookieBytes(), Type: t}
	data, _ := s.encode(isakmp.Informational, s.newMID(), 0, nil, []isakmp.Payload{{Type: isakmp.PayloadNotify, Body: n.Append(nil)}})
	s.transmit(data)
}

// notifyFirst refuses a first message, for which there is no IKE SA.
func (e *Engine) notifyFirst(m *message, t isakmp.NotifyType) {
	s := &ikeSA{e: e, cookies: cookies{i: m.h.Initiator}, local: m.Local, remote: m.Remote, natt: m.NATT}
	s.notifyClear(t)
}
