// SPDX-License-Identifier: Apache-2.0

package inner

import (
	"os/exec"
	"strings"
	"testing"

	"quicksand/tests/harness"
)

// TestOldNoPacketOffload is about kernels before 6.2. That ip(8) knows packet
// offload makes no difference to them.
func TestOldNoPacketOffload(t *testing.T) {
	out, err := exec.Command("uname", "-r").Output()
	ok(t, err)
	if !strings.HasPrefix(string(out), "6.1.") {
		t.Fatalf("this kernel is %s", out)
	}
	n := harness.ForTest(t)
	a, _, err := n.Sites(0)
	ok(t, err)
	packet := sa{src: harness.AddrA, dst: harness.AddrB, spi: 0x101, mode: "tunnel", offload: "packet", dev: a.Uplink(), dir: "out"}
	refused(t, packet.add(a), "Unrecognized flags in offload request")
}
