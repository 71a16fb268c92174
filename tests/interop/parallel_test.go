// SPDX-License-Identifier: Apache-2.0

package interop

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"quicksand/accel"
	"quicksand/tests/harness"
)

// pairs is how many pairs the children of these tests have side by side.
const pairs = 3

// parallelChild is a child of which quicksand has several pairs; strongSwan has
// no word for it.
func parallelChild(lan int, q, s harness.Options) (forQ, forS harness.Child) {
	forQ, forS = child("c", lan, "aes128gcm16-ecp256"), child("c", lan, "aes128gcm16-ecp256")
	forQ.Options = harness.Options{"parallel_sas": fmt.Sprint(pairs)}
	for k, v := range q {
		forQ.Options[k] = v
	}
	forS.Options = s
	return forQ, forS
}

// late renegotiates nothing in the time of a test.
var late = harness.Options{"rekey_time": "1h", "life_time": "2h"}

// everyChild returns the peer's child SAs of the name, in whatever state.
func everyChild(t *testing.T, p *harness.Peer, name string) (out []harness.ChildSA) {
	t.Helper()
	sas, err := p.SAs()
	ok(t, err)
	for _, sa := range sas {
		for _, c := range sa.Children {
			if c.Name == name {
				out = append(out, c)
			}
		}
	}
	return out
}

// sideBySide waits until quicksand has as many pairs as wanted, each of which the
// peer has as well, and returns quicksand's view.
func (d *duo) sideBySide(t *testing.T, want int) (list []harness.ChildSA) {
	t.Helper()
	ok(t, harness.Poll(10*time.Second, func() (err error) {
		list = slices.DeleteFunc(everyChild(t, d.q, "c"), func(c harness.ChildSA) bool {
			return c.State != "INSTALLED" && c.State != "REKEYING"
		})
		if len(list) != want {
			return fmt.Errorf("quicksand has %d pairs, want %d", len(list), want)
		}
		theirs := everyChild(t, d.s, "c")
		for _, c := range list {
			if !slices.ContainsFunc(theirs, func(o harness.ChildSA) bool { return o.SPIIn == c.SPIOut && o.SPIOut == c.SPIIn }) {
				return fmt.Errorf("the peer does not have %s/%s", c.SPIIn, c.SPIOut)
			}
		}
		return nil
	}))
	return list
}

// spreads sends several flows and wants each of quicksand's lanes to carry some.
func (d *duo) spreads(t *testing.T) {
	t.Helper()
	d.ping(t, 0)
	d.sideBySide(t, pairs)
	before := map[string]uint64{}
	for _, c := range everyChild(t, d.q, "c") {
		before[c.SPIIn] = c.PacketsOut
	}
	r, err := d.net.Iperf(d.q.Host, d.s.Host, harness.Iperf{Source: "10.1.0.1", Dest: "10.2.0.1", Streams: 12, Time: 2 * time.Second})
	ok(t, err)
	var carried [pairs]uint64 // by lane, whichever of its pairs it was
	for _, c := range everyChild(t, d.q, "c") {
		carried[c.Lane] += c.PacketsOut - before[c.SPIIn]
	}
	t.Logf("%.2f Gbit/s; packets by lane: %v", r.BitsPerSecond/1e9, carried)
	if slices.Min(carried[:]) < 100 {
		t.Errorf("packets by lane: %v", carried)
	}
}

// TestParallelPairs has quicksand begin several pairs of one child with
// strongSwan, which decrypts them all, and renegotiate each by itself under
// traffic.
func TestParallelPairs(t *testing.T) {
	t.Parallel()
	if reference {
		t.Skip("strongSwan has no such children with IKEv1")
	}
	d := start(t, options{lans: 1})
	soon := harness.Options{"rekey_time": "5s", "life_time": "60s", "rand_time": "2s"}
	forQ, forS := parallelChild(0, soon, late)
	ok(t, d.q.Load(config(conn(forQ))))
	ok(t, d.s.Load(config(conn(forS)).Mirror()))
	from := d.q.Log.Mark()
	ok(t, d.q.Initiate("c"))
	first := d.sideBySide(t, pairs)
	d.spreads(t)

	seen := watch(t, spis(d.q, "c"))
	r, err := d.q.Host.Ping(harness.Ping{Source: "10.1.0.1", Dest: "10.2.0.1", Count: 2400, Interval: 5 * time.Millisecond})
	n := len(seen())
	ok(t, err)
	t.Logf("%d SAs in turn; %v", n, r)
	if r.Lost() > tolerated || r.Duplicates != 0 {
		t.Errorf("%v, %d twice", r, r.Duplicates)
	}
	if n < 2*pairs {
		t.Errorf("%d SAs in turn", n)
	}
	for _, c := range d.sideBySide(t, pairs) {
		if slices.ContainsFunc(first, func(o harness.ChildSA) bool { return o.SPIIn == c.SPIIn }) {
			t.Errorf("%s was not renegotiated", c.SPIIn)
		}
	}
	d.spreads(t)
	if log := d.q.Log.Since(from); strings.Contains(log, "peer deleted child") {
		t.Errorf("strongSwan deletes pairs of ours:\n%s", log)
	}

	_, err = d.q.Swanctl("--terminate", "--child", "c")
	ok(t, err)
	ok(t, harness.Poll(5*time.Second, func() error {
		if q, s := everyChild(t, d.q, "c"), everyChild(t, d.s, "c"); len(q)+len(s) > 0 {
			return fmt.Errorf("%d pairs are left at quicksand, %d at strongSwan", len(q), len(s))
		}
		return nil
	}))
}

// TestParallelResponder has strongSwan begin one Quick Mode after the other for the
// same child, of which quicksand admits several side by side and no more; and
// renegotiate after its own time.
func TestParallelResponder(t *testing.T) {
	t.Parallel()
	if reference {
		t.Skip("strongSwan has no such children with IKEv1")
	}
	d := start(t, options{lans: 1})
	forQ, forS := parallelChild(0, late, harness.Options{"rekey_time": "6s", "life_time": "60s", "rand_time": "0s"})
	ok(t, d.q.Load(config(conn(forQ))))
	ok(t, d.s.Load(config(conn(forS)).Mirror()))
	for range pairs {
		ok(t, d.s.Initiate("c"))
	}
	d.sideBySide(t, pairs)
	d.spreads(t)

	most := 0
	current := watch(t, func() (out []string, err error) {
		children, err := d.q.Children("c")
		most = max(most, len(children))
		for _, c := range children {
			out = append(out, c.SPIIn)
		}
		return out, err
	})
	r, err := d.q.Host.Ping(harness.Ping{Source: "10.1.0.1", Dest: "10.2.0.1", Count: 3000, Interval: 5 * time.Millisecond})
	n := len(current())
	ok(t, err)
	t.Logf("%d SAs in turn, %d at a time; %v", n, most, r)
	if r.Lost() > tolerated || r.Duplicates != 0 {
		t.Errorf("%v, %d twice", r, r.Duplicates)
	}
	if n <= pairs || most > pairs {
		t.Errorf("%d SAs in turn, %d at a time", n, most)
	}
	d.ping(t, 0)
	d.sideBySide(t, pairs)
}

// TestParallelBetweenQuicksands has both ends start the child, renegotiate its
// pairs and take steps to lose none, on several workers, with sockets and with
// steering.
func TestParallelBetweenQuicksands(t *testing.T) {
	t.Parallel()
	if reference {
		t.Skip("strongSwan has no such children with IKEv1")
	}
	cpus, err := accel.Allowed()
	ok(t, err)
	cores := fmt.Sprintf("worker_cores = %d,%d", cpus[0], cpus[len(cpus)-1])
	for _, way := range []string{"sockets", "AF_XDP"} {
		t.Run(way, func(t *testing.T) {
			n := harness.ForTest(t)
			a, b, err := n.Sites(1)
			ok(t, err)
			d := &duo{net: n}
			for _, end := range []struct {
				peer **harness.Peer
				host *harness.Host
			}{{&d.q, a}, {&d.s, b}} {
				settings := []string{"backend = userspace", cores}
				if way == "AF_XDP" {
					settings = append(settings, "xdp_interfaces = "+end.host.Uplink(), "xdp_pins = off")
				}
				*end.peer, err = harness.StartQuicksand(end.host, harness.QuicksandOptions{Settings: settings})
				ok(t, err)
			}
			soon := harness.Options{"rekey_time": "4s", "life_time": "60s", "rand_time": "2s", "start_action": "start"}
			c, _ := parallelChild(0, soon, nil)
			d.load(t, config(conn(c)))
			d.sideBySide(t, pairs)
			d.spreads(t)
			for _, from := range []*harness.Peer{d.q, d.s} {
				seen := watch(t, spis(d.q, "c"))
				ping := harness.Ping{Source: "10.1.0.1", Dest: "10.2.0.1", Count: 1500, Interval: 5 * time.Millisecond}
				if from == d.s {
					ping.Source, ping.Dest = ping.Dest, ping.Source
				}
				r, err := from.Host.Ping(ping)
				ok(t, err)
				t.Logf("%d SAs in turn; %v", len(seen()), r)
				if r.Lost() > tolerated || r.Duplicates != 0 {
					t.Errorf("%v, %d twice", r, r.Duplicates)
				}
			}
			ok(t, harness.Poll(10*time.Second, func() error {
				theirs := everyChild(t, d.s, "c")
				for _, c := range d.sideBySide(t, pairs) {
					for _, o := range theirs {
						if o.SPIIn == c.SPIOut && o.Lane != c.Lane {
							return fmt.Errorf("%s is lane %d at one end and %d at the other", c.SPIIn, c.Lane, o.Lane)
						}
					}
					if !strings.Contains(c.Detail, way) {
						return fmt.Errorf("%s runs by %s", c.SPIIn, c.Detail)
					}
				}
				return nil
			}))
		})
	}
}
