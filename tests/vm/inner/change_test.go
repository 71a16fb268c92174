// SPDX-License-Identifier: Apache-2.0

package inner

import (
	"cmp"
	"fmt"
	"strings"
	"testing"
	"time"

	"quicksand/tests/harness"
)

// TestNICRekey changes the SAs under traffic, make before break: first the new
// inbound ones, then the new outbound ones, and then the old ones go.
func TestNICRekey(t *testing.T) {
	n := newNICs(t, 1)
	for _, on := range [][2]string{{"packet", ""}, {"crypto", ""}, {"packet", "packet"}} {
		t.Run(on[0]+" to "+cmp.Or(on[1], "software"), func(t *testing.T) {
			p := pair{at: tunnel4, mode: "tunnel", onA: on[0], onB: on[1]}
			n.install(t, p)
			n.ping(t, tunnel4, 1, 56)
			stop := n.watch(t)
			traffic := n.a.StartPing(harness.Ping{Source: tunnel4.innerA, Dest: tunnel4.innerB, Count: 200, Interval: 10 * time.Millisecond})
			for generation := range uint32(2) {
				a, b := n.endStates(p, generation+1)
				ok(t, xfrm(n.a, a.in.words()))
				ok(t, xfrm(n.b, b.in.words(), b.out.words()))
				ok(t, xfrm(n.a, a.out.words()))
				a, b = n.endStates(p, generation)
				ok(t, xfrm(n.a, a.out.deletion()))
				ok(t, xfrm(n.b, b.out.deletion(), b.in.deletion()))
				ok(t, xfrm(n.a, a.in.deletion()))
			}
			r, err := traffic()
			ok(t, err)
			if r.Lost() != 0 {
				t.Errorf("%v", r)
			}
			if k := stop(); k.esp < 2*r.Received {
				t.Errorf("%d ESP packets on the wire for %d answers", k.esp, r.Received)
			}
			if s := shown(t, nicA, "states"); strings.Count(s, "\n") != 2 || !strings.Contains(s, "0x00001021") {
				t.Errorf("the device does not have the last two states alone:\n%s", s)
			}
		})
	}
}

// TestNICMany installs 1,000 pairs and policies in packet offload.
func TestNICMany(t *testing.T) {
	n := newNICs(t, 1)
	const many = 1000
	var a, b []string
	for i := range many {
		ab := sa{src: harness.AddrA, dst: harness.AddrB, spi: 0x10000 + uint32(i), mode: "tunnel", reqid: i + 1}
		ba := sa{src: harness.AddrB, dst: harness.AddrA, spi: 0x20000 + uint32(i), mode: "tunnel", reqid: i + 1}
		end := func(s sa, offload, dev, dir string) string {
			s.offload, s.dev, s.dir = offload, dev, dir
			if dir == "in" {
				s.extra = "replay-window 32"
			}
			return s.words()
		}
		a = append(a, end(ab, "packet", nicA, "out"), end(ba, "packet", nicA, "in"))
		b = append(b, end(ba, "", "", "out"), end(ab, "", "", "in"))
		// The ports of a ping are its type and code: the last child has it.
		const policy = "xfrm policy add src 10.%d.0.0/24 dst 10.%d.0.0/24 proto udp dport %d dir %s %s" +
			" tmpl src %s dst %s proto esp reqid %d mode tunnel"
		for dir, to := range map[string][2]int{"out": {1, 2}, "in": {2, 1}} {
			here, there := harness.AddrA, harness.AddrB
			if dir == "in" {
				here, there = there, here
			}
			a = append(a, fmt.Sprintf(policy, to[0], to[1], i+1, dir, "offload packet dev "+nicA, here, there, i+1))
			b = append(b, fmt.Sprintf(policy, to[1], to[0], i+1, dir, "", there, here, i+1))
		}
	}
	start := time.Now()
	ok(t, xfrm(n.a, a...))
	took := time.Since(start)
	ok(t, xfrm(n.b, b...))
	t.Logf("%d pairs with their policies at the device in %v", many, took.Round(time.Millisecond))
	if got := strings.Count(shown(t, nicA, "states"), "\n"); got != 2*many {
		t.Errorf("the device has %d states of %d", got, 2*many)
	}
	if got := strings.Count(shown(t, nicA, "policies"), "\n"); got != 2*many {
		t.Errorf("the device has %d policies of %d", got, 2*many)
	}
	n.installPolicies(t, pair{at: tunnel4, mode: "tunnel", onA: "packet"})
	n.ping(t, tunnel4, 3, 56)
	start = time.Now()
	n.clear(t)
	t.Logf("removed in %v", time.Since(start).Round(time.Millisecond))
	if s := shown(t, nicA, "states") + shown(t, nicA, "policies"); s != "" {
		t.Errorf("the device has something left:\n%s", s)
	}
}

// TestNICBond has a bond hand the SAs to its active device.
func TestNICBond(t *testing.T) {
	n := newNICs(t, 1)
	const bond = "bond0"
	ok(t, xfrm(n.a, "link set "+nicA+" down", "link add "+bond+" type bond mode active-backup",
		"link set "+nicA+" master "+bond, "link set "+bond+" up", "addr flush dev "+nicA))
	ok(t, n.a.AddAddr(bond, harness.AddrA+"/24"))
	n.clear(t)
	states := pair{at: tunnel4, mode: "tunnel", onA: "crypto"}
	a, b := n.endStates(states, 0)
	a.in.dev, a.out.dev = bond, bond
	ok(t, xfrm(n.a, a.in.words(), a.out.words()))
	ok(t, xfrm(n.b, b.in.words(), b.out.words()))
	n.installPolicies(t, states)
	if s := shown(t, nicA, "states"); strings.Count(s, "\n") != 2 {
		t.Errorf("the device does not have both states:\n%s", s)
	}
	grew := counted(t, nicA)
	stop := n.watch(t)
	ok(t, harness.Poll(10*time.Second, func() error {
		r, err := n.a.Ping(harness.Ping{Source: tunnel4.innerA, Dest: tunnel4.innerB, Count: 1, Linger: 200 * time.Millisecond})
		if err == nil && r.Received == 0 {
			err = fmt.Errorf("no answer")
		}
		return err
	}))
	n.ping(t, tunnel4, 3, 56)
	// The kernel itself encrypts what a bond sends whose features lack ESP.
	if k := stop(); k.esp < 8 || grew("rx_crypto") < 4 {
		t.Errorf("%d ESP packets on the wire, of which the device decrypted %d", k.esp, grew("rx_crypto"))
	}
	ok(t, xfrm(n.a, "link set "+nicA+" nomaster", "link del "+bond))
}
