// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/ecdh"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"quicksand/tests/harness"
)

// tunnel joins two sites, each a network namespace with a network behind it,
// by two daemons of one make.
type tunnel struct {
	name    string
	ours    bool
	net     *harness.Net
	a, b    *harness.Host
	daemons []*harness.Process
	idle    float64         // megabytes resident in the larger daemon before any load
	guess   map[int]float64 // packets a second that were carried the last time, by size
}

// maker starts a tunnel.
type maker struct {
	name  string
	ours  bool
	start func(t *tunnel) error
}

// The peers. Before is an older program of ours, for the development.
const (
	wireguardGo    = "wireguard-go"
	kernelLibipsec = "kernel-libipsec"
	before         = "before"
)

var tunnelMakers = []maker{
	{"ESP", true, func(t *tunnel) error { return t.quicksand("", sockets, false) }},
	{"ESP in UDP", true, func(t *tunnel) error { return t.quicksand("", sockets, true) }},
	{"ESP, XDP", true, func(t *tunnel) error { return t.quicksand("", steered, false) }},
	{"ESP in UDP, XDP", true, func(t *tunnel) error { return t.quicksand("", steered, true) }},
	{wireguardGo, false, (*tunnel).wireguard},
	{kernelLibipsec, false, (*tunnel).strongSwan},
}

// An address behind each site.
const insideA, insideB = "10.1.0.1", "10.2.0.1"

// newTunnel brings a tunnel up and waits until it carries traffic.
func newTunnel(m maker) (*tunnel, error) {
	t := &tunnel{name: m.name, ours: m.ours, guess: map[int]float64{}}
	var err error
	if t.net, err = harness.New(); err != nil {
		return nil, err
	}
	if t.a, t.b, err = t.net.Sites(1); err != nil {
		return nil, err
	}
	if err := m.start(t); err != nil {
		return nil, fmt.Errorf("%s: %w", m.name, err)
	}
	err = harness.Poll(5*time.Second, func() error {
		r, err := t.a.Ping(harness.Ping{Source: insideA, Dest: insideB, Count: 3})
		if err == nil && r.Lost() > 0 {
			err = fmt.Errorf("ping: %v", r)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", m.name, err)
	}
	if t.idle, err = t.resident((*harness.Process).RSS); err != nil {
		return nil, err
	}
	return t, nil
}

// The ways of our packets, by a word of the placement's detail.
const (
	sockets = "sockets"
	steered = "AF_XDP"
)

// quicksand runs our daemon at both ends, by default the one of this tree.
func (t *tunnel) quicksand(binary, way string, encap bool) error {
	return t.ike(way, encap, 1, func(h *harness.Host) (*harness.Peer, error) {
		return harness.StartQuicksand(h, harness.QuicksandOptions{NoKeyLog: true, Binary: binary, Settings: userspace(h, way)})
	})
}

// userspace are the settings of a daemon whose packets go the way.
func userspace(h *harness.Host, way string) []string {
	settings := []string{"backend = userspace"}
	if way == steered {
		// The harness kills the daemons: what they pin would stay.
		settings = append(settings, "xdp_interfaces = "+h.Uplink(), "xdp_pins = off")
	}
	return settings
}

// strongSwan runs charon with its user-space ESP, which is always in UDP.
func (t *tunnel) strongSwan() error {
	return t.ike("", false, 1, func(h *harness.Host) (*harness.Peer, error) {
		return harness.StartStrongSwan(h, harness.StrongSwanOptions{NoKeyLog: true})
	})
}

// ike has two daemons negotiate AES-128-GCM, with so many pairs. With a way, it is an error where
// the packets of either go another one.
func (t *tunnel) ike(way string, encap bool, pairs int, start func(*harness.Host) (*harness.Peer, error)) error {
	c := tunnelConfig(encap)
	if pairs > 1 {
		c.Conns[0].Children[0].Options = harness.Options{"parallel_sas": fmt.Sprint(pairs)}
	}
	var peers []*harness.Peer
	for _, h := range []*harness.Host{t.a, t.b} {
		p, err := start(h)
		if err != nil {
			return err
		}
		if err := p.Load(c); err != nil {
			return err
		}
		c = c.Mirror()
		peers, t.daemons = append(peers, p), append(t.daemons, p.Proc)
	}
	if err := peers[0].Initiate("net"); err != nil {
		return err
	}
	for _, p := range peers {
		if err := harness.Poll(5*time.Second, func() error { return goes(p, way, encap, pairs) }); err != nil {
			return err
		}
	}
	return nil
}

// goes reports that the peer's child stands with its pairs and that its packets go
// the way.
func goes(p *harness.Peer, way string, encap bool, pairs int) error {
	children, err := p.Children("net")
	if err == nil && len(children) != pairs {
		err = fmt.Errorf("%s has %d pairs, not %d", p.Host.Name(), len(children), pairs)
	}
	if err != nil || way == "" {
		return err
	}
	for _, child := range children {
		if child.Encap != encap || !strings.Contains(child.Detail, way) {
			return fmt.Errorf("packets of %s do not go by %s, in UDP: %v, but: %s", p.Host.Name(), way, encap, child.Detail)
		}
	}
	return nil
}

// tunnelConfig is site a's: one connection, "sites", with one child, "net".
func tunnelConfig(encap bool) harness.Config {
	c := harness.Conn{
		Name: "sites", LocalAddr: harness.AddrA, RemoteAddr: harness.AddrB, Proposals: "aes256-sha256-curve25519",
		Children: []harness.Child{{Name: "net", LocalTS: "10.1.0.0/24", RemoteTS: "10.2.0.0/24", ESP: "aes128gcm16"}},
	}
	if encap {
		c.Options = harness.Options{"encap": "yes"}
	}
	return harness.Config{Conns: []harness.Conn{c}, Secrets: []harness.Secret{{Data: "a pre-shared key of the benchmark"}}}
}

// wireguard runs wireguard-go at both ends.
func (t *tunnel) wireguard() error {
	const port = 51820
	type site struct {
		host              *harness.Host
		key               *ecdh.PrivateKey
		outer, inner, net string
	}
	sites := []site{{host: t.a, outer: harness.AddrA, inner: insideA, net: "10.1.0.0/24"}, {host: t.b, outer: harness.AddrB, inner: insideB, net: "10.2.0.0/24"}}
	for i := range sites {
		var err error
		if sites[i].key, err = ecdh.X25519().GenerateKey(rand.Reader); err != nil {
			return err
		}
	}
	for i, s := range sites {
		peer := sites[1-i]
		config := fmt.Sprintf("private_key=%s\nlisten_port=%d\npublic_key=%s\nendpoint=%s:%d\nallowed_ip=%s\n",
			hex.EncodeToString(s.key.Bytes()), port, hex.EncodeToString(peer.key.PublicKey().Bytes()), peer.outer, port, peer.net)
		path := filepath.Join(t.net.Dir(), s.host.Name()+"-wg.conf")
		if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
			return err
		}
		p, err := s.host.Start("wireguard", nil, filepath.Join(filepath.Dir(harness.Binary()), "wireguard"), "wg0", path)
		if err != nil {
			return err
		}
		t.daemons = append(t.daemons, p)
		err = harness.Poll(5*time.Second, func() error { return s.host.SetLink("wg0", true) })
		if err != nil {
			return fmt.Errorf("%w: %s", err, p.Log.Tail(5))
		}
		if err := s.host.AddRoute(strings.Join([]string{peer.net, "dev wg0 src", s.inner}, " ")); err != nil {
			return err
		}
	}
	return nil
}

// alive reports a daemon that has ended.
func (t *tunnel) alive() error {
	for _, p := range t.daemons {
		if !p.Alive() {
			return fmt.Errorf("%s ended: %w: %s", p.Name, p.Wait(0), p.Log.Tail(10))
		}
	}
	return nil
}

// resident returns the larger daemon's memory in megabytes.
func (t *tunnel) resident(of func(*harness.Process) (uint64, error)) (float64, error) {
	most := uint64(0)
	for _, p := range t.daemons {
		n, err := of(p)
		if err != nil {
			return 0, err
		}
		most = max(most, n)
	}
	return float64(most) / 1e6, nil
}

// cpu returns the seconds of CPU time that the daemons have used.
func (t *tunnel) cpu() (float64, error) {
	total := 0.0
	for _, p := range t.daemons {
		s, err := p.CPU()
		if err != nil {
			return 0, err
		}
		total += s
	}
	return total, nil
}
