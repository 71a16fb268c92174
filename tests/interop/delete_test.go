// SPDX-License-Identifier: Apache-2.0

package interop

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"quicksand/tests/harness"
)

// TestDelete has either end delete what either end began, and looks for the
// Delete payloads on the wire.
func TestDelete(t *testing.T) {
	t.Parallel()
	d := start(t, options{lans: 2})
	d.load(t, config(conn(child("c0", 0, "aes128gcm16"), child("c1", 1, "aes256-sha256"))))
	for _, r := range d.roles() {
		for _, by := range []*harness.Peer{d.q, d.s} {
			t.Run(fmt.Sprintf("%s/by %s", r.name, by.Make), func(t *testing.T) {
				judge := d.capture(t)
				q0, s0 := d.bringUp(t, r, "c0")
				q1, _ := d.bringUp(t, r, "c1")
				d.ping(t, 0)
				sa := established(t, d.q)
				_, err := by.Swanctl("--terminate", "--child", "c0")
				ok(t, err)
				d.gone(t, "c0")
				// The other child and the IKE SA stand.
				d.settled(t, "c1")
				d.ping(t, 1)
				d.takeDown(t, by)

				addr, spi := harness.AddrA, q0.SPIIn
				if by == d.s {
					addr, spi = harness.AddrB, s0.SPIIn
				}
				const isakmp, esp = 1, 3
				deleted := map[string]bool{}
				for _, p := range judge(q0, q1) {
					if !p.From(addr) {
						continue
					}
					if slices.Contains(p.Deletes, esp) && strings.Contains(p.DeletedSPIs, spi) {
						deleted["child"] = true
					}
					if slices.Contains(p.Deletes, isakmp) && strings.Contains(p.DeletedSPIs, sa.ICookie+sa.RCookie) {
						deleted["IKE SA"] = true
					}
				}
				if !deleted["child"] || !deleted["IKE SA"] {
					t.Errorf("%s sent Deletes of its own for %v, want child %s and IKE SA %s%s", by.Make, deleted, spi, sa.ICookie, sa.RCookie)
				}
			})
		}
	}
}

// TestShutdown ends the daemons in an orderly way, and has the other side hear
// of it.
func TestShutdown(t *testing.T) {
	t.Parallel()
	d := start(t, options{lans: 1})
	c := config(conn(child("c", 0, "aes128gcm16")))
	for _, p := range []*harness.Peer{d.q, d.s} {
		other := d.s
		if p == d.s {
			other = d.q
		}
		t.Run(string(p.Make), func(t *testing.T) {
			d.load(t, c)
			d.bringUp(t, d.roles()[0], "c")
			d.ping(t, 0)
			mark := d.q.Log.Mark()
			if err := p.Stop(); err != nil {
				t.Errorf("stop %s: %v", p.Make, err)
			}
			ok(t, harness.Poll(5*time.Second, func() error {
				if sas, err := other.SAs(); err != nil || len(sas) > 0 {
					return fmt.Errorf("%s still has %d IKE SAs, %v", other.Make, len(sas), err)
				}
				return nil
			}))
			if p == d.s {
				d.logged(t, mark, "(?i)delete")
			}
			ok(t, p.Restart())
		})
	}
}
