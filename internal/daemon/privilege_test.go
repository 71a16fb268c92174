// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

const privilegeChild = "QUICKSAND_TEST_DROP_PRIVILEGES"

// The test runs itself as another process, which cannot get back what it drops.
func TestDropPrivileges(t *testing.T) {
	if os.Getenv(privilegeChild) != "" {
		fmt.Println(dropAndCheck())
		return
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestDropPrivileges$")
	cmd.Env = append(os.Environ(), privilegeChild+"=1")
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.HasPrefix(string(out), "<nil>\n") {
		t.Errorf("%v\n%s", err, out)
	}
}

func dropAndCheck() error {
	if err := forbidDumps(); err != nil {
		return err
	}
	if d, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0); err != nil || d != 0 {
		return fmt.Errorf("dumpable is %d, %v", d, err)
	}
	err := dropPrivileges()
	if errors.Is(err, unix.ENOTSUP) && underCgo {
		return nil
	}
	if err != nil {
		return err
	}
	var keep uint64
	for _, c := range kept {
		keep |= 1 << c
	}
	tasks, err := filepath.Glob("/proc/self/task/*/status")
	if err != nil || len(tasks) < 2 {
		return fmt.Errorf("threads: %d, %v", len(tasks), err)
	}
	for _, task := range tasks {
		status, err := os.ReadFile(task)
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(status)) {
			key, value, _ := strings.Cut(strings.TrimSpace(line), ":\t")
			switch key {
			case "CapInh", "CapPrm", "CapEff":
				if caps, err := strconv.ParseUint(value, 16, 64); err != nil || caps&^keep != 0 {
					return fmt.Errorf("%s: %s", task, line)
				}
			case "NoNewPrivs":
				if value != "1" {
					return fmt.Errorf("%s: %s", task, line)
				}
			}
		}
	}
	return nil
}

func TestRouteLookup(t *testing.T) {
	for _, remote := range []string{"127.0.0.9:500", "[::ffff:127.0.0.9]:500"} {
		got, err := routeLookup(0)(mustAddrPort(remote))
		if err != nil || got.String() != "127.0.0.1" {
			t.Errorf("to %s from %s, %v", remote, got, err)
		}
	}
}
