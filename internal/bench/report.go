// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"quicksand/accel"
	"quicksand/internal/measure"
	"quicksand/sa"
)

// Report is what a source has measured.
type Report struct {
	Date     string  `json:"date"`
	CPU      string  `json:"cpu"`
	Source   string  `json:"source"` // device, driver and kernel
	Sink     string  `json:"sink"`
	Sizes    []int   `json:"sizes"` // of the IP packets in the tunnels, in bytes
	Segments int     `json:"segments"`
	Senders  int     `json:"senders"`
	Cells    []*Cell `json:"cells"`
}

// Cell is a number of tunnels at a placement.
type Cell struct {
	Tunnels    int         `json:"tunnels"`
	Placement  string      `json:"placement"`
	Detail     string      `json:"detail,omitempty"`      // where the tunnels were read back to run
	SinkDetail string      `json:"sink_detail,omitempty"` // and at the sink
	Refused    string      `json:"refused,omitempty"`     // why it is not to be had; then there are no samples
	Samples    [][]Figures `json:"samples,omitempty"`     // by size and round
}

// Figures are of one measurement.
type Figures struct {
	Packets   float64 `json:"packets"`    // that arrived in a second
	Gigabits  float64 `json:"gigabits"`   // of IP packets that arrived in a second
	CPUSource float64 `json:"cpu_source"` // CPUs of the source's machine that worked, on average
	CPUSink   float64 `json:"cpu_sink"`
}

// figures makes them of what a sink has counted, and fails where that did not
// come through the SAs.
func figures(c count, size int, cpu float64) (f Figures, err error) {
	switch {
	case c.Packets < 2 || c.Seconds <= 0 || c.Elapsed <= 0:
		return f, fmt.Errorf("%d packets of %d bytes arrived", c.Packets, size)
	case c.SAs < uint64(c.Packets):
		return f, fmt.Errorf("%d packets arrived, and only %d of them through the SAs", c.Packets, c.SAs)
	}
	rate := float64(c.Packets) / c.Seconds
	return Figures{Packets: rate, Gigabits: rate * float64(size) * 8 / 1e9, CPUSource: cpu, CPUSink: c.Busy / c.Elapsed}, nil
}

func newReport(s Source, source, sink string) *Report {
	return &Report{Date: time.Now().UTC().Format(time.DateOnly), CPU: accel.Detect().Name, Source: source, Sink: sink,
		Sizes: s.Sizes, Segments: s.Segments, Senders: s.Senders}
}

// cell returns the cell, a new one where it is the first time.
func (r *Report) cell(tunnels int, kind sa.Kind) *Cell {
	for _, c := range r.Cells {
		if c.Tunnels == tunnels && c.Placement == kind.String() {
			return c
		}
	}
	c := &Cell{Tunnels: tunnels, Placement: kind.String(), Samples: make([][]Figures, len(r.Sizes))}
	r.Cells = append(r.Cells, c)
	return c
}

// quantity is one of the figures, as the median over the rounds, with half of
// its range in percent.
func quantity(samples []Figures, of func(Figures) float64) (middle, spread float64) {
	var v []float64
	for _, f := range samples {
		v = append(v, of(f))
	}
	middle = measure.Median(v)
	return middle, (slices.Max(v) - slices.Min(v)) / 2 / middle * 100
}

var (
	packets   = func(f Figures) float64 { return f.Packets }
	gigabits  = func(f Figures) float64 { return f.Gigabits }
	cpuSource = func(f Figures) float64 { return f.CPUSource }
	cpuSink   = func(f Figures) float64 { return f.CPUSink }
	// perPacket is the CPU time of both ends in microseconds.
	perPacket = func(f Figures) float64 { return (f.CPUSource + f.CPUSink) / f.Packets * 1e6 }
)

// Markdown is the report as a table.
func (r *Report) Markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "# IPsec by placement and number of tunnels\n\n- date: %s\n- CPU: %s\n- source: %s\n- sink: %s\n- senders: %d", r.Date, r.CPU, r.Source, r.Sink, r.Senders)
	if r.Segments > 1 {
		fmt.Fprintf(&b, ", %d packets at once (UDP GSO)", r.Segments)
	}
	seen := map[string]bool{}
	for _, c := range r.Cells {
		if c.Refused == "" && !seen[c.Placement] {
			seen[c.Placement] = true
			fmt.Fprintf(&b, "\n- %s, as read back: at the source %s; at the sink %s", c.Placement, c.Detail, c.SinkDetail)
		}
	}
	b.WriteString("\n\nAES-128-GCM, ESP in tunnel mode. Each sender offers as much as it can; what arrives is counted. " +
		"Medians; ± is half the range over the rounds. CPUs are those that worked, of the whole machine.\n\n" +
		"| tunnels | placement | packet | Gbit/s | packets/s | | CPUs at the source | at the sink |\n|---:|---|---:|---:|---:|---:|---:|---:|\n")
	var reasons []string
	for _, c := range r.Cells {
		if c.Refused != "" {
			i := slices.Index(reasons, c.Refused)
			if i < 0 {
				i = len(reasons)
				reasons = append(reasons, c.Refused)
			}
			fmt.Fprintf(&b, "| %d | %s | | not to be had (%d) | | | | |\n", c.Tunnels, c.Placement, i+1)
			continue
		}
		for i, size := range r.Sizes {
			rate, spread := quantity(c.Samples[i], packets)
			bits, _ := quantity(c.Samples[i], gigabits)
			here, _ := quantity(c.Samples[i], cpuSource)
			there, _ := quantity(c.Samples[i], cpuSink)
			fmt.Fprintf(&b, "| %d | %s | %d bytes | %s | %s | ± %.0f %% | %.2f | %.2f |\n", c.Tunnels, c.Placement, size,
				measure.Number(bits), measure.Number(rate), spread, here, there)
		}
	}
	for i, why := range reasons {
		fmt.Fprintf(&b, "\n(%d) %s\n", i+1, why)
	}
	return b.String()
}

// charts are drawn by the number of tunnels: the throughput and the CPU time of
// the largest packets, and the rate of the smallest.
func (r *Report) charts() map[string]*measure.Chart {
	large, small := slices.Index(r.Sizes, slices.Max(r.Sizes)), slices.Index(r.Sizes, slices.Min(r.Sizes))
	all := map[string]*measure.Chart{}
	for _, p := range []struct {
		name, title, unit string
		size              int
		of                func(Figures) float64
	}{
		{"offload-throughput", "throughput", "Gbit/s", large, gigabits},
		{"offload-packets", "rate", "packets/s", small, packets},
		{"offload-cpu", "CPU time of both ends", "µs a packet", large, perPacket},
	} {
		chart := &measure.Chart{Title: fmt.Sprintf("%s by tunnels, %d-byte packets", p.title, r.Sizes[p.size]), Unit: p.unit}
		for _, c := range r.Cells {
			if c.Refused == "" {
				v, _ := quantity(c.Samples[p.size], p.of)
				chart.Add(c.Placement, strconv.Itoa(c.Tunnels), v)
			}
		}
		all[p.name] = chart
	}
	return all
}

// Write writes offload.md, offload.json and the charts into a directory.
func (r *Report) Write(dir string) error {
	b, err := json.MarshalIndent(r, "", "\t")
	if err != nil {
		return err
	}
	files := map[string]string{"offload.md": r.Markdown(), "offload.json": string(b) + "\n"}
	for name, c := range r.charts() {
		files[name+".svg"] = c.SVG()
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return fmt.Errorf("write report: %w", err)
		}
	}
	return nil
}
