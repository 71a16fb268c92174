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
	prefixes *ebpf.Map // steeringKey to queue
	program  *ebpf.Program
}

// steeringKey is an LPM trie's; IPv4 addresses are mapped to IPv6
// (::ffff:0:0/96).
type steeringKey struct {
	bits uint32
	addr [16]byte
}

// maxPrefixes bounds the prefixes that can be steered.
const maxPrefixes = 1 << 20

// newSteering loads the program and gives it to the device.
func newSteering(fd int) (*steering, error) {
	prefixes, err := ebpf.NewMap(&ebpf.MapSpec{Name: "qsand_queues", Type: ebpf.LPMTrie, KeySize: 20, ValueSize: 4,
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
// packet's destination, and 0 where there is none.
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
	return append(p,
		asm.LoadMapPtr(asm.R1, prefixes).WithSymbol("look"),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, -20),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, "out"),
		asm.LoadMem(asm.R0, asm.R0, 0, asm.Word),
		asm.Return().WithSymbol("out"),
	)
}

func keyOf(p netip.Prefix) steeringKey {
	bits := p.Bits()
	if p.Addr().Is4() {
		bits += 96
	}
	return steeringKey{bits: uint32(bits), addr: p.Addr().As16()}
}

func (d *device) Steer(p netip.Prefix, queue int) error {
	if d.steering == nil {
		return nil
	}
	if err := d.steering.prefixes.Put(keyOf(p), uint32(queue)); err != nil {
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
