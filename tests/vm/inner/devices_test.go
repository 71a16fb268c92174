// SPDX-License-Identifier: Apache-2.0

package inner

import (
	"strings"
	"testing"
	"time"

	"quicksand/tests/harness"
)

// TestQuicksandDeviceGone has the device leave while there is another way to
// the peer: the pairs on it come back on what is left.
func TestQuicksandDeviceGone(t *testing.T) {
	d := start(t, 2, harness.StrongSwan)
	ok(t, d.net.Link(d.a, []string{"198.51.100.1/24"}, d.b, []string{"198.51.100.2/24"}))
	ok(t, xfrm(d.a, "addr add "+harness.AddrA+"/32 dev lo", "route add "+harness.AddrB+"/32 via 198.51.100.2 metric 999"))
	ok(t, xfrm(d.b, "route add "+harness.AddrA+"/32 via 198.51.100.1 metric 999"))
	d.load(t, over(tunnel4, nil), lan("packet", 0, "aes128gcm16", "auto"), lan("alone", 1, "aes128gcm16", "crypto"))
	first := d.up(t, d.q, "packet")
	d.placed(t, first, "packet")
	d.placed(t, d.up(t, d.q, "alone"), "crypto")
	d.aliveIn(t, 0)
	begin := d.q.Log.Mark()
	ok(t, xfrm(d.a, "link set "+nicA+" netns "+d.wire.Namespace()))
	ok(t, d.b.SetLink(nicB, false))
	t.Cleanup(func() { d.b.SetLink(nicB, true) })
	d.alive(t, tunnel4.innerA, tunnel4.innerB)
	if c := d.changed(t, "packet", first); c.Placement != "kernel" {
		t.Errorf("it runs as %s on %q (%s) without the device", c.Placement, c.Device, c.Detail)
	}
	// What is to run as crypto offload and nothing else is not there any more.
	if _, err := d.q.Log.Wait(begin, "child alone.* was lost", 10*time.Second); err != nil {
		t.Error(err)
	}
	if c, err := d.q.Child("alone"); err == nil && c.Placement != "crypto" {
		t.Errorf("alone runs as %s", c.Placement)
	}
	if s := states(t, d.a); strings.Count(s, "proto esp spi") != 2 {
		t.Errorf("the kernel has not two states:\n%s", s)
	}
}

// TestQuicksandAbove has devices above the NIC: through a bond the SAs reach its
// active device, and through a VLAN none does.
func TestQuicksandAbove(t *testing.T) {
	for _, c := range []struct {
		dev, kind, words string
		make             []string
	}{
		{"bond0", "crypto", "bond0 over " + nicA, []string{"link set " + nicA + " down", "link add bond0 type bond mode active-backup",
			"link set " + nicA + " master bond0"}},
		{"tagged", "kernel", "is a VLAN on " + nicA, []string{"link add link " + nicA + " name tagged type vlan id 5"}},
	} {
		t.Run(c.dev, func(t *testing.T) {
			d := &duo{nics: newNICs(t, 1)}
			ok(t, xfrm(d.a, append(c.make, "addr flush dev "+nicA, "link set "+c.dev+" up")...))
			t.Cleanup(func() { xfrm(d.a, "link set "+nicA+" nomaster", "link del "+c.dev) })
			ok(t, d.a.AddAddr(c.dev, harness.AddrA+"/24"))
			if c.dev == "tagged" {
				ok(t, xfrm(d.b, "link add link "+nicB+" name tagged type vlan id 5", "addr flush dev "+nicB, "link set tagged up"))
				ok(t, d.b.AddAddr("tagged", harness.AddrB+"/24"))
			}
			d.startPeers(t, harness.StrongSwan)
			d.load(t, over(tunnel4, nil), lan("above", 0, "aes128gcm16", "auto"))
			sa := d.up(t, d.q, "above")
			d.placed(t, sa, c.kind)
			if !strings.Contains(sa.Detail, c.words) {
				t.Errorf("the placement's detail %q does not say %q", sa.Detail, c.words)
			}
			d.aliveIn(t, 0)
		})
	}
}
