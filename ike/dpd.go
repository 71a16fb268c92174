// SPDX-License-Identifier: Apache-2.0

package ike

import (
	"encoding/binary"
	"fmt"
	"log/slog"
	"time"

	"quicksand/ike/isakmp"
)

// dpdState is that of dead peer detection (RFC 3706).
type dpdState struct {
	sent, acked uint32 // sequence numbers of ours
	peer        uint32 // the peer's last
	tries       int    // since the peer was last heard
	complained  time.Time
}

// scheduleDPD looks at the peer again when it has been silent for dpd_delay.
func (s *ikeSA) scheduleDPD() {
	s.e.stop(s.dpd)
	if s.conn.DPDDelay > 0 && s.peer.dpd {
		s.dpd = s.e.after(max(s.conn.DPDDelay-s.silence(), 0), s.checkDPD)
	}
}

// silence is how long the peer has not been heard.
func (s *ikeSA) silence() time.Duration { return s.e.now.Sub(s.lastHeard) }

// checkDPD sends R-U-THERE to a silent peer until something comes from it or
// it counts as dead: by the retransmission schedule, or at dpd_timeout where
// that is set. Whatever the peer sends sets tries back to 0.
func (s *ikeSA) checkDPD() {
	e, d := s.e, &s.dpdState
	if s.conn.DPDDelay <= 0 || d.tries == 0 && s.silence() < s.conn.DPDDelay {
		s.scheduleDPD()
		return
	}
	timeout := s.conn.DPDTimeout
	if d.tries > 0 && (timeout > 0 && s.silence() >= timeout || timeout == 0 && d.tries > e.opt.RetransmitTries) {
		s.dead()
		return
	}
	if d.sent == 0 {
		d.sent = uint32(e.random(1<<30)) + 1
		d.acked = d.sent
	}
	d.sent++
	s.notify(isakmp.Notification{Protocol: isakmp.ProtoISAKMP, SPI: s.cookieBytes(), Type: isakmp.RUThere, Data: be32(d.sent)})
	next := e.retransmitDelay(d.tries)
	if timeout > 0 {
		next = min(s.conn.DPDDelay, max(timeout-s.silence(), time.Millisecond))
	}
	d.tries++
	s.dpd = e.after(next, s.checkDPD)
}

func (s *ikeSA) answerDPD(n isakmp.Notification, m *message) {
	if len(n.Data) != 4 {
		s.e.count("ike.rx.malformed")
		return
	}
	seq := binary.BigEndian.Uint32(n.Data)
	if s.dpdState.peer != 0 && int32(seq-s.dpdState.peer) < 0 {
		s.e.count("ike.rx.replayed")
		return
	}
	if seq != s.dpdState.peer {
		s.heard(m)
	}
	s.dpdState.peer = seq
	s.notify(isakmp.Notification{Protocol: isakmp.ProtoISAKMP, SPI: s.cookieBytes(), Type: isakmp.RUThereAck, Data: n.Data})
}

func (s *ikeSA) dpdAnswered(n isakmp.Notification, m *message) {
	d := &s.dpdState
	if len(n.Data) != 4 {
		s.e.count("ike.rx.malformed")
		return
	}
	if seq := binary.BigEndian.Uint32(n.Data); int32(seq-d.acked) <= 0 || int32(d.sent-seq) < 0 {
		s.e.count("ike.rx.replayed")
		return
	}
	d.acked = d.sent
	s.heard(m)
	s.scheduleDPD()
}

// dead gives a silent peer up and does what dpd_action asks for.
func (s *ikeSA) dead() {
	s.e.count("ike.dead-peers")
	s.e.log(s, 0, slog.LevelWarn, fmt.Sprintf("peer %s does not answer since %s; giving it up", s.remote, s.silence().Round(time.Second)))
	gone := removeAll(s.children, false)
	s.remove(errDead)
	for _, c := range gone {
		c.again(c.cfg.DPDAction)
	}
}
