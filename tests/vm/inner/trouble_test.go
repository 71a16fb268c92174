// SPDX-License-Identifier: Apache-2.0

package inner

import (
	"context"
	"fmt"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/strongswan/govici/vici"

	"quicksand/tests/harness"
)

// refusals has the device refuse at every step of the chain: auto goes on to
// the next, and what asks for one kind alone fails and says why.
func (d *duo) refusals(t *testing.T) {
	// What a device has refused is not asked of it again for some time, unless
	// its link has changed.
	flap := func() {
		ok(t, d.a.SetLink(nicA, false))
		ok(t, d.a.SetLink(nicA, true))
		neighbours(t, d.nics)
	}
	reset := func() {
		for knob, value := range map[string]string{"model": "any", "refuse": "0", "slots": "65535", "policy_slots": "65535", "error": "22"} {
			set(t, nicA, knob, value)
		}
	}
	defer flap()
	defer reset()
	for _, c := range []struct {
		name        string
		knob, value string
		offload     string
		kind        string // empty where it fails
		words       string // of the placement's detail or of the error
	}{
		{"no packet offload", "model", "crypto", "auto", "crypto", "Packet offload is not supported"},
		{"packet states refused", "refuse", "32", "auto", "crypto", "state refused on request"},
		{"policies refused", "refuse", "12", "auto", "crypto", "policy refused on request"},
		{"outbound refused", "refuse", "2", "auto", "kernel", "state refused on request"},
		{"inbound refused", "refuse", "1", "auto", "kernel", "state refused on request"},
		{"no slots", "slots", "0", "auto", "kernel", "no slot is left for the state"},
		{"one slot", "slots", "1", "auto", "kernel", "no slot is left for the state"},
		{"ixgbe", "model", "ixgbe", "auto", "kernel", "transport mode only"},
		{"mlx5", "model", "mlx5", "auto", "packet", ""},
		{"packet alone", "model", "crypto", "packet", "", "Packet offload is not supported"},
		{"crypto alone", "refuse", "16", "crypto", "", "state refused on request"},
	} {
		t.Run(c.name, func(t *testing.T) {
			reset()
			set(t, nicA, c.knob, c.value)
			flap()
			d.load(t, over(tunnel4, nil), lan("refused", 0, "aes128gcm16", c.offload))
			if c.kind == "" {
				d.fails(t, "refused", c.words)
				if s := shown(t, nicA, "states"); s != "" {
					t.Errorf("the device has states left:\n%s", s)
				}
				return
			}
			sa := d.up(t, d.q, "refused")
			d.placed(t, sa, c.kind)
			if !strings.Contains(sa.Detail, c.words) {
				t.Errorf("the placement's detail %q does not say %q", sa.Detail, c.words)
			}
			d.aliveIn(t, 0)
		})
	}
}

// link takes the link down, with which the kernel forgets all that the device
// held, and up again.
func (d *duo) link(t *testing.T) {
	d.each(t, over(tunnel4, nil), func(offload string) child { return lan("link", 0, "aes128gcm16", offload) },
		func(t *testing.T, sa harness.ChildSA) {
			d.aliveIn(t, 0)
			stop := d.watch(t)
			ok(t, d.a.SetLink(nicA, false))
			time.Sleep(200 * time.Millisecond) // as long as the link is away
			ok(t, d.a.SetLink(nicA, true))
			neighbours(t, d.nics)
			ok(t, harness.Poll(30*time.Second, func() error {
				r, err := d.a.Ping(harness.Ping{Source: tunnel4.innerA, Dest: tunnel4.innerB, Count: 1, Linger: 300 * time.Millisecond})
				if err == nil && r.Received == 0 {
					err = fmt.Errorf("no answer after the link came back")
				}
				return err
			}))
			d.placed(t, d.settled(t, "link"), sa.Placement)
			d.aliveIn(t, 0)
			stop()
		})
}

// crash kills quicksand and starts it again: what it left in the kernel and at
// the device is known again and is neither doubled nor leaked, and at no moment
// does what the children protect take another way in clear.
func (d *duo) crash(t *testing.T) {
	d.load(t, over(tunnel4, nil), lan("packet", 0, "aes128gcm16", "packet"), lan("crypto", 1, "aes128gcm16", "crypto"),
		lan("kernel", 2, "aes128gcm16", "no"))
	names := []string{"packet", "crypto", "kernel"}
	for i, name := range names {
		d.up(t, d.q, name)
		d.aliveIn(t, i)
	}
	ok(t, xfrm(d.a, "route replace default via "+harness.AddrB))
	defer xfrm(d.a, "route del default")
	stop := d.watch(t)
	var traffic []func() (harness.PingResult, error)
	for i := range names {
		traffic = append(traffic, d.a.StartPing(harness.Ping{Source: fmt.Sprintf("10.1.%d.1", i), Dest: fmt.Sprintf("10.2.%d.1", i),
			Count: 100, Interval: 50 * time.Millisecond}))
	}
	blocked := statistic(t, d.a, "XfrmOutPolBlock")
	d.q.Kill()
	ok(t, d.q.Restart())
	d.p.Swanctl("--terminate", "--ike", "net", "--force", "--timeout", "2")
	d.load(t, over(tunnel4, nil), lan("packet", 0, "aes128gcm16", "packet"), lan("crypto", 1, "aes128gcm16", "crypto"),
		lan("kernel", 2, "aes128gcm16", "no"))
	for i, name := range names {
		d.placed(t, d.up(t, d.q, name), []string{"packet", "crypto", "kernel"}[i])
		d.aliveIn(t, i)
	}
	for _, wait := range traffic {
		_, err := wait()
		ok(t, err)
	}
	stop()
	if statistic(t, d.a, "XfrmOutPolBlock") == blocked {
		t.Error("nothing was blocked: no packet came while the children were down")
	}
	if s := states(t, d.a); spis(s) != 2*len(names) {
		t.Errorf("the kernel does not have %d states:\n%s", 2*len(names), s)
	}
	if s := shown(t, nicA, "states"); strings.Count(s, "\n") != 4 {
		t.Errorf("the device does not have 4 states:\n%s", s)
	}
	// And what somebody else has in the kernel stays.
	ok(t, xfrm(d.a, "xfrm state add src 192.0.2.1 dst 192.0.2.2 proto esp spi 0x77 reqid 7 mode tunnel aead rfc4106(gcm(aes)) 0x"+gcmKey+" 128"))
	d.q.Kill()
	ok(t, d.q.Restart())
	out := states(t, d.a)
	if spis(out) != 1 || !strings.Contains(out, "0x00000077") {
		t.Errorf("after a restart the kernel does not have somebody else's state alone:\n%s", out)
	}
	policies, err := exec.Command("ip", "-n", d.a.Namespace(), "xfrm", "policy").Output()
	ok(t, err)
	if strings.Count(string(policies), "src 10.") != len(names) || strings.Count(string(policies), "dir out action block") != len(names) {
		t.Errorf("after a restart the kernel does not have %d policies that block alone:\n%s", len(names), policies)
	}
}

// TestQuicksandMany brings up 1,000 children in packet offload, each between two
// hosts. The kernel keeps their policies in a table that it makes larger as they
// become more, and in which it then no longer looks at the offloaded ones first:
// nothing else may be there to be found before them.
func TestQuicksandMany(t *testing.T) {
	const many, atOnce = 1000, 16
	d := start(t, 16, harness.Quicksand)
	var children []child
	names := make(chan string, many)
	for i := range many {
		c := lan(fmt.Sprint("c", i), 0, "aes128gcm16", "packet")
		c.LocalTS, c.RemoteTS = fmt.Sprintf("10.1.%d.%d/32", i/64, i%64+1), fmt.Sprintf("10.2.%d.%d/32", i/64, i%64+1)
		children = append(children, c)
		names <- c.Name
	}
	close(names)
	d.load(t, over(tunnel4, nil), children...)
	begin := time.Now()
	d.up(t, d.q, <-names)
	var wg sync.WaitGroup
	for range atOnce {
		wg.Go(func() {
			if err := initiateAll(d.q, names); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	t.Logf("%d children up after %v", many, time.Since(begin).Round(100*time.Millisecond))
	if all, err := d.q.Children(""); err != nil || len(all) != many {
		t.Errorf("quicksand has %d children of %d, %v", len(all), many, err)
	}
	if got := strings.Count(shown(t, nicA, "states"), "packet "); got != 2*many {
		t.Errorf("the device has %d states of %d", got, 2*many)
	}
	const asked = 50
	var here, there []string
	pings := map[string]harness.Ping{}
	for i := 0; i < many; i += many / asked {
		c := children[i]
		if i%64 != 0 { // the first of each network is there
			here, there = append(here, "addr add "+c.LocalTS+" dev lo"), append(there, "addr add "+c.RemoteTS+" dev lo")
		}
		pings[c.Name] = harness.Ping{Source: strings.TrimSuffix(c.LocalTS, "/32"), Dest: strings.TrimSuffix(c.RemoteTS, "/32"), Count: 1}
	}
	ok(t, xfrm(d.a, here...))
	ok(t, xfrm(d.b, there...))
	stop, blocked := d.watch(t), statistic(t, d.a, "XfrmOutPolBlock")
	var mute []string
	for name, p := range pings {
		if r, err := d.a.Ping(p); err != nil || r.Received != 1 {
			mute = append(mute, name)
		}
	}
	if n := statistic(t, d.a, "XfrmOutPolBlock") - blocked; n != 0 || len(mute) > 0 {
		t.Errorf("%d packets were blocked, and there was no answer through %v:\n%s", n, mute, shown(t, nicA, "counters"))
	}
	if k := stop(); k.esp != 2*asked {
		t.Errorf("%d ESP packets on the wire of %d", k.esp, 2*asked)
	}
}

// initiateAll initiates children one after the other, without a swanctl for
// each.
func initiateAll(p *harness.Peer, names <-chan string) error {
	session, err := vici.NewSession(vici.WithAddr("unix", p.Socket))
	if err != nil {
		return err
	}
	defer session.Close()
	for name := range names {
		m := vici.NewMessage()
		m.Set("child", name)
		m.Set("timeout", "30000")
		// Without a deadline of ours the session has one of 5 s.
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		_, err := session.Call(ctx, "initiate", m)
		cancel()
		if err != nil {
			return fmt.Errorf("initiate %s: %w", name, err)
		}
	}
	return nil
}
