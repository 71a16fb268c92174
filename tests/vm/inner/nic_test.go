// SPDX-License-Identifier: Apache-2.0

package inner

import (
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"quicksand/tests/harness"
)

// nics are two sites that are joined by the two ends of the test NIC, and its
// wire.
type nics struct {
	net  *harness.Net
	a, b *harness.Host
	wire *harness.Host
}

// The devices of the test NIC.
const nicA, nicB, nicWire = "qsnic0", "qsnic1", "qswire0"

// newNICs returns sites with that many networks behind each, on devices with
// their knobs at rest.
func newNICs(t *testing.T, lans int) *nics {
	t.Helper()
	// The devices come back from the namespaces of the test before.
	for _, dev := range []string{nicA, nicB, nicWire} {
		ok(t, harness.Poll(10*time.Second, func() error {
			_, err := net.InterfaceByName(dev)
			return err
		}))
	}
	for _, dev := range []string{nicA, nicB} {
		for knob, value := range map[string]string{"model": "any", "refuse": "0", "error": "22", "slots": "65535",
			"policy_slots": "65535", "corrupt": "0"} {
			set(t, dev, knob, value)
		}
	}
	n := &nics{net: harness.ForTest(t)}
	var err error
	n.wire, err = n.net.AddHost("wire")
	ok(t, err)
	ok(t, n.wire.Attach(nicWire, nil))
	n.a, n.b, err = n.net.SitesOn(nicA, nicB, lans)
	ok(t, err)
	return n
}

func debugfs(dev, file string) string { return filepath.Join("/sys/kernel/debug/qsnic", dev, file) }

// set turns a knob of a device.
func set(t *testing.T, dev, knob, value string) {
	t.Helper()
	ok(t, os.WriteFile(debugfs(dev, knob), []byte(value), 0))
}

// shown is what a device shows of itself.
func shown(t *testing.T, dev, file string) string {
	t.Helper()
	b, err := os.ReadFile(debugfs(dev, file))
	ok(t, err)
	return string(b)
}

// counters are a device's counts of frames.
func counters(t *testing.T, dev string) map[string]int {
	t.Helper()
	all := map[string]int{}
	for line := range strings.Lines(shown(t, dev, "counters")) {
		f := strings.Fields(line)
		n, err := strconv.Atoi(f[1])
		ok(t, err)
		all[f[0]] = n
	}
	return all
}

// counted returns a function that returns how much a device's counter has
// grown since.
func counted(t *testing.T, dev string) func(counter string) int {
	t.Helper()
	before := counters(t, dev)
	return func(counter string) int {
		t.Helper()
		now, there := counters(t, dev)[counter]
		if !there {
			t.Fatalf("%s has no counter %q", dev, counter)
		}
		return now - before[counter]
	}
}

// kinds counts frames by what they are.
type kinds struct{ esp, ah, ike, other, clear int }

// watch captures the wire until the function that it returns is called, which
// counts the frames. Anything in clear but what finds neighbours is shown.
func (n *nics) watch(t *testing.T) func() kinds {
	t.Helper()
	c, err := n.wire.Capture(nicWire)
	ok(t, err)
	return func() (k kinds) {
		t.Helper()
		ok(t, c.Stop())
		frames, err := harness.Frames(c.Path)
		ok(t, err)
		for _, f := range frames {
			k.add(t, f)
		}
		return k
	}
}

func (k *kinds) add(t *testing.T, f []byte) {
	t.Helper()
	const espProto, ahProto, udp, icmp6 = 50, 51, 17, 58
	var proto byte
	var body []byte
	switch binary.BigEndian.Uint16(f[12:]) {
	case 0x0800:
		proto, body = f[23], f[14+4*int(f[14]&15):]
	case 0x86dd:
		proto, body = f[20], f[54:]
	default:
		k.other++
		return
	}
	switch {
	case proto == espProto:
		k.esp++
	case proto == ahProto:
		k.ah++
	case proto == udp && binary.BigEndian.Uint16(body[2:]) == 500:
		k.ike++
	case proto == udp && binary.BigEndian.Uint16(body[2:]) == 4500 && binary.BigEndian.Uint32(body[8:]) == 0:
		k.ike++
	case proto == udp && binary.BigEndian.Uint16(body[2:]) == 4500:
		k.esp++
	case proto == icmp6 && body[0] >= 130 && body[0] <= 143 && body[0] != 139 && body[0] != 140:
		k.other++
	default:
		k.clear++
		if k.clear < 5 {
			t.Errorf("in clear on the wire: %x", f)
		}
	}
}

// sites are the addresses between which a tunnel or a transport SA stands.
type sites struct {
	outerA, outerB string
	innerA, innerB string // of pings
	netA, netB     string // selectors
}

// The addresses of harness.Sites by the families outside and inside.
var (
	tunnel4    = sites{harness.AddrA, harness.AddrB, "10.1.0.1", "10.2.0.1", "10.1.0.0/24", "10.2.0.0/24"}
	tunnel6    = sites{harness.AddrA6, harness.AddrB6, "fd01::1", "fd02::1", "fd01::/64", "fd02::/64"}
	tunnel4in6 = sites{harness.AddrA6, harness.AddrB6, "10.1.0.1", "10.2.0.1", "10.1.0.0/24", "10.2.0.0/24"}
	tunnel6in4 = sites{harness.AddrA, harness.AddrB, "fd01::1", "fd02::1", "fd01::/64", "fd02::/64"}
	host4      = sites{harness.AddrA, harness.AddrB, harness.AddrA, harness.AddrB, harness.AddrA + "/32", harness.AddrB + "/32"}
	host6      = sites{harness.AddrA6, harness.AddrB6, harness.AddrA6, harness.AddrB6, harness.AddrA6 + "/128", harness.AddrB6 + "/128"}
)

// pair is a pair of SAs and its policies at both sites.
type pair struct {
	at     sites
	mode   string
	onA    string // where it runs at site a: "packet", "crypto", or empty for software
	onB    string
	key    string
	icv    int
	extra  string // of every state, in ip(8)'s words
	out    string // of outbound states
	in     string // of inbound ones
	limits string // of the states of site a
}

// install installs states and policies at both sites.
func (n *nics) install(t *testing.T, p pair) {
	t.Helper()
	n.installStates(t, p, 0)
	n.installPolicies(t, p)
}

// installStates installs the states of one generation.
func (n *nics) installStates(t *testing.T, p pair, generation uint32) {
	t.Helper()
	ab := sa{src: p.at.outerA, dst: p.at.outerB, spi: 0x1001 + 16*generation, mode: p.mode, key: p.key, icv: p.icv}
	ba := ab
	ba.src, ba.dst, ba.spi = ab.dst, ab.src, 0x1002+16*generation
	for _, s := range []struct {
		sa
		h                         *harness.Host
		offload, dev, dir, limits string
	}{
		{ba, n.a, p.onA, nicA, "in", p.limits}, {ab, n.b, p.onB, nicB, "in", ""},
		{ab, n.a, p.onA, nicA, "out", p.limits}, {ba, n.b, p.onB, nicB, "out", ""},
	} {
		s.sa.offload, s.sa.dev, s.sa.dir = s.offload, s.dev, s.dir
		own := p.in
		if s.dir == "out" {
			own = p.out
		}
		s.extra = strings.Join([]string{p.extra, own, s.limits}, " ")
		if s.dir == "in" && own == "" {
			s.extra += " replay-window 32"
		}
		ok(t, s.add(s.h))
	}
}

func (n *nics) installPolicies(t *testing.T, p pair) {
	t.Helper()
	for _, end := range []struct {
		h                                    *harness.Host
		offload, dev                         string
		local, remote, outerHere, outerThere string
	}{
		{n.a, p.onA, nicA, p.at.netA, p.at.netB, p.at.outerA, p.at.outerB},
		{n.b, p.onB, nicB, p.at.netB, p.at.netA, p.at.outerB, p.at.outerA},
	} {
		for _, dir := range []string{"in", "out", "fwd"} {
			words := fmt.Sprintf("xfrm policy add src %s dst %s dir %s priority 100", end.remote, end.local, dir)
			tmpl := fmt.Sprintf(" tmpl src %s dst %s proto esp reqid 1 mode %s", end.outerThere, end.outerHere, p.mode)
			if dir == "out" {
				words = fmt.Sprintf("xfrm policy add src %s dst %s dir out priority 100", end.local, end.remote)
				tmpl = fmt.Sprintf(" tmpl src %s dst %s proto esp reqid 1 mode %s", end.outerHere, end.outerThere, p.mode)
			}
			if dir == "fwd" && p.mode == "transport" {
				continue
			}
			if end.offload == "packet" && dir != "fwd" {
				words += " offload packet dev " + end.dev
			}
			_, err := end.h.Run("ip", strings.Fields(words+tmpl)...)
			ok(t, err)
		}
	}
	if p.mode == "tunnel" {
		n.route(t, n.a, p.at.netB, p.at.outerB, p.at.innerA)
		n.route(t, n.b, p.at.netA, p.at.outerA, p.at.innerB)
	}
}

// route sends what goes to a network to the other site.
func (n *nics) route(t *testing.T, h *harness.Host, to, via, src string) {
	t.Helper()
	family := "inet"
	if strings.Contains(via, ":") {
		family = "inet6"
	}
	_, err := h.Run("ip", "route", "replace", to, "via", family, via, "src", src)
	ok(t, err)
}

// ping pings from a to b and fails where anything is lost.
func (n *nics) ping(t *testing.T, at sites, count, size int) {
	t.Helper()
	r, err := n.a.Ping(harness.Ping{Source: at.innerA, Dest: at.innerB, Count: count, Size: size})
	ok(t, err)
	if r.Lost() != 0 {
		t.Errorf("ping %s from %s: %v", at.innerB, at.innerA, r)
	}
}
