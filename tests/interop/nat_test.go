// SPDX-License-Identifier: Apache-2.0

package interop

import (
	"fmt"
	"testing"
	"time"

	"quicksand/tests/harness"
)

// TestNAT has the initiator behind a NAT: first quicksand, then strongSwan. In
// the middle the NAT forgets its mappings and gives others.
func TestNAT(t *testing.T) {
	t.Parallel()
	for _, behind := range []harness.Make{harness.Quicksand, harness.StrongSwan} {
		t.Run(string(behind)+" behind", func(t *testing.T) {
			t.Parallel()
			n := harness.ForTest(t)
			inner, outer, router, err := n.SitesBehindNAT(1)
			ok(t, err)
			a, b := inner, outer
			if behind == harness.StrongSwan {
				a, b = outer, inner
			}
			d := startOn(t, n, a, b, options{settings: []string{"keep_alive = 1s"}})
			// Dead peer detection is what tells the other end of the new port
			// while there is no traffic.
			c := conn(child("c", 0, "aes128gcm16-ecp256"))
			c.LocalAddr, c.RemoteAddr = harness.AddrInner, harness.AddrB
			c.LocalID, c.RemoteID = "inner.example.org", "outer.example.org"
			c.Options = harness.Options{"dpd_delay": "3s", "dpd_timeout": "30s"}
			mirror := c.Mirror()
			mirror.RemoteAddr = "%any"
			from, to := d.q, d.s
			if behind == harness.StrongSwan {
				from, to = d.s, d.q
			}
			ok(t, from.Load(config(c)))
			ok(t, to.Load(config(mirror)))
			judge := d.capture(t)

			q, _ := d.bringUp(t, role{string(behind), from, to}, "c")
			if !q.Encap {
				t.Error("not encapsulated in UDP")
			}
			fromSA, toSA := established(t, from), established(t, to)
			if from.Make == harness.Quicksand && (!fromSA.NATLocal || fromSA.LocalPort != 4500) {
				t.Errorf("quicksand does not see that it is behind a NAT: %+v", fromSA)
			}
			if toSA.RemoteHost != harness.AddrNAT || toSA.RemotePort < 20000 || toSA.RemotePort > 29999 || !toSA.NATRemote {
				t.Errorf("%s sees its peer at %s port %d, behind a NAT %v", to.Make, toSA.RemoteHost, toSA.RemotePort, toSA.NATRemote)
			}
			pingFrom(t, inner, "10.1.0.1", "10.2.0.1")

			// Idle, for a few keepalives to keep the mapping.
			time.Sleep(2500 * time.Millisecond)

			ok(t, router.Remap(30000, 39999))
			// The end behind the NAT speaks first, or nobody could reach it.
			pingFrom(t, inner, "10.1.0.1", "10.2.0.1")
			pingFrom(t, outer, "10.2.0.1", "10.1.0.1")
			ok(t, harness.Poll(10*time.Second, func() error {
				sa, err := to.IKE("net")
				if err == nil && (sa.RemotePort < 30000 || sa.RemotePort > 39999) {
					err = fmt.Errorf("%s sends to the old port %d", to.Make, sa.RemotePort)
				}
				return err
			}))
			d.takeDown(t, from)
			keepalives := 0
			for _, p := range judge() {
				if p.Keepalive && p.DstPort == 4500 && (p.From(harness.AddrInner) || p.From(harness.AddrNAT)) {
					keepalives++
				}
				// What strongSwan in quicksand's place forgot is not in its tables.
				if !reference && (p.Encrypted && !p.Decrypted || p.SPI != "" && !p.ICVGood) {
					t.Errorf("not read: %v", p)
				}
			}
			if keepalives == 0 {
				t.Errorf("%s sent no NAT keepalive", behind)
			}
		})
	}
}
