// SPDX-License-Identifier: Apache-2.0

package interop

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"quicksand/tests/harness"
)

// TestService installs the program and its unit, has systemd judge the unit, and
// plays the service manager while the program starts and ends.
func TestService(t *testing.T) {
	n := harness.ForTest(t)
	h, err := n.AddHost("a")
	ok(t, err)
	prefix := filepath.Join(n.Dir(), "usr")
	root := filepath.Dir(filepath.Dir(harness.Binary()))
	out, err := exec.Command("make", "-C", root, "install", "PREFIX="+prefix).CombinedOutput()
	if err != nil {
		t.Fatalf("make install: %v\n%s", err, out)
	}
	program := filepath.Join(prefix, "sbin", "quicksand")
	unit := filepath.Join(prefix, "lib", "systemd", "system", "quicksand.service")
	out, err = exec.Command("systemd-analyze", "verify", unit).CombinedOutput()
	if err != nil || len(out) > 0 {
		t.Errorf("systemd-analyze verify: %v\n%s", err, out)
	}
	text, err := os.ReadFile(unit)
	ok(t, err)
	if !strings.Contains(string(text), "\nExecStart="+program+" run ") || !strings.Contains(string(text), "\nType=notify\n") {
		t.Errorf("the unit is\n%s", text)
	}

	path := filepath.Join(n.Dir(), "notify")
	manager, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path})
	ok(t, err)
	defer manager.Close()
	settings := filepath.Join(n.Dir(), "quicksand.conf")
	ok(t, os.WriteFile(settings, []byte("quicksand { vici_socket = "+filepath.Join(n.Dir(), "vici")+"\n}\n"), 0o600))
	p, err := h.Start("service", []string{"NOTIFY_SOCKET=" + path}, program, "run", "--settings", settings)
	ok(t, err)
	told := func(want string) {
		t.Helper()
		buf := make([]byte, 256)
		ok(t, manager.SetReadDeadline(time.Now().Add(10*time.Second)))
		count, err := manager.Read(buf)
		if err != nil || string(buf[:count]) != want {
			t.Fatalf("the manager is told %q, %v; want %q\n%s", buf[:max(count, 0)], err, want, p.Log.Tail(10))
		}
	}
	told("READY=1")
	p.Signal(unix.SIGTERM)
	told("STOPPING=1")
	ok(t, p.Wait(10*time.Second))
}
