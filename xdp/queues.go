// SPDX-License-Identifier: Apache-2.0

package xdp

import (
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ethtoolChannels is struct ethtool_channels of linux/ethtool.h.
type ethtoolChannels struct {
	command                                  uint32
	_                                        [4]uint32 // most that there could be
	receive, transmit, other, bothDirections uint32
}

const ethtoolGetChannels = 0x3c // ETHTOOL_GCHANNELS

// Queues returns how many receive queues the device of the calling thread's
// network namespace has in use: 1 where its driver does not say.
func Queues(device string) (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("count queues of %s: %w", device, err)
	}
	defer unix.Close(fd)
	c := ethtoolChannels{command: ethtoolGetChannels}
	var request struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte // the rest of struct ifreq
	}
	if len(device) >= len(request.name) {
		return 0, fmt.Errorf("count queues of %s: the name is too long", device)
	}
	copy(request.name[:], device)
	request.data = unsafe.Pointer(&c)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request)))
	switch {
	case errors.Is(errno, unix.EOPNOTSUPP):
		return 1, nil
	case errno != 0:
		return 0, fmt.Errorf("count queues of %s: %w", device, errno)
	}
	return int(max(c.receive+c.bothDirections, 1)), nil
}
