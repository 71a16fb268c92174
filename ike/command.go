// SPDX-License-Identifier: Apache-2.0

package ike

import (
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"time"

	"quicksand/sa"
)

// Initiate asks for a child to be brought up, with its IKE SA where there is
// none. An empty Child asks for the IKE SA alone.
type Initiate struct {
	Command       uint64 // named in Done and Log; 0: nobody waits
	Conn, Child   string
	Local, Remote netip.AddrPort // resolved endpoints, for a new IKE SA
}

// Select names SAs for Terminate and Rekey; what is set must all match.
type Select struct {
	Command uint64
	Conn    string // of the IKE SA
	Child   string
	IKE     uint32 // unique id
	ChildID uint32 // unique id of the child SA (sa.Pair.ID)
	Reauth  bool   // of Rekey: as Rekey of the IKE SA, which is Main Mode either way
	Force   bool   // of Terminate: without telling the peer
}

// ofChild reports whether children are meant, not IKE SAs.
func (s Select) ofChild() bool { return s.Child != "" || s.ChildID != 0 }

// Initiate brings a child up. Every Initiate with a Command is answered by a
// Done, now or later.
func (e *Engine) Initiate(now time.Time, i Initiate) []Action {
	e.begin(now)
	e.initiate(i)
	return e.end()
}

func (e *Engine) initiate(i Initiate) {
	conn := e.connection(i.Conn)
	if conn == nil {
		e.done(i.Command, fmt.Errorf("no connection %q is configured", i.Conn))
		return
	}
	if i.Child != "" && conn.Child(i.Child) == nil {
		e.done(i.Command, fmt.Errorf("connection %q has no child %q", i.Conn, i.Child))
		return
	}
	var connecting *ikeSA
	known := e.byAddr[i.Remote.Addr()]
	if !i.Remote.IsValid() {
		known = e.selected(Select{})
	}
	for _, s := range slices.Backward(known) {
		if s.conn.Name != conn.Name {
			continue
		}
		if s.ready() {
			s.start(i)
			return
		}
		if s.state == IKEConnecting && s.initiator && s.renews == nil {
			connecting = s
		}
	}
	if connecting == nil {
		connecting = e.initiateMain(conn, i.Local, i.Remote, i.Local.Port() == e.opt.PortNATT)
		connecting.wanted = append(connecting.wanted, i)
		connecting.begin()
		return
	}
	connecting.wanted = append(connecting.wanted, i)
}

// start begins what was asked for under an IKE SA that stands.
func (s *ikeSA) start(i Initiate) {
	if i.Child == "" {
		s.e.done(i.Command, nil)
		return
	}
	conn := s.conn
	if c := s.e.connection(conn.Name); c != nil {
		conn = c
	}
	cfg := conn.Child(i.Child)
	if cfg == nil || cfg.Manual != nil {
		s.e.done(i.Command, fmt.Errorf("connection %q has no child %q to negotiate", i.Conn, i.Child))
		return
	}
	local, remote := cfg.LocalTS.resolve(s.local.Addr()), cfg.RemoteTS.resolve(s.remote.Addr())
	lanes := s.startLanes(cfg, local, remote)
	s.e.split(i.Command, len(lanes))
	for _, lane := range lanes {
		s.startQuick(cfg, i.Command, lane, s.twin(cfg, local, remote, lane))
	}
}

// Terminate deletes what is selected and says how much that is. The deletion
// is done when it returns.
func (e *Engine) Terminate(now time.Time, sel Select) (int, []Action) {
	e.begin(now)
	n := 0
	for _, s := range e.selected(sel) {
		if sel.ofChild() {
			if sel.ChildID == 0 {
				n += s.callOff(sel.Child)
			}
			continue
		}
		n++
		if sel.Force {
			s.drop(ErrTerminated)
		} else {
			s.terminate(ErrTerminated)
		}
	}
	for _, c := range e.selectedChildren(sel) {
		n++
		c.unwant()
		c.remove(!sel.Force)
	}
	return n, e.end()
}

// Rekey begins the renegotiation of what is selected and says how much that
// is.
func (e *Engine) Rekey(now time.Time, sel Select) (int, []Action) {
	e.begin(now)
	n := 0
	for _, s := range e.selected(sel) {
		if !sel.ofChild() && s.state == IKEEstablished {
			n++
			s.renew()
		}
	}
	for _, c := range e.selectedChildren(sel) {
		if c.state == ChildInstalled {
			n++
			c.rekey()
		}
	}
	return n, e.end()
}

// selected returns the IKE SAs that match, without regard to children.
func (e *Engine) selected(sel Select) []*ikeSA {
	var out []*ikeSA
	for _, id := range slices.Sorted(maps.Keys(e.byID)) {
		s := e.byID[id]
		if (sel.Conn == "" || s.conn.Name == sel.Conn) && (sel.IKE == 0 || s.id == sel.IKE) {
			out = append(out, s)
		}
	}
	return out
}

func (e *Engine) selectedChildren(sel Select) []*child {
	if !sel.ofChild() {
		return nil
	}
	var out []*child
	for _, id := range slices.Sorted(maps.Keys(e.children)) {
		c := e.children[id]
		if (c.live() || c.state == ChildSuperseded) &&
			(sel.Conn == "" || c.conn == sel.Conn) &&
			(sel.IKE == 0 || c.s != nil && c.s.id == sel.IKE) &&
			(sel.Child == "" || c.cfg.Name == sel.Child) &&
			(sel.ChildID == 0 || c.pair.ID == sel.ChildID) {
			out = append(out, c)
		}
	}
	return out
}

// Event takes a backend's report in.
func (e *Engine) Event(now time.Time, ev sa.Event) []Action {
	e.begin(now)
	c := e.children[ev.Pair]
	switch {
	case ev.Kind == sa.Acquire:
		e.emit(Reconnect{Conn: ev.Policy.Conn, Child: ev.Policy.Child})
	case c == nil:
	case ev.Kind == sa.SoftExpired:
		c.rekey()
	case ev.Kind == sa.HardExpired:
		c.expire()
	case ev.Kind == sa.FirstUse:
		c.firstUse()
	case ev.Kind == sa.Remapped:
		switch s := c.s; {
		case !ev.Remote.IsValid() || ev.Remote == c.pair.Remote:
		case s != nil && s.natt && s.natRemote:
			s.moveTo(s.local, ev.Remote, true)
		case s == nil && c.pair.Encap:
			c.moveTo(c.pair.Local, ev.Remote)
		}
	case ev.Kind == sa.Moved:
		c.placement = ev.Placement
	case ev.Kind == sa.Lost:
		e.log(c.s, 0, slog.LevelWarn, fmt.Sprintf("child %s{%d} was lost", c.cfg.Name, c.pair.ID))
		c.remove(true)
		e.emit(Reconnect{Conn: c.conn, Child: c.cfg.Name})
	}
	return e.end()
}

// Reload takes a new configuration. SAs that stand are left alone; their next
// negotiation goes by the new one.
func (e *Engine) Reload(now time.Time, c *Config) []Action {
	e.begin(now)
	e.config, e.parallel = c, c.announcesParallel()
	for _, s := range e.byID {
		if conn := e.connection(s.conn.Name); conn != nil && s.state != IKEConnecting {
			s.conn = conn
			if s.state == IKEEstablished && s.dpdState.tries == 0 {
				s.scheduleDPD()
			}
		}
	}
	return e.end()
}

// Shutdown deletes every SA and tells the peers. The engine is not used any
// more after it.
func (e *Engine) Shutdown(now time.Time) []Action {
	e.begin(now)
	for _, s := range e.selected(Select{}) {
		s.terminate(errStopped)
	}
	for _, c := range slices.Clone(e.orphans) {
		c.remove(false)
	}
	return e.end()
}
