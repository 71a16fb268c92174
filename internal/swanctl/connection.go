// SPDX-License-Identifier: Apache-2.0

package swanctl

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"quicksand/ike"
	"quicksand/sa"
)

// connection is an ike.Connection in the making. A nil time was not set.
type connection struct {
	ike.Connection
	rekey, reauth, over, rand *time.Duration
	localRounds, remoteRounds int
	ifIDIn, ifIDOut           uint32 // of children that say nothing else
}

// round is one local or remote section.
type round struct {
	id   ike.Identity
	auth bool // "psk" was said
}

// Connection makes a connection of a section with the keys of
// connections.<conn>. All children are in it.
func Connection(name string, s *Section) (*ike.Connection, error) {
	return makeConnection(name, s, "connections."+name)
}

func makeConnection(name string, s *Section, path string) (*ike.Connection, error) {
	c := connection{Connection: ike.Connection{Name: name}}
	if err := connectionTable.decode(&c, s, path); err != nil {
		return nil, err
	}
	return &c.Connection, nil
}

// to makes a setter of a parser and the field that takes the value.
func to[T, V any](parse func(*Setting) (V, error), field func(*T) *V) func(*T, *Setting) error {
	return func(t *T, s *Setting) error {
		v, err := parse(s)
		if err != nil {
			return err
		}
		*field(t) = v
		return nil
	}
}

// given makes a setter that remembers, by a pointer, that there was a value.
func given[T, V any](parse func(*Setting) (V, error), field func(*T) **V) func(*T, *Setting) error {
	return func(t *T, s *Setting) error {
		v, err := parse(s)
		if err != nil {
			return err
		}
		*field(t) = &v
		return nil
	}
}

const (
	noCertificates = "there is no authentication by certificates"
	noModeConfig   = "there is no Mode Config"
	onlyIKEv2      = "it belongs to IKEv2"
)

var connectionTable = table[connection]{done: finishConnection}

func init() {
	connectionTable.keys = connectionKeys
	connectionTable.subs = []sub[connection]{
		{"local*", "How we authenticate ourselves. One such section is needed, except where all children are keyed manually.", addLocal, &roundTable},
		{"remote*", "How the peer has to authenticate itself. Without such a section it may have any identity.", addRemote, &roundTable},
		{"children", "What is negotiated under the IKE SA, each in a section of its own.", addChildren, &childrenTable},
	}
}

var connectionKeys = []key[connection]{
	{name: "version", def: "1", doc: "IKE version: 1, or 0, which leaves it open, comes to the same and is strongSwan's default.", set: setVersion},
	{name: "local_addrs", def: "%any", doc: "Our addresses: addresses, subnets, ranges and host names, separated by commas. The first single one is where a connection is initiated from; a responder's address has to match one of them.",
		set: to(parseAddrs, func(c *connection) *[]ike.AddrMatch { return &c.LocalAddrs })},
	{name: "remote_addrs", def: "%any", doc: "The peer's addresses, in the same form. To initiate, one of them has to be a single address or a host name.",
		set: to(parseAddrs, func(c *connection) *[]ike.AddrMatch { return &c.RemoteAddrs })},
	{name: "local_port", def: "500", doc: "Our UDP port for IKE.", set: to(parsePort, func(c *connection) *uint16 { return &c.LocalPort })},
	{name: "remote_port", def: "500", doc: "The peer's UDP port for IKE.", set: to(parsePort, func(c *connection) *uint16 { return &c.RemotePort })},
	{name: "proposals", def: "default", doc: "IKE proposals such as aes256-sha256-modp2048, separated by commas, first preferred. Several algorithms of one kind in a proposal are alternatives (strongSwan keeps the first one only). default stands for AES-CBC with SHA-2 and X25519, the NIST curves, or groups of 2048 bits and more.", set: setIKEProposals},
	{name: "encap", def: "no", doc: "Force UDP encapsulation, as if there were a NAT.", set: to(parseBool, func(c *connection) *bool { return &c.Encap })},
	{name: "dpd_delay", def: "0s", doc: "Ask a peer that has been silent for so long whether it is alive (RFC 3706). 0 never asks.",
		set: to(parseTime, func(c *connection) *time.Duration { return &c.DPDDelay })},
	{name: "dpd_timeout", def: "0s", doc: "Give up a peer that has been silent for so long, dpd_delay included. 0 goes by the retransmission schedule.",
		set: to(parseTime, func(c *connection) *time.Duration { return &c.DPDTimeout })},
	{name: "rekey_time", derived: "4h, or 0s where reauth_time is set", doc: "Make a new IKE SA after this time, less a random part of rand_time. IKEv1 does so by Main Mode; the children pass to the new one. 0 never does.",
		set: given(parseTime, func(c *connection) **time.Duration { return &c.rekey })},
	{name: "reauth_time", derived: "0s", doc: "The same as rekey_time in IKEv1; the sooner of both counts.",
		set: given(parseTime, func(c *connection) **time.Duration { return &c.reauth })},
	{name: "over_time", derived: "10% of the longer of rekey_time and reauth_time", doc: "Give up an IKE SA that could not be renewed for so long after its time.",
		set: given(parseTime, func(c *connection) **time.Duration { return &c.over })},
	{name: "rand_time", derived: "over_time, at most half of the shorter of rekey_time and reauth_time", doc: "The most that is taken off rekey_time and reauth_time at random, so that both ends do not renew at once.",
		set: given(parseTime, func(c *connection) **time.Duration { return &c.rand })},
	{name: "keyingtries", def: "1", doc: "How often Main Mode is tried, each time with all its retransmissions. 0 tries without end.", set: setKeyingTries},
	{name: "unique", def: "no", doc: "What becomes of other IKE SAs with the same two identities: no (deleted where the peer says INITIAL_CONTACT), never (kept even then), replace (deleted), keep (the new one is refused).", set: setUnique},
	{name: "if_id_in", def: "0", doc: "if_id_in of the children that have none of their own.", set: to(parseIfID, func(c *connection) *uint32 { return &c.ifIDIn })},
	{name: "if_id_out", def: "0", doc: "if_id_out of the children that have none of their own.", set: to(parseIfID, func(c *connection) *uint32 { return &c.ifIDOut })},
	{name: "identity_pfs", def: "no", doc: "Delete the IKE SA once a Quick Mode under it is done, and make a new one for the next: perfect forward secrecy of the identities too (RFC 2409 section 8). quicksand's own key.",
		set: to(parseBool, func(c *connection) *bool { return &c.IdentityPFS })},

	ignore[connection]("fragmentation", "Messages with a pre-shared key fit a datagram, so none is fragmented; force is refused.", checkFragmentation),
	ignore[connection]("mobike", "Belongs to IKEv2.", checkBool),
	ignore[connection]("pull", "Matters to Mode Config only, which there is not.", checkBool),
	ignore[connection]("send_cert", "Matters to certificates only, which there are not.", check("always", "never", "ifasked")),
	ignore[connection]("send_certreq", "Matters to certificates only, which there are not.", checkBool),
	ignore[connection]("childless", "Belongs to IKEv2.", check("allow", "prefer", "never", "force")),
	refuse[connection]("aggressive", "Aggressive Mode sends the identities in clear and lets anyone guess at the secret", "no"),
	refuse[connection]("dscp", "IKE messages carry no DSCP", "000000", "0"),
	refuse[connection]("vips", noModeConfig),
	refuse[connection]("pools", noModeConfig),
	refuse[connection]("ocsp", noCertificates, "reply", "never"),
	refuse[connection]("ppk_id", onlyIKEv2),
	refuse[connection]("ppk_required", onlyIKEv2, "no"),
	refuse[connection]("mediation", onlyIKEv2, "no"),
	refuse[connection]("mediated_by", onlyIKEv2),
	refuse[connection]("mediation_peer", onlyIKEv2),
}

var roundTable = table[round]{
	keys: []key[round]{
		{name: "auth", derived: "none: it has to be said", doc: "How to authenticate: psk, a pre-shared key.", set: setAuth},
		{name: "id", derived: "local: our address; remote: %any", doc: "The identity: an address, a domain name, user@domain, @#hex for a key id, or one of them behind its type and a colon (ipv4, ipv6, fqdn, userfqdn, keyid). For the peer also *.domain, *@domain or %any, which match many.",
			set: to(parseIdentity, func(r *round) *ike.Identity { return &r.id })},
		ignore[round]("round", "There is one round only.", func(s *Setting) error {
			_, err := parseNumber(s, 0, 1<<32-1)
			return err
		}),
		refuse[round]("certs", noCertificates),
		refuse[round]("pubkeys", noCertificates),
		refuse[round]("cacerts", noCertificates),
		refuse[round]("ca_id", noCertificates),
		refuse[round]("cert_policy", noCertificates),
		refuse[round]("groups", noCertificates),
		refuse[round]("revocation", noCertificates, "relaxed"),
		refuse[round]("eap_id", onlyIKEv2),
		refuse[round]("aaa_id", onlyIKEv2),
		refuse[round]("xauth_id", "there is no XAuth"),
	},
	subs: []sub[round]{
		refuseSection[round]("cert*", noCertificates),
		refuseSection[round]("cacert*", noCertificates),
	},
}

func setVersion(_ *connection, s *Setting) error {
	t, err := s.text()
	if err != nil {
		return err
	}
	switch t {
	case "0", "1":
		return nil
	case "2":
		return errors.New("IKEv2 is not supported: this is a daemon for IKEv1")
	}
	return fmt.Errorf("%q is not an IKE version", t)
}

func parsePort(s *Setting) (uint16, error) {
	n, err := parseNumber(s, 1, 65535)
	return uint16(n), err
}

func setIKEProposals(c *connection, s *Setting) error {
	c.Proposals = nil
	for _, item := range s.Items() {
		p := sa.DefaultIKEProposal()
		if item != "default" {
			var err error
			if p, err = sa.ParseIKEProposal(item); err != nil {
				return err
			}
		}
		for _, t := range p {
			if !slices.Contains(c.Proposals, t) {
				c.Proposals = append(c.Proposals, t)
			}
		}
	}
	if len(c.Proposals) == 0 {
		c.Proposals = sa.DefaultIKEProposal()
	}
	return nil
}

func setKeyingTries(c *connection, s *Setting) error {
	n, err := parseNumber(s, 0, 1<<20)
	c.KeyingTries = int(n)
	return err
}

func setUnique(c *connection, s *Setting) (err error) {
	c.Unique, err = oneOf(s, "no, never, keep, replace", map[string]ike.Unique{
		"no": ike.UniqueNo, "never": ike.UniqueNever, "keep": ike.UniqueKeep, "replace": ike.UniqueReplace,
	})
	return err
}

func checkFragmentation(s *Setting) error {
	if t, _ := s.text(); strings.EqualFold(t, "force") {
		return errors.New("force is not supported: there is no IKE fragmentation")
	}
	return check("yes", "no", "accept")(s)
}

func setAuth(r *round, s *Setting) error {
	t, err := s.text()
	if err != nil {
		return err
	}
	method, _, _ := strings.Cut(strings.ToLower(t), "-")
	switch method {
	case "psk":
		if len(t) == len("psk") {
			r.auth = true
			return nil
		}
	case "pubkey", "rsa", "ecdsa", "ed25519", "ed448", "bliss", "ike:pubkey":
		return fmt.Errorf("%q is not supported: %s; only psk is", t, noCertificates)
	case "xauth":
		return fmt.Errorf("%q is not supported: there is no XAuth; only psk is", t)
	case "eap":
		return fmt.Errorf("%q is not supported: it belongs to IKEv2; only psk is", t)
	}
	return fmt.Errorf("%q is not psk, the one method supported", t)
}

// addRound reads one local or remote section, of which there may be one.
func addRound(s *Section, path string, seen *int) (ike.Identity, error) {
	if *seen++; *seen > 1 {
		return ike.Identity{}, errors.New("a second round of authentication is not supported: there is no XAuth")
	}
	var r round
	if err := roundTable.decode(&r, s, path); err != nil {
		return r.id, err
	}
	if !r.auth {
		return r.id, failAt(s, path, "auth", "is not set and would be pubkey, which is not supported; write auth = psk")
	}
	return r.id, nil
}

func addLocal(c *connection, s *Section, path string) (err error) {
	c.LocalID, err = addRound(s, path, &c.localRounds)
	return err
}

func addRemote(c *connection, s *Section, path string) (err error) {
	c.RemoteID, err = addRound(s, path, &c.remoteRounds)
	return err
}

// finishConnection derives what the settings leave open, as swanctl.conf(5)
// says, and looks at what does not fit together.
func finishConnection(c *connection, s *Section, path string) error {
	manual := 0
	for _, child := range c.Children {
		if child.Manual != nil {
			manual++
		}
	}
	if c.localRounds == 0 && manual < max(len(c.Children), 1) {
		return &Error{s.Pos, path, "has no section local with auth = psk"}
	}
	switch {
	case c.rekey != nil:
		c.RekeyTime = *c.rekey
	case c.reauth == nil:
		c.RekeyTime = 4 * time.Hour
	}
	if c.reauth != nil {
		c.ReauthTime = *c.reauth
	}
	longest, shortest := max(c.RekeyTime, c.ReauthTime), min(c.RekeyTime, c.ReauthTime)
	if shortest == 0 {
		shortest = longest
	}
	c.OverTime = longest / 10
	if c.over != nil {
		c.OverTime = *c.over
	}
	c.RandTime = min(c.OverTime, shortest/2)
	if c.rand != nil {
		c.RandTime = *c.rand
	}
	if c.RandTime > shortest && c.rand != nil {
		return failAt(s, path, "rand_time", "%s is more than the %s it is taken off", c.RandTime, shortest)
	}
	if c.DPDTimeout != 0 && c.DPDDelay != 0 && c.DPDTimeout <= c.DPDDelay {
		return failAt(s, path, "dpd_timeout", "%s is not more than dpd_delay, %s: the peer would have no time to answer", c.DPDTimeout, c.DPDDelay)
	}
	return nil
}
