// SPDX-License-Identifier: Apache-2.0

package ike

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	"quicksand/sa"
)

// ErrTerminated answers for what the operator takes down before it is up.
var ErrTerminated = errors.New("terminated")

var (
	errExpired  = errors.New("the SA expired")
	errReplaced = errors.New("another SA took its place")
	errDeleted  = errors.New("the peer deleted the SA")
	errDead     = errors.New("the peer is dead")
)

// A child SA lives so:
//
//	INSTALLING ──Quick Mode done──▶ INSTALLED ◀─────failed─────┐
//	                                    │                      │
//	                                    ├──due, or asked──▶ REKEYING
//	                                    │                      │
//	                                    └─a new pair is there──┴▶ REKEYED ──new pair used, or overlap over──▶ gone
//
// Only one pair of a child is ever INSTALLED or REKEYING at both ends; a
// REKEYED one still receives what is under way.
type child struct {
	e         *Engine
	s         *ikeSA // nil for an orphan
	conn      string
	cfg       *Child
	localID   Identity
	remoteID  Identity
	pair      *sa.Pair
	group     sa.Group
	placement sa.Placement
	state     ChildState
	begun     time.Time // its Quick Mode
	installed time.Time
	initiator bool // of its Quick Mode
	rekeyed   bool
	guessed   bool // that it is replaced
	used      bool // the peer has sent over it
	ended     bool // one end has told the other that it is gone
	told      bool // the log has that the peer deleted it

	rekeyAt, expireAt, doom *timer
	settle                  *timer // until when the pair is not sent over yet
	keepalive               *timer // of an orphan
	rekeying                *exchange
	life                    sa.Lifetime
}

// How long a replaced pair stays: until the new one has been used and a little
// more for what is still under way, or for a short overlap at most. The end
// that did not begin the renegotiation leaves the deletion to the other for a
// while.
const (
	overlap      = 20 * time.Second
	overlapUsed  = 3 * time.Second
	overlapExtra = 7 * time.Second
	// The peer is given the time to delete what it did replace.
	overlapGuessed = 2 * overlap
	afterDelete    = time.Second
	idleTime       = 10 * time.Second // of an IKE SA with identity_pfs
	settleTime     = time.Second
	maxReplaced    = 16
)

// adopt puts the child under an IKE SA.
func (c *child) adopt(s *ikeSA) {
	c.e.stop(c.keepalive)
	c.s = s
	s.children = append(s.children, c)
}

// live reports whether the pair is its child's current one.
func (c *child) live() bool { return c.state == ChildInstalled || c.state == ChildRekeying }

// twin returns the current child SA of the same child, traffic and lane, or nil.
func (s *ikeSA) twin(cfg *Child, local, remote sa.Selector, lane uint8) *child {
	for _, c := range slices.Backward(s.children) {
		if c.live() && c.cfg.Name == cfg.Name && c.pair.LocalTS == local && c.pair.RemoteTS == remote && c.pair.Lane == lane {
			return c
		}
	}
	return nil
}

// goLive sends traffic over the new pair and retires the one it replaces, or that
// we guess it does.
//
// Where both ends began at once there are two new pairs. Both ends then
// keep the one with the lower SPI, so that they agree without a word: whenever
// a pair was begun before the other was live. Where messages overtake each
// other the ends may differ in that; then the first Delete brings them together
// again (deletedByPeer).
//
// An initiator that has an old pair goes on sending over it for a moment: some
// peers hold the new one only once they have worked on message 3.
func (c *child) goLive(replaces *child, guessed bool) {
	e := c.e
	c.installed = e.now
	var rivals []*child
	for _, o := range c.s.children {
		if o != c && o.live() && o.alike(c) {
			rivals = append(rivals, o)
		}
	}
	if replaces != nil && replaces.live() && !slices.Contains(rivals, replaces) {
		rivals = append(rivals, replaces)
	}
	c.state = ChildInstalled
	c.startTimers()
	winner := c
	for _, o := range rivals {
		if o.twinOf(c) && o.rank() < winner.rank() {
			winner = o
		}
	}
	if winner == c && len(rivals) > 0 && c.initiator {
		c.settle = e.after(settleTime, c.activate)
	} else if winner == c {
		c.activate()
	}
	if replaces != nil {
		e.emit(ChildRekeyed{IKE: c.s.brief(), Old: replaces.info(), New: c.info()})
	} else {
		e.emit(ChildUpdown{Up: true, IKE: c.s.brief(), Child: c.info()})
	}
	for _, o := range append(rivals, c) {
		if o != winner {
			o.guessed = o == replaces && guessed
			o.retire(winner)
		}
	}
	c.s.trimReplaced(c)
}

// activate sends the child's traffic over the pair.
func (c *child) activate() {
	c.e.stop(c.settle)
	if c.live() {
		c.e.emit(Activate{c.pair})
	}
}

// twinOf reports whether c, which is younger, was begun before o was live.
func (o *child) twinOf(c *child) bool {
	return !o.installed.Before(c.begun)
}

// rank orders pairs alike at both ends.
func (c *child) rank() uint64 {
	a, b := uint64(c.pair.In.SPI), uint64(c.pair.Out.SPI)
	return min(a, b)<<32 | max(a, b)
}

// startTimers begins the pair's life.
func (c *child) startTimers() {
	if d := c.life.Soft.Time; d > 0 {
		c.rekeyAt = c.e.after(d, c.rekey)
	}
	if d := c.life.Hard.Time; d > 0 {
		c.expireAt = c.e.after(d, c.expire)
	}
}

// rekey renegotiates the pair with a fresh Quick Mode, and with PFS a fresh
// Diffie-Hellman.
func (c *child) rekey() {
	c.e.stop(c.rekeyAt)
	c.rekeyAt = nil
	if c.state != ChildInstalled {
		return
	}
	if c.s == nil {
		c.e.emit(Reconnect{Conn: c.conn, Child: c.cfg.Name})
		c.retryRekey()
		return
	}
	if !c.s.ready() {
		c.retryRekey()
		return
	}
	c.e.log(c.s, 0, slog.LevelInfo, fmt.Sprintf("renegotiating child %s{%d}", c.cfg.Name, c.pair.ID))
	cfg := c.cfg
	if conn := c.e.connection(c.conn); conn != nil && conn.Child(cfg.Name) != nil {
		cfg = conn.Child(cfg.Name)
	}
	if cfg.Manual != nil {
		c.e.log(c.s, 0, slog.LevelWarn, fmt.Sprintf("child %s{%d} is keyed by hand now and not renegotiated", c.cfg.Name, c.pair.ID))
		return
	}
	if int(c.pair.Lane) >= cfg.lanes() {
		c.e.log(c.s, 0, slog.LevelInfo, fmt.Sprintf("child %s{%d} is one more than its parallel_sas are now", c.cfg.Name, c.pair.ID))
		c.remove(true)
		return
	}
	c.s.startQuick(cfg, 0, c.pair.Lane, c)
}

// retryRekey has another attempt made while there is time.
func (c *child) retryRekey() {
	if c.rekeyAt == nil && c.state == ChildInstalled {
		c.rekeyAt = c.e.after(30*time.Second-time.Duration(c.e.random(uint64(10*time.Second))), c.rekey)
	}
}

// expire ends a pair whose time, bytes or packets are used up.
func (c *child) expire() {
	wanted := c.live()
	if wanted {
		c.e.log(c.s, 0, slog.LevelWarn, fmt.Sprintf("child %s{%d} expired before it was renegotiated", c.cfg.Name, c.pair.ID))
	}
	c.remove(true)
	if wanted {
		c.again(c.cfg.StartAction)
	}
}

// again does what an action asks for once a child is gone.
func (c *child) again(a StartAction) {
	switch a {
	case ActionStart:
		c.e.emit(Reconnect{Conn: c.conn, Child: c.cfg.Name})
	case ActionTrap:
		c.e.emit(Trap{Policy: c.pair.Policy})
	}
}

// retire leaves a pair that another took the place of, for what is under way.
func (c *child) retire(by *child) {
	c.state = ChildSuperseded
	if x := c.rekeying; x != nil && x.q.child != by {
		c.rekeying = nil // it goes on and will find its rival
	}
	c.e.stop(c.rekeyAt)
	c.rekeyAt = nil
	d := overlap
	switch {
	case c.guessed:
		d = overlapGuessed
	case by.used:
		d = overlapUsed
	}
	c.doomIn(d)
}

// doomIn deletes the pair after d and a random while, so that both ends do not
// delete at the same moment.
func (c *child) doomIn(d time.Duration) {
	d += time.Duration(c.e.random(uint64(overlapExtra)))
	c.e.stop(c.doom)
	c.doom = c.e.after(d, func() {
		c.ended = true
		if c.s != nil {
			c.s.sendDelete(protocolID(c.pair.Suite.Protocol), c.pair.In.SPI)
		}
		c.doom = c.e.after(afterDelete, func() { c.remove(false) })
	})
}

// trimReplaced bounds the replaced pairs that one child's traffic may keep.
func (s *ikeSA) trimReplaced(c *child) {
	var old []*child
	for _, o := range s.children {
		if o.state == ChildSuperseded && o.alike(c) {
			old = append(old, o)
		}
	}
	for ; len(old) > maxReplaced; old = old[1:] {
		old[0].remove(true)
	}
}

// firstUse is told when the peer first sends over the pair: it has switched,
// so the pairs that this one replaced can go.
func (c *child) firstUse() {
	c.used = true
	if c.settle != nil && c.settle.index >= 0 {
		c.activate()
	}
	if c.s == nil {
		return
	}
	for _, o := range c.s.children {
		if o.state == ChildSuperseded && o.cfg.Name == c.cfg.Name && o.pair.Lane == c.pair.Lane && !o.guessed && o.doom != nil && o.pair.ID < c.pair.ID &&
			o.doom.at.Sub(c.e.now) > overlapUsed+overlapExtra {
			o.doomIn(overlapUsed)
		}
	}
}

// deletedByPeer takes a pair out that the peer has deleted. Where the two ends
// differ on which of two pairs is the current one, the other comes back.
func (c *child) deletedByPeer() {
	s := c.s
	wasLive := c.live()
	c.e.log(s, 0, slog.LevelInfo, fmt.Sprintf("peer deleted child %s{%d}: %s_i %s_o", c.cfg.Name, c.pair.ID, c.pair.In.SPI, c.pair.Out.SPI))
	c.ended, c.told = true, true
	if !wasLive && c.state == ChildSuperseded {
		c.e.stop(c.doom)
		c.doom = c.e.after(afterDelete, func() { c.remove(false) })
		return
	}
	c.unwant()
	c.remove(false)
	if !wasLive || s == nil {
		return
	}
	if o := s.comesBack(c); o != nil {
		c.e.stop(o.doom)
		o.doom = nil
		o.state, o.guessed = ChildInstalled, false
		o.toLane(c.pair.Lane)
		c.e.emit(Activate{o.pair})
		o.retryRekey()
		return
	}
	c.again(c.cfg.CloseAction)
}

// comesBack is a pair that was replaced and is to be the current one again, since
// the peer has deleted c: one of the same lane, or one that we may have taken for
// replaced in its place (chooseLane). None is for nil.
func (s *ikeSA) comesBack(c *child) (guessed *child) {
	for _, o := range slices.Backward(s.children) {
		switch {
		case o.state != ChildSuperseded || o.ended || !o.sibling(c):
		case o.pair.Lane == c.pair.Lane && (o.rekeyed || o.initiator != c.initiator):
			return o
		case o.pair.Lane != c.pair.Lane && o.guessed && guessed == nil:
			guessed = o
		}
	}
	return guessed
}

// unknownToPeer replaces a pair whose packets the peer does not know, or ends
// it where another took its place already.
func (c *child) unknownToPeer() {
	c.e.log(c.s, 0, slog.LevelWarn, fmt.Sprintf("peer does not know child %s{%d} %s_o any more", c.cfg.Name, c.pair.ID, c.pair.Out.SPI))
	if c.live() {
		c.rekey()
	} else {
		c.remove(true)
	}
}

// unwant keeps renegotiations of a child that is taken down from bringing it
// back.
func (c *child) unwant() {
	if x := c.rekeying; x != nil {
		x.q.unwanted = true
		x.s.withdraw(ErrTerminated, func(o *exchange) bool { return o == x })
	}
	if c.s == nil {
		return
	}
	for _, x := range c.s.quick {
		if x.q.replaces == c {
			x.q.unwanted = true
		}
	}
}

// moveTo follows the IKE SA to new endpoints.
func (c *child) moveTo(local, remote netip.AddrPort) {
	p := *c.pair
	p.Local, p.Remote = local, remote
	c.pair = &p
	c.e.emit(Update{c.pair})
}

// remove takes the pair out, telling the peer where notify is set.
func (c *child) remove(notify bool) {
	if c.e.children[c.pair.ID] != c {
		return
	}
	e, s := c.e, c.s
	for _, t := range []*timer{c.rekeyAt, c.expireAt, c.doom, c.settle, c.keepalive} {
		e.stop(t)
	}
	if notify && s != nil {
		s.sendDelete(protocolID(c.pair.Suite.Protocol), c.pair.In.SPI)
	}
	e.emit(Remove{c.pair})
	ike := IKEInfo{Conn: c.conn}
	if s != nil {
		ike = s.brief()
		s.children = slices.DeleteFunc(s.children, func(o *child) bool { return o == c })
	} else {
		e.orphans = slices.DeleteFunc(e.orphans, func(o *child) bool { return o == c })
	}
	delete(e.children, c.pair.ID)
	e.dropReqid(c)
	wasLive := c.live()
	c.state = ChildDeleted
	if wasLive {
		if !c.told {
			e.log(s, 0, slog.LevelInfo, fmt.Sprintf("child %s{%d} closed: %s_i %s_o", c.cfg.Name, c.pair.ID, c.pair.In.SPI, c.pair.Out.SPI))
		}
		e.emit(ChildUpdown{Up: false, IKE: ike, Child: c.info()})
	}
}

// removeAll takes children out and returns those that were in use.
func removeAll(children []*child, notify bool) []*child {
	var live []*child
	for _, c := range slices.Clone(children) {
		if c.live() {
			live = append(live, c)
		}
		c.remove(notify)
	}
	return live
}

// discard takes out a pair whose Quick Mode failed after it was installed.
func (c *child) discard() {
	delete(c.e.children, c.pair.ID)
	c.e.dropReqid(c)
	c.e.emit(Remove{c.pair})
}

func (c *child) info() ChildInfo {
	i := ChildInfo{State: c.state, Pair: c.pair, Group: c.group, Placement: c.placement,
		Installed: c.installed, Rekeyed: c.rekeyed}
	if c.rekeyAt != nil {
		i.Rekey = c.rekeyAt.at
	}
	if c.expireAt != nil {
		i.Expire = c.expireAt.at
	}
	return i
}

// reqidKey is what shares a reqid: pairs of one child for the same traffic.
type reqidKey struct {
	conn, child   string
	local, remote sa.Selector
}

type reqid struct {
	id   uint32
	uses int
}

func (e *Engine) reqid(k reqidKey, configured uint32) uint32 {
	r := e.reqids[k]
	if r == nil {
		e.lastReqid++
		r = &reqid{id: e.lastReqid}
		e.reqids[k] = r
	}
	r.uses++
	if configured != 0 {
		return configured
	}
	return r.id
}

// Policy returns a child's policy between two endpoints, for its trap. It has
// the reqid of the pairs that it will get, and keeps it.
func (e *Engine) Policy(c *Connection, ch *Child, local, remote netip.AddrPort) sa.Policy {
	l, r := ch.LocalTS.resolve(local.Addr()), ch.RemoteTS.resolve(remote.Addr())
	return sa.Policy{
		Conn: c.Name, Child: ch.Name, Mode: ch.Mode, Local: local, Remote: remote, LocalTS: l, RemoteTS: r,
		Marking: ch.Marking, Reqid: e.reqid(reqidKey{c.Name, ch.Name, l, r}, ch.ReqID),
	}
}

func (e *Engine) dropReqid(c *child) {
	k := reqidKey{c.conn, c.cfg.Name, c.pair.LocalTS, c.pair.RemoteTS}
	if r := e.reqids[k]; r != nil {
		if r.uses--; r.uses <= 0 {
			delete(e.reqids, k)
		}
	}
}
