// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"time"

	"quicksand/ike"
	"quicksand/sa"
)

// The pace at which a child that is to stand is brought up again: at once after
// a quiet time, else no sooner than a delay after the attempt before, which
// doubles while attempts fail.
const (
	paceMin   = time.Second
	paceMax   = 64 * time.Second
	paceQuiet = 2 * time.Minute
)

// resolveTime bounds the look-up of a peer's host name.
const resolveTime = 10 * time.Second

// attempt is the daemon's own bringing-up of a child.
type attempt struct {
	busy  bool      // being resolved or negotiated
	begun time.Time // the last one; zero: none yet
	delay time.Duration
	timer *time.Timer // running while the next one waits for its time
	again bool        // wanted while busy: one of several pairs
}

func (at *attempt) stop() {
	if at.timer != nil {
		at.timer.Stop()
		at.timer = nil
	}
}

// next returns how long the next attempt has to wait, and slows the one after
// it down.
func (at *attempt) next(now time.Time) time.Duration {
	since := now.Sub(at.begun)
	if at.begun.IsZero() || since >= paceQuiet {
		at.delay = 0
		return 0
	}
	at.delay = min(max(2*at.delay, paceMin), paceMax)
	return max(at.delay-since, 0)
}

// want brings a child up, soon, unless that is under way already.
func (d *Daemon) want(t target) {
	at := d.attempts[t]
	if at == nil {
		at = &attempt{}
		d.attempts[t] = at
	}
	if at.busy || at.timer != nil {
		at.again = at.busy
		return
	}
	wait := at.next(time.Now())
	if wait == 0 {
		d.try(t, at)
		return
	}
	d.say(slog.LevelInfo, "CFG", fmt.Sprintf("bringing %s up in %s", t, wait.Round(time.Second/10)), connAttr(t.conn))
	at.timer = time.AfterFunc(wait, func() {
		d.post(func() {
			if d.attempts[t] == at && at.timer != nil {
				at.timer = nil
				d.try(t, at)
			}
		})
	})
}

// try initiates; a failure is tried again where the child is to stand.
func (d *Daemon) try(t target, at *attempt) {
	at.busy, at.begun = true, time.Now()
	command := d.wait(nil, func(err error) {
		if d.attempts[t] != at {
			return
		}
		at.busy = false
		again := at.again
		at.again = false
		if err == nil {
			at.delay = 0
			if again && d.lacksPairs(t) {
				d.want(t)
			}
		} else if d.stands(t) && !errors.Is(err, errStopped) && !errors.Is(err, ike.ErrTerminated) {
			d.want(t)
		}
	})
	d.initiate(command, t)
}

// arrived notes that a pair of a child is up, perhaps by the peer's doing.
func (d *Daemon) arrived(t target) {
	if at := d.attempts[t]; at != nil {
		if at.timer != nil && d.lacksPairs(t) {
			return
		}
		at.stop()
		at.delay = 0
	}
}

// lacksPairs reports whether a child with several pairs side by side has fewer
// than it should.
func (d *Daemon) lacksPairs(t target) bool {
	_, child, err := d.config.find(t)
	return err == nil && child != nil && child.Parallel > 1 && d.pairsOf(t) < child.Parallel
}

// stands reports whether the configuration wants the child up all the time.
func (d *Daemon) stands(t target) bool {
	_, child, err := d.config.find(t)
	return err == nil && child != nil && child.Manual == nil &&
		(child.StartAction == ike.ActionStart || child.CloseAction == ike.ActionStart || child.DPDAction == ike.ActionStart)
}

// initiate has the engine bring up a child, or an IKE SA alone, for a command.
func (d *Daemon) initiate(command uint64, t target) {
	fail := func(err error) {
		d.say(slog.LevelWarn, "CFG", fmt.Sprintf("initiate %s: %v", t, err), connAttr(t.conn))
		d.finish(command, err)
	}
	conn, child, err := d.config.find(t)
	if err != nil {
		fail(err)
		return
	}
	if child != nil && child.Manual != nil {
		fail(fmt.Errorf("child %s has keys of its own: it is installed when loaded, and nothing is negotiated", t.child))
		return
	}
	d.endpoints(conn, func(local, remote netip.AddrPort, err error) {
		if err != nil {
			var ok bool
			if local, remote, ok = d.connected(t.conn); !ok {
				fail(err)
				return
			}
		}
		d.run(d.engine.Initiate(time.Now(), ike.Initiate{
			Command: command, Conn: t.conn, Child: t.child, Local: local, Remote: remote}))
	})
}

// connected returns the endpoints of an IKE SA of the connection, where there
// is one: a child can use it even where no new one can be made.
func (d *Daemon) connected(conn string) (local, remote netip.AddrPort, ok bool) {
	for _, i := range d.engine.SAs() {
		if i.Conn == conn && i.State == ike.IKEEstablished {
			return i.Local, i.Remote, true
		}
	}
	return local, remote, false
}

// endpoints finds the addresses to initiate a connection with and calls done
// with them in the loop: at once, or later where a name has to be looked up.
func (d *Daemon) endpoints(c *ike.Connection, done func(local, remote netip.AddrPort, err error)) {
	if !hasHost(c.LocalAddrs) && !hasHost(c.RemoteAddrs) {
		done(d.lookUp(d.resolved, c))
		return
	}
	d.helpers.Go(func() {
		ctx, cancel := context.WithTimeout(d.resolved, resolveTime)
		defer cancel()
		local, remote, err := d.lookUp(ctx, c)
		d.post(func() { done(local, remote, err) })
	})
}

func hasHost(list []ike.AddrMatch) bool {
	for _, m := range list {
		if m.Host != "" {
			return true
		}
	}
	return false
}

// lookUp finds the first usable remote address, and a local one that goes with
// it: a configured one, or what the routing table says.
func (d *Daemon) lookUp(ctx context.Context, c *ike.Connection) (local, remote netip.AddrPort, err error) {
	peers, err := d.candidates(ctx, c.RemoteAddrs)
	if err == nil && len(peers) == 0 {
		err = errors.New("it has no single remote address (remote_addrs) to initiate to")
	}
	if err != nil {
		return local, remote, fmt.Errorf("find endpoints of connection %s: %w", c.Name, err)
	}
	own, err := d.candidates(ctx, c.LocalAddrs)
	if err != nil {
		return local, remote, fmt.Errorf("find endpoints of connection %s: %w", c.Name, err)
	}
	port, err := d.localPort(c)
	if err != nil {
		return local, remote, fmt.Errorf("find endpoints of connection %s: %w", c.Name, err)
	}
	for _, peer := range peers {
		remote = netip.AddrPortFrom(peer, portOr500(c.RemotePort))
		var a netip.Addr
		if a, err = d.localFor(c, own, remote); err == nil {
			return netip.AddrPortFrom(a, port), remote, nil
		}
	}
	return local, remote, fmt.Errorf("find endpoints of connection %s: %w", c.Name, err)
}

// localFor returns the local address to reach remote from: the first one
// configured of its family, else the routing table's, which must then be one
// that the configuration admits.
func (d *Daemon) localFor(c *ike.Connection, own []netip.Addr, remote netip.AddrPort) (netip.Addr, error) {
	for _, a := range own {
		if a.Is4() == remote.Addr().Is4() {
			return a, nil
		}
	}
	a, err := d.localAddr(remote)
	if err != nil {
		return a, err
	}
	for _, m := range c.LocalAddrs {
		if m.Host == "" && (sa.Selector{From: m.From, To: m.To}).ContainsAddr(a) {
			return a, nil
		}
	}
	if len(c.LocalAddrs) > 0 {
		return a, fmt.Errorf("packets to %s leave from %s, which local_addrs does not admit", remote.Addr(), a)
	}
	return a, nil
}

// candidates returns the single addresses of a list, with host names resolved.
// It fails only where a name has none and nothing else is left.
func (d *Daemon) candidates(ctx context.Context, list []ike.AddrMatch) ([]netip.Addr, error) {
	var out []netip.Addr
	var failed error
	for _, m := range list {
		switch {
		case m.Host != "":
			got, err := d.resolver.LookupNetIP(ctx, "ip", m.Host)
			if err != nil {
				failed = err
			}
			for _, a := range got {
				out = append(out, a.Unmap())
			}
		case m.From == m.To && m.From.IsValid():
			out = append(out, m.From)
		}
	}
	if len(out) > 0 {
		return out, nil
	}
	return nil, failed
}

// hasPeer reports whether a connection's peer is known: it names one.
func hasPeer(c *ike.Connection) bool {
	for _, m := range c.RemoteAddrs {
		if m.Host != "" || m.From == m.To && m.From.IsValid() {
			return true
		}
	}
	return false
}

func portOr500(p uint16) uint16 {
	if p == 0 {
		return 500
	}
	return p
}

// localPort is the port to initiate from, one of the two that are open; 500
// stands for the IKE port, whatever the settings made of it.
func (d *Daemon) localPort(c *ike.Connection) (uint16, error) {
	switch p := portOr500(c.LocalPort); p {
	case d.ports[0], d.ports[1]:
		return p, nil
	case 500:
		return d.ports[0], nil
	default:
		return 0, fmt.Errorf("local_port %d is neither of the ports %d and %d that the daemon has open", p, d.ports[0], d.ports[1])
	}
}
