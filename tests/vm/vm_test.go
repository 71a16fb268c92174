// SPDX-License-Identifier: Apache-2.0

// Package vm runs the tests in its folder "inner" in guests with stock Debian
// kernels: "make vm". See package guest for how.
package vm

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"quicksand/tests/vm/guest"
)

// filter is a regular expression of the inner tests to run, as go test's -run.
var filter = os.Getenv("VM_RUN")

// modules are what a guest has loaded before its tests; the kernel loads more
// by itself where a test asks for it.
var modules = []string{"veth", "dummy", "psample", "xfrm_user", "esp4", "esp6", "esp4_offload", "esp6_offload"}

// TestLinux612 runs all on a kernel that knows packet offload, with devices
// that simulate NICs.
func TestLinux612(t *testing.T) {
	k := get(t, guest.Linux612)
	netdevsim, err := k.Netdevsim()
	if err != nil {
		t.Fatal(err)
	}
	nic, err := k.Build("qsnic", "nic")
	if err != nil {
		t.Fatal(err)
	}
	runInner(t, k, guest.Job{Modules: append(modules, netdevsim, nic), IP: k.IP()}, "-test.skip=^TestOld")
}

// TestLinux61 runs what concerns a kernel without packet offload.
func TestLinux61(t *testing.T) {
	ip := get(t, guest.Linux612).IP()
	runInner(t, get(t, guest.Linux61), guest.Job{Modules: modules, IP: ip}, "-test.run=^TestOld")
}

func get(t *testing.T, s guest.Source) *guest.Kernel {
	t.Helper()
	start := time.Now()
	k, err := s.Get()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("Linux %s, ready after %v", k.Release, time.Since(start).Round(time.Millisecond))
	return k
}

// runInner boots the kernel, runs the inner tests that the flag chooses and
// reports them as subtests.
func runInner(t *testing.T, k *guest.Kernel, j guest.Job, choice string) {
	t.Helper()
	dir, err := filepath.Abs("inner")
	if err != nil {
		t.Fatal(err)
	}
	const timeout = 10 * time.Minute
	j.Dir, j.Timeout = dir, timeout
	j.Env = []string{"QUICKSAND_GUEST=1"}
	j.Command = []string{build(t, dir), "-test.v=test2json", "-test.timeout=" + (timeout - time.Minute).String(), choice}
	if filter != "" {
		j.Command = append(j.Command, "-test.run="+filter)
	}
	r, err := k.Run(context.Background(), j)
	if r == nil {
		t.Fatal(err)
	}
	t.Logf("booted in %.1f s, ended after %.1f s", r.Boot.Seconds(), r.Total.Seconds())
	n := guest.Replay(t, r.Output)
	if err != nil {
		t.Errorf("%v; the kernel said:\n%s", err, r.Console)
	}
	if n == 0 {
		t.Errorf("no test ran; the guest printed:\n%s", r.Output)
	}
	if r.Status != 0 && !t.Failed() {
		t.Errorf("the tests ended with status %d:\n%s", r.Status, r.Output)
	}
	if faults := r.Faults(); len(faults) > 0 {
		t.Errorf("the kernel found faults in itself:\n%s", r.Console)
	}
}

// build compiles the inner tests into a program that needs nothing else.
func build(t *testing.T, dir string) string {
	t.Helper()
	out := filepath.Join(guest.Dir(), "inner-"+filepath.Base(t.TempDir())+".test")
	cmd := exec.Command("go", "test", "-c", "-o", out, ".")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if b, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build inner tests: %v: %s", err, b)
	}
	t.Cleanup(func() { os.Remove(out) })
	return out
}
