// SPDX-License-Identifier: Apache-2.0

package interop

import (
	"fmt"
	"testing"
	"time"

	"quicksand/tests/harness"
)

// TestManyChildrenAtOnce has quicksand start all children of a connection at once,
// with another quicksand and with strongSwan, which keeps track of few exchanges:
// they take turns, and both ends come to have them all.
func TestManyChildrenAtOnce(t *testing.T) {
	t.Parallel()
	t.Run(string(harness.Quicksand), func(t *testing.T) { startAtOnce(t, harness.Quicksand, 1000) })
	t.Run(string(harness.StrongSwan), func(t *testing.T) { startAtOnce(t, harness.StrongSwan, 300) })
}

func startAtOnce(t *testing.T, peer harness.Make, many int) {
	var forQ, forS []harness.Child
	for i := range many {
		net := func(side int) string { return fmt.Sprintf("10.%d.%d.0/24", 100+2*(i/250)+side, i%250) }
		c := harness.Child{Name: fmt.Sprint("c", i), ESP: "aes128gcm16-ecp256", LocalTS: net(0), RemoteTS: net(1)}
		forS = append(forS, c)
		c.Options = harness.Options{"start_action": "start"}
		forQ = append(forQ, c)
	}
	n := harness.ForTest(t)
	a, b, err := n.Sites(1)
	ok(t, err)
	d := startOn(t, n, a, b, options{keyingOnly: true})
	if peer == harness.Quicksand && !reference {
		ok(t, d.s.Stop())
		d.s, err = harness.StartQuicksand(b, harness.QuicksandOptions{})
		ok(t, err)
	}
	ok(t, d.s.Load(config(conn(forS...)).Mirror()))
	begun := time.Now()
	ok(t, d.q.Load(config(conn(forQ...))))
	ok(t, harness.Poll(60*time.Second, func() error {
		for _, p := range []*harness.Peer{d.q, d.s} {
			if all, err := p.Children(""); err != nil || len(all) != many {
				return fmt.Errorf("%s has %d of %d children, %v", p.Host.Name(), len(all), many, err)
			}
		}
		return nil
	}))
	t.Logf("%d children after %v", many, time.Since(begun).Round(100*time.Millisecond))
}
