// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"math"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"quicksand/internal/bench"
	"quicksand/sa"
)

const benchHelp = `
"quicksand bench offload" measures what IPsec costs and carries on a machine's
NIC: the same traffic with packet offload, crypto offload, the kernel's own ESP
and the user-space tunnel, over more and more tunnels. It needs two ends, as
root, on which no IKE daemon runs:

  the machine that receives    quicksand bench offload --sink --dev eth0
  the machine that sends       quicksand bench offload --dev eth0 --peer 192.0.2.2

Two ports of one NIC will do, each in a network namespace of its own, if one is
cabled to the other:

  ip netns add far && ip link set eth1 netns far
  ip -n far addr add 192.0.2.2/24 dev eth1 && ip -n far link set eth1 up
  ip netns exec far quicksand bench offload --sink --dev eth1 &
  quicksand bench offload --dev eth0 --peer 192.0.2.2

and then the figures of CPU time, which are of the whole machine, hold for both
ends together.

Inside the tunnels the addresses are those set aside for benchmarks
(198.18.0.0/15). UDP packets are sent as fast as the machine can, over all
tunnels in turn; what arrives is counted, and is an error where it did not come
through the SAs. Whoever reaches the sink's TCP port can have it install tunnels:
run it on a network for tests. Both ends take everything away when they end.

The sender prints a table, and with --o also writes it, its figures as JSON, and
charts of throughput, packets a second and CPU time.

`

// benchFlags are the flags of "bench offload".
type benchFlags struct {
	device, peer, dir          string
	sink                       bool
	port                       uint
	tunnels, placements, sizes string
	segments, senders, rounds  int
	length                     time.Duration
}

func (b *benchFlags) define(f *flag.FlagSet) {
	f.StringVar(&b.device, "dev", "", "`interface` that leads to the other end")
	f.BoolVar(&b.sink, "sink", false, "be the end that receives, until interrupted")
	f.UintVar(&b.port, "port", bench.DefaultPort, "port of the sink, over TCP and inside the tunnels over UDP")
	f.StringVar(&b.peer, "peer", "", "`address` of the sink")
	f.StringVar(&b.tunnels, "tunnels", "1,10,100,1000,10000", "numbers of tunnels")
	f.StringVar(&b.placements, "placements", "packet,crypto,kernel,userspace", "what to measure; a sink that is given one has its end run there whatever the source's does")
	f.StringVar(&b.sizes, "sizes", "64,1400", "lengths of the IP packets in the tunnels, in bytes")
	f.IntVar(&b.segments, "segments", 1, "packets that are handed to the kernel as one (UDP GSO)")
	f.IntVar(&b.senders, "senders", min(runtime.NumCPU(), 16), "sending threads")
	f.DurationVar(&b.length, "time", 2*time.Second, "length of one measurement")
	f.IntVar(&b.rounds, "rounds", 3, "how often each placement is measured, in turn")
	f.StringVar(&b.dir, "o", "", "`directory` for the report")
}

// runBench runs a benchmark of the machine.
func runBench(ctx context.Context, e *env, args []string) error {
	e.help = benchHelp
	var b benchFlags
	b.define(e.flags)
	named := len(args) > 0 && args[0] == "offload"
	if named {
		args = args[1:]
	}
	if err := e.parse(args); err != nil {
		return err
	}
	switch {
	case !named:
		return usagef("the benchmark is not named: quicksand bench offload")
	case b.device == "":
		return usagef("--dev is missing")
	case b.port == 0 || b.port > math.MaxUint16:
		return usagef("--port %d is no port", b.port)
	case b.sink == (b.peer != ""):
		return usagef("either --sink or --peer says which end this is")
	case b.sink:
		s, err := b.asSink(e.stderr)
		if err != nil {
			return usageError{err}
		}
		return s.Serve(ctx)
	}
	s, err := b.asSource(e.stderr)
	if err != nil {
		return usageError{err}
	}
	r, err := s.Run(ctx)
	if r == nil {
		return err
	}
	fmt.Fprint(e.stdout, r.Markdown())
	if err == nil && b.dir != "" {
		err = r.Write(b.dir)
	}
	return err
}

func (b *benchFlags) asSink(stderr io.Writer) (s bench.Sink, err error) {
	kinds, err := parsePlacements(b.placements)
	s = bench.Sink{Device: b.device, Port: uint16(b.port), Log: slog.New(slog.NewTextHandler(stderr, nil))}
	if len(kinds) == 1 {
		s.Placement = kinds[0]
	}
	return s, err
}

func (b *benchFlags) asSource(stderr io.Writer) (s bench.Source, err error) {
	s = bench.Source{Device: b.device, Sink: b.peer, Port: uint16(b.port), Segments: b.segments, Senders: b.senders, Time: b.length, Rounds: b.rounds,
		Log:      slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
		Progress: func(format string, args ...any) { fmt.Fprintf(stderr, format+"\n", args...) }}
	if s.Placements, err = parsePlacements(b.placements); err != nil {
		return s, err
	}
	if s.Tunnels, err = parseNumbers(b.tunnels, 1, bench.MaxTunnels); err != nil {
		return s, fmt.Errorf("--tunnels: %w", err)
	}
	if s.Sizes, err = parseNumbers(b.sizes, bench.MinSize, bench.MaxSize); err != nil {
		return s, fmt.Errorf("--sizes: %w", err)
	}
	const mostSegments, mostSenders, shortest = 64, 256, 10 * time.Millisecond
	switch {
	case s.Segments < 1 || s.Segments > mostSegments || s.Segments*slices.Max(s.Sizes) > bench.MaxSize:
		err = fmt.Errorf("--segments %d: 1 to %d, and %d bytes in all, are possible", s.Segments, mostSegments, bench.MaxSize)
	case s.Senders < 1 || s.Senders > mostSenders:
		err = fmt.Errorf("--senders %d: 1 to %d are possible", s.Senders, mostSenders)
	case s.Rounds < 1:
		err = fmt.Errorf("--rounds %d: there has to be one", s.Rounds)
	case s.Time < shortest:
		err = fmt.Errorf("--time %v: at least %v are needed", s.Time, shortest)
	}
	return s, err
}

// parsePlacements reads a list of names.
func parsePlacements(list string) (kinds []sa.Kind, err error) {
	for name := range strings.SplitSeq(list, ",") {
		i := slices.IndexFunc(bench.Placements, func(k sa.Kind) bool { return k.String() == strings.TrimSpace(name) })
		if i < 0 {
			return nil, fmt.Errorf("--placements: %q is none of packet, crypto, kernel, userspace", name)
		}
		kinds = append(kinds, bench.Placements[i])
	}
	return kinds, nil
}

// parseNumbers reads a list of whole numbers within limits.
func parseNumbers(list string, least, most int) (numbers []int, err error) {
	for word := range strings.SplitSeq(list, ",") {
		n, err := strconv.Atoi(strings.TrimSpace(word))
		if err != nil || n < least || n > most {
			return nil, fmt.Errorf("%q is not a number from %d to %d", word, least, most)
		}
		numbers = append(numbers, n)
	}
	return numbers, nil
}
