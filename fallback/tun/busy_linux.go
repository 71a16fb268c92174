// SPDX-License-Identifier: Apache-2.0

package tun

import (
	"runtime"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// busyTime is how long PollBusy waits at most.
const busyTime = 2 * time.Millisecond

// spare is how many of the runtime's processors PollBusy may keep from others
// at the moment.
var spare atomic.Int32

var procs sync.Mutex // held while GOMAXPROCS is changed

// addSpare gives the runtime n processors more, which PollBusy may take, or
// takes them away.
func addSpare(n int) {
	procs.Lock()
	defer procs.Unlock()
	runtime.GOMAXPROCS(runtime.GOMAXPROCS(0) + n)
	spare.Add(int32(n))
}

// PollBusy waits a moment for one of the files and reports whether it is ready.
// The runtime is not told: under load the wait ends soon, and to hand the
// goroutine's processor over to another thread and take it back costs more than
// a packet does. Nobody lacks that processor, since an open device has brought
// its own. Whoever was given false waits in the common way.
func PollBusy(fds []unix.PollFd) bool {
	if spare.Add(-1) < 0 {
		spare.Add(1)
		return false
	}
	t := unix.NsecToTimespec(int64(busyTime))
	n, _, errno := unix.RawSyscall6(unix.SYS_PPOLL, uintptr(unsafe.Pointer(&fds[0])), uintptr(len(fds)), uintptr(unsafe.Pointer(&t)), 0, 0, 0)
	spare.Add(1)
	return errno == 0 && n > 0
}
