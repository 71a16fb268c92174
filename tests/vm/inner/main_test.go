// SPDX-License-Identifier: Apache-2.0

// Package inner has the tests that package vm runs in its guests. Elsewhere it
// has none: they take devices and the kernel's SAs for their own.
package inner

import (
	"fmt"
	"os"
	"testing"

	"quicksand/tests/harness"
)

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
