// SPDX-License-Identifier: Apache-2.0

package ike

import (
	"slices"
	"strings"
	"testing"
	"time"

	"quicksand/ike/isakmp"
	"quicksand/sa"
)

// TestQuickModeMessage1 changes message 1 on its way, correctly encrypted and
// hashed as by a peer that has its own ideas.
func TestQuickModeMessage1(t *testing.T) {
	offer := func(change func(x *isakmp.SecurityAssociation)) func(t *testing.T, m *quickMessage) {
		return func(t *testing.T, m *quickMessage) {
			x := m.sa(t)
			change(&x)
			m.set(isakmp.PayloadSA, 0, x.Append(nil))
		}
	}
	ah := func(number uint8) isakmp.Proposal {
		return isakmp.Proposal{Number: number, Protocol: isakmp.ProtoAH, SPI: be32(0x7777), Transforms: []isakmp.Transform{{Number: 1, ID: isakmp.AHSHA256,
			Attributes: []isakmp.Attribute{isakmp.ShortAttr(isakmp.AttrAuthAlgorithm, isakmp.AuthHMACSHA256), isakmp.ShortAttr(isakmp.AttrEncapsulation, isakmp.EncapTunnel), isakmp.ShortAttr(isakmp.AttrSAGroup, 31)}}}}
	}
	attr := func(change func([]isakmp.Attribute) []isakmp.Attribute) func(t *testing.T, m *quickMessage) {
		return offer(func(x *isakmp.SecurityAssociation) {
			tr := &x.Proposals[0].Transforms[0]
			tr.Attributes = change(slices.Clone(tr.Attributes))
		})
	}
	extra := func(a isakmp.Attribute) func(t *testing.T, m *quickMessage) {
		return attr(func(as []isakmp.Attribute) []isakmp.Attribute { return append(as, a) })
	}
	nonce := func(n int) func(t *testing.T, m *quickMessage) {
		return func(t *testing.T, m *quickMessage) { m.set(isakmp.PayloadNonce, 0, make([]byte, n)) }
	}
	id := func(kind isakmp.IDType, data ...byte) func(t *testing.T, m *quickMessage) {
		return func(t *testing.T, m *quickMessage) {
			i := isakmp.Identification{Type: kind, Data: data}
			m.set(isakmp.PayloadID, 0, i.Append(nil))
		}
	}
	for _, c := range []struct {
		name   string
		change func(t *testing.T, m *quickMessage)
		want   isakmp.NotifyType // 0: accepted
	}{
		{"nothing changed", func(*testing.T, *quickMessage) {}, 0},
		{"a bundle", offer(func(x *isakmp.SecurityAssociation) { x.Proposals = append(x.Proposals, ah(1)) }), isakmp.NoProposalChosen},
		{"a bundle and an alternative", offer(func(x *isakmp.SecurityAssociation) {
			esp := x.Proposals[0]
			esp.Number = 2
			x.Proposals = append(x.Proposals, ah(1), esp)
		}), 0},
		{"an alternative before a bundle", offer(func(x *isakmp.SecurityAssociation) {
			esp := x.Proposals[0]
			esp.Number = 2
			x.Proposals = append(x.Proposals, esp, ah(2))
		}), 0},
		{"a bundle torn apart", offer(func(x *isakmp.SecurityAssociation) {
			other := x.Proposals[0]
			other.Number, other.Transforms = 2, ah(2).Transforms
			other.Protocol = isakmp.ProtoAH
			x.Proposals = append(x.Proposals, other, ah(1))
		}), isakmp.NoProposalChosen},
		{"another protocol", offer(func(x *isakmp.SecurityAssociation) { x.Proposals[0].Protocol = isakmp.ProtoIPCOMP }), isakmp.NoProposalChosen},
		{"SPI zero", offer(func(x *isakmp.SecurityAssociation) { x.Proposals[0].SPI = be32(0) }), isakmp.InvalidSPI},
		{"a reserved SPI", offer(func(x *isakmp.SecurityAssociation) { x.Proposals[0].SPI = be32(255) }), isakmp.InvalidSPI},
		{"an SPI of 8 bytes", offer(func(x *isakmp.SecurityAssociation) { x.Proposals[0].SPI = make([]byte, 8) }), isakmp.InvalidSPI},
		{"no SPI", offer(func(x *isakmp.SecurityAssociation) { x.Proposals[0].SPI = nil }), isakmp.InvalidSPI},
		{"another DOI", offer(func(x *isakmp.SecurityAssociation) { x.DOI = 5 }), isakmp.DOINotSupported},
		{"another situation", offer(func(x *isakmp.SecurityAssociation) { x.Situation = 2 }), isakmp.SituationNotSupported},
		{"no SA", func(_ *testing.T, m *quickMessage) { m.set(isakmp.PayloadSA, 0, nil) }, isakmp.PayloadMalformed},
		{"two SAs", func(_ *testing.T, m *quickMessage) { m.add(isakmp.PayloadSA, m.body(isakmp.PayloadSA, 0)) }, isakmp.PayloadMalformed},
		{"a short SA", func(_ *testing.T, m *quickMessage) { m.set(isakmp.PayloadSA, 0, []byte{0, 0, 0, 1, 0, 0, 0, 1, 0}) }, isakmp.PayloadMalformed},
		{"an unknown attribute", extra(isakmp.ShortAttr(77, 1)), isakmp.NoProposalChosen},
		{"ECN in the tunnel", extra(isakmp.ShortAttr(isakmp.AttrECNTunnel, 1)), isakmp.NoProposalChosen},
		{"ESN of 2", extra(isakmp.ShortAttr(isakmp.AttrESN, 2)), isakmp.NoProposalChosen},
		{"an attribute twice", extra(isakmp.ShortAttr(isakmp.AttrEncapsulation, 1)), isakmp.NoProposalChosen},
		{"a life in seconds and kilobytes", attr(func(as []isakmp.Attribute) []isakmp.Attribute {
			return append(as, lifeAttributes(Lifetime{LifeTime: time.Hour, LifeBytes: 1 << 30})...)
		}), 0},
		{"a life of another type", extra(isakmp.ShortAttr(isakmp.AttrSALifeType, 3)), isakmp.NoProposalChosen},
		{"a life without a type", extra(isakmp.ShortAttr(isakmp.AttrSALifeDuration, 3)), isakmp.NoProposalChosen},
		{"a life of nine bytes", attr(func(as []isakmp.Attribute) []isakmp.Attribute {
			return append(as, isakmp.ShortAttr(isakmp.AttrSALifeType, 1), isakmp.LongAttr(isakmp.AttrSALifeDuration, make([]byte, 9)))
		}), isakmp.NoProposalChosen},
		{"transport for tunnel", attr(func(as []isakmp.Attribute) []isakmp.Attribute {
			for i := range as {
				if as[i].Type == isakmp.AttrEncapsulation {
					as[i].Value = isakmp.EncapTransport
				}
			}
			return as
		}), isakmp.NoProposalChosen},
		{"encapsulation without a NAT", attr(func(as []isakmp.Attribute) []isakmp.Attribute {
			for i := range as {
				if as[i].Type == isakmp.AttrEncapsulation {
					as[i].Value = isakmp.EncapUDPTunnel
				}
			}
			return as
		}), isakmp.NoProposalChosen},
		{"another group", attr(func(as []isakmp.Attribute) []isakmp.Attribute {
			as[0].Value = uint16(sa.MODP2048)
			return as
		}), isakmp.NoProposalChosen},
		{"no KE", func(_ *testing.T, m *quickMessage) { m.set(isakmp.PayloadKE, 0, nil) }, isakmp.InvalidKeyInformation},
		{"two KEs", func(_ *testing.T, m *quickMessage) { m.add(isakmp.PayloadKE, m.body(isakmp.PayloadKE, 0)) }, isakmp.PayloadMalformed},
		{"a bad public value", func(_ *testing.T, m *quickMessage) { m.set(isakmp.PayloadKE, 0, make([]byte, 32)) }, isakmp.InvalidKeyInformation},
		{"a short public value", func(_ *testing.T, m *quickMessage) { m.set(isakmp.PayloadKE, 0, make([]byte, 5)) }, isakmp.InvalidKeyInformation},
		{"no nonce", func(_ *testing.T, m *quickMessage) { m.set(isakmp.PayloadNonce, 0, nil) }, isakmp.PayloadMalformed},
		{"a nonce of 15 bytes", nonce(15), isakmp.PayloadMalformed},
		{"a nonce of 16 bytes", nonce(16), 0},
		{"a nonce of 256 bytes", nonce(256), 0},
		{"a nonce of 257 bytes", nonce(257), isakmp.PayloadMalformed},
		{"one identity", func(_ *testing.T, m *quickMessage) { m.set(isakmp.PayloadID, 1, nil) }, isakmp.InvalidIDInformation},
		{"three identities", func(_ *testing.T, m *quickMessage) { m.add(isakmp.PayloadID, m.body(isakmp.PayloadID, 0)) }, isakmp.InvalidIDInformation},
		{"no identities", func(_ *testing.T, m *quickMessage) {
			m.set(isakmp.PayloadID, 0, nil)
			m.set(isakmp.PayloadID, 0, nil)
		}, isakmp.InvalidIDInformation},
		{"a name as identity", id(isakmp.IDFQDN, 'x'), isakmp.InvalidIDInformation},
		{"a mask with gaps", id(isakmp.IDIPv4Subnet, 10, 1, 0, 0, 255, 0, 255, 0), isakmp.InvalidIDInformation},
		{"a range from high to low", id(isakmp.IDIPv4Range, 10, 1, 0, 9, 10, 1, 0, 5), isakmp.InvalidIDInformation},
		{"another family", id(isakmp.IDIPv6Addr, make([]byte, 16)...), isakmp.InvalidIDInformation},
		{"a short identity", id(isakmp.IDIPv4Subnet, 10, 1, 0, 0), isakmp.PayloadMalformed},
		{"a vendor's own payload", func(_ *testing.T, m *quickMessage) { m.add(isakmp.PayloadVendorID, []byte("x")) }, 0},
		{"an unknown notification", func(_ *testing.T, m *quickMessage) {
			m.add(isakmp.PayloadNotify, notifyPayload(isakmp.Notification{Protocol: isakmp.ProtoESP, Type: isakmp.ReplayStatus, Data: be32(1)}).Body)
		}, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, a, b := up(t, nil)
			a.do(second(a.e.Terminate(s.now, Select{Child: "net"})))
			s.run(3 * time.Second)
			s.watch(a, b, func(no int, m *quickMessage) {
				if no == 1 {
					c.change(t, m)
				}
			})
			cmd := a.initiate(b, "net")
			s.run(2 * time.Second)
			err, ok := a.done[cmd]
			if c.want == 0 {
				if !ok || err != nil {
					t.Fatalf("%v, %v", ok, err)
				}
				s.mustConverge(a, b, 1)
				return
			}
			if len(b.pairs)+len(a.pairs)+len(b.reserved) != 0 {
				t.Error("it is accepted")
			}
			if !a.logged("peer says "+c.want.String()) && (err == nil || !strings.Contains(err.Error(), c.want.String())) {
				t.Errorf("%v, want %s; %s", err, c.want, strings.Join(b.logs, "\n"))
			}
			if n := len(b.ike().quick); n != 0 {
				t.Errorf("the responder is left with %d Quick Modes", n)
			}
		})
	}
}

// TestQuickModeMessage2 changes message 2 likewise: the initiator takes
// nothing that it has not proposed.
func TestQuickModeMessage2(t *testing.T) {
	choice := func(change func(x *isakmp.SecurityAssociation)) func(t *testing.T, m *quickMessage) {
		return func(t *testing.T, m *quickMessage) {
			x := m.sa(t)
			change(&x)
			m.set(isakmp.PayloadSA, 0, x.Append(nil))
		}
	}
	ids := func(ci, cr string) func(t *testing.T, m *quickMessage) {
		return func(t *testing.T, m *quickMessage) {
			m.set(isakmp.PayloadID, 0, proxyID(selector(ci).Selector).Body)
			m.set(isakmp.PayloadID, 1, proxyID(selector(cr).Selector).Body)
		}
	}
	nonce := func(n int) func(t *testing.T, m *quickMessage) {
		return func(t *testing.T, m *quickMessage) { m.set(isakmp.PayloadNonce, 0, make([]byte, n)) }
	}
	var ours []byte
	for _, c := range []struct {
		name   string
		change func(t *testing.T, m *quickMessage)
		want   isakmp.NotifyType
	}{
		{"another cipher", choice(func(x *isakmp.SecurityAssociation) { x.Proposals[0].Transforms[0].ID = isakmp.ESPAESGCM8 }), isakmp.BadProposalSyntax},
		{"another number", choice(func(x *isakmp.SecurityAssociation) { x.Proposals[0].Number = 2 }), isakmp.BadProposalSyntax},
		{"another protocol", choice(func(x *isakmp.SecurityAssociation) { x.Proposals[0].Protocol = isakmp.ProtoAH }), isakmp.BadProposalSyntax},
		{"two proposals", choice(func(x *isakmp.SecurityAssociation) { x.Proposals = append(x.Proposals, x.Proposals[0]) }), isakmp.BadProposalSyntax},
		{"two transforms", choice(func(x *isakmp.SecurityAssociation) {
			x.Proposals[0].Transforms = append(x.Proposals[0].Transforms, x.Proposals[0].Transforms[0])
		}), isakmp.BadProposalSyntax},
		{"a reserved SPI", choice(func(x *isakmp.SecurityAssociation) { x.Proposals[0].SPI = be32(7) }), isakmp.InvalidSPI},
		{"our own SPI", func(t *testing.T, m *quickMessage) {
			x := m.sa(t)
			x.Proposals[0].SPI = ours
			m.set(isakmp.PayloadSA, 0, x.Append(nil))
		}, isakmp.InvalidSPI},
		{"no KE", func(_ *testing.T, m *quickMessage) { m.set(isakmp.PayloadKE, 0, nil) }, isakmp.InvalidKeyInformation},
		{"a bad public value", func(_ *testing.T, m *quickMessage) { m.set(isakmp.PayloadKE, 0, make([]byte, 32)) }, isakmp.InvalidKeyInformation},
		{"a nonce of 15 bytes", nonce(15), isakmp.PayloadMalformed},
		{"a nonce of 257 bytes", nonce(257), isakmp.PayloadMalformed},
		{"no SA", func(_ *testing.T, m *quickMessage) { m.set(isakmp.PayloadSA, 0, nil) }, isakmp.PayloadMalformed},
		{"one identity", func(_ *testing.T, m *quickMessage) { m.set(isakmp.PayloadID, 1, nil) }, isakmp.InvalidIDInformation},
		{"wider identities", ids("10.0.0.0/8", "10.2.0.0/16"), isakmp.InvalidIDInformation},
		{"other identities", ids("10.1.0.0/16", "10.3.0.0/16"), isakmp.InvalidIDInformation},
		{"identities the wrong way around", ids("10.2.0.0/16", "10.1.0.0/16"), isakmp.InvalidIDInformation},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, a, b := up(t, nil)
			a.do(second(a.e.Terminate(s.now, Select{Child: "net"})))
			s.run(3 * time.Second)
			s.watch(a, b, func(no int, m *quickMessage) {
				if no == 2 {
					c.change(t, m)
				} else if no == 1 {
					ours = m.sa(t).Proposals[0].SPI
				}
			})
			cmd := a.initiate(b, "net")
			s.run(2 * time.Second)
			if err, ok := a.done[cmd]; !ok || err == nil || !strings.Contains(err.Error(), c.want.String()) {
				t.Errorf("%v, %v, want %s", ok, err, c.want)
			}
			b.mustLog(c.want.String())
			s.run(200 * time.Second)
			if len(a.pairs)+len(b.pairs)+len(a.reserved)+len(b.reserved)+len(a.ike().quick)+len(b.ike().quick) != 0 {
				t.Errorf("left: %d and %d pairs", len(a.pairs), len(b.pairs))
			}
		})
	}
}

// TestEqualSPIs has the responder reserve the SPI that the peer has chosen.
func TestEqualSPIs(t *testing.T) {
	s, a, b := alone(t, nil)
	cmd := a.initiate(b, "net")
	s.run(0)
	for spi := range a.reserved {
		b.nextSPI = spi
	}
	s.run(time.Second)
	if err := a.done[cmd]; err == nil || !strings.Contains(err.Error(), "INVALID_SPI") {
		t.Errorf("%v", err)
	}
	if len(a.reserved)+len(b.reserved)+len(a.pairs)+len(b.pairs) != 0 {
		t.Error("something is left")
	}
	s.bringUp(a, b)
}

// TestNarrowerAnswer has the initiator take a part of what it proposed, in
// transport mode of protocol and port alone.
func TestNarrowerAnswer(t *testing.T) {
	for _, c := range []struct {
		mode                  sa.Mode
		ci, cr                string // what the responder says
		wantLocal, wantRemote string // "": refused
	}{
		{sa.Tunnel, "10.1.4.0/22[tcp/80]", "10.2.7.7/32", "10.1.4.0/22[tcp/80]", "10.2.7.7/32"},
		{sa.Transport, "192.0.2.1/32[udp/53]", "192.0.2.2/32[udp]", "192.0.2.1/32[udp/53]", "192.0.2.2/32[udp]"},
		{sa.Transport, "203.0.113.1/32", "203.0.113.2/32[tcp/22]", "192.0.2.1/32", "192.0.2.2/32[tcp/22]"},
		{sa.Transport, "192.0.2.0/24", "192.0.2.2/32", "", ""},
	} {
		s, a, b := alone(t, func(a, b *Config) {
			for _, x := range []*Config{a, b} {
				if ch := x.Connections[0].Children[0]; c.mode == sa.Transport {
					ch.Mode, ch.LocalTS, ch.RemoteTS = sa.Transport, Dynamic{IsDynamic: true}, Dynamic{IsDynamic: true}
				}
			}
		})
		s.watch(a, b, func(no int, m *quickMessage) {
			if no == 2 {
				m.set(isakmp.PayloadID, 0, proxyID(selector(c.ci).Selector).Body)
				m.set(isakmp.PayloadID, 1, proxyID(selector(c.cr).Selector).Body)
			}
		})
		cmd := a.initiate(b, "net")
		s.run(2 * time.Second)
		if c.wantLocal == "" {
			if err := a.done[cmd]; err == nil || !strings.Contains(err.Error(), "INVALID_ID_INFORMATION") {
				t.Errorf("%s === %s: %v", c.ci, c.cr, err)
			}
			continue
		}
		if p := a.pair(); p.LocalTS != selector(c.wantLocal).Selector || p.RemoteTS != selector(c.wantRemote).Selector {
			t.Errorf("%s === %s: %s === %s", c.ci, c.cr, p.LocalTS, p.RemoteTS)
		}
	}
}
