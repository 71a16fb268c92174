// SPDX-License-Identifier: Apache-2.0

package ike

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"quicksand/ike/isakmp"
	"quicksand/sa"
)

// up brings one child up between two new engines, over a network that loses
// nothing.
func up(t testing.TB, change func(a, b *Config)) (*sim, *node, *node) {
	t.Helper()
	s := newSim(t, 1)
	a, b := s.pair(change)
	s.bringUp(a, b)
	return s, a, b
}

func (s *sim) bringUp(a, b *node) {
	s.t.Helper()
	cmd := a.initiate(b, "net")
	s.run(2 * time.Second)
	if err, ok := a.done[cmd]; !ok || err != nil {
		s.t.Fatalf("initiate: answered %v, %v; %s", ok, err, strings.Join(append(a.logs, b.logs...), "\n"))
	}
	s.mustConverge(a, b, 1)
}

// mustConverge checks that both ends hold the same pairs, as many as wanted.
func (s *sim) mustConverge(a, b *node, pairs int) {
	s.t.Helper()
	if len(a.pairs) != pairs || len(b.pairs) != pairs {
		s.t.Fatalf("%d and %d pairs, want %d", len(a.pairs), len(b.pairs), pairs)
	}
	if d := differ(a, b); d != "" {
		s.t.Fatal(d)
	}
}

// mustBeEmpty checks that an engine whose SAs have all ended keeps nothing.
func (n *node) mustBeEmpty() {
	t, e := n.sim.t, n.e
	t.Helper()
	for what, got := range map[string]int{
		"IKE SAs by cookies": len(e.sas), "IKE SAs by id": len(e.byID), "IKE SAs by address": len(e.byAddr), "IKE SAs by identities": len(e.byEnds),
		"first messages":   len(e.firsts),
		"half-open counts": len(e.halfOpen) + e.halfOpens, "answers waited for": len(e.waiting), "children": len(e.children),
		"orphans": len(e.orphans), "reqids": len(e.reqids), "timers": len(e.timers),
		"pairs": len(n.pairs), "reserved SPIs": len(n.reserved), "private keys": len(n.keys),
	} {
		if got != 0 {
			t.Errorf("%s: %d %s are left", n.name, got, what)
		}
	}
}

// ike returns the node's only established IKE SA.
func (n *node) ike() *ikeSA {
	n.sim.t.Helper()
	var found []*ikeSA
	for _, s := range n.e.byID {
		if s.state == IKEEstablished {
			found = append(found, s)
		}
	}
	if len(found) != 1 {
		n.sim.t.Fatalf("%s has %d established IKE SAs, not 1", n.name, len(found))
	}
	return found[0]
}

// pair returns the node's only pair.
func (n *node) pair() *sa.Pair {
	n.sim.t.Helper()
	if len(n.pairs) != 1 {
		n.sim.t.Fatalf("%s has %d pairs, not 1", n.name, len(n.pairs))
	}
	for _, p := range n.pairs {
		return p
	}
	return nil
}

// child returns the child SA of the node's only pair.
func (n *node) child() *child { return n.e.children[n.pair().ID] }

func (n *node) count(counter string) uint64 { return n.e.counters[counter] }

// logged reports whether the node has logged a line with the text in it.
func (n *node) logged(text string) bool {
	return slices.ContainsFunc(n.logs, func(l string) bool { return strings.Contains(l, text) })
}

func (n *node) mustLog(text string) {
	n.sim.t.Helper()
	if !n.logged(text) {
		n.sim.t.Errorf("%s has not logged %q but\n%s", n.name, text, strings.Join(n.logs, "\n"))
	}
}

// mark forgets what the node has done so far.
func (n *node) mark() { n.logs, n.sent, n.actions = nil, nil, nil }

// sends returns the datagrams of an exchange type that the node has sent.
func (n *node) sends(kind isakmp.ExchangeType) (out []Send) {
	for _, s := range n.sent {
		if h, err := isakmp.ParseHeader(s.Data); err == nil && h.Exchange == kind {
			out = append(out, s)
		}
	}
	return out
}

// receive hands the node a datagram as if it came from another one.
func (n *node) receive(from *node, data []byte) {
	n.receiveFrom(netip.AddrPortFrom(from.addr, 500), false, data)
}

func (n *node) receiveFrom(remote netip.AddrPort, natt bool, data []byte) {
	port := uint16(500)
	if natt {
		port = 4500
	}
	n.do(n.e.Handle(n.sim.now, Datagram{Local: netip.AddrPortFrom(n.addr, port), Remote: remote, NATT: natt, Data: slices.Clone(data)}))
}

// informs has the node send payloads of its own choice in a protected
// Informational exchange.
func (n *node) informs(payloads ...isakmp.Payload) {
	s := n.ike()
	n.e.begin(n.sim.now)
	mid := s.newMID()
	data, _ := s.encode(isakmp.Informational, mid, 0, phase2IV(s.transform.Hash, s.lastIV, mid),
		s.withHash([][]byte{be32(mid)}, payloads...))
	s.transmit(data)
	n.do(n.e.end())
}

func notifyPayload(n isakmp.Notification) isakmp.Payload {
	n.DOI = isakmp.DOIIPsec
	return isakmp.Payload{Type: isakmp.PayloadNotify, Body: n.Append(nil)}
}

func deletePayload(p isakmp.ProtocolID, spis ...[]byte) isakmp.Payload {
	d := isakmp.Delete{DOI: isakmp.DOIIPsec, Protocol: p, SPISize: uint8(len(spis[0])), SPIs: spis}
	return isakmp.Payload{Type: isakmp.PayloadDelete, Body: d.Append(nil)}
}

// clearMessage makes a message that nothing protects.
func clearMessage(kind isakmp.ExchangeType, c cookies, mid uint32, payloads ...isakmp.Payload) []byte {
	h := isakmp.Header{Initiator: c.i, Responder: c.r, Version: isakmp.Version, Exchange: kind, MessageID: mid}
	if len(payloads) > 0 {
		h.Next = payloads[0].Type
	}
	b := isakmp.AppendPayloads(h.Append(nil), payloads)
	isakmp.SetLength(b)
	return b
}

// rewrite changes the payloads of a message in clear.
func rewrite(t testing.TB, data []byte, change func([]isakmp.Payload) []isakmp.Payload) []byte {
	t.Helper()
	h, err := isakmp.ParseHeader(data)
	if err != nil {
		t.Fatal(err)
	}
	ps, _, err := isakmp.Payloads(nil, h.Next, data[isakmp.HeaderLen:])
	if err != nil {
		t.Fatal(err)
	}
	b := clearMessage(h.Exchange, cookies{h.Initiator, h.Responder}, h.MessageID, change(ps)...)
	b[19] = data[19]
	return b
}

// snapshot is what must not change where nothing may.
func (n *node) snapshot() string {
	var b strings.Builder
	for _, i := range n.e.SAs() {
		i.Rekey, i.Expire = time.Time{}, time.Time{}
		b.WriteString(strings.Join([]string{i.Conn, string(i.State), i.Cookies[0], i.Cookies[1], i.Local.String(),
			i.Remote.String(), i.LocalID.String(), i.RemoteID.String(), i.Transform.String()}, " "))
		for _, c := range i.Children {
			b.WriteString("; " + string(c.State) + " " + c.Pair.String())
		}
		b.WriteString("\n")
	}
	return b.String()
}

// did returns the actions of one type that the node was asked for.
func did[T Action](n *node) (out []T) {
	for _, a := range n.actions {
		if a, ok := a.(T); ok {
			out = append(out, a)
		}
	}
	return out
}
