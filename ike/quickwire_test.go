// SPDX-License-Identifier: Apache-2.0

package ike

import (
	"bytes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"
	"hash"
	"slices"
	"testing"

	"quicksand/ike/isakmp"
	"quicksand/sa"
)

// This file reads and rewrites the messages of Quick Mode with computations of
// its own, from the secrets of phase 1 alone.

var stdHash = map[sa.Hash]func() hash.Hash{
	sa.MD5: md5.New, sa.SHA1: sha1.New, sa.SHA256: sha256.New, sa.SHA384: sha512.New384, sa.SHA512: sha512.New,
}

func stdHMAC(h sa.Hash, key []byte, parts ...[]byte) []byte {
	m := hmac.New(stdHash[h], key)
	m.Write(bytes.Join(parts, nil))
	return m.Sum(nil)
}

// wire follows the Quick Modes between two nodes under one IKE SA.
type wire struct {
	t      testing.TB
	s      *ikeSA
	seen   map[uint32][]quickMessage
	change func(no int, m *quickMessage)
}

// quickMessage is a message of Quick Mode in clear.
type quickMessage struct {
	mid      uint32
	flags    isakmp.Flags
	payloads []isakmp.Payload // without HASH
	hash     []byte           // as it was, or nil to have the right one computed
	last     []byte           // last block of the ciphertext
	sum      [32]byte         // of the original datagram
	data     []byte
}

func (m *quickMessage) body(t isakmp.PayloadType, n int) []byte {
	for _, p := range m.payloads {
		if p.Type == t {
			if n--; n < 0 {
				return p.Body
			}
		}
	}
	return nil
}

// set replaces the n-th payload of a type, or takes it out.
func (m *quickMessage) set(t isakmp.PayloadType, n int, body []byte) {
	for i, p := range m.payloads {
		if p.Type == t {
			if n--; n < 0 {
				if body == nil {
					m.payloads = slices.Delete(m.payloads, i, i+1)
				} else {
					m.payloads[i].Body = body
				}
				return
			}
		}
	}
}

func (m *quickMessage) add(t isakmp.PayloadType, body []byte) {
	m.payloads = append(m.payloads, isakmp.Payload{Type: t, Body: body})
}

func (m *quickMessage) sa(t testing.TB) isakmp.SecurityAssociation {
	x, err := isakmp.ParseSA(m.body(isakmp.PayloadSA, 0))
	if err != nil {
		t.Fatal(err)
	}
	return x
}

// watch follows the Quick Modes of both nodes from now on. Where change is not
// nil it may change message no (1 to 3) before it is encrypted again.
func (s *sim) watch(a, b *node, change func(no int, m *quickMessage)) *wire {
	w := &wire{t: s.t, s: a.ike(), seen: map[uint32][]quickMessage{}, change: change}
	for _, n := range []*node{a, b} {
		n.tap = func(m *Send) bool {
			if h, _ := isakmp.ParseHeader(m.Data); h.Exchange == isakmp.QuickMode {
				w.take(n, h, m)
			}
			return true
		}
	}
	return w
}

func (w *wire) iv(mid uint32) []byte {
	if n := len(w.seen[mid]); n > 0 {
		return w.seen[mid][n-1].last
	}
	h := stdHash[w.s.transform.Hash]()
	h.Write(w.s.lastIV)
	binary.Write(h, binary.BigEndian, mid)
	return h.Sum(nil)[:len(w.s.lastIV)]
}

// take opens a message, and where it is changed has the sender go on from what
// it was changed to.
func (w *wire) take(n *node, h isakmp.Header, m *Send) {
	seen := w.seen[h.MessageID]
	for _, old := range seen {
		if old.sum == sha256.Sum256(m.Data) || bytes.Equal(old.data, m.Data) {
			m.Data = old.data
			return
		}
	}
	q := quickMessage{mid: h.MessageID, flags: h.Flags, sum: sha256.Sum256(m.Data), data: m.Data}
	plain := bytes.Clone(m.Data[isakmp.HeaderLen:])
	q.last = bytes.Clone(plain[len(plain)-len(w.s.lastIV):])
	cipher.NewCBCDecrypter(w.s.cipher, w.iv(q.mid)).CryptBlocks(plain, plain)
	ps, _, err := isakmp.Payloads(nil, h.Next, plain)
	if err != nil || len(ps) == 0 || ps[0].Type != isakmp.PayloadHash {
		w.t.Fatalf("%s sends what does not decrypt: %v", n.name, err)
	}
	q.hash, q.payloads = ps[0].Body, ps[1:]
	no := len(seen) + 1
	if want := w.hash(no, &q); !bytes.Equal(q.hash, want) {
		w.t.Errorf("HASH(%d) is %x, want %x", no, q.hash, want)
	}
	if w.change != nil {
		was := q.flags
		before := isakmp.AppendPayloads(nil, q.payloads)
		hash := q.hash
		q.hash = nil
		w.change(no, &q)
		if q.hash == nil {
			q.hash = w.hash(no, &q)
		}
		if was != q.flags || !bytes.Equal(hash, q.hash) || !bytes.Equal(before, isakmp.AppendPayloads(nil, q.payloads)) {
			w.seal(h, &q)
			if x := n.quickOf(q.mid); x != nil {
				x.iv, x.lastOut = q.last, q.data
				x.q.nonce[no-1] = q.body(isakmp.PayloadNonce, 0)
				if offer, err := isakmp.ParseSA(q.body(isakmp.PayloadSA, 0)); err == nil && no == 1 {
					x.q.offer = offer
				}
			}
			m.Data = q.data
		}
	}
	w.seen[q.mid] = append(seen, q)
}

func (n *node) quickOf(mid uint32) *exchange {
	for _, s := range n.e.byID {
		if x := s.quick[mid]; x != nil {
			return x
		}
	}
	return nil
}

// hash is HASH(no) (RFC 2409 section 5.5).
func (w *wire) hash(no int, m *quickMessage) []byte {
	mid := binary.BigEndian.AppendUint32(nil, m.mid)
	rest := isakmp.AppendPayloads(nil, m.payloads)
	nonce := func(i int) []byte { return w.seen[m.mid][i].body(isakmp.PayloadNonce, 0) }
	switch no {
	case 1:
		return stdHMAC(w.s.transform.Hash, w.s.skeyidA, mid, rest)
	case 2:
		return stdHMAC(w.s.transform.Hash, w.s.skeyidA, mid, nonce(0), rest)
	}
	return stdHMAC(w.s.transform.Hash, w.s.skeyidA, []byte{0}, mid, nonce(0), nonce(1))
}

// seal encrypts the message again.
func (w *wire) seal(h isakmp.Header, m *quickMessage) {
	ps := append([]isakmp.Payload{{Type: isakmp.PayloadHash, Body: m.hash}}, m.payloads...)
	h.Next, h.Flags = isakmp.PayloadHash, m.flags
	plain := isakmp.AppendPayloads(nil, ps)
	block := len(w.s.lastIV)
	for len(plain)%block != 0 {
		plain = append(plain, 0)
	}
	cipher.NewCBCEncrypter(w.s.cipher, w.iv(m.mid)).CryptBlocks(plain, plain)
	m.last = bytes.Clone(plain[len(plain)-block:])
	m.data = append(h.Append(nil), plain...)
	isakmp.SetLength(m.data)
}

// keymat is KEYMAT of the SA with the SPI (RFC 2409 section 5.5) after what
// the two ends said in the Quick Mode.
func (w *wire) keymat(mid uint32, p isakmp.ProtocolID, spi sa.SPI, shared []byte, n int) []byte {
	q := w.seen[mid]
	var seed []byte
	seed = append(seed, shared...)
	seed = append(seed, byte(p))
	seed = binary.BigEndian.AppendUint32(seed, uint32(spi))
	seed = append(seed, q[0].body(isakmp.PayloadNonce, 0)...)
	seed = append(seed, q[1].body(isakmp.PayloadNonce, 0)...)
	var out, k []byte
	for len(out) < n {
		k = stdHMAC(w.s.transform.Hash, w.s.skeyidD, k, seed)
		out = append(out, k...)
	}
	return out[:n]
}
