// SPDX-License-Identifier: Apache-2.0

package interop

import (
	"fmt"
	"testing"
	"time"

	"quicksand/tests/harness"
)

// TestDPDAnswered has each end ask whether the other is there.
func TestDPDAnswered(t *testing.T) {
	t.Parallel()
	for _, by := range []harness.Make{harness.Quicksand, harness.StrongSwan} {
		t.Run("asked by "+string(by), func(t *testing.T) {
			t.Parallel()
			d := start(t, options{lans: 1})
			asking := conn(child("c", 0, "aes128gcm16"))
			asking.Options = harness.Options{"dpd_delay": "1s", "dpd_timeout": "5s"}
			silent := conn(child("c", 0, "aes128gcm16"))
			asker, from, to := d.q, harness.AddrA, harness.AddrB
			forQ, forS := asking, silent.Mirror()
			if by == harness.StrongSwan {
				asker, from, to = d.s, harness.AddrB, harness.AddrA
				forQ, forS = silent, asking.Mirror()
			}
			ok(t, d.q.Load(config(forQ)))
			ok(t, d.s.Load(config(forS)))
			judge := d.capture(t)
			q, _ := d.bringUp(t, d.roles()[0], "c")
			before := established(t, asker)
			// Idle, for a few times the delay.
			time.Sleep(4200 * time.Millisecond)
			if after := established(t, asker); after.ICookie != before.ICookie {
				t.Error("the IKE SA was replaced")
			}
			d.takeDown(t, d.q)
			asked, answered := 0, 0
			for _, p := range judge(q) {
				if p.From(from) && p.Notifies(harness.RUThere) {
					asked++
				}
				if p.From(to) && p.Notifies(harness.RUThereAck) {
					answered++
				}
			}
			if asked < 3 || asked > 5 || answered != asked {
				t.Errorf("%d R-U-THERE by %s, %d answers", asked, by, answered)
			}
		})
	}
}

// TestDPDDead kills strongSwan; quicksand finds out, and does what dpd_action
// says.
func TestDPDDead(t *testing.T) {
	t.Parallel()
	for _, action := range []string{"clear", "restart"} {
		t.Run(action, func(t *testing.T) {
			t.Parallel()
			d := start(t, options{lans: 1})
			c := conn(child("c", 0, "aes128gcm16"))
			c.Options = harness.Options{"dpd_delay": "1s", "dpd_timeout": "3s"}
			c.Children[0].Options = harness.Options{"dpd_action": action}
			d.load(t, config(c))
			old, _ := d.bringUp(t, d.roles()[0], "c")
			d.ping(t, 0)
			mark := d.q.Log.Mark()
			d.s.Kill()
			begin := time.Now()
			ok(t, harness.Poll(20*time.Second, func() error {
				children, err := d.q.Children("c")
				if err == nil && len(children) > 0 {
					err = fmt.Errorf("child %s still stands", children[0].SPIIn)
				}
				return err
			}))
			t.Logf("quicksand gave up after %v", time.Since(begin).Round(100*time.Millisecond))
			d.logged(t, mark, "(?i)dead|no answer|not answer|DPD")
			if action == "clear" {
				return
			}
			ok(t, d.s.Restart())
			ok(t, d.s.Load(config(c).Mirror()))
			ok(t, harness.Poll(30*time.Second, func() error {
				_, err := d.s.Child("c")
				return err
			}))
			if q, _ := d.settled(t, "c"); q.SPIIn == old.SPIIn {
				t.Error("the child is the old one")
			}
			d.ping(t, 0)
		})
	}
}

// TestInitialContact kills each end in turn. When it is back, its INITIAL-CONTACT
// makes the other forget the SAs of before.
func TestInitialContact(t *testing.T) {
	t.Parallel()
	d := start(t, options{lans: 1})
	c := config(conn(child("c", 0, "aes128gcm16")))
	d.load(t, c)
	d.bringUp(t, d.roles()[0], "c")
	for _, r := range d.roles() {
		t.Run(string(r.from.Make), func(t *testing.T) {
			r.from.Kill()
			ok(t, r.from.Restart())
			d.load(t, c)
			d.bringUp(t, r, "c")
			d.ping(t, 0)
			sas, err := r.to.SAs()
			ok(t, err)
			if len(sas) != 1 {
				t.Errorf("%s has %d IKE SAs", r.to.Make, len(sas))
			}
		})
	}
}
