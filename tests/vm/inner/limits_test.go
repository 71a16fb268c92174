// SPDX-License-Identifier: Apache-2.0

package inner

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"quicksand/tests/harness"
)

// TestNICExpiry has the device's counts reach limits: the kernel tells of the
// soft one, and at the hard one the state goes and nothing passes.
func TestNICExpiry(t *testing.T) {
	n := newNICs(t, 1)
	for _, c := range []struct{ on, limits string }{
		{"packet", "limit packet-soft 3 limit packet-hard 6"},
		{"packet", "limit byte-soft 250 limit byte-hard 500"},
		{"crypto", "limit packet-soft 3 limit packet-hard 6"},
	} {
		t.Run(c.on+", "+c.limits, func(t *testing.T) {
			n.install(t, pair{at: tunnel4, mode: "tunnel", onA: c.on, limits: c.limits})
			messages := monitor(t, n.a, "expire")
			stop := n.watch(t)
			n.ping(t, tunnel4, 5, 56)
			messages(t, "hard 0")
			if s := states(t, n.a); strings.Count(s, "5(packets)") != 2 {
				t.Errorf("the states do not stand at 5 packets:\n%s", s)
			}
			r, err := n.a.Ping(harness.Ping{Source: tunnel4.innerA, Dest: tunnel4.innerB, Count: 5, Linger: 100 * time.Millisecond})
			ok(t, err)
			if r.Received > 1 {
				t.Errorf("%d of 5 answers came after the hard limit of 6", r.Received)
			}
			messages(t, "hard 1")
			if k := stop(); k.esp > 12 {
				t.Errorf("%d ESP packets on the wire, of 12 at most", k.esp)
			}
			ok(t, harness.Poll(5*time.Second, func() error {
				if s := shown(t, nicA, "states"); strings.Contains(s, " out ") {
					return fmt.Errorf("the device still has the outbound state: %s", s)
				}
				return nil
			}))
		})
	}
}

// monitor starts ip(8) to print messages of XFRM, and returns a function that
// waits for one with the words.
func monitor(t *testing.T, h *harness.Host, what string) func(t *testing.T, words string) {
	t.Helper()
	p, err := h.Start("monitor-"+what, nil, "ip", "xfrm", "monitor", what)
	ok(t, err)
	t.Cleanup(p.Kill)
	// It says nothing of its own when it is ready; its socket does.
	ok(t, harness.Poll(5*time.Second, func() error {
		return h.Do(func() error {
			table, err := os.ReadFile("/proc/thread-self/net/netlink")
			if err == nil && !strings.Contains(string(table), fmt.Sprintf(" %d ", p.PID)) {
				err = fmt.Errorf("ip xfrm monitor has no socket:\n%s", table)
			}
			return err
		})
	}))
	begin := p.Log.Mark()
	return func(t *testing.T, words string) {
		t.Helper()
		if _, err := p.Log.Wait(begin, words, 5*time.Second); err != nil {
			t.Errorf("%v; it says:\n%s", err, p.Log.Since(0))
		}
	}
}

// TestNICRefusals turns each knob and looks for the device's words.
func TestNICRefusals(t *testing.T) {
	n := newNICs(t, 0)
	set := func(knob, value string) { set(t, nicA, knob, value) }
	out := sa{src: harness.AddrA, dst: harness.AddrB, spi: 1001, mode: "tunnel", offload: "packet", dev: nicA, dir: "out"}
	in := sa{src: harness.AddrB, dst: harness.AddrA, spi: 1002, mode: "tunnel", offload: "packet", dev: nicA, dir: "in",
		extra: "replay-window 32"}
	with := func(s sa, change func(*sa)) sa { change(&s); return s }
	policy := func(dir string) string {
		return "xfrm policy add src 10.1.0.0/24 dst 10.2.0.0/24 dir " + dir + " offload packet dev " + nicA +
			" tmpl src " + harness.AddrA + " dst " + harness.AddrB + " proto esp reqid 1 mode tunnel"
	}
	crypto := func(s *sa) { s.offload = "crypto" }
	for _, c := range []struct {
		knob, value string
		commands    []string // the last of them is refused
		words       string   // of the refusal; empty where all is taken
	}{
		{"refuse", "1", []string{out.words(), in.words()}, "state refused on request"},
		{"refuse", "2", []string{in.words(), out.words()}, "state refused on request"},
		{"refuse", "4", []string{policy("out"), policy("in")}, "policy refused on request"},
		{"refuse", "8", []string{policy("in"), policy("out")}, "policy refused on request"},
		{"refuse", "32", []string{with(out, crypto).words(), in.words()}, "state refused on request"},
		{"refuse", "0", []string{policy("fwd")}, "Cannot offload forward policy"},
		{"refuse", "0", []string{with(out, func(s *sa) { s.offload, s.extra = "crypto", "encap espinudp 4500 4500 0.0.0.0" }).words()},
			"Encapsulation is supported in packet offload mode only"},
		{"slots", "1", []string{out.words(), in.words()}, "no slot is left for the state"},
		{"policy_slots", "1", []string{policy("out"), policy("in")}, "no slot is left for the policy"},
		{"model", "crypto", []string{with(out, crypto).words(), in.words()}, "Packet offload is not supported"},
		{"model", "crypto", []string{policy("out")}, "Packet offload is not supported"},
		{"model", "ixgbe", []string{with(out, crypto).words()}, "Unsupported mode for ipsec offload"},
		{"model", "ixgbe", []string{with(out, func(s *sa) { s.mode = "transport" }).words()}, "Unsupported ipsec offload type"},
		{"model", "ixgbe", []string{with(out, func(s *sa) { s.mode, s.offload = "transport", "crypto" }).words()}, ""},
		{"model", "mlx5", []string{out.words(), in.words(), policy("out"), policy("in")}, ""},
		{"model", "mlx5", []string{with(out, func(s *sa) { s.icv = 64 }).words()}, "AEAD ICV length"},
		{"model", "mlx5", []string{with(out, func(s *sa) { s.reqid = -1 }).words()}, "Cannot offload without reqid"},
		{"model", "mlx5", []string{with(in, func(s *sa) { s.extra = "flag esn replay-window 1024" }).words()}, "Unsupported replay window size"},
		{"model", "mlx5", []string{with(in, func(s *sa) { s.extra = "replay-window 32 encap espinudp 4500 4500 0.0.0.0" }).words()},
			"Encapsulation is supported in transport mode only"},
		{"model", "mlx5", []string{with(out, func(s *sa) { s.extra = "limit packet-soft 0" }).words()}, "Soft/hard packet limits can't be 0"},
	} {
		n.clear(t)
		set("refuse", "0")
		set("model", "any")
		set("slots", "65535")
		set("policy_slots", "65535")
		set(c.knob, c.value)
		last := len(c.commands) - 1
		ok(t, xfrm(n.a, c.commands[:last]...))
		err := xfrm(n.a, c.commands[last])
		if c.words == "" {
			ok(t, err)
		} else {
			refused(t, err, c.words)
		}
	}

	// A device that does not know of crypto offload for a state leaves it to
	// the kernel, which says nothing.
	n.clear(t)
	set("model", "any")
	set("refuse", "16")
	set("error", "95")
	ok(t, with(out, crypto).add(n.a))
	if s := states(t, n.a); strings.Contains(s, "crypto offload parameters") {
		t.Errorf("the kernel says that the state is offloaded:\n%s", s)
	}
}

// TestNICForgeries has what is wrong with received packets counted and dropped.
func TestNICForgeries(t *testing.T) {
	n := newNICs(t, 1)
	for _, on := range []string{"packet", "crypto"} {
		t.Run("wrong ICV, "+on, func(t *testing.T) {
			n.install(t, pair{at: tunnel4, mode: "tunnel", onB: on})
			rx := counted(t, nicB)
			set(t, nicA, "corrupt", "3")
			r, err := n.a.Ping(harness.Ping{Source: tunnel4.innerA, Dest: tunnel4.innerB, Count: 5, Linger: 200 * time.Millisecond})
			ok(t, err)
			if r.Received != 2 || rx("rx_auth") != 3 {
				t.Errorf("%v, and %d wrong ICVs", r, rx("rx_auth"))
			}
			if s := states(t, n.b); !strings.Contains(s, "failed 3") {
				t.Errorf("the kernel does not count 3 wrong ICVs:\n%s", s)
			}
		})
	}
	t.Run("replay", func(t *testing.T) {
		n.install(t, pair{at: tunnel4, mode: "tunnel", onB: "packet"})
		rx := counted(t, nicB)
		frames := n.record(t)
		n.ping(t, tunnel4, 3, 56)
		for _, f := range frames() {
			if strings.HasPrefix(string(f[26:]), "\x0a\x09\x00\x01") {
				n.inject(t, f)
			}
		}
		ok(t, harness.Poll(5*time.Second, func() error {
			if got := rx("rx_replay"); got != 3 {
				return fmt.Errorf("%d of 3 replayed packets counted", got)
			}
			return nil
		}))
		if s := states(t, n.b); !strings.Contains(s, "replay 3") {
			t.Errorf("the kernel does not count 3 replayed packets:\n%s", s)
		}
	})
	t.Run("in clear", func(t *testing.T) {
		n.install(t, pair{at: tunnel4, mode: "tunnel", onB: "packet"})
		ok(t, xfrm(n.a, "xfrm policy flush"))
		rx := counted(t, nicB)
		r, err := n.a.Ping(harness.Ping{Source: tunnel4.innerA, Dest: tunnel4.innerB, Count: 3, Linger: 200 * time.Millisecond})
		ok(t, err)
		if r.Received != 0 || rx("rx_clear") != 3 {
			t.Errorf("%v, and %d packets in clear refused", r, rx("rx_clear"))
		}
	})
	t.Run("beside the selector", func(t *testing.T) {
		n.install(t, pair{at: tunnel4, mode: "tunnel", onB: "packet"})
		ok(t, xfrm(n.a, "xfrm policy flush", "xfrm policy add dir out tmpl src "+harness.AddrA+" dst "+harness.AddrB+
			" proto esp reqid 1 mode tunnel"))
		rx := counted(t, nicB)
		r, err := n.a.Ping(harness.Ping{Source: harness.AddrA, Dest: harness.AddrB, Count: 3, Linger: 200 * time.Millisecond})
		ok(t, err)
		if r.Received != 0 || rx("rx_policy") != 3 {
			t.Errorf("%v, and %d packets refused that no policy admits", r, rx("rx_policy"))
		}
	})
}

// TestNICLinkDown has the kernel forget what a device held when it goes down.
func TestNICLinkDown(t *testing.T) {
	n := newNICs(t, 1)
	for _, on := range []string{"packet", "crypto"} {
		p := pair{at: tunnel4, mode: "tunnel", onA: on}
		n.install(t, p)
		n.ping(t, tunnel4, 1, 56)
		ok(t, n.a.SetLink(nicA, false))
		for _, file := range []string{"states", "policies"} {
			if s := shown(t, nicA, file); s != "" {
				t.Errorf("%s after the link went down:\n%s", file, s)
			}
		}
		if s := states(t, n.a); s != "" {
			t.Errorf("the kernel has states after the link went down:\n%s", s)
		}
		ok(t, n.a.SetLink(nicA, true))
		neighbours(t, n)
		n.install(t, p)
		n.ping(t, tunnel4, 1, 56)
	}
}

// TestNICAcquire has a policy without a state ask for one, in packet offload.
func TestNICAcquire(t *testing.T) {
	n := newNICs(t, 1)
	n.installPolicies(t, pair{at: tunnel4, mode: "tunnel", onA: "packet"})
	messages := monitor(t, n.a, "acquire")
	stop := n.watch(t)
	r, err := n.a.Ping(harness.Ping{Source: tunnel4.innerA, Dest: tunnel4.innerB, Count: 1, Linger: 50 * time.Millisecond})
	ok(t, err)
	messages(t, "policy src 10.1.0.0/24 dst 10.2.0.0/24")
	if k := stop(); r.Received != 0 || k.esp != 0 {
		t.Errorf("%v, with %d ESP packets on the wire and no state", r, k.esp)
	}
}

// TestNICBulk has TCP through the devices, which the stack cuts to pieces for
// them.
func TestNICBulk(t *testing.T) {
	n := newNICs(t, 1)
	for _, on := range [][2]string{{"packet", ""}, {"crypto", ""}, {"packet", "crypto"}} {
		n.install(t, pair{at: tunnel4, mode: "tunnel", onA: on[0], onB: on[1]})
		stop := n.watch(t)
		r, err := n.net.Iperf(n.a, n.b, harness.Iperf{Source: tunnel4.innerA, Dest: tunnel4.innerB, Time: time.Second})
		ok(t, err)
		k := stop()
		t.Logf("%q to %q: %.1f Mbit/s in %d ESP packets", on[0], on[1], r.BitsPerSecond/1e6, k.esp)
		if k.esp < 100 {
			t.Errorf("%d ESP packets on the wire", k.esp)
		}
	}
}
