// SPDX-License-Identifier: Apache-2.0

package xdp

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/features"
	"github.com/mdlayher/netlink"
	family "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Report is what the kernel and its devices have for steering; an error says
// why they have not.
type Report struct {
	Programs error // BPF programs of type XDP load
	JIT      error // and are compiled
	Sockets  error // AF_XDP
	// Devices is all devices but the loopback. It is empty, and DevicesErr not
	// nil, where the kernel does not tell (before 6.3).
	Devices    []Device
	DevicesErr error
}

// Device is what a device's driver does by itself. Without Native, programs run
// behind the driver, on packets that it has made a socket buffer of.
type Device struct {
	Name     string
	Native   bool // runs programs
	Redirect bool // to other devices, CPUs and sockets
	Transmit bool // frames that others redirect to it
	ZeroCopy bool // with AF_XDP
}

// Survey finds out what the kernel and its devices have. It changes nothing.
func Survey() *Report {
	r := &Report{Programs: features.HaveProgramType(ebpf.XDP), JIT: compiled(), Sockets: haveSockets()}
	r.Devices, r.DevicesErr = surveyDevices()
	return r
}

func compiled() error {
	const path = "/proc/sys/net/core/bpf_jit_enable"
	b, err := os.ReadFile(path)
	if err != nil {
		return errors.New("the kernel has no compiler for BPF")
	}
	if string(bytes.TrimSpace(b)) == "0" {
		return fmt.Errorf("%s is 0", path)
	}
	return nil
}

func haveSockets() error {
	fd, err := unix.Socket(unix.AF_XDP, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open AF_XDP socket: %w", err)
	}
	return unix.Close(fd)
}

// The family netdev of generic netlink (linux/netdev.h).
const (
	netdevFamily  = "netdev"
	netdevDevGet  = 1
	netdevIndex   = 1
	netdevXDP     = 3
	actBasic      = 1 << 0
	actRedirect   = 1 << 1
	actTransmit   = 1 << 2
	actZeroCopy   = 1 << 3
	lenGenlHeader = 4
)

func surveyDevices() ([]Device, error) {
	f, err := family.GenlFamilyGet(netdevFamily)
	if err != nil {
		return nil, errors.New("the kernel does not tell what drivers do, before Linux 6.3")
	}
	c, err := netlink.Dial(unix.NETLINK_GENERIC, nil)
	if err != nil {
		return nil, fmt.Errorf("open generic netlink: %w", err)
	}
	defer c.Close()
	got, err := c.Execute(netlink.Message{
		Header: netlink.Header{Type: netlink.HeaderType(f.ID), Flags: netlink.Request | netlink.Dump},
		Data:   []byte{netdevDevGet, 1, 0, 0},
	})
	if err != nil {
		return nil, fmt.Errorf("ask for the devices' features: %w", err)
	}
	var out []Device
	for _, m := range got {
		d, err := decodeDevice(m.Data)
		if err != nil {
			return nil, err
		}
		if d.Name != "lo" && d.Name != "" {
			out = append(out, d)
		}
	}
	return out, nil
}

// decodeDevice reads what the kernel says of a device. One that has gone in the
// meantime has no name.
func decodeDevice(b []byte) (d Device, err error) {
	if len(b) < lenGenlHeader {
		return d, fmt.Errorf("decode device: %d bytes are not enough", len(b))
	}
	attrs, err := netlink.NewAttributeDecoder(b[lenGenlHeader:])
	if err != nil {
		return d, fmt.Errorf("decode device: %w", err)
	}
	attrs.ByteOrder = binary.NativeEndian
	for attrs.Next() {
		switch attrs.Type() {
		case netdevIndex:
			if i, err := net.InterfaceByIndex(int(attrs.Uint32())); err == nil {
				d.Name = i.Name
			}
		case netdevXDP:
			has := attrs.Uint64()
			d.Native, d.Redirect = has&actBasic != 0, has&actRedirect != 0
			d.Transmit, d.ZeroCopy = has&actTransmit != 0, has&actZeroCopy != 0
		}
	}
	if err := attrs.Err(); err != nil {
		return d, fmt.Errorf("decode device: %w", err)
	}
	return d, nil
}

// String says what a device does, for the operator.
func (d Device) String() string {
	if !d.Native {
		return "no XDP in the driver: programs run behind it"
	}
	does := []string{"XDP in the driver"}
	for _, c := range []struct {
		has  bool
		what string
	}{{d.Redirect, "redirect"}, {d.Transmit, "transmit"}, {d.ZeroCopy, "AF_XDP without copying"}} {
		if c.has {
			does = append(does, c.what)
		} else {
			does = append(does, "no "+c.what)
		}
	}
	return strings.Join(does, ", ")
}
