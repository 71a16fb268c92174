// SPDX-License-Identifier: Apache-2.0

package ike

import (
	"log/slog"

	"quicksand/ike/isakmp"
)

// orphan lets the child live on without an IKE SA. Behind a NAT nobody but the
// child is left to keep the mapping alive.
func (c *child) orphan() {
	if c.s.natLocal && c.pair.Encap {
		c.sendKeepalive()
	}
	c.s = nil
	c.rekeying = nil
	if c.state == ChildRekeying {
		c.state = ChildInstalled
		c.retryRekey()
	}
	c.e.orphans = append(c.e.orphans, c)
}

func (c *child) sendKeepalive() {
	c.keepalive = c.e.after(c.e.opt.KeepAlive, func() {
		c.e.emit(Keepalive{Local: c.pair.Local, Remote: c.pair.Remote})
		c.sendKeepalive()
	})
}

// adoptOrphans takes the children of an earlier IKE SA with the same ends.
func (s *ikeSA) adoptOrphans() {
	var left []*child
	for _, c := range s.e.orphans {
		if c.conn == s.conn.Name && c.localID == s.localID && c.remoteID == s.remoteID {
			c.adopt(s)
		} else {
			left = append(left, c)
		}
	}
	s.e.orphans = left
}

// idle ends an IKE SA that protects the identities of one Quick Mode only (RFC
// 2409 section 8), a little later so that the last message can be repeated.
func (s *ikeSA) idle() {
	if !s.conn.IdentityPFS || !s.initiator || s.state != IKEEstablished {
		return
	}
	s.e.stop(s.doom)
	s.doom = s.e.after(idleTime, func() {
		s.doom = nil
		if len(s.quick) > 0 || s.turns.len() > 0 || len(s.children) == 0 {
			return
		}
		s.e.log(s, 0, slog.LevelInfo, "Quick Mode is done; deleting the IKE SA (identity_pfs)")
		s.disown()
		s.sendDelete(isakmp.ProtoISAKMP)
		s.remove(ErrTerminated)
	})
}

// disown makes the IKE SA's children orphans.
func (s *ikeSA) disown() {
	for _, c := range s.children {
		c.orphan()
	}
	s.children = nil
}
