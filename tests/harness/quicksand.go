// SPDX-License-Identifier: Apache-2.0

package harness

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
)

// QuicksandOptions change how quicksand is run.
type QuicksandOptions struct {
	// Settings are lines of the "quicksand" section of quicksand.conf.
	Settings []string
	// NoKeyLog leaves the key log off, as it is by default outside tests.
	NoKeyLog bool
	// Binary is another program than the one of Binary, such as an older one.
	Binary string
}

// Binary is the path of quicksand's program as "make build" leaves it.
func Binary() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Join(filepath.Dir(file), "..", "..", "bin", "quicksand")
}

// StartQuicksand starts quicksand in the host.
func StartQuicksand(h *Host, o QuicksandOptions) (*Peer, error) {
	p, err := newPeer(Quicksand, h)
	if err != nil {
		return nil, err
	}
	bin := cmp.Or(o.Binary, Binary())
	if _, err := os.Stat(bin); err != nil {
		return nil, fmt.Errorf("start quicksand (make build makes it): %w", err)
	}
	settings := &confWriter{}
	settings.section("quicksand", func() {
		settings.set("vici_socket", "unix://"+p.Socket)
		if !o.NoKeyLog {
			p.KeyDir = filepath.Join(p.dir(), "keys")
			settings.set("key_log", p.KeyDir)
		}
		for _, line := range o.Settings {
			settings.line(line)
		}
	})
	path := filepath.Join(p.dir(), "quicksand.conf")
	if err := os.WriteFile(path, []byte(settings.String()), 0o644); err != nil {
		return nil, fmt.Errorf("start quicksand: %w", err)
	}
	if err := os.WriteFile(p.config, nil, 0o600); err != nil {
		return nil, fmt.Errorf("start quicksand: %w", err)
	}
	p.start = func() (err error) {
		if p.Proc, err = h.Start("quicksand", nil, bin, "run", "--config", p.config, "--settings", path); err != nil {
			return err
		}
		if p.Log.Path == "" {
			p.Log = p.Proc.Log
			h.net.mu.Lock()
			h.net.logs = append(h.net.logs, p.Log)
			h.net.mu.Unlock()
		}
		return p.ready()
	}
	return p, p.start()
}
