// SPDX-License-Identifier: Apache-2.0

package swanctl

import (
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"quicksand/ike"
	"quicksand/sa"
)

// build makes the connection c with a child k from further lines of theirs.
func build(connLines, childLines string) (*ike.Connection, error) {
	text := "connections { c {\n local { auth = psk\n id = me }\n" + connLines + "\nchildren { k {\n" + childLines + "\n} } } }"
	c, err := LoadBytes("f", []byte(text))
	if err != nil {
		return nil, err
	}
	return c.Connections[0], nil
}

func mustIdentity(s string) ike.Identity {
	id, err := ike.ParseIdentity(s)
	if err != nil {
		panic(err)
	}
	return id
}

func mustIKE(proposals ...string) (out sa.IKEProposal) {
	for _, s := range proposals {
		p, err := sa.ParseIKEProposal(s)
		if err != nil {
			panic(err)
		}
		out = append(out, p...)
	}
	return out
}

func mustProposal(p sa.Protocol, s string) sa.Proposal {
	out, err := sa.ParseProposal(p, s)
	if err != nil {
		panic(err)
	}
	return out
}

func mustSelector(s string) sa.Selector {
	sel, err := sa.ParseSelector(s)
	if err != nil {
		panic(err)
	}
	return sel
}

func addr(s string) ike.AddrMatch {
	a := netip.MustParseAddr(s)
	return ike.AddrMatch{From: a, To: a}
}

func span(from, to string) ike.AddrMatch {
	return ike.AddrMatch{From: netip.MustParseAddr(from), To: netip.MustParseAddr(to)}
}

func TestDefaults(t *testing.T) {
	got, err := build("", "")
	if err != nil {
		t.Fatal(err)
	}
	want := &ike.Connection{
		Name:      "c",
		LocalPort: 500, RemotePort: 500,
		Proposals: sa.DefaultIKEProposal(),
		LocalID:   mustIdentity("me"),
		RekeyTime: 4 * time.Hour, OverTime: 24 * time.Minute, RandTime: 24 * time.Minute,
		KeyingTries: 1,
		Unique:      ike.UniqueNo,
		Children: []*ike.Child{{
			Name:      "k",
			Proposals: []sa.Proposal{sa.DefaultProposal(sa.ESP)},
			Mode:      sa.Tunnel,
			LocalTS:   ike.Dynamic{IsDynamic: true}, RemoteTS: ike.Dynamic{IsDynamic: true},
			Lifetime:     ike.Lifetime{RekeyTime: time.Hour, LifeTime: 66 * time.Minute, RandTime: 6 * time.Minute},
			ReplayWindow: 32,
			Offload:      sa.OffloadAuto,
			CopyDF:       true, CopyECN: true, CopyDSCP: sa.DSCPOut,
		}},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v %+v\nwant %+v %+v", got, got.Children[0], want, want.Children[0])
	}
}

func TestConnectionKeys(t *testing.T) {
	for _, c := range []struct {
		lines string
		field string
		want  any
	}{
		{"version = 0", "Name", "c"},
		{"version = 1", "Name", "c"},
		{"local_addrs = 10.0.0.1", "LocalAddrs", []ike.AddrMatch{addr("10.0.0.1")}},
		{"local_addrs = 10.0.0.1, gw.example.org,10.1.0.0/16", "LocalAddrs", []ike.AddrMatch{addr("10.0.0.1"), {Host: "gw.example.org"}, span("10.1.0.0", "10.1.255.255")}},
		{"remote_addrs = 10.0.0.1-10.0.0.9, 2001:db8::/126", "RemoteAddrs", []ike.AddrMatch{span("10.0.0.1", "10.0.0.9"), span("2001:db8::", "2001:db8::3")}},
		{"remote_addrs = %any", "RemoteAddrs", []ike.AddrMatch(nil)},
		{"remote_addrs = 10.0.0.1, %any", "RemoteAddrs", []ike.AddrMatch{addr("10.0.0.1"), everyIPv4, everyIPv6}},
		{"remote_addrs = %any6", "RemoteAddrs", []ike.AddrMatch{everyIPv6}},
		{"remote_addrs = 0.0.0.0", "RemoteAddrs", []ike.AddrMatch{everyIPv4}},
		{"remote_addrs = ::ffff:10.0.0.1", "RemoteAddrs", []ike.AddrMatch{addr("10.0.0.1")}},
		{"local_port = 5000", "LocalPort", uint16(5000)},
		{"remote_port = 0x1388", "RemotePort", uint16(5000)},
		{"proposals = aes128-sha256-modp2048,aes256-sha1-ecp256", "Proposals", mustIKE("aes128-sha256-modp2048", "aes256-sha1-ecp256")},
		{"proposals = aes128-sha256-modp2048, aes128-sha256-modp2048-modp3072", "Proposals", mustIKE("aes128-sha256-modp2048", "aes128-sha256-modp3072")},
		{"proposals = default", "Proposals", sa.DefaultIKEProposal()},
		{"proposals = aes128-sha1-modp1024\nproposals =", "Proposals", sa.DefaultIKEProposal()},
		{"encap = yes", "Encap", true},
		{"encap = disabled", "Encap", false},
		{"dpd_delay = 30s", "DPDDelay", 30 * time.Second},
		{"dpd_timeout = 2m", "DPDTimeout", 2 * time.Minute},
		{"rekey_time = 0", "RekeyTime", time.Duration(0)},
		{"rekey_time = 0", "OverTime", time.Duration(0)},
		{"rekey_time = 1d", "RekeyTime", 24 * time.Hour},
		{"rekey_time = 10h", "OverTime", time.Hour},
		{"rekey_time = 10h", "RandTime", time.Hour},
		{"reauth_time = 10h", "RekeyTime", time.Duration(0)},
		{"reauth_time = 10h", "ReauthTime", 10 * time.Hour},
		{"reauth_time = 10h", "OverTime", time.Hour},
		{"reauth_time = 1h\nrekey_time = 20h", "OverTime", 2 * time.Hour},
		{"reauth_time = 1h\nrekey_time = 20h", "RandTime", 30 * time.Minute},
		{"over_time = 100", "OverTime", 100 * time.Second},
		{"over_time = 100 S", "RandTime", 100 * time.Second},
		{"rand_time = 0s", "RandTime", time.Duration(0)},
		{"keyingtries = 0", "KeyingTries", 0},
		{"keyingtries = 3", "KeyingTries", 3},
		{"unique = replace", "Unique", ike.UniqueReplace},
		{"unique = keep", "Unique", ike.UniqueKeep},
		{"unique = Never", "Unique", ike.UniqueNever},
		{"unique = no", "Unique", ike.UniqueNo},
		{"identity_pfs = yes", "IdentityPFS", true},
		{"remote { auth = psk\n id = you@example.org }", "RemoteID", mustIdentity("you@example.org")},
		{"remote { auth = psk }", "RemoteID", ike.Identity{}},
		{"remote-a { auth = PSK\n round = 1\n id = %any }", "RemoteID", ike.Identity{}},
		// What changes nothing.
		{"fragmentation = yes\nmobike = no\npull = no\nsend_cert = always\nsend_certreq = no\nchildless = allow", "Name", "c"},
		{"fragmentation = accept\naggressive = no\ndscp = 000000\nvips =\npools = \"\"\nif_id_in = 0\nif_id_out = 0\nppk_required = no\nmediation = no", "Name", "c"},
	} {
		got, err := build(c.lines, "")
		if err != nil {
			t.Errorf("%q: %v", c.lines, err)
			continue
		}
		if v := reflect.ValueOf(*got).FieldByName(c.field).Interface(); !reflect.DeepEqual(v, c.want) {
			t.Errorf("%q: %s is %v, want %v", c.lines, c.field, v, c.want)
		}
	}
}

func TestChildKeys(t *testing.T) {
	dynamic := func(proto uint8, port uint16) ike.Dynamic {
		return ike.Dynamic{Selector: sa.Selector{Protocol: proto, Port: port}, IsDynamic: true}
	}
	static := func(s string) ike.Dynamic { return ike.Dynamic{Selector: mustSelector(s)} }
	life := func(rekey, life, random time.Duration) ike.Lifetime {
		return ike.Lifetime{RekeyTime: rekey, LifeTime: life, RandTime: random}
	}
	for _, c := range []struct {
		lines string
		field string
		want  any
	}{
		{"esp_proposals = aes128gcm16-modp2048,aes256-sha256", "Proposals", []sa.Proposal{mustProposal(sa.ESP, "aes128gcm16-modp2048"), mustProposal(sa.ESP, "aes256-sha256")}},
		{"esp_proposals = default", "Proposals", []sa.Proposal{sa.DefaultProposal(sa.ESP)}},
		{"esp_proposals =", "Proposals", []sa.Proposal{sa.DefaultProposal(sa.ESP)}},
		{"ah_proposals = sha1-modp1024", "Proposals", []sa.Proposal{mustProposal(sa.AH, "sha1-modp1024")}},
		{"ah_proposals = default\nesp_proposals = null-md5", "Proposals", []sa.Proposal{sa.DefaultProposal(sa.AH), mustProposal(sa.ESP, "null-md5")}},
		{"parallel_sas = 1", "Parallel", 0},
		{"parallel_sas = 8", "Parallel", 8},
		{"local_ts = 10.1.0.0/24", "LocalTS", static("10.1.0.0/24")},
		{"local_ts = 10.1.0.5", "LocalTS", static("10.1.0.5/32")},
		{"local_ts = 10.1.0.5-10.1.0.9", "LocalTS", static("10.1.0.5..10.1.0.9")},
		{"local_ts = 10.1.0.5..10.1.0.9", "LocalTS", static("10.1.0.5..10.1.0.9")},
		{"local_ts = 2001:db8::/32[ipv6-icmp]", "LocalTS", static("2001:db8::/32[58]")},
		{"remote_ts = 10.2.0.0/24[tcp/80]", "RemoteTS", static("10.2.0.0/24[6/80]")},
		{"remote_ts = 10.2.0.0/24[tcp/https]", "RemoteTS", static("10.2.0.0/24[6/443]")},
		{"remote_ts = dynamic[udp/domain]", "RemoteTS", dynamic(17, 53)},
		{"remote_ts = dynamic[tcp/any]", "RemoteTS", dynamic(6, 0)},
		{"remote_ts = dynamic[tcp/]", "RemoteTS", dynamic(6, 0)},
		{"remote_ts = dynamic[tcp/80]", "RemoteTS", dynamic(6, 80)},
		{"remote_ts = dynamic[/53]", "RemoteTS", dynamic(0, 53)},
		{"remote_ts = dynamic", "RemoteTS", dynamic(0, 0)},
		{"mode = transport", "Mode", sa.Transport},
		{"mode = tunnel", "Mode", sa.Tunnel},
		{"rekey_time = 10m", "Lifetime", life(10*time.Minute, 11*time.Minute, time.Minute)},
		{"rekey_time = 10s\nlife_time = 20s\nrand_time = 0s", "Lifetime", life(10*time.Second, 20*time.Second, 0)},
		{"rekey_time = 10m\nlife_time = 1h", "Lifetime", life(10*time.Minute, time.Hour, 5*time.Minute)},
		{"life_time = 66m", "Lifetime", life(time.Hour, 66*time.Minute, 6*time.Minute)},
		{"rekey_time = 0", "Lifetime", life(0, 0, 0)},
		{"rekey_time = 0\nlife_time = 1h", "Lifetime", life(0, time.Hour, 0)},
		{"life_time = 0", "Lifetime", life(0, 0, 0)},
		{"rekey_time = 1h\nlife_time = 0", "Lifetime", life(time.Hour, 0, 0)},
		{"rekey_time = 0\nrekey_bytes = 1G", "Lifetime", ike.Lifetime{RekeyBytes: 1 << 30, LifeBytes: 1<<30 + 107374182, RandBytes: 107374182}},
		{"rekey_time = 0\nrekey_bytes = 10k\nlife_bytes = 1M\nrand_bytes = 1", "Lifetime", ike.Lifetime{RekeyBytes: 10 << 10, LifeBytes: 1 << 20, RandBytes: 1}},
		{"rekey_time = 0\nlife_bytes = 1100", "Lifetime", ike.Lifetime{RekeyBytes: 1000, LifeBytes: 1100, RandBytes: 100}},
		{"rekey_time = 0\nrekey_bytes = 18446744073709551615", "Lifetime", ike.Lifetime{RekeyBytes: 1<<64 - 1, LifeBytes: 1<<64 - 1}},
		{"rekey_time = 0\nrekey_packets = 1000", "Lifetime", ike.Lifetime{RekeyPackets: 1000, LifePackets: 1100, RandPackets: 100}},
		{"rekey_time = 0\nrekey_packets = 1000\nlife_packets = 2000\nrand_packets = 7", "Lifetime", ike.Lifetime{RekeyPackets: 1000, LifePackets: 2000, RandPackets: 7}},
		{"replay_window = 0", "ReplayWindow", uint32(0)},
		{"replay_window = 4096", "ReplayWindow", uint32(4096)},
		{"hw_offload = no", "Offload", sa.OffloadNo},
		{"hw_offload = yes", "Offload", sa.OffloadCrypto},
		{"hw_offload = crypto", "Offload", sa.OffloadCrypto},
		{"hw_offload = packet", "Offload", sa.OffloadPacket},
		{"hw_offload = auto", "Offload", sa.OffloadAuto},
		{"copy_df = no", "CopyDF", false},
		{"copy_ecn = no", "CopyECN", false},
		{"copy_dscp = in", "CopyDSCP", sa.DSCPIn},
		{"copy_dscp = yes", "CopyDSCP", sa.DSCPBoth},
		{"copy_dscp = no", "CopyDSCP", sa.DSCPNone},
		{"start_action = trap", "StartAction", ike.ActionTrap},
		{"start_action = start", "StartAction", ike.ActionStart},
		{"close_action = start", "CloseAction", ike.ActionStart},
		{"dpd_action = restart", "DPDAction", ike.ActionStart},
		{"dpd_action = trap", "DPDAction", ike.ActionTrap},
		{"dpd_action = clear", "DPDAction", ike.ActionNone},
		{"reqid = 77", "ReqID", uint32(77)},
		{"mark_in = 0\nmark_out = 0/0\nset_mark_in = 0x1f/0xff\nset_mark_out = 7", "Marking", sa.Marking{
			In: sa.Mark{Mask: 1<<32 - 1}, SetIn: sa.Mark{Value: 0x1f, Mask: 0xff}, SetOut: sa.Mark{Value: 7, Mask: 1<<32 - 1}}},
		{"if_id_in = 0x10\nif_id_out = 4294967295", "Marking", sa.Marking{IfIDIn: 16, IfIDOut: 1<<32 - 1}},
		// What changes nothing.
		{"hostaccess = yes\nlabel_mode = simple\nsha256_96 = no\npolicies = yes\npolicies_fwd_out = no\nipcomp = no\ninactivity = 0s\npriority = 0", "Name", "k"},
		{"tfc_padding = 0\nmark_in_sa = no\nupdown =\nlabel =\nper_cpu_sas = no", "Name", "k"},
	} {
		got, err := build("", c.lines)
		if err != nil {
			t.Errorf("%q: %v", c.lines, err)
			continue
		}
		if v := reflect.ValueOf(*got.Children[0]).FieldByName(c.field).Interface(); !reflect.DeepEqual(v, c.want) {
			t.Errorf("%q: %s is %v, want %v", c.lines, c.field, v, c.want)
		}
	}
}

func TestConnectionErrors(t *testing.T) {
	const certs = "there is no authentication by certificates"
	for _, c := range []struct{ lines, want string }{ // the lines begin at line 4
		{"version = 2", "f:4: connections.c.version: IKEv2 is not supported: this is a daemon for IKEv1"},
		{"version = 3", `f:4: connections.c.version: "3" is not an IKE version`},
		{"\nlocal_addrs = 10.0.0.256", `f:5: connections.c.local_addrs: "10.0.0.256": neither an address, a subnet, a range nor a host name`},
		{"local_addrs = 10.0.0.9-10.0.0.1", `f:4: connections.c.local_addrs: "10.0.0.9-10.0.0.1": not a range of one family, lowest first`},
		{"local_addrs = 10.0.0.0/33", `f:4: connections.c.local_addrs: "10.0.0.0/33": not a subnet`},
		{"remote_addrs = fe80::1%eth0", `f:4: connections.c.remote_addrs: "fe80::1%eth0": addresses with a zone are not supported`},
		{"local_port = 0", `f:4: connections.c.local_port: "0" is not a number from 1 to 65535`},
		{"remote_port = 65536", `f:4: connections.c.remote_port: "65536" is not a number from 1 to 65535`},
		{"proposals = aes128-sha256", `f:4: connections.c.proposals: parse proposal "aes128-sha256": an IKE proposal needs a Diffie-Hellman group`},
		{"encap = maybe", `f:4: connections.c.encap: "maybe" is not one of yes, no`},
		{"dpd_delay = 30 parsecs", `f:4: connections.c.dpd_delay: "30 parsecs" is not a time: a number with s, m, h or d behind it, of at most 4294967295 s`},
		{"dpd_delay = -1", `f:4: connections.c.dpd_delay: "-1" is not a time: a number with s, m, h or d behind it, of at most 4294967295 s`},
		{"rekey_time = 49711d", `f:4: connections.c.rekey_time: "49711d" is not a time: a number with s, m, h or d behind it, of at most 4294967295 s`},
		{"dpd_delay = 10s\ndpd_timeout = 10s", "f:5: connections.c.dpd_timeout: 10s is not more than dpd_delay, 10s: the peer would have no time to answer"},
		{"rekey_time = 1h\nrand_time = 2h", "f:5: connections.c.rand_time: 2h0m0s is more than the 1h0m0s it is taken off"},
		{"unique = once", `f:4: connections.c.unique: "once" is not one of no, never, keep, replace`},
		{"keyingtries = many", `f:4: connections.c.keyingtries: "many" is not a number from 0 to 1048576`},
		{"aggressive = yes", "f:4: connections.c.aggressive: not supported: Aggressive Mode sends the identities in clear and lets anyone guess at the secret; only no is accepted"},
		{"fragmentation = force", "f:4: connections.c.fragmentation: force is not supported: there is no IKE fragmentation"},
		{"vips = 0.0.0.0", "f:4: connections.c.vips: not supported: there is no Mode Config"},
		{"pools = a, b", "f:4: connections.c.pools: not supported: there is no Mode Config"},
		{"if_id_in = %unique", `f:4: connections.c.if_id_in: "%unique" is not supported: no script would be told the number`},
		{"if_id_out = eth0", `f:4: connections.c.if_id_out: "eth0" is not a number from 0 to 4294967295`},
		{"ppk_id = x", "f:4: connections.c.ppk_id: not supported: it belongs to IKEv2"},
		{"lokal_addrs = 10.0.0.1", `f:4: connections.c.lokal_addrs: the key is not known; "local_addrs" is`},
		{"whatever = 1", "f:4: connections.c.whatever: the key is not known"},
		{"childern { }", `f:4: connections.c.childern: the section is not known; "children" is`},
		{"local2 { auth = psk }", "f:4: connections.c.local2: a second round of authentication is not supported: there is no XAuth"},
		{"remote { id = x }", "f:4: connections.c.remote.auth: is not set and would be pubkey, which is not supported; write auth = psk"},
		{"remote { auth = pubkey }", `f:4: connections.c.remote.auth: "pubkey" is not supported: ` + certs + "; only psk is"},
		{"remote { auth = rsa-2048-sha256 }", `f:4: connections.c.remote.auth: "rsa-2048-sha256" is not supported: ` + certs + "; only psk is"},
		{"remote { auth = xauth-pam }", `f:4: connections.c.remote.auth: "xauth-pam" is not supported: there is no XAuth; only psk is`},
		{"remote { auth = eap-tls }", `f:4: connections.c.remote.auth: "eap-tls" is not supported: it belongs to IKEv2; only psk is`},
		{"remote { auth = none }", `f:4: connections.c.remote.auth: "none" is not psk, the one method supported`},
		{"remote { auth = psk\n certs = a.crt }", "f:5: connections.c.remote.certs: not supported: " + certs},
		{"remote { auth = psk\n cert1 { } }", "f:5: connections.c.remote.cert1: not supported: " + certs},
		{"remote { auth = psk\n id = @#c0ffee\n }", `f:5: connections.c.remote.id: "@" names nobody; what stands behind # is a comment unless it is in quotes`},
		{"remote { auth = psk\n id = \"C=CH, CN=x\" }", `f:5: connections.c.remote.id: parse identity "C=CH, CN=x": a distinguished name belongs to certificates, which are not supported`},
	} {
		_, err := build(c.lines, "")
		if err == nil || err.Error() != c.want {
			t.Errorf("%q:\ngot  %v\nwant %s", c.lines, err, c.want)
		}
	}
}

func TestChildErrors(t *testing.T) {
	for _, c := range []struct{ lines, want string }{ // the lines begin at line 6
		{"esp_proposals = chacha20poly1305", `esp_proposals: parse proposal "chacha20poly1305": algorithm "chacha20poly1305" is not known, or has no IKEv1 transform`},
		{"ah_proposals = aes128-sha1", `ah_proposals: parse proposal "aes128-sha1": AH does not encrypt`},
		{"esp_proposals = aes128-aes192-aes256-3des-md5-sha1-sha256-sha384-sha512-modp1024-modp1536-modp2048-modp3072-modp4096-modp6144-modp8192-esn-noesn", `esp_proposals: "aes128-aes192-aes256-3des-md5-sha1-sha256-sha384-sha512-modp1024-modp1536-modp2048-modp3072-modp4096-modp6144-modp8192-esn-noesn" stands for 280 transforms, but a proposal carries 255`},
		{"ah_proposals = " + strings.Repeat("sha256,", 256), "ah_proposals: 256 proposals, but a message carries 255"},
		{"local_ts = 10.0.0.0/24, 10.1.0.0/24", "local_ts: 2 selectors, but IKEv1 carries one in each direction: make a child of each"},
		{"local_ts = 10.0.0.0/8[tcp/no-such]", `local_ts: parse selector "10.0.0.0/8[tcp/no-such]": port "no-such" is not a number up to 65535; IKEv1 carries one port, not a range`},
		{"local_ts = 10.0.0.0/8[tcp/-1]", `local_ts: parse selector "10.0.0.0/8[tcp/-1]": port "-1" is not a number up to 65535; IKEv1 carries one port, not a range`},
		{"local_ts = nowhere", `local_ts: parse selector "nowhere": neither a subnet, an address nor a range`},
		{"mode = pass", `mode: "pass" is not supported: a child is a pair of SAs, policies without any have no place here`},
		{"mode = beet", `mode: "beet" is not supported: only tunnel and transport are`},
		{"mode = wormhole", `mode: "wormhole" is not one of tunnel, transport`},
		{"rekey_time = 2h\nlife_time = 1h", "7:life_time: rekey_time, 2h0m0s, is more than life_time, 1h0m0s: the child would end before it is renewed"},
		{"rekey_time = 1h\nrand_time = 2h", "7:rand_time: 2h0m0s is more than the 1h0m0s it is taken off"},
		{"rekey_bytes = 1G\nlife_bytes = 1M", "7:life_bytes: rekey_bytes, 1073741824, is more than life_bytes, 1048576: the child would end before it is renewed"},
		{"rekey_bytes = 1T", `rekey_bytes: "1T" is not a number of bytes, with k, M or G behind it or none`},
		{"rekey_bytes = 17179869184G", `rekey_bytes: "17179869184G" is not a number of bytes, with k, M or G behind it or none`},
		{"rekey_packets = 1k", `rekey_packets: "1k" is not a number from 0 to 18446744073709551615`},
		{"replay_window = 4097", `replay_window: "4097" is not a number from 0 to 4096`},
		{"hw_offload = maybe", `hw_offload: "maybe" is not one of auto, packet, crypto, no`},
		{"parallel_sas = 0", `parallel_sas: "0" is not a number from 1 to 64`},
		{"parallel_sas = 65", `parallel_sas: "65" is not a number from 1 to 64`},
		{"parallel_sas = 2\nhw_offload = packet", "parallel_sas: only user space spreads a child over several SAs, and hw_offload = packet asks for a NIC"},
		{"mark_in = 1\nparallel_sas = 2", "7:parallel_sas: only user space spreads a child over several SAs, and firewall marks and XFRM interfaces are the kernel's"},
		{"per_cpu_sas = yes", "per_cpu_sas: not supported: it belongs to IKEv2 (RFC 9611); parallel_sas is what comes nearest; only no is accepted"},
		{"copy_dscp = both", `copy_dscp: "both" is not one of out, in, yes, no`},
		{"start_action = trap|start", `start_action: "trap|start": actions cannot be combined; write start, to bring the child up at once and to go on trying, or trap, to bring it up when traffic needs it`},
		{"dpd_action = hold", `dpd_action: "hold" is not one of none, clear, trap, start, restart`},
		{"updown = /usr/libexec/updown iptables", "updown: not supported: no scripts are run"},
		{"policies = no", "policies: not supported: a child without policies would protect nothing; only yes is accepted"},
		{"ipcomp = yes", "ipcomp: not supported: there is no compression; only no is accepted"},
		{"inactivity = 5m", "inactivity: not supported: children are not closed for want of traffic; only 0 or 0s is accepted"},
		{"mark_in = %unique-dir", `mark_in: "%unique-dir" is not supported: no script would be told the number`},
		{"mark_out = 42/", `mark_out: "42/" is not value or value/mask, of 32 bits each`},
		{"mark_out = 0x100000000", `mark_out: "0x100000000" is not value or value/mask, of 32 bits each`},
		{"set_mark_in = 0x1ff/0xff", `set_mark_in: "0x1ff/0xff" has bits in the value that are not in the mask`},
		{"mark_in_sa = yes", "mark_in_sa: not supported: an SPI stands for one inbound SA, whatever the mark; only no is accepted"},
		{"interface = eth0", "interface: not supported: policies hold for all interfaces"},
		{"tfc_padding = mtu", "tfc_padding: not supported: packets are not padded; only 0 is accepted"},
		{"local_ts = 10.0.0.0/8\nremote_ts = 2001:db8::/32", "5:: local_ts and remote_ts are of different address families"},
		{"esp_proposal = aes128gcm16", `esp_proposal: the key is not known; "esp_proposals" is`},
	} {
		_, err := build("", c.lines)
		line, rest, ok := strings.Cut(c.want, ":")
		if !ok || len(line) != 1 {
			line, rest = "6", c.want
		}
		want := strings.ReplaceAll(fmt.Sprintf("f:%s: connections.c.children.k.%s", line, rest), "k.:", "k:")
		if err == nil || err.Error() != want {
			t.Errorf("%q:\ngot  %v\nwant %s", c.lines, err, want)
		}
	}
}

func TestTopLevelErrors(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"a = 1", "f:1: a: the key is not known"},
		{"conections { }", `f:1: conections: the section is not known; "connections" is`},
		{"defaults { }", "f:1: defaults: the section is not known"},
		{"quicksand { }", "f:1: quicksand: the daemon's own settings belong in quicksand.conf"},
		{"\npools { p { addrs = 10.0.0.0/8 } }", "f:2: pools: not supported: there is no Mode Config"},
		{"authorities { a { } }", "f:1: authorities: not supported: there is no authentication by certificates"},
		{"connections { a = b }", "f:1: connections.a: the key is not known"},
		{"connections { c { } }", "f:1: connections.c: has no section local with auth = psk"},
		{"secrets {\n a = b }", "f:2: secrets: has settings of its own; they belong in a section ike<suffix>"},
		{"secrets { ike { } }", "f:1: secrets.ike.secret: is missing"},
		{"secrets { ike { secret = } }", "f:1: secrets.ike.secret: is missing"},
		{"secrets { ike { secret = \"\" } }", "f:1: secrets.ike.secret: is empty"},
		{"secrets { ike {\n secret = 0x123 } }", "f:2: secrets.ike.secret: what stands behind 0x is not pairs of hexadecimal digits"},
		{"secrets { ike {\n secret = 0s*** } }", "f:2: secrets.ike.secret: what stands behind 0s is not base64"},
		{"secrets { eap-1 { secret = x } }", "f:1: secrets.eap-1: not supported: it belongs to IKEv2"},
		{"secrets { xauth { secret = x } }", "f:1: secrets.xauth: not supported: there is no XAuth"},
		{"secrets { private-a { } }", "f:1: secrets.private-a: not supported: there is no authentication by certificates"},
		{"secrets { psk { secret = x } }", `f:1: secrets.psk: the section is not known`},
	} {
		_, err := LoadBytes("f", []byte(c.text))
		if err == nil || err.Error() != c.want {
			t.Errorf("%q:\ngot  %v\nwant %s", c.text, err, c.want)
		}
	}
}

func TestSecrets(t *testing.T) {
	c, err := LoadBytes("f", []byte(`secrets {
		ike { secret = correct  horse }
		ike-b { secret = 0x00ff
			id = 10.0.0.1
			id-2 = "a@b" }
		ike3 { secret = "0sAAEC" }
	}`))
	if err != nil {
		t.Fatal(err)
	}
	want := []*ike.Secret{
		{Name: "ike", Key: sa.Key("correct horse")},
		{Name: "ike-b", Key: sa.Key{0, 255}, Owners: []ike.Identity{mustIdentity("10.0.0.1"), mustIdentity("a@b")}},
		{Name: "ike3", Key: sa.Key{0, 1, 2}},
	}
	if !reflect.DeepEqual(c.Secrets, want) {
		t.Errorf("got %v", c.Secrets)
		for i := range c.Secrets {
			t.Errorf("%q %x", c.Secrets[i].Name, []byte(c.Secrets[i].Key))
		}
	}
}

// TestSecretsStaySecret breaks a configuration in many places near its secrets
// and looks for them in what is said.
func TestSecretsStaySecret(t *testing.T) {
	const pass = "hunter2"
	for _, text := range []string{
		"secrets { ike { secret = hunter2\n id = \"a=b\" } }",
		"secrets { ike { secret = 0xhunter2 } }",
		"secrets { ike { secret = 0s*hunter2 } }",
		"secrets { ike { secret hunter2 } }",
		"secrets { ike { secret = \"\" hunter2\n hunter2\n } }",
		"secrets { ike { secret = \"hunter2 } }",
		"secrets { ike { secret \"hunter2\" } }",
		"secrets { ike { secret = a}hunter2 } }",
		"secrets { ike { secret = a}hunter2 = x } }",
		"secrets { ike { sekret = hunter2 } }",
		"secrets { eap { secret = hunter2 } }",
		"connections { c { children { k { manual { key_in = hunter2 } } } } }",
		"connections { c { children { k { manual { auth_key_out = 0xhunter2 } } } } }",
		"connections { c { local { auth = psk\n secret = hunter2 } } }",
	} {
		_, err := LoadBytes("f", []byte(text))
		if err == nil {
			t.Errorf("%q: no error", text)
		} else if strings.Contains(err.Error(), pass) {
			t.Errorf("%q: %v", text, err)
		}
		if root, err := Parse("f", []byte(text)); err == nil && strings.Contains(text, "secret =") && strings.Contains(root.String(), pass) {
			t.Errorf("%q: %s", text, root)
		}
	}
	c, err := LoadBytes("f", []byte("secrets { ike { secret = hunter2 } }"))
	if err != nil {
		t.Fatal(err)
	}
	if s := fmt.Sprintf("%v %+v %#v", *c.Secrets[0], *c.Secrets[0], c.Secrets[0].Key); strings.Contains(s, pass) {
		t.Error(s)
	}
}

// TestMessage reads what swanctl sends: sections and real lists, no lines.
func TestMessage(t *testing.T) {
	m := NewSection("c", "vici message")
	m.Set("version", "1")
	m.SetList("local_addrs", []string{"10.0.0.1"})
	m.SetList("remote_addrs", []string{"10.0.0.2", "gw.example.org"})
	m.SetList("proposals", []string{"aes128-sha256-modp2048"})
	m.SetList("vips", nil)
	m.Add("local").Set("auth", "psk")
	r := m.Add("remote")
	r.Set("auth", "psk")
	r.Set("id", "peer")
	k := m.Add("children").Add("k")
	k.SetList("esp_proposals", []string{"aes128gcm16", "aes256gcm16"})
	k.SetList("remote_ts", []string{"10.2.0.0/16"})
	k.Set("rekey_time", "600s")
	c, err := Connection("c", m)
	if err != nil {
		t.Fatal(err)
	}
	if c.Name != "c" || len(c.RemoteAddrs) != 2 || c.RemoteAddrs[1].Host != "gw.example.org" || c.RemoteID != mustIdentity("peer") {
		t.Errorf("connection: %+v", c)
	}
	if in := c.Children[0]; len(in.Proposals) != 2 || in.RemoteTS.Selector != mustSelector("10.2.0.0/16") || in.Lifetime.RekeyTime != 10*time.Minute {
		t.Errorf("child: %+v", in)
	}
	k.Set("mode", "beet")
	const want = `vici message: connections.c.children.k.mode: "beet" is not supported: only tunnel and transport are`
	if _, err := Connection("c", m); err == nil || err.Error() != want {
		t.Errorf("got %v", err)
	}
	k.SetList("mode", []string{"tunnel", "transport"})
	if _, err := Connection("c", m); err == nil || !strings.Contains(err.Error(), "takes one value, not a list") {
		t.Errorf("a list: got %v", err)
	}
}

func TestSharedSecret(t *testing.T) {
	m := NewSection("", "vici message")
	m.Set("id", "ike-1")
	m.Set("type", "IKE")
	m.Set("data", "0xsecret, taken as it is")
	m.SetList("owners", []string{"10.0.0.1", "peer"})
	got, err := SharedSecret(m)
	want := &ike.Secret{Name: "ike-1", Key: sa.Key("0xsecret, taken as it is"), Owners: []ike.Identity{mustIdentity("10.0.0.1"), mustIdentity("peer")}}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, %v", got, err)
	}
	m.Set("type", "EAP")
	if _, err := SharedSecret(m); err == nil || err.Error() != `vici message: type: "EAP" is not one of IKE, the one kind supported` {
		t.Errorf("type: %v", err)
	}
	empty := NewSection("", "vici message")
	empty.Set("type", "ike")
	if _, err := SharedSecret(empty); err == nil || err.Error() != "vici message: data: is missing" {
		t.Errorf("no data: %v", err)
	}
	s := NewSection("ike-2", "vici message")
	s.Set("secret", "0x0102")
	if got, err := Secret("ike-2", s); err != nil || string(got.Key) != "\x01\x02" || got.Name != "ike-2" {
		t.Errorf("Secret: %v, %v", got, err)
	}
}
