// SPDX-License-Identifier: Apache-2.0

package swanctl

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"quicksand/ike"
	"quicksand/sa"
)

// manual is an ike.Manual in the making.
type manual struct {
	ike.Manual
	protocol sa.Protocol
	proposal string
	section  *Section
	path     string
}

var manualTable = table[manual]{
	keys: []key[manual]{
		{name: "protocol", def: "esp", doc: "esp or ah.", set: setProtocol},
		{name: "proposal", derived: "none: it has to be said", doc: "The algorithms, one of each kind, such as aes256-sha256: no Diffie-Hellman group, no esn, and no counter-mode cipher (CTR, GCM), which would use its nonces again after a restart (RFC 8221 section 3).", set: to((*Setting).text, func(m *manual) *string { return &m.proposal })},
		{name: "spi_in", derived: "none: it has to be said", doc: "SPI of what the peer sends, above 255, in decimal or behind 0x in hexadecimal.", set: to(parseSPI, func(m *manual) *sa.SPI { return &m.In.SPI })},
		{name: "spi_out", derived: "none: it has to be said", doc: "SPI of what we send.", set: to(parseSPI, func(m *manual) *sa.SPI { return &m.Out.SPI })},
		{name: "key_in", derived: "none", doc: "The cipher's key for what the peer sends: hexadecimal behind 0x, or base64 behind 0s.", set: to(parseKey, func(m *manual) *sa.Key { return &m.In.EncryptionKey })},
		{name: "key_out", derived: "none", doc: "The cipher's key for what we send.", set: to(parseKey, func(m *manual) *sa.Key { return &m.Out.EncryptionKey })},
		{name: "auth_key_in", derived: "none", doc: "The integrity key for what the peer sends.", set: to(parseKey, func(m *manual) *sa.Key { return &m.In.IntegrityKey })},
		{name: "auth_key_out", derived: "none", doc: "The integrity key for what we send.", set: to(parseKey, func(m *manual) *sa.Key { return &m.Out.IntegrityKey })},
		{name: "encap", def: "no", doc: "UDP encapsulation, between ports 4500 unless the connection's local_port and remote_port say otherwise.", set: to(parseBool, func(m *manual) *bool { return &m.Encap })},
	},
	done: finishManualSuite,
}

func setProtocol(m *manual, s *Setting) (err error) {
	m.protocol, err = oneOf(s, "esp, ah", map[string]sa.Protocol{"esp": sa.ESP, "ah": sa.AH})
	return err
}

func parseSPI(s *Setting) (sa.SPI, error) {
	n, err := parseNumber(s, 256, 1<<32-1)
	return sa.SPI(n), err
}

func addManual(c *child, s *Section, path string) error {
	c.manual = &manual{section: s, path: path}
	return manualTable.decode(c.manual, s, path)
}

// What a manually keyed child cannot have, and why.
const (
	noNegotiation     = "a manually keyed child has no negotiation, so there is no Diffie-Hellman exchange and no rekeying"
	noCounterMode     = "a counter-mode cipher must not have fixed keys: after a restart the sequence numbers begin anew, and with them the nonces, under the same key (RFC 8221 section 3); use a CBC cipher, as in aes256-sha256"
	noExtendedNumbers = "they have to be negotiated: after a restart neither side could tell the upper half of the other's (RFC 4303 section 2.2.1)"
	noReplayWindow    = "a manually keyed child has no replay protection: after a restart the peer's sequence numbers begin anew, and a window would shut it out (RFC 4303 section 5); only 0 is accepted"
)

// finishManualSuite reads the proposal and compares the keys with it.
func finishManualSuite(m *manual, s *Section, path string) error {
	for _, k := range []string{"proposal", "spi_in", "spi_out"} {
		if !s.has(k) {
			return failAt(s, path, k, "is missing")
		}
	}
	p, err := sa.ParseProposal(m.protocol, m.proposal)
	switch {
	case err != nil:
		return failAt(s, path, "proposal", "%v", err)
	case p[0].Group != sa.GroupNone:
		return failAt(s, path, "proposal", "names a Diffie-Hellman group, but %s", noNegotiation)
	case len(p) > 1:
		return failAt(s, path, "proposal", "stands for %d choices, but nothing is there to choose", len(p))
	case p[0].Encryption.SaltLen() > 0:
		return failAt(s, path, "proposal", "names %s, but "+noCounterMode, p[0].Encryption)
	case p[0].ESN:
		return failAt(s, path, "proposal", "asks for extended sequence numbers, but "+noExtendedNumbers)
	}
	m.Suite = p[0].Suite
	for _, k := range []struct {
		name string
		key  sa.Key
		want int
	}{
		{"key_in", m.In.EncryptionKey, m.Suite.EncryptionKeyLen()},
		{"key_out", m.Out.EncryptionKey, m.Suite.EncryptionKeyLen()},
		{"auth_key_in", m.In.IntegrityKey, m.Suite.Integrity.KeyLen()},
		{"auth_key_out", m.Out.IntegrityKey, m.Suite.Integrity.KeyLen()},
	} {
		if len(k.key) != k.want {
			return failAt(s, path, k.name, "is %d bytes, but %s takes %d", len(k.key), m.Suite, k.want)
		}
	}
	return nil
}

// finishManual looks at the keys of a manually keyed child that belong to a
// negotiation.
func (c *child) finishManual(s *Section, path string) error {
	for _, v := range s.Settings {
		if v.Cleared {
			continue
		}
		bad := func(why string) error { return &Error{v.Pos, join(path, v.Key), why} }
		switch {
		case strings.HasSuffix(v.Key, "_proposals"):
			return bad(noNegotiation + "; its one proposal is manual.proposal")
		case strings.HasPrefix(v.Key, "rekey_"), strings.HasPrefix(v.Key, "rand_"):
			return bad(noNegotiation)
		case v.Key == "parallel_sas" && c.Parallel > 1:
			return bad("a manually keyed child is one pair of SAs")
		case v.Key == "replay_window" && c.ReplayWindow != 0:
			return bad(noReplayWindow)
		case v.Key == "start_action" && c.StartAction == ike.ActionTrap:
			return bad("a manually keyed child always stands; there is nothing to trap")
		case v.Key == "close_action" && c.CloseAction != ike.ActionNone, v.Key == "dpd_action" && c.DPDAction != ike.ActionNone:
			return bad("a manually keyed child has no IKE SA that could tell of it")
		}
	}
	c.ReplayWindow = 0
	if c.lifeTime != nil {
		c.Lifetime.LifeTime = *c.lifeTime
	}
	if c.lifeBytes != nil {
		c.Lifetime.LifeBytes = *c.lifeBytes
	}
	if c.lifePackets != nil {
		c.Lifetime.LifePackets = *c.lifePackets
	}
	return checkSelectors(c)
}

// install completes a manually keyed child by its connection's endpoints.
func (m *manual) install(c *ike.Child, conn *connection, s *Section, path string) error {
	local, err1 := singleAddr(conn.LocalAddrs)
	remote, err2 := singleAddr(conn.RemoteAddrs)
	switch {
	case err1 != nil:
		return &Error{m.section.Pos, m.path, fmt.Sprintf("the connection's local_addrs %v", err1)}
	case err2 != nil:
		return &Error{m.section.Pos, m.path, fmt.Sprintf("the connection's remote_addrs %v", err2)}
	case local.BitLen() != remote.BitLen():
		return &Error{m.section.Pos, m.path, "the connection's addresses are of different families"}
	}
	port := func(p uint16) uint16 {
		if m.Encap && p == 500 {
			return 4500
		}
		return p
	}
	m.Local = netip.AddrPortFrom(local, port(conn.LocalPort))
	m.Remote = netip.AddrPortFrom(remote, port(conn.RemotePort))
	for _, side := range []struct {
		ts   *ike.Dynamic
		addr netip.Addr
	}{{&c.LocalTS, local}, {&c.RemoteTS, remote}} {
		if side.ts.IsDynamic {
			side.ts.IsDynamic = false
			side.ts.From, side.ts.To = side.addr, side.addr
		}
	}
	if c.LocalTS.From.BitLen() != c.RemoteTS.From.BitLen() {
		return &Error{s.Pos, path, "local_ts and remote_ts are of different address families"}
	}
	c.Manual = &m.Manual
	return nil
}

func singleAddr(addrs []ike.AddrMatch) (netip.Addr, error) {
	if len(addrs) != 1 || addrs[0].Host != "" || addrs[0].From != addrs[0].To {
		return netip.Addr{}, errors.New("must be one address, for the manually keyed child")
	}
	return addrs[0].From, nil
}
