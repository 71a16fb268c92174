// SPDX-License-Identifier: Apache-2.0

package swanctl

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"quicksand/ike"
	"quicksand/sa"
)

// child is an ike.Child in the making. A nil lifetime was not set.
type child struct {
	ike.Child
	rekeyTime, lifeTime, randTime          *time.Duration
	rekeyBytes, lifeBytes, randBytes       *uint64
	rekeyPackets, lifePackets, randPackets *uint64
	manual                                 *manual
}

var (
	childTable    = table[child]{done: finishChild}
	childrenTable = table[connection]{}
)

func init() {
	childTable.keys = childKeys
	childTable.subs = []sub[child]{
		{"manual", "A child with keys of its own and no IKE (RFC 4301 section 4.5.1). It stands as long as it is configured. There is no negotiation: so no proposals, no PFS, no rekeying and no replay protection; life_time counts from its installation; local_addrs and remote_addrs of the connection are one address each. quicksand's own section.", addManual, &manualTable},
	}
	childrenTable.subs = []sub[connection]{
		{"<child>", "A child: a pair of IPsec SAs, and what it protects.", addChild, &childTable},
	}
}

func addChildren(c *connection, s *Section, path string) error {
	return childrenTable.decode(c, s, path)
}

func addChild(c *connection, s *Section, path string) error {
	in := child{Child: ike.Child{Name: s.Name, Marking: sa.Marking{IfIDIn: c.ifIDIn, IfIDOut: c.ifIDOut}}}
	if err := childTable.decode(&in, s, path); err != nil {
		return err
	}
	if in.manual != nil {
		if err := in.manual.install(&in.Child, c, s, path); err != nil {
			return err
		}
	}
	c.Children = append(c.Children, &in.Child)
	return nil
}

var childKeys = []key[child]{
	{name: "esp_proposals", derived: "default, where ah_proposals is not set", doc: "ESP proposals such as aes128gcm16-modp2048 or aes256-sha256, separated by commas, first preferred. Several algorithms of one kind in a proposal are alternatives. A Diffie-Hellman group asks for PFS; esn for extended sequence numbers. default stands for AES-GCM, then AES-CBC with SHA-2, without PFS.",
		set: func(c *child, s *Setting) error { return c.addProposals(sa.ESP, s) }},
	{name: "ah_proposals", derived: "none", doc: "AH proposals such as sha256-modp2048, separated by commas, first preferred.",
		set: func(c *child, s *Setting) error { return c.addProposals(sa.AH, s) }},
	{name: "local_ts", def: "dynamic", doc: "Our side's traffic: one subnet, address or range (10.1.0.5-10.1.0.9), or dynamic, our own address; with [protocol/port] behind it where not everything is meant, both as a number or a name, such as [tcp/https]. IKEv1 carries one selector in each direction.",
		set: to(parseSelector, func(c *child) *ike.Dynamic { return &c.LocalTS })},
	{name: "remote_ts", def: "dynamic", doc: "The peer's side's traffic, in the same form.",
		set: to(parseSelector, func(c *child) *ike.Dynamic { return &c.RemoteTS })},
	{name: "mode", def: "tunnel", doc: "tunnel or transport.", set: setMode},
	{name: "rekey_time", derived: "1h, or life_time / 1.1 where that is set", doc: "Negotiate new SAs after this time, less a random part of rand_time. 0 never does.",
		set: given(parseTime, func(c *child) **time.Duration { return &c.rekeyTime })},
	{name: "life_time", derived: "110% of rekey_time", doc: "Delete the SAs after this time. 0 never does.",
		set: given(parseTime, func(c *child) **time.Duration { return &c.lifeTime })},
	{name: "rand_time", derived: "life_time - rekey_time, at most half of rekey_time", doc: "The most that is taken off rekey_time at random, so that both ends do not rekey at once.",
		set: given(parseTime, func(c *child) **time.Duration { return &c.randTime })},
	{name: "rekey_bytes", derived: "0, or life_bytes / 1.1 where that is set", doc: "Negotiate new SAs after so many bytes in one direction, less a random part of rand_bytes. 0 never does.",
		set: given(parseBytes, func(c *child) **uint64 { return &c.rekeyBytes })},
	{name: "life_bytes", derived: "110% of rekey_bytes", doc: "Delete the SAs after so many bytes in one direction. 0 never does.",
		set: given(parseBytes, func(c *child) **uint64 { return &c.lifeBytes })},
	{name: "rand_bytes", derived: "life_bytes - rekey_bytes, at most half of rekey_bytes", doc: "The most that is taken off rekey_bytes at random.",
		set: given(parseBytes, func(c *child) **uint64 { return &c.randBytes })},
	{name: "rekey_packets", derived: "0, or life_packets / 1.1 where that is set", doc: "Negotiate new SAs after so many packets in one direction, less a random part of rand_packets. 0 never does.",
		set: given(parsePackets, func(c *child) **uint64 { return &c.rekeyPackets })},
	{name: "life_packets", derived: "110% of rekey_packets", doc: "Delete the SAs after so many packets in one direction. 0 never does.",
		set: given(parsePackets, func(c *child) **uint64 { return &c.lifePackets })},
	{name: "rand_packets", derived: "life_packets - rekey_packets, at most half of rekey_packets", doc: "The most that is taken off rekey_packets at random.",
		set: given(parsePackets, func(c *child) **uint64 { return &c.randPackets })},
	{name: "replay_window", def: "32", doc: "How many packets back a late packet is still accepted, 0 to 4096. 0 turns replay protection off, as it always is for a manually keyed child.", set: setReplayWindow},
	{name: "hw_offload", def: "auto", doc: "How much a NIC must do: auto (the best there is), packet, crypto (also written yes), no. strongSwan's default is no.", set: setOffload},
	{name: "parallel_sas", def: "1", doc: "How many pairs of SAs the child has side by side, 1 to 64, each negotiated by a Quick Mode of its own with the same identities. Outbound flows are spread over them by addresses, protocol and ports (fragments by addresses), so that with several worker_cores one child uses more than one; the order within a flow is kept. Only user space spreads: such a child does not run on the kernel or a NIC. Both ends need the setting where both are quicksand: a responder has no more pairs than its own says, and with 1 takes each Quick Mode for a renegotiation. Other peers must keep several SAs with the same selectors: strongSwan does, and sends over the newest. quicksand's own; strongSwan's per_cpu_sas belongs to IKEv2 (RFC 9611) and goes by CPU, not by flow.", set: setParallel},
	{name: "mark_in", def: "0/0", doc: "The child is for incoming packets with this firewall mark: value or value/mask. Marks and XFRM interfaces are the kernel's: such a child runs as crypto or kernel.",
		set: to(parseMark, func(c *child) *sa.Mark { return &c.Marking.In })},
	{name: "mark_out", def: "0/0", doc: "The same for outgoing packets. Routes for them are the operator's to make.", set: to(parseMark, func(c *child) *sa.Mark { return &c.Marking.Out })},
	{name: "set_mark_in", def: "0/0", doc: "Set this firewall mark on what came in by the child: value or value/mask.",
		set: to(parseMark, func(c *child) *sa.Mark { return &c.Marking.SetIn })},
	{name: "set_mark_out", def: "0/0", doc: "Set this firewall mark on the ESP or AH packets that go out, in place of the daemon's own, by which they pass the tunnels' routes by.",
		set: to(parseMark, func(c *child) *sa.Mark { return &c.Marking.SetOut })},
	{name: "if_id_in", derived: "the connection's", doc: "The child is for the XFRM interface with this number, which decrypted packets appear on. 0 is none.",
		set: to(parseIfID, func(c *child) *uint32 { return &c.Marking.IfIDIn })},
	{name: "if_id_out", derived: "the connection's", doc: "The same for packets that are routed to the interface. Routes to it are the operator's to make.",
		set: to(parseIfID, func(c *child) *uint32 { return &c.Marking.IfIDOut })},
	{name: "copy_df", def: "yes", doc: "Copy the DF bit to the outer IPv4 header of a tunnel.", set: to(parseBool, func(c *child) *bool { return &c.CopyDF })},
	{name: "copy_ecn", def: "yes", doc: "Copy ECN between the inner and the outer header of a tunnel.", set: to(parseBool, func(c *child) *bool { return &c.CopyECN })},
	{name: "copy_dscp", def: "out", doc: "Copy DSCP between the headers of a tunnel: out (inner to outer), in (outer to inner), yes (both), no.", set: setDSCP},
	{name: "start_action", def: "none", doc: "What to do when the child is loaded: none, trap (bring it up when traffic needs it), start (bring it up).", set: setAction(func(c *child) *ike.StartAction { return &c.StartAction })},
	{name: "close_action", def: "none", doc: "What to do when the peer deletes the child: none, trap, start.", set: setAction(func(c *child) *ike.StartAction { return &c.CloseAction })},
	{name: "dpd_action", def: "clear", doc: "What to do when the peer is found dead: clear (take the child down and no more), trap, restart.", set: setAction(func(c *child) *ike.StartAction { return &c.DPDAction })},
	{name: "reqid", def: "0", doc: "The number that ties the child's SAs to its policies. 0 lets the daemon choose.", set: func(c *child, s *Setting) error {
		n, err := parseNumber(s, 0, 1<<32-1)
		c.ReqID = uint32(n)
		return err
	}},

	ignore[child]("hostaccess", "Matters to updown scripts only, which there are not.", checkBool),
	ignore[child]("label_mode", "Belongs to IKEv2.", check("system", "simple", "selinux")),
	refuse[child]("label", onlyIKEv2),
	refuse[child]("sha256_96", "SHA-256 is cut to 128 bits, as RFC 4868 says", "no"),
	refuse[child]("updown", "no scripts are run"),
	refuse[child]("policies", "a child without policies would protect nothing", "yes"),
	refuse[child]("policies_fwd_out", "there are no policies for forwarded traffic", "no"),
	refuse[child]("ipcomp", "there is no compression", "no"),
	refuse[child]("inactivity", "children are not closed for want of traffic", "0", "0s"),
	refuse[child]("priority", "the order of policies follows from their selectors", "0"),
	refuse[child]("interface", "policies hold for all interfaces"),
	refuse[child]("tfc_padding", "packets are not padded", "0"),
	refuse[child]("mark_in_sa", "an SPI stands for one inbound SA, whatever the mark", "no"),
	refuse[child]("per_cpu_sas", onlyIKEv2+" (RFC 9611); parallel_sas is what comes nearest", "no"),
}

func (c *child) addProposals(p sa.Protocol, s *Setting) error {
	for _, item := range s.Items() {
		one := sa.DefaultProposal(p)
		if item != "default" {
			var err error
			if one, err = sa.ParseProposal(p, item); err != nil {
				return err
			}
		}
		if len(one) > 255 {
			return fmt.Errorf("%q stands for %d transforms, but a proposal carries 255", item, len(one))
		}
		c.Proposals = append(c.Proposals, one)
	}
	if len(c.Proposals) > 255 {
		return fmt.Errorf("%d proposals, but a message carries 255", len(c.Proposals))
	}
	return nil
}

func setMode(c *child, s *Setting) error {
	t, err := s.text()
	if err != nil {
		return err
	}
	switch strings.ToLower(t) {
	case "tunnel":
		c.Mode = sa.Tunnel
	case "transport":
		c.Mode = sa.Transport
	case "pass", "drop":
		return fmt.Errorf("%q is not supported: a child is a pair of SAs, policies without any have no place here", t)
	case "beet", "transport_proxy":
		return fmt.Errorf("%q is not supported: only tunnel and transport are", t)
	default:
		return fmt.Errorf("%q is not one of tunnel, transport", t)
	}
	return nil
}

func setReplayWindow(c *child, s *Setting) error {
	n, err := parseNumber(s, 0, 4096)
	c.ReplayWindow = uint32(n)
	return err
}

func setParallel(c *child, s *Setting) error {
	n, err := parseNumber(s, 1, ike.MaxParallel)
	if c.Parallel = int(n); n == 1 {
		c.Parallel = 0 // the one way to say it
	}
	return err
}

func setOffload(c *child, s *Setting) (err error) {
	c.Offload, err = oneOf(s, "auto, packet, crypto, no", map[string]sa.Offload{
		"auto": sa.OffloadAuto, "no": sa.OffloadNo, "crypto": sa.OffloadCrypto, "yes": sa.OffloadCrypto, "packet": sa.OffloadPacket,
	})
	return err
}

func setDSCP(c *child, s *Setting) (err error) {
	c.CopyDSCP, err = oneOf(s, "out, in, yes, no", map[string]sa.DSCPCopy{
		"out": sa.DSCPOut, "in": sa.DSCPIn, "yes": sa.DSCPBoth, "no": sa.DSCPNone,
	})
	return err
}

// actions are the names that strongSwan takes for all three actions alike.
var actions = map[string]ike.StartAction{
	"none": ike.ActionNone, "clear": ike.ActionNone,
	"trap": ike.ActionTrap, "route": ike.ActionTrap,
	"start": ike.ActionStart, "restart": ike.ActionStart,
}

func setAction(field func(*child) *ike.StartAction) func(*child, *Setting) error {
	return func(c *child, s *Setting) (err error) {
		if t, _ := s.text(); strings.Contains(t, "|") {
			return fmt.Errorf("%q: actions cannot be combined; write start, to bring the child up at once and to go on trying, or trap, to bring it up when traffic needs it", t)
		}
		*field(c), err = oneOf(s, "none, clear, trap, start, restart", actions)
		return err
	}
}

// finishChild derives what the settings leave open, as swanctl.conf(5) says,
// and looks at what does not fit together.
func finishChild(c *child, s *Section, path string) error {
	if c.manual != nil {
		return c.finishManual(s, path)
	}
	if len(c.Proposals) == 0 {
		c.Proposals = []sa.Proposal{sa.DefaultProposal(sa.ESP)}
	}
	l := &c.Lifetime
	l.RekeyTime, l.LifeTime, l.RandTime = lifetime(time.Hour, c.rekeyTime, c.lifeTime, c.randTime)
	l.RekeyBytes, l.LifeBytes, l.RandBytes = lifetime(0, c.rekeyBytes, c.lifeBytes, c.randBytes)
	l.RekeyPackets, l.LifePackets, l.RandPackets = lifetime(0, c.rekeyPackets, c.lifePackets, c.randPackets)
	for _, err := range []error{
		checkLifetime(s, path, "time", l.RekeyTime, l.LifeTime, l.RandTime),
		checkLifetime(s, path, "bytes", l.RekeyBytes, l.LifeBytes, l.RandBytes),
		checkLifetime(s, path, "packets", l.RekeyPackets, l.LifePackets, l.RandPackets),
	} {
		if err != nil {
			return err
		}
	}
	if c.Parallel > 1 {
		if err := checkParallel(c, s, path); err != nil {
			return err
		}
	}
	return checkSelectors(c)
}

// checkParallel refuses what would keep a child with several pairs out of user
// space.
func checkParallel(c *child, s *Section, path string) error {
	switch {
	case c.Offload == sa.OffloadCrypto || c.Offload == sa.OffloadPacket:
		return failAt(s, path, "parallel_sas", "only user space spreads a child over several SAs, and hw_offload = %s asks for a NIC", c.Offload)
	case c.Marking != (sa.Marking{}):
		return failAt(s, path, "parallel_sas", "only user space spreads a child over several SAs, and firewall marks and XFRM interfaces are the kernel's")
	}
	return nil
}

// lifetime completes a lifetime of which any part may be missing.
func lifetime[V ~int64 | ~uint64](standard V, rekey, life, random *V) (V, V, V) {
	var r, l, j V
	switch {
	case rekey != nil:
		r = *rekey
	case life != nil:
		r = *life/11*10 + *life%11*10/11
	default:
		r = standard
	}
	if life != nil {
		l = *life
	} else if l = r + r/10; l < r {
		l = ^V(0)
	}
	if random != nil {
		return r, l, *random
	}
	if l > r {
		j = min(l-r, r/2)
	}
	return r, l, j
}

func checkLifetime[V ~int64 | ~uint64](s *Section, path, unit string, rekey, life, random V) error {
	if life != 0 && rekey > life {
		key := "life_" + unit
		if s.Get(key) == nil {
			key = "rekey_" + unit
		}
		return failAt(s, path, key, "rekey_%s, %v, is more than life_%s, %v: the child would end before it is renewed", unit, rekey, unit, life)
	}
	if random > rekey && rekey != 0 {
		return failAt(s, path, "rand_"+unit, "%v is more than the %v it is taken off", random, rekey)
	}
	return nil
}

func checkSelectors(c *child) error {
	if !c.LocalTS.IsDynamic && !c.RemoteTS.IsDynamic && c.LocalTS.From.BitLen() != c.RemoteTS.From.BitLen() {
		return errors.New("local_ts and remote_ts are of different address families")
	}
	return nil
}
