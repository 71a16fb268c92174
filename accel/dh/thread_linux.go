// SPDX-License-Identifier: Apache-2.0

package dh

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// threadName is what the threads of workers with cores of their own are called,
// in /proc and in top.
const threadName = "quicksand-dh"

// nameThread names the calling thread, which nothing depends on.
func nameThread() {
	name := append([]byte(threadName), 0)
	_ = unix.Prctl(unix.PR_SET_NAME, uintptr(unsafe.Pointer(&name[0])), 0, 0, 0)
}
