// SPDX-License-Identifier: Apache-2.0

package swanctl

import (
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"quicksand/ike"
	"quicksand/sa"
)

// text returns the value of a setting that takes one.
func (s *Setting) text() (string, error) {
	if !s.IsList {
		return s.Value, nil
	}
	if len(s.List) == 1 {
		return s.List[0], nil
	}
	return "", errors.New("takes one value, not a list")
}

// oneOf looks the value up among the names, whatever the case of its letters.
func oneOf[V any](s *Setting, list string, names map[string]V) (V, error) {
	var none V
	t, err := s.text()
	if err != nil {
		return none, err
	}
	if v, ok := names[strings.ToLower(t)]; ok {
		return v, nil
	}
	return none, fmt.Errorf("%q is not one of %s", t, list)
}

var booleans = map[string]bool{
	"yes": true, "true": true, "enabled": true, "1": true,
	"no": false, "false": false, "disabled": false, "0": false,
}

func parseBool(s *Setting) (bool, error) { return oneOf(s, "yes, no", booleans) }

func checkBool(s *Setting) error {
	_, err := parseBool(s)
	return err
}

// check returns a check that the value is one of the names.
func check(names ...string) func(*Setting) error {
	known := make(map[string]bool)
	for _, n := range names {
		known[n] = true
	}
	return func(s *Setting) error {
		_, err := oneOf(s, strings.Join(names, ", "), known)
		return err
	}
}

// parseNumber reads a decimal or, behind 0x, hexadecimal number from low to
// high.
func parseNumber(s *Setting, low, high uint64) (uint64, error) {
	t, err := s.text()
	if err != nil {
		return 0, err
	}
	n, rest, err := cutNumber(t)
	if err != nil || rest != "" || n < low || n > high {
		return 0, fmt.Errorf("%q is not a number from %d to %d", t, low, high)
	}
	return n, nil
}

// cutNumber reads the number that a text begins with.
func cutNumber(t string) (n uint64, rest string, err error) {
	base, digits := 10, t
	if d, ok := strings.CutPrefix(strings.ToLower(t), "0x"); ok {
		base, digits = 16, d
	}
	end := 0
	for end < len(digits) && strings.IndexByte("0123456789abcdef"[:base], digits[end]) >= 0 {
		end++
	}
	n, err = strconv.ParseUint(digits[:end], base, 64)
	return n, strings.TrimLeft(digits[end:], " "), err
}

// scaled reads a number with a unit behind it.
func scaled(t string, units map[string]uint64) (uint64, bool) {
	n, unit, err := cutNumber(t)
	scale, known := units[strings.ToLower(unit)]
	if err != nil || !known || n > math.MaxUint64/scale {
		return 0, false
	}
	return n * scale, true
}

var (
	timeUnits = map[string]uint64{"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
	byteUnits = map[string]uint64{"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
)

// parseTime reads seconds, or a number with s, m, h or d. IKEv1 carries
// lifetimes of 32 bits (RFC 2407 section 4.5).
func parseTime(s *Setting) (time.Duration, error) {
	t, err := s.text()
	if err != nil {
		return 0, err
	}
	n, ok := scaled(t, timeUnits)
	if !ok || n > math.MaxUint32 {
		return 0, fmt.Errorf("%q is not a time: a number with s, m, h or d behind it, of at most %d s", t, uint32(math.MaxUint32))
	}
	return time.Duration(n) * time.Second, nil
}

// parseBytes reads bytes, or a number with k, M or G, which are powers of 1024.
func parseBytes(s *Setting) (uint64, error) {
	t, err := s.text()
	if err != nil {
		return 0, err
	}
	n, ok := scaled(t, byteUnits)
	if !ok {
		return 0, fmt.Errorf("%q is not a number of bytes, with k, M or G behind it or none", t)
	}
	return n, nil
}

func parsePackets(s *Setting) (uint64, error) { return parseNumber(s, 0, math.MaxUint64) }

// parseMark reads a mark with its mask; without one all bits count.
func parseMark(s *Setting) (m sa.Mark, err error) {
	t, err := s.text()
	if err != nil {
		return m, err
	}
	if strings.HasPrefix(t, "%") {
		return m, fmt.Errorf("%q is not supported: no script would be told the number", t)
	}
	const form = "%q is not value or value/mask, of 32 bits each"
	value, mask, masked := strings.Cut(t, "/")
	for _, n := range []struct {
		text string
		to   *uint32
	}{{value, &m.Value}, {mask, &m.Mask}} {
		if n.to == &m.Mask && !masked {
			m.Mask = math.MaxUint32
			break
		}
		v, rest, err := cutNumber(n.text)
		if err != nil || rest != "" || v > math.MaxUint32 {
			return m, fmt.Errorf(form, t)
		}
		*n.to = uint32(v)
	}
	if m.Value&^m.Mask != 0 {
		return m, fmt.Errorf("%q has bits in the value that are not in the mask", t)
	}
	return m, nil
}

func parseIfID(s *Setting) (uint32, error) {
	if t, _ := s.text(); strings.HasPrefix(t, "%") {
		return 0, fmt.Errorf("%q is not supported: no script would be told the number", t)
	}
	n, err := parseNumber(s, 0, math.MaxUint32)
	return uint32(n), err
}

func parseIdentity(s *Setting) (ike.Identity, error) {
	t, err := s.text()
	if err != nil {
		return ike.Identity{}, err
	}
	id, err := ike.ParseIdentity(t)
	if err == nil && !id.IsAny() && id.Data == "" {
		return id, fmt.Errorf("%q names nobody; what stands behind # is a comment unless it is in quotes", t)
	}
	return id, err
}

var (
	everyIPv4 = ike.AddrMatch{From: netip.IPv4Unspecified(), To: sa.PrefixSelector(netip.MustParsePrefix("0.0.0.0/0")).To}
	everyIPv6 = ike.AddrMatch{From: netip.IPv6Unspecified(), To: sa.PrefixSelector(netip.MustParsePrefix("::/0")).To}
)

// parseAddrs reads addresses, subnets, ranges ("10.0.0.1-10.0.0.9"), host names
// and %any. Nothing but %any is an empty list, which matches everything.
func parseAddrs(s *Setting) ([]ike.AddrMatch, error) {
	var out []ike.AddrMatch
	items := s.Items()
	onlyAny := true
	for _, item := range items {
		switch item {
		case "%any":
			out = append(out, everyIPv4, everyIPv6)
			continue
		case "%any4", "0.0.0.0":
			out = append(out, everyIPv4)
		case "%any6", "::":
			out = append(out, everyIPv6)
		default:
			m, err := parseAddr(item)
			if err != nil {
				return nil, err
			}
			out = append(out, m)
		}
		onlyAny = false
	}
	if onlyAny {
		return nil, nil
	}
	return out, nil
}

func parseAddr(item string) (ike.AddrMatch, error) {
	bad := func(why string) (ike.AddrMatch, error) {
		return ike.AddrMatch{}, fmt.Errorf("%q: %s", item, why)
	}
	if a, err := netip.ParseAddr(item); err == nil {
		if a.Zone() != "" {
			return bad("addresses with a zone are not supported")
		}
		return ike.AddrMatch{From: a.Unmap(), To: a.Unmap()}, nil
	}
	if strings.Contains(item, "/") {
		p, err := netip.ParsePrefix(item)
		if err != nil || p.Addr().Is4In6() {
			return bad("not a subnet")
		}
		sel := sa.PrefixSelector(p)
		return ike.AddrMatch{From: sel.From, To: sel.To}, nil
	}
	if low, high, ok := strings.Cut(item, "-"); ok {
		from, err1 := netip.ParseAddr(strings.TrimSpace(low))
		to, err2 := netip.ParseAddr(strings.TrimSpace(high))
		if err1 == nil && err2 == nil {
			sel := sa.Selector{From: from, To: to}
			if !sel.IsValid() || from.Zone()+to.Zone() != "" {
				return bad("not a range of one family, lowest first")
			}
			return ike.AddrMatch{From: from, To: to}, nil
		}
	}
	if !isHostName(item) {
		return bad("neither an address, a subnet, a range nor a host name")
	}
	return ike.AddrMatch{Host: item}, nil
}

// isHostName reports whether the text may be a host name (RFC 1123 section
// 2.1): one whose last label is a number is a mistyped address.
func isHostName(t string) bool {
	if len(t) > 253 {
		return false
	}
	last := ""
	for label := range strings.SplitSeq(strings.TrimSuffix(t, "."), ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for _, c := range []byte(strings.ToLower(label)) {
			if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' {
				return false
			}
		}
		last = label
	}
	return strings.Trim(last, "0123456789") != ""
}

// numberPort puts the number in the place of a service's name in the
// "[protocol/port]" of a selector (services(5)).
func numberPort(item string) string {
	i := strings.LastIndexByte(item, '/')
	name, ok := strings.CutSuffix(item[i+1:], "]")
	if !ok || !strings.Contains(item[:i+1], "[") || name == "any" {
		return item
	}
	port, err := net.LookupPort("ip", name)
	if err != nil {
		return item // a parser of selectors says what is wrong with it
	}
	return fmt.Sprintf("%s%d]", item[:i+1], port)
}

// parseSelector reads local_ts or remote_ts: one selector, or "dynamic", with
// an optional "[protocol/port]".
func parseSelector(s *Setting) (ike.Dynamic, error) {
	items := s.Items()
	if len(items) > 1 {
		return ike.Dynamic{}, fmt.Errorf("%d selectors, but IKEv1 carries one in each direction: make a child of each", len(items))
	}
	if len(items) == 0 {
		return ike.Dynamic{IsDynamic: true}, nil
	}
	item := numberPort(items[0])
	if rest, ok := strings.CutPrefix(item, "dynamic"); ok && (rest == "" || rest[0] == '[') {
		sel, err := sa.ParseSelector("0.0.0.0" + rest)
		if err != nil {
			return ike.Dynamic{}, err
		}
		return ike.Dynamic{Selector: sa.Selector{Protocol: sel.Protocol, Port: sel.Port}, IsDynamic: true}, nil
	}
	addr, rest, bracket := strings.Cut(item, "[")
	addr = strings.TrimSpace(strings.Replace(addr, "-", "..", 1))
	if bracket {
		addr += "[" + rest
	}
	sel, err := sa.ParseSelector(addr)
	return ike.Dynamic{Selector: sel}, err
}

// parseSecret reads a secret: hexadecimal behind 0x, base64 behind 0s, else
// the text itself. No error says what was read.
func parseSecret(s *Setting) (sa.Key, error) {
	t, err := s.text()
	if err != nil {
		return nil, err
	}
	var k []byte
	if h, ok := strings.CutPrefix(t, "0x"); ok {
		if k, err = hex.DecodeString(h); err != nil {
			return nil, errors.New("what stands behind 0x is not pairs of hexadecimal digits")
		}
	} else if b, ok := strings.CutPrefix(t, "0s"); ok {
		if k, err = base64.StdEncoding.DecodeString(b); err != nil {
			return nil, errors.New("what stands behind 0s is not base64")
		}
	} else {
		k = []byte(t)
	}
	if len(k) == 0 {
		return nil, errors.New("is empty")
	}
	return k, nil
}

// parseKey reads a key of a manually keyed child, of the given length in bytes.
func parseKey(s *Setting) (sa.Key, error) {
	t, err := s.text()
	if err != nil {
		return nil, err
	}
	if !strings.HasPrefix(t, "0x") && !strings.HasPrefix(t, "0s") {
		return nil, errors.New("a key is hexadecimal behind 0x, or base64 behind 0s")
	}
	return parseSecret(s)
}
