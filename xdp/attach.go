// SPDX-License-Identifier: Apache-2.0

package xdp

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// linkPrefix begins the names of pinned links; the device's name follows.
const linkPrefix = "link_"

// ErrOccupied is returned when a device has another XDP program. There is one
// place for a program on a device; whoever put it there must make room.
var ErrOccupied = errors.New("another XDP program is attached")

// Mode is how a program is attached.
type Mode uint8

// The modes.
const (
	Native  Mode = iota + 1 // in the driver
	Generic                 // in the stack: any device, slower
)

func (m Mode) String() string {
	if m != Native && m != Generic {
		return "none"
	}
	return [...]string{"native", "generic"}[m-1]
}

// Attachment is what attaching came to, as read back from the device.
type Attachment struct {
	Device    string
	Mode      Mode
	Why       string // why it is not native, in the kernel's words
	TakenOver bool   // the program of an earlier process was replaced, with no gap
}

// links are the devices that a program is attached to.
type links struct {
	mu sync.Mutex // guards by
	by map[string]link.Link
}

func (l *links) close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	var errs []error
	for device, one := range l.by {
		if err := one.Close(); err != nil {
			errs = append(errs, fmt.Errorf("detach from %s: %w", device, err))
		}
	}
	l.by = nil
	return errors.Join(errs...)
}

// Attach begins to steer what the device of the calling thread's network
// namespace receives, natively where its driver can. It returns ErrOccupied
// if the device has another program.
func (p *Program) Attach(device string) (Attachment, error) {
	a, err := p.attach(device)
	if err != nil {
		return Attachment{}, fmt.Errorf("attach to %s: %w", device, err)
	}
	return a, nil
}

func (p *Program) attach(device string) (Attachment, error) {
	p.links.mu.Lock()
	defer p.links.mu.Unlock()
	if p.links.by[device] != nil {
		return Attachment{}, errors.New("attached already")
	}
	found, err := netlink.LinkByName(device)
	if err != nil {
		return Attachment{}, err
	}
	index := found.Attrs().Index
	a := Attachment{Device: device}
	l, err := p.takeOver(device, index)
	a.TakenOver = l != nil
	if l == nil && err == nil {
		l, a.Why, err = p.place(index)
	}
	if err != nil {
		return Attachment{}, err
	}
	if a.Mode, err = mode(index); err == nil && p.options.PinPath != "" && !a.TakenOver {
		err = l.Pin(p.linkPath(device))
	}
	if err != nil {
		return Attachment{}, errors.Join(err, l.Close())
	}
	if p.links.by == nil {
		p.links.by = map[string]link.Link{}
	}
	p.links.by[device] = l
	return a, nil
}

func (p *Program) linkPath(device string) string {
	return filepath.Join(p.options.PinPath, linkPrefix+device)
}

// takeOver replaces the program of a pinned link, or returns nil if there is
// no link that still holds to the device.
func (p *Program) takeOver(device string, index int) (link.Link, error) {
	if p.options.PinPath == "" {
		return nil, nil
	}
	l, err := link.LoadPinnedLink(p.linkPath(device), nil)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("load pinned link: %w", err)
	}
	info, err := l.Info()
	if err == nil && info.XDP() != nil && int(info.XDP().Ifindex) == index {
		if err = l.Update(p.objects.QuicksandSteer); err == nil {
			return l, nil
		}
	} else if err == nil {
		// The device it held to is gone; this one only bears its name.
		err = os.Remove(p.linkPath(device))
	}
	return nil, errors.Join(err, l.Close())
}

// place attaches natively, else generically, and says why not natively.
func (p *Program) place(index int) (link.Link, string, error) {
	o := link.XDPOptions{Program: p.objects.QuicksandSteer, Interface: index, Flags: link.XDPDriverMode}
	l, native := link.AttachXDP(o)
	if native == nil {
		return l, "", nil
	}
	if err := occupied(index, native); err != nil {
		return nil, "", err
	}
	o.Flags = link.XDPGenericMode
	l, err := link.AttachXDP(o)
	if err != nil {
		if other := occupied(index, err); other != nil {
			return nil, "", other
		}
		return nil, "", errors.Join(native, err)
	}
	return l, native.Error(), nil
}

// occupied says which program is in the way, if one is.
func occupied(index int, err error) error {
	if !errors.Is(err, unix.EBUSY) && !errors.Is(err, unix.EEXIST) {
		return nil
	}
	name := "unknown"
	var id uint32
	if found, e := netlink.LinkByIndex(index); e == nil && found.Attrs().Xdp != nil {
		id = found.Attrs().Xdp.ProgId
		if other, e := ebpf.NewProgramFromID(ebpf.ProgramID(id)); e == nil {
			if info, e := other.Info(); e == nil {
				name = info.Name
			}
			other.Close()
		}
	}
	return fmt.Errorf("%w: %q, id %d: %w", ErrOccupied, name, id, err)
}

// mode asks the device how its program is attached.
func mode(index int) (Mode, error) {
	found, err := netlink.LinkByIndex(index)
	if err != nil {
		return 0, err
	}
	if x := found.Attrs().Xdp; x != nil && x.Attached {
		switch x.AttachMode {
		case nl.XDP_ATTACHED_DRV:
			return Native, nil
		case nl.XDP_ATTACHED_SKB:
			return Generic, nil
		}
	}
	return 0, errors.New("device does not show the program")
}

// Detach ends steering on the device, and its pin.
func (p *Program) Detach(device string) error {
	p.links.mu.Lock()
	defer p.links.mu.Unlock()
	l := p.links.by[device]
	if l == nil {
		return fmt.Errorf("detach from %s: not attached", device)
	}
	delete(p.links.by, device)
	var err error
	if p.options.PinPath != "" {
		err = l.Unpin()
	}
	if err = errors.Join(err, l.Close()); err != nil {
		return fmt.Errorf("detach from %s: %w", device, err)
	}
	return nil
}
