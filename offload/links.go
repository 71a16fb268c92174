// SPDX-License-Identifier: Apache-2.0

package offload

import (
	"errors"
	"fmt"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"quicksand/sa"
)

// linkSettle are the times after a change of devices or addresses at which
// routes are made again and devices looked at once more: the kernel says that a
// device is down before it drops what is offloaded to it.
var linkSettle = []time.Duration{100 * time.Millisecond, time.Second}

// dialLinks opens the kernel's notes on devices and addresses.
func dialLinks() (*notes, error) {
	nl, err := netlink.Dial(unix.NETLINK_ROUTE, &netlink.Config{MessageBufferSize: messageBuffer})
	if err != nil {
		return nil, fmt.Errorf("open rtnetlink: %w", err)
	}
	for _, g := range []uint32{unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR} {
		if err := nl.JoinGroup(g); err != nil {
			nl.Close()
			return nil, fmt.Errorf("join rtnetlink group %d: %w", g, err)
		}
	}
	return &notes{nl}, nil
}

// listenLinks takes the notes until the backend is closed.
func (b *Backend) listenLinks() {
	for {
		got, err := b.links.nl.Receive()
		select {
		case <-b.stop:
			return
		default:
		}
		if err != nil && !errors.Is(err, unix.ENOBUFS) {
			b.log.Error("the kernel's notes on devices are gone: " + err.Error())
			return
		}
		b.mu.Lock()
		b.router.forget()
		clear(b.devices.known)
		for _, m := range got {
			// struct ifinfomsg has the index at 4.
			if (m.Header.Type == unix.RTM_NEWLINK || m.Header.Type == unix.RTM_DELLINK) && len(m.Data) >= 16 {
				b.deviceChanged(native.Uint32(m.Data[4:]))
			}
		}
		if err != nil { // some were missed
			for _, index := range b.devicesInUse() {
				b.deviceChanged(index)
			}
		}
		b.settleLinks(0)
		b.mu.Unlock()
	}
}

// settleLinks has everything looked at again that a change of devices or
// addresses may have taken away; turn counts the times. The lock is held.
func (b *Backend) settleLinks(turn int) {
	if b.settling != nil {
		b.settling.Stop()
	}
	if turn >= len(linkSettle) && len(b.lost) == 0 {
		return
	}
	b.settling = time.AfterFunc(linkSettle[min(turn, len(linkSettle)-1)], func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		if b.closed {
			return
		}
		for _, index := range b.devicesInUse() {
			b.lookAtDevice(index)
		}
		if err := b.router.repair(); err != nil {
			b.log.Warn("make routes again: " + err.Error())
		}
		b.reportLost()
		b.settleLinks(turn + 1)
	})
}

// devicesInUse are the devices that anything of ours is offloaded to.
func (b *Backend) devicesInUse() []uint32 {
	in := map[uint32]struct{}{}
	for _, p := range b.pairs {
		if p.offload != nil {
			in[p.offload.Device] = struct{}{}
		}
	}
	for k := range b.bypass {
		in[k.device] = struct{}{}
	}
	var out []uint32
	for index := range in {
		out = append(out, index)
	}
	return out
}

// deviceChanged forgets what a device has refused, and looks at it. The lock is
// held.
func (b *Backend) deviceChanged(index uint32) {
	for k := range b.refused {
		if k.device == index {
			delete(b.refused, k)
		}
	}
	b.lookAtDevice(index)
}

// lookAtDevice looks whether what was offloaded to a device is still there: the
// kernel drops it all when the device goes down or away. The lock is held.
//
// The SAs cannot be put back: how far the sequence numbers had come is lost
// with them, and a number that is used again under the same key breaks AES-GCM.
// So the pairs are reported as lost and come back with fresh keys, wherever
// there is a place for them then; policies are put back at once and block.
func (b *Backend) lookAtDevice(index uint32) {
	for k, policies := range b.bypass {
		if k.device == index && !b.there(policies[0]) {
			b.forgetBypass(k)
		}
	}
	var slots []*slot
	for _, p := range b.pairs {
		if p.offload == nil || p.offload.Device != index || p.expired {
			continue
		}
		got := b.conn.do(reading(p.in.ID), reading(p.out.ID))
		if got[0].err == nil && got[1].err == nil {
			continue
		}
		p.expired = true
		slots = append(slots, p.child.slots...)
		b.log.Warn("the device has lost a pair", "device", p.at.Device, "pair", p.Pair)
		b.lost[p.ID] = p
	}
	for _, s := range b.slots {
		if p := s.installed; p != nil && p.Offload != nil && p.Offload.Device == index && !b.there(p) {
			s.record(b, nil)
			slots = append(slots, s)
		}
	}
	if err := b.settle(slots); err != nil {
		b.log.Error("put policies back: " + err.Error())
	}
}

// reportLost reports the lost pairs whose peers can be reached: there is nobody
// to negotiate with before.
func (b *Backend) reportLost() {
	for id, p := range b.lost {
		if _, err := b.router.way(p.Remote.Addr()); err == nil {
			delete(b.lost, id)
			b.events.emit(sa.Event{Kind: sa.Lost, Pair: id})
		}
	}
}

// there reports whether the kernel has the policy.
func (b *Backend) there(p *policy) bool {
	_, err := b.conn.one(request{what: "read policy", kind: msgGetPolicy, get: true, body: p.encodeID()})
	return err == nil
}
