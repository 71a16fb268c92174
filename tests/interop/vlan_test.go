// SPDX-License-Identifier: Apache-2.0

//go:build guest

package interop

import (
	"fmt"
	"strings"
	"testing"

	"quicksand/tests/harness"
)

// TestSteeredVLAN has the ends on a VLAN of the devices that are steered.
func TestSteeredVLAN(t *testing.T) {
	n := harness.ForTest(t)
	a, b, err := n.Sites(1)
	ok(t, err)
	for i, h := range []*harness.Host{a, b} {
		for _, args := range []string{
			"link add link " + h.Uplink() + " name v7 type vlan id 7",
			fmt.Sprintf("addr add 10.77.0.%d/24 dev v7", i+1),
			"link set v7 up",
		} {
			_, err := h.Run("ip", strings.Fields(args)...)
			ok(t, err)
		}
	}
	d := steeredDuo(t, n, a, b, false)
	c := conn(child("net", 0, "aes128gcm16"))
	c.LocalAddr, c.RemoteAddr = "10.77.0.1", "10.77.0.2"
	d.load(t, config(c))
	q, _ := d.bringUp(t, role{"initiator", d.q, d.s}, "net")
	if !strings.Contains(q.Detail, "AF_XDP") {
		t.Errorf("placement %q", q.Detail)
	}
	pingBoth(t, d, "10.1.0.1", "10.2.0.1", d.q, d.s)
}
