// SPDX-License-Identifier: Apache-2.0

package steered

import (
	"bytes"
	"testing"

	"github.com/vishvananda/netlink"
)

// TestBelow goes through VLAN devices down to the one that is steered.
func TestBelow(t *testing.T) {
	attrs := func(index int, name string, parent int) netlink.LinkAttrs {
		return netlink.LinkAttrs{Index: index, Name: name, ParentIndex: parent}
	}
	eth := &netlink.Device{LinkAttrs: attrs(1, "fake0", 0)}
	inner := &netlink.Vlan{LinkAttrs: attrs(2, "fake0.9", 1), VlanId: 9, VlanProtocol: netlink.VLAN_PROTOCOL_8021AD}
	outer := &netlink.Vlan{LinkAttrs: attrs(3, "fake0.9.7", 2), VlanId: 7, VlanProtocol: netlink.VLAN_PROTOCOL_8021Q}
	third := &netlink.Vlan{LinkAttrs: attrs(4, "fake0.9.7.5", 3), VlanId: 5, VlanProtocol: netlink.VLAN_PROTOCOL_8021Q}
	for _, c := range []struct {
		from   netlink.Link
		steers string // beside none
		tags   []byte
		lower  string
	}{
		{from: eth, lower: "fake0"},
		{from: inner, tags: []byte{0x88, 0xa8, 0, 9}, lower: "fake0"},
		{from: outer, tags: []byte{0x88, 0xa8, 0, 9, 0x81, 0, 0, 7}, lower: "fake0"},
		{from: outer, steers: "fake0.9", tags: []byte{0x81, 0, 0, 7}, lower: "fake0.9"},
		{from: outer, steers: "fake0.9.7", lower: "fake0.9.7"},
		// More tags than the program looks behind.
		{from: third, tags: []byte{0x81, 0, 0, 7, 0x81, 0, 0, 5}, lower: "fake0.9"},
	} {
		w := &Wire{}
		w.live.Store(&map[string]*device{c.steers: {}})
		r := &routes{wire: w, links: map[int]netlink.Link{1: eth, 2: inner, 3: outer}}
		tags, lower, err := r.below(c.from)
		if err != nil || !bytes.Equal(tags, c.tags) || lower.Attrs().Name != c.lower {
			t.Errorf("from %s with %q steered: tags %x on %v, %v; want %x on %s", c.from.Attrs().Name, c.steers, tags, lower, err, c.tags, c.lower)
		}
	}
}
