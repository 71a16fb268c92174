// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// writes keeps what each call to Write brought.
type writes struct {
	mu    sync.Mutex
	calls []string
}

func (w *writes) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.calls = append(w.calls, string(p))
	return len(p), nil
}

// took returns the lines that each call since the last time brought.
func (w *writes) took() (lines []int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range w.calls {
		lines = append(lines, strings.Count(c, "\n"))
	}
	w.calls = nil
	return lines
}

func TestLogLinesTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &writes{}
		h := newLogHandler(w, slog.LevelInfo)
		log := slog.New(h).With("part", "test")
		expect := func(what string, want ...int) {
			t.Helper()
			synctest.Wait()
			got := w.took()
			if len(got) != len(want) {
				t.Fatalf("%s: writes of %v lines, want %v", what, got, want)
			}
			for i := range got {
				if got[i] != want[i] {
					t.Fatalf("%s: writes of %v lines, want %v", what, got, want)
				}
			}
		}
		log.Info("alone")
		expect("a line that comes alone", 1)
		log.Info("second")
		log.Debug("not logged")
		log.Info("third")
		expect("lines on its heels")
		time.Sleep(logDelay)
		expect("after the delay", 2)
		log.Info("fourth")
		log.Warn("fifth")
		expect("a warning", 2)
		log.Info("sixth")
		time.Sleep(logDelay)
		expect("the delay counts from the last write", 1)
		log.Info("seventh")
		log.Info(strings.Repeat("long ", logRoom/5))
		expect("a full buffer", 2)
		log.Info("last")
		h.out.flush()
		expect("the end", 1)
		time.Sleep(time.Hour)
		log.Info("later")
		expect("after a pause", 1)
	})
}
