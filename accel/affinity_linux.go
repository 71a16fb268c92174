// SPDX-License-Identifier: Apache-2.0

package accel

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"
)

// maxSweeps ends KeepAway where something else sets the threads' affinity too.
const maxSweeps = 16

// ErrNoOtherCPU is KeepAway's answer where nothing would be left for the rest
// of the process: a machine of one core, or a list that covers them all.
var ErrNoOtherCPU = errors.New("no CPU would be left for the rest of the process")

// Allowed returns the CPUs that the process's threads may run on, taken
// together, in order.
func Allowed() ([]int, error) {
	var union unix.CPUSet
	err := eachThread(func(tid int, set unix.CPUSet) error {
		for i := range set {
			union[i] |= set[i]
		}
		return nil
	})
	return members(&union), err
}

// Pin binds the calling thread to the CPUs. The caller has locked its
// goroutine to the thread (runtime.LockOSThread) and never unlocks it, so that
// the thread ends with the goroutine and no other goroutine runs there. Threads
// that the runtime starts later do not inherit the binding: it never clones
// them from a locked thread.
func Pin(cpus ...int) error {
	set, err := setOf(cpus)
	if err != nil {
		return fmt.Errorf("pin thread: %w", err)
	}
	if err := unix.SchedSetaffinity(0, set); err != nil {
		return fmt.Errorf("pin thread to CPU %s: %w", FormatCPUs(cpus), err)
	}
	return nil
}

// KeepAway takes the CPUs away from every thread of the process, save those
// that are pinned to nothing else, and returns the number of threads it moved.
// New threads inherit from the one that starts them, so it is called early in
// main, and sweeps until it finds nothing more to do; calling it again is
// harmless and catches what escaped. It returns ErrNoOtherCPU and changes
// nothing where no CPU would be left.
//
// It also holds GOMAXPROCS at its present value. The runtime would otherwise
// lower it to the CPUs left, and the threads pinned to the others would wait
// for a processor of the runtime's while their own CPU is idle.
func KeepAway(cpus []int) (moved int, err error) {
	away, err := setOf(cpus)
	if err != nil {
		return 0, fmt.Errorf("keep process off CPUs: %w", err)
	}
	left := false
	err = eachThread(func(tid int, set unix.CPUSet) error {
		left = left || !empty(minus(set, away))
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("keep process off CPUs %s: %w", FormatCPUs(cpus), err)
	}
	if !left {
		return 0, fmt.Errorf("keep process off CPUs %s: %w", FormatCPUs(cpus), ErrNoOtherCPU)
	}
	runtime.GOMAXPROCS(runtime.GOMAXPROCS(0))
	for range maxSweeps {
		n, err := sweep(away)
		moved += n
		if err != nil {
			return moved, fmt.Errorf("keep process off CPUs %s: %w", FormatCPUs(cpus), err)
		}
		if n == 0 {
			return moved, nil
		}
	}
	return moved, fmt.Errorf("keep process off CPUs %s: threads still come back to them", FormatCPUs(cpus))
}

func sweep(away *unix.CPUSet) (moved int, err error) {
	err = eachThread(func(tid int, set unix.CPUSet) error {
		rest := minus(set, away)
		if rest == set || empty(rest) {
			return nil
		}
		err := unix.SchedSetaffinity(tid, &rest)
		if err == nil {
			moved++
		}
		return err
	})
	return moved, err
}

// eachThread calls f with every thread of the process and its CPUs. A thread
// that ends meanwhile is passed over.
func eachThread(f func(tid int, set unix.CPUSet) error) error {
	entries, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return fmt.Errorf("list threads: %w", err)
	}
	for _, e := range entries {
		tid, err := strconv.Atoi(e.Name())
		if err != nil {
			return fmt.Errorf("list threads: %w", err)
		}
		var set unix.CPUSet
		err = unix.SchedGetaffinity(tid, &set)
		if err == nil {
			err = f(tid, set)
		}
		if err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("affinity of thread %d: %w", tid, err)
		}
	}
	return nil
}

func setOf(cpus []int) (*unix.CPUSet, error) {
	var set unix.CPUSet
	for _, c := range cpus {
		if c < 0 || c > maxCPU {
			return nil, fmt.Errorf("CPU %d is not in 0 to %d", c, maxCPU)
		}
		set.Set(c)
	}
	return &set, nil
}

func members(set *unix.CPUSet) []int {
	var cpus []int
	for c := range maxCPU + 1 {
		if set.IsSet(c) {
			cpus = append(cpus, c)
		}
	}
	return cpus
}

func minus(set unix.CPUSet, away *unix.CPUSet) unix.CPUSet {
	for i := range set {
		set[i] &^= away[i]
	}
	return set
}

func empty(set unix.CPUSet) bool { return set == unix.CPUSet{} }
