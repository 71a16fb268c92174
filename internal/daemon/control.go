// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"

	"quicksand/ike"
	"quicksand/internal/vici"
	"quicksand/sa"
)

var _ vici.Daemon = (*Daemon)(nil)

// Version returns quicksand's own version.
func (d *Daemon) Version() string { return d.version }

// Stats returns the daemon's state in a few numbers.
func (d *Daemon) Stats(ctx context.Context) (s vici.Stats, err error) {
	err = d.call(ctx, func() { s = d.stats() })
	return s, err
}

func (d *Daemon) stats() vici.Stats {
	s := vici.Stats{Started: d.started, Pairs: len(d.place.pairs)}
	s.DHWorkers, s.DHBusy, s.DHQueued = d.dh.Load()
	for _, i := range d.engine.SAs() {
		s.IKESAs++
		if i.State == ike.IKEConnecting {
			s.HalfOpen++
		}
	}
	for _, at := range d.attempts {
		if at.timer != nil {
			s.Timers++
		}
	}
	if _, ok := d.engine.Next(); ok {
		s.Timers++
	}
	for _, b := range d.place.backends {
		for _, k := range b.Kinds() {
			if d.place.admits(k, sa.OffloadAuto) && !slices.Contains(s.Backends, k) {
				s.Backends = append(s.Backends, k)
			}
		}
	}
	return s
}

// Connections lists what is configured.
func (d *Daemon) Connections(ctx context.Context) (out []*ike.Connection, err error) {
	err = d.call(ctx, func() { out = slices.Clone(d.config.conns) })
	return out, err
}

// SAs lists the IKE SAs, and after them the manually keyed children.
func (d *Daemon) SAs(ctx context.Context) (out []ike.IKEInfo, err error) {
	err = d.call(ctx, func() { out = append(d.engine.SAs(), d.manualInfo()...) })
	return out, err
}

// Traps lists the trap policies that stand.
func (d *Daemon) Traps(ctx context.Context) (out []sa.Policy, err error) {
	err = d.call(ctx, func() {
		for _, t := range d.place.traps {
			out = append(out, t.policy)
		}
	})
	slices.SortFunc(out, func(a, b sa.Policy) int {
		return cmp.Or(cmp.Compare(a.Conn, b.Conn), cmp.Compare(a.Child, b.Child))
	})
	return out, err
}

// Counters returns what a pair has carried.
func (d *Daemon) Counters(ctx context.Context, pair uint32) (in, out sa.Counters, err error) {
	cerr := d.call(ctx, func() { in, out, err = d.place.counters(pair) })
	return in, out, errors.Join(cerr, err)
}

// MessageCounters counts what peers sent and got: the engine's counters, beside
// them the daemon's own, and what the backends dropped under "esp.".
func (d *Daemon) MessageCounters(ctx context.Context) (out map[string]uint64, err error) {
	err = d.call(ctx, func() { out = d.messageCounters() })
	return out, err
}

func (d *Daemon) messageCounters() map[string]uint64 {
	out := maps.Clone(d.engine.Counters())
	if out == nil {
		out = make(map[string]uint64)
	}
	out["ike.rx.dropped"] = d.in.dropped.Load()
	out["ike.tx"] = d.count.sent
	out["ike.tx.errors"] = d.count.sendErrors
	out["dh.busy"] = d.count.dhBusy
	out["pair.installed"] = d.count.installs
	out["pair.refused"] = d.count.installErrors
	for _, b := range d.place.backends {
		if counts, ok := b.(interface{ Stats() map[string]uint64 }); ok {
			for name, n := range counts.Stats() {
				out["esp."+name] += n
			}
		}
	}
	return out
}

// LoadConnection adds the connection or replaces the one of its name.
func (d *Daemon) LoadConnection(ctx context.Context, c *ike.Connection) error {
	return d.call(ctx, func() {
		conns := slices.Clone(d.config.conns)
		if i := slices.IndexFunc(conns, named(c.Name)); i >= 0 {
			conns[i] = c
		} else {
			conns = append(conns, c)
		}
		delete(d.config.fromFile.conns, c.Name)
		d.apply(conns, d.config.secrets)
	})
}

// UnloadConnection forgets a connection.
func (d *Daemon) UnloadConnection(ctx context.Context, name string) (err error) {
	cerr := d.call(ctx, func() {
		i := slices.IndexFunc(d.config.conns, named(name))
		if i < 0 {
			err = fmt.Errorf("unload connection %q: it is not loaded", name)
			return
		}
		d.apply(slices.Delete(slices.Clone(d.config.conns), i, i+1), d.config.secrets)
	})
	return errors.Join(cerr, err)
}

func named(name string) func(*ike.Connection) bool {
	return func(c *ike.Connection) bool { return c.Name == name }
}

// LoadSecret adds the secret or replaces the one of its name.
func (d *Daemon) LoadSecret(ctx context.Context, s *ike.Secret) error {
	return d.call(ctx, func() {
		secrets := slices.Clone(d.config.secrets)
		if i := slices.IndexFunc(secrets, func(o *ike.Secret) bool { return o.Name == s.Name }); i >= 0 {
			secrets[i] = s
		} else {
			secrets = append(secrets, s)
		}
		delete(d.config.fromFile.secrets, s.Name)
		d.apply(slices.Clone(d.config.conns), secrets)
	})
}

// UnloadSecret forgets a secret.
func (d *Daemon) UnloadSecret(ctx context.Context, name string) (err error) {
	cerr := d.call(ctx, func() {
		i := slices.IndexFunc(d.config.secrets, func(o *ike.Secret) bool { return o.Name == name })
		if i < 0 {
			err = fmt.Errorf("unload secret %q: it is not loaded", name)
			return
		}
		d.apply(slices.Clone(d.config.conns), slices.Delete(slices.Clone(d.config.secrets), i, i+1))
	})
	return errors.Join(cerr, err)
}

// Secrets lists the names of the secrets.
func (d *Daemon) Secrets(ctx context.Context) (out []string, err error) {
	err = d.call(ctx, func() {
		for _, s := range d.config.secrets {
			out = append(out, s.Name)
		}
	})
	return out, err
}

// ClearSecrets forgets all secrets.
func (d *Daemon) ClearSecrets(ctx context.Context) error {
	return d.call(ctx, func() { d.apply(slices.Clone(d.config.conns), nil) })
}

// await has the loop call begin with the number of a new command, and returns
// when the command is finished or ctx ends.
func (d *Daemon) await(ctx context.Context, log func(vici.Line), begin func(command uint64)) error {
	done := make(chan error, 1)
	var command uint64
	err := d.call(ctx, func() {
		command = d.wait(log, func(err error) { done <- err })
		begin(command)
	})
	if err != nil {
		return err
	}
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		// The loop forgets the command before log must not be called any more.
		d.call(context.WithoutCancel(ctx), func() { delete(d.waiters, command) })
		return ctx.Err()
	}
}

// Initiate brings up a child, or an IKE SA alone.
func (d *Daemon) Initiate(ctx context.Context, conn, child string, log func(vici.Line)) error {
	return d.await(ctx, log, func(command uint64) {
		c, _, err := d.config.find(target{conn, child})
		if err != nil {
			d.finish(command, err)
			return
		}
		d.initiate(command, target{c.Name, child})
	})
}

// Terminate deletes the SAs that match.
func (d *Daemon) Terminate(ctx context.Context, s ike.Select, log func(vici.Line)) (n int, err error) {
	err = d.await(ctx, log, func(command uint64) {
		s.Command = command
		w := d.waiters[command]
		for _, i := range d.engine.SAs() {
			if i.ID != 0 && (s.Conn == "" || i.Conn == s.Conn) && (s.IKE == 0 || i.ID == s.IKE) {
				w.ikes[i.ID] = struct{}{}
			}
		}
		n = d.terminate(s)
		d.finish(command, nil)
	})
	return n, err
}

// terminate has the engine delete what is selected; when it returns it is gone.
func (d *Daemon) terminate(s ike.Select) int {
	n, actions := d.engine.Terminate(time.Now(), s)
	d.run(actions)
	return n
}

// Rekey begins the renegotiation of the SAs that match.
func (d *Daemon) Rekey(ctx context.Context, s ike.Select) (n int, err error) {
	err = d.call(ctx, func() {
		s.Command = 0
		var actions []ike.Action
		n, actions = d.engine.Rekey(time.Now(), s)
		d.run(actions)
	})
	return n, err
}

// Install puts up a child's trap policy.
func (d *Daemon) Install(ctx context.Context, conn, child string) error {
	return d.await(ctx, nil, func(command uint64) {
		c, ch, err := d.config.find(target{conn, child})
		if err == nil && ch == nil {
			err = errors.New("install trap: no child is named")
		}
		if err != nil {
			d.finish(command, err)
			return
		}
		d.installTrap(c, ch, func(err error) { d.finish(command, err) })
	})
}

// Uninstall takes a child's trap policy down.
func (d *Daemon) Uninstall(ctx context.Context, conn, child string) (err error) {
	cerr := d.call(ctx, func() {
		for t := range d.place.traps {
			if t.child == child && (conn == "" || t.conn == conn) {
				err = d.place.untrap(t)
				return
			}
		}
		err = fmt.Errorf("uninstall trap: child %q has none", child)
	})
	return errors.Join(cerr, err)
}

// ReloadSettings reads the configuration again. The daemon's own settings are
// taken at the start only.
func (d *Daemon) ReloadSettings(ctx context.Context) error {
	if d.load == nil {
		return nil
	}
	err := d.Reload(ctx)
	if err != nil {
		d.call(ctx, func() { d.say(slog.LevelError, "CFG", err.Error()) })
	}
	return err
}
