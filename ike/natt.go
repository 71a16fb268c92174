// SPDX-License-Identifier: Apache-2.0

package ike

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"net/netip"

	"quicksand/ike/isakmp"
	"quicksand/sa"
)

// Vendor ids: MD5("RFC 3947"), those of its drafts, and dead peer detection's
// (RFC 3706 section 5.1).
var (
	vendorRFC3947 = unhex("4a131c81070358455c5728f20e95452f")
	vendorDraft03 = unhex("7d9419a65310ca6f2c179d9215529d56")
	vendorDraft02 = unhex("90cb80913ebb696e086381b5ec427b1f")
	vendorDraft2n = unhex("cd60464335df21f87cfdb2fc68b6a448")
	vendorDPD     = unhex("afcad71368a1f1c96b8696fc77570100")
)

func unhex(s string) []byte {
	b, err := hex.DecodeString(s)
	if err != nil {
		panic(err)
	}
	return b
}

// vendors is what the peer's vendor ids say.
type vendors struct {
	rfc3947, draft, dpd, parallel bool
}

func (v vendors) natt() bool { return v.rfc3947 || v.draft }

// natPayloads are the types of NAT-D and NAT-OA for the version agreed on.
func (v vendors) natPayloads() (natD, natOA isakmp.PayloadType) {
	if v.rfc3947 {
		return isakmp.PayloadNATD, isakmp.PayloadNATOA
	}
	return isakmp.PayloadNATDDraft, isakmp.PayloadNATOADraft
}

func readVendors(m *message) vendors {
	var v vendors
	for _, b := range m.bodies(isakmp.PayloadVendorID) {
		switch {
		case bytes.Equal(b, vendorRFC3947):
			v.rfc3947 = true
		case bytes.Equal(b, vendorDraft03), bytes.Equal(b, vendorDraft02), bytes.Equal(b, vendorDraft2n):
			v.draft = true
		case bytes.Equal(b, vendorDPD):
			v.dpd = true
		case bytes.Equal(b, vendorParallel):
			v.parallel = true
		}
	}
	return v
}

// vendorPayloads are the vendor ids to send; the responder says only which NAT
// traversal it has chosen.
func (s *ikeSA) vendorPayloads() []isakmp.Payload {
	ids := [][]byte{vendorDPD}
	switch {
	case s.initiator:
		ids = append(ids, vendorRFC3947, vendorDraft03, vendorDraft02)
	case s.peer.rfc3947:
		ids = append(ids, vendorRFC3947)
	case s.peer.draft:
		ids = append(ids, vendorDraft03, vendorDraft02)
	}
	if s.e.parallel {
		ids = append(ids, vendorParallel)
	}
	var out []isakmp.Payload
	for _, id := range ids {
		out = append(out, isakmp.Payload{Type: isakmp.PayloadVendorID, Body: id})
	}
	return out
}

// natD is the hash of an endpoint (RFC 3947 section 3.2).
func natD(h sa.Hash, c cookies, a netip.AddrPort) []byte {
	return digest(h, c.i[:], c.r[:], a.Addr().Unmap().AsSlice(), binary.BigEndian.AppendUint16(nil, a.Port()))
}

// natDPayloads hash the peer's endpoint and then ours. To force UDP
// encapsulation ours is a lie.
func (s *ikeSA) natDPayloads() []isakmp.Payload {
	if !s.peer.natt() {
		return nil
	}
	t, _ := s.peer.natPayloads()
	local := s.local
	if s.conn.Encap {
		local = netip.AddrPortFrom(local.Addr(), 0)
	}
	return []isakmp.Payload{
		{Type: t, Body: natD(s.transform.Hash, s.cookies, s.remote)},
		{Type: t, Body: natD(s.transform.Hash, s.cookies, local)},
	}
}

// readNATD compares the peer's hashes with what we see: the first is of our
// endpoint, the others are of the peer's own.
func (s *ikeSA) readNATD(m *message) {
	if !s.peer.natt() {
		return
	}
	t, _ := s.peer.natPayloads()
	hashes := m.bodies(t)
	if len(hashes) < 2 {
		return
	}
	s.natLocal = !bytes.Equal(hashes[0], natD(s.transform.Hash, s.cookies, m.Local))
	s.natRemote = true
	own := natD(s.transform.Hash, s.cookies, m.Remote)
	for _, h := range hashes[1:] {
		if bytes.Equal(h, own) {
			s.natRemote = false
		}
	}
	if s.conn.Encap {
		s.natLocal = true
	}
}

// encap reports whether ESP is to be encapsulated in UDP.
func (s *ikeSA) encap() bool { return s.natLocal || s.natRemote }

// float takes the initiator to the NAT-T ports (RFC 3947 section 4).
func (s *ikeSA) float() {
	if s.natt || !s.encap() {
		return
	}
	remote := s.remote
	if remote.Port() == 500 {
		remote = netip.AddrPortFrom(remote.Addr(), 4500)
	}
	s.moveTo(netip.AddrPortFrom(s.local.Addr(), s.e.opt.PortNATT), remote, true)
}

// originalAddresses are the NAT-OA payloads of transport mode behind a NAT:
// the initiator's address and the responder's, as we see them (RFC 3947
// section 5.2).
func (s *ikeSA) originalAddresses(initiator bool) []isakmp.Payload {
	i, r := s.local.Addr(), s.remote.Addr()
	if !initiator {
		i, r = r, i
	}
	_, t := s.peer.natPayloads()
	var out []isakmp.Payload
	for _, a := range []netip.Addr{i, r} {
		id := AddrIdentity(a)
		oa := isakmp.OriginalAddress{Type: id.Type, Data: []byte(id.Data)}
		out = append(out, isakmp.Payload{Type: t, Body: oa.Append(nil)})
	}
	return out
}

// readOriginalAddresses returns the addresses in the peer's NAT-OA payloads,
// ours first; not valid where there are none.
func (s *ikeSA) readOriginalAddresses(m *message, initiator bool) (local, remote netip.Addr) {
	_, t := s.peer.natPayloads()
	var as []netip.Addr
	for _, b := range m.bodies(t) {
		oa, err := isakmp.ParseOriginalAddress(b)
		if err != nil {
			continue
		}
		if a, ok := netip.AddrFromSlice(oa.Data); ok {
			as = append(as, a)
		}
	}
	if len(as) != 2 {
		return netip.Addr{}, netip.Addr{}
	}
	if initiator {
		return as[0], as[1]
	}
	return as[1], as[0]
}
