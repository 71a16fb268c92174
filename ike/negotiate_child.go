// SPDX-License-Identifier: Apache-2.0

package ike

import (
	"encoding/binary"
	"slices"

	"quicksand/ike/isakmp"
	"quicksand/sa"
)

func protocolID(p sa.Protocol) isakmp.ProtocolID {
	if p == sa.AH {
		return isakmp.ProtoAH
	}
	return isakmp.ProtoESP
}

func protocolOf(id isakmp.ProtocolID) (sa.Protocol, bool) {
	switch id {
	case isakmp.ProtoESP:
		return sa.ESP, true
	case isakmp.ProtoAH:
		return sa.AH, true
	}
	return 0, false
}

var espTransforms = [...]uint8{
	sa.EncryptionNull: isakmp.ESPNull, sa.TripleDESCBC: isakmp.ESPTripleDES,
	sa.AESCBC: isakmp.ESPAESCBC, sa.AESCTR: isakmp.ESPAESCTR,
	sa.AESGCM8: isakmp.ESPAESGCM8, sa.AESGCM12: isakmp.ESPAESGCM12, sa.AESGCM16: isakmp.ESPAESGCM16,
}

var ahTransforms = [...]uint8{
	sa.HMACMD5: isakmp.AHMD5, sa.HMACSHA1: isakmp.AHSHA1, sa.HMACSHA256: isakmp.AHSHA256,
	sa.HMACSHA384: isakmp.AHSHA384, sa.HMACSHA512: isakmp.AHSHA512,
}

var authAlgorithms = [...]uint16{
	sa.HMACMD5: isakmp.AuthHMACMD5, sa.HMACSHA1: isakmp.AuthHMACSHA1, sa.HMACSHA256: isakmp.AuthHMACSHA256,
	sa.HMACSHA384: isakmp.AuthHMACSHA384, sa.HMACSHA512: isakmp.AuthHMACSHA512,
}

// lookUp returns where a number stands in a table of our names for it; 0 is
// nobody's number.
func lookUp[N uint8 | uint16](table []N, number N) (int, bool) {
	i := slices.Index(table, number)
	return i, i >= 0 && number != 0
}

// encapsulation is the value of the encapsulation mode attribute (RFC 2407
// section 4.5, RFC 3947 section 5.1).
func (s *ikeSA) encapsulation(m sa.Mode) uint16 {
	out := [...]uint16{sa.Tunnel: isakmp.EncapUDPTunnel02, sa.Transport: isakmp.EncapUDPTransport02}
	switch {
	case !s.encap():
		out = [...]uint16{sa.Tunnel: isakmp.EncapTunnel, sa.Transport: isakmp.EncapTransport}
	case s.peer.rfc3947:
		out = [...]uint16{sa.Tunnel: isakmp.EncapUDPTunnel, sa.Transport: isakmp.EncapUDPTransport}
	}
	return out[m]
}

// pfsGroup is the group of a child's first transform. All that one Quick Mode
// offers must be of one group, since there is one KE payload (RFC 2409 section
// 5.5).
func (c *Child) pfsGroup() sa.Group {
	if len(c.Proposals) == 0 || len(c.Proposals[0]) == 0 {
		return sa.GroupNone
	}
	return c.Proposals[0][0].Group
}

// childOffer is what the first message of Quick Mode proposes: one proposal
// for each of the child's, as far as a message holds. AH does not pass a NAT
// and is left out behind one.
func (s *ikeSA) childOffer(c *Child, group sa.Group) isakmp.SecurityAssociation {
	out := isakmp.SecurityAssociation{DOI: isakmp.DOIIPsec, Situation: isakmp.SituationIdentityOnly}
	left := isakmp.MaxTransforms - 1
	for _, p := range c.Proposals {
		prop := isakmp.Proposal{Number: uint8(len(out.Proposals) + 1)}
		for _, t := range p {
			if t.Group != group || t.Protocol == sa.AH && s.encap() || left == 0 {
				continue
			}
			left--
			prop.Protocol = protocolID(t.Protocol)
			prop.Transforms = append(prop.Transforms, isakmp.Transform{
				Number:     uint8(len(prop.Transforms) + 1),
				ID:         transformID(t.Suite),
				Attributes: s.childAttributes(c, t),
			})
		}
		if len(prop.Transforms) > 0 && len(out.Proposals) < isakmp.MaxProposals {
			out.Proposals = append(out.Proposals, prop)
		}
	}
	return out
}

func transformID(t sa.Suite) uint8 {
	if t.Protocol == sa.AH {
		return ahTransforms[t.Integrity]
	}
	return espTransforms[t.Encryption]
}

func (s *ikeSA) childAttributes(c *Child, t sa.Transform) []isakmp.Attribute {
	var out []isakmp.Attribute
	if t.Group != sa.GroupNone {
		out = append(out, isakmp.ShortAttr(isakmp.AttrSAGroup, uint16(t.Group)))
	}
	if t.KeyBits != 0 && t.Encryption != sa.TripleDESCBC {
		out = append(out, isakmp.ShortAttr(isakmp.AttrSAKeyLength, t.KeyBits))
	}
	if t.Integrity != sa.IntegrityNone {
		out = append(out, isakmp.ShortAttr(isakmp.AttrAuthAlgorithm, authAlgorithms[t.Integrity]))
	}
	out = append(out, isakmp.ShortAttr(isakmp.AttrEncapsulation, s.encapsulation(c.Mode)))
	out = append(out, lifeAttributes(c.Lifetime)...)
	if t.ESN {
		out = append(out, isakmp.ShortAttr(isakmp.AttrESN, 1))
	}
	return out
}

// readTransform reads a transform of ESP or AH with its encapsulation mode. It
// fails on anything that we do not know: what is not understood must not be
// agreed to.
func readTransform(p sa.Protocol, t isakmp.Transform) (out sa.Transform, encapsulation uint16, l lifetimes, ok bool) {
	out.Protocol = p
	encapsulation = isakmp.EncapTunnel
	switch p {
	case sa.ESP:
		var i int
		i, ok = lookUp(espTransforms[:], t.ID)
		out.Encryption = sa.Encryption(i)
	case sa.AH:
		var i int
		i, ok = lookUp(ahTransforms[:], t.ID)
		out.Integrity = sa.Integrity(i)
	}
	if !ok {
		return out, 0, l, false
	}
	var seen [isakmp.AttrESN + 1]bool
	for _, a := range t.Attributes {
		known := a.Short
		if int(a.Type) >= len(seen) {
			return out, 0, l, false
		}
		if lifetime := a.Type == isakmp.AttrSALifeType || a.Type == isakmp.AttrSALifeDuration; seen[a.Type] && !lifetime {
			known = false
		}
		seen[a.Type] = true
		switch a.Type {
		case isakmp.AttrSALifeType:
			known = known && l.setKind(a.Value)
		case isakmp.AttrSALifeDuration:
			known = l.setDuration(a)
		case isakmp.AttrSAGroup:
			out.Group = sa.Group(a.Value)
		case isakmp.AttrEncapsulation:
			encapsulation = a.Value
		case isakmp.AttrAuthAlgorithm:
			i, found := lookUp(authAlgorithms[:], a.Value)
			known = known && found && (p != sa.AH || sa.Integrity(i) == out.Integrity)
			out.Integrity = sa.Integrity(i)
		case isakmp.AttrSAKeyLength:
			out.KeyBits = a.Value
		case isakmp.AttrESN:
			known = known && a.Value == 1
			out.ESN = true
		default:
			known = false
		}
		if !known {
			return out, 0, l, false
		}
	}
	if out.Encryption == sa.TripleDESCBC && out.KeyBits == 0 {
		out.KeyBits = 192
	}
	return out, encapsulation, l, p != sa.AH || seen[isakmp.AttrAuthAlgorithm]
}

// agreement is what the two ends of a Quick Mode have agreed on.
type agreement struct {
	transform sa.Transform
	life      lifetimes // the peer's
	reply     isakmp.SecurityAssociation
	peerSPI   sa.SPI
}

// offered is a transform that the peer offers and we know.
type offered struct {
	sa.Transform
	encapsulation uint16
	life          lifetimes
	proposal      *isakmp.Proposal
	transform     *isakmp.Transform
	spi           sa.SPI
}

// readOffer reads what can be chosen of an offer. Proposals of one number are
// a bundle, which no child has (RFC 2408 section 4.2). Without a valid SPI
// there is nothing to send to; badSPI tells that a proposal fell for that.
func readOffer(offer isakmp.SecurityAssociation) (list []offered, badSPI bool) {
	for i := range offer.Proposals {
		p := &offer.Proposals[i]
		parts := 0
		for j := range offer.Proposals {
			if offer.Proposals[j].Number == p.Number {
				parts++
			}
		}
		proto, ok := protocolOf(p.Protocol)
		if !ok || parts > 1 {
			continue
		}
		spi, ok := readSPI(p.SPI)
		if !ok {
			badSPI = true
			continue
		}
		for j := range p.Transforms {
			if t, encap, life, ok := readTransform(proto, p.Transforms[j]); ok {
				list = append(list, offered{t, encap, life, p, &p.Transforms[j], spi})
			}
		}
	}
	return list, badSPI
}

// chooseTransform takes the first of the child's transforms that the peer
// offers.
func (s *ikeSA) chooseTransform(c *Child, offer isakmp.SecurityAssociation, list []offered) (agreement, bool) {
	mode := s.encapsulation(c.Mode)
	for _, ours := range c.Proposals {
		for _, want := range ours {
			if want.Protocol == sa.AH && s.encap() {
				continue
			}
			for i := range list {
				if o := &list[i]; o.Transform == want && o.encapsulation == mode {
					p := *o.proposal
					p.Transforms = []isakmp.Transform{*o.transform}
					return agreement{want, o.life, copySA(offer, p), o.spi}, true
				}
			}
		}
	}
	return agreement{}, false
}

// readSPI reads the SPI of an IPsec SA; 0 to 255 are reserved (RFC 4303
// section 2.1).
func readSPI(b []byte) (sa.SPI, bool) {
	if len(b) != 4 {
		return 0, false
	}
	v := binary.BigEndian.Uint32(b)
	return sa.SPI(v), v > 255
}

// checkChild checks the responder's choice against what we offered.
func (s *ikeSA) checkChild(c *Child, offer, sel isakmp.SecurityAssociation) (agreement, error) {
	bad := func(why string) (agreement, error) {
		return agreement{}, refuse(isakmp.BadProposalSyntax, "the peer's choice %s", why)
	}
	if len(sel.Proposals) != 1 || len(sel.Proposals[0].Transforms) != 1 {
		return bad("is not one transform of one proposal")
	}
	p := sel.Proposals[0]
	proto, ok := protocolOf(p.Protocol)
	if !ok {
		return bad("is of protocol " + p.Protocol.String())
	}
	spi, ok := readSPI(p.SPI)
	if !ok {
		return agreement{}, refuse(isakmp.InvalidSPI, "the peer's SPI %x is not one of 4 bytes above 255", p.SPI)
	}
	got, encap, life, ok := readTransform(proto, p.Transforms[0])
	if !ok || encap != s.encapsulation(c.Mode) {
		return bad("is not known, or of another mode")
	}
	for _, q := range offer.Proposals {
		if q.Number != p.Number || q.Protocol != p.Protocol {
			continue
		}
		for _, t := range q.Transforms {
			if want, _, _, _ := readTransform(proto, t); want == got {
				return agreement{transform: got, life: life, peerSPI: spi}, nil
			}
		}
	}
	return bad("was not offered: " + got.String())
}

func describeChild(offer isakmp.SecurityAssociation) string {
	var out []string
	for _, p := range offer.Proposals {
		proto, ok := protocolOf(p.Protocol)
		if !ok {
			out = append(out, p.Protocol.String())
			continue
		}
		for _, t := range p.Transforms {
			if got, _, _, ok := readTransform(proto, t); ok {
				out = append(out, got.String())
			}
		}
	}
	return summary(out)
}

// chooseChild picks the responder's child: one whose selectors equal the
// peer's, else one whose selectors hold them.
func (x *exchange) chooseChild(local, remote sa.Selector) error {
	s, q := x.s, x.q
	found := false
	list, badSPI := readOffer(q.offer)
	conns := s.alternatives()
	for _, equal := range []bool{true, false} {
		for _, conn := range conns {
			for _, c := range conn.Children {
				if c.Manual != nil {
					continue
				}
				l, r, ok := s.fits(c, local, remote, equal)
				if !ok {
					continue
				}
				found = true
				if a, ok := s.chooseTransform(c, q.offer, list); ok {
					q.conn, q.cfg, q.agreement, q.local, q.remote = conn, c, a, l, r
					return nil
				}
			}
		}
	}
	switch {
	case !found:
		return refuse(isakmp.InvalidIDInformation, "no child is configured for %s === %s", local, remote)
	case badSPI:
		return refuse(isakmp.InvalidSPI, "the peer proposes an SPI that is not one of 4 bytes above 255")
	}
	return refuse(isakmp.NoProposalChosen, "none of the proposals is configured for %s === %s: %s", local, remote, describeChild(q.offer))
}

// alternatives are the connections whose children the peer may ask for: the
// IKE SA's own, and others between the same identities and addresses.
func (s *ikeSA) alternatives() []*Connection {
	out := []*Connection{s.conn}
	for _, c := range s.e.config.Connections {
		if c.Name != s.conn.Name && c.matches(s.local.Addr(), s.remote.Addr()) &&
			(c.LocalID.IsAny() || c.LocalID == s.localID) && !c.RemoteID.IsAny() && c.RemoteID.Matches(s.remoteID) {
			out = append(out, c)
		}
	}
	return out
}

// fits reports whether a child admits the peer's selectors, and returns those
// that the SA gets. In transport mode the selectors are between the endpoints,
// whatever address a NAT hides.
func (s *ikeSA) fits(c *Child, local, remote sa.Selector, equal bool) (sa.Selector, sa.Selector, bool) {
	ours := c.LocalTS.resolve(s.local.Addr())
	theirs := c.RemoteTS.resolve(s.remote.Addr())
	if c.Mode == sa.Transport {
		local = atEndpoint(local, s.local.Addr())
		remote = atEndpoint(remote, s.remote.Addr())
	}
	if equal {
		return local, remote, ours == local && theirs == remote
	}
	return local, remote, ours.Contains(local) && theirs.Contains(remote)
}
