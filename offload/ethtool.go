// SPDX-License-Identifier: Apache-2.0

package offload

import (
	"bytes"
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The commands and the string set of linux/ethtool.h that are used here.
const (
	ethtoolStrings    = 0x1b
	ethtoolStringSets = 0x37
	ethtoolFeatures   = 0x3a
	featureStrings    = 4
	stringLen         = 32
)

// ethtool asks devices about themselves.
type ethtool struct{ fd int }

func openEthtool() (*ethtool, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open ethtool's socket: %w", err)
	}
	return &ethtool{fd}, nil
}

func (e *ethtool) close() error {
	if e == nil {
		return nil
	}
	return unix.Close(e.fd)
}

// ifreq is struct ifreq with a pointer as its data.
type ifreq struct {
	name [unix.IFNAMSIZ]byte
	data unsafe.Pointer
	_    [16]byte
}

// call carries out the command that the buffer begins with.
func (e *ethtool) call(device string, buf []byte) error {
	var r ifreq
	copy(r.name[:unix.IFNAMSIZ-1], device)
	r.data = unsafe.Pointer(&buf[0])
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(e.fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&r)))
	runtime.KeepAlive(buf)
	if errno != 0 {
		return errno
	}
	return nil
}

// driver returns the name of the device's driver and its firmware's version;
// either may be empty.
func (e *ethtool) driver(device string) (name, firmware string) {
	info, err := unix.IoctlGetEthtoolDrvinfo(e.fd, device)
	if err != nil {
		return "", ""
	}
	return unix.ByteSliceToString(info.Driver[:]), unix.ByteSliceToString(info.Fw_version[:])
}

// feature is one that a device may have.
type feature struct {
	available bool // the device has it, and it can be turned on
	active    bool
}

// features returns the device's features by ethtool's names for them.
func (e *ethtool) features(device string) (map[string]feature, error) {
	count := make([]byte, 20)
	native.PutUint32(count, ethtoolStringSets)
	native.PutUint64(count[8:], 1<<featureStrings)
	if err := e.call(device, count); err != nil {
		return nil, fmt.Errorf("count features of %s: %w", device, err)
	}
	n := int(native.Uint32(count[16:]))
	names := make([]byte, 12+n*stringLen)
	native.PutUint32(names, ethtoolStrings)
	native.PutUint32(names[4:], featureStrings)
	native.PutUint32(names[8:], uint32(n))
	if err := e.call(device, names); err != nil {
		return nil, fmt.Errorf("list features of %s: %w", device, err)
	}
	words := (n + 31) / 32
	states := make([]byte, 8+16*words)
	native.PutUint32(states, ethtoolFeatures)
	native.PutUint32(states[4:], uint32(words))
	if err := e.call(device, states); err != nil {
		return nil, fmt.Errorf("read features of %s: %w", device, err)
	}
	out := make(map[string]feature, n)
	for i := range n {
		name, _, _ := bytes.Cut(names[12+i*stringLen:][:stringLen], []byte{0})
		at := states[8+16*(i/32):]
		bit := func(word int) bool { return native.Uint32(at[4*word:])>>(i%32)&1 == 1 }
		out[string(name)] = feature{available: bit(0), active: bit(2)}
	}
	return out, nil
}
