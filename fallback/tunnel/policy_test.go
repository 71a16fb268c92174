// SPDX-License-Identifier: Apache-2.0

package tunnel

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"

	"quicksand/fallback/esp"
)

func child0(name, local, remote string) *child {
	return newChild(childKey{"conn", name, mustSelector(local), mustSelector(remote)})
}

// TestMostSpecific adds the children in every order and always wants the same
// one found.
func TestMostSpecific(t *testing.T) {
	children := []*child{
		child0("all", "0.0.0.0/0", "0.0.0.0/0"),
		child0("net", "10.1.0.0/16", "10.2.0.0/16"),
		child0("range", "10.1.0.0/16", "10.2.0.7..10.2.0.9"),
		child0("tcp", "10.1.0.0/16", "10.2.0.0/16[tcp]"),
		child0("web", "10.1.0.0/16", "10.2.0.0/16[tcp/80]"),
		child0("from", "10.1.1.0/24", "10.2.0.0/16"),
		child0("six", "::/0", "fd00::/8"),
		child0("twin", "10.1.0.0/16", "10.2.0.0/16"),
	}
	for _, c := range []struct {
		src, dst string
		protocol uint8
		port     uint16
		want     string
	}{
		{"10.1.9.9", "10.2.1.1", 17, 5, "net"}, // twin has the same selectors and a later name
		{"10.1.9.9", "10.2.0.8", 17, 5, "range"},
		{"10.1.9.9", "10.2.0.10", 17, 5, "net"},
		{"10.1.9.9", "10.2.1.1", 6, 22, "tcp"},
		{"10.1.9.9", "10.2.1.1", 6, 80, "web"},
		{"10.1.1.9", "10.2.1.1", 6, 80, "from"}, // addresses go before protocols and ports
		{"10.9.1.9", "10.2.1.1", 6, 80, "all"},
		{"fd01::1", "fd02::2", 17, 1, "six"},
		{"fd01::1", "fe02::2", 17, 1, ""},
	} {
		h := esp.Header{Src: netip.MustParseAddr(c.src), Dst: netip.MustParseAddr(c.dst), Protocol: c.protocol,
			SrcPort: 1000, DstPort: c.port, HasPorts: true}
		for seed := range uint64(20) {
			table := newPolicies()
			for _, i := range rand.New(rand.NewPCG(seed, 0)).Perm(len(children)) {
				table.add(children[i])
			}
			name := ""
			if c := table.find(&h); c != nil {
				name = c.key.child
			}
			if name != c.want {
				t.Errorf("%+v is %q's", c, name)
				break
			}
			for _, c := range children {
				table.remove(c)
			}
			if len(table.buckets) != 0 || len(table.lengths[0])+len(table.lengths[1]) != 0 || table.find(&h) != nil {
				t.Fatal("something is left of an empty table")
			}
		}
	}
}

// TestNewestOfTwins wants the child that became active last, where two select
// the same.
func TestNewestOfTwins(t *testing.T) {
	table := newPolicies()
	a, b := child0("a", "10.1.0.0/16", "10.2.0.0/16"), child0("b", "10.1.0.0/16", "10.2.0.0/16")
	table.add(a)
	table.add(b)
	h := esp.Header{Src: netip.MustParseAddr("10.1.0.1"), Dst: netip.MustParseAddr("10.2.0.1")}
	for i, c := range []*child{b, a, b} {
		c.activated = uint64(i + 1)
		if got := table.find(&h); got != c {
			t.Errorf("found %s, want %s", got.key.child, c.key.child)
		}
	}
}

func BenchmarkFind(b *testing.B) {
	table := newPolicies()
	for i := range 10000 {
		table.add(child0("net", "10.1.0.0/16", fmt.Sprintf("10.%d.%d.0/24", 2+i/250, i%250)))
	}
	h := esp.Header{Src: netip.MustParseAddr("10.1.0.1"), Dst: netip.MustParseAddr("10.30.0.1")}
	b.ReportAllocs()
	for b.Loop() {
		if table.find(&h) == nil {
			b.Fatal("not found")
		}
	}
}
