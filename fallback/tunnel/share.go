// SPDX-License-Identifier: Apache-2.0

package tunnel

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"

	"quicksand/sa"
)

// divide opens a second socket on the NAT traversal port for each family, which
// ESP comes by: in a queue of one, IKE would be lost with ESP that is more than is
// taken. A BPF program chooses between them by what the datagram begins with
// (SO_ATTACH_REUSEPORT_CBPF in socket(7)). Where receive offload has joined packets
// of one peer, the first of them decides.
func (s *Socket) divide(mark int) error {
	choose := []unix.SockFilter{
		// What is shorter than a word ends the program with 0.
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 1, K: 0}, // the non-ESP marker
		{Code: unix.BPF_RET | unix.BPF_K, K: 0},                       // the first socket that was bound
		{Code: unix.BPF_RET | unix.BPF_K, K: 1},
	}
	for i, c := range s.conns {
		if c == nil {
			continue
		}
		var err error
		if s.bulk[i], err = c.beside(s.port, mark); err != nil {
			return err
		}
		program := &unix.SockFprog{Len: uint16(len(choose)), Filter: &choose[0]}
		if e := c.raw.Control(func(fd uintptr) {
			err = unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_REUSEPORT_CBPF, program)
		}); e != nil || err != nil {
			return fmt.Errorf("attach BPF program: %w", errors.Join(e, err))
		}
	}
	return nil
}

// beside binds another socket to the port of c. Only now may the port be bound
// twice: had c been bound so, a second daemon would have found the port free.
func (c *conn) beside(port uint16, mark int) (*conn, error) {
	if err := c.setInt(unix.SOL_SOCKET, unix.SO_REUSEPORT, 1); err != nil {
		return nil, fmt.Errorf("set socket option SO_REUSEPORT: %w", err)
	}
	return bindConn(c.v6, unix.IPPROTO_UDP, port, mark, true)
}

// share is the kernel's part in the NAT traversal port: a third socket on it
// for each family, which the kernel decapsulates for. A socket with
// decapsulation turned on swallows all ESP, also that of SAs which the kernel
// does not know. So the program then chooses by SPI as well: SPIs of the kernel's
// SAs go to the kernel's socket, and everything else to ours.
type share struct {
	spis    *ebpf.Map // SPI in host order
	program *ebpf.Program
	conns   []*conn
}

// maxShared bounds the SPIs that the kernel may have on the port.
const maxShared = 1 << 17

// ExemptFromPolicies lets what the port sends and receives pass the kernel's
// IPsec policies, whatever they select: IKE protects itself, and so does ESP in
// UDP.
func (s *Socket) ExemptFromPolicies() error {
	var errs []error
	for _, c := range s.all() {
		errs = append(errs, c.exempt())
	}
	return errors.Join(errs...)
}

// exempt sets policies of the socket's own that allow everything; they come
// before all others (IP_XFRM_POLICY).
func (c *conn) exempt() error {
	level, option, family := unix.IPPROTO_IP, unix.IP_XFRM_POLICY, uint16(unix.AF_INET)
	if c.v6 {
		level, option, family = unix.IPPROTO_IPV6, unix.IPV6_XFRM_POLICY, unix.AF_INET6
	}
	for dir := range byte(2) { // in, out
		policy := make([]byte, 168) // struct xfrm_userpolicy_info
		binary.NativeEndian.PutUint16(policy[40:], family)
		policy[160] = dir
		var err error
		if e := c.raw.Control(func(fd uintptr) {
			err = unix.SetsockoptString(int(fd), level, option, string(policy))
		}); e != nil {
			return e
		}
		if err != nil {
			return fmt.Errorf("exempt socket from IPsec policies: %w", err)
		}
	}
	return nil
}

// ShareWithKernel gives the kernel a part in the port, which must be the NAT
// traversal one. KernelSPI then says which packets are the kernel's.
func (s *Socket) ShareWithKernel() error {
	fail := func(err error) error { return fmt.Errorf("share port with the kernel: %w", err) }
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case !s.natt:
		return fail(errors.New("it is not the NAT traversal port"))
	case s.closed || s.share != nil:
		return fail(errors.New("it is closed or shared"))
	}
	sh, err := newShare()
	if err != nil {
		return fail(err)
	}
	for _, c := range s.conns {
		if c == nil {
			continue
		}
		if err := sh.add(c, s.port); err != nil {
			return errors.Join(fail(err), sh.close())
		}
	}
	s.share = sh
	return nil
}

// KernelSPI says whether ESP packets with the SPI are for the kernel.
func (s *Socket) KernelSPI(spi sa.SPI, on bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed && !on:
		return nil
	case s.share == nil:
		return errors.New("the kernel has no part in the NAT traversal port")
	}
	var err error
	if on {
		err = s.share.spis.Put(uint32(spi), uint32(1))
	} else {
		err = s.share.spis.Delete(uint32(spi))
	}
	if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("steer SPI %s: %w", spi, err)
	}
	return nil
}

// newShare loads the program. What it returns is the number of the socket in
// the order in which they were bound.
func newShare() (*share, error) {
	spis, err := ebpf.NewMap(&ebpf.MapSpec{Name: "qsand_spis", Type: ebpf.Hash, KeySize: 4, ValueSize: 4,
		MaxEntries: maxShared, Flags: unix.BPF_F_NO_PREALLOC})
	if err != nil {
		return nil, fmt.Errorf("make BPF map: %w", err)
	}
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{Name: "qsand_spi", Type: ebpf.SocketFilter, License: "Apache-2.0",
		Instructions: asm.Instructions{
			asm.Mov.Reg(asm.R6, asm.R1),
			// The SPI is what the datagram begins with; one that is shorter
			// ends the program with 0.
			asm.LoadAbs(0, asm.Word),
			asm.JEq.Imm(asm.R0, 0, "ike"), // the non-ESP marker
			asm.StoreMem(asm.RFP, -4, asm.R0, asm.Word),
			asm.LoadMapPtr(asm.R1, spis.FD()),
			asm.Mov.Reg(asm.R2, asm.RFP),
			asm.Add.Imm(asm.R2, -4),
			asm.FnMapLookupElem.Call(),
			asm.JEq.Imm(asm.R0, 0, "ours"),
			asm.Mov.Imm(asm.R0, 2),
			asm.Return(),
			asm.Mov.Imm(asm.R0, 1).WithSymbol("ours"),
			asm.Return(),
			asm.Mov.Imm(asm.R0, 0).WithSymbol("ike"),
			asm.Return(),
		}})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("load BPF program: %w", err), spis.Close())
	}
	return &share{spis: spis, program: program}, nil
}

// add binds the kernel's socket beside ours.
func (sh *share) add(ours *conn, port uint16) error {
	c, err := ours.beside(port, 0)
	if err != nil {
		return err
	}
	sh.conns = append(sh.conns, c)
	if err := c.exempt(); err != nil {
		return err
	}
	// UDP_ENCAP_ESPINUDP, RFC 3948.
	if err := c.setInt(unix.IPPROTO_UDP, unix.UDP_ENCAP, 2); err != nil {
		return fmt.Errorf("set socket option UDP_ENCAP: %w", err)
	}
	if err := ours.setInt(unix.SOL_SOCKET, unix.SO_ATTACH_REUSEPORT_EBPF, sh.program.FD()); err != nil {
		return fmt.Errorf("attach BPF program: %w", err)
	}
	return nil
}

func (sh *share) close() error {
	if sh == nil {
		return nil
	}
	var errs []error
	for _, c := range sh.conns {
		errs = append(errs, c.close())
	}
	return errors.Join(append(errs, sh.program.Close(), sh.spis.Close())...)
}
