// SPDX-License-Identifier: Apache-2.0

package xdp

import (
	"bytes"
	"fmt"
	"math/bits"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"quicksand/sa"
)

//go:generate go run github.com/cilium/ebpf/cmd/bpf2go -cc clang-19 -strip llvm-strip-19 -go-package xdp -output-stem walk -no-global-types -cflags "-O2 -g -mcpu=v3 -Wall -Werror -Wno-unused-variable" walk ../bpf/walk.c

const firstSPI = 0x10000000

// walkers loads the programs of bpf/walk.c on a program's tables, with their
// constants set.
func walkers(t testing.TB, p *Program, constants map[string]any) *ebpf.Collection {
	t.Helper()
	spec, err := loadWalk()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.options.apply(spec, len(p.counters.tallies)); err != nil {
		t.Fatal(err)
	}
	for name, value := range constants {
		if err := spec.Variables[name].Set(value); err != nil {
			t.Fatal(err)
		}
	}
	spec.Maps["hash"].MaxEntries = uint32(p.options.MaxSPIs)
	m := &p.objects.SteerMaps
	c, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: map[string]*ebpf.Map{
		"buckets": m.Buckets, "signposts": m.Signposts, "homes": m.Homes, "uses": m.Uses, "tallies": m.Tallies,
		"layout": m.Layout, "sockets": m.Sockets, "cpus": m.Cpus,
		"devices": m.Devices, "next_hops": m.NextHops, "sources": m.Sources,
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// benchProgram is a program with n SPIs.
func benchProgram(b *testing.B, n int, to Target) *Program {
	b.Helper()
	needKernel(b)
	p := open(b, Options{MaxSPIs: n})
	for i := range n {
		insert(b, p, benchKey(i), to)
	}
	if err := p.SetCPU(0, 64); err != nil {
		b.Fatal(err)
	}
	if err := p.SetNextHop(0, NextHop{Device: 1, Destination: make([]byte, 6), Source: make([]byte, 6)}); err != nil {
		b.Fatal(err)
	}
	return p
}

// fillHash puts the same SPIs into the kernel's hash table.
func fillHash(b *testing.B, hash *ebpf.Map, n int) {
	b.Helper()
	type hashKey struct {
		destination   [16]byte
		spi, protocol uint32
	}
	for first := 0; first < n; first += 1 << 16 {
		m := min(n-first, 1<<16)
		keys, values := make([]hashKey, m), make([]uint64, m)
		for i := range keys {
			keys[i] = hashKey{local4.As16(), bits.ReverseBytes32(uint32(firstSPI + first + i)), 50}
		}
		if _, err := hash.BatchUpdate(keys, values, nil); err != nil {
			b.Fatal(err)
		}
	}
}

// perPacket runs a program on a frame b.N times and returns the nanoseconds
// for each: the least of some runs, as others use the machine too.
func perPacket(b *testing.B, p *ebpf.Program, frame []byte, repeat int, want uint32) float64 {
	b.Helper()
	least := time.Duration(1 << 62)
	for range 5 {
		action, took, err := p.Benchmark(bytes.Clone(frame), repeat, nil)
		if err != nil || action != want {
			b.Fatalf("got %d, want %d: %v", action, want, err)
		}
		least = min(least, took)
	}
	return float64(least.Nanoseconds())
}

// BenchmarkSteer measures what steering adds to a packet of one SPI: "ns/added"
// to what an empty program takes in the same run ("ns/pass"); "ns/redirect" is
// what a program takes that only redirects.
func BenchmarkSteer(b *testing.B) {
	const repeat = 1_000_000
	verdict := [...]Verdict{Pass: Passed, Drop: Dropped, ToCPU: OnCPU, ToDevice: Forwarded}
	measure := func(b *testing.B, p *Program, frame []byte, want uint32) {
		c := walkers(b, p, nil)
		for b.Loop() {
			empty := perPacket(b, c.Programs["pass_all"], frame, repeat, xdpPass)
			redirect := perPacket(b, c.Programs["redirect_all"], frame, repeat, xdpRedirect)
			steer := perPacket(b, p.objects.QuicksandSteer, frame, repeat, want)
			b.ReportMetric(empty, "ns/pass")
			b.ReportMetric(redirect, "ns/redirect")
			b.ReportMetric(steer-empty, "ns/added")
		}
	}
	for _, n := range []int{1, 10_000, maxSPIs} {
		for _, to := range []Target{{Action: Pass}, {Action: Drop}, {Action: ToCPU}, {Action: ToDevice}} {
			b.Run(fmt.Sprintf("spis=%d/%s", n, to.Action), func(b *testing.B) {
				measure(b, benchProgram(b, n, to), frame4(50, espPacket(firstSPI, 64)), does(verdict[to.Action]))
			})
		}
	}
	others := map[string][]byte{
		"unknown": frame4(50, espPacket(0xdead, 64)), "other": frame4(6, make([]byte, 64)),
		"ike": frame4(17, udpPacket(500, ikePacket(false))), "esp-in-udp": frame4(17, udpPacket(4500, espPacket(firstSPI, 64))),
		"fragment": join(ethernet(0x0800), header4(50, 0, 0x2000, espPacket(firstSPI, 64))),
		"esp6":     frame6(50, espPacket(firstSPI, 64)),
		"esp6-chain": frame6(60, join(extension(60, 0), extension(60, 0), extension(60, 0), extension(60, 0),
			extension(60, 0), extension(50, 0), espPacket(firstSPI, 64))),
	}
	for name, frame := range others {
		b.Run(name, func(b *testing.B) {
			p := benchProgram(b, 1, Target{Action: Pass})
			insert(b, p, Key{local6, firstSPI, sa.ESP}, Target{Action: Pass})
			measure(b, p, frame, xdpPass)
		})
	}
}

// BenchmarkWalk measures what steering adds to packets of a million SPIs: all
// of one, in bursts of 32, by Zipf's law, and each of another at random, beside
// what a program takes that only chooses the SPI. Of that, "ns/lookup" is for
// finding the entry, and "ns/hash" what the kernel's hash table takes for it.
func BenchmarkWalk(b *testing.B) {
	const repeat = 1_000_000
	p := benchProgram(b, maxSPIs, Target{Action: Pass})
	for _, walk := range []struct {
		name      string
		constants map[string]any
	}{
		{"one", map[string]any{"walk_mask": uint32(0)}},
		{"bursts", map[string]any{"walk_mask": uint32(maxSPIs - 1), "walk_burst": uint32(32)}},
		{"zipf", map[string]any{"walk_mask": uint32(maxSPIs - 1), "walk_zipf": uint8(1)}},
		{"random", map[string]any{"walk_mask": uint32(maxSPIs - 1)}},
	} {
		b.Run(walk.name, func(b *testing.B) {
			c := walkers(b, p, walk.constants)
			fillHash(b, c.Maps["hash"], maxSPIs)
			frame := frame4(50, espPacket(firstSPI, 64))
			took := func(name string) float64 { return perPacket(b, c.Programs[name], frame, repeat, xdpPass) }
			for b.Loop() {
				empty := took("walk_pass")
				b.ReportMetric(empty, "ns/pass")
				b.ReportMetric(took("walk_steer")-empty, "ns/added")
				b.ReportMetric(took("walk_lookup")-empty, "ns/lookup")
				b.ReportMetric(took("walk_hash")-empty, "ns/hash")
			}
		})
	}
}

func benchKey(i int) Key { return Key{local4, sa.SPI(firstSPI + i), sa.ESP} }

// fill puts n SPIs into a table.
func fill(b *testing.B, p *Program, n int) {
	b.Helper()
	for i := range n {
		insert(b, p, benchKey(i), Target{Action: Pass})
	}
}

// BenchmarkTable measures changes of a table of a million SPIs that is half
// full.
func BenchmarkTable(b *testing.B) {
	needKernel(b)
	for _, step := range []string{"move", "use", "delete-insert"} {
		b.Run(step, func(b *testing.B) {
			p := open(b, Options{MaxSPIs: maxSPIs})
			fill(b, p, maxSPIs/2)
			for i := 0; b.Loop(); i++ {
				var err error
				k := benchKey(i & (maxSPIs/2 - 1))
				switch step {
				case "move":
					err = p.Move(k, Target{Action: ToCPU, Number: uint16(i & 1)})
				case "use":
					_, err = p.Use(k)
				default:
					if _, err = p.Delete(k); err == nil {
						err = p.Insert(k, Target{Action: Pass})
					}
				}
				if err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "SPIs/s")
		})
	}
}

// BenchmarkFill inserts a million SPIs one by one.
func BenchmarkFill(b *testing.B) {
	needKernel(b)
	for b.Loop() {
		p := open(b, Options{MaxSPIs: maxSPIs})
		begin := time.Now()
		fill(b, p, maxSPIs)
		b.ReportMetric(maxSPIs/time.Since(begin).Seconds(), "SPIs/s")
		if err := p.Close(); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkEntries reads a table of a million SPIs with its counters.
func BenchmarkEntries(b *testing.B) {
	needKernel(b)
	p := open(b, Options{MaxSPIs: maxSPIs})
	fill(b, p, maxSPIs)
	for b.Loop() {
		n := 0
		if err := p.Entries(func(Entry) bool { n++; return true }); err != nil || n != maxSPIs {
			b.Fatal(n, err)
		}
	}
}

// BenchmarkMemory reports what tables of all sizes take, as the kernel says,
// and how long they take to make.
func BenchmarkMemory(b *testing.B) {
	needKernel(b)
	for _, n := range []int{1 << 10, 1 << 16, maxSPIs} {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			for b.Loop() {
				p, err := Open(Options{MaxSPIs: n})
				if err != nil {
					b.Fatal(err)
				}
				b.ReportMetric(memlock(b, p.objects.Buckets)/1e6, "MB/table")
				b.ReportMetric(memlock(b, p.objects.Uses)/1e6, "MB/counters")
				b.ReportMetric(memlock(b, p.objects.Sources)/1e6, "MB/sources")
				if err := p.Close(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// memlock is what the kernel accounts for a map, in octets.
func memlock(b *testing.B, m *ebpf.Map) float64 {
	b.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/self/fdinfo/%d", m.FD()))
	if err != nil {
		b.Fatal(err)
	}
	for line := range bytes.Lines(text) {
		var n float64
		if _, err := fmt.Sscanf(string(line), "memlock: %g", &n); err == nil {
			return n
		}
	}
	b.Fatalf("no memlock in %s", text)
	return 0
}
