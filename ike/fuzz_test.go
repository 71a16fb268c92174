// SPDX-License-Identifier: Apache-2.0

package ike

import (
	"bytes"
	"crypto/cipher"
	"testing"
	"time"

	"quicksand/ike/isakmp"
	"quicksand/sa"
)

// negotiation is the same for every input: all that is random in it comes from
// the simulation's seed, so datagrams of one run mean the same in the next.
func negotiation(t testing.TB) (*sim, *node, *node) {
	s := newSim(t, 1)
	a, b := s.pair(nil)
	a.initiate(b, "net")
	return s, a, b
}

// fuzzTimes are moments of the negotiation: before it, after each of its
// messages, and with everything established.
func fuzzTimes(t testing.TB) (times []time.Duration, said [2][][]byte) {
	s, a, b := negotiation(t)
	start := s.now
	for i, n := range []*node{a, b} {
		n.tap = func(m *Send) bool {
			times = append(times, s.now.Sub(start))
			said[i] = append(said[i], m.Data)
			return true
		}
	}
	s.run(2 * time.Second)
	a.do(second(a.e.Terminate(s.now, Select{Conn: "peer"})))
	said[0] = append([][]byte{a.sent[0].Data}, said[0]...) // sent before it was watched
	return append(times, 2*time.Second), said
}

// FuzzEngine hands one end a datagram at some moment of a negotiation. It must
// not panic, and where an IKE SA is established nothing may change by what
// nobody who has its keys has said.
func FuzzEngine(f *testing.F) {
	times, said := fuzzTimes(f)
	for i := range said {
		for n, data := range said[i] {
			f.Add(data, uint8(n*2), uint8(i))
			f.Add(data, uint8(len(times)-1), uint8(i))
			for _, at := range []int{16, 18, 19, 23, 27, isakmp.HeaderLen, isakmp.HeaderLen + 3, len(data) - 1} {
				changed := bytes.Clone(data)
				changed[at] ^= 1
				f.Add(changed, uint8(n), uint8(i))
			}
			f.Add(data[:len(data)/2], uint8(n), uint8(i))
		}
	}
	f.Fuzz(func(t *testing.T, data []byte, moment, from uint8) {
		s, a, b := negotiation(t)
		s.run(times[int(moment)%len(times)])
		n, o := a, b
		if from%2 == 0 {
			n, o = b, a
		}
		authentic := false
		for _, d := range append(said[0], said[1]...) {
			// The header is not protected.
			authentic = authentic || len(d) == len(data) && bytes.Equal(d[isakmp.HeaderLen:], data[isakmp.HeaderLen:])
		}
		before := n.established()
		n.receive(o, data)
		if after := n.established(); before != "" && after != before && !authentic {
			t.Errorf("%s changed from\n%s to\n%s", n.name, before, after)
		}
		s.run(400 * time.Second)
		for _, n := range []*node{a, b} {
			if len(n.e.halfOpen)+len(n.e.waiting)+len(n.reserved)+len(n.keys) != 0 {
				t.Errorf("%s is left with %d half-open, %d questions, %d SPIs, %d keys", n.name, len(n.e.halfOpen), len(n.e.waiting), len(n.reserved), len(n.keys))
			}
		}
		if d := differ(a, b); d != "" && !authentic {
			t.Error(d)
		}
	})
}

// established describes what is established.
func (n *node) established() string {
	var out string
	for _, i := range n.e.SAs() {
		if i.State == IKEEstablished {
			out += n.snapshot()
			break
		}
	}
	return out
}

// The positions in which FuzzQuickMode sends what is made up.
const (
	asMessage1 = iota
	asMessage2
	asMessage3
	asInformational
	asConnected
	positions
)

// FuzzQuickMode is a peer that has the keys and says whatever it likes: any
// chain of payloads, correctly hashed and encrypted, as any message under an
// IKE SA. The engine must not panic, nor keep more than it should.
func FuzzQuickMode(f *testing.F) {
	s, a, b := alone(f, nil)
	w := s.watch(a, b, nil)
	a.initiate(b, "net")
	s.run(time.Second)
	for _, ms := range w.seen {
		for i, m := range ms {
			chain := isakmp.AppendPayloads(nil, m.payloads)
			first := isakmp.NoPayload
			if len(m.payloads) > 0 {
				first = m.payloads[0].Type
			}
			f.Add(uint8(i), uint8(first), chain)
			f.Add(uint8(asInformational), uint8(first), chain)
		}
	}
	for _, p := range []isakmp.Payload{
		notifyPayload(isakmp.Notification{Protocol: isakmp.ProtoISAKMP, SPI: make([]byte, 16), Type: isakmp.RUThere, Data: be32(7)}),
		notifyPayload(isakmp.Notification{Protocol: isakmp.ProtoESP, SPI: be32(1000), Type: isakmp.ResponderLifetime,
			Data: isakmp.AppendAttributes(nil, lifeAttributes(Lifetime{LifeTime: time.Hour, LifeBytes: 1 << 40}))}),
		notifyPayload(isakmp.Notification{Protocol: isakmp.ProtoESP, SPI: be32(1000), Type: isakmp.InvalidSPI}),
		notifyPayload(isakmp.Notification{Protocol: isakmp.ProtoESP, Type: isakmp.Connected}),
		notifyPayload(isakmp.Notification{Protocol: isakmp.ProtoISAKMP, Type: isakmp.InitialContact}),
		notifyPayload(isakmp.Notification{Protocol: isakmp.ProtoISAKMP, Type: isakmp.AuthenticationFailed}),
		deletePayload(isakmp.ProtoESP, be32(1000), be32(2000)),
		deletePayload(isakmp.ProtoISAKMP, make([]byte, 16)),
	} {
		f.Add(uint8(asInformational), uint8(p.Type), isakmp.AppendPayloads(nil, []isakmp.Payload{p}))
		f.Add(uint8(asConnected), uint8(p.Type), isakmp.AppendPayloads(nil, []isakmp.Payload{p}))
	}
	f.Fuzz(func(t *testing.T, position, first uint8, chain []byte) {
		if len(chain) > 60_000 {
			return
		}
		s, a, b := alone(t, nil)
		liar, honest := a, b
		if position %= positions; position == asMessage2 {
			liar, honest = b, a // the initiator is lied to
		}
		x := liar.ike()
		data := lie(s, x, liar, honest, position, isakmp.PayloadType(first), chain)
		honest.receive(liar, data)
		honest.receive(liar, data)
		s.run(time.Second)
		if n := len(honest.pairs); n > 1 {
			t.Errorf("%d pairs", n)
		}
		s.run(400 * time.Second)
		for _, n := range []*node{a, b} {
			if len(n.e.halfOpen)+len(n.e.waiting)+len(n.reserved)+len(n.keys) != 0 {
				t.Errorf("%s is left with %d half-open, %d questions, %d SPIs, %d keys", n.name, len(n.e.halfOpen), len(n.e.waiting), len(n.reserved), len(n.keys))
			}
			for _, i := range n.e.byID {
				if len(i.quick) != 0 || len(i.finished) != 0 {
					t.Errorf("%s is left with %d Quick Modes and %d answers", n.name, len(i.quick), len(i.finished))
				}
			}
			n.do(n.e.Shutdown(s.now))
		}
		s.run(time.Second)
		honest.mustBeEmpty()
	})
}

// lie brings the two ends to where the message is due and makes it.
func lie(s *sim, x *ikeSA, liar, honest *node, position uint8, first isakmp.PayloadType, chain []byte) []byte {
	kind, mid := isakmp.QuickMode, uint32(0x12345678)
	before := [][]byte{be32(mid)}
	iv := phase2IV(x.transform.Hash, x.lastIV, mid)
	if position == asInformational {
		kind = isakmp.Informational
	}
	if position == asMessage2 || position == asMessage3 || position == asConnected {
		w := s.watch(liar, honest, nil)
		stop := 2
		if position == asMessage2 {
			stop = 1
		}
		seen := 0
		for _, n := range []*node{liar, honest} {
			tap := n.tap
			n.tap = func(m *Send) bool {
				seen++
				return tap(m) && seen <= stop // the peer's own next message is lost
			}
		}
		if position == asConnected {
			honest.e.config.Connections[0].Children[0].Proposals = []sa.Proposal{mustESP("aes128gcm16-curve25519")}
			w.change = func(no int, m *quickMessage) {
				if no == 1 {
					m.flags |= isakmp.Commit
				}
			}
			stop = 3
		}
		if position == asMessage2 {
			honest.initiate(liar, "net")
		} else {
			liar.initiate(honest, "net")
		}
		s.run(500 * time.Millisecond)
		for id, ms := range w.seen {
			mid, iv = id, w.iv(id)
			switch {
			case position == asMessage2:
				iv = ms[0].last
				before = [][]byte{be32(mid), ms[0].body(isakmp.PayloadNonce, 0)}
			case position == asMessage3 && len(ms) > 1:
				iv = ms[1].last
				before = [][]byte{{0}, be32(mid), ms[0].body(isakmp.PayloadNonce, 0), ms[1].body(isakmp.PayloadNonce, 0)}
			default:
				kind, before = isakmp.Informational, [][]byte{be32(mid)}
			}
		}
		liar.tap, honest.tap = nil, nil
	}
	hashed := chain
	if _, used, err := isakmp.Payloads(nil, first, chain); err == nil {
		hashed = chain[:used]
	}
	if position != asMessage3 {
		before = append(before, hashed)
	}
	h := isakmp.Header{Initiator: x.cookies.i, Responder: x.cookies.r, Next: isakmp.PayloadHash, Version: isakmp.Version,
		Exchange: kind, Flags: isakmp.Encrypted, MessageID: mid}
	plain := isakmp.AppendPayloads(nil, []isakmp.Payload{{Type: isakmp.PayloadHash, Body: prf(x.transform.Hash, x.skeyidA, before...)}})
	plain[0] = byte(first)
	plain = append(plain, chain...)
	for len(plain)%len(iv) != 0 {
		plain = append(plain, 0)
	}
	cipher.NewCBCEncrypter(x.cipher, iv).CryptBlocks(plain, plain)
	data := append(h.Append(nil), plain...)
	isakmp.SetLength(data)
	return data
}
