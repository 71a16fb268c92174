// SPDX-License-Identifier: Apache-2.0

package ike

import (
	"net/netip"

	"quicksand/ike/isakmp"
	"quicksand/sa"
)

// hostSelector selects one address.
func hostSelector(a netip.Addr) sa.Selector { return sa.Selector{From: a, To: a} }

// resolve returns the selector, with the endpoint's address where it is
// dynamic.
func (d Dynamic) resolve(endpoint netip.Addr) sa.Selector {
	s := d.Selector
	if d.IsDynamic {
		s.From, s.To = endpoint, endpoint
	}
	return s
}

// atEndpoint moves a selector of one address to the endpoint's address.
func atEndpoint(s sa.Selector, endpoint netip.Addr) sa.Selector {
	if s.From == s.To {
		s.From, s.To = endpoint, endpoint
	}
	return s
}

// proxyID is the ID payload of a selector: an address, a subnet or a range
// (RFC 2407 section 4.6.2.1).
func proxyID(s sa.Selector) isakmp.Payload {
	id := isakmp.Identification{Protocol: s.Protocol, Port: s.Port}
	v6 := s.From.Is6()
	pick := func(v4Type, v6Type isakmp.IDType) isakmp.IDType {
		if v6 {
			return v6Type
		}
		return v4Type
	}
	id.Data = s.From.AsSlice()
	if p, ok := s.Prefix(); !ok {
		id.Type = pick(isakmp.IDIPv4Range, isakmp.IDIPv6Range)
		id.Data = append(id.Data, s.To.AsSlice()...)
	} else if p.IsSingleIP() {
		id.Type = pick(isakmp.IDIPv4Addr, isakmp.IDIPv6Addr)
	} else {
		id.Type = pick(isakmp.IDIPv4Subnet, isakmp.IDIPv6Subnet)
		id.Data = append(id.Data, mask(p)...)
	}
	return isakmp.Payload{Type: isakmp.PayloadID, Body: id.Append(nil)}
}

func mask(p netip.Prefix) []byte {
	b := make([]byte, p.Addr().BitLen()/8)
	for i := range p.Bits() {
		b[i/8] |= 0x80 >> (i % 8)
	}
	return b
}

// readProxyID reads an ID payload of Quick Mode.
func readProxyID(body []byte) (sa.Selector, error) {
	bad := func(why string) (sa.Selector, error) {
		return sa.Selector{}, refuse(isakmp.InvalidIDInformation, "a proxy identity %s", why)
	}
	id, err := isakmp.ParseIdentification(body)
	if err != nil {
		return sa.Selector{}, refuse(isakmp.PayloadMalformed, "%v", err)
	}
	s := sa.Selector{Protocol: id.Protocol, Port: id.Port}
	half := len(id.Data) / 2
	switch id.Type {
	case isakmp.IDIPv4Addr, isakmp.IDIPv6Addr:
		s.From, _ = netip.AddrFromSlice(id.Data)
		s.To = s.From
	case isakmp.IDIPv4Range, isakmp.IDIPv6Range:
		s.From, _ = netip.AddrFromSlice(id.Data[:half])
		s.To, _ = netip.AddrFromSlice(id.Data[half:])
	case isakmp.IDIPv4Subnet, isakmp.IDIPv6Subnet:
		a, _ := netip.AddrFromSlice(id.Data[:half])
		bits := 0
		for bits < half*8 && id.Data[half+bits/8]&(0x80>>(bits%8)) != 0 {
			bits++
		}
		p := netip.PrefixFrom(a, bits)
		if string(mask(p)) != string(id.Data[half:]) {
			return bad("has a mask with gaps")
		}
		s = sa.PrefixSelector(p)
		s.Protocol, s.Port = id.Protocol, id.Port
	default:
		return bad("is of type " + id.Type.String() + ", not an address, subnet or range")
	}
	if !s.IsValid() {
		return bad("is not a range of addresses")
	}
	return s, nil
}
