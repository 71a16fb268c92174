// SPDX-License-Identifier: Apache-2.0

package xdp

import (
	"encoding/binary"
	"net"
	"testing"

	"github.com/mdlayher/netlink"
)

func TestDecodeDevice(t *testing.T) {
	lo, err := net.InterfaceByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	encode := func(index uint32, has uint64) []byte {
		e := netlink.NewAttributeEncoder()
		e.ByteOrder = binary.NativeEndian
		e.Uint32(netdevIndex, index)
		e.Uint64(netdevXDP, has)
		b, err := e.Encode()
		if err != nil {
			t.Fatal(err)
		}
		return append([]byte{netdevDevGet, 1, 0, 0}, b...)
	}
	for _, c := range []struct {
		has  uint64
		want Device
		says string
	}{
		{0, Device{Name: "lo"}, "no XDP in the driver: programs run behind it"},
		{actBasic | actRedirect, Device{Name: "lo", Native: true, Redirect: true},
			"XDP in the driver, redirect, no transmit, no AF_XDP without copying"},
		{0x7f, Device{"lo", true, true, true, true}, "XDP in the driver, redirect, transmit, AF_XDP without copying"},
	} {
		got, err := decodeDevice(encode(uint32(lo.Index), c.has))
		if err != nil || got != c.want || got.String() != c.says {
			t.Errorf("%#x: %+v (%s), %v", c.has, got, got, err)
		}
	}
	if got, err := decodeDevice(encode(1<<30, 0x7f)); err != nil || got.Name != "" {
		t.Errorf("a device that has gone: %+v, %v", got, err)
	}
	whole := encode(1, 3)
	for n := range len(whole) {
		if _, err := decodeDevice(whole[:n]); err == nil && n != 4 && n != 12 {
			t.Errorf("%d bytes of %d are taken", n, len(whole))
		}
	}
}

// TestSurvey asks the machine itself, on which other tests attach programs and
// open sockets.
func TestSurvey(t *testing.T) {
	r := Survey()
	if r.Programs != nil || r.Sockets != nil {
		t.Errorf("programs: %v; sockets: %v", r.Programs, r.Sockets)
	}
	if r.DevicesErr != nil {
		t.Fatal(r.DevicesErr)
	}
	for _, d := range r.Devices {
		t.Logf("%s: %s", d.Name, d)
	}
}
