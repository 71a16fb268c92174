// SPDX-License-Identifier: Apache-2.0

package ike

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"quicksand/ike/isakmp"
	"quicksand/sa"
)

// parseSA reads an SA payload of the IPsec DOI.
func parseSA(body []byte) (isakmp.SecurityAssociation, error) {
	p, err := isakmp.ParseSA(body)
	switch {
	case errors.Is(err, isakmp.ErrDOI):
		return p, refuse(isakmp.DOINotSupported, "%v", err)
	case errors.Is(err, isakmp.ErrSituation):
		return p, refuse(isakmp.SituationNotSupported, "%v", err)
	case err != nil:
		return p, refuse(isakmp.PayloadMalformed, "%v", err)
	}
	return p, nil
}

var ikeCiphers = [...]uint16{
	sa.AESCBC: isakmp.CipherAES, sa.TripleDESCBC: isakmp.CipherTripleDES,
}

var ikeHashes = [...]uint16{
	sa.MD5: isakmp.HashMD5, sa.SHA1: isakmp.HashSHA1, sa.SHA256: isakmp.HashSHA256,
	sa.SHA384: isakmp.HashSHA384, sa.SHA512: isakmp.HashSHA512,
}

// ikeOffer is one proposal of phase 1 with all transforms; life of 0 is not
// said.
func ikeOffer(p sa.IKEProposal, life time.Duration) isakmp.SecurityAssociation {
	prop := isakmp.Proposal{Number: 1, Protocol: isakmp.ProtoISAKMP}
	for i, t := range p {
		if i == 255 {
			break
		}
		attrs := []isakmp.Attribute{isakmp.ShortAttr(isakmp.AttrEncryption, ikeCiphers[t.Encryption])}
		if t.Encryption == sa.AESCBC {
			attrs = append(attrs, isakmp.ShortAttr(isakmp.AttrKeyLength, t.KeyBits))
		}
		attrs = append(attrs,
			isakmp.ShortAttr(isakmp.AttrHash, ikeHashes[t.Hash]),
			isakmp.ShortAttr(isakmp.AttrGroup, uint16(t.Group)),
			isakmp.ShortAttr(isakmp.AttrAuthMethod, isakmp.AuthPSK))
		if life > 0 {
			attrs = append(attrs,
				isakmp.ShortAttr(isakmp.AttrLifeType, isakmp.LifeSeconds),
				isakmp.NumberAttr(isakmp.AttrLifeDuration, uint64(life/time.Second)))
		}
		prop.Transforms = append(prop.Transforms, isakmp.Transform{Number: uint8(i + 1), ID: isakmp.KeyIKE, Attributes: attrs})
	}
	return isakmp.SecurityAssociation{DOI: isakmp.DOIIPsec, Situation: isakmp.SituationIdentityOnly, Proposals: []isakmp.Proposal{prop}}
}

// readIKETransform reads a phase 1 transform; it fails on what we do not know
// and on what authenticates by anything but a pre-shared key.
func readIKETransform(t isakmp.Transform) (out sa.IKETransform, life time.Duration, ok bool) {
	var l lifetimes
	var auth uint16
	if t.ID != isakmp.KeyIKE {
		return out, 0, false
	}
	for _, a := range t.Attributes {
		known := a.Short
		switch a.Type {
		case isakmp.AttrEncryption:
			i, ok := lookUp(ikeCiphers[:], a.Value)
			out.Encryption, known = sa.Encryption(i), known && ok
		case isakmp.AttrKeyLength:
			out.KeyBits = a.Value
		case isakmp.AttrHash:
			i, ok := lookUp(ikeHashes[:], a.Value)
			out.Hash, known = sa.Hash(i), known && ok
		case isakmp.AttrGroup:
			out.Group = sa.Group(a.Value)
		case isakmp.AttrAuthMethod:
			auth = a.Value
		case isakmp.AttrLifeType:
			known = known && l.setKind(a.Value)
		case isakmp.AttrLifeDuration:
			known = l.setDuration(a)
		default:
			known = false
		}
		if !known {
			return out, 0, false
		}
	}
	if out.Encryption == sa.TripleDESCBC && out.KeyBits == 0 {
		out.KeyBits = 192
	}
	return out, l.time(), auth == isakmp.AuthPSK && out.Encryption != 0 && out.Hash != 0
}

// chooseIKE takes the first of our transforms that the peer offers, and
// returns the reply with the peer's transform as it came.
func chooseIKE(ours sa.IKEProposal, offer isakmp.SecurityAssociation) (sa.IKETransform, isakmp.SecurityAssociation, time.Duration, bool) {
	for _, want := range ours {
		for _, p := range offer.Proposals {
			if p.Protocol != isakmp.ProtoISAKMP {
				continue
			}
			for _, t := range p.Transforms {
				got, life, ok := readIKETransform(t)
				if ok && got == want {
					p.Transforms = []isakmp.Transform{t}
					p.SPI = nil
					return want, copySA(offer, p), life, true
				}
			}
		}
	}
	return sa.IKETransform{}, isakmp.SecurityAssociation{}, 0, false
}

// copySA returns an SA with the one proposal, in memory of its own.
func copySA(offer isakmp.SecurityAssociation, p isakmp.Proposal) isakmp.SecurityAssociation {
	offer.Proposals = []isakmp.Proposal{p}
	own, _ := isakmp.ParseSA(offer.Append(nil))
	return own
}

// checkIKE checks the peer's choice against what we offered.
func checkIKE(offer, sel isakmp.SecurityAssociation) (sa.IKETransform, time.Duration, error) {
	bad := func(why string) (sa.IKETransform, time.Duration, error) {
		return sa.IKETransform{}, 0, refuse(isakmp.BadProposalSyntax, "the peer's choice %s", why)
	}
	if len(sel.Proposals) != 1 || len(sel.Proposals[0].Transforms) != 1 || sel.Proposals[0].Protocol != isakmp.ProtoISAKMP {
		return bad("is not one transform of one proposal")
	}
	got, life, ok := readIKETransform(sel.Proposals[0].Transforms[0])
	if !ok {
		return bad("is not known")
	}
	for _, t := range offer.Proposals[0].Transforms {
		if want, _, _ := readIKETransform(t); want == got {
			return got, life, nil
		}
	}
	return bad("was not offered: " + got.String())
}

func describeIKE(offer isakmp.SecurityAssociation) string {
	var out []string
	for _, p := range offer.Proposals {
		for _, t := range p.Transforms {
			if got, _, ok := readIKETransform(t); ok {
				out = append(out, got.String())
			}
		}
	}
	return summary(out)
}

// summary joins what a peer offered, without letting it fill the log.
func summary(list []string) string {
	const most = 8
	if len(list) == 0 {
		return "nothing that we know was offered"
	}
	if len(list) > most {
		return strings.Join(list[:most], ", ") + fmt.Sprintf(" and %d more", len(list)-most)
	}
	return strings.Join(list, ", ")
}
