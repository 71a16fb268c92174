// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"log/slog"

	systemd "github.com/coreos/go-systemd/v22/daemon"
)

// tellManager tells the service manager that started the daemon, if one did, how
// far it is (sd_notify(3)).
func tellManager(state string, log *slog.Logger) {
	if _, err := systemd.SdNotify(false, state); err != nil {
		log.Warn("the service manager is not told of " + state + ": " + err.Error())
	}
}
