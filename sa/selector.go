// SPDX-License-Identifier: Apache-2.0

package sa

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// Selector is one side of an SA's traffic: a proxy identity, IDci or IDcr
// (RFC 2407 section 4.6.2). From and To are of one family and From is not
// above To. Protocol and Port are 0 for any.
type Selector struct {
	From, To netip.Addr
	Protocol uint8
	Port     uint16
}

// PrefixSelector returns the selector of a subnet.
func PrefixSelector(p netip.Prefix) Selector {
	p = p.Masked()
	return Selector{From: p.Addr(), To: lastAddr(p)}
}

func lastAddr(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// IsValid reports whether the selector has a range of addresses of one family.
func (s Selector) IsValid() bool {
	return s.From.IsValid() && s.From.BitLen() == s.To.BitLen() && s.From.Compare(s.To) <= 0
}

// Prefix returns the subnet the selector's range is exactly, and whether it
// is one.
func (s Selector) Prefix() (netip.Prefix, bool) {
	for bits := 0; s.IsValid() && bits <= s.From.BitLen(); bits++ {
		p := netip.PrefixFrom(s.From, bits)
		if p.Masked().Addr() == s.From && lastAddr(p) == s.To {
			return p, true
		}
	}
	return netip.Prefix{}, false
}

// Prefixes returns the shortest list of subnets that covers the range exactly,
// for routes.
func (s Selector) Prefixes() []netip.Prefix {
	var out []netip.Prefix
	if !s.IsValid() {
		return nil
	}
	for a := s.From; ; {
		bits := a.BitLen()
		for bits > 0 {
			p := netip.PrefixFrom(a, bits-1)
			if p.Masked().Addr() != a || lastAddr(p).Compare(s.To) > 0 {
				break
			}
			bits--
		}
		p := netip.PrefixFrom(a, bits)
		out = append(out, p)
		last := lastAddr(p)
		if last.Compare(s.To) >= 0 {
			return out
		}
		a = last.Next()
	}
}

// ContainsAddr reports whether the selector's range holds the address.
func (s Selector) ContainsAddr(a netip.Addr) bool {
	return a.BitLen() == s.From.BitLen() && s.From.Compare(a) <= 0 && a.Compare(s.To) <= 0
}

// Contains reports whether everything o selects is selected by s.
func (s Selector) Contains(o Selector) bool {
	i, ok := s.Intersect(o)
	return ok && i == o
}

// Intersect returns what both select, and whether there is any.
func (s Selector) Intersect(o Selector) (Selector, bool) {
	if !s.IsValid() || !o.IsValid() || s.From.BitLen() != o.From.BitLen() {
		return Selector{}, false
	}
	r := s
	if o.From.Compare(r.From) > 0 {
		r.From = o.From
	}
	if o.To.Compare(r.To) < 0 {
		r.To = o.To
	}
	if r.From.Compare(r.To) > 0 {
		return Selector{}, false
	}
	switch {
	case r.Protocol == 0:
		r.Protocol = o.Protocol
	case o.Protocol != 0 && o.Protocol != r.Protocol:
		return Selector{}, false
	}
	switch {
	case r.Port == 0:
		r.Port = o.Port
	case o.Port != 0 && o.Port != r.Port:
		return Selector{}, false
	}
	return r, true
}

// String returns the selector as swanctl writes it: "10.1.0.0/24",
// "10.1.0.5..10.1.0.9", "10.1.0.1/32[tcp/80]".
func (s Selector) String() string {
	if !s.IsValid() {
		return "invalid selector"
	}
	var b strings.Builder
	if p, ok := s.Prefix(); ok {
		b.WriteString(p.String())
	} else {
		b.WriteString(s.From.String() + ".." + s.To.String())
	}
	if s.Protocol == 0 && s.Port == 0 {
		return b.String()
	}
	b.WriteByte('[')
	if s.Protocol != 0 {
		b.WriteString(protocolName(s.Protocol))
	}
	if s.Port != 0 {
		b.WriteString("/" + strconv.Itoa(int(s.Port)))
	}
	b.WriteByte(']')
	return b.String()
}

var protocolNames = map[string]uint8{
	"icmp": 1, "igmp": 2, "ipip": 4, "tcp": 6, "egp": 8, "udp": 17, "ipv6": 41, "gre": 47,
	"esp": 50, "ah": 51, "ipv6-icmp": 58, "ospf": 89, "vrrp": 112, "l2tp": 115, "sctp": 132,
}

func protocolName(p uint8) string {
	for n, v := range protocolNames {
		if v == p {
			return n
		}
	}
	return strconv.Itoa(int(p))
}

// ParseSelector reads a selector as swanctl.conf writes it: a subnet, an
// address or a range, with an optional "[protocol/port]" behind it. Protocol
// is a number or a common name, port a number; either may be "any" or absent.
func ParseSelector(s string) (Selector, error) {
	bad := func(why string) (Selector, error) {
		return Selector{}, fmt.Errorf("parse selector %q: %s", s, why)
	}
	addr, rest, hasProto := strings.Cut(strings.TrimSpace(s), "[")
	var sel Selector
	if from, to, ok := strings.Cut(addr, ".."); ok {
		f, err1 := netip.ParseAddr(from)
		t, err2 := netip.ParseAddr(to)
		if err1 != nil || err2 != nil {
			return bad("a range is ADDRESS..ADDRESS")
		}
		sel = Selector{From: f, To: t}
	} else if p, err := netip.ParsePrefix(addr); err == nil {
		sel = PrefixSelector(p)
	} else if a, err := netip.ParseAddr(addr); err == nil {
		sel = Selector{From: a, To: a}
	} else {
		return bad("neither a subnet, an address nor a range")
	}
	if sel.From.Zone() != "" || sel.To.Zone() != "" || sel.From.Is4In6() || !sel.IsValid() {
		return bad("not a range of one family, lowest first")
	}
	if !hasProto {
		return sel, nil
	}
	rest, ok := strings.CutSuffix(rest, "]")
	if !ok {
		return bad("no ] at the end")
	}
	proto, port, _ := strings.Cut(rest, "/")
	if proto != "" && proto != "any" {
		if v, ok := protocolNames[strings.ToLower(proto)]; ok {
			sel.Protocol = v
		} else if v, err := strconv.ParseUint(proto, 10, 8); err == nil {
			sel.Protocol = uint8(v)
		} else {
			return bad("protocol " + strconv.Quote(proto) + " is not known")
		}
	}
	if port != "" && port != "any" {
		v, err := strconv.ParseUint(port, 10, 16)
		if err != nil {
			return bad("port " + strconv.Quote(port) + " is not a number up to 65535; IKEv1 carries one port, not a range")
		}
		sel.Port = uint16(v)
	}
	return sel, nil
}
