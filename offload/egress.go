// SPDX-License-Identifier: Apache-2.0

package offload

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/vishvananda/netlink"
)

// espFeature is ethtool's name for crypto offload of ESP. Packet offload has
// none: it is found out by trying.
const espFeature = "esp-hw-offload"

// egress is the device by which a pair's packets leave, and what is known of
// it before anything is tried.
type egress struct {
	index    uint32
	device   string // that packets are routed to, and that SAs have to name
	sender   string // that really sends: the active slave of a bond
	driver   string // of the sender
	firmware string
	esp      feature
	why      string // no SA can be offloaded there, or empty
}

func (e *egress) name() string {
	if e.sender != "" && e.sender != e.device {
		return e.device + " over " + e.sender
	}
	return e.device
}

// about is the driver and its firmware, as far as they are known.
func (e *egress) about() string {
	var about []string
	if e.driver != "" {
		about = append(about, e.driver)
	}
	if e.firmware != "" && e.firmware != "N/A" {
		about = append(about, "firmware "+e.firmware)
	}
	return strings.Join(about, ", ")
}

// describe is for the operator: "eth0 (mlx5_core, firmware 22.39)".
func (e *egress) describe() string {
	if about := e.about(); about != "" {
		return e.name() + " (" + about + ")"
	}
	return e.name()
}

// devices finds devices and what they can do.
type devices struct {
	router  *router
	ethtool *ethtool
	known   map[int]*egress // by index; emptied when devices change
}

// egressTo returns the device by which packets of an SA leave for the peer.
func (d devices) egressTo(peer netip.Addr) (*egress, error) {
	via, err := d.router.way(peer)
	if err != nil {
		return nil, err
	}
	if e := d.known[via.LinkIndex]; e != nil {
		return e, nil
	}
	link, err := d.router.h.LinkByIndex(via.LinkIndex)
	if err != nil {
		return nil, fmt.Errorf("find device %d: %w", via.LinkIndex, err)
	}
	e := d.look(link)
	d.known[via.LinkIndex] = e
	return e, nil
}

// look finds out about a device. What stands on another device is followed
// down to what sends; SAs can be offloaded on the device that packets are
// routed to only.
func (d devices) look(link netlink.Link) *egress {
	attrs := link.Attrs()
	e := &egress{index: uint32(attrs.Index), device: attrs.Name, sender: attrs.Name}
	sender := link
	for range 8 { // devices stand on each other, but not in circles
		below := d.below(sender)
		if below == nil {
			break
		}
		sender = below
	}
	e.sender = sender.Attrs().Name
	e.driver, e.firmware = d.ethtool.driver(e.sender)
	if f, err := d.ethtool.features(e.device); err == nil {
		e.esp = f[espFeature]
	}
	switch {
	case attrs.Name == "lo" || link.Type() == "loopback":
		e.why = "packets to the host itself pass no NIC"
	case link.Type() == "vlan":
		// The kernel accepts an SA on the device below, and then encrypts in
		// software all that is routed to the VLAN.
		e.why = fmt.Sprintf("%s is a VLAN on %s, and the kernel offloads nothing there", e.device, e.sender)
	}
	return e
}

// below is the device that a device sends through, or nil.
func (d devices) below(link netlink.Link) netlink.Link {
	index := 0
	switch l := link.(type) {
	case *netlink.Vlan:
		index = l.ParentIndex
	case *netlink.Bond:
		index = l.ActiveSlave
	case *netlink.Macvlan:
		index = l.ParentIndex
	}
	if index <= 0 {
		return nil
	}
	below, err := d.router.h.LinkByIndex(index)
	if err != nil {
		return nil
	}
	return below
}
