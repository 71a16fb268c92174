// SPDX-License-Identifier: Apache-2.0

// Package interop has quicksand negotiate with strongSwan and carry traffic to
// it, each as initiator and as responder, in network namespaces. It needs
// root, bin/quicksand and what tests/setup.sh installs: "make interop".
//
// With REFERENCE=1 in the environment strongSwan takes quicksand's place as
// well. What fails then is a fault of the tests, not of quicksand.
package interop

import (
	"fmt"
	"os"
	"testing"
	"time"

	"quicksand/tests/harness"
)

var reference = os.Getenv("REFERENCE") != ""

func TestMain(m *testing.M) {
	harness.CloseOnSignal()
	code := m.Run()
	harness.CloseAll()
	os.Exit(code)
}

// secret is the pre-shared key where a test is not about keys.
const secret = "a pre-shared key of the tests"

// ikeProposal is the IKE proposal where a test is not about it.
const ikeProposal = "aes128-sha256-ecp256"

// duo is quicksand on site a and strongSwan on site b.
type duo struct {
	net  *harness.Net
	q, s *harness.Peer
}

// options change a duo.
type options struct {
	lans       int      // networks behind each site
	keyingOnly bool     // of strongSwan
	settings   []string // of both daemons
}

// start makes two sites and starts the daemons.
func start(t *testing.T, o options) *duo {
	t.Helper()
	n := harness.ForTest(t)
	a, b, err := n.Sites(o.lans)
	ok(t, err)
	return startOn(t, n, a, b, o)
}

// startOn starts quicksand on the first host and strongSwan on the second.
func startOn(t *testing.T, n *harness.Net, a, b *harness.Host, o options) *duo {
	t.Helper()
	d := &duo{net: n}
	swan := harness.StrongSwanOptions{KeyingOnly: o.keyingOnly, Settings: o.settings}
	var err error
	if reference {
		d.q, err = harness.StartStrongSwan(a, swan)
	} else {
		d.q, err = harness.StartQuicksand(a, harness.QuicksandOptions{Settings: o.settings})
	}
	ok(t, err)
	d.s, err = harness.StartStrongSwan(b, swan)
	ok(t, err)
	return d
}

// conn is a connection from site a to site b, as quicksand configures it.
func conn(children ...harness.Child) harness.Conn {
	return harness.Conn{Name: "net", LocalAddr: harness.AddrA, RemoteAddr: harness.AddrB, Proposals: ikeProposal, Children: children}
}

// child is a child between the networks of that number at both sites.
func child(name string, lan int, esp string) harness.Child {
	return harness.Child{
		Name: name, ESP: esp,
		LocalTS: fmt.Sprintf("10.1.%d.0/24", lan), RemoteTS: fmt.Sprintf("10.2.%d.0/24", lan),
	}
}

// config is a configuration with the connection and the usual secret.
func config(c ...harness.Conn) harness.Config {
	return harness.Config{Conns: c, Secrets: []harness.Secret{{Data: secret}}}
}

// load gives quicksand the configuration and strongSwan its mirror.
func (d *duo) load(t *testing.T, c harness.Config) {
	t.Helper()
	ok(t, d.q.Load(c))
	ok(t, d.s.Load(c.Mirror()))
}

// role is who begins.
type role struct {
	name     string // quicksand's part
	from, to *harness.Peer
}

func (d *duo) roles() []role {
	return []role{{"initiator", d.q, d.s}, {"responder", d.s, d.q}}
}

// bringUp initiates the child and returns quicksand's and strongSwan's view of
// it, once both have it and have been found to agree.
func (d *duo) bringUp(t *testing.T, r role, name string) (q, s harness.ChildSA) {
	t.Helper()
	t.Cleanup(func() {
		if t.Failed() {
			d.clear()
		}
	})
	ok(t, r.from.Initiate(name))
	return d.settled(t, name)
}

// clear ends what a failed case has left, as far as that goes.
func (d *duo) clear() {
	for _, p := range []*harness.Peer{d.q, d.s} {
		p.Swanctl("--terminate", "--ike", "net", "--force", "--timeout", "2")
	}
}

// settled waits until both ends have exactly one child of the name, and the
// same one. Where both renegotiate at the same moment again and again it takes
// some rounds until that is so.
func (d *duo) settled(t *testing.T, name string) (q, s harness.ChildSA) {
	t.Helper()
	ok(t, harness.Poll(30*time.Second, func() (err error) {
		if q, err = d.q.Child(name); err != nil {
			return err
		}
		if s, err = d.s.Child(name); err != nil {
			return err
		}
		if q.SPIIn != s.SPIOut || q.SPIOut != s.SPIIn {
			return fmt.Errorf("SPIs of %s: %s in and %s out at quicksand, %s in and %s out at strongSwan",
				name, q.SPIIn, q.SPIOut, s.SPIIn, s.SPIOut)
		}
		return nil
	}))
	if q.Suite() != s.Suite() || q.Mode != s.Mode || q.Encap != s.Encap {
		t.Errorf("%s: %s %s encapsulated %v at quicksand, %s %s encapsulated %v at strongSwan", name,
			q.Suite(), q.Mode, q.Encap, s.Suite(), s.Mode, s.Encap)
	}
	return q, s
}

// established returns the peer's IKE SA once it has one.
func established(t *testing.T, p *harness.Peer) (sa harness.IKESA) {
	t.Helper()
	ok(t, harness.Poll(5*time.Second, func() (err error) {
		sa, err = p.IKE("net")
		return err
	}))
	return sa
}

// gone waits until neither end has a child of the name.
func (d *duo) gone(t *testing.T, name string) {
	t.Helper()
	ok(t, harness.Poll(5*time.Second, func() error {
		for _, p := range []*harness.Peer{d.q, d.s} {
			if all, err := p.Children(name); err != nil || len(all) > 0 {
				return fmt.Errorf("%s still has %d of %s, %v", p.Make, len(all), name, err)
			}
		}
		return nil
	}))
}

// takeDown deletes the IKE SA from one end, and waits until neither has any.
func (d *duo) takeDown(t *testing.T, from *harness.Peer) {
	t.Helper()
	_, err := from.Swanctl("--terminate", "--ike", "net", "--timeout", "5")
	ok(t, err)
	ok(t, harness.Poll(5*time.Second, func() error {
		for _, p := range []*harness.Peer{d.q, d.s} {
			if sas, err := p.SAs(); err != nil || len(sas) > 0 {
				return fmt.Errorf("%s still has %d IKE SAs, %v", p.Make, len(sas), err)
			}
		}
		return nil
	}))
}

// ping pings between the networks of that number, from quicksand's site, and
// fails where anything is lost. Traffic begins once a first answer has come: a
// responder has installed its SAs only after message 3 has reached it.
func (d *duo) ping(t *testing.T, lan int) {
	t.Helper()
	d.pingBetween(t, fmt.Sprintf("10.1.%d.1", lan), fmt.Sprintf("10.2.%d.1", lan))
}

// pingBetween is ping from an address of quicksand's site to one of
// strongSwan's.
func (d *duo) pingBetween(t *testing.T, src, dst string) {
	t.Helper()
	pingFrom(t, d.q.Host, src, dst)
}

func pingFrom(t *testing.T, h *harness.Host, src, dst string) {
	t.Helper()
	warm(t, h, src, dst)
	r, err := h.Ping(harness.Ping{Source: src, Dest: dst, Count: 3, Interval: 2 * time.Millisecond})
	ok(t, err)
	if r.Lost() != 0 {
		t.Errorf("ping from %s to %s: %v", src, dst, r)
	}
}

// warm waits for the first answer to a ping.
func warm(t *testing.T, h *harness.Host, src, dst string) {
	t.Helper()
	ok(t, harness.Poll(15*time.Second, func() error {
		r, err := h.Ping(harness.Ping{Source: src, Dest: dst, Count: 1, Linger: 200 * time.Millisecond})
		if err == nil && r.Received == 0 {
			err = fmt.Errorf("no answer to a ping from %s to %s", src, dst)
		}
		return err
	}))
}

// capture captures on quicksand's link until judge is called, which returns
// the packets as quicksand's key log lets tshark read them, and fails where any
// is malformed or has a wrong ICV.
func (d *duo) capture(t *testing.T) (judge func(...harness.ChildSA) []harness.Packet) {
	t.Helper()
	ok(t, d.q.Host.NoSuperPackets(d.q.Host.Uplink()))
	c, err := d.q.Host.Capture(d.q.Host.Uplink())
	ok(t, err)
	return func(children ...harness.ChildSA) []harness.Packet {
		t.Helper()
		ok(t, c.Stop())
		dir, err := d.q.KeyTables(children...)
		ok(t, err)
		packets, err := harness.Dissect(c.Path, dir)
		ok(t, err)
		for _, p := range packets {
			if p.Malformed || p.ICVBad {
				t.Errorf("wrong packet: %v", p)
			}
		}
		return packets
	}
}

// logged waits for a line of quicksand's log that an operator understands.
// strongSwan in its place has words of its own.
func (d *duo) logged(t *testing.T, m harness.Mark, expression string) {
	t.Helper()
	if reference {
		return
	}
	if _, err := d.q.Log.Wait(m, expression, 5*time.Second); err != nil {
		t.Errorf("%v; it says:\n%s", err, d.q.Log.Since(m))
	}
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
