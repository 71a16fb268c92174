// SPDX-License-Identifier: Apache-2.0

package ike

import (
	"time"

	"quicksand/ike/isakmp"
	"quicksand/sa"
)

// lifetime settles when the pair is renegotiated and when it ends: by the
// child's configuration, or earlier where the peer says so.
func (x *exchange) lifetime() sa.Lifetime {
	l, peer := x.q.cfg.Lifetime, x.q.agreement.life
	e := x.e
	var out sa.Lifetime
	soft, hard := shorter(uint64(l.RekeyTime), uint64(l.LifeTime), uint64(peer.time()), e.random(uint64(l.RandTime)+1))
	out.Soft.Time, out.Hard.Time = time.Duration(soft), time.Duration(hard)
	out.Soft.Bytes, out.Hard.Bytes = shorter(l.RekeyBytes, l.LifeBytes, peer.kilobytes*1024, e.random(l.RandBytes+1))
	out.Soft.Packets, out.Hard.Packets = shorter(l.RekeyPackets, l.LifePackets, 0, e.random(l.RandPackets+1))
	return out
}

// shorter takes the peer's limit where that is the lower one, and keeps the
// soft limit, less a random part, clearly below the hard one. 0 is no limit.
func shorter(soft, hard, peer, random uint64) (uint64, uint64) {
	if peer > 0 && (hard == 0 || peer < hard) {
		hard = peer
		if soft == 0 || soft >= hard {
			soft = hard - hard/10
		}
	}
	if soft > 0 {
		soft -= min(random, soft/2)
	}
	return soft, hard
}

// lifetimes collects pairs of life type and life duration (RFC 2409 appendix
// A, RFC 2407 section 4.5).
type lifetimes struct {
	seconds, kilobytes uint64
	kind               uint16
}

func (l *lifetimes) setKind(v uint16) bool {
	l.kind = v
	return v == isakmp.LifeSeconds || v == isakmp.LifeKilobytes
}

func (l *lifetimes) setDuration(a isakmp.Attribute) bool {
	v, err := a.Uint()
	if err != nil {
		return false
	}
	switch l.kind {
	case isakmp.LifeSeconds:
		l.seconds = min(v, 1<<32)
	case isakmp.LifeKilobytes:
		l.kilobytes = min(v, 1<<50)
	default:
		return false
	}
	l.kind = 0
	return true
}

func (l *lifetimes) time() time.Duration { return time.Duration(l.seconds) * time.Second }

func (l *lifetimes) shorten(o lifetimes) {
	if o.seconds > 0 && (l.seconds == 0 || o.seconds < l.seconds) {
		l.seconds = o.seconds
	}
	if o.kilobytes > 0 && (l.kilobytes == 0 || o.kilobytes < l.kilobytes) {
		l.kilobytes = o.kilobytes
	}
}

func parseLifetimes(data []byte) (lifetimes, bool) {
	attrs, err := isakmp.ParseAttributes(data)
	if err != nil {
		return lifetimes{}, false
	}
	var l lifetimes
	for _, a := range attrs {
		switch a.Type {
		case isakmp.AttrSALifeType:
			if !l.setKind(a.Value) {
				return l, false
			}
		case isakmp.AttrSALifeDuration:
			if !l.setDuration(a) {
				return l, false
			}
		}
	}
	return l, true
}

// responderLifetime is the notification by which the responder says that its
// lifetime is shorter than what was proposed (RFC 2407 section 4.6.3.1).
func (s *ikeSA) responderLifetime(q *quickMode) (isakmp.Payload, bool) {
	l, peer := q.cfg.Lifetime, q.agreement.life
	short := l
	if peer.seconds > 0 && l.LifeTime >= peer.time() {
		short.LifeTime = 0
	}
	if peer.kilobytes > 0 && l.LifeBytes >= peer.kilobytes*1024 {
		short.LifeBytes = 0
	}
	attrs := lifeAttributes(short)
	if len(attrs) == 0 {
		return isakmp.Payload{}, false
	}
	n := isakmp.Notification{DOI: isakmp.DOIIPsec, Protocol: protocolID(q.agreement.transform.Protocol),
		SPI: be32(uint32(q.child.pair.In.SPI)), Type: isakmp.ResponderLifetime, Data: isakmp.AppendAttributes(nil, attrs)}
	return isakmp.Payload{Type: isakmp.PayloadNotify, Body: n.Append(nil)}, true
}

// readLifetimes takes a RESPONDER-LIFETIME in a Quick Mode message.
func (s *ikeSA) readLifetimes(m *message, a *agreement) {
	for _, b := range m.bodies(isakmp.PayloadNotify) {
		n, err := isakmp.ParseNotification(b)
		if err != nil || n.Type != isakmp.ResponderLifetime {
			continue
		}
		if l, ok := parseLifetimes(n.Data); ok {
			a.life.shorten(l)
		}
	}
}

// responderLifetimeSaid shortens the life of an SA that stands: a child by its
// SPI, or the IKE SA itself. Only time can be shortened then.
func (s *ikeSA) responderLifetimeSaid(n isakmp.Notification) {
	l, ok := parseLifetimes(n.Data)
	if !ok || l.seconds == 0 {
		return
	}
	if c := s.childByOut(n.Protocol, n.SPI); c != nil {
		s.e.shorten(&c.rekeyAt, &c.expireAt, c.installed, l.time(), c.rekey, c.expire)
	} else if n.Protocol == isakmp.ProtoISAKMP && s.state == IKEEstablished {
		s.e.shorten(&s.rekeyAt, &s.expireAt, s.established, l.time(), s.renew, s.expire)
	}
}

// shorten has an SA that began at start end after life at the latest, and be
// renewed a tenth before that.
func (e *Engine) shorten(renewAt, endAt **timer, start time.Time, life time.Duration, renew, end func()) {
	last := start.Add(life)
	if *endAt != nil && !last.Before((*endAt).at) {
		return
	}
	e.stop(*endAt)
	*endAt = e.after(max(last.Sub(e.now), 0), end)
	if soft := last.Add(-life / 10); *renewAt == nil || soft.Before((*renewAt).at) {
		e.stop(*renewAt)
		*renewAt = e.after(max(soft.Sub(e.now), 0), renew)
	}
}

func lifeAttributes(l Lifetime) []isakmp.Attribute {
	var out []isakmp.Attribute
	if l.LifeTime > 0 {
		out = append(out,
			isakmp.ShortAttr(isakmp.AttrSALifeType, isakmp.LifeSeconds),
			isakmp.NumberAttr(isakmp.AttrSALifeDuration, uint64(l.LifeTime/time.Second)))
	}
	if kb := l.LifeBytes / 1024; kb > 0 {
		out = append(out,
			isakmp.ShortAttr(isakmp.AttrSALifeType, isakmp.LifeKilobytes),
			isakmp.NumberAttr(isakmp.AttrSALifeDuration, kb))
	}
	return out
}
