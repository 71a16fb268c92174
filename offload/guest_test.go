// SPDX-License-Identifier: Apache-2.0

//go:build guest

package offload

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"quicksand/sa"
)

// These tests need a kernel with ESP and AH.

// newSites makes the test network with a backend at each site.
func newSites(t *testing.T) (a, b *site) {
	t.Helper()
	a, b = &site{t: t, ns: newNamespace(t)}, &site{t: t, ns: newNamespace(t)}
	sh(t, "ip link add eth0 netns %s type veth peer name eth0 netns %s", a.ns, b.ns)
	addresses(a, b, "eth0")
	a.open(Options{})
	b.open(Options{})
	return a, b
}

func addresses(a, b *site, device string) {
	for _, s := range []struct {
		*site
		outer, outer6, inner, inner6 string
	}{{a, outerA, outerA6, innerA, innerA6}, {b, outerB, outerB6, innerB, innerB6}} {
		sh(s.t, "ip -n %s link set %s up", s.ns, device)
		sh(s.t, "ip -n %s addr add %s/24 dev %s", s.ns, s.outer, device)
		sh(s.t, "ip -n %s addr add %s/64 dev %s nodad", s.ns, s.outer6, device)
		sh(s.t, "ip -n %s addr add %s/32 dev lo", s.ns, s.inner)
		sh(s.t, "ip -n %s addr add %s/128 dev lo nodad", s.ns, s.inner6)
	}
}

func (s *site) install(p *sa.Pair) sa.Placement {
	s.t.Helper()
	at, err := s.b.Install(p)
	if err != nil {
		s.t.Fatalf("install in %s: %v", s.ns, err)
	}
	return at
}

func (s *site) activate(p *sa.Pair) {
	s.t.Helper()
	if err := s.b.Activate(p); err != nil {
		s.t.Fatalf("activate in %s: %v", s.ns, err)
	}
}

func (s *site) remove(p *sa.Pair) {
	s.t.Helper()
	if err := s.b.Remove(p); err != nil {
		s.t.Fatalf("remove in %s: %v", s.ns, err)
	}
}

// connect installs and activates a pair on both sides.
func connect(a, b *site, p *sa.Pair) {
	a.t.Helper()
	a.install(p)
	b.install(mirror(p))
	a.activate(p)
	b.activate(mirror(p))
}

func (s *site) tryPing(to, args string) (string, error) {
	return tryShell("ip netns exec %s ping -c 3 -i 0.1 -W 2 %s %s", s.ns, args, to)
}

func (s *site) ping(to, args string) {
	s.t.Helper()
	out, err := s.tryPing(to, args)
	if err != nil || !strings.Contains(out, " 0% packet loss") {
		s.t.Fatalf("ping %s %s from %s: %v\n%s\n%s", args, to, s.ns, err, out, s.state())
	}
}

// state is what the kernel of the site holds and has dropped.
func (s *site) state() string {
	out, _ := tryShell("ip -n %s -s xfrm state; ip -n %s xfrm policy; ip netns exec %s cat /proc/net/xfrm_stat | awk '$2 > 0'", s.ns, s.ns, s.ns)
	return out
}

func TestTunnel(t *testing.T) {
	a, b := newSites(t)
	p := pairOf("aes128gcm16")
	connect(a, b, p)
	a.ping(innerB, "-I "+innerA)
	if e := b.expect(sa.FirstUse); e.Pair != p.ID {
		t.Errorf("first use of pair %d", e.Pair)
	}
	for _, s := range []*site{a, b} {
		in, out, err := s.b.Counters(p)
		if err != nil || in.Packets != 3 || out.Packets != 3 || in.Bytes != 3*84 || out.Bytes != 3*84 {
			t.Errorf("%s: counters %+v %+v %v", s.ns, in, out, err)
		}
	}
	a.remove(p)
	if out, err := a.tryPing(innerB, "-I "+innerA); err == nil {
		t.Errorf("a ping goes without a pair:\n%s%s", out, a.state())
	}
	t.Log(a.state())
}

func TestSuites(t *testing.T) {
	a, b := newSites(t)
	id := uint32(0)
	for _, suite := range []string{"aes128gcm16", "aes256gcm16", "aes192gcm8", "aes128gcm12", "aes128-sha256", "aes256-sha512",
		"aes192-sha384", "aes128-sha1", "aes128-md5", "3des-sha1", "null-sha256", "aes128ctr-sha256", "ah:sha256", "ah:sha1", "ah:sha512",
		"aes128gcm16-esn", "aes128-sha256-esn", "ah:sha256-esn"} {
		for _, mode := range []sa.Mode{sa.Tunnel, sa.Transport} {
			for _, window := range []uint32{32, 256} {
				id++
				p := pairOf(suite, func(p *sa.Pair) {
					p.ID, p.Mode, p.ReplayWindow = id, mode, window
					p.Child = fmt.Sprint(suite, mode)
					if mode == sa.Transport {
						p.LocalTS, p.RemoteTS = sel(outerA), sel(outerB)
					}
				})
				connect(a, b, p)
				if mode == sa.Transport {
					a.ping(outerB, "")
				} else {
					a.ping(innerB, "-I "+innerA)
				}
				for _, s := range []*site{a, b} {
					in, out, err := s.b.Counters(p)
					if err != nil || in != out || in.Packets != 3 || in.Bytes != 3*84 {
						t.Errorf("%s %s window %d: counters %+v %+v %v", suite, mode, window, in, out, err)
					}
				}
				a.remove(p)
				b.remove(mirror(p))
				for _, s := range []*site{a, b} {
					q := p.Policy
					if s == b {
						q = mirror(p).Policy
					}
					if err := s.b.Untrap(q); err != nil {
						t.Error(err)
					}
				}
			}
		}
	}
}

// newNICs makes the test network over the test NICs.
func newNICs(t *testing.T) (a, b *site) {
	t.Helper()
	a, b = &site{t: t, ns: newNamespace(t)}, &site{t: t, ns: newNamespace(t)}
	sh(t, "ip link set pkt0 netns %s && ip link set pkt1 netns %s", a.ns, b.ns)
	t.Cleanup(func() {
		tryShell("ip -n %s link set pkt0 netns 1; ip -n %s link set pkt1 netns 1", a.ns, b.ns)
	})
	for _, s := range []*site{a, b} {
		sh(t, "ip -n %s link set lo up", s.ns)
	}
	sh(t, "ip -n %s link set pkt0 name eth0; ip -n %s link set pkt1 name eth0", a.ns, b.ns)
	addresses(a, b, "eth0")
	a.open(Options{})
	b.open(Options{})
	t.Cleanup(func() { tryShell("ip -n %s link set eth0 name pkt0; ip -n %s link set eth0 name pkt1", a.ns, b.ns) })
	return a, b
}

func TestNIC(t *testing.T) {
	a, b := newNICs(t)
	for i, offload := range []sa.Offload{sa.OffloadPacket, sa.OffloadCrypto, sa.OffloadAuto, sa.OffloadNo} {
		p := pairOf("aes128gcm16", func(p *sa.Pair) { p.ID, p.Offload, p.Child = uint32(i+1), offload, offload.String() })
		at := a.install(p)
		t.Logf("%s: %s on %s: %s", offload, at.Kind, at.Device, at.Detail)
		if want := []sa.Kind{sa.Packet, sa.Crypto, sa.Packet, sa.Kernel}[i]; at.Kind != want {
			t.Errorf("%s: runs as %s, not %s", offload, at.Kind, want)
		}
		b.install(mirror(p))
		a.activate(p)
		b.activate(mirror(p))
		a.ping(innerB, "-I "+innerA)
		t.Log(a.state())
		q := next(p)
		q.ID += 10
		a.install(q)
		b.install(mirror(q))
		a.ping(innerB, "-I "+innerA)
		a.activate(q)
		a.ping(innerB, "-I "+innerA)
		b.activate(mirror(q))
		a.ping(innerB, "-I "+innerA)
		for _, s := range []*site{a, b} {
			in, out, err := s.b.Counters(q)
			t.Log(in, out, err)
		}
		t.Log(a.state())
		for _, s := range []*site{a, b} {
			s.remove(p)
			s.remove(q)
		}
		a.b.Untrap(p.Policy)
		b.b.Untrap(mirror(p).Policy)
		t.Log(a.state())
	}
}

var _ = netip.Addr{}
