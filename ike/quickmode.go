// SPDX-License-Identifier: Apache-2.0

package ike

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"

	"quicksand/ike/isakmp"
	"quicksand/sa"
)

// Quick Mode (RFC 2409 section 5.5), all of it encrypted under the IKE SA:
//
//	HDR*, HASH(1), SA, Ni [, KE] [, IDci, IDcr]  -->
//	                                            <--  HDR*, HASH(2), SA, Nr [, KE] [, IDci, IDcr]
//	HDR*, HASH(3)                                -->
//
// The responder's inbound SA is live before message 2 leaves, the initiator's
// before message 3, so that neither end ever sends into the void.
var quickInitiator, quickResponder script

// The tables are filled here because their steps lead back to them.
func init() {
	quickInitiator = script{
		{compute: reserveSPIs},
		{compute: makeQuickKE},
		{name: "Quick Mode message 1", send: sendQuick1, retransmit: true},
		{name: "Quick Mode message 2", receive: receiveQuick2},
		{compute: computeQuick},
		{compute: installPair},
		{name: "Quick Mode message 3", send: sendQuick3, retransmit: true},
		{name: "CONNECTED", receive: receiveConnected, when: peerCommits},
	}
	quickResponder = script{
		{compute: reserveSPIs},
		{compute: computeQuick},
		{compute: installPair},
		{name: "Quick Mode message 2", send: sendQuick2, retransmit: true},
		{name: "Quick Mode message 3", receive: receiveQuick3},
		{name: "CONNECTED", receive: receiveConnected, when: peerCommits},
		{compute: sendConnected, when: weCommit},
	}
}

// With the commit bit whoever did not set it waits for CONNECTED from whoever
// did (RFC 2408 section 3.1).
func peerCommits(x *exchange) bool { return x.q.peerCommits }
func weCommit(x *exchange) bool    { return x.q.weCommit }

// maxPending bounds the Quick Modes that one peer may have under way with us.
const maxPending = 64

// quickMode is what Quick Mode needs until it is done.
type quickMode struct {
	cfg        *Child
	conn       *Connection
	group      sa.Group
	offer      isakmp.SecurityAssociation
	agreement  agreement
	local      sa.Selector // our side's
	remote     sa.Selector
	ids        []isakmp.Payload // IDci and IDcr as they are on the wire
	origLocal  netip.Addr       // by the peer's NAT-OA
	origRemote netip.Addr
	nonce      [2][]byte // Ni_b, Nr_b
	peerKE     []byte
	public     []byte
	private    PrivateKey
	shared     sa.Key
	spis       map[sa.Protocol]sa.SPI // reserved and not installed
	child      *child                 // once installed
	replaces   *child
	// Which end set the commit bit; CONNECTED comes from there.
	weCommit, peerCommits bool
}

func (q *quickMode) wipe() {
	q.shared.Wipe()
	if q.private != nil {
		q.private.Wipe()
		q.private = nil
	}
}

// startQuick begins a Quick Mode for a child. replaces is the child SA that it
// renegotiates, or nil.
func (s *ikeSA) startQuick(cfg *Child, command uint64, replaces *child) {
	q := &quickMode{cfg: cfg, conn: s.conn, group: cfg.pfsGroup(), replaces: replaces}
	x := &exchange{e: s.e, s: s, kind: isakmp.QuickMode, mid: s.newMID(), initiator: true,
		command: command, script: quickInitiator, q: q}
	q.local = cfg.LocalTS.resolve(s.local.Addr())
	q.remote = cfg.RemoteTS.resolve(s.remote.Addr())
	if replaces != nil {
		q.local, q.remote = replaces.pair.LocalTS, replaces.pair.RemoteTS
		replaces.state = ChildRekeying
		replaces.rekeying = x
	}
	s.keepQuick(x)
	x.iv = phase2IV(s.transform.Hash, s.lastIV, x.mid)
	x.run()
}

func (s *ikeSA) keepQuick(x *exchange) {
	if s.quick == nil {
		s.quick = make(map[uint32]*exchange, 1)
	}
	s.quick[x.mid] = x
}

// receiveQuick takes a Quick Mode message of a known IKE SA in.
func (s *ikeSA) receiveQuick(m *message) {
	e := s.e
	mid := m.h.MessageID
	switch {
	case s.state == IKEConnecting:
		e.reject(s, m, drop("ike.rx.out-of-order", "Main Mode is not done"))
		return
	case mid == 0 || m.h.Flags&isakmp.Encrypted == 0:
		e.reject(s, m, drop("ike.rx.malformed", "a Quick Mode message in clear or without a message id"))
		return
	}
	if x := s.quick[mid]; x != nil {
		if x.repeated(m) {
			return
		}
		if err := m.decrypt(s.cipher, x.iv); err != nil {
			e.reject(s, m, err)
			return
		}
		x.receive(m)
		return
	}
	if s.repeatFinished(m) {
		return
	}
	if s.mids.has(mid) {
		e.reject(s, m, drop("ike.rx.replayed", "the message id was used before"))
		return
	}
	if len(s.quick) >= maxPending {
		e.reject(s, m, drop("ike.rx.quick-limit", "%d Quick Modes are under way", len(s.quick)))
		return
	}
	if err := m.decrypt(s.cipher, phase2IV(s.transform.Hash, s.lastIV, mid)); err != nil {
		e.reject(s, m, err)
		s.complain(mid, isakmp.PayloadMalformed)
		return
	}
	if err := s.checkHash(m, [][]byte{be32(mid)}, true); err != nil {
		e.reject(s, m, err)
		s.complain(mid, isakmp.InvalidHashInformation)
		return
	}
	s.mids.add(mid)
	s.heard(m)
	x := &exchange{e: e, s: s, kind: isakmp.QuickMode, mid: mid, script: quickResponder,
		iv: m.iv, lastIn: m.sum, q: &quickMode{}}
	s.keepQuick(x)
	if err := x.acceptQuick(m); err != nil {
		x.fail(err)
		return
	}
	x.run()
}

// repeatFinished answers a repeat of a finished exchange's last message.
func (s *ikeSA) repeatFinished(m *message) bool {
	for _, f := range s.finished {
		if f.sum == m.sum && s.e.now.Before(f.end) {
			s.e.count("ike.rx.repeats")
			if f.data != nil {
				s.transmit(f.data)
			}
			return true
		}
	}
	return false
}

// keepAnswer has a repeat of the exchange's last message answered for a while.
func (s *ikeSA) keepAnswer(x *exchange, data []byte) {
	f := finished{x.lastIn, data, s.e.now.Add(linger)}
	if len(s.finished) >= maxFinished {
		copy(s.finished, s.finished[1:])
		s.finished[len(s.finished)-1] = f
		return
	}
	s.finished = append(s.finished, f)
}

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
	if err := checkNonce(nonce, 8); err != nil {
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
	q.replaces = s.twin(q.cfg, q.local, q.remote)
	s.readLifetimes(m, &q.agreement)
	q.peerCommits = m.h.Flags&isakmp.Commit != 0
	q.weCommit = x.e.commitBit && !q.peerCommits
	return nil
}

// chooseChild picks the responder's child: one whose selectors equal the
// peer's, else one whose selectors hold them.
func (x *exchange) chooseChild(local, remote sa.Selector) error {
	s, q := x.s, x.q
	found := false
	for _, equal := range []bool{true, false} {
		for _, conn := range s.alternatives() {
			for _, c := range conn.Children {
				l, r, ok := s.fits(c, local, remote, equal)
				if c.Manual != nil || !ok {
					continue
				}
				found = true
				if a, ok := s.chooseChild(c, q.offer); ok {
					q.conn, q.cfg, q.agreement, q.local, q.remote = conn, c, a, l, r
					return nil
				}
			}
		}
	}
	if !found {
		return refuse(isakmp.InvalidIDInformation, "no child is configured for %s === %s", local, remote)
	}
	return refuse(isakmp.NoProposalChosen, "none of the proposals is configured for %s === %s: %s", local, remote, describeChild(q.offer))
}

// alternatives are the connections whose children the peer may ask for: the
// IKE SA's own, and others between the same identities and addresses.
func (s *ikeSA) alternatives() []*Connection {
	out := []*Connection{s.conn}
	for _, c := range s.e.config.Connections {
		if c.Name != s.conn.Name && c.matches(s.local.Addr(), s.remote.Addr()) &&
			(c.LocalID.IsAny() || c.LocalID == s.localID) && !c.RemoteID.IsAny() && c.RemoteID.Matches(s.remoteID) {
			out = append(out, c)
		}
	}
	return out
}

// fits reports whether a child admits the peer's selectors, and returns those
// that the SA gets. In transport mode the selectors are between the endpoints,
// whatever address a NAT hides.
func (s *ikeSA) fits(c *Child, local, remote sa.Selector, equal bool) (sa.Selector, sa.Selector, bool) {
	ours := c.LocalTS.resolve(s.local.Addr())
	theirs := c.RemoteTS.resolve(s.remote.Addr())
	if c.Mode == sa.Transport {
		local = atEndpoint(local, s.local.Addr())
		remote = atEndpoint(remote, s.remote.Addr())
	}
	if equal {
		return local, remote, ours == local && theirs == remote
	}
	return local, remote, ours.Contains(local) && theirs.Contains(remote)
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
		if _, ok := q.spis[suite.Protocol]; !ok {
			x.reserveSPI(suite)
			return nil
		}
	}
	return nil
}

func (x *exchange) reserveSPI(suite sa.Suite) {
	p := x.draft()
	p.Suite = suite
	token := x.await(func(v any) error {
		r := v.(spiResult)
		if r.err != nil {
			return fmt.Errorf("reserve SPI: %w", r.err)
		}
		if x.q.spis == nil {
			x.q.spis = make(map[sa.Protocol]sa.SPI, 1)
		}
		x.q.spis[suite.Protocol] = r.spi
		return reserveSPIs(x)
	})
	x.e.emit(ReserveSPI{Token: token, Protocol: suite.Protocol, Local: x.s.local.Addr(), Pair: p})
}

// draft is the pair as far as it is known before it is agreed on.
func (x *exchange) draft() *sa.Pair {
	s, q := x.s, x.q
	return &sa.Pair{
		Policy: sa.Policy{
			Conn: q.conn.Name, Child: q.cfg.Name, Mode: q.cfg.Mode,
			Local: s.local, Remote: s.remote, LocalTS: q.local, RemoteTS: q.remote,
		},
		Encap:        s.encap(),
		ReplayWindow: q.cfg.ReplayWindow,
		CopyDF:       q.cfg.CopyDF,
		CopyECN:      q.cfg.CopyECN,
		CopyDSCP:     q.cfg.CopyDSCP,
		Offload:      q.cfg.Offload,
	}
}

// makeQuickKE has a fresh key pair made where PFS is configured.
func makeQuickKE(x *exchange) error {
	if x.q.group == sa.GroupNone {
		return nil
	}
	x.e.emit(ComputeDH{Group: x.q.group, Token: x.await(func(v any) error {
		r := v.(DHResult)
		x.q.private, x.q.public = r.Private, r.Public
		return r.Err
	})})
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
	x.e.emit(ComputeDH{Group: q.group, Private: private, Peer: q.peerKE, Token: x.await(func(v any) error {
		r := v.(DHResult)
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
	})})
	return nil
}

func sendQuick1(x *exchange) ([]isakmp.Payload, error) {
	s, q := x.s, x.q
	q.offer = s.childOffer(q.cfg, q.group, 0)
	for i := range q.offer.Proposals {
		p, _ := protocolOf(q.offer.Proposals[i].Protocol)
		q.offer.Proposals[i].SPI = be32(uint32(q.spis[p]))
	}
	q.nonce[0] = x.makeNonce()
	q.ids = []isakmp.Payload{proxyID(q.local), proxyID(q.remote)}
	payloads := x.quickPayloads(q.offer, q.nonce[0])
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
	nonce, err := m.body(isakmp.PayloadNonce)
	if err != nil {
		return err
	}
	if err := checkNonce(nonce, 8); err != nil {
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
// proposed, or a part of them.
func (x *exchange) narrow(m *message) error {
	q := x.q
	if len(m.bodies(isakmp.PayloadID)) == 0 || q.cfg.Mode == sa.Transport {
		return nil
	}
	ci, cr, err := x.readIDs(m)
	if err != nil {
		return err
	}
	if !q.local.Contains(ci) || !q.remote.Contains(cr) {
		return refuse(isakmp.InvalidIDInformation, "the peer answers with %s === %s, we proposed %s === %s", ci, cr, q.local, q.remote)
	}
	q.local, q.remote = ci, cr
	return nil
}

func sendQuick3(x *exchange) ([]isakmp.Payload, error) {
	q := x.q
	return x.s.withHash([][]byte{{0}, be32(x.mid), q.nonce[0], q.nonce[1]}), nil
}

func receiveQuick3(x *exchange, m *message) error {
	return x.s.checkHash(m, [][]byte{{0}, be32(x.mid), x.q.nonce[0], x.q.nonce[1]}, false)
}

// sendConnected tells a peer that honours the commit bit to go on.
func sendConnected(x *exchange) error {
	s := x.s
	n := isakmp.Notification{DOI: isakmp.DOIIPsec, Protocol: protocolIDs[x.q.child.pair.Suite.Protocol],
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

// finishQuick puts the new pair to use.
func (x *exchange) finishQuick() {
	s, q := x.s, x.q
	delete(s.quick, x.mid)
	x.over = true
	x.e.stop(x.rt.timer)
	s.keepAnswer(x, x.answer())
	c := q.child
	c.adopt(s)
	x.e.log(s, x.command, slog.LevelInfo, fmt.Sprintf("child %s{%d} established: %s_i %s_o, %s === %s",
		q.cfg.Name, c.pair.ID, c.pair.In.SPI, c.pair.Out.SPI, c.pair.LocalTS, c.pair.RemoteTS),
		slog.String("proposal", q.agreement.transform.String()),
		slog.String("mode", c.pair.Mode.String()),
		slog.String("placement", c.placement.Kind.String()))
	c.goLive(q.replaces)
	q.wipe()
	x.e.done(x.command, nil)
	s.idle()
}

// answer is what a repeat of the last message is to be answered with.
func (x *exchange) answer() []byte {
	if x.initiator && !x.q.peerCommits || x.q.weCommit {
		return x.lastOut
	}
	return nil
}

// failQuick ends a Quick Mode that did not come off.
func (x *exchange) failQuick(err error) {
	s := x.s
	delete(s.quick, x.mid)
	x.close()
	x.release(err)
	s.idle()
}

// release gives back what a Quick Mode held that did not come off.
func (x *exchange) release(err error) {
	q := x.q
	for p, spi := range q.spis {
		x.e.emit(ReleaseSPI{Protocol: p, Local: x.s.local.Addr(), SPI: spi})
	}
	q.spis = nil
	if q.child != nil && q.child.state == ChildInstalling {
		q.child.discard()
	}
	if old := q.replaces; old != nil && old.rekeying == x {
		old.rekeying = nil
		if old.state == ChildRekeying {
			old.state = ChildInstalled
			old.retryRekey()
		}
	}
	x.e.done(x.command, err)
}
