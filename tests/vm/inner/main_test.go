// SPDX-License-Identifier: Apache-2.0

// Package inner has the tests that package vm runs in its guests. Elsewhere it
// has none: they take devices and the kernel's SAs for their own.
package inner

import (
	"fmt"
	"os"
	"runtime"
	"testing"

	"quicksand/tests/harness"
)

// A thread that has entered a namespace ends with its goroutine, but the first
// one of a process cannot, and would keep the namespace and its devices. So
// nothing but TestMain runs on it.
func init() { runtime.LockOSThread() }

func TestMain(m *testing.M) {
	if os.Getenv("QUICKSAND_GUEST") == "" {
		fmt.Println("these tests run in a guest: make vm")
		return
	}
	code := m.Run()
	harness.CloseAll()
	os.Exit(code)
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
