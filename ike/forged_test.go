// SPDX-License-Identifier: Apache-2.0

package ike

import (
	"bytes"
	"net/netip"
	"testing"
	"time"

	"quicksand/ike/isakmp"
)

// TestMainModeTampered flips each byte of each message of a whole negotiation
// in flight, once: both ends come up all the same, or give up cleanly, and
// never differ.
func TestMainModeTampered(t *testing.T) {
	var lengths [2][]int
	_, a, b := up(t, nil)
	for i, n := range []*node{a, b} {
		for _, m := range n.sent {
			lengths[i] = append(lengths[i], len(m.Data))
		}
	}
	if len(lengths[0]) != 5 || len(lengths[1]) != 4 {
		t.Fatalf("messages of %v bytes", lengths)
	}
	outcomes := map[string]int{}
	for end := range lengths {
		for i, n := range lengths[end] {
			for at := range n {
				outcomes[tamper(t, end, i, at)]++
				if t.Failed() {
					t.Fatalf("byte %d of message %d of end %d", at, i+1, end)
				}
			}
		}
	}
	if outcomes["up"] < 1000 || outcomes["given up"] == 0 {
		t.Errorf("unlikely: %v", outcomes)
	}
}

func tamper(t *testing.T, end, message, at int) string {
	s := newSim(t, 1)
	a, b := s.pair(nil)
	n, count := []*node{a, b}[end], 0
	n.tap = func(m *Send) bool {
		if count++; count == message+1 {
			m.Data = bytes.Clone(m.Data)
			m.Data[at] ^= 1 << (at % 8)
		}
		return true
	}
	cmd := a.initiate(b, "net")
	s.run(400 * time.Second)
	err, ok := a.done[cmd]
	if !ok {
		t.Errorf("the command is not answered")
	}
	if d := differ(a, b); d != "" {
		t.Error(d)
	}
	if len(a.e.waiting)+len(b.e.waiting)+len(a.reserved)+len(b.reserved)+len(a.keys)+len(b.keys)+len(a.e.halfOpen)+len(b.e.halfOpen) != 0 {
		t.Error("something is left over")
	}
	if err != nil {
		return "given up"
	}
	if len(a.pairs) != 1 {
		t.Errorf("%d pairs", len(a.pairs))
	}
	return "up"
}

// TestUnprotectedChangesNothing sends every notification and Delete in clear
// at every point of a negotiation.
func TestUnprotectedChangesNothing(t *testing.T) {
	s := newSim(t, 1)
	a, b := s.pair(nil)
	forge := func(to, from *node) {
		for _, i := range to.e.byID {
			for _, c := range []cookies{i.cookies, {i: i.cookies.i}} {
				var spis [][]byte
				spis = append(spis, i.cookieBytes())
				for _, p := range to.pairs {
					spis = append(spis, be32(uint32(p.Out.SPI)), be32(uint32(p.In.SPI)))
				}
				before := to.snapshot()
				for _, spi := range spis {
					for _, kind := range []isakmp.NotifyType{1, 4, 5, 7, 9, 11, 14, 16, 18, 23, 24, 29, isakmp.Connected,
						isakmp.ResponderLifetime, isakmp.InitialContact, isakmp.RUThere, isakmp.RUThereAck} {
						n := notifyPayload(isakmp.Notification{Protocol: isakmp.ProtoISAKMP, SPI: spi, Type: kind, Data: be32(1)})
						to.receive(from, clearMessage(isakmp.Informational, c, 0x1234, n))
					}
					for _, p := range []isakmp.ProtocolID{isakmp.ProtoISAKMP, isakmp.ProtoESP} {
						to.receive(from, clearMessage(isakmp.Informational, c, 0x1234, deletePayload(p, spi)))
					}
				}
				if after := to.snapshot(); after != before {
					t.Errorf("an unprotected message changed %s from\n%s to\n%s", to.name, before, after)
				}
			}
		}
	}
	for _, n := range []*node{a, b} {
		n.tap = func(*Send) bool {
			s.at(0, func() { forge(a, b); forge(b, a) })
			return true
		}
	}
	s.bringUp(a, b)
	if a.count("ike.rx.unprotected") < 100 || len(a.sends(isakmp.Informational))+len(b.sends(isakmp.Informational)) != 0 {
		t.Errorf("%d unprotected messages, %d answers", a.count("ike.rx.unprotected"), len(a.sends(isakmp.Informational)))
	}
	forge(a, b)
	forge(b, a)
	s.run(time.Minute)
	s.mustConverge(a, b, 1)
}

// TestGarbage sends both ends what makes no sense, before, while and after
// they negotiate.
func TestGarbage(t *testing.T) {
	s := newSim(t, 1)
	a, b := s.pair(nil)
	spray := func(to, from *node) {
		before := to.snapshot()
		var cs []cookies
		for _, i := range to.e.byID {
			cs = append(cs, i.cookies)
		}
		for _, c := range append(cs, cookies{}, cookies{i: isakmp.Cookie{1}, r: isakmp.Cookie{2}}) {
			for _, kind := range []isakmp.ExchangeType{0, 1, 2, 3, 4, 5, 6, 32, 33, 240} {
				for _, flags := range []byte{0, 1, 2, 3, 4} {
					for _, n := range []int{0, 3, 8, 16, 48, 72} {
						for _, mid := range []uint32{0, 7} {
							body := make([]byte, n)
							for i := range body {
								body[i] = byte(s.rand.Uint32())
							}
							m := clearMessage(kind, c, mid)
							m[16], m[19] = byte(s.rand.IntN(24)), flags
							m = append(m, body...)
							isakmp.SetLength(m)
							to.receive(from, m)
						}
					}
				}
			}
		}
		if after := to.snapshot(); after != before {
			t.Errorf("garbage changed %s from\n%s to\n%s", to.name, before, after)
		}
	}
	spray(a, b)
	for _, n := range []*node{a, b} {
		n.tap = func(*Send) bool {
			s.at(0, func() { spray(a, b); spray(b, a) })
			return true
		}
	}
	s.bringUp(a, b)
	s.run(time.Minute)
	s.mustConverge(a, b, 1)
	if a.count("ike.rx.unsupported-exchange") == 0 || !a.logged("AGGRESSIVE_MODE") || !a.logged("TRANSACTION") {
		t.Error("an attempt at another exchange leaves no trace")
	}
}

// TestReflected returns an initiator's own first message to it, and goes on
// until what that began fails: the negotiation itself must not notice.
func TestReflected(t *testing.T) {
	s := newSim(t, 1)
	a, b := s.pair(nil)
	sent := 0
	a.tap = func(m *Send) bool {
		switch sent++; sent {
		case 1:
			a.receive(b, m.Data)
			return false
		case 2:
			h, _ := isakmp.ParseHeader(m.Data)
			s.at(time.Second, func() {
				a.receive(b, clearMessage(isakmp.MainMode, cookies{h.Initiator, h.Responder}, 0,
					isakmp.Payload{Type: isakmp.PayloadKE, Body: make([]byte, 32)}, isakmp.Payload{Type: isakmp.PayloadNonce, Body: make([]byte, 32)}))
			})
			return false
		}
		return true
	}
	cmd := a.initiate(b, "net")
	s.run(3 * time.Second)
	a.mustLog("the peer's Diffie-Hellman value is not valid")
	s.run(10 * time.Second)
	if err, ok := a.done[cmd]; !ok || err != nil {
		t.Errorf("initiate: %v, %v", ok, err)
	}
	s.mustConverge(a, b, 1)
}

// TestCookies has cookies come from one random stream: none is zero, none
// comes twice, and another peer gets another one.
func TestCookies(t *testing.T) {
	zero := func() *Engine {
		return NewEngine(time.Unix(0, 0), &Config{}, Options{Rand: zeroReader{}})
	}
	one, two := netip.MustParseAddrPort("192.0.2.1:500"), netip.MustParseAddrPort("192.0.2.2:500")
	e := zero()
	c := e.makeCookie(one, two)
	for name, other := range map[string]isakmp.Cookie{
		"another peer":     zero().makeCookie(one, netip.MustParseAddrPort("192.0.2.3:500")),
		"another port":     zero().makeCookie(one, netip.MustParseAddrPort("192.0.2.2:4500")),
		"another local":    zero().makeCookie(netip.MustParseAddrPort("192.0.2.9:500"), two),
		"the zero cookie":  {},
		"the peer's twin":  zero().makeCookie(two, one),
		"the next attempt": NewEngine(time.Unix(0, 0), &Config{}, Options{}).makeCookie(one, two),
	} {
		if other == c {
			t.Errorf("%s has the same cookie", name)
		}
	}
	seen := map[isakmp.Cookie]bool{}
	r := NewEngine(time.Unix(0, 0), &Config{}, Options{})
	for range 10_000 {
		c := r.makeCookie(one, two)
		if seen[c] || c == (isakmp.Cookie{}) {
			t.Fatalf("cookie %s comes again", c)
		}
		seen[c] = true
	}
}

type zeroReader struct{}

func (zeroReader) Read(b []byte) (int, error) { clear(b); return len(b), nil }

// TestCookieZero refuses messages of nobody.
func TestCookieZero(t *testing.T) {
	s, a, b := up(t, nil)
	m := clearMessage(isakmp.MainMode, cookies{}, 0)
	b.receive(a, m)
	s.run(time.Second)
	if b.count("ike.rx.malformed") != 1 || len(b.e.byID) != 1 {
		t.Errorf("%d malformed, %d IKE SAs", b.count("ike.rx.malformed"), len(b.e.byID))
	}
}
