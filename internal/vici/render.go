// SPDX-License-Identifier: Apache-2.0

package vici

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	"quicksand/ike"
	"quicksand/sa"
)

// renderIKE sets an IKE SA's data, without its children, under strongSwan's
// names. Times are in whole seconds from now.
func renderIKE(m *Message, i *ike.IKEInfo, now time.Time) {
	m.SetInt("uniqueid", int64(i.ID))
	m.Set("version", "1")
	state := string(i.State)
	if i.ID == 0 { // manually keyed children stand under no IKE SA
		state = "MANUAL"
	}
	m.Set("state", state)
	m.Set("local-host", i.Local.Addr().String())
	m.SetInt("local-port", int64(i.Local.Port()))
	m.Set("local-id", i.LocalID.String())
	m.Set("remote-host", i.Remote.Addr().String())
	m.SetInt("remote-port", int64(i.Remote.Port()))
	m.Set("remote-id", i.RemoteID.String())
	m.SetYes("initiator", i.Initiator)
	m.Set("initiator-spi", i.Cookies[0])
	m.Set("responder-spi", i.Cookies[1])
	m.SetYes("nat-local", i.NATLocal)
	m.SetYes("nat-remote", i.NATRemote)
	m.SetYes("nat-any", i.NATLocal || i.NATRemote)
	if t := i.Transform; t.Hash != 0 {
		renderCipher(m, t.Encryption, t.KeyBits)
		m.Set("integ-alg", t.Hash.Integrity().String())
		m.Set("prf-alg", t.Hash.String())
		m.Set("dh-group", t.Group.String())
	}
	if i.ID != 0 && i.State == ike.IKEEstablished && !i.Established.IsZero() {
		m.SetInt("established", seconds(now.Sub(i.Established)))
		if !i.Rekey.IsZero() {
			m.SetInt("rekey-time", seconds(i.Rekey.Sub(now)))
		}
	}
}

// renderChild sets a child SA's data under strongSwan's names, and the
// placement under names of our own.
func renderChild(m *Message, c *ike.ChildInfo, in, out sa.Counters, now time.Time) {
	p := c.Pair
	m.Set("name", p.Child)
	m.SetInt("uniqueid", int64(p.ID))
	m.SetInt("reqid", int64(p.Reqid))
	m.Set("state", string(c.State))
	m.Set("mode", p.Mode.String())
	m.Set("protocol", p.Suite.Protocol.String())
	m.SetYes("encap", p.Encap)
	m.Set("spi-in", p.In.SPI.String())
	m.Set("spi-out", p.Out.SPI.String())
	if p.Lanes > 1 {
		m.SetInt("lane", int64(p.Lane))
		m.SetInt("lanes", int64(p.Lanes))
	}
	if p.Suite.Encryption != sa.EncryptionNone {
		renderCipher(m, p.Suite.Encryption, p.Suite.KeyBits)
	}
	if p.Suite.Integrity != sa.IntegrityNone {
		m.Set("integ-alg", p.Suite.Integrity.String())
	}
	if c.Group != sa.GroupNone {
		m.Set("dh-group", c.Group.String())
	}
	if p.Suite.ESN {
		m.Set("esn", "1")
	}
	renderMarking(m, p.Marking)
	renderCounters(m, "in", in, now)
	renderCounters(m, "out", out, now)
	if !c.Rekey.IsZero() {
		m.SetInt("rekey-time", seconds(c.Rekey.Sub(now)))
	}
	if !c.Expire.IsZero() {
		m.SetInt("life-time", seconds(c.Expire.Sub(now)))
	}
	m.SetInt("install-time", seconds(now.Sub(c.Installed)))
	m.SetList("local-ts", p.LocalTS.String())
	m.SetList("remote-ts", p.RemoteTS.String())
	if c.Placement.Kind != 0 {
		m.Set("placement", c.Placement.Kind.String())
		m.Set("placement-device", c.Placement.Device)
		m.Set("placement-detail", c.Placement.Detail)
	}
}

func renderCipher(m *Message, e sa.Encryption, bits uint16) {
	m.Set("encr-alg", e.String())
	if bits != 0 && e != sa.TripleDESCBC {
		m.SetInt("encr-keysize", int64(bits))
	}
}

func renderMarking(m *Message, k sa.Marking) {
	for _, d := range []struct {
		name string
		mark sa.Mark
		ifID uint32
	}{{"in", k.In, k.IfIDIn}, {"out", k.Out, k.IfIDOut}} {
		if d.mark != (sa.Mark{}) {
			m.Set("mark-"+d.name, fmt.Sprintf("%08x", d.mark.Value))
			m.Set("mark-mask-"+d.name, fmt.Sprintf("%08x", d.mark.Mask))
		}
		if d.ifID != 0 {
			m.Set("if-id-"+d.name, fmt.Sprintf("%08x", d.ifID))
		}
	}
}

func renderCounters(m *Message, direction string, c sa.Counters, now time.Time) {
	m.Set("bytes-"+direction, fmt.Sprint(c.Bytes))
	m.Set("packets-"+direction, fmt.Sprint(c.Packets))
	if !c.Last.IsZero() {
		m.SetInt("use-"+direction, seconds(now.Sub(c.Last)))
	}
}

// childName is the name of a child SA's section, which its id makes unique.
func childName(c *ike.ChildInfo) string { return fmt.Sprintf("%s-%d", c.Pair.Child, c.Pair.ID) }

// seconds rounds down, and a time that has passed up to now.
func seconds(d time.Duration) int64 { return max(0, int64(d/time.Second)) }

// renderConnection sets a connection's data under strongSwan's names.
func renderConnection(m *Message, c *ike.Connection) {
	m.SetList("local_addrs", addresses(c.LocalAddrs)...)
	m.SetList("remote_addrs", addresses(c.RemoteAddrs)...)
	m.Set("version", "IKEv1")
	m.SetInt("reauth_time", seconds(c.ReauthTime))
	m.SetInt("rekey_time", seconds(c.RekeyTime))
	m.Set("unique", uniqueNames[c.Unique])
	if c.DPDDelay > 0 {
		m.SetInt("dpd_delay", seconds(c.DPDDelay))
	}
	renderAuth(m.SetSub("local-1"), c.LocalID)
	renderAuth(m.SetSub("remote-1"), c.RemoteID)
	children := m.SetSub("children")
	for _, ch := range c.Children {
		renderChildConfig(children.SetSub(ch.Name), ch)
	}
}

func renderAuth(m *Message, id ike.Identity) {
	m.Set("id", id.String())
	m.Set("class", "pre-shared key")
	for _, name := range []string{"groups", "cert_policy", "certs", "cacerts"} {
		m.SetList(name)
	}
}

func renderChildConfig(m *Message, c *ike.Child) {
	m.Set("mode", c.Mode.String())
	m.SetInt("rekey_time", seconds(c.Lifetime.RekeyTime))
	m.Set("rekey_bytes", fmt.Sprint(c.Lifetime.RekeyBytes))
	m.Set("rekey_packets", fmt.Sprint(c.Lifetime.RekeyPackets))
	if c.Parallel > 1 {
		m.SetInt("parallel_sas", int64(c.Parallel))
	}
	m.Set("dpd_action", actionNames[c.DPDAction])
	m.Set("close_action", actionNames[c.CloseAction])
	m.SetList("local-ts", dynamicString(c.LocalTS))
	m.SetList("remote-ts", dynamicString(c.RemoteTS))
}

var (
	uniqueNames = map[ike.Unique]string{
		ike.UniqueNo: "UNIQUE_NO", ike.UniqueReplace: "UNIQUE_REPLACE",
		ike.UniqueKeep: "UNIQUE_KEEP", ike.UniqueNever: "UNIQUE_NEVER",
	}
	actionNames = map[ike.StartAction]string{
		ike.ActionNone: "none", ike.ActionTrap: "trap", ike.ActionStart: "start",
	}
)

// dynamicString renders "dynamic" selectors as strongSwan does, with the
// protocol and port of an address selector where they are restricted.
func dynamicString(d ike.Dynamic) string {
	if !d.IsDynamic {
		return d.Selector.String()
	}
	host := netip.IPv4Unspecified()
	s := sa.Selector{From: host, To: host, Protocol: d.Protocol, Port: d.Port}.String()
	if i := strings.IndexByte(s, '['); i >= 0 {
		return "dynamic" + s[i:]
	}
	return "dynamic"
}

func addresses(list []ike.AddrMatch) []string {
	if len(list) == 0 {
		return []string{"%any"}
	}
	var out []string
	for _, a := range list {
		out = append(out, addressString(a))
	}
	return out
}

func addressString(a ike.AddrMatch) string {
	switch {
	case a.Host != "":
		return a.Host
	case a.From == a.To:
		return a.From.String()
	}
	if p, ok := (sa.Selector{From: a.From, To: a.To}).Prefix(); ok {
		return p.String()
	}
	return a.From.String() + "-" + a.To.String()
}
