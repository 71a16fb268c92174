// SPDX-License-Identifier: Apache-2.0

package inner

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"quicksand/tests/harness"
)

// benchReport is what is read of the benchmark's offload.json.
type benchReport struct {
	Cells []struct {
		Tunnels            int
		Placement, Refused string
		Samples            [][]struct{ Packets, Gigabits float64 }
	}
}

// bench runs the benchmark from site a to site b with further flags.
func bench(t *testing.T, n *nics, flags ...string) (out string, r benchReport) {
	t.Helper()
	sink, err := n.b.Start("sink", nil, harness.Binary(), "bench", "offload", "--sink", "--dev", nicB)
	ok(t, err)
	_, err = sink.Log.Wait(0, "the sink is ready", 20*time.Second)
	ok(t, err)
	dir := filepath.Join(n.net.Dir(), "report")
	out, err = n.a.Run(harness.Binary(), append([]string{"bench", "offload", "--dev", nicA, "--peer", harness.AddrB,
		"--time", "300ms", "--rounds", "1", "--sizes", "100,1300", "--o", dir}, flags...)...)
	if err != nil {
		t.Fatalf("%v\n%s", err, sink.Log.Tail(20))
	}
	ok(t, sink.Stop(10*time.Second))
	b, err := os.ReadFile(filepath.Join(dir, "offload.json"))
	ok(t, err)
	ok(t, json.Unmarshal(b, &r))
	for _, name := range []string{"offload.md", "offload-throughput.svg", "offload-packets.svg", "offload-cpu.svg"} {
		if b, err := os.ReadFile(filepath.Join(dir, name)); err != nil || len(b) == 0 {
			t.Errorf("%s: %d bytes, %v", name, len(b), err)
		}
	}
	t.Log(out)
	return out, r
}

// gone fails where the benchmark has left something.
func gone(t *testing.T, n *nics) {
	t.Helper()
	for _, h := range []*harness.Host{n.a, n.b} {
		for _, what := range []string{"xfrm state", "xfrm policy", "route show table all to root 198.18.0.0/15"} {
			left, err := h.Run("ip", strings.Fields(what)...)
			ok(t, err)
			if left != "" {
				t.Errorf("the benchmark has left in %s:\n%s", h.Name(), left)
			}
		}
	}
}

// TestBenchOffload runs the benchmark over the test NIC, to show that it works:
// its figures say nothing about a NIC.
func TestBenchOffload(t *testing.T) {
	n := newNICs(t, 0)
	stop := n.record(t)
	sent, received := counted(t, nicA), counted(t, nicB)
	_, r := bench(t, n, "--tunnels", "1,20")
	var order []string
	for _, c := range r.Cells {
		order = append(order, fmt.Sprint(c.Tunnels, " ", c.Placement))
		if c.Refused != "" || len(c.Samples) != 2 {
			t.Errorf("%d tunnels, %s: %d sizes, refused: %s", c.Tunnels, c.Placement, len(c.Samples), c.Refused)
			continue
		}
		for i, s := range c.Samples {
			if len(s) != 1 || s[0].Packets <= 0 || s[0].Gigabits <= 0 {
				t.Errorf("%d tunnels, %s, size %d: %+v", c.Tunnels, c.Placement, i, s)
			}
		}
	}
	if want := "1 packet, 1 crypto, 1 kernel, 1 userspace, 20 packet, 20 crypto, 20 kernel, 20 userspace"; strings.Join(order, ", ") != want {
		t.Errorf("measured %s", order)
	}
	const few = 20 // packets, even on a machine that emulates another beside other work
	for _, kind := range []string{"packet", "crypto", "plain"} {
		if sent("tx_"+kind) < few || received("rx_"+kind) < few {
			t.Errorf("%d packets sent and %d received as %s", sent("tx_"+kind), received("rx_"+kind), kind)
		}
	}
	esp := 0
	for _, f := range stop() {
		const espProto, ipv4 = 50, 0x0800
		if binary.BigEndian.Uint16(f[12:]) != ipv4 {
			continue
		}
		if f[23] == espProto {
			esp++
		}
		for _, addr := range [][]byte{f[26:30], f[30:34]} {
			if inner := netip.MustParsePrefix("198.18.0.0/15"); inner.Contains(netip.AddrFrom4([4]byte(addr))) {
				t.Fatalf("in clear on the wire: %x", f)
			}
		}
	}
	if esp < 3*few {
		t.Errorf("%d ESP packets on the wire", esp)
	}
	gone(t, n)
}

// TestBenchOffloadRefused has the NIC run out of room for SAs.
func TestBenchOffloadRefused(t *testing.T) {
	n := newNICs(t, 0)
	set(t, nicA, "slots", "10")
	out, r := bench(t, n, "--tunnels", "1,20", "--placements", "packet,kernel")
	for _, c := range r.Cells {
		if refused := c.Tunnels == 20 && c.Placement == "packet"; refused != (c.Refused != "") {
			t.Errorf("%d tunnels, %s: refused: %s", c.Tunnels, c.Placement, c.Refused)
		}
	}
	if !strings.Contains(out, "not to be had (1)") || !strings.Contains(out, "no slot is left") {
		t.Errorf("it does not say why:\n%s", out)
	}
	gone(t, n)
}
