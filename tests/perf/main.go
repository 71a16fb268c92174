// SPDX-License-Identifier: Apache-2.0

// Perf measures quicksand beside its peers, in turn and on the same machine,
// and writes a report: "make bench". A peer that cannot be had is an error, not
// a missing row.
package main

import (
	"cmp"
	"errors"
	"flag"
	"fmt"
	"os"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"time"

	"quicksand/internal/measure"
	"quicksand/tests/harness"
)

// group is a set of comparisons that can be run by itself.
type group struct {
	name string
	run  func(o options) ([]Row, error)
	// pairs is how often ours and the peer's run in turn by default.
	pairs int
	// versions are the names of what takes part, of those in versionOf.
	versions []string
}

// options say what to measure and how long. A group that knows no cases of its
// own is always run whole.
type options struct {
	pairs  int
	time   time.Duration // of one measurement
	cases  *regexp.Regexp
	ends   *regexp.Regexp
	before string // a program of ours to measure beside this tree's; empty: none
}

// wants says whether a case is to be measured, and among whether something
// takes part in it.
func (o options) wants(name string) bool { return o.cases.MatchString(name) }
func (o options) among(name string) bool { return o.ends.MatchString(name) }

// progress tells of a measurement that is done, which the report may not need.
func (options) progress(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "  "+format+"\n", args...)
}

var groups = []group{
	{"crypto", crypto, 5, []string{"Go", "OpenSSL", "intel-ipsec-mb"}},
	{"dh", dhGroup, 5, []string{"Go", "OpenSSL"}},
	{"quickmode", quickmode, 5, []string{"Go", "strongSwan"}},
	{"storm", storm, 5, []string{"Go", "strongSwan"}},
	{"tunnel", tunnelGroup, 3, []string{"Go", "wireguard-go", "strongSwan", "iperf3"}},
	{"xdp", xdpGroup, 3, []string{"Go"}},
	{"xfrm", xfrm, 5, []string{"Go", "strongSwan", "kernel of the guest"}},
}

// A thread that has entered a namespace ends with its goroutine. The first one
// of a process cannot, so nothing runs on it but main, which only waits: what is
// bound to a thread waits and wakes more slowly.
func init() { runtime.LockOSThread() }

func main() {
	var names []string
	for _, g := range groups {
		names = append(names, g.name)
	}
	only := flag.String("group", "", "run one of: "+strings.Join(names, ", "))
	dir := flag.String("o", "", "directory of the report; bench by default, but none where not all of a group is measured")
	o := options{}
	flag.IntVar(&o.pairs, "pairs", 0, "how often ours and the peer's run in turn; 5 by default, 3 in group tunnel")
	flag.DurationVar(&o.time, "time", time.Second, "how long one measurement lasts")
	cases := flag.String("case", "", "measure only the cases of groups tunnel and xfrm that match the regular expression")
	ends := flag.String("ends", "", "measure only those of group tunnel, ours and peers, that match this one")
	flag.StringVar(&o.before, "before", "", "measure this program of quicksand too, as a peer in group tunnel")
	installs := flag.Bool("installs", false, "only install pairs in this network namespace's kernel, as group xfrm has it done, and print how many in a second")
	flag.Parse()
	var err1, err2 error
	o.cases, err1 = regexp.Compile(*cases)
	o.ends, err2 = regexp.Compile(*ends)
	if err := errors.Join(err1, err2); err != nil || *only != "" && !slices.Contains(names, *only) || flag.NArg() > 0 {
		if err != nil {
			fmt.Fprintln(os.Stderr, "perf:", err)
		}
		flag.Usage()
		os.Exit(2)
	}
	if *dir == "" && *cases == "" && *ends == "" && o.before == "" {
		*dir = "bench"
	}
	work := func() error { return run(*only, *dir, o) }
	if *installs {
		work = printInstalls
	}
	harness.CloseOnSignal()
	done := make(chan error)
	go func() { done <- work() }()
	err := <-done
	harness.CloseAll()
	if err != nil {
		fmt.Fprintln(os.Stderr, "perf:", err)
		os.Exit(1)
	}
}

// run runs a group, or all, and puts what was measured into the report in dir.
func run(only, dir string, o options) error {
	for _, g := range groups {
		if only != "" && g.name != only {
			continue
		}
		of := o
		of.pairs = cmp.Or(o.pairs, g.pairs)
		rows, err := g.run(of)
		if err != nil {
			return fmt.Errorf("%s: %w", g.name, err)
		}
		for i := range rows {
			r := &rows[i]
			r.Group, r.CPU = g.name, kernels()
			fmt.Printf("%-10s %-52s %10s %10s %-12s %-14s %.2f ± %.0f %%\n", r.Group, r.Case, measure.Number(r.Ours), measure.Number(r.Peer), r.Unit, r.PeerName, r.Ratio, r.spread*100)
		}
		if dir == "" {
			continue
		}
		if err := write(dir, g, rows); err != nil {
			return err
		}
	}
	return nil
}
