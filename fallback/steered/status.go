// SPDX-License-Identifier: Apache-2.0

package steered

import (
	"slices"
	"strings"

	"quicksand/sa"
	"quicksand/xdp"
)

// Status is how a wire is doing.
type Status struct {
	Devices []DeviceStatus
	Workers []WorkerStatus
	Bad     uint64 // steered frames that hold no packet
}

// DeviceStatus is one device that is steered, or was to be.
type DeviceStatus struct {
	Name      string
	Attached  bool
	Why       string // why it is not attached, or not natively
	Mode      xdp.Mode
	ZeroCopy  bool
	TakenOver bool
	Queues    int
	Room      int // for SPIs in the table
	Entries   int
	Verdicts  xdp.Totals
	Sockets   []SocketStatus
}

// SocketStatus is one socket.
type SocketStatus struct {
	Queue, Worker int
	Packets       uint64 // through the plane
	Sent          uint64
	Lost          uint64 // because they were not taken fast enough, or do not fit
}

// WorkerStatus is one worker.
type WorkerStatus struct {
	CPU int // that it is bound to, or -1
	SAs int
}

// Status tells how the wire is doing.
func (w *Wire) Status() Status {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := Status{Bad: w.bad.Load()}
	for _, d := range w.devices {
		s.Devices = append(s.Devices, d.status())
	}
	slices.SortFunc(s.Devices, func(a, b DeviceStatus) int { return strings.Compare(a.Name, b.Name) })
	for i, k := range w.workers {
		cpu := -1
		if len(w.o.Cores) > 0 {
			cpu = w.o.Cores[i]
		}
		s.Workers = append(s.Workers, WorkerStatus{CPU: cpu, SAs: k.sas})
	}
	return s
}

func (d *device) status() DeviceStatus {
	s := DeviceStatus{Name: d.name, Attached: d.attached(), Why: d.why, Room: room}
	if d.table != nil {
		s.Verdicts, _ = d.table.Totals()
		_ = d.table.Entries(func(xdp.Entry) bool { s.Entries++; return true })
	}
	if !s.Attached {
		return s
	}
	s.Mode, s.ZeroCopy, s.TakenOver, s.Why = d.at.Mode, d.at.zeroCopy, d.at.TakenOver, d.at.Why
	s.Queues = len(d.ports)
	for queue, row := range d.ports {
		for _, p := range row {
			s.Sockets = append(s.Sockets, SocketStatus{Queue: queue, Worker: p.number,
				Packets: p.packets.Load(), Sent: p.sent.Load(), Lost: p.lost()})
		}
	}
	return s
}

// lost is how many frames the kernel had for the port and dropped.
func (p *port) lost() uint64 {
	if k, ok := p.port.(*xdp.Socket); ok {
		if x, err := k.Stats(); err == nil {
			return x.Dropped + x.RingFull
		}
	}
	return 0
}

// Use returns what an inbound SA's packets came to, on all devices that are
// steered; zero if it is not admitted.
func (w *Wire) Use(spi sa.SPI) (sum xdp.Use) {
	w.mu.Lock()
	defer w.mu.Unlock()
	a := w.sas[spi]
	if a == nil {
		return sum
	}
	for _, d := range w.devices {
		if d.table == nil {
			continue
		}
		if u, err := d.table.Use(a.key); err == nil {
			sum.Packets += u.Packets
			sum.Bytes += u.Bytes
			if u.Last.After(sum.Last) {
				sum.Last = u.Last
			}
		}
	}
	return sum
}
