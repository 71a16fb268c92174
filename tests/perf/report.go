// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
)

// Row is one comparison. Ratio is above 1 where ours is better, whatever the
// unit.
type Row struct {
	Group    string  `json:"group"`
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
// does not favour either, and returns the medians, and the ratio pair by pair.
// Where less is better the ratio is turned round.
func pairs(n int, lessIsBetter bool, ours, peer func() (float64, error)) (row Row, err error) {
	var a, b, ratios []float64
	for range n {
		x, err := ours()
		if err != nil {
			return row, fmt.Errorf("ours: %w", err)
		}
		y, err := peer()
		if err != nil {
			return row, fmt.Errorf("peer: %w", err)
		}
		r := x / y
		if lessIsBetter {
			r = y / x
		}
		a, b, ratios = append(a, x), append(b, y), append(ratios, r)
	}
	row.Ours, row.Peer, row.Ratio = median(a), median(b), median(ratios)
	row.spread = (slices.Max(ratios) - slices.Min(ratios)) / 2 / row.Ratio
	return row, nil
}

func median(v []float64) float64 {
	s := slices.Sorted(slices.Values(v))
	if n := len(s); n%2 == 0 {
		return (s[n/2-1] + s[n/2]) / 2
	}
	return s[len(s)/2]
}

// write puts report.json, report.md and the charts into a directory. Rows of
// groups that were not run stay as the last report has them.
func write(dir string, rows []Row, ran []string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	path := filepath.Join(dir, "report.json")
	var kept []Row
	if old, err := os.ReadFile(path); err == nil {
		var last []Row
		if err := json.Unmarshal(old, &last); err != nil {
			return fmt.Errorf("read %s: %w", path, err)
		}
		for _, r := range last {
			if !slices.Contains(ran, r.Group) {
				kept = append(kept, r)
			}
		}
	}
	all := append(kept, rows...)
	slices.SortStableFunc(all, func(a, b Row) int { return strings.Compare(a.Group, b.Group) })
	b, err := json.MarshalIndent(all, "", "\t")
	if err != nil {
		return err
	}
	if err := os.WriteFile(path, append(b, '\n'), 0o644); err != nil {
		return err
	}
	for name, svg := range charts(rows) {
		if err := os.WriteFile(filepath.Join(dir, name+".svg"), []byte(svg), 0o644); err != nil {
			return err
		}
	}
	return os.WriteFile(filepath.Join(dir, "report.md"), []byte(markdown(all)), 0o644)
}

func markdown(rows []Row) string {
	var b strings.Builder
	b.WriteString("# Measured\n\nOurs beside a peer, in turn on the same machine; a ratio above 1 means that ours is better.\n")
	b.WriteString("Medians; ± is half the range of the ratio over the pairs, where this run measured it.\n\n")
	b.WriteString(machine())
	group := ""
	for _, r := range rows {
		if r.Group != group {
			group = r.Group
			fmt.Fprintf(&b, "\n## %s\n\n| case | unit | ours | peer | | ratio |\n|---|---|---:|---:|---|---:|\n", group)
		}
		spread := ""
		if r.spread > 0 {
			spread = fmt.Sprintf(" ± %.0f %%", r.spread*100)
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | **%.2f**%s |\n", r.Case, r.Unit, number(r.Ours), number(r.Peer), r.PeerName, r.Ratio, spread)
	}
	return b.String()
}

// number prints three significant digits, or a whole number where it is large.
func number(v float64) string {
	if v == 0 || math.IsInf(v, 0) || math.IsNaN(v) {
		return fmt.Sprint(v)
	}
	if math.Abs(v) >= 1000 {
		return fmt.Sprintf("%.0f", v)
	}
	return fmt.Sprintf("%.*f", max(0, 2-int(math.Floor(math.Log10(math.Abs(v))))), v)
}

// machine says what it was measured on.
func machine() string {
	var b strings.Builder
	say := func(what, value string) {
		if value != "" {
			fmt.Fprintf(&b, "- %s: %s\n", what, value)
		}
	}
	say("CPU", fmt.Sprintf("%s, %d cores", field("/proc/cpuinfo", "model name"), runtime.NumCPU()))
	say("kernel", output("uname", "-r"))
	say("Go", output("go", "env", "GOVERSION"))
	say("OpenSSL", output("openssl", "version"))
	say("strongSwan", output("dpkg-query", "-W", "-f", "${Version}", "strongswan-charon"))
	say("intel-ipsec-mb", output("dpkg-query", "-W", "-f", "${Version}", "libipsec-mb-dev"))
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
