// SPDX-License-Identifier: Apache-2.0

package inner

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

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
	resetNICs(t)
	n := &nics{net: harness.ForTest(t)}
	var err error
	n.wire, err = n.net.AddHost("wire")
	ok(t, err)
	ok(t, n.wire.Attach(nicWire, nil))
	n.a, n.b, err = n.net.SitesOn(nicA, nicB, lans)
	ok(t, err)
	neighbours(t, n)
	return n
}

// resetNICs waits for the devices and puts their knobs at rest.
func resetNICs(t *testing.T) {
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
}

// neighbours tells each site the other's link address. A device takes for its
// own everything that a policy between two hosts says, neighbour discovery too;
// and what a host itself sends through an offloaded tunnel to a peer on its own
// link has the kernel look for the inner address there.
func neighbours(t *testing.T, n *nics) {
	t.Helper()
	for _, end := range []struct {
		h, peer      *harness.Host
		dev, peerDev string
		addrs        []string
	}{
		{n.a, n.b, nicA, nicB, []string{harness.AddrB, harness.AddrB6, tunnel4.innerB, tunnel6.innerB}},
		{n.b, n.a, nicB, nicA, []string{harness.AddrA, harness.AddrA6, tunnel4.innerA, tunnel6.innerA}},
	} {
		var mac string
		ok(t, end.peer.Do(func() error {
			dev, err := net.InterfaceByName(end.peerDev)
			if err == nil {
				mac = dev.HardwareAddr.String()
			}
			return err
		}))
		var commands []string
		for _, addr := range end.addrs {
			commands = append(commands, fmt.Sprintf("neigh replace %s lladdr %s dev %s nud permanent", addr, mac, end.dev))
		}
		ok(t, xfrm(end.h, commands...))
	}
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

// watch captures what passes the wire until the function that it returns is
// called, which counts the frames. What was in clear is an error, but for what
// finds neighbours.
func (n *nics) watch(t *testing.T) (stop func() kinds) {
	t.Helper()
	frames := n.record(t)
	return func() (k kinds) {
		t.Helper()
		for _, f := range frames() {
			k.add(t, f)
		}
		return k
	}
}

// record captures what passes the wire until the function that it returns is
// called. By the time that a packet has had an effect, it has been captured.
func (n *nics) record(t *testing.T) (stop func() [][]byte) {
	t.Helper()
	const all = 0x0300 // ETH_P_ALL in network order
	fd := packetSocket(t, n.wire, nicWire, all)
	ok(t, unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20))
	return func() (frames [][]byte) {
		t.Helper()
		defer unix.Close(fd)
		frame := make([]byte, 1<<16)
		for {
			size, _, err := unix.Recvfrom(fd, frame, 0)
			if err == unix.EAGAIN {
				break
			}
			ok(t, err)
			frames = append(frames, bytes.Clone(frame[:size]))
		}
		stats, err := unix.GetsockoptTpacketStats(fd, unix.SOL_PACKET, unix.PACKET_STATISTICS)
		ok(t, err)
		if stats.Drops != 0 {
			t.Errorf("the capture lost %d frames of %d", stats.Drops, stats.Packets)
		}
		return frames
	}
}

// inject sends a frame from site a's device.
func (n *nics) inject(t *testing.T, frame []byte) {
	t.Helper()
	fd := packetSocket(t, n.a, nicA, 0)
	defer unix.Close(fd)
	_, err := unix.Write(fd, frame)
	ok(t, err)
}

// packetSocket opens a socket for the frames of a device.
func packetSocket(t *testing.T, h *harness.Host, dev string, protocol uint16) (fd int) {
	t.Helper()
	ok(t, h.Do(func() error {
		i, err := net.InterfaceByName(dev)
		if err != nil {
			return err
		}
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0); err != nil {
			return err
		}
		return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: protocol, Ifindex: i.Index})
	}))
	return fd
}

func (k *kinds) add(t *testing.T, f []byte) {
	t.Helper()
	const espProto, ahProto, udp, icmp6 = 50, 51, 17, 58
	const multicast = 0xff // first byte of an IPv6 address
	var proto byte
	var body []byte
	switch binary.BigEndian.Uint16(f[12:]) {
	case 0x0800:
		proto, body = f[23], f[14+4*int(f[14]&15):]
	case 0x86dd:
		proto, body = f[20], f[54:]
		// The kernel says which groups it is in, and looks for neighbours.
		if f[38] == multicast {
			k.other++
			return
		}
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
	tunnel4 = sites{harness.AddrA, harness.AddrB, "10.1.0.1", "10.2.0.1", "10.1.0.0/24", "10.2.0.0/24"}
	tunnel6 = sites{harness.AddrA6, harness.AddrB6, "fd01::1", "fd02::1", "fd01::/64", "fd02::/64"}
	host4   = sites{harness.AddrA, harness.AddrB, harness.AddrA, harness.AddrB, harness.AddrA + "/32", harness.AddrB + "/32"}
	host6   = sites{harness.AddrA6, harness.AddrB6, harness.AddrA6, harness.AddrB6, harness.AddrA6 + "/128", harness.AddrB6 + "/128"}
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

// install installs states and policies at both sites, in the place of all that
// were there.
func (n *nics) install(t *testing.T, p pair) {
	t.Helper()
	n.clear(t)
	n.installStates(t, p, 0)
	n.installPolicies(t, p)
}

// clear removes all states and policies.
func (n *nics) clear(t *testing.T) {
	t.Helper()
	for _, h := range []*harness.Host{n.a, n.b} {
		ok(t, xfrm(h, "xfrm state flush", "xfrm policy flush"))
	}
}

// installStates installs the states of one generation.
func (n *nics) installStates(t *testing.T, p pair, generation uint32) {
	t.Helper()
	a, b := n.endStates(p, generation)
	ok(t, xfrm(n.a, a.in.words(), a.out.words()))
	ok(t, xfrm(n.b, b.in.words(), b.out.words()))
}

// end is what one site has of a pair.
type end struct{ in, out sa }

// endStates returns the states of one generation at both sites.
func (n *nics) endStates(p pair, generation uint32) (a, b end) {
	ab := sa{src: p.at.outerA, dst: p.at.outerB, spi: 0x1001 + 16*generation, mode: p.mode, key: p.key, icv: p.icv}
	ba := ab
	ba.src, ba.dst, ba.spi = ab.dst, ab.src, 0x1002+16*generation
	finish := func(in, out sa, offload, dev, limits string) end {
		in.offload, in.dev, in.dir = offload, dev, "in"
		out.offload, out.dev, out.dir = offload, dev, "out"
		in.extra = strings.Join([]string{p.extra, cmp.Or(p.in, "replay-window 32"), limits}, " ")
		out.extra = strings.Join([]string{p.extra, p.out, limits}, " ")
		return end{in, out}
	}
	return finish(ba, ab, p.onA, nicA, p.limits), finish(ab, ba, p.onB, nicB, "")
}

func (n *nics) installPolicies(t *testing.T, p pair) {
	t.Helper()
	for _, end := range []struct {
		h                                    *harness.Host
		offload, dev                         string
		local, remote, outerHere, outerThere string
		inner                                string
	}{
		{n.a, p.onA, nicA, p.at.netA, p.at.netB, p.at.outerA, p.at.outerB, p.at.innerA},
		{n.b, p.onB, nicB, p.at.netB, p.at.netA, p.at.outerB, p.at.outerA, p.at.innerB},
	} {
		const policy = "xfrm policy add src %s dst %s dir %s priority 100 %s tmpl src %s dst %s proto esp reqid 1 mode %s"
		offload := ""
		if end.offload == "packet" {
			offload = "offload packet dev " + end.dev
		}
		commands := []string{
			fmt.Sprintf(policy, end.local, end.remote, "out", offload, end.outerHere, end.outerThere, p.mode),
			fmt.Sprintf(policy, end.remote, end.local, "in", offload, end.outerThere, end.outerHere, p.mode),
		}
		if p.mode == "tunnel" {
			family := "inet"
			if strings.Contains(end.outerThere, ":") {
				family = "inet6"
			}
			commands = append(commands,
				fmt.Sprintf(policy, end.remote, end.local, "fwd", "", end.outerThere, end.outerHere, p.mode),
				fmt.Sprintf("route replace %s via %s %s src %s", end.remote, family, end.outerThere, end.inner))
		}
		ok(t, xfrm(end.h, commands...))
	}
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
