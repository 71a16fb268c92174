// SPDX-License-Identifier: Apache-2.0

package inner

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"quicksand/tests/harness"
)

// kinds of placement by what hw_offload asks for.
var placements = map[string]string{"packet": "packet", "crypto": "crypto", "no": "kernel"}

// TestQuicksand has quicksand on the test NIC negotiate with strongSwan, which
// has the kernel's own ESP, in every way that a pair can be placed.
func TestQuicksand(t *testing.T) {
	d := start(t, 16, harness.StrongSwan)
	t.Run("tunnel", d.tunnel)
	t.Run("AH", d.ah)
	t.Run("IPv6", d.tunnel6)
	t.Run("families", d.families)
	t.Run("hosts", d.hosts)
	t.Run("transport", d.transport)
	t.Run("neighbours", d.discovery)
	t.Run("UDP", d.udp)
	t.Run("rekey", d.rekey)
	t.Run("volumes", d.volumes)
	t.Run("end of life", d.endOfLife)
	t.Run("trap", d.trap)
	t.Run("marking", d.marking)
	t.Run("refusals", d.refusals)
	t.Run("link", d.link)
	t.Run("crash", d.crash)
}

// tunnel has children of every placement and a few suites, initiated by either
// end.
func (d *duo) tunnel(t *testing.T) {
	const gcm = "aes128gcm16"
	cases := []struct {
		child
		kind string
	}{
		{lan("packet", 0, gcm, "packet"), "packet"},
		{lan("crypto", 1, gcm, "crypto"), "crypto"},
		{lan("kernel", 2, gcm, "no"), "kernel"},
		{lan("auto", 3, gcm, "auto"), "packet"},
		{lan("packet-r", 4, gcm, "packet"), "packet"},
		{lan("crypto-r", 5, gcm, "crypto"), "crypto"},
		{lan("packet-esn", 6, "aes256gcm16-esn", "packet"), "packet"},
		{lan("crypto-esn", 7, gcm+"-esn", "crypto"), "crypto"},
		{lan("cbc", 8, "aes128-sha256", "auto"), "kernel"},
	}
	var children []child
	for _, c := range cases {
		children = append(children, c.child)
	}
	d.load(t, over(tunnel4, nil), children...)
	stop := d.watch(t)
	for i, c := range cases {
		from := d.q
		if strings.HasSuffix(c.Name, "-r") {
			from = d.p
		}
		grew := counted(t, nicA)
		d.placed(t, d.up(t, from, c.Name), c.kind)
		d.aliveIn(t, i)
		if c.kind != "kernel" && (grew("tx_"+c.kind) < 4 || grew("rx_"+c.kind) < 4) {
			t.Errorf("%s: the device sent %d and received %d packets as %s", c.Name, grew("tx_"+c.kind), grew("rx_"+c.kind), c.kind)
		}
	}
	if k := stop(); k.esp < 8*len(cases) || k.ike == 0 {
		t.Errorf("%d ESP and %d IKE packets on the wire", k.esp, k.ike)
	}
	d.counts(t, "packet", "crypto", "kernel")
}

// ah has no device to go to.
func (d *duo) ah(t *testing.T) {
	for _, mode := range []string{"tunnel", "transport"} {
		t.Run(mode, func(t *testing.T) {
			c := lan("ah", 0, "", "auto")
			c.AH, c.Mode = "sha256", mode
			at := tunnel4
			if mode == "transport" {
				at = host4
				c.LocalTS, c.RemoteTS = at.netA, at.netB
			}
			d.load(t, over(tunnel4, nil), c)
			d.placed(t, d.up(t, d.q, "ah"), "kernel")
			before := d.record(t)
			d.alive(t, at.innerA, at.innerB)
			for _, f := range before() {
				const etherTypeIPv4, ahProto = "\x08\x00", 51
				if string(f[12:14]) == etherTypeIPv4 && f[23] != ahProto {
					t.Errorf("on the wire without AH: %x", f)
				}
			}
		})
	}
}

// counts compares both ends' counts of children that only pings have used.
func (d *duo) counts(t *testing.T, names ...string) {
	t.Helper()
	for _, name := range names {
		if err := harness.Poll(5*time.Second, func() error {
			q, err := d.q.Child(name)
			if err != nil {
				return err
			}
			p, err := d.p.Child(name)
			if err != nil {
				return err
			}
			if q.PacketsOut != p.PacketsIn || q.PacketsIn != p.PacketsOut || q.BytesOut != p.BytesIn || q.BytesIn != p.BytesOut || q.PacketsIn == 0 {
				return fmt.Errorf("%s: %d packets with %d bytes out and %d with %d in at quicksand; %d with %d in and %d with %d out at the peer",
					name, q.PacketsOut, q.BytesOut, q.PacketsIn, q.BytesIn, p.PacketsIn, p.BytesIn, p.PacketsOut, p.BytesOut)
			}
			return nil
		}); err != nil {
			t.Error(err)
		}
	}
}

// each runs f with a connection for each placement, which is up.
func (d *duo) each(t *testing.T, c harness.Conn, ch func(offload string) child, f func(t *testing.T, sa harness.ChildSA)) {
	for _, offload := range []string{"packet", "crypto", "no"} {
		t.Run(offload, func(t *testing.T) {
			kid := ch(offload)
			d.load(t, c, kid)
			sa := d.up(t, d.q, kid.Name)
			d.placed(t, sa, placements[offload])
			f(t, sa)
		})
	}
}

func (d *duo) tunnel6(t *testing.T) {
	d.each(t, over(tunnel6, nil), func(offload string) child {
		c := lan("six", 0, "aes128gcm16", offload)
		c.LocalTS, c.RemoteTS = tunnel6.netA, tunnel6.netB
		return c
	}, func(t *testing.T, _ harness.ChildSA) {
		stop := d.watch(t)
		d.alive(t, tunnel6.innerA, tunnel6.innerB)
		if k := stop(); k.esp < 8 {
			t.Errorf("%d ESP packets on the wire", k.esp)
		}
	})
}

// families has IPv6 carried by IPv4, and the reverse, which the kernel cannot do
// with packet offload.
func (d *duo) families(t *testing.T) {
	for _, c := range []struct {
		name           string
		outside, inner sites
	}{{"6in4", tunnel4, tunnel6}, {"4in6", tunnel6, tunnel4}} {
		for _, p := range []struct{ offload, kind string }{{"auto", "crypto"}, {"crypto", "crypto"}, {"no", "kernel"}, {"packet", ""}} {
			t.Run(c.name+"/"+p.offload, func(t *testing.T) {
				ch := lan("mixed", 0, "aes128gcm16", p.offload)
				ch.LocalTS, ch.RemoteTS = c.inner.netA, c.inner.netB
				d.load(t, over(c.outside, nil), ch)
				if p.kind == "" {
					d.fails(t, "mixed", "neither IPv6 in IPv4 nor the reverse")
					return
				}
				d.placed(t, d.up(t, d.q, "mixed"), p.kind)
				stop, grew := d.watch(t), counted(t, nicA)
				d.alive(t, c.inner.innerA, c.inner.innerB)
				if k := stop(); k.esp < 8 {
					t.Errorf("%d ESP packets on the wire", k.esp)
				}
				if p.kind == "crypto" && (grew("tx_crypto") < 4 || grew("rx_crypto") < 4) {
					t.Errorf("the device sent %d and received %d packets", grew("tx_crypto"), grew("rx_crypto"))
				}
			})
		}
	}
}

// hosts has many children between single hosts in packet offload. The kernel
// keeps their policies in a table that it makes larger as they become more, and
// in which it then no longer looks at the offloaded ones first.
func (d *duo) hosts(t *testing.T) {
	const many = 50
	const blocked = "XfrmOutPolBlock"
	var children []child
	for i := range many {
		c := lan(fmt.Sprint("host", i), 0, "aes128gcm16", "packet")
		here, there := fmt.Sprintf("10.1.0.%d/32", i+1), fmt.Sprintf("10.2.0.%d/32", i+1)
		c.LocalTS, c.RemoteTS = here, there
		children = append(children, c)
		if i > 0 {
			ok(t, xfrm(d.a, "addr add "+here+" dev lo"))
			ok(t, xfrm(d.b, "addr add "+there+" dev lo"))
		}
	}
	d.load(t, over(tunnel4, nil), children...)
	names := make(chan string, many)
	for _, c := range children {
		names <- c.Name
	}
	close(names)
	ok(t, initiateAll(d.q, names))
	before := statistic(t, d.a, blocked)
	stop := d.watch(t)
	var mute []string
	for i := range many {
		r, err := d.a.Ping(harness.Ping{Source: fmt.Sprintf("10.1.0.%d", i+1), Dest: fmt.Sprintf("10.2.0.%d", i+1), Count: 1, Linger: time.Second})
		if err != nil || r.Received != 1 {
			mute = append(mute, children[i].Name)
		}
	}
	if n := statistic(t, d.a, blocked) - before; n != 0 || len(mute) > 0 {
		t.Errorf("%d packets were blocked, and there was no answer through %v:\n%s", n, mute, shown(t, nicA, "counters"))
	}
	if k := stop(); k.esp != 2*many {
		t.Errorf("%d ESP packets on the wire of %d", k.esp, 2*many)
	}
	for i := 1; i < many; i++ {
		ok(t, xfrm(d.a, "addr del "+fmt.Sprintf("10.1.0.%d/32 dev lo", i+1)))
		ok(t, xfrm(d.b, "addr del "+fmt.Sprintf("10.2.0.%d/32 dev lo", i+1)))
	}
}

// statistic is one of the kernel's counts of what it dropped.
func statistic(t *testing.T, h *harness.Host, name string) (n int) {
	t.Helper()
	out, err := h.Run("awk", fmt.Sprintf("$1 == %q { print $2 }", name), "/proc/net/xfrm_stat")
	ok(t, err)
	n, err = strconv.Atoi(strings.TrimSpace(out))
	ok(t, err)
	return n
}

// discovery has hosts on one link protect all that is between them, and each
// find the other for the first time. A policy for the other's address is one
// for what says where it is, too.
func (d *duo) discovery(t *testing.T) {
	for _, offload := range []string{"no", "auto"} {
		t.Run(offload, func(t *testing.T) {
			c := lan("near", 0, "aes128gcm16", offload).with("start_action", "trap")
			c.LocalTS, c.RemoteTS, c.Mode = host6.netA, host6.netB, "transport"
			d.load(t, over(host6, nil), c)
			defer neighbours(t, d.nics)
			for _, end := range []struct {
				h    *harness.Host
				dev  string
				peer string
			}{{d.a, nicA, host6.outerB}, {d.b, nicB, host6.outerA}} {
				ok(t, xfrm(end.h, "neigh del "+end.peer+" dev "+end.dev))
			}
			d.alive(t, host6.innerA, host6.innerB)
			// The same when the kernel asks again whether the neighbour is there.
			ok(t, xfrm(d.a, "neigh flush dev "+nicA))
			d.alive(t, host6.innerA, host6.innerB)
		})
	}
}

// transport has the device take what passes between the hosts themselves, which
// is their IKE too, were it not let pass.
func (d *duo) transport(t *testing.T) {
	d.each(t, over(host4, nil), func(offload string) child {
		c := lan("host", 0, "aes128gcm16", offload)
		c.LocalTS, c.RemoteTS, c.Mode = host4.netA, host4.netB, "transport"
		return c
	}, func(t *testing.T, sa harness.ChildSA) {
		if sa.Mode != "TRANSPORT" {
			t.Errorf("the mode is %s", sa.Mode)
		}
		stop := d.watch(t)
		d.alive(t, host4.innerA, host4.innerB)
		// IKE goes on working beside it.
		_, err := d.q.Swanctl("--rekey", "--child", "host")
		ok(t, err)
		d.changed(t, "host", sa)
		d.alive(t, host4.innerA, host4.innerB)
		if k := stop(); k.esp < 16 || k.ike < 3 {
			t.Errorf("%d ESP and %d IKE packets on the wire", k.esp, k.ike)
		}
	})
}

// udp has ESP in UDP: the device does that in packet offload alone.
func (d *duo) udp(t *testing.T) {
	for _, c := range []struct{ offload, kind string }{{"packet", "packet"}, {"no", "kernel"}, {"crypto", ""}} {
		t.Run(c.offload, func(t *testing.T) {
			d.load(t, over(tunnel4, harness.Options{"encap": "yes"}), lan("udp", 0, "aes128gcm16", c.offload))
			if c.kind == "" {
				d.fails(t, "udp", "Encapsulation is supported in packet offload mode only")
				return
			}
			sa := d.up(t, d.q, "udp")
			if !sa.Encap {
				t.Error("it is not encapsulated")
			}
			d.placed(t, sa, c.kind)
			stop := d.watch(t)
			d.aliveIn(t, 0)
			if k := stop(); k.esp < 8 {
				t.Errorf("%d ESP packets on the wire", k.esp)
			}
		})
	}
}

// fails has a child fail, for a reason that the log has the words of, and with
// nothing left behind.
func (d *duo) fails(t *testing.T, name, words string) {
	t.Helper()
	begin := d.q.Log.Mark()
	if err := d.q.Initiate(name); err == nil {
		t.Error("it came up")
	}
	if _, err := d.q.Log.Wait(begin, words, 5*time.Second); err != nil {
		t.Errorf("%v; it says:\n%s", err, d.q.Log.Since(begin))
	}
	// Without an SPI they are the kernel's own, which stand for pairs it has asked for.
	if s := states(t, d.a); regexp.MustCompile(`proto esp spi 0x0*[1-9a-f]`).MatchString(s) {
		t.Errorf("the kernel has states left:\n%s", s)
	}
}

// changed waits until the child has other SAs than that one, alone.
func (d *duo) changed(t *testing.T, name string, old harness.ChildSA) (now harness.ChildSA) {
	t.Helper()
	ok(t, harness.Poll(20*time.Second, func() (err error) {
		if now, err = d.q.Child(name); err == nil && now.SPIIn == old.SPIIn {
			err = fmt.Errorf("%s has still the SA %s", name, old.SPIIn)
		}
		return err
	}))
	return d.settled(t, name)
}

// rekey renegotiates under traffic, from either end, and nothing may be lost.
func (d *duo) rekey(t *testing.T) {
	d.each(t, over(tunnel4, nil), func(offload string) child {
		return lan("rekey", 0, "aes128gcm16", offload)
	}, func(t *testing.T, sa harness.ChildSA) {
		d.aliveIn(t, 0)
		stop := d.watch(t)
		traffic := d.a.StartPing(harness.Ping{Source: tunnel4.innerA, Dest: tunnel4.innerB, Count: 250, Interval: 20 * time.Millisecond})
		for _, from := range []*harness.Peer{d.q, d.p} {
			_, err := from.Swanctl("--rekey", "--child", "rekey")
			ok(t, err)
			next := d.changed(t, "rekey", sa)
			d.placed(t, next, placements[map[string]string{"packet": "packet", "crypto": "crypto", "kernel": "no"}[sa.Placement]])
			sa = next
		}
		r, err := traffic()
		ok(t, err)
		if r.Lost() != 0 {
			t.Errorf("%v", r)
		}
		stop()
	})
}

// volumes has children renegotiated by bytes and packets under traffic: of
// packet offload it is the device that counts.
func (d *duo) volumes(t *testing.T) {
	var children []child
	for i, offload := range []string{"packet", "crypto", "no"} {
		children = append(children,
			lan(fmt.Sprint(offload, "-packets"), 2*i, "aes128gcm16", offload).with("rekey_packets", "60").with("life_packets", "400").with("rand_packets", "0"),
			lan(fmt.Sprint(offload, "-bytes"), 2*i+1, "aes128gcm16", offload).with("rekey_bytes", "5040").with("life_bytes", "40000").with("rand_bytes", "0"))
	}
	d.load(t, over(tunnel4, nil), children...)
	var wg sync.WaitGroup
	for i, c := range children {
		first := d.up(t, d.q, c.Name)
		d.aliveIn(t, i)
		wg.Go(func() {
			r, err := d.a.Ping(harness.Ping{Source: fmt.Sprintf("10.1.%d.1", i), Dest: fmt.Sprintf("10.2.%d.1", i), Count: 100,
				Interval: 50 * time.Millisecond})
			if err != nil || r.Lost() != 0 {
				t.Errorf("%s: %v %v", c.Name, r, err)
			}
			if now, err := d.q.Child(c.Name); err != nil || now.SPIIn == first.SPIIn {
				t.Errorf("%s was not renegotiated: %v, %+v", c.Name, err, now)
			}
		})
	}
	wg.Wait()
}

// endOfLife has children reach the end of their lives by bytes and packets, and
// nobody renegotiates them: their SAs are gone, and nothing passes in clear.
func (d *duo) endOfLife(t *testing.T) {
	var children []child
	for i, offload := range []string{"packet", "crypto", "no"} {
		children = append(children, lan(offload, i, "aes128gcm16", offload).with("rekey_bytes", "0").with("life_bytes", "2520"))
	}
	children = append(children, lan("packets", 3, "aes128gcm16", "packet").with("rekey_packets", "0").with("life_packets", "30"))
	d.load(t, over(tunnel4, nil), children...)
	stop := d.watch(t)
	for i, c := range children {
		first := d.up(t, d.q, c.Name)
		d.aliveIn(t, i)
		begin := d.q.Log.Mark()
		_, err := d.a.Ping(harness.Ping{Source: fmt.Sprintf("10.1.%d.1", i), Dest: fmt.Sprintf("10.2.%d.1", i), Count: 50,
			Interval: time.Millisecond, Linger: 100 * time.Millisecond})
		ok(t, err)
		if _, err := d.q.Log.Wait(begin, "child "+c.Name+".* expired", 10*time.Second); err != nil {
			t.Error(err)
		}
		if err := harness.Poll(10*time.Second, func() error {
			for _, spi := range []string{first.SPIIn, first.SPIOut} {
				if strings.Contains(states(t, d.a), "spi 0x"+spi) {
					return fmt.Errorf("%s: the kernel still has the SA %s", c.Name, spi)
				}
			}
			return nil
		}); err != nil {
			t.Error(err)
		}
	}
	stop()
}

// trap has a packet ask for its child.
func (d *duo) trap(t *testing.T) {
	for _, offload := range []string{"packet", "no"} {
		t.Run(offload, func(t *testing.T) {
			d.load(t, over(tunnel4, nil), lan("trap", 0, "aes128gcm16", offload).with("start_action", "trap"))
			stop, begin := d.watch(t), d.q.Log.Mark()
			d.aliveIn(t, 0)
			d.placed(t, d.settled(t, "trap"), placements[offload])
			// It names the packet, not the policy.
			const words = `traffic for 10\.1\.0\.1/32\[icmp.*\] === 10\.2\.0\.1/32\[icmp.*\] wants child net/trap`
			if _, err := d.q.Log.Wait(begin, words, time.Second); err != nil {
				t.Errorf("%v; it says:\n%s", err, d.q.Log.Since(begin))
			}
			if k := stop(); k.esp < 8 {
				t.Errorf("%d ESP packets on the wire", k.esp)
			}
		})
	}
}
