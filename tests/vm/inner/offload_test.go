// SPDX-License-Identifier: Apache-2.0

package inner

import (
	"cmp"
	"fmt"
	"strings"
	"testing"

	"quicksand/tests/harness"
)

func TestNICPlain(t *testing.T) {
	n := newNICs(t, 0)
	tx, rx := counted(t, nicA), counted(t, nicB)
	n.ping(t, host4, 3, 56)
	n.ping(t, host6, 3, 1400)
	if tx("tx_plain") < 6 || rx("rx_plain") < 6 {
		t.Errorf("%s counted %d frames sent, %s %d received, of at least 6", nicA, tx("tx_plain"), nicB, rx("rx_plain"))
	}
}

// TestNICOffload has one end offloaded in either way with the kernel's own ESP
// at the other end, and both offloaded.
func TestNICOffload(t *testing.T) {
	n := newNICs(t, 1)
	udpEncap(t, n.a)
	udpEncap(t, n.b)
	for _, c := range []struct {
		name string
		pair
	}{
		{"tunnel", pair{at: tunnel4, mode: "tunnel"}},
		{"tunnel IPv6", pair{at: tunnel6, mode: "tunnel"}},
		{"transport", pair{at: host4, mode: "transport"}},
		{"transport IPv6", pair{at: host6, mode: "transport"}},
		{"AES-256", pair{at: tunnel4, mode: "tunnel", key: strings.Repeat("a7", 36)}},
		{"8-byte ICV", pair{at: tunnel4, mode: "tunnel", icv: 64}},
		{"UDP", pair{at: tunnel4, mode: "tunnel", extra: "encap espinudp 4500 4500 0.0.0.0"}},
		{"ESN", pair{at: tunnel4, mode: "tunnel", extra: "flag esn", in: "replay-window 64"}},
		{"ESN past 2^32", pair{at: tunnel4, mode: "tunnel", extra: "flag esn", in: "replay-window 64 replay-seq 4294967292",
			out: "replay-oseq 4294967292"}},
	} {
		for _, on := range [][2]string{{"packet", ""}, {"crypto", ""}, {"packet", "packet"}, {"packet", "crypto"}} {
			if strings.Contains(c.extra, "espinudp") && (on[0] == "crypto" || on[1] == "crypto") {
				continue // which no device takes; TestNICRefusals
			}
			t.Run(fmt.Sprintf("%s, %s to %s", c.name, on[0], cmp.Or(on[1], "software")), func(t *testing.T) {
				p := c.pair
				p.onA, p.onB = on[0], on[1]
				n.install(t, p)
				offloaded(t, n, p)
			})
		}
	}
}

// offloaded proves that traffic passes both ways, that the devices did what
// was asked of them, and that nothing but ESP was on the wire.
func offloaded(t *testing.T, n *nics, p pair) {
	t.Helper()
	const pings = 5
	stop := n.watch(t)
	onA, onB := counted(t, nicA), counted(t, nicB)
	n.ping(t, p.at, pings, 56)
	n.ping(t, p.at, 2, 1300)
	if k := stop(); k.esp != 2*(pings+2) {
		t.Errorf("%d ESP packets on the wire of %d", k.esp, 2*(pings+2))
	}
	for _, end := range []struct {
		h    *harness.Host
		dev  string
		on   string
		grew func(string) int
	}{{n.a, nicA, p.onA, onA}, {n.b, nicB, p.onB, onB}} {
		kind := cmp.Or(end.on, "plain")
		for _, c := range []string{"tx_" + kind, "rx_" + kind} {
			// Neighbour discovery may be among what is plain.
			if got := end.grew(c); got < pings+2 || kind != "plain" && got > pings+2 {
				t.Errorf("%s of %s is %d of %d\n%s\n%s", c, end.dev, got, pings+2, shown(t, end.dev, "counters"), states(t, end.h))
			}
		}
		// The kernel's own counts come from the device in packet offload.
		if s := states(t, end.h); strings.Count(s, fmt.Sprintf("(bytes), %d(packets)", pings+2)) != 2 {
			t.Errorf("the kernel does not count %d packets each way:\n%s", pings+2, s)
		}
	}
}
