// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"quicksand/ike"
	"quicksand/internal/vici"
)

// connKey is the attribute that names a line's connection.
const connKey = "conn"

func connAttr(name string) slog.Attr { return slog.String(connKey, name) }

// say logs a line of the daemon's own: to the log, and to the control
// connections that listen. Group is strongSwan's three letters for the part it
// comes from.
func (d *Daemon) say(level slog.Level, group, text string, attrs ...slog.Attr) {
	d.write(level, text, attrs)
	if d.reporter == nil || !d.reporter.Logs() {
		return
	}
	l := vici.Line{Level: level, Group: group}
	for _, a := range attrs {
		if a.Key == connKey {
			l.Conn = a.Value.String()
		}
	}
	l.Text = withAttrs(text, attrs)
	d.reporter.Log(l)
}

// write writes a line to the log. What slog's own methods would add is the place
// in the code, which no handler of ours prints, and finding it costs a quarter of
// the line.
func (d *Daemon) write(level slog.Level, text string, attrs []slog.Attr) {
	h := d.log.Handler()
	if !h.Enabled(context.Background(), level) {
		return
	}
	r := slog.NewRecord(time.Now(), level, text, 0)
	r.AddAttrs(attrs...)
	_ = h.Handle(context.Background(), r)
}

// engineLog passes a line of the engine's on: to the log, to the control
// connections, and to the command that it belongs to.
func (d *Daemon) engineLog(a ike.Log) {
	attrs := make([]slog.Attr, 0, len(a.Attrs)+2)
	if a.Conn != "" {
		attrs = append(attrs, connAttr(a.Conn))
	}
	if a.IKE != 0 {
		attrs = append(attrs, slog.Uint64("ike", uint64(a.IKE)))
	}
	d.write(a.Level, a.Text, append(attrs, a.Attrs...))
	var text string // made for whoever hears it, once
	line := func() vici.Line {
		if text == "" {
			text = withAttrs(a.Text, a.Attrs)
		}
		return vici.Line{Level: a.Level, Group: "IKE", Conn: a.Conn, IKE: a.IKE, Text: text}
	}
	if d.reporter != nil && d.reporter.Logs() {
		d.reporter.Log(line())
	}
	for id, w := range d.waiters {
		if w.log != nil && w.wants(id, a) {
			w.log(line())
		}
	}
}

// wants reports whether a line belongs to the command: by its number, or by an
// IKE SA that an earlier line named.
func (w *waiter) wants(command uint64, a ike.Log) bool {
	if a.Command == command {
		if a.IKE != 0 {
			w.ikes[a.IKE] = struct{}{}
		}
		return true
	}
	_, ok := w.ikes[a.IKE]
	return ok
}

// withAttrs puts attributes behind a text, for listeners that take text only.
func withAttrs(text string, attrs []slog.Attr) string {
	var b strings.Builder
	b.WriteString(text)
	for _, a := range attrs {
		if a.Key != connKey {
			fmt.Fprintf(&b, " %s=%v", a.Key, a.Value.Resolve())
		}
	}
	return b.String()
}
