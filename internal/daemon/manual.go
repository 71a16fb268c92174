// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"fmt"
	"log/slog"
	"net/netip"
	"time"

	"quicksand/ike"
	"quicksand/sa"
)

// firstManualID is where the ids of manually keyed pairs begin; the engine
// counts its own from 1.
const firstManualID = 1 << 31

// manualChild is a manually keyed child that is installed.
type manualChild struct {
	conn      *ike.Connection
	pair      *sa.Pair
	placement sa.Placement
	installed time.Time
	expiry    *time.Timer // nil: it never expires by time
}

// installManual puts a manually keyed child's pair in place (RFC 4301 section
// 4.5.1).
func (d *Daemon) installManual(conn *ike.Connection, child *ike.Child) error {
	d.manualID++
	p := manualPair(conn, child, d.manualID)
	got, err := d.install(p)
	if err != nil {
		p.Wipe()
		return err
	}
	if err := d.place.activate(p); err != nil {
		d.complain("remove", p, d.place.remove(p))
		return fmt.Errorf("activate pair: %w", err)
	}
	t := target{conn.Name, child.Name}
	m := &manualChild{conn: conn, pair: p, placement: got, installed: time.Now()}
	d.manual[t] = m
	// Backends count bytes and packets only; a negotiated pair's time is the
	// engine's to keep.
	if life := p.Lifetime.Hard.Time; life > 0 {
		m.expiry = time.AfterFunc(life, func() {
			d.post(func() {
				if d.manual[t] == m {
					d.expireManual(t)
				}
			})
		})
	}
	return nil
}

// manualPair makes the pair of a manually keyed child, with copies of its keys.
func manualPair(conn *ike.Connection, child *ike.Child, id uint32) *sa.Pair {
	m := child.Manual
	clone := func(s sa.SA) sa.SA {
		return sa.SA{SPI: s.SPI, EncryptionKey: s.EncryptionKey.Clone(), IntegrityKey: s.IntegrityKey.Clone()}
	}
	reqid := child.ReqID
	if reqid == 0 {
		reqid = id
	}
	return &sa.Pair{
		Policy: sa.Policy{
			Conn: conn.Name, Child: child.Name, Reqid: reqid, Mode: child.Mode, Marking: child.Marking,
			Local: m.Local, Remote: m.Remote,
			LocalTS:  fixed(child.LocalTS, m.Local.Addr()),
			RemoteTS: fixed(child.RemoteTS, m.Remote.Addr()),
		},
		ID: id, Suite: m.Suite, Encap: m.Encap, In: clone(m.In), Out: clone(m.Out),
		Lifetime: sa.Lifetime{Hard: sa.Limits{
			Time: child.Lifetime.LifeTime, Bytes: child.Lifetime.LifeBytes, Packets: child.Lifetime.LifePackets}},
		// After a restart the peer's sequence numbers begin anew (RFC 4303
		// section 5).
		ReplayWindow: 0,
		CopyDF:       child.CopyDF, CopyECN: child.CopyECN, CopyDSCP: child.CopyDSCP,
		Offload: child.Offload,
	}
}

// removeManual takes a manually keyed child out, where it is installed.
func (d *Daemon) removeManual(t target) {
	if m := d.manual[t]; m != nil {
		if m.expiry != nil {
			m.expiry.Stop()
		}
		delete(d.manual, t)
		d.remove(m.pair)
		d.say(slog.LevelInfo, "CHD", fmt.Sprintf("manually keyed child %s removed", t.child), connAttr(t.conn))
	}
}

// expireManual takes out a manually keyed child that has reached a limit.
// Nobody renegotiates it, so the operator has to know. Its policy stays and
// blocks its traffic, and it is not put in place again until its configuration
// changes.
func (d *Daemon) expireManual(t target) {
	d.say(slog.LevelError, "CHD", fmt.Sprintf(
		"manually keyed child %s has reached its limit and carries nothing any more; give it new keys", t.child), connAttr(t.conn))
	d.removeManual(t)
}

// manualEvent handles what befalls a manually keyed pair.
func (d *Daemon) manualEvent(ev sa.Event) {
	for t, m := range d.manual {
		if m.pair.ID != ev.Pair {
			continue
		}
		switch ev.Kind {
		case sa.HardExpired:
			d.expireManual(t)
		case sa.Moved:
			m.placement = ev.Placement
		case sa.Lost:
			d.say(slog.LevelWarn, "CHD", fmt.Sprintf("manually keyed child %s was lost; installing it again", t.child), connAttr(t.conn))
			d.removeManual(t)
			if conn, child, err := d.config.find(t); err == nil && child != nil && child.Manual != nil {
				d.startChild(conn, child)
			}
		}
		return
	}
}

// manualInfo lists the manually keyed children, each under an IKEInfo of its
// connection without id and cookies.
func (d *Daemon) manualInfo() []ike.IKEInfo {
	var out []ike.IKEInfo
	for _, c := range d.config.list() {
		info := ike.IKEInfo{Conn: c.Name, State: ike.IKEEstablished, LocalID: c.LocalID, RemoteID: c.RemoteID}
		for _, child := range c.Children {
			m := d.manual[target{c.Name, child.Name}]
			if m == nil {
				continue
			}
			info.Local, info.Remote = m.pair.Local, m.pair.Remote
			if info.Established.IsZero() || m.installed.Before(info.Established) {
				info.Established = m.installed
			}
			info.Children = append(info.Children, ike.ChildInfo{
				State: ike.ChildInstalled, Pair: m.pair, Placement: m.placement, Installed: m.installed})
		}
		if len(info.Children) > 0 {
			out = append(out, info)
		}
	}
	return out
}

// fixed puts an endpoint's address into a selector that stands for it.
func fixed(s ike.Dynamic, endpoint netip.Addr) sa.Selector {
	if s.IsDynamic {
		s.From, s.To = endpoint, endpoint
	}
	return s.Selector
}
