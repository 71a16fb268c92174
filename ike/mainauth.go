// SPDX-License-Identifier: Apache-2.0

package ike

import (
	"crypto/hmac"
	"crypto/subtle"
	"log/slog"
	"net/netip"
	"slices"

	"quicksand/ike/isakmp"
	"quicksand/sa"
)

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
	for _, o := range e.byAddr[s.remote.Addr()] {
		if o != s && o.state != IKEConnecting && o.localID == s.localID {
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
	peer, err := readIdentity(idBody)
	if err != nil {
		return err
	}
	if !x.initiator {
		if err := x.chooseConnection(peer, m); err != nil {
			return err
		}
	} else if !s.conn.RemoteID.Matches(peer) {
		return refuse(isakmp.AuthenticationFailed, "the peer is %s, %s is configured", peer, s.conn.RemoteID)
	}
	s.remoteID = peer
	if s.conn.Unique == UniqueKeep && s.elsewhere() {
		return refuse(isakmp.AuthenticationFailed, "an IKE SA with %s stands already and is kept", peer)
	}
	for _, b := range m.bodies(isakmp.PayloadNotify) {
		if n, err := isakmp.ParseNotification(b); err == nil && n.Type == isakmp.InitialContact {
			x.m.initial = true
		}
	}
	return nil
}

// readIdentity reads a phase 1 ID payload. Its protocol and port are 0 or
// UDP's port of IKE (RFC 2407 section 4.6.2), to which NAT traversal added one.
func readIdentity(body []byte) (Identity, error) {
	id, err := isakmp.ParseIdentification(body)
	if err != nil {
		return Identity{}, refuse(isakmp.PayloadMalformed, "%v", err)
	}
	if id.Protocol != 0 && id.Protocol != 17 || id.Port != 0 && (id.Protocol != 17 || id.Port != 500 && id.Port != 4500) {
		return Identity{}, refuse(isakmp.InvalidIDInformation, "the peer's identity is of protocol %d and port %d", id.Protocol, id.Port)
	}
	return Identity{id.Type, string(id.Data)}, nil
}

// elsewhere reports whether the same two ends have an IKE SA from another
// address.
func (s *ikeSA) elsewhere() bool {
	return slices.ContainsFunc(s.others(), func(o *ikeSA) bool {
		return o.state == IKEEstablished && o.remote.Addr() != s.remote.Addr()
	})
}

// chooseConnection finds the responder's connection for the peer's identity
// among those that its address admits and whose pre-shared key it used.
func (x *exchange) chooseConnection(peer Identity, m *message) error {
	s := x.s
	for _, c := range x.m.candidates {
		if !c.RemoteID.Matches(peer) {
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

func (x *exchange) finishMain() {
	s := x.s
	x.over = true
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
	for _, o := range slices.Clone(e.byEnds[s.ends()]) {
		if o != s {
			e.log(o, 0, slog.LevelInfo, "the peer starts afresh (INITIAL_CONTACT); dropping its older IKE SA")
			o.drop(errReplaced)
		}
	}
	for _, c := range slices.Clone(e.orphans) {
		if c.localID == s.localID && c.remoteID == s.remoteID {
			c.remove(false)
		}
	}
}

// failMain ends an IKE SA that did not come up.
func (x *exchange) failMain(err error) {
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
	if renews != nil {
		renews.renewal = next
	}
	next.begin()
}
