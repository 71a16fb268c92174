// SPDX-License-Identifier: Apache-2.0

// Perf measures quicksand beside its peers, in turn and on the same machine,
// and writes a report: "make bench". A peer that cannot be had is an error, not
// a missing row.
package main

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"quicksand/tests/harness"
)

// group is a set of comparisons that can be run by itself.
type group struct {
	name string
	run  func(o options) ([]Row, error)
}

type options struct {
	pairs int
	time  time.Duration // of one measurement
}

var groups = []group{
	{"crypto", crypto},
	{"dh", dhGroup},
	{"quickmode", quickmode},
	{"storm", storm},
}

func main() {
	var names []string
	for _, g := range groups {
		names = append(names, g.name)
	}
	only := flag.String("group", "", "run one of: "+strings.Join(names, ", "))
	dir := flag.String("o", "bench", "directory of the report")
	o := options{}
	flag.IntVar(&o.pairs, "pairs", 5, "how often ours and the peer's run in turn")
	flag.DurationVar(&o.time, "time", time.Second, "how long one measurement lasts")
	flag.Parse()
	if *only != "" && !slices.Contains(names, *only) || flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}
	harness.CloseOnSignal()
	err := run(*only, *dir, o)
	harness.CloseAll()
	if err != nil {
		fmt.Fprintln(os.Stderr, "perf:", err)
		os.Exit(1)
	}
}

func run(only, dir string, o options) error {
	var rows []Row
	var ran []string
	for _, g := range groups {
		if only != "" && g.name != only {
			continue
		}
		got, err := g.run(o)
		if err != nil {
			return fmt.Errorf("%s: %w", g.name, err)
		}
		for i := range got {
			got[i].Group = g.name
			r := &got[i]
			fmt.Printf("%-10s %-52s %10s %10s %-12s %s %.2f\n", r.Group, r.Case, number(r.Ours), number(r.Peer), r.Unit, r.PeerName, r.Ratio)
		}
		rows, ran = append(rows, got...), append(ran, g.name)
	}
	return write(dir, rows, ran)
}
