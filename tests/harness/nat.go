// SPDX-License-Identifier: Apache-2.0

package harness

import (
	"context"
	"fmt"
	"strings"

	"github.com/vishvananda/netlink"
)

// NAT is a router that hides what is behind it: source addresses become its
// outer one, and the source ports of UDP random ones in a range.
type NAT struct {
	*Host
	outer string // device
}

// The addresses of SitesBehindNAT.
const (
	AddrInner = "192.168.7.2"
	AddrNAT   = "10.9.0.254"
)

// SitesBehindNAT adds what Sites does, but host a sits behind a NAT router: its
// address is AddrInner, and host b sees AddrNAT. Host b has AddrB and no route
// to what is behind the router.
func (n *Net) SitesBehindNAT(lans int) (a, b *Host, r *NAT, err error) {
	return n.sitesBehindNAT(lans, func(a, r *Host, addrA, addrR string) error {
		return n.Link(a, []string{addrA}, r, []string{addrR})
	})
}

// SitesBehindNATOn is SitesBehindNAT with host a and the router on two devices
// of the machine that are joined already.
func (n *Net) SitesBehindNATOn(devA, devRouter string, lans int) (a, b *Host, r *NAT, err error) {
	return n.sitesBehindNAT(lans, func(a, r *Host, addrA, addrR string) error {
		if err := a.Attach(devA, []string{addrA}); err != nil {
			return err
		}
		return r.Attach(devRouter, []string{addrR})
	})
}

func (n *Net) sitesBehindNAT(lans int, join func(a, r *Host, addrA, addrR string) error) (a, b *Host, r *NAT, err error) {
	hosts := make([]*Host, 3)
	for i, name := range []string{"a", "b", "n"} {
		if hosts[i], err = n.AddHost(name); err != nil {
			return nil, nil, nil, err
		}
	}
	a, b = hosts[0], hosts[1]
	r = &NAT{hosts[2], "to-b"}
	steps := []func() error{
		func() error { return join(a, r.Host, AddrInner+"/24", "192.168.7.1/24") },
		func() error { return n.Link(r.Host, []string{AddrNAT + "/24"}, b, []string{AddrB + "/24"}) },
		func() error { return a.AddRoute("default via 192.168.7.1") },
		func() error { return r.Sysctl("ipv4/ip_forward", "1") },
		func() error { return r.Remap(20000, 29999) },
		func() error { return a.addLANs(1, lans) },
		func() error { return b.addLANs(2, lans) },
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return nil, nil, nil, fmt.Errorf("build NAT: %w", err)
		}
	}
	return a, b, r, nil
}

// Remap makes the router forget its mappings, as one does that is restarted,
// and take the ports of new ones from the range.
func (r *NAT) Remap(low, high int) error {
	rules := fmt.Sprintf(`table ip quicksand
delete table ip quicksand
table ip quicksand {
	chain post {
		type nat hook postrouting priority 100;
		ip protocol udp oifname "%[1]s" masquerade to :%[2]d-%[3]d random
		oifname "%[1]s" masquerade
	}
}
`, r.outer, low, high)
	cmd := r.Command(context.Background(), "nft", "-f", "-")
	cmd.Stdin = strings.NewReader(rules)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("set NAT rules: %w: %s", err, out)
	}
	err := r.Do(func() error { return netlink.ConntrackTableFlush(netlink.ConntrackTable) })
	if err != nil {
		return fmt.Errorf("flush NAT mappings: %w", err)
	}
	return nil
}
