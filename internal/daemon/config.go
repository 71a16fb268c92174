// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"reflect"
	"slices"
	"time"

	"quicksand/ike"
	"quicksand/sa"
)

// configuration is what is loaded: from the file, and over the control
// protocol. It belongs to the loop. Connections and secrets are replaced, never
// changed.
type configuration struct {
	conns   []*ike.Connection
	secrets []*ike.Secret
	// fromFile has the names of what the file brought, and what a reading of
	// the file may therefore take away again.
	fromFile struct{ conns, secrets map[string]bool }
}

func (c *configuration) init(from *ike.Config) {
	if from == nil {
		from = &ike.Config{}
	}
	c.conns, c.secrets = from.Connections, from.Secrets
	c.noteFile(from)
}

func (c *configuration) noteFile(from *ike.Config) {
	c.fromFile.conns = make(map[string]bool)
	c.fromFile.secrets = make(map[string]bool)
	for _, conn := range from.Connections {
		c.fromFile.conns[conn.Name] = true
	}
	for _, s := range from.Secrets {
		c.fromFile.secrets[s.Name] = true
	}
}

func (c *configuration) list() []*ike.Connection { return c.conns }

// engine returns what the engine takes.
func (c *configuration) engine() *ike.Config {
	return &ike.Config{Connections: slices.Clone(c.conns), Secrets: slices.Clone(c.secrets)}
}

// find returns the target's connection and child; an empty connection stands
// for the first one that has the child.
func (c *configuration) find(t target) (*ike.Connection, *ike.Child, error) {
	known := false
	for _, conn := range c.conns {
		if t.conn != "" && conn.Name != t.conn {
			continue
		}
		known = true
		if t.child == "" && t.conn != "" {
			return conn, nil, nil
		}
		for _, child := range conn.Children {
			if child.Name == t.child {
				return conn, child, nil
			}
		}
	}
	switch {
	case t.conn == "":
		return nil, nil, fmt.Errorf("find child %q: no connection has it", t.child)
	case known:
		return nil, nil, fmt.Errorf("find child %q: connection %q does not have it", t.child, t.conn)
	}
	return nil, nil, fmt.Errorf("find connection %q: it is not loaded", t.conn)
}

// start carries out all start actions.
func (d *Daemon) start() {
	for _, conn := range d.config.conns {
		for _, child := range conn.Children {
			d.startChild(conn, child)
		}
	}
}

// startChild does what a newly loaded child's configuration asks for.
func (d *Daemon) startChild(conn *ike.Connection, child *ike.Child) {
	t := target{conn.Name, child.Name}
	switch {
	case child.Manual != nil:
		d.failed("install", t, d.installManual(conn, child))
	case child.StartAction == ike.ActionStart:
		if d.pairsOf(t) < max(child.Parallel, 1) {
			d.want(t)
		}
	case child.StartAction == ike.ActionTrap:
		d.installTrap(conn, child, func(err error) { d.failed("trap", t, err) })
	}
}

// pairsOf counts the pairs that the child has, but for replaced ones.
func (d *Daemon) pairsOf(t target) (n int) {
	for _, i := range d.engine.SAs() {
		for _, c := range i.Children {
			if i.Conn == t.conn && c.Pair != nil && c.Pair.Child == t.child && c.State != ike.ChildSuperseded {
				n++
			}
		}
	}
	return n
}

// stopChild takes away what stands of old, a child that is unloaded (next is
// nil) or changed. A changed one's SAs are left alone, and so are an unloaded
// one's, unless its start action had made them; a policy that the changed one
// still wants goes on blocking its traffic.
func (d *Daemon) stopChild(t target, old, next *ike.Child) {
	if next == nil || next.StartAction != ike.ActionTrap {
		d.failed("remove trap of", t, d.place.untrap(t))
	}
	d.removeManual(t)
	if next == nil && old.StartAction == ike.ActionStart && old.Manual == nil {
		d.terminate(ike.Select{Conn: t.conn, Child: t.child})
	}
	d.failed("forget policies of", t, d.place.forget(t, func(s *standing) bool {
		return next == nil || s.pairs == 0 && !(within(s.policy.LocalTS, next.LocalTS) && within(s.policy.RemoteTS, next.RemoteTS))
	}))
	if at := d.attempts[t]; at != nil {
		at.stop()
		delete(d.attempts, t)
	}
}

// within reports whether the child's selector may have become s.
func within(s sa.Selector, of ike.Dynamic) bool { return of.IsDynamic || of.Contains(s) }

// failed logs what could not be done to a child.
func (d *Daemon) failed(what string, t target, err error) {
	if err != nil {
		d.say(slog.LevelError, "CFG", fmt.Sprintf("%s child %s: %v", what, t, err), connAttr(t.conn))
	}
}

// apply makes conns and secrets the configuration. What is the same as before
// is left alone, whatever runs under it.
func (d *Daemon) apply(conns []*ike.Connection, secrets []*ike.Secret) {
	before := make(map[string]*ike.Connection, len(d.config.conns))
	for _, c := range d.config.conns {
		before[c.Name] = c
	}
	newSecrets := !reflect.DeepEqual(d.config.secrets, secrets)
	var begin []func()
	for i, c := range conns {
		old := before[c.Name]
		delete(before, c.Name)
		if old == c {
			continue
		}
		if old != nil && reflect.DeepEqual(old, c) {
			conns[i] = old
			continue
		}
		begin = append(begin, d.change(old, c)...)
	}
	for _, old := range before {
		d.unload(old)
	}
	d.config.conns, d.config.secrets = conns, secrets
	d.run(d.engine.Reload(time.Now(), d.config.engine()))
	for _, f := range begin {
		f()
	}
	if newSecrets {
		d.hurry()
	}
}

// change stops the children of old that next does not have in the same form,
// and returns what starts those of next that are new.
func (d *Daemon) change(old, next *ike.Connection) (begin []func()) {
	verb, same := "loaded", false
	if old == nil {
		old = &ike.Connection{Name: next.Name}
	} else {
		verb, same = "changed", sameButChildren(old, next)
	}
	unchanged := func(a, b *ike.Child) bool {
		return reflect.DeepEqual(a, b) && (same || a.Manual != nil)
	}
	for _, o := range old.Children {
		if n := next.Child(o.Name); n == nil || !unchanged(o, n) {
			d.stopChild(target{old.Name, o.Name}, o, n)
		}
	}
	for _, n := range next.Children {
		if o := old.Child(n.Name); o == nil || !unchanged(o, n) {
			begin = append(begin, func() { d.startChild(next, n) })
		}
	}
	d.say(slog.LevelInfo, "CFG", fmt.Sprintf("%s connection %s", verb, next.Name), connAttr(next.Name))
	return begin
}

// unload stops the children of a connection that is not loaded any more, and
// the IKE SAs that this leaves without any.
func (d *Daemon) unload(old *ike.Connection) {
	started := false
	for _, child := range old.Children {
		d.stopChild(target{old.Name, child.Name}, child, nil)
		started = started || child.StartAction == ike.ActionStart
	}
	for _, i := range d.engine.SAs() {
		if started && i.Conn == old.Name && i.ID != 0 && len(i.Children) == 0 {
			d.terminate(ike.Select{IKE: i.ID})
		}
	}
	d.say(slog.LevelInfo, "CFG", "unloaded connection "+old.Name, connAttr(old.Name))
}

func sameButChildren(a, b *ike.Connection) bool {
	x, y := *a, *b
	x.Children, y.Children = nil, nil
	return reflect.DeepEqual(x, y)
}

// hurry ends the waiting of attempts that failed before: what they lacked may
// have been loaded now.
func (d *Daemon) hurry() {
	for t, at := range d.attempts {
		if at.timer != nil && at.timer.Stop() {
			at.timer = nil
			d.try(t, at)
		}
	}
}

// Reload reads the configuration file again and takes what has changed. Where
// the file has an error nothing changes.
func (d *Daemon) Reload(ctx context.Context) error {
	if d.load == nil {
		return errors.New("reload configuration: there is no file")
	}
	next, err := d.load()
	if err != nil {
		return fmt.Errorf("reload configuration: %w; everything stays as it was", err)
	}
	return d.call(ctx, func() { d.takeFile(next) })
}

// takeFile takes what the file says, and keeps what the control protocol has
// loaded under other names.
func (d *Daemon) takeFile(next *ike.Config) {
	conns, secrets := slices.Clone(next.Connections), slices.Clone(next.Secrets)
	inFile := d.config.fromFile
	d.config.noteFile(next)
	for _, c := range d.config.conns {
		if !inFile.conns[c.Name] && !d.config.fromFile.conns[c.Name] {
			conns = append(conns, c)
		}
	}
	for _, s := range d.config.secrets {
		if !inFile.secrets[s.Name] && !d.config.fromFile.secrets[s.Name] {
			secrets = append(secrets, s)
		}
	}
	d.apply(conns, secrets)
	d.say(slog.LevelInfo, "CFG", fmt.Sprintf("configuration read: %d connections, %d secrets", len(conns), len(secrets)))
}

// installTrap puts up a child's trap policy and calls done with the outcome, in
// the loop.
func (d *Daemon) installTrap(conn *ike.Connection, child *ike.Child, done func(error)) {
	if child.Manual != nil {
		done(errors.New("a manually keyed child needs no trap: it is installed when loaded"))
		return
	}
	d.endpoints(conn, func(local, remote netip.AddrPort, err error) {
		if err != nil {
			done(fmt.Errorf("install trap: %w", err))
			return
		}
		p := trapPair(conn, child)
		p.Policy = sa.Policy{
			Conn: conn.Name, Child: child.Name, Reqid: child.ReqID, Mode: child.Mode, Marking: child.Marking,
			Local: local, Remote: remote,
			LocalTS: fixed(child.LocalTS, local.Addr()), RemoteTS: fixed(child.RemoteTS, remote.Addr()),
		}
		if err = d.place.trap(p); err == nil {
			d.say(slog.LevelInfo, "KNL", fmt.Sprintf("child %s waits for traffic %s === %s", child.Name, p.LocalTS, p.RemoteTS),
				connAttr(conn.Name))
		}
		done(err)
	})
}

// trapPair is a pair such as the child is likely to get, by which the backend
// of its trap is chosen.
func trapPair(conn *ike.Connection, child *ike.Child) *sa.Pair {
	p := &sa.Pair{Encap: conn.Encap, Offload: child.Offload, Lanes: uint8(child.Parallel)}
	if len(child.Proposals) > 0 && len(child.Proposals[0]) > 0 {
		p.Suite = child.Proposals[0][0].Suite
	}
	return p
}

// trapAgain puts up a trap that the engine asks for.
func (d *Daemon) trapAgain(policy sa.Policy) {
	conn, child, err := d.config.find(target{policy.Conn, policy.Child})
	if err == nil && child == nil {
		err = errors.New("the policy names no child")
	}
	if err == nil {
		p := trapPair(conn, child)
		p.Policy = policy
		err = d.place.trap(p)
	}
	if err != nil {
		d.say(slog.LevelError, "KNL", fmt.Sprintf("trap child %s: %v", policy.Child, err), connAttr(policy.Conn))
	}
}
