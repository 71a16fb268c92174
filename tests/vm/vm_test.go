// SPDX-License-Identifier: Apache-2.0

// Package vm runs tests in guests with stock Debian kernels: those in its
// folder "inner", and those of other packages that have the build tag "guest".
// "make vm" runs them all; package guest says how.
//
// With VM_RUN, a regular expression as for go test's -run, only the tests run
// that match it. TestPackage runs the tests of ./offload, or with VM_PACKAGE
// those of another package. What a guest prints goes into the file VM_LOG, where
// that is set, as it comes.
package vm

import (
	"cmp"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"quicksand/tests/vm/guest"
)

// modules are what a guest has loaded before its tests; the kernel loads more
// by itself where a test asks for it.
var modules = []string{"veth", "dummy", "tun", "psample", "xfrm_user", "esp4", "esp6", "esp4_offload", "esp6_offload"}

// TestLinux612 runs the inner tests on a kernel that knows packet offload, with
// devices that simulate NICs: netdevsim, and the test NIC.
func TestLinux612(t *testing.T) {
	k, job := linux612(t)
	run(t, k, job, program{dir: "inner", flags: []string{"-test.skip=^TestOld"}})
}

// TestLinux61 runs what concerns a kernel without packet offload.
func TestLinux61(t *testing.T) {
	ip := get(t, guest.Linux612).IP()
	run(t, get(t, guest.Linux61), guest.Job{Modules: modules, IP: ip}, program{dir: "inner", flags: []string{"-test.skip=^Test([^O]|O[^l])"}})
}

// TestPackage runs a package's tests with the devices of TestLinux612.
func TestPackage(t *testing.T) {
	k, job := linux612(t)
	run(t, k, job, program{dir: filepath.Join("../..", cmp.Or(os.Getenv("VM_PACKAGE"), "offload"))})
}

// TestInterop runs those tests of daemons that need more of a kernel than a
// machine's own may have: VLANs.
func TestInterop(t *testing.T) {
	k := get(t, guest.Linux612)
	run(t, k, guest.Job{Modules: append(modules, "8021q"), IP: k.IP()}, program{dir: "../interop", only: "TestSteeredVLAN"})
}

// linux612 returns the kernel, and a job with its devices.
func linux612(t *testing.T) (*guest.Kernel, guest.Job) {
	t.Helper()
	k := get(t, guest.Linux612)
	netdevsim, err := k.Netdevsim()
	if err != nil {
		t.Fatal(err)
	}
	nic, err := k.Build("qsnic", "nic")
	if err != nil {
		t.Fatal(err)
	}
	return k, guest.Job{Modules: append(modules, netdevsim, nic), IP: k.IP()}
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

// program is a package's tests.
type program struct {
	dir   string
	flags []string
	only  string // the name of its one test that is to run, or empty
}

// run boots the kernel, runs the program there and reports its tests as
// subtests.
func run(t *testing.T, k *guest.Kernel, j guest.Job, p program) {
	t.Helper()
	dir, err := filepath.Abs(p.dir)
	if err != nil {
		t.Fatal(err)
	}
	const timeout = 20 * time.Minute
	j.Dir, j.Timeout = dir, timeout
	if name := os.Getenv("VM_LOG"); name != "" {
		f, err := os.Create(name)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		j.Log = f
	}
	j.Env = []string{"QUICKSAND_GUEST=1"}
	j.Command = append([]string{build(t, dir), "-test.v=test2json", "-test.timeout=" + (timeout - time.Minute).String()}, p.flags...)
	filter := os.Getenv("VM_RUN")
	switch {
	case p.only != "":
		if !regexp.MustCompile(filter).MatchString(p.only) {
			t.Logf("%s does not match %s", p.only, filter)
			return
		}
		j.Command = append(j.Command, "-test.run=^"+p.only+"$")
	case filter != "":
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
	switch {
	case n == 0 && filter != "":
		t.Logf("no test here matches %s", filter)
	case n == 0:
		t.Errorf("no test ran; the guest printed:\n%s", r.Output)
	}
	if r.Status != 0 && !t.Failed() {
		t.Errorf("the tests ended with status %d:\n%s", r.Status, r.Output)
	}
	if faults := r.Faults(); len(faults) > 0 {
		t.Errorf("the kernel found faults in itself:\n%s", r.Console)
	}
}

// build compiles a package's tests into a program that needs nothing else.
func build(t *testing.T, dir string) string {
	t.Helper()
	file, err := os.CreateTemp(guest.Dir(), "tests-")
	if err != nil {
		t.Fatal(err)
	}
	file.Close()
	t.Cleanup(func() { os.Remove(file.Name()) })
	cmd := exec.Command("go", "test", "-c", "-tags=guest", "-o", file.Name(), ".")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if b, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build tests of %s: %v: %s", dir, err, b)
	}
	return file.Name()
}
