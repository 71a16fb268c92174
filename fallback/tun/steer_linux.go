// SPDX-License-Identifier: Apache-2.0

package tun

import (
	"errors"
	"fmt"
	"net/netip"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"
)

// steering chooses the queue of what the kernel sends into the device: a BPF
// program looks the destination up (TUNSETSTEERINGEBPF, Linux 4.16 and later).
type steering struct {
	prefixes *ebpf.Map // steeringKey to steeringValue
	program  *ebpf.Program
}

// steeringKey is an LPM trie's; IPv4 addresses are mapped to IPv6
// (::ffff:0:0/96).
type steeringKey struct {
	bits uint32
	addr [16]byte
}

// steeringValue is the first of as many queues as there are lanes.
type steeringValue struct{ queue, lanes uint32 }

// maxPrefixes bounds the prefixes that can be steered.
const maxPrefixes = 1 << 20

// newSteering loads the program and gives it to the device.
func newSteering(fd int) (*steering, error) {
	prefixes, err := ebpf.NewMap(&ebpf.MapSpec{Name: "qsand_queues", Type: ebpf.LPMTrie, KeySize: 20, ValueSize: 8,
		MaxEntries: maxPrefixes, Flags: unix.BPF_F_NO_PREALLOC})
	if err != nil {
		return nil, fmt.Errorf("make BPF map: %w", err)
	}
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{Name: "qsand_queue", Type: ebpf.SocketFilter, License: "Apache-2.0",
		Instructions: steeringProgram(prefixes.FD())})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("load BPF program: %w", err), prefixes.Close())
	}
	s := &steering{prefixes, program}
	file := int32(program.FD())
	if err := ioctl(fd, unix.TUNSETSTEERINGEBPF, uintptr(unsafe.Pointer(&file))); err != nil {
		return nil, errors.Join(fmt.Errorf("attach BPF program: %w", err), s.close())
	}
	return s, nil
}

// steeringProgram returns the queue of the longest prefix that holds the
// packet's destination and of the packet's lane, and 0 where there is none. The
// kernel takes it modulo the number of queues.
func steeringProgram(prefixes int) asm.Instructions {
	// The key lies at the stack's -20. A load beyond the packet ends the program
	// with 0.
	word := func(packet int32, key int16) asm.Instructions {
		return asm.Instructions{
			asm.LoadAbs(packet, asm.Word),
			asm.HostTo(asm.BE, asm.R0, asm.Word),
			asm.StoreMem(asm.RFP, key, asm.R0, asm.Word),
		}
	}
	p := asm.Instructions{
		asm.Mov.Reg(asm.R6, asm.R1),
		asm.StoreImm(asm.RFP, -20, 128, asm.Word),
		asm.LoadAbs(0, asm.Byte),
		asm.RSh.Imm(asm.R0, 4),
		asm.JNE.Imm(asm.R0, 4, "v6"),
		asm.StoreImm(asm.RFP, -16, 0, asm.Word),
		asm.StoreImm(asm.RFP, -12, 0, asm.Word),
		asm.Mov.Imm(asm.R0, 0xffff),
		asm.HostTo(asm.BE, asm.R0, asm.Word),
		asm.StoreMem(asm.RFP, -8, asm.R0, asm.Word),
	}
	p = append(p, word(16, -4)...)
	p = append(p, asm.Ja.Label("look"))
	v6 := word(24, -16)
	v6[0] = v6[0].WithSymbol("v6")
	p = append(p, v6...)
	p = append(p, word(28, -12)...)
	p = append(p, word(32, -8)...)
	p = append(p, word(36, -4)...)
	p = append(p,
		asm.LoadMapPtr(asm.R1, prefixes).WithSymbol("look"),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, -20),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, "out"),
		asm.LoadMem(asm.R9, asm.R0, 4, asm.Word),
		asm.LoadMem(asm.R0, asm.R0, 0, asm.Word),
		asm.JGT.Imm(asm.R9, 1, "spread"),
		asm.Return().WithSymbol("out"),
		asm.StoreMem(asm.RFP, -24, asm.R0, asm.Word).WithSymbol("spread"),
	)
	return append(p, laneProgram()...)
}

// laneProgram is FlowHash.Lane of the packet, of R9 lanes, beyond the queue at the
// stack's -24. IPv6's extension headers are not read: such packets have their
// first one's number for a protocol and no ports.
func laneProgram() asm.Instructions {
	mix := func(with asm.Register) asm.Instructions {
		return asm.Instructions{asm.Xor.Reg(asm.R7, with), asm.Mul.Reg(asm.R7, asm.R8)}
	}
	words := func(first, last int32) (p asm.Instructions) {
		for at := first; at <= last; at += 4 {
			p = append(append(p, asm.LoadAbs(at, asm.Word)), mix(asm.R0)...)
		}
		return p
	}
	p := asm.Instructions{
		asm.LoadImm(asm.R8, int64(-(1<<64 - flowFactor)), asm.DWord),
		asm.Mov.Imm(asm.R7, 0),
		asm.LoadAbs(0, asm.Byte),
		asm.Mov.Reg(asm.R1, asm.R0),
		asm.RSh.Imm(asm.R1, 4),
		asm.JNE.Imm(asm.R1, 4, "lane6"),
		// The ports lie behind IPv4's options, at the stack's -32.
		asm.And.Imm(asm.R0, 15),
		asm.LSh.Imm(asm.R0, 2),
		asm.StoreMem(asm.RFP, -32, asm.R0, asm.DWord),
	}
	p = append(p, words(12, 16)...)
	p = append(p,
		asm.LoadAbs(6, asm.Half),
		asm.And.Imm(asm.R0, 0x3fff), // more fragments, and the offset
		asm.JNE.Imm(asm.R0, 0, "fragment"),
		asm.LoadAbs(9, asm.Byte),
		asm.Ja.Label("upper"),
	)
	v6 := words(8, 36)
	v6[0] = v6[0].WithSymbol("lane6")
	p = append(p, v6...)
	p = append(p,
		asm.Mov.Imm(asm.R0, 40),
		asm.StoreMem(asm.RFP, -32, asm.R0, asm.DWord),
		asm.LoadAbs(6, asm.Byte),
		asm.JEq.Imm(asm.R0, unix.IPPROTO_FRAGMENT, "fragment"),
		// R0 is the protocol.
		asm.Mov.Reg(asm.R1, asm.R0).WithSymbol("upper"),
		asm.LSh.Imm(asm.R1, 32),
		asm.Xor.Reg(asm.R7, asm.R1),
	)
	for _, proto := range []int32{unix.IPPROTO_TCP, unix.IPPROTO_UDP, unix.IPPROTO_DCCP, unix.IPPROTO_SCTP, unix.IPPROTO_UDPLITE} {
		p = append(p, asm.JEq.Imm(asm.R0, proto, "ports"))
	}
	p = append(p,
		asm.Mov.Imm(asm.R0, 0).WithSymbol("fragment"),
		asm.Ja.Label("last"),
		asm.LoadMem(asm.R1, asm.RFP, -32, asm.DWord).WithSymbol("ports"),
		asm.LoadInd(asm.R0, asm.R1, 0, asm.Word),
	)
	last := mix(asm.R0)
	last[0] = last[0].WithSymbol("last")
	p = append(p, last...)
	return append(p,
		asm.RSh.Imm(asm.R7, 32),
		asm.Mul.Reg(asm.R7, asm.R9),
		asm.RSh.Imm(asm.R7, 32),
		asm.LoadMem(asm.R0, asm.RFP, -24, asm.Word),
		asm.Add.Reg(asm.R0, asm.R7),
		asm.Return(),
	)
}

func keyOf(p netip.Prefix) steeringKey {
	bits := p.Bits()
	if p.Addr().Is4() {
		bits += 96
	}
	return steeringKey{bits: uint32(bits), addr: p.Addr().As16()}
}

func (d *device) Steer(p netip.Prefix, queue, lanes int) error {
	if d.steering == nil {
		return nil
	}
	if err := d.steering.prefixes.Put(keyOf(p), steeringValue{uint32(queue), uint32(lanes)}); err != nil {
		return fmt.Errorf("steer packets to %s: %w", p, err)
	}
	return nil
}

func (d *device) Unsteer(p netip.Prefix) error {
	if d.steering == nil {
		return nil
	}
	if err := d.steering.prefixes.Delete(keyOf(p)); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("steer packets to %s no more: %w", p, err)
	}
	return nil
}

func (s *steering) close() error {
	if s == nil {
		return nil
	}
	return errors.Join(s.program.Close(), s.prefixes.Close())
}
