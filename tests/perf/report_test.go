// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestGroupsApart has the figures of a group, and what they were measured on,
// stay as they are when another one is measured, or the same on another CPU.
func TestGroupsApart(t *testing.T) {
	dir, here := t.TempDir(), kernels()
	const others = "# Measured\n\nWords.\n\n## crypto: zz\n\n- CPU: another\n\n| a | **1.00** ± 1 % |\n\n## tunnel: zz\n\n| d |\n\n"
	old := others + "## tunnel: " + here + "\n\n- CPU: another\n\n| b |\n\n## xdp: zz\n\n| c |\n"
	oldRows := `[{"group":"crypto","cpu":"zz","case":"a","unit":"GB/s","ours":1,"peer":1,"peer_name":"x","ratio":1},
		{"group":"tunnel","cpu":"zz","case":"d","unit":"GB/s","ours":1,"peer":1,"peer_name":"x","ratio":1},
		{"group":"tunnel","cpu":"` + here + `","case":"b","unit":"GB/s","ours":1,"peer":1,"peer_name":"x","ratio":1},
		{"group":"xdp","cpu":"zz","case":"c","unit":"GB/s","ours":1,"peer":1,"peer_name":"x","ratio":1}]`
	for name, text := range map[string]string{"report.md": old, "report.json": oldRows} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	row := compare([]float64{2, 2, 4}, []float64{1, 2, 1}, false)
	row.Group, row.CPU, row.Case, row.Unit, row.PeerName = "tunnel", here, "new", "Gbit/s", "y"
	row.chart, row.series, row.x = "tunnel-tcp", "ours", "1"
	for range 2 { // a report of its own making is read as well
		if err := write(dir, group{name: "tunnel", versions: []string{"Go"}}, []Row{row}); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(filepath.Join(dir, "report.md"))
	if err != nil {
		t.Fatal(err)
	}
	text := string(b)
	if !strings.Contains(text, "\n## crypto: zz\n\n- CPU: another\n\n| a | **1.00** ± 1 % |\n\n## tunnel: zz\n\n| d |\n\n## tunnel: "+here+"\n\n- date: ") ||
		!strings.HasSuffix(text, "| new | Gbit/s | 2.00 | 1.00 | y | **2.00** ± 75 % |\n\n## xdp: zz\n\n| c |\n") {
		t.Errorf("the report became:\n%s", text)
	}
	var rows []map[string]any
	b, err = os.ReadFile(filepath.Join(dir, "report.json"))
	if err == nil {
		err = json.Unmarshal(b, &rows)
	}
	if err != nil {
		t.Fatal(err)
	}
	var cases string
	for _, r := range rows {
		cases += fmt.Sprint(r["case"], " ")
	}
	if cases != "a d new c " || len(rows[2]) != 8 {
		t.Errorf("the rows became %v", rows)
	}
	charts, err := filepath.Glob(filepath.Join(dir, "tunnel-tcp-*.svg"))
	if err != nil || len(charts) != 1 {
		t.Errorf("charts %v, %v", charts, err)
	}
}

func TestCompareWhereLessIsBetter(t *testing.T) {
	if r := compare([]float64{1, 2, 2}, []float64{4, 4, 2}, true); r.Ratio != 2 || r.Ours != 2 || r.Peer != 4 {
		t.Errorf("compared as %+v", r)
	}
}
