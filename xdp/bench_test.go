// SPDX-License-Identifier: Apache-2.0

package xdp

import (
	"bytes"
	"encoding/binary"
	"fmt"
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

// hashKey is struct hash_key.
type hashKey struct {
	Destination [16]byte
	SPI         [4]byte
	Protocol    uint32
}

func hashKeyOf(i int) hashKey {
	k := hashKey{Destination: local4.As16(), Protocol: uint32(sa.ESP)}
	binary.BigEndian.PutUint32(k.SPI[:], uint32(firstSPI+i))
	return k
}

// fillHash puts the same SPIs into the kernel's hash table.
func fillHash(b *testing.B, hash *ebpf.Map, n int) {
	b.Helper()
	for first := 0; first < n; first += 1 << 16 {
		m := min(n-first, 1<<16)
		keys, values := make([]hashKey, m), make([]uint64, m)
		for i := range keys {
			keys[i] = hashKeyOf(first + i)
		}
		if _, err := hash.BatchUpdate(keys, values, nil); err != nil {
			b.Fatal(err)
		}
	}
}

// timed is a program to measure, and what it does to the frame.
type timed struct {
	program *ebpf.Program
	action  uint32
}

// perPacket runs programs on a frame in turn and returns the nanoseconds that
// each takes for a packet: the least of some runs, as others use the machine
// too.
func perPacket(b *testing.B, frame []byte, programs ...timed) []float64 {
	b.Helper()
	const rounds, repeat = 9, 300_000
	least := make([]float64, len(programs))
	for round := range rounds {
		for i, p := range programs {
			action, took, err := p.program.Benchmark(bytes.Clone(frame), repeat, nil)
			if err != nil || action != p.action {
				b.Fatalf("got %d, want %d: %v", action, p.action, err)
			}
			if ns := float64(took.Nanoseconds()); round == 0 || ns < least[i] {
				least[i] = ns
			}
		}
	}
	return least
}

// BenchmarkSteer measures what steering adds to a packet of one SPI: "ns/added"
// to what an empty program takes in the same run ("ns/pass"); "ns/redirect" is
// what a program takes that only redirects.
func BenchmarkSteer(b *testing.B) {
	verdict := [...]Verdict{Pass: Passed, Drop: Dropped, ToCPU: OnCPU, ToDevice: Forwarded}
	measure := func(b *testing.B, p *Program, frame []byte, want uint32) {
		c := walkers(b, p, nil)
		for b.Loop() {
			took := perPacket(b, frame, timed{c.Programs["pass_all"], xdpPass},
				timed{c.Programs["redirect_all"], xdpRedirect}, timed{p.objects.QuicksandSteer, want})
			b.ReportMetric(took[0], "ns/pass")
			b.ReportMetric(took[1], "ns/redirect")
			b.ReportMetric(took[2], "ns/steer")
			b.ReportMetric(took[2]-took[0], "ns/added")
		}
	}
	for _, n := range []int{1, 10_000, maxSPIs} {
		for _, to := range []Target{{Action: Pass}, {Action: Drop}, {Action: ToCPU}, {Action: ToDevice}} {
			b.Run(fmt.Sprintf("%s, %d SPIs", to.Action, n), func(b *testing.B) {
				measure(b, benchProgram(b, n, to), frame4(50, espPacket(firstSPI, 64)), does(verdict[to.Action]))
			})
		}
	}
	others := map[string][]byte{
		"unknown SPI": frame4(50, espPacket(0xdead, 64)), "other": frame4(6, make([]byte, 64)),
		"IKE": frame4(17, udpPacket(500, ikePacket(false))), "ESP in UDP": frame4(17, udpPacket(4500, espPacket(firstSPI, 64))),
		"fragment": join(ethernet(0x0800), header4(50, 0, 0x2000, espPacket(firstSPI, 64))),
		"IPv6":     frame6(50, espPacket(firstSPI, 64)),
		"IPv6, six extension headers": frame6(60, join(extension(60, 0), extension(60, 0), extension(60, 0), extension(60, 0),
			extension(60, 0), extension(50, 0), espPacket(firstSPI, 64))),
	}
	for name, frame := range others {
		b.Run(name, func(b *testing.B) {
			p := open(b, Options{})
			insert(b, p, benchKey(0), Target{Action: Pass})
			if err := p.SetCPU(0, 64); err != nil {
				b.Fatal(err)
			}
			insert(b, p, Key{local6, firstSPI, sa.ESP}, Target{Action: Pass})
			measure(b, p, frame, xdpPass)
		})
	}
}

// BenchmarkWalk measures what steering adds to packets of a million SPIs: all
// of one, in bursts of 32, of 1024 at random, by Zipf's law, and of all at
// random, beside what a program takes that only chooses the SPI. Of that,
// "ns/lookup" is for finding the entry, and "ns/hash" what the kernel's hash
// table takes for it. "ns/load" is what one load at random takes in as much
// memory as the table, which bounds what finding an entry at random can take.
func BenchmarkWalk(b *testing.B) {
	p := benchProgram(b, maxSPIs, Target{Action: Pass})
	for _, walk := range []struct {
		name      string
		constants map[string]any
	}{
		{"one SPI", map[string]any{"walk_mask": uint32(0)}},
		{"bursts of 32", map[string]any{"walk_mask": uint32(maxSPIs - 1), "walk_burst": uint32(32)}},
		{"1024 in use", map[string]any{"walk_mask": uint32(1023)}},
		{"Zipf", map[string]any{"walk_mask": uint32(maxSPIs - 1), "walk_zipf": uint8(1)}},
		{"random", map[string]any{"walk_mask": uint32(maxSPIs - 1)}},
	} {
		b.Run(walk.name, func(b *testing.B) {
			c := walkers(b, p, walk.constants)
			fillHash(b, c.Maps["hash"], maxSPIs)
			frame := frame4(50, espPacket(firstSPI, 64))
			var programs []timed
			for _, name := range []string{"walk_pass", "walk_steer", "walk_lookup", "walk_hash"} {
				programs = append(programs, timed{c.Programs[name], xdpPass})
			}
			for b.Loop() {
				took := perPacket(b, frame, programs...)
				b.ReportMetric(took[0], "ns/pass")
				b.ReportMetric(took[1], "ns/steer")
				b.ReportMetric(took[1]-took[0], "ns/added")
				b.ReportMetric(took[2]-took[0], "ns/lookup")
				b.ReportMetric(took[3]-took[0], "ns/hash")
				b.ReportMetric(perLoad(len(p.core.words)), "ns/load")
			}
		})
	}
}

// perLoad returns the nanoseconds of a load from so many words at random, whose
// address depends on the load before.
func perLoad(n int) float64 {
	words := make([]uint64, n)
	for i := range words {
		words[i] = 1
	}
	const loads = 1_000_000
	least := time.Duration(1 << 62)
	for range 5 {
		begin, state := time.Now(), uint64(1)
		for range loads {
			state = state*6364136223846793005 + words[state>>32*uint64(n)>>32]
		}
		if state != 0 {
			least = min(least, time.Since(begin))
		}
	}
	return float64(least.Nanoseconds()) / loads
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

// BenchmarkFill inserts a million SPIs one by one, and beside that into the
// kernel's hash table.
func BenchmarkFill(b *testing.B) {
	needKernel(b)
	for b.Loop() {
		p := open(b, Options{MaxSPIs: maxSPIs})
		begin := time.Now()
		fill(b, p, maxSPIs)
		b.ReportMetric(maxSPIs/time.Since(begin).Seconds(), "SPIs/s")
		hash, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Hash, KeySize: 24, ValueSize: 8, MaxEntries: maxSPIs})
		if err != nil {
			b.Fatal(err)
		}
		begin = time.Now()
		for i := range maxSPIs {
			key, value := hashKeyOf(i), uint64(i)
			if err := hash.Update(&key, &value, ebpf.UpdateNoExist); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(maxSPIs/time.Since(begin).Seconds(), "hash-SPIs/s")
		hash.Close()
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
