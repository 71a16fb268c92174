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
			} else if !reference {
				nothingLeft(t, p.Host)
			}
			ok(t, p.Restart())
		})
	}
}

// nothingLeft looks for what quicksand makes in the kernel: a TUN device, rules
// and routes.
func nothingLeft(t *testing.T, h *harness.Host) {
	t.Helper()
	for _, c := range []struct{ args, not string }{
		{"ip -brief link", "quicksand"}, {"ip rule", "220"}, {"ip -6 rule", "220"}, {"ip route show table all", "220"},
	} {
		f := strings.Fields(c.args)
		out, err := h.Run(f[0], f[1:]...)
		ok(t, err)
		if strings.Contains(out, c.not) {
			t.Errorf("%s still shows %s:\n%s", c.args, c.not, out)
		}
	}
}

// TestForgotten has a child leave the configuration, or come back with other
// networks. What it protected is not held back any more.
func TestForgotten(t *testing.T) {
	t.Parallel()
	if reference {
		return
	}
	d := start(t, options{lans: 2})
	d.load(t, config(conn(child("c", 0, "aes128gcm16"))))
	d.bringUp(t, d.roles()[0], "c")
	d.ping(t, 0)
	d.takeDown(t, d.q)
	// The child stands, so its traffic does not go out in clear.
	out, err := d.q.Host.Run("ip", "route", "get", "10.2.0.1", "from", "10.1.0.1")
	ok(t, err)
	if strings.Contains(out, d.q.Host.Uplink()) {
		t.Errorf("with the child configured and down its traffic would go out in clear: %s", out)
	}
	d.load(t, config(conn(child("c", 1, "aes128gcm16"))))
	d.bringUp(t, d.roles()[0], "c")
	d.ping(t, 1)
	d.takeDown(t, d.q)
	d.load(t, config())
	ok(t, harness.Poll(5*time.Second, func() error {
		out, err := d.q.Host.Run("ip", "route", "show", "table", "all")
		if err == nil && strings.Contains(out, "10.2.") {
			err = fmt.Errorf("with no child configured there is still a route:\n%s", out)
		}
		return err
	}))
}
