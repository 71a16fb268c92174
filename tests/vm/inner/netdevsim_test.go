// SPDX-License-Identifier: Apache-2.0

package inner

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"quicksand/tests/harness"
)

// simulated makes a device of the mainline driver netdevsim and moves it to
// the host. It keeps the state of crypto offload, and encrypts nothing.
func simulated(t *testing.T, h *harness.Host, id int, addr string) (dev string, show func() string) {
	t.Helper()
	bus := func(file, words string) error {
		return os.WriteFile(filepath.Join("/sys/bus/netdevsim", file), []byte(words), 0)
	}
	ok(t, bus("new_device", fmt.Sprintf("%d 1", id)))
	t.Cleanup(func() { bus("del_device", fmt.Sprint(id)) })
	dev = nameOf(t, fmt.Sprintf("/sys/bus/netdevsim/devices/netdevsim%d/net/*", id))
	// The whole device has to be in the namespace where its port is.
	ip(t, "link", "set", dev, "netns", h.Namespace())
	ok(t, h.AddAddr(dev, addr))
	ok(t, h.SetLink(dev, true))
	return dev, func() string {
		b, err := os.ReadFile(fmt.Sprintf("/sys/kernel/debug/netdevsim/netdevsim%d/ports/0/ipsec", id))
		ok(t, err)
		return string(b)
	}
}

// nameOf returns the last part of the one path that matches, once it is
// there and bears its final name.
func nameOf(t *testing.T, pattern string) string {
	t.Helper()
	var found []string
	ok(t, harness.Poll(5*time.Second, func() (err error) {
		if found, err = filepath.Glob(pattern); err == nil && len(found) != 1 {
			err = fmt.Errorf("%d files match %s", len(found), pattern)
		}
		return err
	}))
	return filepath.Base(found[0])
}

func TestNetdevsimCrypto(t *testing.T) {
	n := harness.ForTest(t)
	h, err := n.AddHost("h")
	ok(t, err)
	dev, show := simulated(t, h, 1, "192.0.2.1/24")
	out := sa{src: "192.0.2.1", dst: "192.0.2.2", spi: 0x101, mode: "transport", offload: "crypto", dev: dev, dir: "out"}
	in := sa{src: "192.0.2.2", dst: "192.0.2.1", spi: 0x102, mode: "transport", offload: "crypto", dev: dev, dir: "in"}
	ok(t, out.add(h))
	ok(t, in.add(h))
	for _, want := range []string{"SA count=2", "tx ipaddr=192.0.2.2", "spi=0x00000101", "rx ipaddr=192.0.2.1", "spi=0x00000102"} {
		if s := show(); !strings.Contains(s, want) {
			t.Errorf("the device shows no %q:\n%s", want, s)
		}
	}
	if s := states(t, h); strings.Count(s, "crypto offload parameters: dev "+dev) != 2 {
		t.Errorf("the kernel does not say that both are offloaded:\n%s", s)
	}

	packet := out
	packet.spi, packet.offload = 0x103, "packet"
	refused(t, packet.add(h), "Unsupported ipsec offload type")
	short := out
	short.spi, short.icv = 0x104, 64
	refused(t, short.add(h), "Failed to get key data for SA table")

	_, err = h.Run("ip", "xfrm", "state", "flush")
	ok(t, err)
	if s := show(); !strings.Contains(s, "SA count=0") {
		t.Errorf("the device has SAs left:\n%s", s)
	}
}
