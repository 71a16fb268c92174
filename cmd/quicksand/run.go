// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"

	"quicksand/internal/daemon"
	"quicksand/internal/swanctl"
)

// runDaemon runs the daemon until the program is told to end. A hang-up signal
// has it read its configuration again.
func runDaemon(ctx context.Context, e *env, args []string) error {
	config := e.flags.String("config", "", "the swanctl.conf to load; without one, all comes over the control socket")
	settings := e.flags.String("settings", defaultSettings, "the quicksand.conf, which need not be there where no flag names it")
	if err := e.parse(args); err != nil {
		return err
	}
	named := false
	e.flags.Visit(func(f *flag.Flag) { named = named || f.Name == "settings" })
	if named {
		if _, err := os.Stat(*settings); err != nil {
			return err
		}
	}
	s, err := swanctl.LoadSettings(*settings)
	if err != nil {
		return err
	}
	err = daemon.Run(ctx, daemon.Options{Version: version, Config: *config, Settings: s})
	if errors.Is(err, fs.ErrPermission) {
		if _, lacks := capabilities(); lacks != nil {
			return fmt.Errorf("%w (%w)", err, lacks)
		}
	}
	return err
}
