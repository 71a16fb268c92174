// SPDX-License-Identifier: Apache-2.0

package ike

import (
	"errors"
	"fmt"
	"slices"

	"quicksand/ike/isakmp"
	"quicksand/sa"
)

// acceptQuick takes the responder's view of message 1.
func (x *exchange) acceptQuick(m *message) error {
	s, q := x.s, x.q
	body, err := m.body(isakmp.PayloadSA)
	if err != nil {
		return err
	}
	offer, err := parseSA(body)
	if err != nil {
		return err
	}
	q.offer = offer
	nonce, err := m.body(isakmp.PayloadNonce)
	if err != nil {
		return err
	}
	if err := checkNonce(nonce, quickNonceLen); err != nil {
		return err
	}
	q.nonce[0] = append([]byte(nil), nonce...)
	if err := x.readKE(m); err != nil {
		return err
	}
	remote, local, err := x.readIDs(m)
	if err != nil {
		return err
	}
	if err := x.chooseChild(local, remote); err != nil {
		return err
	}
	switch q.group = q.agreement.transform.Group; {
	case q.group != sa.GroupNone && q.peerKE == nil:
		return refuse(isakmp.InvalidKeyInformation, "PFS with %s was agreed on and the peer sends no KE payload", q.group)
	case q.group == sa.GroupNone && q.peerKE != nil:
		return refuse(isakmp.InvalidKeyInformation, "the peer sends a KE payload and proposes no group")
	}
	q.origLocal, q.origRemote = s.readOriginalAddresses(m, false)
	if err := x.chooseLane(m); err != nil {
		return err
	}
	q.replaces = s.twin(q.cfg, q.local, q.remote, q.lane)
	s.readLifetimes(m, &q.agreement)
	q.peerCommits = m.h.Flags&isakmp.Commit != 0
	q.weCommit = x.e.commitBit && !q.peerCommits
	return nil
}

// readKE keeps the peer's KE payload where there is one.
func (x *exchange) readKE(m *message) error {
	switch kes := m.bodies(isakmp.PayloadKE); len(kes) {
	case 0:
	case 1:
		x.q.peerKE = append([]byte(nil), kes[0]...)
	default:
		return refuse(isakmp.PayloadMalformed, "%d KE payloads", len(kes))
	}
	return nil
}

// readIDs reads IDci and IDcr and keeps them as they came; without them the
// SA is between the endpoints themselves.
func (x *exchange) readIDs(m *message) (ci, cr sa.Selector, err error) {
	ids := m.bodies(isakmp.PayloadID)
	if len(ids) == 0 {
		i, r := x.s.local.Addr(), x.s.remote.Addr()
		if !x.initiator {
			i, r = r, i
		}
		return hostSelector(i), hostSelector(r), nil
	}
	if len(ids) != 2 {
		return ci, cr, refuse(isakmp.InvalidIDInformation, "%d ID payloads, not 2", len(ids))
	}
	x.q.ids = x.q.ids[:0]
	for i, out := range []*sa.Selector{&ci, &cr} {
		if *out, err = readProxyID(ids[i]); err != nil {
			return ci, cr, err
		}
		x.q.ids = append(x.q.ids, isakmp.Payload{Type: isakmp.PayloadID, Body: append([]byte(nil), ids[i]...)})
	}
	return ci, cr, nil
}

// reserveSPIs asks for an inbound SPI for each protocol that may be agreed on.
func reserveSPIs(x *exchange) error {
	q := x.q
	var protocols []sa.Suite
	if x.initiator {
		for _, p := range q.cfg.Proposals {
			if len(p) > 0 && p[0].Group == q.group {
				protocols = append(protocols, p[0].Suite)
			}
		}
	} else {
		protocols = append(protocols, q.agreement.transform.Suite)
	}
	for _, suite := range protocols {
		if q.spi(suite.Protocol) == 0 {
			x.reserveSPI(suite)
			return nil
		}
	}
	return nil
}

func (x *exchange) reserveSPI(suite sa.Suite) {
	p := x.draft()
	p.Suite = suite
	x.q.reserving, x.q.reservedAt = suite.Protocol, x.s.local.Addr()
	token := x.await(func(v any) error {
		r := v.(spiResult)
		if r.err != nil {
			return fmt.Errorf("reserve SPI: %w", r.err)
		}
		if err := checkSPIs(r.spi, x.q.agreement.peerSPI); err != nil {
			x.releaseSPI(reservation{suite.Protocol, r.spi})
			return err
		}
		x.q.reserved = append(x.q.reserved, reservation{suite.Protocol, r.spi})
		return reserveSPIs(x)
	})
	x.e.emit(ReserveSPI{Token: token, Protocol: suite.Protocol, Local: x.q.reservedAt, Pair: p})
}

// checkSPIs refuses equal SPIs of both ends: KEYMAT depends on nothing else that
// differs between the two directions (RFC 2409 section 5.5), so both would be
// encrypted with one key.
func checkSPIs(ours, theirs sa.SPI) error {
	if ours == theirs {
		return refuse(isakmp.InvalidSPI, "both ends chose SPI %s; another attempt will choose others", ours)
	}
	return nil
}

// releaseSPIs gives back what was reserved and is not installed.
func (x *exchange) releaseSPIs() {
	for _, r := range x.q.reserved {
		x.releaseSPI(r)
	}
	x.q.reserved = nil
}

func (x *exchange) releaseSPI(r reservation) {
	x.e.emit(ReleaseSPI{Protocol: r.protocol, Local: x.q.reservedAt, SPI: r.spi})
}

// draft is the pair as far as it is known before it is agreed on.
func (x *exchange) draft() *sa.Pair {
	s, q := x.s, x.q
	return &sa.Pair{
		Policy: sa.Policy{
			Conn: q.conn.Name, Child: q.cfg.Name, Mode: q.cfg.Mode,
			Local: s.local, Remote: s.remote, LocalTS: q.local, RemoteTS: q.remote, Marking: q.cfg.Marking,
		},
		Encap:        s.encap(),
		ReplayWindow: q.cfg.ReplayWindow,
		CopyDF:       q.cfg.CopyDF,
		CopyECN:      q.cfg.CopyECN,
		CopyDSCP:     q.cfg.CopyDSCP,
		Offload:      q.cfg.Offload,
		Lane:         q.lane,
		Lanes:        uint8(q.cfg.lanes()),
	}
}

// makeQuickKE has a fresh key pair made where PFS is configured.
func makeQuickKE(x *exchange) error {
	if x.q.group == sa.GroupNone {
		return nil
	}
	x.compute(ComputeDH{Group: x.q.group}, func(r DHResult) error {
		x.q.private, x.q.public = r.Private, r.Public
		return r.Err
	})
	return nil
}

// computeQuick has g^xy computed where PFS is agreed on; the responder's key
// pair is made at the same time.
func computeQuick(x *exchange) error {
	q := x.q
	if q.group == sa.GroupNone {
		return nil
	}
	private := q.private
	q.private = nil
	x.compute(ComputeDH{Group: q.group, Private: private, Peer: q.peerKE}, func(r DHResult) error {
		if r.Private != nil {
			r.Private.Wipe()
		}
		if errors.Is(r.Err, ErrPublic) {
			return refuse(isakmp.InvalidKeyInformation, "%v", r.Err)
		}
		if r.Err == nil {
			q.shared = r.Shared.Clone()
		}
		if !x.initiator {
			q.public = r.Public
		}
		return r.Err
	})
	return nil
}

func sendQuick1(x *exchange) ([]isakmp.Payload, error) {
	s, q := x.s, x.q
	q.offer = s.childOffer(q.cfg, q.group)
	if len(q.offer.Proposals) == 0 {
		return nil, errors.New("none of the child's proposals can be offered; AH does not pass a NAT")
	}
	for i := range q.offer.Proposals {
		p, _ := protocolOf(q.offer.Proposals[i].Protocol)
		q.offer.Proposals[i].SPI = be32(uint32(q.spi(p)))
	}
	q.nonce[0] = x.makeNonce()
	q.ids = []isakmp.Payload{proxyID(q.local), proxyID(q.remote)}
	payloads := x.quickPayloads(q.offer, q.nonce[0])
	if lane, ok := x.lanePayload(); ok {
		payloads = append(payloads, lane)
	}
	return s.withHash([][]byte{be32(x.mid)}, payloads...), nil
}

// quickPayloads are those of messages 1 and 2 behind HASH.
func (x *exchange) quickPayloads(offer isakmp.SecurityAssociation, nonce []byte) []isakmp.Payload {
	s, q := x.s, x.q
	out := []isakmp.Payload{
		{Type: isakmp.PayloadSA, Body: offer.Append(nil)},
		{Type: isakmp.PayloadNonce, Body: nonce},
	}
	if q.group != sa.GroupNone {
		out = append(out, isakmp.Payload{Type: isakmp.PayloadKE, Body: q.public})
	}
	out = append(out, q.ids...)
	if q.cfg.Mode == sa.Transport && s.encap() {
		out = append(out, s.originalAddresses(x.initiator)...)
	}
	return out
}

func sendQuick2(x *exchange) ([]isakmp.Payload, error) {
	s, q := x.s, x.q
	q.agreement.reply.Proposals[0].SPI = be32(uint32(q.child.pair.In.SPI))
	payloads := x.quickPayloads(q.agreement.reply, q.nonce[1])
	if n, ok := s.responderLifetime(q); ok {
		payloads = append(payloads, n)
	}
	return s.withHash([][]byte{be32(x.mid), q.nonce[0]}, payloads...), nil
}

func receiveQuick2(x *exchange, m *message) error {
	s, q := x.s, x.q
	if err := s.checkHash(m, [][]byte{be32(x.mid), q.nonce[0]}, true); err != nil {
		return err
	}
	body, err := m.body(isakmp.PayloadSA)
	if err != nil {
		return err
	}
	sel, err := parseSA(body)
	if err != nil {
		return err
	}
	if q.agreement, err = s.checkChild(q.cfg, q.offer, sel); err != nil {
		return err
	}
	if err := checkSPIs(q.spi(q.agreement.transform.Protocol), q.agreement.peerSPI); err != nil {
		return err
	}
	nonce, err := m.body(isakmp.PayloadNonce)
	if err != nil {
		return err
	}
	if err := checkNonce(nonce, quickNonceLen); err != nil {
		return err
	}
	q.nonce[1] = append([]byte(nil), nonce...)
	if err := x.readKE(m); err != nil {
		return err
	}
	if (q.group != sa.GroupNone) != (q.peerKE != nil) {
		return refuse(isakmp.InvalidKeyInformation, "a KE payload is missing, or there is one without PFS")
	}
	if err := x.narrow(m); err != nil {
		return err
	}
	q.origLocal, q.origRemote = s.readOriginalAddresses(m, true)
	s.readLifetimes(m, &q.agreement)
	q.peerCommits = m.h.Flags&isakmp.Commit != 0
	return nil
}

// narrow takes the identities that the responder answers with: those that we
// proposed, or a part of them. In transport mode they are between the
// endpoints, whatever addresses a NAT has the responder see.
func (x *exchange) narrow(m *message) error {
	q := x.q
	if len(m.bodies(isakmp.PayloadID)) == 0 {
		return nil
	}
	ci, cr, err := x.readIDs(m)
	if err != nil {
		return err
	}
	if q.cfg.Mode == sa.Transport {
		ci, cr = atEndpoint(ci, x.s.local.Addr()), atEndpoint(cr, x.s.remote.Addr())
	}
	if !q.local.Contains(ci) || !q.remote.Contains(cr) {
		return refuse(isakmp.InvalidIDInformation, "the peer answers with %s === %s, we proposed %s === %s", ci, cr, q.local, q.remote)
	}
	q.local, q.remote = ci, cr
	return nil
}

func sendQuick3(x *exchange) ([]isakmp.Payload, error) {
	q := x.q
	if q.unwanted {
		return nil, refuse(isakmp.NoProposalChosen, "the child was terminated meanwhile")
	}
	return x.s.withHash([][]byte{{0}, be32(x.mid), q.nonce[0], q.nonce[1]}), nil
}

func receiveQuick3(x *exchange, m *message) error {
	return x.s.checkHash(m, [][]byte{{0}, be32(x.mid), x.q.nonce[0], x.q.nonce[1]}, false)
}

// sendConnected tells a peer that honours the commit bit to go on.
func sendConnected(x *exchange) error {
	s := x.s
	n := isakmp.Notification{DOI: isakmp.DOIIPsec, Protocol: protocolID(x.q.child.pair.Suite.Protocol),
		SPI: be32(uint32(x.q.child.pair.In.SPI)), Type: isakmp.Connected}
	payloads := s.withHash([][]byte{be32(x.mid)}, isakmp.Payload{Type: isakmp.PayloadNotify, Body: n.Append(nil)})
	x.lastOut, x.iv = s.encode(isakmp.Informational, x.mid, 0, x.iv, payloads)
	s.transmit(x.lastOut)
	return nil
}

func receiveConnected(x *exchange, m *message) error {
	if err := x.s.checkHash(m, [][]byte{be32(x.mid)}, true); err != nil {
		return err
	}
	for _, b := range m.bodies(isakmp.PayloadNotify) {
		if n, err := isakmp.ParseNotification(b); err == nil && n.Type == isakmp.Connected {
			return nil
		}
	}
	return drop("ike.rx.out-of-order", "no CONNECTED in the message")
}

// installPair derives KEYMAT and has the pair installed.
func installPair(x *exchange) error {
	s, q := x.s, x.q
	if !x.initiator {
		q.nonce[1] = x.makeNonce()
	}
	t := q.agreement.transform
	p := x.draft()
	x.e.lastChild++
	p.ID = x.e.lastChild
	p.Suite = t.Suite
	p.Reqid = x.e.reqid(reqidKey{q.conn.Name, q.cfg.Name, q.local, q.remote}, q.cfg.ReqID)
	p.OriginalLocal, p.OriginalRemote = q.origLocal, q.origRemote
	id := protocolID(t.Protocol)
	keys := func(spi sa.SPI) sa.SA {
		return saFromKeymat(t.Suite, spi, s.keymat(s.transform.Hash, q.shared, id, spi, q.nonce[0], q.nonce[1], t.KeymatLen()))
	}
	p.In, p.Out = keys(q.spi(t.Protocol)), keys(q.agreement.peerSPI)
	q.shared.Wipe()
	p.Lifetime = x.lifetime()
	c := &child{e: x.e, s: s, conn: q.conn.Name, cfg: q.cfg, localID: s.localID, remoteID: s.remoteID,
		pair: p, group: q.group, state: ChildInstalling, life: p.Lifetime, begun: x.begun, initiator: x.initiator, rekeyed: q.replaces != nil}
	q.child, q.installing = c, true
	x.e.children[p.ID] = c
	q.reserved = slices.DeleteFunc(q.reserved, func(r reservation) bool { return r.protocol == t.Protocol })
	x.releaseSPIs()
	x.e.emit(Install{Pair: p, Token: x.await(func(v any) error {
		r := v.(installResult)
		q.installing = false
		if r.err != nil {
			x.notInstalled()
			return refuse(isakmp.NoProposalChosen, "install the pair: %v", r.err)
		}
		c.placement = r.placement
		return nil
	})})
	return nil
}

// notInstalled forgets a pair that no backend took.
func (x *exchange) notInstalled() {
	c := x.q.child
	x.q.child = nil
	delete(x.e.children, c.pair.ID)
	x.e.dropReqid(c)
	x.releaseSPI(reservation{c.pair.Suite.Protocol, c.pair.In.SPI})
	c.pair.Wipe()
}
