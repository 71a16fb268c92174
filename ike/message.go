// SPDX-License-Identifier: Apache-2.0

package ike

import (
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"fmt"
	"log/slog"

	"quicksand/ike/isakmp"
)

// message is a datagram taken apart.
type message struct {
	Datagram
	h        isakmp.Header
	sum      [sha256.Size]byte // of the datagram, to tell a repeat
	payloads []isakmp.Payload
	rest     []byte // payloads behind the first, for HASH(n)
	iv       []byte // for the next message of the exchange; nil in clear
}

// body returns the body of the only payload of a type.
func (m *message) body(t isakmp.PayloadType) ([]byte, error) {
	var found []byte
	n := 0
	for _, p := range m.payloads {
		if p.Type == t {
			found = p.Body
			n++
		}
	}
	if n != 1 {
		return nil, refuse(isakmp.PayloadMalformed, "%s message has %d %s payloads where 1 is due", m.h.Exchange, n, t)
	}
	return found, nil
}

// bodies returns the bodies of all payloads of the types.
func (m *message) bodies(types ...isakmp.PayloadType) [][]byte {
	var out [][]byte
	for _, p := range m.payloads {
		for _, t := range types {
			if p.Type == t {
				out = append(out, p.Body)
			}
		}
	}
	return out
}

// split takes the payloads of a message in clear apart.
func (m *message) split(plain []byte) error {
	var used int
	var err error
	m.payloads, used, err = isakmp.Payloads(nil, m.h.Next, plain)
	if err != nil {
		return drop("ike.rx.malformed", "%v", err)
	}
	if len(m.payloads) > 0 {
		m.rest = plain[len(m.payloads[0].Raw):used]
	}
	return nil
}

// decrypt takes an encrypted message apart: iv is that of the exchange, and
// stays as it is, since nothing is proven yet. A wrong key shows as payloads
// that make no sense.
func (m *message) decrypt(b cipher.Block, iv []byte) error {
	n := b.BlockSize()
	ct := m.Data[isakmp.HeaderLen:]
	if len(ct) == 0 || len(ct)%n != 0 {
		return drop("ike.rx.malformed", "%d encrypted bytes are no multiple of the block of %d", len(ct), n)
	}
	plain := make([]byte, len(ct))
	cipher.NewCBCDecrypter(b, iv).CryptBlocks(plain, ct)
	m.iv = append([]byte(nil), ct[len(ct)-n:]...)
	if m.split(plain) != nil {
		return drop("ike.rx.undecryptable", "the message does not decrypt to payloads")
	}
	return nil
}

// checkHash verifies the HASH payload, which must come first: the PRF under
// SKEYID_a of before and, where rest is set, of all payloads behind it (RFC
// 2409 sections 5.5 and 5.7).
func (s *ikeSA) checkHash(m *message, before [][]byte, rest bool) error {
	if len(m.payloads) == 0 || m.payloads[0].Type != isakmp.PayloadHash {
		return drop("ike.rx.undecryptable", "no HASH payload comes first")
	}
	if rest {
		before = append(before, m.rest)
	}
	if !hmac.Equal(s.underA(s.transform.Hash, before...), m.payloads[0].Body) {
		return drop("ike.rx.bad-hash", "HASH does not verify")
	}
	return nil
}

// withHash puts the HASH payload before the others.
func (s *ikeSA) withHash(before [][]byte, payloads ...isakmp.Payload) []isakmp.Payload {
	if len(payloads) > 0 {
		before = append(before, isakmp.AppendPayloads(nil, payloads))
	}
	h := isakmp.Payload{Type: isakmp.PayloadHash, Body: s.underA(s.transform.Hash, before...)}
	return append([]isakmp.Payload{h}, payloads...)
}

// encode makes a datagram, encrypted where there is an IV, and returns it with
// the IV of the exchange's next message.
func (s *ikeSA) encode(kind isakmp.ExchangeType, mid uint32, flags isakmp.Flags, iv []byte, payloads []isakmp.Payload) ([]byte, []byte) {
	h := isakmp.Header{
		Initiator: s.cookies.i, Responder: s.cookies.r,
		Next: isakmp.NoPayload, Version: isakmp.Version,
		Exchange: kind, Flags: flags, MessageID: mid,
	}
	if len(payloads) > 0 {
		h.Next = payloads[0].Type
	}
	if iv != nil {
		h.Flags |= isakmp.Encrypted
	}
	b := isakmp.AppendPayloads(h.Append(make([]byte, 0, 512)), payloads)
	if iv != nil {
		n := s.cipher.BlockSize()
		for (len(b)-isakmp.HeaderLen)%n != 0 {
			b = append(b, 0)
		}
		ct := b[isakmp.HeaderLen:]
		cipher.NewCBCEncrypter(s.cipher, iv).CryptBlocks(ct, ct)
		iv = append([]byte(nil), ct[len(ct)-n:]...)
	}
	isakmp.SetLength(b)
	return b, iv
}

// transmit sends a datagram to the peer as it is reached now.
func (s *ikeSA) transmit(data []byte) {
	s.e.count("ike.tx")
	s.e.emit(Send{Local: s.local, Remote: s.remote, NATT: s.natt, Data: data})
}

// receive finds the IKE SA that a datagram belongs to.
func (e *Engine) receive(d Datagram) {
	e.count("ike.rx")
	h, err := isakmp.ParseHeader(d.Data)
	if err != nil {
		e.count("ike.rx.malformed")
		e.emit(Log{Level: slog.LevelDebug, Text: fmt.Sprintf("datagram from %s dropped: %v", d.Remote, err)})
		return
	}
	m := &message{Datagram: d, h: h, sum: sha256.Sum256(d.Data)}
	var zero isakmp.Cookie
	if h.Initiator == zero {
		e.reject(nil, m, drop("ike.rx.malformed", "the initiator's cookie is zero"))
		return
	}
	if h.Responder == zero {
		e.first(m)
		return
	}
	s := e.sas[cookies{h.Initiator, h.Responder}]
	if s == nil {
		// The second message tells us the responder's cookie.
		s = e.sas[cookies{i: h.Initiator}]
		if s == nil || h.Exchange != isakmp.MainMode && h.Exchange != isakmp.Informational {
			e.reject(nil, m, drop("ike.rx.unknown-cookies", "no IKE SA %s_i %s_r", h.Initiator, h.Responder))
			return
		}
	}
	switch h.Exchange {
	case isakmp.MainMode:
		s.receiveMain(m)
	case isakmp.QuickMode:
		s.receiveQuick(m)
	case isakmp.Informational:
		s.receiveInformational(m)
	default:
		e.reject(s, m, drop("ike.rx.unsupported-exchange", "exchange %s is not supported", h.Exchange))
	}
}

// first takes a message in that has no responder's cookie yet.
func (e *Engine) first(m *message) {
	if m.h.Exchange == isakmp.Informational {
		if s := e.sas[cookies{i: m.h.Initiator}]; s != nil {
			s.receiveInformational(m)
			return
		}
	}
	if s := e.firsts[firstKey{m.h.Initiator, m.Remote}]; s != nil && s.main != nil {
		if m.sum == s.main.lastIn {
			s.main.repeated(m)
		} else {
			e.reject(s, m, drop("ike.rx.out-of-order", "another first message with a cookie in use"))
		}
		return
	}
	if m.h.Exchange != isakmp.MainMode || m.h.Flags&isakmp.Encrypted != 0 || m.h.MessageID != 0 {
		e.reject(nil, m, drop("ike.rx.unsupported-exchange", "%s cannot begin an IKE SA here", m.h.Exchange))
		return
	}
	e.respondMain(m)
}

// reject counts and logs a message that changes nothing.
func (e *Engine) reject(s *ikeSA, m *message, err error) {
	level := slog.LevelDebug
	if d, ok := err.(*dropped); ok {
		e.count(d.counter)
		switch {
		case s != nil && (d.counter == "ike.rx.undecryptable" || d.counter == "ike.rx.bad-hash"):
			level = slog.LevelWarn
		case d.counter == "ike.rx.unsupported-exchange":
			level = slog.LevelInfo
		}
	}
	e.log(s, 0, level, fmt.Sprintf("%s message %08x from %s dropped: %v", m.h.Exchange, m.h.MessageID, m.Remote, err))
}
