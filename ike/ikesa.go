// SPDX-License-Identifier: Apache-2.0

package ike

import (
	"crypto/cipher"
	"encoding/hex"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	"quicksand/ike/isakmp"
	"quicksand/sa"
)

// An IKE SA lives so:
//
//	CONNECTING ──Main Mode done──▶ ESTABLISHED ──a new one took over──▶ REKEYED
//	    │                              │                                   │
//	    └─failed, given up             └─deleted, dead peer, expired       └─after a while
//	                    ▼              ▼                                   ▼
//	                   gone ◀──────────┴───────────────────────────────────┘
type ikeSA struct {
	e         *Engine
	id        uint32
	conn      *Connection
	initiator bool
	cookies   cookies  // the responder's is zero until the second message
	first     firstKey // of a responder
	local     netip.AddrPort
	remote    netip.AddrPort
	state     IKEState

	localID, remoteID   Identity
	transform           sa.IKETransform
	life                time.Duration // agreed; 0: none
	natt                bool          // floated to the NAT-T ports
	natLocal, natRemote bool
	peer                vendors

	skeyids
	cipher cipher.Block
	lastIV []byte // the last block of phase 1

	main     *exchange // under way, or kept for the peer's repeats
	quick    map[uint32]*exchange
	turns    turns      // Quick Modes that wait
	finished []finished // exchanges whose last message may have been lost
	mids     midSet
	children []*child
	wanted   []Initiate // wait for Main Mode
	tries    int        // keying attempts made before this one

	begun, established   time.Time
	rekeyAt, expireAt    *timer
	keepalive, dpd, doom *timer
	forget               *timer // of what is finished
	lastHeard            time.Time
	dpdState             dpdState
	renews               *ikeSA // the IKE SA that this one is to replace, until it does
	renewal              *ikeSA // the one that is to replace this one
	renewedBy            *ikeSA
}

// finished is what is left of an exchange: the answer to repeats.
type finished struct {
	sum  [32]byte
	data []byte
	end  time.Time
	own  bool // begun by us
}

// maxFinished bounds what is kept of the exchanges that the peer began, and
// maxFinishedOwn of our own: as many as are begun while one is kept, where 1,000
// children start at once.
const (
	maxFinished    = 2 * maxPending
	maxFinishedOwn = 4096
)

// midSet remembers the last message ids that were used, ours and the peer's.
type midSet struct {
	ring []uint32
	next int
}

const maxMIDs = 1024

func (m *midSet) has(mid uint32) bool { return slices.Contains(m.ring, mid) }

func (m *midSet) add(mid uint32) {
	if len(m.ring) < maxMIDs {
		m.ring = append(m.ring, mid)
		return
	}
	m.ring[m.next] = mid
	m.next = (m.next + 1) % maxMIDs
}

// forget has a message id count as new again.
func (m *midSet) forget(mid uint32) {
	if i := slices.Index(m.ring, mid); i >= 0 {
		m.ring[i] = 0
	}
}

// newMID returns a message id that the IKE SA has not used (RFC 2408 section
// 3.1).
func (s *ikeSA) newMID() uint32 {
	for {
		var b [4]byte
		s.e.read(b[:])
		mid := uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
		if mid != 0 && !s.mids.has(mid) {
			s.mids.add(mid)
			return mid
		}
	}
}

func (e *Engine) newIKE(c *Connection, initiator bool, local, remote netip.AddrPort) *ikeSA {
	e.lastIKE++
	s := &ikeSA{
		e: e, id: e.lastIKE, conn: c, initiator: initiator, state: IKEConnecting,
		local: local, remote: remote, begun: e.now, lastHeard: e.now,
	}
	e.byID[s.id] = s
	e.byAddr.add(remote.Addr(), s)
	return s
}

// heardFirst notes the first message of an exchange, which proves its age by
// its message id alone: once ids have been forgotten, it may be an old one that
// somebody sends again from elsewhere.
func (s *ikeSA) heardFirst(m *message) {
	if len(s.mids.ring) < maxMIDs {
		s.heard(m)
	}
}

// heard notes an accepted message and, behind a NAT, follows the peer to the
// address it now comes from.
func (s *ikeSA) heard(m *message) {
	s.lastHeard = s.e.now
	s.dpdState.tries = 0
	if s.skeyidA == nil || m.h.Flags&isakmp.Encrypted == 0 {
		return
	}
	if m.Remote == s.remote && m.Local == s.local && m.NATT == s.natt {
		return
	}
	if s.state != IKEConnecting && !s.natRemote && !s.natLocal {
		return
	}
	s.moveTo(m.Local, m.Remote, m.NATT)
}

// moveTo takes the IKE SA and its children to new endpoints.
func (s *ikeSA) moveTo(local, remote netip.AddrPort, natt bool) {
	if s.state != IKEConnecting {
		s.e.log(s, 0, slog.LevelInfo, fmt.Sprintf("peer moved from %s to %s", s.remote, remote))
	}
	if a := s.remote.Addr(); a != remote.Addr() {
		s.e.byAddr.remove(a, s)
		s.e.byAddr.add(remote.Addr(), s)
	}
	s.local, s.remote, s.natt = local, remote, natt
	for _, c := range s.children {
		c.moveTo(local, remote)
	}
}

// current is the IKE SA that took the children over, or s itself.
func (s *ikeSA) current() *ikeSA {
	for s.renewedBy != nil && s.e.byID[s.renewedBy.id] != nil {
		s = s.renewedBy
	}
	return s
}

// ready reports whether Quick Modes can be begun.
func (s *ikeSA) ready() bool { return s.state == IKEEstablished }

// startTimers begins the IKE SA's life.
func (s *ikeSA) startTimers() {
	e, c := s.e, s.conn
	rekey := c.RekeyTime
	if c.ReauthTime > 0 && (rekey == 0 || c.ReauthTime < rekey) {
		rekey = c.ReauthTime
	}
	expire := time.Duration(0)
	if rekey > 0 {
		expire = rekey + c.OverTime
		rekey -= time.Duration(e.random(uint64(min(c.RandTime, rekey/2))))
	}
	if s.life > 0 && (expire == 0 || s.life < expire) {
		expire = s.life
		if rekey == 0 || rekey > s.life*9/10 {
			rekey = s.life * 9 / 10
		}
	}
	if rekey > 0 {
		s.rekeyAt = e.after(rekey, s.renew)
	}
	if expire > 0 {
		s.expireAt = e.after(expire, s.expire)
	}
	if s.natLocal {
		s.keepalive = e.after(e.opt.KeepAlive, s.sendKeepalive)
	}
	s.scheduleDPD()
}

// expire ends an IKE SA that could not be renewed in time.
func (s *ikeSA) expire() {
	s.e.log(s, 0, slog.LevelWarn, "IKE SA expired before it was renewed")
	for _, c := range s.terminate(errExpired) {
		c.again(c.cfg.StartAction)
	}
}

func (s *ikeSA) sendKeepalive() {
	s.e.emit(Keepalive{Local: s.local, Remote: s.remote})
	s.keepalive = s.e.after(s.e.opt.KeepAlive, s.sendKeepalive)
}

// renew begins a new Main Mode; when it is done the new IKE SA adopts this
// one's children.
func (s *ikeSA) renew() {
	s.e.stop(s.rekeyAt)
	s.rekeyAt = nil
	if s.state != IKEEstablished || s.renewal != nil {
		return
	}
	s.e.log(s, 0, slog.LevelInfo, "renewing the IKE SA")
	n := s.e.initiateMain(s.conn, s.local, s.remote, s.natt)
	n.renews, s.renewal = s, n
	n.begin()
}

// retryRenew has another attempt made while there is time.
func (s *ikeSA) retryRenew() {
	if s.state == IKEEstablished {
		s.e.stop(s.rekeyAt)
		s.rekeyAt = s.e.after(30*time.Second-time.Duration(s.e.random(uint64(10*time.Second))), s.renew)
	}
}

// establish is called when Main Mode is done.
func (s *ikeSA) establish() {
	e := s.e
	s.state = IKEEstablished
	s.established = e.now
	e.byEnds.add(s.ends(), s)
	s.settle()
	s.skeyid.Wipe()
	s.skeyid = nil
	s.startTimers()
	e.log(s, 0, slog.LevelInfo, fmt.Sprintf("IKE SA established between %s[%s]...%s[%s]",
		s.local, s.localID, s.remote, s.remoteID),
		slog.String("proposal", s.transform.String()),
		slog.String("cookies", s.cookies.i.String()+"_i "+s.cookies.r.String()+"_r"))
	e.emit(IKEUpdown{Up: true, IKE: s.info()})
	if s.conn.DPDDelay > 0 && !s.peer.dpd {
		e.log(s, 0, slog.LevelInfo, "peer does not support dead peer detection")
	}
	s.replaceOthers()
	if s.renews != nil {
		s.renews.renewal, s.renews = nil, nil
	}
	current := s.current()
	current.adoptOrphans()
	wanted := s.wanted
	s.wanted = nil
	for _, w := range wanted {
		current.start(w)
	}
	s.main.command = 0
}

// settle takes a responder's IKE SA out of the half-open ones.
func (s *ikeSA) settle() {
	if s.main != nil && s.main.m != nil && s.main.m.halfOpen.IsValid() {
		a := s.main.m.halfOpen
		s.main.m.halfOpen = netip.Addr{}
		s.e.halfOpens--
		if s.e.halfOpen[a]--; s.e.halfOpen[a] <= 0 {
			delete(s.e.halfOpen, a)
		}
	}
}

func (s *ikeSA) ends() ends { return ends{s.localID, s.remoteID} }

// others are the other IKE SAs between the same identities over the same
// connection that are or were established, oldest first.
func (s *ikeSA) others() []*ikeSA {
	var out []*ikeSA
	for _, o := range s.e.byEnds[s.ends()] {
		if o != s && o.conn.Name == s.conn.Name {
			out = append(out, o)
		}
	}
	return out
}

// replaceOthers settles what becomes of older IKE SAs with the same ends: one
// from the same address is replaced and its children adopted; others go by the
// connection's uniqueness policy.
func (s *ikeSA) replaceOthers() {
	for _, o := range s.others() {
		if o.state != IKEEstablished {
			continue
		}
		if s.state != IKEEstablished {
			return
		}
		if o == s.renews || o.remote.Addr() == s.remote.Addr() && s.conn.Unique != UniqueNever {
			s.takeOver(o)
		} else if s.conn.Unique == UniqueReplace {
			s.e.log(o, 0, slog.LevelInfo, "deleting the IKE SA, a new one has the same identities")
			o.terminate(errReplaced)
		}
	}
}

// takeOver adopts an older IKE SA's children. Where both ends renewed at once
// there are two new IKE SAs: both ends keep the one with the lower initiator's
// cookie. Where they differ in whether that is so, comeBack brings them together.
func (s *ikeSA) takeOver(o *ikeSA) {
	winner, loser := s, o
	if !o.established.Before(s.begun) && string(o.cookies.i[:]) < string(s.cookies.i[:]) {
		winner, loser = o, s
	}
	for _, c := range loser.children {
		c.s = winner
	}
	winner.children = append(winner.children, loser.children...)
	loser.children = nil
	loser.state = IKERekeyedAway
	loser.renewedBy = winner
	s.e.stop(loser.rekeyAt)
	s.e.emit(IKERekeyed{Old: loser.info(), New: winner.info()})
	s.e.log(winner, 0, slog.LevelInfo, fmt.Sprintf("took over from IKE SA %d with %d children", loser.id, len(winner.children)))
	// Who began the new one deletes the old one; the other end waits longer.
	wait := 60 * time.Second
	if winner.initiator {
		wait = 10 * time.Second
	}
	wait += time.Duration(s.e.random(uint64(wait / 2))) // not both ends at once
	s.e.stop(loser.doom)
	loser.doom = s.e.after(wait, func() { loser.terminate(errReplaced) })
	winner.inherit(loser)
}

// comeBack makes an IKE SA current again that s took over from, for the peer
// deletes s and so takes that one for the current one.
func (o *ikeSA) comeBack() {
	o.e.log(o, 0, slog.LevelInfo, "the peer goes on with this IKE SA")
	o.e.stop(o.doom)
	o.doom, o.renewedBy = nil, nil
	o.state = IKEEstablished
	o.retryRenew()
}

// remove takes the IKE SA out; its children are the caller's business.
func (s *ikeSA) remove(err error) {
	e := s.e
	if e.byID[s.id] == nil {
		return
	}
	delete(e.byID, s.id)
	e.byAddr.remove(s.remote.Addr(), s)
	e.byEnds.remove(s.ends(), s)
	s.settle()
	if !s.initiator {
		delete(e.firsts, s.first)
	}
	if s.main != nil {
		s.main.close()
	}
	for _, x := range s.quick {
		x.close()
		x.release(err)
	}
	s.withdraw(err, func(*exchange) bool { return true })
	for _, w := range s.wanted {
		e.done(w.Command, err)
	}
	s.wanted = nil
	if e.sas[s.cookies] == s { // a peer may have taken our own cookie
		delete(e.sas, s.cookies)
	}
	for _, t := range []*timer{s.rekeyAt, s.expireAt, s.keepalive, s.dpd, s.doom, s.forget} {
		e.stop(t)
	}
	if n := s.renewal; n != nil {
		s.renewal, n.renews = nil, nil
		if err != errExpired {
			n.remove(err)
		}
	}
	up := !s.established.IsZero()
	if s.renews != nil {
		s.renews.renewal = nil
		s.renews.retryRenew()
		s.renews = nil
	}
	s.state = IKEDeleting
	s.wipe()
	s.cipher = nil
	if up {
		e.emit(IKEUpdown{Up: false, IKE: s.info()})
	}
}

// terminate deletes the children and then the IKE SA itself, and tells the
// peer. It returns the children that were in use.
func (s *ikeSA) terminate(err error) []*child {
	gone := removeAll(s.children, true)
	s.sendDelete(isakmp.ProtoISAKMP)
	s.remove(err)
	return gone
}

// done answers a command, once.
func (e *Engine) done(command uint64, err error) {
	if command != 0 && e.ended(command, &err) {
		e.emit(Done{Command: command, Err: err})
	}
}

func (s *ikeSA) info() IKEInfo {
	i := s.brief()
	for _, c := range s.children {
		i.Children = append(i.Children, c.info())
	}
	return i
}

// brief is info without the children.
func (s *ikeSA) brief() IKEInfo {
	i := IKEInfo{
		ID: s.id, Conn: s.conn.Name, State: s.state, Initiator: s.initiator,
		Cookies: [2]string{hex.EncodeToString(s.cookies.i[:]), hex.EncodeToString(s.cookies.r[:])},
		Local:   s.local, Remote: s.remote, LocalID: s.localID, RemoteID: s.remoteID,
		Transform: s.transform, NATLocal: s.natLocal, NATRemote: s.natRemote, NATT: s.natt,
		Established: s.established,
	}
	if s.rekeyAt != nil {
		i.Rekey = s.rekeyAt.at
	}
	if s.expireAt != nil {
		i.Expire = s.expireAt.at
	}
	return i
}
