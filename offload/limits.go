// SPDX-License-Identifier: Apache-2.0

package offload

import (
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"quicksand/sa"
)

// limit is what a driver is known to take. What it is not known to refuse is
// tried: the driver knows best.
type limit struct {
	packet    bool
	tunnel    bool
	aeadOnly  bool // AES-GCM with an ICV of 16 bytes
	keyBits   []uint16
	protocols []uint8 // of the selectors
	encap     func(k sa.Kind, m sa.Mode) string
	windows   []uint32 // inbound, with packet offload
}

// drivers are those whose limits are known, from their sources in Linux.
var drivers = map[string]limit{
	"mlx5_core": {packet: true, tunnel: true, aeadOnly: true, keyBits: []uint16{128, 256},
		protocols: []uint8{0, unix.IPPROTO_TCP, unix.IPPROTO_UDP}, windows: mlx5Windows,
		encap: func(k sa.Kind, m sa.Mode) string {
			if k == sa.Packet && m == sa.Transport {
				return ""
			}
			return "UDP encapsulation only with packet offload in transport mode"
		}},
	"ixgbe":     {aeadOnly: true, keyBits: []uint16{128}, encap: noEncap},
	"ixgbevf":   {aeadOnly: true, keyBits: []uint16{128}, encap: noEncap},
	"netdevsim": {tunnel: true, aeadOnly: true, keyBits: []uint16{128}},
}

// mlx5Windows are the replay windows that mlx5 has. They do as well for every
// other device that is known.
var mlx5Windows = []uint32{32, 64, 128, 256}

func noEncap(sa.Kind, sa.Mode) string { return "no UDP encapsulation" }

// refuses says, in words, why a driver will not take a pair, or returns "".
// Only what sa.Backend's Supports has need be set in the pair.
func refuses(driver string, k sa.Kind, q *sa.Pair) string {
	if q.Suite.Protocol != sa.ESP {
		return "only ESP can be offloaded"
	}
	if k == sa.Packet && q.Marking != (sa.Marking{}) {
		return "a NIC with packet offload looks at no firewall marks and knows no XFRM interfaces"
	}
	if k == sa.Packet && q.LocalTS.From.IsValid() && q.LocalTS.From.Is4() != q.Remote.Addr().Is4() {
		// It looks the peer's address up among the routes of the inner family
		// (xfrm_bundle_create), and drops what it finds no route for.
		return "with packet offload the kernel carries neither IPv6 in IPv4 nor the reverse"
	}
	l, known := drivers[driver]
	if !known {
		return ""
	}
	say := func(what string) string { return driver + ": " + what }
	switch {
	case k == sa.Packet && !l.packet:
		return say("crypto offload only")
	case q.Mode == sa.Tunnel && !l.tunnel:
		return say("transport mode only")
	case l.aeadOnly && q.Suite.Encryption != sa.AESGCM16:
		return say("AES-GCM with a 16-byte ICV only")
	case !slices.Contains(l.keyBits, q.Suite.KeyBits):
		return say(fmt.Sprintf("no keys of %d bits, only %v", q.Suite.KeyBits, l.keyBits))
	case l.protocols != nil && !slices.Contains(l.protocols, max(q.LocalTS.Protocol, q.RemoteTS.Protocol)):
		return say("selectors of any protocol, TCP or UDP only")
	case q.Encap && l.encap != nil && l.encap(k, q.Mode) != "":
		return say(l.encap(k, q.Mode))
	case k == sa.Packet && l.windows != nil && q.ReplayWindow > slices.Max(l.windows):
		return say(fmt.Sprintf("no replay window of %d packets, only %v", q.ReplayWindow, l.windows))
	}
	return ""
}
