// SPDX-License-Identifier: Apache-2.0

package steered

import (
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"quicksand/accel"
	"quicksand/fallback/tun"
	"quicksand/xdp"
)

// host is what a wire needs of the machine.
type host interface {
	cpus() int
	pin(cpu int) error
	// index returns the interface's index, or 0 if there is none.
	index(device string) int
	// prepare is called before all others, and close after them.
	prepare(o Options) error
	close() error
	// load loads the program for a device. It steers nothing yet.
	load(device string, o Options) (steering, error)
	// settle returns when no packet is on its way any more that the program had
	// looked at before.
	settle() error
}

// steering is the program of one device.
type steering interface {
	xdp.Steering
	SetFloor(k xdp.Key, sequence uint32) error
	// start attaches it, and opens a port for each worker on each queue.
	start(device string, workers int) (*attachment, error)
	// end detaches it from the device, and keeps the tables. The ports are
	// closed.
	end(device string) error
	// Remove ends everything.
	Remove() error
}

// attachment is what start obtained.
type attachment struct {
	xdp.Attachment
	index    int          // of the interface
	ports    [][]xdp.Port // by queue and worker
	zeroCopy bool
}

// linux is the host as it is.
type linux struct{ spare []*xdp.Program }

func (*linux) cpus() int {
	cpus, err := accel.Allowed()
	if err != nil {
		return 1
	}
	return len(cpus)
}

func (*linux) pin(cpu int) error { return accel.Pin(cpu) }

func (*linux) index(device string) int {
	i, err := net.InterfaceByName(device)
	if err != nil {
		return 0
	}
	return i.Index
}

// settle waits for an RCU grace period: drivers run the program, and hand over
// what it redirected, with soft interrupts turned off.
func (*linux) settle() error {
	const global = 1 // MEMBARRIER_CMD_GLOBAL
	if _, _, errno := unix.Syscall(unix.SYS_MEMBARRIER, global, 0, 0); errno != 0 {
		return fmt.Errorf("wait for packets on their way: %w", errno)
	}
	return nil
}

// spares is for how many devices that only SAs name there is a program. They
// are loaded at the beginning: a process that has dropped its privileges may
// attach a program, and not load one.
const spares = 4

func (l *linux) prepare(o Options) error {
	if o.PinPath != "" {
		// Of devices that settings named before.
		left, err := filepath.Glob(filepath.Join(o.PinPath, "*"))
		for _, path := range left {
			if !slices.Contains(o.Devices, filepath.Base(path)) {
				err = errors.Join(err, xdp.Unpin(path))
			}
		}
		if err != nil {
			return err
		}
	}
	if !o.Auto {
		return nil
	}
	for range spares {
		p, err := xdp.Open(xdpOptions(o))
		if err != nil {
			return err
		}
		l.spare = append(l.spare, p)
	}
	return nil
}

func (l *linux) close() (err error) {
	for _, p := range l.spare {
		err = errors.Join(err, p.Close())
	}
	l.spare = nil
	return err
}

func xdpOptions(o Options) xdp.Options {
	return xdp.Options{
		Ports:           xdp.Ports{IKE: o.Ports[0], Encaps: []uint16{o.Ports[1]}},
		SocketsPerQueue: o.Workers,
		IKEInterval:     o.IKEInterval,
		IKEBurst:        o.IKEBurst,
		Queues:          maxQueues,
		MaxSPIs:         room,
	}
}

// load takes over what is pinned for a device that the settings name.
func (l *linux) load(device string, o Options) (steering, error) {
	if !slices.Contains(o.Devices, device) {
		if len(l.spare) == 0 {
			return nil, fmt.Errorf("programs for %d devices are all in use: xdp_interfaces may name more", spares)
		}
		p := l.spare[0]
		l.spare = l.spare[1:]
		return program{p}, nil
	}
	options := xdpOptions(o)
	if o.PinPath != "" {
		options.PinPath = filepath.Join(o.PinPath, device)
	}
	p, err := xdp.Open(options)
	if errors.Is(err, xdp.ErrLayout) || errors.Is(err, ebpf.ErrMapIncompatible) {
		// Another version's, or of other settings: it cannot be taken over.
		o.Log.Warn("steering begins anew", "device", device, "error", err)
		if err = xdp.Unpin(options.PinPath); err == nil {
			p, err = xdp.Open(options)
		}
	}
	if err != nil {
		return nil, err
	}
	if err := empty(p); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return program{p}, nil
}

// empty takes out what an earlier process has left, which names its sockets.
func empty(p *xdp.Program) error {
	var old []xdp.Key
	if err := p.Entries(func(e xdp.Entry) bool { old = append(old, e.Key); return true }); err != nil {
		return err
	}
	for _, k := range old {
		if _, err := p.Delete(k); err != nil {
			return err
		}
	}
	return nil
}

const (
	maxQueues = 256
	room      = 1 << 16 // for SPIs in a table
)

type program struct{ *xdp.Program }

// frame sizes, and the longest packet that fits behind the kernel's headroom of
// 256 octets with an Ethernet header and two tags.
const (
	smallFrame, largeFrame = 2048, 4096
	around                 = 256 + ethernetHeader + 2*vlanTag
)

func (p program) start(device string, workers int) (*attachment, error) {
	link, err := netlink.LinkByName(device)
	if err != nil {
		return nil, err
	}
	mtu := link.Attrs().MTU
	o := xdp.SocketOptions{FrameSize: smallFrame, Poll: tun.PollBusy}
	if mtu > smallFrame-around {
		o.FrameSize = largeFrame
	}
	if mtu > largeFrame-around {
		return nil, fmt.Errorf("its MTU of %d does not fit a frame: %d is the longest", mtu, largeFrame-around)
	}
	a := &attachment{index: link.Attrs().Index}
	if a.Attachment, err = p.Attach(device); err != nil {
		return nil, err
	}
	if err := p.open(a, device, workers, o); err != nil {
		return nil, errors.Join(err, a.close(), p.Detach(device))
	}
	return a, nil
}

// open opens the sockets of every queue there is.
func (p program) open(a *attachment, device string, workers int, o xdp.SocketOptions) error {
	queues, err := xdp.Queues(device)
	if err != nil {
		return err
	}
	if queues > maxQueues {
		return fmt.Errorf("its %d receive queues are more than %d", queues, maxQueues)
	}
	for queue := range queues {
		sockets, err := xdp.OpenSockets(device, queue, workers, o)
		if err != nil {
			return err
		}
		ports := make([]xdp.Port, workers)
		for i, s := range sockets {
			ports[i] = s
		}
		a.ports = append(a.ports, ports)
		for i, s := range sockets {
			a.zeroCopy = s.ZeroCopy()
			if err := p.SetSocket(i, s); err != nil {
				return err
			}
		}
	}
	return nil
}

func (a *attachment) close() error {
	var errs []error
	for _, queue := range a.ports {
		for _, p := range queue {
			errs = append(errs, p.Close())
		}
	}
	return errors.Join(errs...)
}

func (p program) end(device string) error { return p.Detach(device) }
