// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"quicksand/internal/measure"
	"quicksand/tests/harness"
)

// tunnelCase is a measurement of a tunnel, which gives one figure or several.
type tunnelCase struct {
	name    string
	metrics []metric
	measure func(t *tunnel, o options) ([]float64, error)
	chart   string
	x       string // its place there
}

type metric struct {
	name, unit   string
	lessIsBetter bool
}

var tunnelCases = []tunnelCase{
	{"TCP, 1 stream", tcpMetrics, tcp(1), "tunnel-tcp", "1 stream"},
	{"TCP, 4 streams", tcpMetrics, tcp(4), "tunnel-tcp", "4 streams"},
	{"UDP, 64-byte packets", udpMetrics, udp(64), "tunnel-udp", "64"},
	{"UDP, 576-byte packets", udpMetrics, udp(576), "tunnel-udp", "576"},
	{"UDP, 1400-byte packets", udpMetrics, udp(1400), "tunnel-udp", "1400"},
	{"ping, idle", pingMetrics, pingIdle, "", ""},
	{"ping, beside a TCP stream", pingMetrics, pingLoaded, "", ""},
	// The last one, since memory that has grown once stays.
	{"memory", []metric{{"idle", "MB", true}, {"under overload", "MB", true}}, memory, "", ""},
}

var (
	tcpMetrics = []metric{{"", "Gbit/s", false}, {"both daemons", "CPU-s/GB", true}, {"the whole machine", "CPU-s/GB", true}}
	// Sizes are those of the IP packet in the tunnel.
	udpMetrics  = []metric{{"", "packets/s", false}}
	pingMetrics = []metric{{"p50", "µs", true}, {"p99", "µs", true}}
)

// tunnelGroup measures the user-space tunnel between two daemons of ours beside
// wireguard-go and strongSwan's kernel-libipsec: every tunnel stands all the
// time, and they carry the same load one after the other.
func tunnelGroup(o options) ([]Row, error) {
	makers := slices.Clone(tunnelMakers)
	if o.before != "" {
		path, err := filepath.Abs(o.before)
		if err != nil {
			return nil, err
		}
		for _, m := range []struct {
			name, way string
			encap     bool
		}{{before, "", false}, {before + ", ESP in UDP", "", true}, {before + ", XDP", steered, false}} {
			makers = append(makers, maker{m.name, false, func(t *tunnel) error { return t.quicksand(path, m.way, m.encap) }})
		}
	}
	var tunnels []*tunnel
	for _, m := range makers {
		if !o.among(m.name) || !slices.ContainsFunc(tunnelCases, func(c tunnelCase) bool { return o.wants(c.name) }) {
			continue
		}
		t, err := newTunnel(m)
		if err != nil {
			return nil, err
		}
		defer t.net.Close()
		tunnels = append(tunnels, t)
	}
	if !slices.ContainsFunc(tunnels, func(t *tunnel) bool { return t.ours }) && !o.wants(parallelCase.name) {
		return nil, fmt.Errorf("none of ours is among what to measure")
	}
	var rows []Row
	for _, c := range tunnelCases {
		if !o.wants(c.name) {
			continue
		}
		got, err := c.run(tunnels, o)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", c.name, err)
		}
		rows = append(rows, got...)
	}
	more, err := parallelPairs(o)
	return append(rows, more...), err
}

// run measures each tunnel in turn, several times.
func (c tunnelCase) run(tunnels []*tunnel, o options) ([]Row, error) {
	samples := map[*tunnel][][]float64{} // by metric
	for range o.pairs {
		var line []string
		for _, t := range tunnels {
			values, err := c.measure(t, o)
			if err == nil {
				err = t.alive()
			}
			if err != nil {
				return nil, fmt.Errorf("%s: %w", t.name, err)
			}
			if samples[t] == nil {
				samples[t] = make([][]float64, len(c.metrics))
			}
			for i, v := range values {
				samples[t][i] = append(samples[t][i], v)
			}
			line = append(line, t.name+" "+measure.Number(values[0]))
		}
		o.progress("%s: %s", c.name, strings.Join(line, ", "))
	}
	var rows []Row
	for i, m := range c.metrics {
		for _, ours := range tunnels {
			for _, peer := range tunnels {
				if !ours.ours || peer.ours {
					continue
				}
				r := compare(samples[ours][i], samples[peer][i], m.lessIsBetter)
				r.Case, r.Unit, r.PeerName = strings.Join(slices.DeleteFunc([]string{ours.name + ": " + c.name, m.name}, empty), ", "), m.unit, peer.name
				if i == 0 {
					r.chart, r.series, r.x = c.chart, "quicksand, "+ours.name, c.x
				}
				rows = append(rows, r)
			}
		}
	}
	return rows, nil
}

func empty(s string) bool { return s == "" }

// tcp measures iperf3's TCP and what it costs the daemons and the machine, the
// latter with iperf3's own work.
func tcp(streams int) func(*tunnel, options) ([]float64, error) {
	return func(t *tunnel, o options) ([]float64, error) {
		d := 2 * o.time
		daemons, err := t.cpu()
		if err != nil {
			return nil, err
		}
		all, err := measure.Busy()
		if err != nil {
			return nil, err
		}
		r, err := t.net.Iperf(t.a, t.b, harness.Iperf{Source: insideA, Dest: insideB, Time: d, Streams: streams})
		if err != nil {
			return nil, err
		}
		daemons2, err := t.cpu()
		if err != nil {
			return nil, err
		}
		all2, err := measure.Busy()
		if err != nil {
			return nil, err
		}
		gigabytes := r.BitsPerSecond * d.Seconds() / 8e9
		if gigabytes == 0 {
			return nil, fmt.Errorf("nothing arrived")
		}
		return []float64{r.BitsPerSecond / 1e9, (daemons2 - daemons) / gigabytes, (all2 - all) / gigabytes}, nil
	}
}

func (t *tunnel) load(size int) load {
	return load{from: t.a, to: t.b, source: netip.MustParseAddr(insideA), dest: netip.MustParseAddr(insideB), size: size}
}

// udp searches the highest rate of packets that are carried.
func udp(size int) func(*tunnel, options) ([]float64, error) {
	return func(t *tunnel, o options) ([]float64, error) {
		rate, err := t.load(size).most(t.guess[size], 3*o.time/10)
		t.guess[size] = rate
		return []float64{rate}, err
	}
}

func pingIdle(t *tunnel, o options) ([]float64, error) {
	const interval = 2 * time.Millisecond
	return pings(t, harness.Ping{Count: int(o.time / interval), Interval: interval})
}

func pingLoaded(t *tunnel, o options) ([]float64, error) {
	const interval = 5 * time.Millisecond
	d := 2 * o.time
	done := make(chan error, 1)
	go func() {
		_, err := t.net.Iperf(t.a, t.b, harness.Iperf{Source: insideA, Dest: insideB, Time: d + o.time/2})
		done <- err
	}()
	time.Sleep(o.time / 3) // iperf3 starts, and TCP's window opens
	values, err := pings(t, harness.Ping{Count: int(d / interval), Interval: interval})
	if e := <-done; err == nil {
		err = e
	}
	return values, err
}

// pings returns the median and the 99th percentile of round trips in
// microseconds. A request without an answer counts as if one had come when it
// was no longer waited for.
func pings(t *tunnel, p harness.Ping) ([]float64, error) {
	p.Source, p.Dest, p.Linger = insideA, insideB, time.Second
	r, err := t.a.Ping(p)
	if err != nil {
		return nil, err
	}
	for range r.Lost() {
		r.Times = append(r.Times, p.Linger)
	}
	slices.Sort(r.Times)
	percentile := func(p int) float64 {
		return float64(r.Times[(len(r.Times)*p+99)/100-1].Nanoseconds()) / 1e3
	}
	return []float64{percentile(50), percentile(99)}, nil
}

// memory offers far more small packets than any tunnel carries, and returns
// what the larger daemon had resident before any load, and at most.
func memory(t *tunnel, o options) ([]float64, error) {
	for _, p := range t.daemons {
		if err := p.ResetPeak(); err != nil {
			return nil, err
		}
	}
	if _, err := t.load(64).run(0, 2*o.time); err != nil {
		return nil, err
	}
	peak, err := t.resident((*harness.Process).PeakRSS)
	return []float64{t.idle, peak}, err
}
