// SPDX-License-Identifier: Apache-2.0

package inner

import (
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"

	ipsec "quicksand/sa"
	"quicksand/tests/harness"
	"quicksand/xdp"
)

// TestSteerESP has the steering program hand each of two SAs to a CPU, where
// the kernel's own ESP decrypts it.
func TestSteerESP(t *testing.T) { steerESP(t) }

// TestOldSteerESP is the same, on the oldest kernel that the program is for.
func TestOldSteerESP(t *testing.T) { steerESP(t) }

// steered is an SA from site a to site b. Nothing comes back.
type steered struct {
	number int
	spi    uint32
}

func (s steered) from() string { return fmt.Sprintf("10.1.%d.1", s.number) }
func (s steered) to() string   { return fmt.Sprintf("10.2.%d.1", s.number) }

func (s steered) install(t *testing.T, a, b *harness.Host) {
	t.Helper()
	state := fmt.Sprintf("xfrm state add src %s dst %s proto esp spi %#x reqid %d mode tunnel aead rfc4106(gcm(aes)) 0x%s 128",
		harness.AddrA, harness.AddrB, s.spi, s.number+1, gcmKey)
	policy := func(dir string) string {
		return fmt.Sprintf("xfrm policy add src %s dst %s dir %s tmpl src %s dst %s proto esp reqid %d mode tunnel",
			s.from(), s.to(), dir, harness.AddrA, harness.AddrB, s.number+1)
	}
	ok(t, xfrm(a, state, policy("out"), fmt.Sprintf("route add %s via %s src %s", s.to(), harness.AddrB, s.from())))
	ok(t, xfrm(b, state+" replay-window 32", policy("in")))
}

// send sends datagrams through the SA and has each arrive.
func (s steered) send(t *testing.T, a, b *harness.Host, count int) {
	t.Helper()
	var in, out *net.UDPConn
	ok(t, b.Do(func() (err error) {
		in, err = net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.MustParseAddrPort(s.to()+":7000")))
		return err
	}))
	defer in.Close()
	ok(t, a.Do(func() (err error) {
		out, err = net.DialUDP("udp4", net.UDPAddrFromAddrPort(netip.MustParseAddrPort(s.from()+":0")),
			net.UDPAddrFromAddrPort(netip.MustParseAddrPort(s.to()+":7000")))
		return err
	}))
	defer out.Close()
	got := make([]byte, 100)
	for i := range count {
		sent := fmt.Sprintf("datagram %d", i)
		_, err := out.Write([]byte(sent))
		ok(t, err)
		ok(t, in.SetReadDeadline(time.Now().Add(10*time.Second)))
		n, err := in.Read(got)
		ok(t, err)
		if string(got[:n]) != sent {
			t.Fatalf("got %q, sent %q", got[:n], sent)
		}
	}
}

// espInput counts the calls of the kernel's function that decrypts ESP over
// IPv4, by CPU. Where cryptography is synchronous, as AES-NI's is here, it runs
// in that call.
func espInput(t *testing.T) (calls func() []uint64) {
	t.Helper()
	counts, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.PerCPUArray, KeySize: 4, ValueSize: 8, MaxEntries: 1})
	ok(t, err)
	t.Cleanup(func() { counts.Close() })
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.Kprobe, License: "GPL", Instructions: asm.Instructions{
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, -4),
		asm.StoreImm(asm.R2, 0, 0, asm.Word),
		asm.LoadMapPtr(asm.R1, counts.FD()),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, "out"),
		asm.LoadMem(asm.R1, asm.R0, 0, asm.DWord),
		asm.Add.Imm(asm.R1, 1),
		asm.StoreMem(asm.R0, 0, asm.R1, asm.DWord),
		asm.Mov.Imm(asm.R0, 0).WithSymbol("out"),
		asm.Return(),
	}})
	ok(t, err)
	t.Cleanup(func() { program.Close() })
	probe, err := link.Kprobe("esp_input", program, nil)
	ok(t, err)
	t.Cleanup(func() { probe.Close() })
	return func() []uint64 {
		t.Helper()
		var each []uint64
		ok(t, counts.Lookup(uint32(0), &each))
		return each
	}
}

func steerESP(t *testing.T) {
	n := harness.ForTest(t)
	a, b, err := n.Sites(2)
	ok(t, err)
	p, err := xdp.Open(xdp.Options{MaxSPIs: 16, DropUnknown: true})
	ok(t, err)
	defer p.Close()
	cost, err := p.Cost()
	ok(t, err)
	release, err := exec.Command("uname", "-r").Output()
	ok(t, err)
	t.Logf("Linux %s: the program has %d instructions; the verifier walked %d", strings.TrimSpace(string(release)), cost.Instructions, cost.Verified)
	if cost.Verified > xdp.MaxVerified {
		t.Errorf("the verifier walked %d instructions", cost.Verified)
	}
	ok(t, b.Do(func() error {
		got, err := p.Attach(b.Uplink())
		if err == nil && got.Mode != xdp.Native {
			err = fmt.Errorf("attached %+v", got)
		}
		return err
	}))
	for cpu := range uint32(2) {
		ok(t, p.SetCPU(cpu, 256))
	}

	calls := espInput(t)
	const packets = 50
	sas := []steered{{0, 0x1001}, {1, 0x1002}}
	for i, s := range sas {
		s.install(t, a, b)
		ok(t, p.Insert(s.key(), xdp.Target{Action: xdp.ToCPU, Number: uint16(i)}))
	}
	// Each on its own CPU, then on the other's.
	for round := range 2 {
		for i, s := range sas {
			cpu := (i + round) % 2
			ok(t, p.Move(s.key(), xdp.Target{Action: xdp.ToCPU, Number: uint16(cpu)}))
			before := calls()
			s.send(t, a, b, packets)
			after := calls()
			for c := range after {
				want := uint64(0)
				if c == cpu {
					want = packets
				}
				if got := after[c] - before[c]; got != want {
					t.Errorf("SPI %#x to CPU %d: CPU %d decrypted %d packets, want %d", s.spi, cpu, c, got, want)
				}
			}
		}
	}
	for _, s := range sas {
		if used, err := p.Use(s.key()); err != nil || used.Packets != 2*packets {
			t.Errorf("SPI %#x: counted %+v, %v", s.spi, used, err)
		}
	}
	totals, err := p.Totals()
	ok(t, err)
	if totals[xdp.OnCPU].Packets != 4*packets {
		t.Errorf("%d packets to a CPU of %d", totals[xdp.OnCPU].Packets, 4*packets)
	}
	// What the table does not know does not reach the kernel's ESP.
	_, err = p.Delete(sas[0].key())
	ok(t, err)
	before := calls()
	ok(t, a.Do(func() error {
		out, err := net.Dial("udp4", sas[0].to()+":7000")
		if err == nil {
			defer out.Close()
			_, err = out.Write([]byte("to nobody"))
		}
		return err
	}))
	ok(t, harness.Poll(10*time.Second, func() error {
		totals, err := p.Totals()
		if err == nil && totals[xdp.UnknownDropped].Packets != 1 {
			err = fmt.Errorf("%d packets of an unknown SPI were dropped", totals[xdp.UnknownDropped].Packets)
		}
		return err
	}))
	for c, after := range calls() {
		if after != before[c] {
			t.Errorf("CPU %d decrypted a packet of an SPI that the table does not know", c)
		}
	}
}

func (s steered) key() xdp.Key {
	return xdp.Key{Destination: netip.MustParseAddr(harness.AddrB), SPI: ipsec.SPI(s.spi), Protocol: ipsec.ESP}
}
