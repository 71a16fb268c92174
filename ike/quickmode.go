// SPDX-License-Identifier: Apache-2.0

package ike

import (
	"fmt"
	"log/slog"
	"net/netip"
	"slices"

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

// maxPending bounds the Quick Modes that one peer may have under way with us,
// beside our own with it.
const maxPending = 64

// pending counts the Quick Modes that the peer has under way.
func (s *ikeSA) pending() int {
	if len(s.quick) < maxPending {
		return len(s.quick)
	}
	n := 0
	for _, x := range s.quick {
		if !x.initiator {
			n++
		}
	}
	return n
}

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
	reserving  sa.Protocol
	reservedAt netip.Addr
	reserved   []reservation // SPIs that are not installed
	lane       uint8         // of the child's parallel pairs
	child      *child        // once its installation is asked for
	installing bool          // no answer has come to that yet
	replaces   *child
	guessed    bool // that it is what the peer replaces
	unwanted   bool // what it replaces was terminated meanwhile
	// Which end set the commit bit; CONNECTED comes from there.
	weCommit, peerCommits bool
}

// reservation is an SPI that is reserved.
type reservation struct {
	protocol sa.Protocol
	spi      sa.SPI
}

// spi returns the SPI reserved for a protocol, or 0.
func (q *quickMode) spi(p sa.Protocol) sa.SPI {
	for _, r := range q.reserved {
		if r.protocol == p {
			return r.spi
		}
	}
	return 0
}

func (q *quickMode) wipe() {
	q.shared.Wipe()
	if q.private != nil {
		q.private.Wipe()
		q.private = nil
	}
}

// startQuick begins a Quick Mode for a lane of a child, or has it wait for its turn. replaces is the child SA that it
// renegotiates, or nil.
func (s *ikeSA) startQuick(cfg *Child, command uint64, lane uint8, replaces *child) {
	q := &quickMode{cfg: cfg, conn: s.conn, group: cfg.pfsGroup(), lane: lane, replaces: replaces}
	x := &exchange{e: s.e, s: s, kind: isakmp.QuickMode, initiator: true, command: command, script: quickInitiator, q: q}
	q.local = cfg.LocalTS.resolve(s.local.Addr())
	q.remote = cfg.RemoteTS.resolve(s.remote.Addr())
	if replaces != nil {
		q.local, q.remote = replaces.pair.LocalTS, replaces.pair.RemoteTS
		replaces.state = ChildRekeying
		replaces.rekeying = x
	}
	s.admit(x)
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
	case m.h.Flags&isakmp.Encrypted == 0:
		e.reject(s, m, drop("ike.rx.malformed", "a Quick Mode message in clear"))
		return
	case mid == 0:
		e.reject(s, m, drop("ike.rx.malformed", "a Quick Mode message without a message id"))
		s.complain(isakmp.InvalidMessageID)
		return
	}
	if x := s.quick[mid]; x != nil {
		if x.repeated(m) {
			return
		}
		if err := m.decrypt(s.cipher, x.iv); err != nil {
			e.reject(s, m, err)
			s.complain(isakmp.PayloadMalformed)
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
	if n := s.pending(); n >= maxPending {
		e.reject(s, m, drop("ike.rx.quick-limit", "%d Quick Modes of the peer are under way", n))
		return
	}
	if err := m.decrypt(s.cipher, phase2IV(s.transform.Hash, s.lastIV, mid)); err != nil {
		e.reject(s, m, err)
		s.complain(isakmp.PayloadMalformed)
		return
	}
	if err := s.checkHash(m, [][]byte{be32(mid)}, true); err != nil {
		e.reject(s, m, err)
		s.complain(isakmp.InvalidHashInformation)
		return
	}
	s.mids.add(mid)
	s.heardFirst(m)
	x := &exchange{e: e, s: s, kind: isakmp.QuickMode, mid: mid, script: quickResponder, begun: e.now,
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
		if f.sum == m.sum {
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
	most := maxFinished
	if x.initiator {
		most = maxFinishedOwn
	}
	if len(s.finished) >= most {
		s.trimFinished(x.initiator, most)
	}
	s.finished = append(s.finished, finished{x.lastIn, data, s.e.now.Add(linger), x.initiator})
	if len(s.finished) == 1 {
		s.forget = s.e.after(linger, s.forgetAnswers)
	}
}

// trimFinished makes room for one more answer of ours or of the peer's.
func (s *ikeSA) trimFinished(own bool, most int) {
	n, oldest := 0, -1
	for i := range s.finished {
		if s.finished[i].own == own {
			if n++; oldest < 0 {
				oldest = i
			}
		}
	}
	if n >= most {
		s.finished = slices.Delete(s.finished, oldest, oldest+1)
	}
}

// forgetAnswers drops the answers that no repeat will ask for any more.
func (s *ikeSA) forgetAnswers() {
	s.finished = slices.DeleteFunc(s.finished, func(f finished) bool { return !s.e.now.Before(f.end) })
	if len(s.finished) == 0 {
		s.finished = nil
		s.prfD, s.prfA = keyedPRF{}, keyedPRF{} // idle; the next exchange makes them again
		return
	}
	s.forget = s.e.after(s.finished[0].end.Sub(s.e.now), s.forgetAnswers)
}

// finishQuick puts the new pair to use.
func (x *exchange) finishQuick() {
	s, q := x.s, x.q
	delete(s.quick, x.mid)
	x.over = true
	x.e.stop(x.rt.timer)
	s.keepAnswer(x, x.answer())
	c := q.child
	c.adopt(s.current())
	if c.pair.Local != c.s.local || c.pair.Remote != c.s.remote {
		c.moveTo(c.s.local, c.s.remote) // the peer has moved since
	}
	x.e.log(s, x.command, slog.LevelInfo, fmt.Sprintf("child %s{%d} established: %s_i %s_o, %s === %s",
		q.cfg.Name, c.pair.ID, c.pair.In.SPI, c.pair.Out.SPI, c.pair.LocalTS, c.pair.RemoteTS),
		slog.String("proposal", q.agreement.transform.String()),
		slog.String("mode", c.pair.Mode.String()),
		slog.String("placement", c.placement.Kind.String()))
	c.goLive(q.replaces, q.guessed)
	q.wipe()
	var err error
	if q.unwanted {
		c.remove(true)
		err = ErrTerminated
	}
	x.e.done(x.command, err)
	s.nextTurn()
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
	s.nextTurn()
	s.idle()
}

// release gives back what a Quick Mode held that did not come off.
func (x *exchange) release(err error) {
	q := x.q
	x.releaseSPIs()
	if q.child != nil && q.child.state == ChildInstalling && !q.installing {
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
