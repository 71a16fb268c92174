// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"time"

	"quicksand/ike"
	"quicksand/sa"
)

// do carries out one action. Answers go back to the engine at once.
func (d *Daemon) do(a ike.Action) {
	switch a := a.(type) {
	case ike.Send:
		d.send(a)
	case ike.Keepalive:
		if err := d.transport.Keepalive(a.Local, a.Remote); err != nil {
			d.sendFailed("send NAT keepalive", a.Local, a.Remote, err)
		}
	case ike.ComputeDH:
		d.compute(a)
	case ike.ReserveSPI:
		spi, err := d.place.reserve(a.Protocol, a.Local, a.Pair)
		d.run(d.engine.SPIReserved(time.Now(), a.Token, spi, err))
	case ike.ReleaseSPI:
		d.place.release(a.Protocol, a.Local, a.SPI)
	case ike.Install:
		p, err := d.install(a.Pair)
		d.run(d.engine.Installed(time.Now(), a.Token, p, err))
	case ike.Activate:
		d.complain("activate", a.Pair, d.place.activate(a.Pair))
	case ike.Update:
		d.complain("update", a.Pair, d.place.update(a.Pair))
	case ike.Remove:
		d.remove(a.Pair)
	case ike.Reconnect:
		d.want(target{a.Conn, a.Child})
	case ike.Trap:
		d.trapAgain(a.Policy)
	case ike.Done:
		d.finish(a.Command, a.Err)
	case ike.Log:
		d.engineLog(a)
	case ike.KeyLog:
		d.logKeys(a)
	case ike.IKEUpdown, ike.ChildUpdown, ike.IKERekeyed, ike.ChildRekeyed:
		d.report(a)
	default:
		d.say(slog.LevelError, "DMN", fmt.Sprintf("the engine asks for %T, which is not known", a))
	}
}

// report tells the control connections, and notes which children came up.
func (d *Daemon) report(a ike.Action) {
	if up, ok := a.(ike.ChildUpdown); ok && up.Up && up.Child.Pair != nil {
		d.arrived(target{up.IKE.Conn, up.Child.Pair.Child})
	}
	if d.reporter != nil {
		d.reporter.Report(a)
	}
}

func (d *Daemon) send(a ike.Send) {
	d.count.sent++
	if err := d.transport.Send(a.Local, a.Remote, a.NATT, a.Data); err != nil {
		d.sendFailed("send message", a.Local, a.Remote, err)
	}
}

// sendFailed counts and logs; the retransmission schedule does the rest.
func (d *Daemon) sendFailed(what string, local, remote netip.AddrPort, err error) {
	d.count.sendErrors++
	d.say(slog.LevelWarn, "NET", fmt.Sprintf("%s from %s to %s: %v", what, local, remote, err))
}

// compute hands a computation to the DH engine. Its answer comes back through
// the loop, unless there is none to come.
func (d *Daemon) compute(c ike.ComputeDH) {
	err := ike.ErrBusy
	if d.computes < cap(d.results) {
		err = d.dh.Compute(c, func(r ike.DHResult) { d.results <- r })
	}
	if err == nil {
		d.computes++
		return
	}
	if errors.Is(err, ike.ErrBusy) {
		d.count.dhBusy++
	}
	d.run(d.engine.DHDone(time.Now(), ike.DHResult{Token: c.Token, Private: c.Private, Err: err}))
}

// install places a pair and logs where it runs, or why it runs nowhere.
func (d *Daemon) install(p *sa.Pair) (sa.Placement, error) {
	got, err := d.place.install(p)
	if err != nil {
		d.count.installErrors++
		d.say(slog.LevelError, "KNL", fmt.Sprintf("child %s cannot be installed: %v", p.Child, err),
			connAttr(p.Conn), slog.Any("spi_in", p.In.SPI), slog.Any("spi_out", p.Out.SPI))
		return got, err
	}
	d.count.installs++
	d.say(slog.LevelInfo, "KNL", fmt.Sprintf("child %s{%d} runs as %s", p.Child, p.ID, describe(got)),
		connAttr(p.Conn), slog.Any("spi_in", p.In.SPI), slog.Any("spi_out", p.Out.SPI),
		slog.String("suite", p.Suite.String()))
	// Policies that the child had while it was configured otherwise go on
	// blocking; what the new pair covers of them is protected again.
	d.complain("forget replaced policies of", p, d.place.forget(target{p.Conn, p.Child}, func(s *standing) bool {
		return s.pairs == 0 && p.LocalTS.Contains(s.policy.LocalTS) && p.RemoteTS.Contains(s.policy.RemoteTS)
	}))
	if d.keys != nil {
		if err := d.keys.logPair(p); err != nil {
			d.say(slog.LevelError, "DMN", "write key log: "+err.Error())
		}
	}
	return got, nil
}

// moved logs that a pair runs otherwise than it did.
func (d *Daemon) moved(ev *sa.Event) {
	at := d.place.moved(ev)
	if at == nil {
		return
	}
	d.say(slog.LevelInfo, "KNL", fmt.Sprintf("child %s{%d} now runs as %s", at.pair.Child, ev.Pair, describe(ev.Placement)),
		connAttr(at.pair.Conn))
}

// remove takes a pair out. The policy stays, and blocks what the child should
// protect, for as long as the child is loaded; where any peer may come there
// would be no end of policies, and each goes with its last pair.
func (d *Daemon) remove(p *sa.Pair) {
	d.complain("remove", p, d.place.remove(p))
	t := target{p.Conn, p.Child}
	conn, child, err := d.config.find(t)
	if err == nil && child != nil && (child.Manual != nil || hasPeer(conn)) {
		return
	}
	d.complain("forget policy of", p, d.place.forget(t, func(s *standing) bool { return s.pairs == 0 }))
}

// describe puts a placement in words.
func describe(p sa.Placement) string {
	s := p.Kind.String()
	if p.Device != "" {
		s += " on " + p.Device
	}
	if p.Detail != "" {
		s += " (" + p.Detail + ")"
	}
	return s
}

// complain logs what a backend refused to do with a pair.
func (d *Daemon) complain(verb string, p *sa.Pair, err error) {
	if err != nil {
		d.say(slog.LevelError, "KNL", fmt.Sprintf("%s child %s{%d}: %v", verb, p.Child, p.ID, err), connAttr(p.Conn),
			slog.Any("spi_in", p.In.SPI), slog.Any("spi_out", p.Out.SPI))
	}
}

func (d *Daemon) logKeys(a ike.KeyLog) {
	if d.keys == nil {
		return
	}
	if err := d.keys.logIKE(a); err != nil {
		d.say(slog.LevelError, "DMN", "write key log: "+err.Error())
	}
}
