// SPDX-License-Identifier: Apache-2.0

package isakmp

// Bounds of one SA payload.
const (
	MaxProposals  = 32
	MaxTransforms = 256 // of all proposals together
	MaxAttributes = 32  // of each transform
)

// Lengths without the generic header.
const (
	doiLen       = 4
	situationLen = 4
	proposalLen  = 4 // number, protocol, SPI size, transforms
	transformLen = 4 // number, id, two bytes reserved
)

// ParseSA reads the body of an SA payload. SPIs and the data of attributes
// share memory with body. The error is an *Error; it wraps ErrDOI or
// ErrSituation where the payload is not the IPsec DOI's, and what is known of
// the payload comes with it. RFC 2408 sections 3.4 to 3.6, RFC 2407 section
// 4.6.1.
func ParseSA(body []byte) (SecurityAssociation, error) {
	if len(body) < doiLen {
		return SecurityAssociation{}, malformed(PayloadSA, "%d bytes", len(body))
	}
	s := SecurityAssociation{DOI: be.Uint32(body)}
	if s.DOI != DOIIPsec {
		e := malformed(PayloadSA, "%v: %d", ErrDOI, s.DOI).(*Error)
		e.Err = ErrDOI
		return s, e
	}
	body = body[doiLen:]
	if len(body) < situationLen {
		return s, malformed(PayloadSA, "%d bytes are left for the situation", len(body))
	}
	s.Situation = be.Uint32(body)
	if s.Situation != SituationIdentityOnly {
		e := malformed(PayloadSA, "%v: %#x", ErrSituation, s.Situation).(*Error)
		e.Err = ErrSituation
		return s, e
	}
	body = body[situationLen:]
	n, err := countSA(body)
	if err != nil {
		return s, err
	}
	s.Proposals = readSA(body, n)
	return s, nil
}

// counts is what an SA payload holds.
type counts struct{ proposals, transforms, attributes int }

// countSA checks the proposals that fill b and everything in them, so that
// readSA can take them without a doubt and without growing a slice.
func countSA(b []byte) (n counts, err error) {
	if len(b) == 0 {
		return n, malformed(PayloadSA, "no proposal")
	}
	for more := true; more; {
		if n.proposals++; n.proposals > MaxProposals {
			return n, malformed(PayloadSA, "more than %d proposals", MaxProposals)
		}
		var body []byte
		if body, b, more, err = nested(PayloadProposal, b); err != nil {
			return n, err
		}
		if len(body) < proposalLen {
			return n, malformed(PayloadProposal, "%d bytes", len(body))
		}
		size, announced := int(body[2]), int(body[3])
		body = body[proposalLen:]
		if err = checkSPI(PayloadProposal, size, len(body)); err != nil {
			return n, err
		}
		if err = n.countTransforms(body[size:], announced); err != nil {
			return n, err
		}
	}
	return n, nil
}

// countTransforms checks the transforms that fill b.
func (n *counts) countTransforms(b []byte, announced int) (err error) {
	if len(b) == 0 {
		return malformed(PayloadProposal, "no transform")
	}
	found := 0
	for more := true; more; found++ {
		if n.transforms++; n.transforms > MaxTransforms {
			return malformed(PayloadProposal, "more than %d transforms", MaxTransforms)
		}
		var body []byte
		if body, b, more, err = nested(PayloadTransform, b); err != nil {
			return err
		}
		if len(body) < transformLen {
			return malformed(PayloadTransform, "%d bytes", len(body))
		}
		attrs, err := countAttributes(body[transformLen:])
		if err != nil {
			return err
		}
		n.attributes += attrs
	}
	if found != announced {
		return malformed(PayloadProposal, "%d transforms where %d are announced", found, announced)
	}
	return nil
}

// nested splits the proposal or transform, as t says, that b begins with. More
// is the header's word for whether another follows, and rest agrees with it.
func nested(t PayloadType, b []byte) (body, rest []byte, more bool, err error) {
	next, body, err := generic(t, b)
	if err != nil {
		return nil, nil, false, err
	}
	if next != NoPayload && next != t {
		return nil, nil, false, malformed(t, "next payload is %v", next)
	}
	rest, more = b[genericLen+len(body):], next == t
	if !more && len(rest) > 0 {
		return nil, nil, false, malformed(t, "%d bytes after the last", len(rest))
	}
	return body, rest, more, nil
}

// countAttributes checks the attributes that fill b.
func countAttributes(b []byte) (n int, err error) {
	for ; len(b) > 0; n++ {
		if n == MaxAttributes {
			return n, malformed(PayloadTransform, "more than %d attributes", MaxAttributes)
		}
		if len(b) < 4 {
			return n, malformed(PayloadTransform, "%d bytes are left for an attribute", len(b))
		}
		size := attributeLen(b)
		if size > len(b) {
			return n, malformed(PayloadTransform, "attribute %d has %d bytes in %d", be.Uint16(b), size, len(b))
		}
		b = b[size:]
	}
	return n, nil
}

// readSA reads the proposals that countSA found to be right.
func readSA(b []byte, n counts) []Proposal {
	proposals := make([]Proposal, 0, n.proposals)
	transforms := make([]Transform, 0, n.transforms)
	attributes := make([]Attribute, 0, n.attributes)
	for len(b) > 0 {
		size := int(be.Uint16(b[2:]))
		p, body := Proposal{Number: b[4], Protocol: ProtocolID(b[5])}, b[8:size]
		spi := int(b[6])
		p.SPI, body = body[:spi:spi], body[spi:]
		first := len(transforms)
		for len(body) > 0 {
			size := int(be.Uint16(body[2:]))
			t := Transform{Number: body[4], ID: body[5]}
			t.Attributes, attributes = readAttributes(attributes, body[8:size])
			transforms, body = append(transforms, t), body[size:]
		}
		p.Transforms = transforms[first:len(transforms):len(transforms)]
		proposals, b = append(proposals, p), b[size:]
	}
	return proposals
}

// readAttributes appends the attributes in b to dst and returns them, too, by
// themselves.
func readAttributes(dst []Attribute, b []byte) (own, all []Attribute) {
	first := len(dst)
	for len(b) > 0 {
		size := attributeLen(b)
		dst, b = append(dst, readAttribute(b[:size:size])), b[size:]
	}
	return dst[first:len(dst):len(dst)], dst
}

// Append appends the payload's body to b.
func (s *SecurityAssociation) Append(b []byte) []byte {
	b = be.AppendUint32(b, s.DOI)
	b = be.AppendUint32(b, s.Situation)
	for i := range s.Proposals {
		start := len(b)
		b = appendGeneric(b, PayloadProposal, i+1 < len(s.Proposals))
		b = s.Proposals[i].append(b)
		be.PutUint16(b[start+2:], uint16(len(b)-start))
	}
	return b
}

// append appends what follows the proposal's generic header.
func (p *Proposal) append(b []byte) []byte {
	b = append(b, p.Number, byte(p.Protocol), byte(len(p.SPI)), byte(len(p.Transforms)))
	b = append(b, p.SPI...)
	for i := range p.Transforms {
		t, start := &p.Transforms[i], len(b)
		b = appendGeneric(b, PayloadTransform, i+1 < len(p.Transforms))
		b = append(b, t.Number, t.ID, 0, 0)
		b = AppendAttributes(b, t.Attributes)
		be.PutUint16(b[start+2:], uint16(len(b)-start))
	}
	return b
}

// appendGeneric appends a nested payload's generic header, its length still 0.
func appendGeneric(b []byte, t PayloadType, more bool) []byte {
	if !more {
		t = NoPayload
	}
	return append(b, byte(t), 0, 0, 0)
}
