// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"slices"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"quicksand/internal/swanctl"
)

// kept are the capabilities that the daemon goes on with: routes, addresses and
// SAs, raw sockets for ESP and AH, and the IKE ports should they have to be
// opened again.
var kept = []int{unix.CAP_NET_ADMIN, unix.CAP_NET_RAW, unix.CAP_NET_BIND_SERVICE}

// steeringLater returns the capabilities that steering takes once privileges
// are dropped, beside the kept ones: none where the limit of locked memory, of
// which sockets' frames are made, can be lifted now. Programs are loaded before,
// and attached with CAP_NET_ADMIN.
func steeringLater(s *swanctl.Settings) []int {
	limit := unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY}
	if !s.XDPAuto && len(s.XDPInterfaces) == 0 || unix.Setrlimit(unix.RLIMIT_MEMLOCK, &limit) == nil {
		return nil
	}
	return []int{unix.CAP_IPC_LOCK}
}

// pinPath is the folder of this network namespace in a BPF file system, or ""
// where there is none: steering then ends with the process.
func pinPath(folder string) string {
	if folder == "" {
		return ""
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(filepath.Dir(folder), &fs); err != nil || fs.Type != unix.BPF_FS_MAGIC {
		return ""
	}
	var ns unix.Stat_t
	if err := unix.Stat("/proc/self/ns/net", &ns); err != nil {
		return ""
	}
	return filepath.Join(folder, fmt.Sprintf("net-%d", ns.Ino))
}

// forbidDumps keeps the memory, which holds keys, out of core dumps and from
// other processes of the same user (prctl(2), PR_SET_DUMPABLE).
func forbidDumps() error {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("forbid core dumps: %w", err)
	}
	return nil
}

// dropPrivileges takes from every thread all capabilities but the kept ones and
// those named,
// for good: the bounding set is cut down as well, and no program that is
// executed gains any (capabilities(7)). It comes after the sockets and the TUN
// device are open. The user stays root, who owns the configuration and the
// control socket, so reading the one again and removing the other needs no
// capability. It is an error where the program was built with cgo, whose
// threads the runtime does not reach.
func dropPrivileges(more ...int) error {
	var keep uint64
	for _, c := range slices.Concat(kept, more) {
		keep |= 1 << c
	}
	if err := everyThread(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0); err != nil {
		return fmt.Errorf("drop privileges: %w", err)
	}
	for c := 0; c <= 63; c++ {
		if keep>>c&1 != 0 {
			continue
		}
		err := everyThread(unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, uintptr(c), 0)
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EPERM) {
			break // past the kernel's last one; or not root, who alone may
		}
		if err != nil {
			return fmt.Errorf("drop privileges: bounding set: %w", err)
		}
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return fmt.Errorf("drop privileges: read capabilities: %w", err)
	}
	for i := range data {
		mask := uint32(keep >> (32 * i))
		data[i].Permitted &= mask
		data[i].Effective = data[i].Permitted
		data[i].Inheritable = 0
	}
	err := everyThread(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&data)), 0)
	runtime.KeepAlive(&header)
	runtime.KeepAlive(&data)
	if err != nil {
		return fmt.Errorf("drop privileges: set capabilities: %w", err)
	}
	return nil
}

// everyThread makes a system call on every thread of the process: Linux keeps
// capabilities for each.
func everyThread(trap, a1, a2, a3 uintptr) error {
	_, _, errno := syscall.AllThreadsSyscall6(trap, a1, a2, a3, 0, 0, 0)
	if errno == syscall.ENOTSUP {
		return fmt.Errorf("the program was built with cgo: %w", errno)
	}
	if errno != 0 {
		return errno
	}
	return nil
}
