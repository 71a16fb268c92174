// SPDX-License-Identifier: Apache-2.0

package ike

import (
	"crypto/hmac"
	"crypto/sha256"
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

// makeCookie makes a cookie that only we could have made for this peer, and
// that is not zero (RFC 2408 section 2.5.3).
func (e *Engine) makeCookie(local, remote netip.AddrPort) isakmp.Cookie {
	var c isakmp.Cookie
	for c == (isakmp.Cookie{}) {
		var nonce [16]byte
		e.read(nonce[:])
		m := hmac.New(sha256.New, e.secret[:])
		fmt.Fprintf(m, "%s %s %x", local, remote, nonce)
		copy(c[:], m.Sum(nil))
	}
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
	if e.halfOpen[remote] >= e.opt.HalfOpenPerAddr || e.halfOpens >= e.opt.HalfOpenTotal {
		e.reject(nil, m, drop("ike.rx.half-open-limit", "%d half-open IKE SAs of this address, %d in total", e.halfOpen[remote], e.halfOpens))
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
		x.m.candidates = slices.DeleteFunc(x.m.candidates, func(c *Connection) bool { return !slices.Contains(c.Proposals, chosen) })
		x.m.reply = reply
		x.m.saBody = append([]byte(nil), body...)
		s.first = firstKey{m.h.Initiator, m.Remote}
		x.m.halfOpen = m.Remote.Addr()
		e.halfOpen[x.m.halfOpen]++
		e.halfOpens++
		e.firsts[s.first] = s
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

// nonceLen is the length of our nonces in bytes. A peer's have 8 to 256 (RFC
// 2409 section 5). In Quick Mode we ask for 16 at least: without PFS nothing
// but the nonces makes one SA's keys differ from another's.
const (
	nonceLen      = 32
	mainNonceLen  = 8
	quickNonceLen = 16
	maxNonceLen   = 256
)

func (x *exchange) makeNonce() []byte {
	b := make([]byte, nonceLen)
	x.e.read(b)
	return b
}

func makeMainKE(x *exchange) error {
	x.compute(ComputeDH{Group: x.s.transform.Group}, func(r DHResult) error {
		x.m.private = r.Private
		x.m.public[side(x.initiator)] = r.Public
		return r.Err
	})
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
	if err := checkNonce(nonce, mainNonceLen); err != nil {
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
	if len(b) < least || len(b) > maxNonceLen {
		return refuse(isakmp.PayloadMalformed, "a nonce of %d bytes, not %d to %d", len(b), least, maxNonceLen)
	}
	return nil
}

// makeMainKeys has g^xy computed; the responder's key pair is made at the same
// time.
func makeMainKeys(x *exchange) error {
	peer := x.m.public[side(!x.initiator)]
	private := x.m.private
	x.m.private = nil
	x.compute(ComputeDH{Group: x.s.transform.Group, Private: private, Peer: peer}, func(r DHResult) error {
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
	})
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
