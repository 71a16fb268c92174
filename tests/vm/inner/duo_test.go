// SPDX-License-Identifier: Apache-2.0

package inner

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"quicksand/tests/harness"
)

// duo is quicksand at site a, and a peer of any make at site b.
type duo struct {
	*nics
	q, p *harness.Peer
}

// start starts quicksand at site a and a peer of the make at site b, which has
// the kernel carry its SAs in any case.
func start(t *testing.T, lans int, peer harness.Make) *duo {
	t.Helper()
	d := &duo{nics: newNICs(t, lans)}
	d.startPeers(t, peer)
	return d
}

func (d *duo) startPeers(t *testing.T, peer harness.Make) {
	t.Helper()
	var err error
	d.q, err = harness.StartQuicksand(d.a, harness.QuicksandOptions{})
	ok(t, err)
	if peer == harness.StrongSwan {
		d.p, err = harness.StartStrongSwan(d.b, harness.StrongSwanOptions{Kernel: true})
	} else {
		d.p, err = harness.StartQuicksand(d.b, harness.QuicksandOptions{})
	}
	ok(t, err)
}

// child is a child of a configuration, with what only one end is told of it.
type child struct {
	harness.Child
	q, p harness.Options
}

// lan is a child between the networks of that number at both sites, with the
// offload that quicksand is to ask for.
func lan(name string, number int, esp, offload string) child {
	c := child{Child: harness.Child{Name: name, ESP: esp,
		LocalTS: fmt.Sprintf("10.1.%d.0/24", number), RemoteTS: fmt.Sprintf("10.2.%d.0/24", number)}, q: harness.Options{}}
	c.q["hw_offload"] = offload
	return c
}

// with returns the child with a further option at quicksand.
func (c child) with(option, value string) child {
	c.q[option] = value
	return c
}

// over is the connection that a duo's children are of: between addresses of one
// family, with options of both ends.
func over(at sites, o harness.Options) harness.Conn {
	return harness.Conn{Name: "net", LocalAddr: at.outerA, RemoteAddr: at.outerB, Proposals: "aes128-sha256-curve25519", Options: o}
}

// load gives both ends the connection with the children.
func (d *duo) load(t *testing.T, c harness.Conn, children ...child) {
	t.Helper()
	secrets := []harness.Secret{{Data: "a pre-shared key of the tests"}}
	mine, theirs := c, c
	for _, ch := range children {
		ch.Options = ch.q
		mine.Children = append(mine.Children, ch.Child)
		ch.Options = ch.p
		if d.p.Make == harness.Quicksand && ch.p == nil {
			ch.Options = harness.Options{"hw_offload": "no"}
		}
		theirs.Children = append(theirs.Children, ch.Child)
	}
	ok(t, d.q.Load(harness.Config{Conns: []harness.Conn{mine}, Secrets: secrets}))
	ok(t, d.p.Load(harness.Config{Conns: []harness.Conn{theirs}, Secrets: secrets}.Mirror()))
	t.Cleanup(func() { d.end(t) })
}

// end takes the connection down and waits until nothing of it is left.
func (d *duo) end(t *testing.T) {
	t.Helper()
	for _, p := range []*harness.Peer{d.q, d.p} {
		p.Swanctl("--terminate", "--ike", "net", "--timeout", "5")
	}
	for _, p := range []*harness.Peer{d.q, d.p} {
		if err := harness.Poll(10*time.Second, func() error {
			if sas, err := p.SAs(); err != nil || len(sas) > 0 {
				return fmt.Errorf("%s still has %d IKE SAs, %v", p.Make, len(sas), err)
			}
			return nil
		}); err != nil {
			t.Error(err)
		}
	}
}

// up initiates the child from one end and returns quicksand's view of it once
// both ends have the same.
func (d *duo) up(t *testing.T, from *harness.Peer, name string) harness.ChildSA {
	t.Helper()
	ok(t, from.Initiate(name))
	return d.settled(t, name)
}

func (d *duo) settled(t *testing.T, name string) (q harness.ChildSA) {
	t.Helper()
	ok(t, harness.Poll(15*time.Second, func() (err error) {
		var p harness.ChildSA
		if q, err = d.q.Child(name); err != nil {
			return err
		}
		if p, err = d.p.Child(name); err != nil {
			return err
		}
		if q.SPIIn != p.SPIOut || q.SPIOut != p.SPIIn {
			return fmt.Errorf("SPIs of %s: %s in and %s out at quicksand, %s in and %s out at the peer",
				name, q.SPIIn, q.SPIOut, p.SPIIn, p.SPIOut)
		}
		return nil
	}))
	return q
}

// placed fails unless quicksand says that the child runs as that kind, and the
// kernel and the device say the same.
func (d *duo) placed(t *testing.T, c harness.ChildSA, kind string) {
	t.Helper()
	if c.Placement != kind {
		t.Errorf("%s runs as %s on %q (%s), and should as %s", c.Name, c.Placement, c.Device, c.Detail, kind)
	}
	held := shown(t, nicA, "states")
	for _, spi := range []string{c.SPIIn, c.SPIOut} {
		is := "not at the device"
		for line := range strings.Lines(held) {
			if f := strings.Fields(line); strings.Contains(line, "spi 0x"+spi) {
				is = f[0]
			}
		}
		want := kind
		if kind == "kernel" || kind == "userspace" {
			want = "not at the device"
		}
		if is != want {
			t.Errorf("%s: the SA %s is %s, and should be %s:\n%s", c.Name, spi, is, want, held)
		}
	}
}

// alive waits for the first answer to a ping, and then wants one to each.
func (d *duo) alive(t *testing.T, src, dst string) {
	t.Helper()
	d.warm(t, src, dst)
	r, err := d.a.Ping(harness.Ping{Source: src, Dest: dst, Count: 3})
	ok(t, err)
	if r.Lost() != 0 {
		t.Errorf("ping %s from %s: %v", dst, src, r)
	}
}

func (d *duo) warm(t *testing.T, src, dst string) {
	t.Helper()
	err := harness.Poll(10*time.Second, func() error {
		r, err := d.a.Ping(harness.Ping{Source: src, Dest: dst, Count: 1, Linger: 300 * time.Millisecond})
		if err == nil && r.Received == 0 {
			err = fmt.Errorf("no answer to a ping from %s to %s", src, dst)
		}
		return err
	})
	if err != nil {
		t.Fatalf("%v\nat quicksand's site:\n%s\nat the peer's site:\n%s\nat the device:\n%s%s%s", err, kernelState(d.a), kernelState(d.b),
			shown(t, nicA, "states"), shown(t, nicA, "policies"), shown(t, nicA, "counters"))
	}
}

// aliveIn is alive between the networks of a number.
func (d *duo) aliveIn(t *testing.T, number int) {
	t.Helper()
	d.alive(t, fmt.Sprintf("10.1.%d.1", number), fmt.Sprintf("10.2.%d.1", number))
}
