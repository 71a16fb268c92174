// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"quicksand/accel"
	"quicksand/internal/measure"
)

// Row is one comparison. Ratio is above 1 where ours is better, whatever the
// unit.
type Row struct {
	Group    string  `json:"group"`
	CPU      string  `json:"cpu"` // what its kernels are made of, as kernels has it
	Case     string  `json:"case"`
	Unit     string  `json:"unit"`
	Ours     float64 `json:"ours"`
	Peer     float64 `json:"peer"`
	PeerName string  `json:"peer_name"`
	Ratio    float64 `json:"ratio"`

	spread float64 // of the ratio over the pairs, half of (max-min)/median
	chart  string  // which chart it belongs to; empty: none
	series string  // of ours in that chart
	x      string  // its place on the chart's axis
}

// pairs runs two measurements in turn, so that a machine whose speed drifts
// does not favour either, and compares them.
func pairs(n int, lessIsBetter bool, ours, peer func() (float64, error)) (row Row, err error) {
	var a, b []float64
	for range n {
		x, err := ours()
		if err != nil {
			return row, fmt.Errorf("ours: %w", err)
		}
		y, err := peer()
		if err != nil {
			return row, fmt.Errorf("peer: %w", err)
		}
		a, b = append(a, x), append(b, y)
	}
	return compare(a, b, lessIsBetter), nil
}

// compare returns the medians of what was measured in pairs, and that of the
// ratio pair by pair. Where less is better the ratio is turned round.
func compare(ours, peer []float64, lessIsBetter bool) (row Row) {
	var ratios []float64
	for i := range ours {
		r := ours[i] / peer[i]
		if lessIsBetter {
			r = peer[i] / ours[i]
		}
		ratios = append(ratios, r)
	}
	row.Ours, row.Peer, row.Ratio = median(ours), median(peer), median(ratios)
	row.spread = (slices.Max(ratios) - slices.Min(ratios)) / 2 / row.Ratio
	return row
}

var median = measure.Median

// kernels names what the CPU has for the kernels of ciphers and Diffie-Hellman.
// Figures of CPUs that differ in it stand beside each other in a report.
func kernels() string {
	cpu := accel.Detect()
	name := cpu.Levels()[0].String()
	for _, f := range []accel.Feature{accel.IFMA, accel.ADX} {
		if cpu.Has(f) {
			return name + ", " + f.String()
		}
	}
	return name
}

// write puts what was measured of a group into the report.json, report.md and
// charts of a directory, and replaces what was measured of it on a CPU of the
// same kind. Everything else stays as it is there.
func write(dir string, g group, rows []Row) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	cpu := kernels()
	if err := writeRows(filepath.Join(dir, "report.json"), g.name, cpu, rows); err != nil {
		return err
	}
	kind := strings.ToLower(strings.ReplaceAll(cpu, ", ", "-"))
	for name, c := range charts(rows) {
		if err := os.WriteFile(filepath.Join(dir, name+"-"+kind+".svg"), []byte(c.SVG()), 0o644); err != nil {
			return err
		}
	}
	path := filepath.Join(dir, "report.md")
	old, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.WriteFile(path, []byte(withSection(string(old), g.name+": "+cpu, section(g, rows))), 0o644)
}

// writeRows replaces a group's rows of a kind of CPU in a report.json.
func writeRows(path, group, cpu string, rows []Row) error {
	var all []Row
	old, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return err
	default:
		if err := json.Unmarshal(old, &all); err != nil {
			return fmt.Errorf("read %s: %w", path, err)
		}
	}
	all = append(slices.DeleteFunc(all, func(r Row) bool { return r.Group == group && r.CPU == cpu }), rows...)
	slices.SortStableFunc(all, func(a, b Row) int {
		return cmp.Or(strings.Compare(a.Group, b.Group), strings.Compare(b.CPU, a.CPU))
	})
	b, err := json.MarshalIndent(all, "", "\t")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(b, '\n'), 0o644)
}

const introduction = `# Measured

Ours beside a peer, in turn on the same machine; a ratio above 1 means that ours is better.
Medians; ± is half the range of the ratio over the pairs. Each group says what it was measured on,
and after its name what that CPU has for ciphers and for Diffie-Hellman.
`

// withSection replaces the section of that title in a report.md, or puts it at
// its place: by group, and the better CPU first. Others stay as they are.
func withSection(old, title, text string) string {
	const mark = "\n## "
	sections := map[string]string{}
	_, rest, _ := strings.Cut(old, mark)
	for s := range strings.SplitSeq(rest, mark) {
		if title, body, ok := strings.Cut(s, "\n"); ok {
			sections[title] = strings.TrimRight(body, "\n")
		}
	}
	sections[title] = strings.TrimRight(text, "\n")
	var b strings.Builder
	b.WriteString(introduction)
	for _, title := range slices.SortedFunc(maps.Keys(sections), byTitle) {
		b.WriteString(mark + title + "\n" + sections[title] + "\n")
	}
	return b.String()
}

// byTitle compares titles of sections: a group, a colon, and a kind of CPU.
func byTitle(a, b string) int {
	groupA, cpuA, _ := strings.Cut(a, ":")
	groupB, cpuB, _ := strings.Cut(b, ":")
	return cmp.Or(strings.Compare(groupA, groupB), strings.Compare(cpuB, cpuA))
}

// section is what report.md says of a group below its title.
func section(g group, rows []Row) string {
	var b strings.Builder
	b.WriteString("\n" + machine(g.versions) + "\n| case | unit | ours | peer | | ratio |\n|---|---|---:|---:|---|---:|\n")
	for _, r := range rows {
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | **%.2f** ± %.0f %% |\n", r.Case, r.Unit, measure.Number(r.Ours), measure.Number(r.Peer), r.PeerName, r.Ratio, r.spread*100)
	}
	return b.String()
}

// charts draws the rows that belong to a chart, by its name: one line for each
// of our series and each peer.
func charts(rows []Row) map[string]*measure.Chart {
	all := map[string]*measure.Chart{}
	for _, r := range rows {
		if r.chart == "" {
			continue
		}
		c := all[r.chart]
		if c == nil {
			c = &measure.Chart{Title: r.chart, Unit: r.Unit}
			all[r.chart] = c
		}
		c.Add(r.series, r.x, r.Ours)
		c.Add(r.PeerName, r.x, r.Peer)
	}
	return all
}

// versionOf tells the version of what takes part in measurements.
var versionOf = map[string]func() string{
	"Go":                  runtime.Version,
	"OpenSSL":             func() string { return output("openssl", "version") },
	"strongSwan":          func() string { return debian("charon-systemd") },
	"intel-ipsec-mb":      func() string { return debian("libipsec-mb-dev") },
	"iperf3":              func() string { return debian("iperf3") },
	"kernel of the guest": guestKernel,
	"wireguard-go":        func() string { return module("golang.zx2c4.com/wireguard") },
}

func debian(pkg string) string { return output("dpkg-query", "-W", "-f", "${Version}", pkg) }

// module returns the version of a module that this program was built beside.
func module(path string) string {
	return output("go", "list", "-m", "-f", "{{.Version}}", path)
}

// machine says when and on what a group was measured, and with which versions.
func machine(versions []string) string {
	var b strings.Builder
	say := func(what, value string) {
		if value == "" {
			value = "unknown"
		}
		fmt.Fprintf(&b, "- %s: %s\n", what, value)
	}
	say("date", time.Now().UTC().Format(time.DateOnly))
	say("quicksand", output("git", "describe", "--always", "--dirty"))
	say("CPU", fmt.Sprintf("%s, %d cores", field("/proc/cpuinfo", "model name"), runtime.NumCPU()))
	say("kernel", output("uname", "-r"))
	for _, v := range versions {
		say(v, versionOf[v]())
	}
	return b.String()
}

func field(path, name string) string {
	b, _ := os.ReadFile(path)
	for line := range strings.Lines(string(b)) {
		if k, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(k) == name {
			return strings.TrimSpace(v)
		}
	}
	return "unknown"
}

func output(name string, args ...string) string {
	out, err := exec.Command(name, args...).Output()
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(out))
}
