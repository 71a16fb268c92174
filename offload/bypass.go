// SPDX-License-Identifier: Apache-2.0

package offload

import (
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// bypassPriority is that of the policies which let IKE pass: before all others.
const bypassPriority = 1

// bypassKey names the policies that let IKE pass on a device.
type bypassKey struct {
	device uint32
	v6     bool
}

var errOldKernel = errors.New("the kernel knows no packet offload, which came with Linux 6.2")

// letIKEPass makes the policies on the device that packet offload needs for
// IKE itself: the NIC drops what none of its policies lets pass. That a device
// refuses them is how one finds out that it has no packet offload.
func (b *Backend) letIKEPass(e *egress, v6 bool) error {
	key := bypassKey{e.index, v6}
	if b.bypass[key] != nil {
		return nil
	}
	b.conn.drivers.Store(true)
	var requests []request
	policies := b.bypassPolicies(e.index, v6)
	for _, p := range policies {
		requests = append(requests, request{what: "let IKE pass", kind: msgNewPolicy, body: p.encode()})
	}
	for _, p := range policies {
		requests = append(requests, request{what: "read policy", kind: msgGetPolicy, get: true, body: p.encodeID()})
	}
	got := b.conn.do(requests...)
	var errs []error
	for i := range policies {
		errs = append(errs, got[i].err)
	}
	err := errors.Join(errs...)
	for i := range policies {
		if err != nil {
			err = errs[0]
			break
		}
		if r := got[len(policies)+i]; r.err != nil {
			err = r.err
		} else if p, derr := decodePolicy(r.body); derr != nil || p.Offload == nil || !p.Offload.Packet {
			err = errOldKernel
		}
	}
	if err == nil {
		b.bypass[key] = policies
		for _, p := range policies {
			b.byIndex[p.Index] = nil
		}
		return nil
	}
	var undo []request
	for i, p := range policies {
		if got[i].err == nil {
			undo = append(undo, request{what: "remove policy", kind: msgDelPolicy, body: p.encodeID()})
		}
	}
	b.conn.do(undo...)
	if errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("%s has no packet offload (%w)", e.describe(), err)
	}
	return err
}

// bypassPolicies are the policies for both ports and directions.
func (b *Backend) bypassPolicies(device uint32, v6 bool) []*policy {
	any := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	if v6 {
		any = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	}
	var out []*policy
	for _, port := range b.o.Ports {
		sel := selector{Src: any, Dst: any, Proto: unix.IPPROTO_UDP, SPort: port, Device: device}
		for _, dir := range []direction{dirOut, dirIn} {
			s := sel
			if dir == dirIn {
				s = sel.reverse()
			}
			out = append(out, &policy{Selector: s, Dir: dir, Priority: bypassPriority, Index: b.newIndex(dir),
				Offload: &offloading{Device: device, Packet: true}})
		}
	}
	return out
}

// stopIKEPass removes the policies on every device.
func (b *Backend) stopIKEPass() error {
	var requests []request
	for key, policies := range b.bypass {
		for _, p := range policies {
			requests = append(requests, request{what: "remove policy", kind: msgDelPolicy, body: p.encodeID()})
		}
		b.forgetBypass(key)
	}
	var errs []error
	for _, r := range b.conn.do(requests...) {
		if r.err != nil && !absent(r.err) {
			errs = append(errs, r.err)
		}
	}
	return errors.Join(errs...)
}

// forgetBypass notes that the policies are not there any more.
func (b *Backend) forgetBypass(key bypassKey) {
	for _, p := range b.bypass[key] {
		delete(b.byIndex, p.Index)
	}
	delete(b.bypass, key)
}

// discoveryTypes are those of ICMPv6 by which neighbours and routers are found
// (RFC 4861 section 4).
var discoveryTypes = []uint16{133, 134, 135, 136, 137}

// letNeighboursPass makes policies that let neighbour discovery pass, once there
// is a child that selects IPv6. A child between two hosts of one link selects
// the answer to where one of them is, too, which can then not be reached to
// negotiate with. The kernel selects ICMPv6 by its type in the place of the
// source port. They are for what the kernel decides: a NIC that decides by
// itself has no policies by types.
func (b *Backend) letNeighboursPass() error {
	if b.discovery != nil {
		return nil
	}
	any := netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	var policies []*policy
	var requests []request
	for _, t := range discoveryTypes {
		for _, dir := range []direction{dirOut, dirIn} {
			p := &policy{Selector: selector{Src: any, Dst: any, Proto: unix.IPPROTO_ICMPV6, SPort: t},
				Dir: dir, Priority: bypassPriority, Index: b.newIndex(dir)}
			policies = append(policies, p)
			requests = append(requests, request{what: "let neighbour discovery pass", kind: msgNewPolicy, body: p.encode()})
		}
	}
	var errs []error
	for i, r := range b.conn.do(requests...) {
		switch {
		case r.err == nil:
			b.discovery = append(b.discovery, policies[i])
			b.byIndex[policies[i].Index] = nil
		case !errors.Is(r.err, unix.EEXIST): // another program has done it
			errs = append(errs, r.err)
		}
	}
	if len(errs) > 0 {
		return errors.Join(append(errs, b.stopNeighbours())...)
	}
	return nil
}

// stopNeighbours removes the policies of letNeighboursPass.
func (b *Backend) stopNeighbours() error {
	var requests []request
	for _, p := range b.discovery {
		delete(b.byIndex, p.Index)
		requests = append(requests, request{what: "remove policy", kind: msgDelPolicy, body: p.encodeID()})
	}
	b.discovery = nil
	var errs []error
	for _, r := range b.conn.do(requests...) {
		if r.err != nil && !absent(r.err) {
			errs = append(errs, r.err)
		}
	}
	return errors.Join(errs...)
}
