// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestGroupsApart has the figures of a group, and what they were measured on,
// stay as they are when another one is measured.
func TestGroupsApart(t *testing.T) {
	dir := t.TempDir()
	const old = "# Measured\n\nWords.\n\n## crypto\n\n- CPU: another\n\n| a | **1.00** ± 1 % |\n\n## tunnel\n\n- CPU: another\n\n| b |\n\n## xdp\n\n| c |\n"
	const oldRows = `[{"group":"crypto","case":"a","unit":"GB/s","ours":1,"peer":1,"peer_name":"x","ratio":1},
		{"group":"tunnel","case":"b","unit":"GB/s","ours":1,"peer":1,"peer_name":"x","ratio":1},
		{"group":"xdp","case":"c","unit":"GB/s","ours":1,"peer":1,"peer_name":"x","ratio":1}]`
	for name, text := range map[string]string{"report.md": old, "report.json": oldRows} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	row := compare([]float64{2, 2, 4}, []float64{1, 2, 1}, false)
	row.Group, row.Case, row.Unit, row.PeerName = "tunnel", "new", "Gbit/s", "y"
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
	if !strings.Contains(text, "\n## crypto\n\n- CPU: another\n\n| a | **1.00** ± 1 % |\n\n## tunnel\n\n- date: ") ||
		!strings.HasSuffix(text, "| new | Gbit/s | 2.00 | 1.00 | y | **2.00** ± 75 % |\n\n## xdp\n\n| c |\n") {
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
	if len(rows) != 3 || rows[0]["case"] != "a" || rows[1]["case"] != "new" || rows[2]["case"] != "c" || len(rows[1]) != 7 {
		t.Errorf("the rows became %v", rows)
	}
	if _, err := os.Stat(filepath.Join(dir, "tunnel-tcp.svg")); err != nil {
		t.Error(err)
	}
}

func TestCompareWhereLessIsBetter(t *testing.T) {
	if r := compare([]float64{1, 2, 2}, []float64{4, 4, 2}, true); r.Ratio != 2 || r.Ours != 2 || r.Peer != 4 {
		t.Errorf("compared as %+v", r)
	}
}
