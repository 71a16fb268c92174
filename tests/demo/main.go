// SPDX-License-Identifier: Apache-2.0

// Demo joins two sites, network namespaces with a network behind each, by a
// tunnel that quicksand negotiates: first with another quicksand, then with
// strongSwan. It prints what was negotiated and what the tunnel carries, and
// leaves nothing behind. It needs root and bin/quicksand: "make demo".
package main

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"quicksand/tests/harness"
)

func main() {
	harness.CloseOnSignal()
	err := run()
	harness.CloseAll()
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

// The networks behind the sites, and an address in each.
const (
	lanA, lanB   = "10.1.0.0/24", "10.2.0.0/24"
	hostA, hostB = "10.1.0.1", "10.2.0.1"
)

func run() error {
	fmt.Printf(`Two sites, joined by one link:

  %-10s %-12s %s
  %-10s %-12s %s
  %-10s %-12s %s
`, "", "gateway", "network behind it", "site a", harness.AddrA, lanA, "site b", harness.AddrB, lanB)
	acts := []struct {
		title string
		a, b  start
	}{
		{"quicksand and quicksand", startSteered, startSteered},
		{"quicksand and strongSwan", startQuicksand, startStrongSwan},
	}
	for i, a := range acts {
		fmt.Printf("\n%d. %s\n", i+1, a.title)
		err := act(a.a, a.b)
		if errors.Is(err, os.ErrNotExist) && i > 0 {
			fmt.Println("   left out: strongSwan is not installed; tests/setup.sh does that")
			continue
		}
		if err != nil {
			return fmt.Errorf("%s: %w", a.title, err)
		}
	}
	return nil
}

// start starts a daemon in the host.
type start func(h *harness.Host) (*harness.Peer, error)

func startQuicksand(h *harness.Host) (*harness.Peer, error) {
	return harness.StartQuicksand(h, harness.QuicksandOptions{NoKeyLog: true})
}

// startSteered has packets of SAs in user space steered by SPI to AF_XDP sockets,
// which is what makes ESP that is not in UDP fast.
func startSteered(h *harness.Host) (*harness.Peer, error) {
	return harness.StartQuicksand(h, harness.QuicksandOptions{NoKeyLog: true,
		Settings: []string{"xdp_interfaces = " + h.Uplink(), "xdp_pins = off"}})
}

func startStrongSwan(h *harness.Host) (*harness.Peer, error) {
	return harness.StartStrongSwan(h, harness.StrongSwanOptions{})
}

// act builds the sites, negotiates, sends traffic and renegotiates. The daemon
// at site a is always quicksand.
func act(startA, startB start) error {
	n, err := harness.New()
	if err != nil {
		return err
	}
	defer n.Close()
	siteA, siteB, err := n.Sites(1)
	if err != nil {
		return err
	}
	a, err := startA(siteA)
	if err != nil {
		return err
	}
	b, err := startB(siteB)
	if err != nil {
		return err
	}
	c := configuration()
	if err := a.Load(c); err != nil {
		return err
	}
	if err := b.Load(c.Mirror()); err != nil {
		return err
	}
	for _, step := range []func(n *harness.Net, a, b *harness.Peer) error{phase1, phase2, traffic, renegotiation, shutdown} {
		if err := step(n, a, b); err != nil {
			return fmt.Errorf("%w\nthe log of site a says:\n%s\nthe log of site b says:\n%s", err, a.Log.Tail(15), b.Log.Tail(15))
		}
	}
	return nil
}

func configuration() harness.Config {
	return harness.Config{
		Conns: []harness.Conn{{
			Name: "site-to-site", LocalAddr: harness.AddrA, RemoteAddr: harness.AddrB,
			LocalID: "a.example.org", RemoteID: "b.example.org",
			Proposals: "aes256-sha256-curve25519",
			Children: []harness.Child{{
				Name: "networks", LocalTS: lanA, RemoteTS: lanB, ESP: "aes128gcm16-curve25519",
			}},
		}},
		Secrets: []harness.Secret{{IDs: []string{"a.example.org", "b.example.org"}, Data: "the demo's pre-shared key"}},
	}
}

// section and line print the report's parts.
func section(title string) { fmt.Printf("\n   %s\n", title) }

func line(label, format string, args ...any) {
	fmt.Printf("     %-22s %s\n", label, fmt.Sprintf(format, args...))
}

func phase1(_ *harness.Net, a, _ *harness.Peer) error {
	begin := time.Now()
	if err := a.InitiateConn("site-to-site"); err != nil {
		return err
	}
	took := time.Since(begin)
	sa, err := a.IKE("site-to-site")
	if err != nil {
		return err
	}
	section("Phase 1, Main Mode")
	line("outcome", "IKE SA %s in %v", strings.ToLower(sa.State), took.Round(time.Millisecond))
	line("site a", "%s at %s port %d", sa.LocalID, sa.LocalHost, sa.LocalPort)
	line("site b", "%s at %s port %d", sa.RemoteID, sa.RemoteHost, sa.RemotePort)
	line("authentication", "pre-shared key")
	line("algorithms", "%s", sa.Suite())
	line("cookies", "%s_i %s_r", sa.ICookie, sa.RCookie)
	line("renewed in", "%v", seconds(sa.RekeyTime))
	return nil
}

func phase2(_ *harness.Net, a, b *harness.Peer) error {
	begin := time.Now()
	if err := a.Initiate("networks"); err != nil {
		return err
	}
	took := time.Since(begin)
	atA, err := settled(a, "")
	if err != nil {
		return err
	}
	atB, err := settled(b, "")
	if err != nil {
		return err
	}
	section("Phase 2, Quick Mode")
	line("outcome", "pair of %s SAs %s in %v", atA.Protocol, strings.ToLower(atA.State), took.Round(time.Millisecond))
	line("traffic", "%s === %s", strings.Join(atA.LocalTS, ","), strings.Join(atA.RemoteTS, ","))
	line("SA from a to b", "SPI %s", atA.SPIOut)
	line("SA from b to a", "SPI %s", atA.SPIIn)
	cipher := atA
	cipher.Group = ""
	line("algorithms", "%s", cipher.Suite())
	line("PFS group", "%s", atA.Group)
	mode := strings.ToLower(atA.Mode)
	if atA.Encap {
		mode += ", in UDP"
	}
	line("mode", "%s", mode)
	line("lifetime", "renegotiated in %v, ends in %v", seconds(atA.RekeyTime), seconds(atA.LifeTime))
	line("runs at site a", "%s", placement(a, atA))
	line("runs at site b", "%s", placement(b, atB))
	return nil
}

// settled waits until the peer has one child that is not the old one.
func settled(p *harness.Peer, old string) (c harness.ChildSA, err error) {
	err = harness.Poll(10*time.Second, func() error {
		if c, err = p.Child("networks"); err == nil && c.SPIIn == old {
			err = errors.New("the SAs are still the old ones")
		}
		return err
	})
	return c, err
}

func seconds(s int) time.Duration { return time.Duration(s) * time.Second }

// placement says where the child runs, as its daemon has read it back.
func placement(p *harness.Peer, c harness.ChildSA) string {
	if p.Make == harness.StrongSwan {
		return "strongSwan's own user-space ESP (kernel-libipsec)"
	}
	s := fmt.Sprintf("%s on %s", c.Placement, c.Device)
	if c.Detail != "" {
		s += ": " + c.Detail
	}
	return s
}

func traffic(n *harness.Net, a, b *harness.Peer) error {
	section("Traffic")
	line("", "%-22s %s", "bare link", "through the tunnel")
	paths := [][2]string{{harness.AddrA, harness.AddrB}, {hostA, hostB}}
	var pings, rates []string
	for _, p := range paths {
		r, err := a.Host.Ping(harness.Ping{Source: p[0], Dest: p[1], Count: 200, Interval: 5 * time.Millisecond})
		if err != nil {
			return err
		}
		pings = append(pings, fmt.Sprintf("%v, %d of %d lost", r.RTT, r.Lost(), r.Sent))
	}
	line("ping", "%-22s %s", pings[0], pings[1])
	for _, reverse := range []bool{false, true} {
		rates = nil
		for _, p := range paths {
			r, err := n.Iperf(a.Host, b.Host, harness.Iperf{Source: p[0], Dest: p[1], Time: 2 * time.Second, Reverse: reverse})
			if err != nil {
				return err
			}
			rates = append(rates, fmt.Sprintf("%.2f Gbit/s", r.BitsPerSecond/1e9))
		}
		label := "iperf3 TCP, a to b"
		if reverse {
			label = "iperf3 TCP, b to a"
		}
		line(label, "%-22s %s", rates[0], rates[1])
	}
	return nil
}

func renegotiation(_ *harness.Net, a, _ *harness.Peer) error {
	old, err := settled(a, "")
	if err != nil {
		return err
	}
	const count, interval = 1000, 2 * time.Millisecond
	wait := a.Host.StartPing(harness.Ping{Source: hostA, Dest: hostB, Count: count, Interval: interval})
	time.Sleep(count * interval / 4)
	begin := time.Now()
	if _, err := a.Swanctl("--rekey", "--child", "networks"); err != nil {
		return err
	}
	now, err := settled(a, old.SPIIn)
	if err != nil {
		return err
	}
	took := time.Since(begin)
	r, err := wait()
	if err != nil {
		return err
	}
	section("Renegotiation under traffic")
	line("outcome", "new SAs after %v, with a fresh %s exchange", took.Round(time.Millisecond), now.Group)
	line("SA from a to b", "SPI %s, before %s", now.SPIOut, old.SPIOut)
	line("SA from b to a", "SPI %s, before %s", now.SPIIn, old.SPIIn)
	line("ping every "+interval.String(), "%d sent, %d lost", r.Sent, r.Lost())
	return nil
}

func shutdown(_ *harness.Net, a, b *harness.Peer) error {
	if err := a.Stop(); err != nil {
		return err
	}
	return harness.Poll(5*time.Second, func() error {
		if sas, err := b.SAs(); err != nil || len(sas) > 0 {
			return fmt.Errorf("site b still has %d IKE SAs, %v", len(sas), err)
		}
		return nil
	})
}
