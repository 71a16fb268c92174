// SPDX-License-Identifier: Apache-2.0

package xdp

import (
	"errors"
	"fmt"
	"net"

	"github.com/cilium/ebpf"
)

// SetCPU makes a CPU a target: the stack takes the packets on it, after a
// queue of the given number of packets.
func (p *Program) SetCPU(cpu, queue uint32) error {
	// struct bpf_cpumap_val, without a second program.
	value := struct{ Queue, Program uint32 }{Queue: queue}
	if err := p.objects.Cpus.Update(cpu, value, ebpf.UpdateAny); err != nil {
		return fmt.Errorf("set CPU %d: %w", cpu, err)
	}
	return nil
}

// RemoveCPU ends that. Packets of SPIs that still name the CPU are passed.
func (p *Program) RemoveCPU(cpu uint32) error {
	if err := p.objects.Cpus.Delete(cpu); err != nil {
		return fmt.Errorf("remove CPU %d: %w", cpu, err)
	}
	return nil
}

// NextHop is where frames go that leave by another device, one of the calling
// thread's network namespace. VLAN tags stay.
type NextHop struct {
	Device      int              // interface index
	Destination net.HardwareAddr // six octets each
	Source      net.HardwareAddr
}

// SetNextHop makes a next hop a target, or changes it. While it changes a
// packet may still leave by the device before with the addresses after;
// remove it first where that matters.
func (p *Program) SetNextHop(number uint16, h NextHop) error {
	if len(h.Destination) != 6 || len(h.Source) != 6 {
		return fmt.Errorf("set next hop %d: an address is not of six octets", number)
	}
	value := struct{ Destination, Source [6]byte }{[6]byte(h.Destination), [6]byte(h.Source)}
	if err := p.objects.NextHops.Update(uint32(number), value, ebpf.UpdateAny); err != nil {
		return fmt.Errorf("set next hop %d: %w", number, err)
	}
	if err := p.objects.Devices.Update(uint32(number), uint32(h.Device), ebpf.UpdateAny); err != nil {
		return fmt.Errorf("set next hop %d: %w", number, err)
	}
	return nil
}

// RemoveNextHop ends that. Packets of SPIs that still name it are passed.
func (p *Program) RemoveNextHop(number uint16) error {
	if err := p.objects.Devices.Delete(uint32(number)); err != nil {
		return fmt.Errorf("remove next hop %d: %w", number, err)
	}
	return nil
}

// socketIndex is the place of a queue's socket in the program's map.
func (p *Program) socketIndex(queue, number int) (uint32, error) {
	if queue < 0 || queue >= p.options.Queues || number < 0 || number >= p.options.SocketsPerQueue {
		return 0, fmt.Errorf("socket %d of queue %d: options have %d queues of %d sockets",
			number, queue, p.options.Queues, p.options.SocketsPerQueue)
	}
	return uint32(queue*p.options.SocketsPerQueue + number), nil
}

// SetSocket makes a socket a target: the packets that its queue receives and
// that go to this number. It ends when the socket is closed; packets of SPIs
// that still name it are then passed.
func (p *Program) SetSocket(number int, s *Socket) error {
	index, err := p.socketIndex(s.queue, number)
	if err == nil {
		err = p.objects.Sockets.Update(index, uint32(s.fd), ebpf.UpdateAny)
	}
	if err != nil {
		return fmt.Errorf("set socket: %w", err)
	}
	return nil
}

// RemoveSocket ends that without closing the socket.
func (p *Program) RemoveSocket(queue, number int) error {
	index, err := p.socketIndex(queue, number)
	if err == nil {
		err = p.objects.Sockets.Delete(index)
	}
	if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("remove socket: %w", err)
	}
	return nil
}
