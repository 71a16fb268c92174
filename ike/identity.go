// SPDX-License-Identifier: Apache-2.0

package ike

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"net/netip"
	"strings"

	"quicksand/ike/isakmp"
)

// Identity is a phase 1 identity (RFC 2407 section 4.6.2). The zero Identity
// is "%any", which matches every other.
type Identity struct {
	Type isakmp.IDType
	Data string // the payload's bytes
}

// AddrIdentity returns the identity of an address.
func AddrIdentity(a netip.Addr) Identity {
	a = a.Unmap()
	t := isakmp.IDIPv4Addr
	if a.Is6() {
		t = isakmp.IDIPv6Addr
	}
	return Identity{t, string(a.AsSlice())}
}

// ParseIdentity reads an identity as swanctl.conf writes it: an address,
// user@domain, a domain name, "@#" and hexadecimal digits for a key id, "@@"
// before a user FQDN, "@" before a name taken literally, or a type with a colon
// before it (ipv4, ipv6, fqdn, rfc822, email, userfqdn, keyid).
func ParseIdentity(s string) (Identity, error) {
	bad := func(why string) (Identity, error) {
		return Identity{}, fmt.Errorf("parse identity %q: %s", s, why)
	}
	if s == "" || s == "%any" || s == "%any6" || s == "*" {
		return Identity{}, nil
	}
	if kind, rest, ok := strings.Cut(s, ":"); ok {
		switch strings.ToLower(kind) {
		case "ipv4", "ipv6":
			a, err := netip.ParseAddr(rest)
			if err != nil || a.Is4() != (strings.ToLower(kind) == "ipv4") {
				return bad("not an address of that family")
			}
			return AddrIdentity(a), nil
		case "fqdn":
			return Identity{isakmp.IDFQDN, rest}, nil
		case "rfc822", "email", "userfqdn":
			return Identity{isakmp.IDUserFQDN, rest}, nil
		case "keyid":
			return Identity{isakmp.IDKeyID, rest}, nil
		case "asn1dn", "dn", "asn1gn":
			return bad("a distinguished name belongs to certificates, which are not supported")
		}
	}
	if a, err := netip.ParseAddr(s); err == nil && a.Zone() == "" {
		return AddrIdentity(a), nil
	}
	if rest, ok := strings.CutPrefix(s, "@#"); ok {
		b, err := hex.DecodeString(rest)
		if err != nil {
			return bad("a key id behind @# is hexadecimal")
		}
		return Identity{isakmp.IDKeyID, string(b)}, nil
	}
	if rest, ok := strings.CutPrefix(s, "@@"); ok {
		return Identity{isakmp.IDUserFQDN, rest}, nil
	}
	if rest, ok := strings.CutPrefix(s, "@"); ok {
		return Identity{isakmp.IDFQDN, rest}, nil
	}
	if strings.ContainsRune(s, '=') {
		return bad("a distinguished name belongs to certificates, which are not supported")
	}
	if strings.ContainsRune(s, '@') {
		return Identity{isakmp.IDUserFQDN, s}, nil
	}
	return Identity{isakmp.IDFQDN, s}, nil
}

// IsAny reports whether the identity is "%any".
func (i Identity) IsAny() bool { return i.Type == 0 }

// Matches reports whether the peer's identity is the one configured. A
// configured name may begin with "*." or "*@" and then matches every name that
// ends with the rest.
func (i Identity) Matches(peer Identity) bool {
	switch {
	case i.IsAny():
		return true
	case i.Type != peer.Type:
		return false
	case i.Type != isakmp.IDFQDN && i.Type != isakmp.IDUserFQDN:
		return i.Data == peer.Data
	}
	a, b := []byte(i.Data), []byte(peer.Data)
	if len(a) > 1 && a[0] == '*' {
		return len(b) >= len(a)-1 && bytes.EqualFold(a[1:], b[len(b)-len(a)+1:])
	}
	return bytes.EqualFold(a, b)
}

// String returns the identity as swanctl prints it.
func (i Identity) String() string {
	switch i.Type {
	case 0:
		return "%any"
	case isakmp.IDIPv4Addr, isakmp.IDIPv6Addr:
		if a, ok := netip.AddrFromSlice([]byte(i.Data)); ok {
			return a.String()
		}
	case isakmp.IDFQDN, isakmp.IDUserFQDN:
		return printable(i.Data)
	case isakmp.IDKeyID:
		if printable(i.Data) == i.Data {
			return i.Data
		}
		return "@#" + hex.EncodeToString([]byte(i.Data))
	}
	return fmt.Sprintf("(%d) %x", i.Type, i.Data)
}

// printable replaces what could deceive a terminal or a log.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, s)
}
