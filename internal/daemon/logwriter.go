// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"io"
	"log/slog"
	"sync"
	"time"
)

// How long a line of the log may be kept back for those that follow, and how
// many bytes.
const (
	logDelay = 20 * time.Millisecond
	logRoom  = 64 << 10
)

// logHandler writes the log as text. A line that comes alone is written at once;
// those that follow it on the heels are written together, so that a system call
// for each does not cost more than what they tell of. Warnings and errors take
// all with them at once.
type logHandler struct {
	slog.Handler
	out *logWriter
}

func newLogHandler(w io.Writer, level slog.Leveler) logHandler {
	out := &logWriter{w: w}
	return logHandler{slog.NewTextHandler(out, &slog.HandlerOptions{Level: level}), out}
}

// Handle implements slog.Handler.
func (h logHandler) Handle(ctx context.Context, r slog.Record) error {
	err := h.Handler.Handle(ctx, r)
	if r.Level >= slog.LevelWarn {
		h.out.flush()
	}
	return err
}

// WithAttrs implements slog.Handler.
func (h logHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return logHandler{h.Handler.WithAttrs(attrs), h.out}
}

// WithGroup implements slog.Handler.
func (h logHandler) WithGroup(name string) slog.Handler {
	return logHandler{h.Handler.WithGroup(name), h.out}
}

// logWriter gathers lines.
type logWriter struct {
	w io.Writer

	mu      sync.Mutex // guards what follows, and w
	lines   []byte
	written time.Time   // when something was last
	timer   *time.Timer // writes what waits; runs where waiting is set
	waiting bool
}

// Write implements io.Writer. It never fails: there is nobody to tell.
func (l *logWriter) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, p...)
	wait := logDelay - time.Since(l.written)
	switch {
	case wait <= 0 || len(l.lines) >= logRoom:
		l.writeOut()
	case l.waiting:
	case l.timer == nil:
		l.waiting = true
		l.timer = time.AfterFunc(wait, l.flush)
	default:
		l.waiting = true
		l.timer.Reset(wait)
	}
	return len(p), nil
}

// flush writes what waits.
func (l *logWriter) flush() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.writeOut()
}

func (l *logWriter) writeOut() {
	l.waiting = false
	if len(l.lines) == 0 {
		return
	}
	_, _ = l.w.Write(l.lines)
	l.lines = l.lines[:0]
	l.written = time.Now()
}
