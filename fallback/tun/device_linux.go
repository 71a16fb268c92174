// SPDX-License-Identifier: Apache-2.0

package tun

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Offloads that the device's user takes on: what of the kernel's packets need
// not be cut and summed before they are read. Those of UDP it has since Linux 6.2.
const (
	offloads    = unix.TUN_F_CSUM | unix.TUN_F_TSO4 | unix.TUN_F_TSO6 | unix.TUN_F_TSO_ECN
	offloadsUDP = offloads | unix.TUN_F_USO4 | unix.TUN_F_USO6
)

// tunExclusive is IFF_TUN_EXCL: a device of the name must not exist yet.
const tunExclusive = 0x8000

// device is a TUN device of the kernel's.
type device struct {
	name    string
	queues  []Queue
	udp     bool
	wake    int // an eventfd, readable once the device is stopped
	stopped atomic.Bool

	steering *steering // nil: there is one queue
	spare    int       // processors for PollBusy
}

// Open makes a TUN device of the name, with an MTU in bytes and at least one
// queue. The error wraps EBUSY where it exists.
func Open(name string, mtu, queues int) (Device, error) {
	return open(name, mtu, queues, offloadsUDP)
}

// open is Open with the best offloads to be tried.
func open(name string, mtu, queues, best int) (Device, error) {
	fail := func(err error) (Device, error) { return nil, fmt.Errorf("make TUN device %s: %w", name, err) }
	if len(name) >= unix.IFNAMSIZ {
		return fail(unix.ENAMETOOLONG)
	}
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return fail(err)
	}
	d := &device{name: name, wake: wake, spare: 2 * max(queues, 1)} // for the way out and the way in
	addSpare(d.spare)
	for len(d.queues) < max(queues, 1) {
		q, err := d.add(best)
		if err != nil {
			return fail(errors.Join(err, d.Close()))
		}
		d.queues = append(d.queues, q)
	}
	if err := d.setMTU(mtu); err != nil {
		return fail(errors.Join(err, d.Close()))
	}
	if len(d.queues) > 1 {
		if d.steering, err = newSteering(d.queues[0].(*queue).fd); err != nil {
			return fail(errors.Join(err, d.Close()))
		}
	}
	return d, nil
}

// request is a struct ifreq.
type request struct {
	name  [unix.IFNAMSIZ]byte
	value [24]byte
}

func ioctl(fd int, call uintptr, arg uintptr) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), call, arg); errno != 0 {
		return errno
	}
	return nil
}

// add adds a queue; the first one makes the device.
func (d *device) add(best int) (*queue, error) {
	first := len(d.queues) == 0
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open /dev/net/tun: %w", err)
	}
	flags := uint16(unix.IFF_TUN | unix.IFF_NO_PI | unix.IFF_VNET_HDR | unix.IFF_MULTI_QUEUE)
	if first {
		flags |= tunExclusive
	}
	var r request
	copy(r.name[:], d.name)
	binary.NativeEndian.PutUint16(r.value[:], flags)
	if err := ioctl(fd, unix.TUNSETIFF, uintptr(unsafe.Pointer(&r))); err != nil {
		return nil, errors.Join(fmt.Errorf("add queue: %w", err), unix.Close(fd))
	}
	if first {
		if err = ioctl(fd, unix.TUNSETOFFLOAD, uintptr(best)); err == nil {
			d.udp = best == offloadsUDP
		} else {
			err = ioctl(fd, unix.TUNSETOFFLOAD, offloads)
		}
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("set offloads: %w", err), unix.Close(fd))
	}
	return &queue{d: d, fd: fd}, nil
}

func (d *device) setMTU(mtu int) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("set MTU: %w", err)
	}
	defer unix.Close(fd)
	var r request
	copy(r.name[:], d.name)
	binary.NativeEndian.PutUint32(r.value[:], uint32(mtu))
	if err := ioctl(fd, unix.SIOCSIFMTU, uintptr(unsafe.Pointer(&r))); err != nil {
		return fmt.Errorf("set MTU: %w", err)
	}
	return nil
}

func (d *device) Name() string    { return d.name }
func (d *device) Queues() []Queue { return d.queues }
func (d *device) UDP() bool       { return d.udp }

func (d *device) Stop() {
	d.stopped.Store(true)
	one := [8]byte{1}
	_, _ = unix.Write(d.wake, one[:]) // it can only be readable already
}

func (d *device) Close() error {
	addSpare(-d.spare)
	errs := []error{d.steering.close()}
	for _, q := range d.queues {
		errs = append(errs, unix.Close(q.(*queue).fd))
	}
	return errors.Join(append(errs, unix.Close(d.wake))...)
}

// queue is one file descriptor of the device. It does not go through the
// runtime's poller, which would add a hand-over to each wake-up.
type queue struct {
	d  *device
	fd int
}

func (q *queue) Read(frame []byte, wait bool) (int, error) {
	for {
		// The kernel copies one frame, which takes a few microseconds at most:
		// the runtime need not be told.
		n, _, errno := unix.RawSyscall(unix.SYS_READ, uintptr(q.fd), uintptr(unsafe.Pointer(&frame[0])), uintptr(len(frame)))
		switch {
		case errno == 0:
			return int(n), nil
		case errno == unix.EINTR:
		case errno != unix.EAGAIN:
			if q.d.stopped.Load() {
				return 0, os.ErrClosed
			}
			return 0, errno
		case !wait:
			return 0, ErrEmpty
		default:
			if err := q.wait(); err != nil {
				return 0, err
			}
		}
	}
}

// wait waits for a frame.
func (q *queue) wait() error {
	fds := [2]unix.PollFd{{Fd: int32(q.fd), Events: unix.POLLIN}, {Fd: int32(q.d.wake), Events: unix.POLLIN}}
	if !PollBusy(fds[:]) {
		if _, err := unix.Poll(fds[:], -1); err != nil && err != unix.EINTR {
			return fmt.Errorf("wait for a frame: %w", err)
		}
	}
	if q.d.stopped.Load() {
		return os.ErrClosed
	}
	return nil
}

func (q *queue) Write(pieces [][]byte) error {
	var iov [MaxPieces]unix.Iovec
	n := 0
	for _, p := range pieces {
		if len(p) > 0 {
			iov[n].Base = &p[0]
			iov[n].SetLen(len(p))
			n++
		}
	}
	for {
		// It ends in the receiver's socket, some ten microseconds later at most.
		_, _, errno := unix.RawSyscall(unix.SYS_WRITEV, uintptr(q.fd), uintptr(unsafe.Pointer(&iov[0])), uintptr(n))
		switch errno {
		case 0:
			return nil
		case unix.EINTR:
		default:
			return errno
		}
	}
}
