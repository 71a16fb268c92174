// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// steering are the benchmarks of package xdp, by the beginnings of their names,
// which measure ours and the peer in turn by test runs of the programs. Less is
// better of nanoseconds, more of others.
var steering = []struct {
	benchmark string
	what      string // the case, before the rest of the benchmark's name
	unit      string
	ours      string // the benchmark's metric
	peer      string
	peerName  string
}{
	{"BenchmarkSteer/", "a packet: ", "ns", "ns/steer", "ns/pass", "XDP_PASS"},
	{"BenchmarkSteer/cpu", "a packet: cpu", "ns", "ns/steer", "ns/redirect", "XDP_REDIRECT"},
	{"BenchmarkWalk/", "a packet, 1048576 SPIs: ", "ns", "ns/steer", "ns/pass", "XDP_PASS"},
	{"BenchmarkWalk/", "finding an SPI of 1048576: ", "ns", "ns/lookup", "ns/hash", "kernel's hash map"},
	{"BenchmarkWalk/random", "finding an SPI of 1048576: random", "ns", "ns/lookup", "ns/load", "one load from memory"},
	{"BenchmarkFill", "1048576 SPIs inserted one by one", "SPIs/s", "SPIs/s", "hash-SPIs/s", "kernel's hash map"},
}

// xdpGroup measures what steering takes of a packet, and inserts.
func xdpGroup(o options) ([]Row, error) {
	dir, err := os.MkdirTemp("", "quicksand-perf-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	program := filepath.Join(dir, "xdp.test")
	if out, err := exec.Command("go", "test", "-c", "-o", program, "./xdp").CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build benchmarks: %w: %s", err, out)
	}
	runs := make([]map[string]map[string]float64, o.pairs)
	for i := range runs {
		if runs[i], err = benchmarks(program); err != nil {
			return nil, err
		}
		o.progress("%d of %d", i+1, len(runs))
	}
	var rows []Row
	for _, s := range steering {
		for _, name := range slices.Sorted(maps.Keys(runs[0])) {
			rest, found := strings.CutPrefix(name, s.benchmark)
			if rest = strings.ReplaceAll(rest, "_", " "); !found {
				continue
			}
			var ours, peer []float64
			for _, run := range runs {
				ours, peer = append(ours, run[name][s.ours]), append(peer, run[name][s.peer])
			}
			r := compare(ours, peer, s.unit == "ns")
			r.Case, r.Unit, r.PeerName = s.what+rest, s.unit, s.peerName
			if o.wants(r.Case) {
				rows = append(rows, r)
			}
		}
	}
	return rows, nil
}

// benchmarks runs a test program's and returns each one's metrics by unit.
func benchmarks(program string) (map[string]map[string]float64, error) {
	cmd := exec.Command(program, "-test.run=^$", "-test.bench=^Benchmark(Steer|Walk|Fill)$", "-test.benchtime=1x", "-test.cpu=1")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("run benchmarks: %w: %s", err, out)
	}
	all := map[string]map[string]float64{}
	for s := bufio.NewScanner(bytes.NewReader(out)); s.Scan(); {
		// The name, how often, and then pairs of a value and its unit.
		f := strings.Fields(s.Text())
		if len(f) < 4 || !strings.HasPrefix(f[0], "Benchmark") {
			continue
		}
		metrics := map[string]float64{}
		for i := 2; i+1 < len(f); i += 2 {
			if metrics[f[i+1]], err = strconv.ParseFloat(f[i], 64); err != nil {
				return nil, fmt.Errorf("read benchmarks: %q: %w", s.Text(), err)
			}
		}
		all[f[0]] = metrics
	}
	return all, nil
}
