// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"quicksand/accel/dh"
	"quicksand/ike"
	"quicksand/internal/swanctl"
	"quicksand/sa"
)

func TestPortInUse(t *testing.T) {
	taken, other := fmt.Errorf("bind port 500: %w", unix.EADDRINUSE), errors.New("bind port 500: no")
	if err := inUse(taken); !errors.Is(err, taken) || !strings.HasSuffix(err.Error(), "another IKE daemon runs in this network namespace") {
		t.Errorf("a port that is taken: %v", err)
	}
	if err := inUse(other); err != other {
		t.Errorf("another error: %v", err)
	}
}

func TestRunNeedsItsConfiguration(t *testing.T) {
	err := Run(t.Context(), Options{Config: filepath.Join(t.TempDir(), "none.conf"), Logger: slog.New(slog.DiscardHandler)})
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Run without its file: %v", err)
	}
}

func TestSettingsWithoutEffectAreSaid(t *testing.T) {
	loud := newReportLog()
	d := newDaemon(Parts{Logger: slog.New(loud), DH: &fakeComputer{}, Kinds: []sa.Kind{sa.Kernel}, Backends: []sa.Backend{newFakeBackend("tun", sa.Userspace)}})
	d.engine = &fakeEngine{}
	d.warnOfSettings(&swanctl.Settings{WorkerCores: []int{1}, XDPAuto: true, Backend: []sa.Kind{sa.Kernel}})
	for _, text := range []string{"xdp_interfaces has no effect", "no SA can be installed"} {
		if !loud.has(slog.LevelWarn, text) {
			t.Errorf("nothing says %q", text)
		}
	}
}

// Two sides of a computation through the daemon's face of the DH engine.
func TestComputer(t *testing.T) {
	c, err := startDH(nil, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	compute := func(a ike.ComputeDH) ike.DHResult {
		t.Helper()
		done := make(chan ike.DHResult, 1)
		if err := c.Compute(a, func(r ike.DHResult) { done <- r }); err != nil {
			t.Fatal(err)
		}
		return <-done
	}
	x := compute(ike.ComputeDH{Token: 1, Group: sa.Curve25519})
	y := compute(ike.ComputeDH{Token: 2, Group: sa.Curve25519, Peer: x.Public})
	x2 := compute(ike.ComputeDH{Token: 3, Group: sa.Curve25519, Private: x.Private, Peer: y.Public})
	if x.Token != 1 || x.Err != nil || x.Shared != nil || y.Token != 2 || len(y.Shared) == 0 || !bytes.Equal(x2.Shared, y.Shared) {
		t.Errorf("the two sides differ: %v %v %v", x.Err, y.Err, x2.Err)
	}
	if bad := compute(ike.ComputeDH{Token: 4, Group: sa.Curve25519, Peer: make([]byte, 32)}); !errors.Is(bad.Err, ike.ErrPublic) || bad.Private != nil {
		t.Errorf("a bad public value: %v", bad.Err)
	}
	if !errors.Is(dhError(dh.ErrQueueFull), ike.ErrBusy) {
		t.Error("a full queue is not said to be busy")
	}
	if workers, _, _ := c.Load(); workers < 1 {
		t.Errorf("%d workers", workers)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if err := c.Compute(ike.ComputeDH{Group: sa.Curve25519}, func(ike.DHResult) { t.Error("answered after Close") }); err == nil {
		t.Error("a closed engine took a computation")
	}
}
