// SPDX-License-Identifier: Apache-2.0

package tunnel

import (
	"bytes"
	"net/netip"
	"testing"
	"time"
)

// TestShare has the kernel swallow the packets of its own SPIs on the port,
// and nothing else.
func TestShare(t *testing.T) {
	needRoot(t)
	a, _ := listen(t, true)
	b, got := listen(t, true)
	if err := b.KernelSPI(0x1000, true); err == nil {
		t.Error("an SPI was steered to a kernel that has no part in the port")
	}
	if err := b.ExemptFromPolicies(); err != nil {
		t.Fatal(err)
	}
	if err := b.ShareWithKernel(); err != nil {
		t.Fatal(err)
	}
	if err := b.ShareWithKernel(); err == nil {
		t.Error("shared twice")
	}
	if _, err := Listen(b.Port(), 0, true, nil); err == nil {
		t.Error("another daemon can have the port as well")
	}
	for _, host := range []string{"127.0.0.1", "::1"} {
		to := netip.AddrPortFrom(netip.MustParseAddr(host), b.Port())
		send := func(first byte) {
			t.Helper()
			if err := a.send([][]byte{bytes.Repeat([]byte{first}, 40)}, netip.AddrPort{}, to); err != nil {
				t.Fatal(err)
			}
		}
		before := b.Stats()["drop.no_plane"]
		if err := b.KernelSPI(0x02020202, true); err != nil {
			t.Fatal(err)
		}
		send(2) // the kernel's
		send(3) // the plane's
		send(2)
		send(4)
		if err := a.SendIKE([]byte("hello"), netip.AddrPort{}, to); err != nil {
			t.Fatal(err)
		}
		// What is received in order is counted in order.
		select {
		case m := <-got:
			if string(m.data) != "hello" {
				t.Errorf("IKE got %q", m.data)
			}
		case <-time.After(5 * time.Second):
			t.Fatal("IKE got nothing")
		}
		if n := counted(t, b, "drop.no_plane", before+2); n != before+2 {
			t.Errorf("%s: %d packets came to the plane, not 2", host, n-before)
		}
		if err := b.KernelSPI(0x02020202, false); err != nil {
			t.Fatal(err)
		}
		send(2)
		if n := counted(t, b, "drop.no_plane", before+3); n != before+3 {
			t.Errorf("%s: an SPI that is not the kernel's any more did not come to the plane", host)
		}
	}
	if err := b.KernelSPI(0x1000, false); err != nil {
		t.Errorf("take back what was never given: %v", err)
	}
}

// counted waits until a counter has reached at least n.
func counted(t *testing.T, s *Socket, name string, n uint64) uint64 {
	t.Helper()
	deadline := time.Now().Add(5 * time.Second)
	for s.Stats()[name] < n && time.Now().Before(deadline) {
		time.Sleep(time.Millisecond)
	}
	return s.Stats()[name]
}
