// SPDX-License-Identifier: Apache-2.0

package accel

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// restoreAffinity gives every thread the CPUs back once the test is over.
func restoreAffinity(t *testing.T) []int {
	t.Helper()
	allowed, err := Allowed()
	if err != nil || len(allowed) == 0 {
		t.Fatalf("Allowed() = %v, %v", allowed, err)
	}
	t.Cleanup(func() {
		all, err := setOf(allowed)
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			err = eachThread(func(tid int, _ unix.CPUSet) error { return unix.SchedSetaffinity(tid, all) })
			if err != nil {
				t.Error(err)
			}
		}
	})
	return allowed
}

// pinned runs a thread that is bound to the CPU until the test is over, and
// returns its id.
func pinned(t *testing.T, cpu int) int {
	t.Helper()
	tid := make(chan int)
	end, ended := make(chan struct{}), make(chan struct{})
	var err error
	var work func()
	work = func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			// The main thread does not end with its goroutine, and would stay
			// where it was pinned.
			done := make(chan struct{})
			go func() { work(); close(done) }()
			<-done
			runtime.UnlockOSThread()
			return
		}
		err = Pin(cpu)
		tid <- unix.Gettid()
		<-end
	}
	go func() {
		defer close(ended)
		work()
	}()
	id := <-tid
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		close(end)
		<-ended
		// The thread ends a moment after its goroutine.
		for task := fmt.Sprintf("/proc/self/task/%d", id); ; runtime.Gosched() {
			if _, err := os.Stat(task); err != nil {
				return
			}
		}
	})
	return id
}

func cpusOf(t *testing.T, tid int) []int {
	t.Helper()
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(tid, &set); err != nil {
		t.Fatal(err)
	}
	return members(&set)
}

func TestPin(t *testing.T) {
	allowed, err := Allowed()
	if err != nil {
		t.Fatal(err)
	}
	for _, cpu := range allowed {
		if got := cpusOf(t, pinned(t, cpu)); !slices.Equal(got, []int{cpu}) {
			t.Errorf("a thread pinned to %d runs on %v", cpu, got)
		}
	}
	if err := Pin(maxCPU + 1); err == nil {
		t.Error("a CPU out of range was accepted")
	}
	if !slices.Contains(allowed, maxCPU) {
		if err := Pin(maxCPU); !errors.Is(err, unix.EINVAL) {
			t.Errorf("pinning to a CPU that does not exist: %v, want EINVAL", err)
		}
	}
}

func TestKeepAway(t *testing.T) {
	allowed := restoreAffinity(t)
	if _, err := KeepAway(allowed); !errors.Is(err, ErrNoOtherCPU) {
		t.Errorf("keeping off every CPU: %v, want ErrNoOtherCPU", err)
	}
	if now, err := Allowed(); err != nil || !slices.Equal(now, allowed) {
		t.Errorf("a refusal changed the process's CPUs to %v, %v", now, err)
	}
	last := allowed[len(allowed)-1:]
	rest := allowed[:len(allowed)-1]
	if len(rest) == 0 {
		return // one core: the refusal above is all there is to see
	}
	worker := pinned(t, last[0])
	procs := runtime.GOMAXPROCS(0)
	moved, err := KeepAway(last)
	if err != nil || moved == 0 {
		t.Fatalf("KeepAway(%v) = %d, %v", last, moved, err)
	}
	if now := runtime.GOMAXPROCS(0); now != procs {
		t.Errorf("GOMAXPROCS went from %d to %d", procs, now)
	}
	if got := cpusOf(t, worker); !slices.Equal(got, last) {
		t.Errorf("the worker was moved from %v to %v", last, got)
	}
	checkRest := func(what string) {
		err := eachThread(func(tid int, set unix.CPUSet) error {
			if got := members(&set); tid != worker && !slices.Equal(got, rest) {
				t.Errorf("%s: thread %d runs on %v, want %v", what, tid, got, rest)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	checkRest("after the sweep")
	if got := cpusOf(t, pinned(t, last[0])); !slices.Equal(got, last) {
		t.Errorf("a worker that starts after the sweep runs on %v, want %v", got, last)
	}
	// A thread that a swept one starts inherits its CPUs.
	young := make(chan unix.CPUSet)
	go func() {
		runtime.LockOSThread()
		var set unix.CPUSet
		if err := unix.SchedGetaffinity(0, &set); err != nil {
			t.Error(err)
		}
		young <- set
	}()
	if set := <-young; !slices.Equal(members(&set), rest) {
		t.Errorf("a new thread runs on %v, want %v", members(&set), rest)
	}
	if moved, err := KeepAway(last); err != nil || moved != 0 {
		t.Errorf("a second sweep moved %d threads, %v", moved, err)
	}
	if moved, err := KeepAway(nil); err != nil || moved != 0 {
		t.Errorf("KeepAway of no CPU moved %d threads, %v", moved, err)
	}
}
