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
	failed := func(err error) {
		if err != nil {
			d.say(slog.LevelError, "CFG", fmt.Sprintf("start child %s: %v", t, err), connAttr(t.conn))
		}
	}
	switch {
	case child.Manual != nil:
		failed(d.installManual(conn, child))
	case child.StartAction == ike.ActionStart:
		if !d.isUp(t) {
			d.want(t)
		}
	case child.StartAction == ike.ActionTrap:
		d.installTrap(conn, child, failed)
	}
}

// isUp reports whether the child has an SA.
func (d *Daemon) isUp(t target) bool {
	for _, i := range d.engine.SAs() {
		for _, c := range i.Children {
			if i.Conn == t.conn && c.Pair != nil && c.Pair.Child == t.child {
				return true
			}
		}
	}
	return false
}

// stopChild takes away what stands of a child that is unloaded or changed,
// except for its SAs, which are the engine's.
func (d *Daemon) stopChild(t target) {
	if at := d.attempts[t]; at != nil {
		at.stop()
		delete(d.attempts, t)
	}
	if err := d.place.untrap(t); err != nil {
		d.say(slog.LevelError, "KNL", fmt.Sprintf("remove trap of child %s: %v", t, err), connAttr(t.conn))
	}
	d.removeManual(t)
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
		d.change(old, &ike.Connection{Name: old.Name})
		delete(d.attempts, target{conn: old.Name})
		d.say(slog.LevelInfo, "CFG", "unloaded connection "+old.Name, connAttr(old.Name))
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
	var had []*ike.Child
	verb := "loaded"
	same := false
	if old != nil {
		had, verb, same = old.Children, "changed", sameButChildren(old, next)
	}
	unchanged := func(a, b *ike.Child) bool {
		return reflect.DeepEqual(a, b) && (same || a.Manual != nil)
	}
	for _, o := range had {
		if !slices.ContainsFunc(next.Children, func(n *ike.Child) bool { return unchanged(o, n) }) {
			d.stopChild(target{old.Name, o.Name})
		}
	}
	for _, n := range next.Children {
		if !slices.ContainsFunc(had, func(o *ike.Child) bool { return unchanged(o, n) }) {
			begin = append(begin, func() { d.startChild(next, n) })
		}
	}
	if len(next.Children) > 0 || old == nil {
		d.say(slog.LevelInfo, "CFG", fmt.Sprintf("%s connection %s", verb, next.Name), connAttr(next.Name))
	}
	return begin
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
			Conn: conn.Name, Child: child.Name, Reqid: child.ReqID, Mode: child.Mode,
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
	p := &sa.Pair{Encap: conn.Encap, Offload: child.Offload}
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
