// SPDX-License-Identifier: Apache-2.0

package inner

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"quicksand/tests/harness"
)

// TestQuicksandNetdevsim has quicksand on a device of the mainline driver
// netdevsim, which takes crypto offload and nothing else. It does not encrypt,
// so that only the negotiation is looked at.
func TestQuicksandNetdevsim(t *testing.T) {
	n := harness.ForTest(t)
	var hosts []*harness.Host
	var ends []string
	for i, name := range []string{"a", "b"} {
		h, err := n.AddHost(name)
		ok(t, err)
		dev, _ := simulated(t, h, 10+i, []string{harness.AddrA, harness.AddrB}[i]+"/24")
		hosts = append(hosts, h)
		ns, err := os.Open("/run/netns/" + h.Namespace())
		ok(t, err)
		defer ns.Close()
		ends = append(ends, fmt.Sprintf("%d:%d", ns.Fd(), index(t, h, dev)))
	}
	ok(t, os.WriteFile("/sys/bus/netdevsim/link_device", []byte(strings.Join(ends, " ")), 0))
	d := &duo{nics: &nics{net: n, a: hosts[0], b: hosts[1]}}
	d.startPeers(t, harness.StrongSwan)

	d.load(t, over(tunnel4, nil), lan("crypto", 0, "aes128gcm16", "crypto"), lan("auto", 1, "aes128gcm16", "auto"),
		lan("cbc", 2, "aes128-sha256", "auto"), lan("packet", 3, "aes128gcm16", "packet"))
	for name, kind := range map[string]string{"crypto": "crypto", "auto": "crypto", "cbc": "kernel"} {
		if c := d.up(t, d.q, name); c.Placement != kind {
			t.Errorf("%s runs as %s on %q (%s), and should as %s", name, c.Placement, c.Device, c.Detail, kind)
		}
	}
	show, err := os.ReadFile("/sys/kernel/debug/netdevsim/netdevsim10/ports/0/ipsec")
	ok(t, err)
	if !strings.Contains(string(show), "SA count=4") {
		t.Errorf("the device does not have the SAs of two children:\n%s", show)
	}
	begin := d.q.Log.Mark()
	if err := d.q.Initiate("packet"); err == nil {
		t.Error("packet offload came up")
	}
	if _, err := d.q.Log.Wait(begin, "not packet: .*netdevsim", 5*time.Second); err != nil {
		t.Errorf("%v; it says:\n%s", err, d.q.Log.Since(begin))
	}
}

// index is the number of a device in its host.
func index(t *testing.T, h *harness.Host, dev string) (i int) {
	t.Helper()
	ok(t, h.Do(func() error {
		s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(s)
		r, err := unix.NewIfreq(dev)
		if err != nil {
			return err
		}
		if err := unix.IoctlIfreq(s, unix.SIOCGIFINDEX, r); err != nil {
			return err
		}
		i = int(r.Uint32())
		return nil
	}))
	return i
}

// TestQuicksandNAT has quicksand behind a NAT, with ESP in UDP by the device,
// and with the kernel's in front of one, where it follows the peer to another
// port.
func TestQuicksandNAT(t *testing.T) {
	for _, behind := range []harness.Make{harness.Quicksand, harness.StrongSwan} {
		t.Run(string(behind)+" behind", func(t *testing.T) {
			resetNICs(t)
			n := harness.ForTest(t)
			inner, outer, router, err := n.SitesBehindNATOn(nicA, nicB, 1)
			ok(t, err)
			c := over(tunnel4, harness.Options{"dpd_delay": "3s", "dpd_timeout": "30s"})
			c.LocalAddr, c.LocalID, c.RemoteID = harness.AddrInner, "inner.example.org", "outer.example.org"
			c.Children = []harness.Child{{Name: "net", LocalTS: tunnel4.netA, RemoteTS: tunnel4.netB, ESP: "aes128gcm16",
				Options: harness.Options{"hw_offload": "auto"}}}
			kind := "packet"
			if behind == harness.StrongSwan {
				kind = "kernel"
				c.Children[0].Options = nil
			}
			from, to := startBehind(t, inner, outer, behind)
			secrets := []harness.Secret{{Data: "a pre-shared key of the tests"}}
			ok(t, from.Load(harness.Config{Conns: []harness.Conn{c}, Secrets: secrets}))
			mirror := c.Mirror()
			mirror.RemoteAddr = "%any"
			mirror.Children[0].Options = nil
			ok(t, to.Load(harness.Config{Conns: []harness.Conn{mirror}, Secrets: secrets}))
			ok(t, from.Initiate("net"))
			q := from
			if behind == harness.StrongSwan {
				q = to
			}
			sa, err := q.Child("net")
			ok(t, err)
			if !sa.Encap || sa.Placement != kind {
				t.Errorf("it runs as %s (%s), encapsulated %v; it should as %s", sa.Placement, sa.Detail, sa.Encap, kind)
			}
			ping := func(from *harness.Host, src, dst string) {
				t.Helper()
				ok(t, harness.Poll(15*time.Second, func() error {
					r, err := from.Ping(harness.Ping{Source: src, Dest: dst, Count: 3, Linger: 300 * time.Millisecond})
					if err == nil && r.Lost() != 0 {
						err = fmt.Errorf("ping %s from %s: %v", dst, src, r)
					}
					return err
				}))
			}
			ping(inner, tunnel4.innerA, tunnel4.innerB)
			ok(t, router.Remap(30000, 39999))
			// The end behind the NAT speaks first, or nobody could reach it.
			ping(inner, tunnel4.innerA, tunnel4.innerB)
			ping(outer, tunnel4.innerB, tunnel4.innerA)
		})
	}
}

// startBehind starts quicksand and strongSwan on the hosts, with that one of
// them behind the NAT.
func startBehind(t *testing.T, inner, outer *harness.Host, behind harness.Make) (from, to *harness.Peer) {
	t.Helper()
	q, s := inner, outer
	if behind == harness.StrongSwan {
		q, s = outer, inner
	}
	quicksand, err := harness.StartQuicksand(q, harness.QuicksandOptions{Settings: []string{"keep_alive = 1s"}})
	ok(t, err)
	swan, err := harness.StartStrongSwan(s, harness.StrongSwanOptions{Kernel: true})
	ok(t, err)
	if behind == harness.StrongSwan {
		return swan, quicksand
	}
	return quicksand, swan
}

// TestOldQuicksand has a kernel that knows nothing of packet offload say so,
// and carry the pairs itself.
func TestOldQuicksand(t *testing.T) {
	d := &duo{nics: &nics{net: harness.ForTest(t)}}
	var err error
	d.a, d.b, err = d.net.Sites(3)
	ok(t, err)
	d.startPeers(t, harness.StrongSwan)
	d.load(t, over(tunnel4, nil), lan("auto", 0, "aes128gcm16", "auto"), lan("packet", 1, "aes128gcm16", "packet"),
		lan("kernel", 2, "aes128-sha256-esn", "no"))
	d.fails(t, "packet", "not packet: ")
	for i, name := range map[int]string{0: "auto", 2: "kernel"} {
		if c := d.up(t, d.q, name); c.Placement != "kernel" {
			t.Errorf("%s runs as %s on %q (%s)", name, c.Placement, c.Device, c.Detail)
		}
		r, err := d.a.Ping(harness.Ping{Source: fmt.Sprintf("10.1.%d.1", i), Dest: fmt.Sprintf("10.2.%d.1", i), Count: 5})
		ok(t, err)
		if r.Lost() > 1 { // the peer may install after the first has come
			t.Errorf("%s: %v", name, r)
		}
	}
}
