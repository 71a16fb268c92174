// SPDX-License-Identifier: Apache-2.0

package ike

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"

	"quicksand/ike/isakmp"
	"quicksand/sa"
)

// Main Mode with a pre-shared key (RFC 2409 section 5.4):
//
//	HDR, SA, VID       -->
//	                   <--  HDR, SA, VID
//	HDR, KE, Ni, NAT-D -->
//	                   <--  HDR, KE, Nr, NAT-D
//	HDR*, IDii, HASH_I -->
//	                   <--  HDR*, IDir, HASH_R
var mainInitiator, mainResponder script

// The tables are filled here because their steps lead back to them.
func init() {
	mainInitiator = script{
		{name: "Main Mode message 1", send: sendMainSA, retransmit: true},
		{name: "Main Mode message 2", receive: receiveMainSA},
		{compute: makeMainKE},
		{name: "Main Mode message 3", send: sendMainKE, retransmit: true},
		{name: "Main Mode message 4", receive: receiveMainKE},
		{compute: makeMainKeys},
		{compute: startMainCipher},
		{name: "Main Mode message 5", send: sendMainAuth, retransmit: true},
		{name: "Main Mode message 6", receive: receiveMainAuth},
	}
	mainResponder = script{
		{name: "Main Mode message 2", send: sendMainSA},
		{name: "Main Mode message 3", receive: receiveMainKE},
		{compute: makeMainKeys},
		{name: "Main Mode message 4", send: sendMainKE},
		{compute: startMainCipher},
		{name: "Main Mode message 5", receive: receiveMainAuth},
		{name: "Main Mode message 6", send: sendMainAuth},
	}
}

// mainMode is what Main Mode needs until it is done.
type mainMode struct {
	first      firstKey   // responder's
	halfOpen   netip.Addr // counted as half-open there; not valid once settled
	candidates []*Connection
	psk        sa.Key // shared with the configuration, never wiped here
	saBody     []byte // SAi_b
	reply      isakmp.SecurityAssociation
	nonce      [2][]byte // Ni_b, Nr_b
	public     [2][]byte // g^xi, g^xr
	private    PrivateKey
	shared     sa.Key
	complained bool
	initial    bool // the peer said INITIAL_CONTACT
	giveUp     *timer
}

func (m *mainMode) wipe() {
	m.shared.Wipe()
	if m.private != nil {
		m.private.Wipe()
		m.private = nil
	}
}

// side is 0 for what the initiator made and 1 for the responder.
func side(initiator bool) int {
	if initiator {
		return 0
	}
	return 1
}

// makeCookie makes a cookie that only we could have made for this peer (RFC
// 2408 section 2.5.3).
func (e *Engine) makeCookie(local, remote netip.AddrPort) isakmp.Cookie {
	var nonce [16]byte
	e.read(nonce[:])
	m := hmac.New(sha256.New, e.secret[:])
	fmt.Fprintf(m, "%s %s %x", local, remote, nonce)
	var c isakmp.Cookie
	copy(c[:], m.Sum(nil))
	return c
}

// initiateMain begins an IKE SA.
func (e *Engine) initiateMain(c *Connection, local, remote netip.AddrPort, natt bool) *ikeSA {
	s := e.newIKE(c, true, local, remote)
	s.natt = natt
	s.localID, s.remoteID = c.LocalID, c.RemoteID
	if s.localID.IsAny() {
		s.localID = AddrIdentity(local.Addr())
	}
	s.cookies.i = e.makeCookie(local, remote)
	e.sas[s.cookies] = s
	s.main = &exchange{e: e, s: s, kind: isakmp.MainMode, initiator: true, script: mainInitiator, m: &mainMode{}}
	return s
}

// begin has Main Mode run for what waits for it.
func (s *ikeSA) begin() {
	if len(s.wanted) > 0 {
		s.main.command = s.wanted[0].Command
	}
	s.e.log(s, 0, slog.LevelInfo, fmt.Sprintf("initiating Main Mode to %s", s.remote))
	s.main.m.psk = s.e.findPSK(s.conn, s.local.Addr(), s.remote.Addr())
	if s.main.m.psk == nil {
		s.main.fail(fmt.Errorf("no pre-shared key is configured for %s and %s", s.localID, s.remoteOr()))
		return
	}
	s.main.run()
}

func (s *ikeSA) remoteOr() string {
	if s.remoteID.IsAny() {
		return s.remote.Addr().String()
	}
	return s.remoteID.String()
}

// findPSK returns the secret whose owners fit best: the peer's identity or
// address and ours, then either, then a secret that is anybody's.
func (e *Engine) findPSK(c *Connection, local, remote netip.Addr) sa.Key {
	var best sa.Key
	score := -1
	for _, sec := range e.config.Secrets {
		n := 0
		if len(sec.Owners) > 0 {
			me, other := false, false
			for _, o := range sec.Owners {
				me = me || o == c.LocalID || o == AddrIdentity(local)
				other = other || !c.RemoteID.IsAny() && o == c.RemoteID || o == AddrIdentity(remote) || o.IsAny()
			}
			if !me && !other {
				continue
			}
			n = 1
			if me {
				n++
			}
			if other {
				n += 2
			}
		}
		if n > score {
			score, best = n, sec.Key
		}
	}
	return best
}

// matches reports whether a connection's addresses admit the endpoints.
func (c *Connection) matches(local, remote netip.Addr) bool {
	return matchAddr(c.LocalAddrs, local) && matchAddr(c.RemoteAddrs, remote)
}

func matchAddr(list []AddrMatch, a netip.Addr) bool {
	if len(list) == 0 {
		return true
	}
	for _, m := range list {
		if m.From.BitLen() == a.BitLen() && m.From.Compare(a) <= 0 && a.Compare(m.To) <= 0 {
			return true
		}
	}
	return false
}

// respondMain takes the first message of a peer's Main Mode in.
func (e *Engine) respondMain(m *message) {
	remote := m.Remote.Addr()
	total := 0
	for _, n := range e.halfOpen {
		total += n
	}
	if e.halfOpen[remote] >= e.opt.HalfOpenPerAddr || total >= e.opt.HalfOpenTotal {
		e.reject(nil, m, drop("ike.rx.half-open-limit", "%d half-open IKE SAs of this address, %d in total", e.halfOpen[remote], total))
		return
	}
	x := &exchange{e: e, kind: isakmp.MainMode, script: mainResponder, m: &mainMode{}}
	s, err := e.acceptMain(m, x)
	if err != nil {
		var r *refusal
		if errors.As(err, &r) {
			e.count("ike.rx.refused")
			e.log(nil, 0, slog.LevelWarn, fmt.Sprintf("Main Mode from %s refused: %v", m.Remote, err))
			e.notifyFirst(m, r.notify)
		} else {
			e.reject(nil, m, err)
		}
		return
	}
	e.log(s, 0, slog.LevelInfo, fmt.Sprintf("%s initiates Main Mode", m.Remote))
	x.lastIn = m.sum
	// A responder sends nothing by itself, so it waits for as long as the
	// peer may repeat.
	x.m.giveUp = e.after(linger, func() {
		if s.state == IKEConnecting {
			e.count("ike.timeouts")
			x.fail(errors.New("the peer did not go on"))
		}
	})
	x.run()
}

// acceptMain makes the responder's IKE SA for a first message.
func (e *Engine) acceptMain(m *message, x *exchange) (*ikeSA, error) {
	if err := m.split(m.Data[isakmp.HeaderLen:]); err != nil {
		return nil, err
	}
	body, err := m.body(isakmp.PayloadSA)
	if err != nil {
		return nil, err
	}
	offer, err := parseSA(body)
	if err != nil {
		return nil, err
	}
	for _, c := range e.config.Connections {
		if c.matches(m.Local.Addr(), m.Remote.Addr()) {
			x.m.candidates = append(x.m.candidates, c)
		}
	}
	if len(x.m.candidates) == 0 {
		return nil, refuse(isakmp.NoProposalChosen, "no connection is configured for %s...%s", m.Local.Addr(), m.Remote.Addr())
	}
	for _, c := range x.m.candidates {
		chosen, reply, life, ok := chooseIKE(c.Proposals, offer)
		if !ok {
			continue
		}
		s := e.newIKE(c, false, m.Local, m.Remote)
		s.natt = m.NATT
		s.transform, s.life = chosen, life
		s.localID = c.LocalID
		s.cookies = cookies{m.h.Initiator, e.makeCookie(m.Local, m.Remote)}
		s.peer = readVendors(m)
		s.main, x.s = x, s
		x.m.reply = reply
		x.m.saBody = append([]byte(nil), body...)
		x.m.first = firstKey{m.h.Initiator, m.Remote}
		x.m.halfOpen = m.Remote.Addr()
		e.halfOpen[x.m.halfOpen]++
		e.starting[x.m.first] = s
		e.sas[s.cookies] = s
		return s, nil
	}
	return nil, refuse(isakmp.NoProposalChosen, "none of the proposals is configured: %s", describeIKE(offer))
}

func sendMainSA(x *exchange) ([]isakmp.Payload, error) {
	s := x.s
	if x.initiator {
		life := s.conn.RekeyTime
		if r := s.conn.ReauthTime; r > 0 && (life == 0 || r < life) {
			life = r
		}
		if life > 0 {
			life += s.conn.OverTime
		}
		x.m.reply = ikeOffer(s.conn.Proposals, life)
		x.m.saBody = x.m.reply.Append(nil)
	}
	body := x.m.reply.Append(nil)
	return append([]isakmp.Payload{{Type: isakmp.PayloadSA, Body: body}}, s.vendorPayloads()...), nil
}

func receiveMainSA(x *exchange, m *message) error {
	s := x.s
	body, err := m.body(isakmp.PayloadSA)
	if err != nil {
		return inClear(err)
	}
	sel, err := parseSA(body)
	if err != nil {
		return inClear(err)
	}
	t, life, err := checkIKE(x.m.reply, sel)
	if err != nil {
		return inClear(err)
	}
	s.transform, s.life = t, life
	s.peer = readVendors(m)
	delete(x.e.sas, s.cookies)
	s.cookies.r = m.h.Responder
	x.e.sas[s.cookies] = s
	return nil
}

// inClear makes a refusal of a message that proves nothing about its sender
// into a drop: whoever forged it must not end the exchange.
func inClear(err error) error {
	var r *refusal
	if errors.As(err, &r) {
		return drop("ike.rx.malformed", "%v", err)
	}
	return err
}

// nonceLen is the length of our nonces in bytes; the peer's have 8 to 256 (RFC
// 2409 section 5).
const nonceLen = 32

func (x *exchange) makeNonce() []byte {
	b := make([]byte, nonceLen)
	x.e.read(b)
	return b
}

func makeMainKE(x *exchange) error {
	x.e.emit(ComputeDH{Group: x.s.transform.Group, Token: x.await(func(v any) error {
		r := v.(DHResult)
		x.m.private = r.Private
		x.m.public[side(x.initiator)] = r.Public
		return r.Err
	})})
	return nil
}

func sendMainKE(x *exchange) ([]isakmp.Payload, error) {
	own := side(x.initiator)
	x.m.nonce[own] = x.makeNonce()
	if !x.initiator {
		if err := x.deriveMain(); err != nil {
			return nil, err
		}
	}
	return append([]isakmp.Payload{
		{Type: isakmp.PayloadKE, Body: x.m.public[own]},
		{Type: isakmp.PayloadNonce, Body: x.m.nonce[own]},
	}, x.s.natDPayloads()...), nil
}

func receiveMainKE(x *exchange, m *message) error {
	ke, err := m.body(isakmp.PayloadKE)
	if err != nil {
		return inClear(err)
	}
	nonce, err := m.body(isakmp.PayloadNonce)
	if err != nil {
		return inClear(err)
	}
	if err := checkNonce(nonce, 8); err != nil {
		return inClear(err)
	}
	s := x.s
	if !x.initiator {
		for _, c := range x.m.candidates {
			if x.m.psk = x.e.findPSK(c, m.Local.Addr(), m.Remote.Addr()); x.m.psk != nil {
				break
			}
		}
		if x.m.psk == nil {
			return refuse(isakmp.AuthenticationFailed, "no pre-shared key is configured for %s and %s", m.Local.Addr(), m.Remote.Addr())
		}
	}
	peer := side(!x.initiator)
	x.m.public[peer] = append([]byte(nil), ke...)
	x.m.nonce[peer] = append([]byte(nil), nonce...)
	s.readNATD(m)
	if s.natLocal || s.natRemote {
		where := map[bool]string{true: "we are", false: "the peer is"}[s.natLocal]
		x.e.log(s, 0, slog.LevelInfo, where+" behind a NAT; going on with UDP encapsulation")
	}
	return nil
}

func checkNonce(b []byte, least int) error {
	if len(b) < least || len(b) > 256 {
		return refuse(isakmp.PayloadMalformed, "a nonce of %d bytes, not %d to 256", len(b), least)
	}
	return nil
}

// makeMainKeys has g^xy computed; the responder's key pair is made at the same
// time.
func makeMainKeys(x *exchange) error {
	peer := x.m.public[side(!x.initiator)]
	private := x.m.private
	x.m.private = nil
	x.e.emit(ComputeDH{Group: x.s.transform.Group, Private: private, Peer: peer, Token: x.await(func(v any) error {
		r := v.(DHResult)
		if r.Private != nil {
			r.Private.Wipe()
		}
		switch {
		case errors.Is(r.Err, ErrPublic):
			return refuse(isakmp.InvalidKeyInformation, "%v", r.Err)
		case r.Err != nil:
			return r.Err
		}
		x.m.shared = r.Shared.Clone()
		if !x.initiator {
			x.m.public[1] = r.Public
			return nil
		}
		return x.deriveMain()
	})})
	return nil
}

// deriveMain makes the IKE SA's secrets once both nonces and g^xy are there.
func (x *exchange) deriveMain() error {
	s := x.s
	s.skeyids = pskSKEYIDs(s.transform.Hash, x.m.psk, x.m.nonce[0], x.m.nonce[1], x.m.shared, s.cookies.i, s.cookies.r)
	x.m.shared.Wipe()
	key := cipherKey(s.transform.Hash, s.skeyidE, int(s.transform.KeyBits)/8)
	defer key.Wipe()
	var err error
	if s.cipher, err = newCipher(s.transform.Encryption, key); err != nil {
		return err
	}
	if x.e.opt.KeyLog {
		x.e.emit(KeyLog{Cookie: s.cookies.i, Key: key.Clone()})
	}
	return nil
}

// startMainCipher is where the messages begin to be encrypted, and where the
// initiator floats.
func startMainCipher(x *exchange) error {
	s := x.s
	x.iv = phase1IV(s.transform.Hash, x.m.public[0], x.m.public[1], s.cipher.BlockSize())
	if x.initiator {
		s.float()
	}
	return nil
}

// mainHash is HASH_I or HASH_R (RFC 2409 section 5) over an ID payload's body.
func (x *exchange) mainHash(initiator bool, id []byte) []byte {
	s := x.s
	own, other := side(initiator), side(!initiator)
	c := [2][]byte{s.cookies.i[:], s.cookies.r[:]}
	return prf(s.transform.Hash, s.skeyid, x.m.public[own], x.m.public[other], c[own], c[other], x.m.saBody, id)
}

func sendMainAuth(x *exchange) ([]isakmp.Payload, error) {
	s := x.s
	id := isakmp.Identification{Type: s.localID.Type, Data: []byte(s.localID.Data)}
	body := id.Append(nil)
	out := []isakmp.Payload{
		{Type: isakmp.PayloadID, Body: body},
		{Type: isakmp.PayloadHash, Body: x.mainHash(x.initiator, body)},
	}
	if x.initiator && s.conn.Unique != UniqueNever && !x.e.knows(s) {
		n := isakmp.Notification{DOI: isakmp.DOIIPsec, Protocol: isakmp.ProtoISAKMP, Type: isakmp.InitialContact,
			SPI: append(append([]byte(nil), s.cookies.i[:]...), s.cookies.r[:]...)}
		out = append(out, isakmp.Payload{Type: isakmp.PayloadNotify, Body: n.Append(nil)})
	}
	return out, nil
}

// knows reports whether there is another IKE SA to the same peer.
func (e *Engine) knows(s *ikeSA) bool {
	for _, o := range e.byID {
		if o != s && o.state != IKEConnecting && o.localID == s.localID && o.remote.Addr() == s.remote.Addr() {
			return true
		}
	}
	for _, c := range e.orphans {
		if c.conn == s.conn.Name {
			return true
		}
	}
	return false
}

func receiveMainAuth(x *exchange, m *message) error {
	s := x.s
	if m.iv == nil {
		return drop("ike.rx.malformed", "the message is not encrypted")
	}
	idBody, err := m.body(isakmp.PayloadID)
	if err != nil {
		return x.undecryptable()
	}
	hash, err := m.body(isakmp.PayloadHash)
	if err != nil {
		return x.undecryptable()
	}
	if !hmac.Equal(hash, x.mainHash(!x.initiator, idBody)) {
		return x.undecryptable()
	}
	// From here on the peer has proven that it knows the pre-shared key.
	id, err := isakmp.ParseIdentification(idBody)
	if err != nil {
		return refuse(isakmp.PayloadMalformed, "%v", err)
	}
	peer := Identity{id.Type, string(id.Data)}
	if !x.initiator {
		if err := x.chooseConnection(peer, m); err != nil {
			return err
		}
	} else if !s.conn.RemoteID.Matches(peer) {
		return refuse(isakmp.AuthenticationFailed, "the peer is %s, %s is configured", peer, s.conn.RemoteID)
	}
	s.remoteID = peer
	if s.conn.Unique == UniqueKeep && x.e.holds(s) {
		return refuse(isakmp.AuthenticationFailed, "an IKE SA with %s stands already and is kept", peer)
	}
	for _, b := range m.bodies(isakmp.PayloadNotify) {
		if n, err := isakmp.ParseNotification(b); err == nil && n.Type == isakmp.InitialContact {
			x.m.initial = true
		}
	}
	return nil
}

func (e *Engine) holds(s *ikeSA) bool {
	for _, o := range e.byID {
		if o != s && o.state == IKEEstablished && s.sameEnds(o) && o.remote.Addr() != s.remote.Addr() {
			return true
		}
	}
	return false
}

// chooseConnection finds the responder's connection for the peer's identity
// among those that its address admits and whose pre-shared key it used.
func (x *exchange) chooseConnection(peer Identity, m *message) error {
	s := x.s
	for _, c := range x.m.candidates {
		if !c.RemoteID.Matches(peer) || !slices.Contains(c.Proposals, s.transform) {
			continue
		}
		psk := x.e.findPSK(c, m.Local.Addr(), m.Remote.Addr())
		if subtle.ConstantTimeCompare(psk, x.m.psk) != 1 {
			continue
		}
		s.conn = c
		s.localID = c.LocalID
		if s.localID.IsAny() {
			s.localID = AddrIdentity(m.Local.Addr())
		}
		return nil
	}
	return refuse(isakmp.AuthenticationFailed, "no connection is configured for the peer's identity %s", peer)
}

// undecryptable is what a wrong pre-shared key looks like.
func (x *exchange) undecryptable() error {
	if !x.m.complained {
		x.m.complained = true
		x.s.notifyClear(isakmp.PayloadMalformed)
	}
	return drop("ike.rx.undecryptable", "the message makes no sense when decrypted; most likely the pre-shared keys differ")
}

// receiveMain takes a Main Mode message of a known IKE SA in.
func (s *ikeSA) receiveMain(m *message) {
	x := s.main
	if x == nil || x.repeated(m) {
		return
	}
	err := error(nil)
	switch {
	case m.h.MessageID != 0:
		err = drop("ike.rx.malformed", "a Main Mode message with a message id")
	case m.h.Flags&isakmp.Encrypted == 0:
		err = m.split(m.Data[isakmp.HeaderLen:])
	case x.iv == nil || x.over:
		err = drop("ike.rx.out-of-order", "an encrypted Main Mode message is not due")
	default:
		if m.decrypt(s.cipher, x.iv) != nil {
			err = x.undecryptable()
		}
	}
	if err != nil {
		s.e.reject(s, m, err)
		return
	}
	x.receive(m)
}

func (x *exchange) finishMain() {
	s := x.s
	x.over = true
	x.e.stop(x.m.giveUp)
	delete(x.e.starting, x.m.first)
	s.lastIV = x.iv
	if x.initiator {
		x.lastOut = nil // message 6 needs no answer, nor does a repeat of it
	}
	if x.m.initial && s.conn.Unique != UniqueNever {
		x.e.initialContact(s)
	}
	s.establish()
	x.m.wipe()
	x.m = nil
	s.idle()
}

// initialContact drops what we think we share with a peer that says it knows
// nothing of it (RFC 2407 section 4.6.3.3).
func (e *Engine) initialContact(s *ikeSA) {
	for _, o := range e.byID {
		if o != s && o.state != IKEConnecting && o.localID == s.localID && o.remoteID == s.remoteID {
			e.log(o, 0, slog.LevelInfo, "the peer starts afresh (INITIAL_CONTACT); dropping its older IKE SA")
			o.drop(errReplaced)
		}
	}
}

// failMain ends an IKE SA that did not come up.
func (x *exchange) failMain(err error) {
	if x.m != nil {
		x.e.stop(x.m.giveUp)
	}
	x.s.remove(err)
}

// timeoutMain tries again where the connection has tries left.
func (x *exchange) timeoutMain(err error) {
	s := x.s
	n := s.tries + 1
	c := x.e.connection(s.conn.Name)
	if !s.initiator || c == nil || c.KeyingTries != 0 && n >= c.KeyingTries {
		x.failMain(err)
		return
	}
	wanted, renews := s.wanted, s.renews
	s.wanted, s.renews = nil, nil
	local, remote := s.local, s.remote
	s.remove(err)
	next := x.e.initiateMain(c, local, remote, s.natt)
	next.wanted, next.renews, next.tries = wanted, renews, n
	next.begin()
}
