// SPDX-License-Identifier: Apache-2.0

package vici

import (
	"log/slog"
	"time"

	"quicksand/ike"
	"quicksand/sa"
)

// The events that happen by themselves, not as part of a command.
const (
	evIKEUpdown   = "ike-updown"
	evIKERekey    = "ike-rekey"
	evChildUpdown = "child-updown"
	evChildRekey  = "child-rekey"
	evLog         = "log"
)

// Report sends what the engine tells of IKE SAs and children that came, went
// or were renegotiated to the clients registered for it; other actions it
// leaves alone. It never waits.
func (s *Server) Report(a ike.Action) {
	now := time.Now()
	m := &Message{}
	switch a := a.(type) {
	case ike.IKEUpdown:
		if s.Wants(evIKEUpdown) {
			m.SetYes("up", a.Up)
			renderIKE(m.SetSub(a.IKE.Conn), &a.IKE, now)
			s.Broadcast(evIKEUpdown, m)
		}
	case ike.IKERekeyed:
		if s.Wants(evIKERekey) {
			both := m.SetSub(a.New.Conn)
			renderIKE(both.SetSub("old"), &a.Old, now)
			renderIKE(both.SetSub("new"), &a.New, now)
			s.Broadcast(evIKERekey, m)
		}
	case ike.ChildUpdown:
		if s.Wants(evChildUpdown) {
			m.SetYes("up", a.Up)
			children := ofIKE(m, &a.IKE, now)
			renderChild(children.SetSub(childName(&a.Child)), &a.Child, sa.Counters{}, sa.Counters{}, now)
			s.Broadcast(evChildUpdown, m)
		}
	case ike.ChildRekeyed:
		if s.Wants(evChildRekey) {
			both := ofIKE(m, &a.IKE, now).SetSub(a.New.Pair.Child)
			renderChild(both.SetSub("old"), &a.Old, sa.Counters{}, sa.Counters{}, now)
			renderChild(both.SetSub("new"), &a.New, sa.Counters{}, sa.Counters{}, now)
			s.Broadcast(evChildRekey, m)
		}
	}
}

// ofIKE renders the IKE SA into m and returns the section of its children.
func ofIKE(m *Message, i *ike.IKEInfo, now time.Time) *Message {
	section := m.SetSub(i.Conn)
	renderIKE(section, i, now)
	return section.SetSub("child-sas")
}

// Logs reports whether a client is registered for the daemon's log.
func (s *Server) Logs() bool { return s.Wants(evLog) }

// Log sends a line of the daemon's log to the clients registered for it. It
// never waits; a slow reader loses lines.
func (s *Server) Log(l Line) {
	if s.Wants(evLog) {
		m := renderLine(l)
		m.Set("thread", "0")
		s.Broadcast(evLog, m)
	}
}

func renderLine(l Line) *Message {
	m := &Message{}
	m.Set("group", l.Group)
	m.SetInt("level", int64(logLevel(l.Level)))
	if l.Conn != "" {
		m.Set("ikesa-name", l.Conn)
	}
	if l.IKE != 0 {
		m.SetInt("ikesa-uniqueid", int64(l.IKE))
	}
	text := l.Text
	if len(text) > maxValue {
		text = text[:maxValue]
	}
	m.Set("msg", text)
	return m
}

// logLevel is strongSwan's level of a line: 0 is for what must be seen, 1 for
// the control flow, 2 and 3 for debugging.
func logLevel(l slog.Level) int {
	switch {
	case l >= slog.LevelWarn:
		return 0
	case l >= slog.LevelInfo:
		return 1
	case l >= slog.LevelDebug:
		return 2
	}
	return 3
}
