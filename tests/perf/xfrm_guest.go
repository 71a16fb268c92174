// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"quicksand/internal/vici"
	"quicksand/offload"
	"quicksand/sa"
	"quicksand/tests/harness"
)

const ipBatch = "ip -batch"

// keyedCase is a measurement of daemons whose SAs the kernel carries.
type keyedCase struct {
	name    string
	metrics []metric
	measure func(*keyed) ([]float64, error)
}

var keyedCases = []keyedCase{
	{"Quick Mode's last message to the first packet that is answered", []metric{{"", "ms", true}}, (*keyed).firstPacket},
	{"rekey under traffic", []metric{
		{"first message until both ends send on the new SAs", "ms", true},
		{"pings answered", "%", false},
	}, (*keyed).rekey},
}

// xfrmInside measures the kernel's ESP as quicksand and its peers use it.
func xfrmInside(o options) (rows []Row, err error) {
	const installs = "pairs installed, with policies and routes"
	if o.wants(installs) {
		row, err := installRate(o)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", installs, err)
		}
		row.Case, row.Unit, row.PeerName = installs, "pairs/s", ipBatch
		rows = append(rows, row)
	}
	cases := slices.DeleteFunc(slices.Clone(keyedCases), func(c keyedCase) bool { return !o.wants(c.name) })
	if len(cases) == 0 {
		return rows, nil
	}
	ours, err := newKeyed(func(h *harness.Host) (*harness.Peer, error) {
		return harness.StartQuicksand(h, harness.QuicksandOptions{NoKeyLog: true, Settings: []string{"backend = kernel"}})
	})
	if err != nil {
		return nil, err
	}
	peer, err := newKeyed(func(h *harness.Host) (*harness.Peer, error) {
		return harness.StartStrongSwan(h, harness.StrongSwanOptions{Kernel: true, NoKeyLog: true})
	})
	if err != nil {
		return nil, err
	}
	for _, c := range cases {
		got, err := c.run(ours, peer, o)
		if err != nil {
			return nil, err
		}
		rows = append(rows, got...)
	}
	return rows, nil
}

func (c keyedCase) run(ours, peer *keyed, o options) (rows []Row, err error) {
	var samples [2][][]float64
	for range o.pairs {
		for i, k := range []*keyed{ours, peer} {
			values, err := c.measure(k)
			if err != nil {
				return nil, fmt.Errorf("%s, %s: %w\n%s", c.name, k.a.Make, err, k.a.Log.Tail(20))
			}
			samples[i] = append(samples[i], values)
		}
	}
	for i, m := range c.metrics {
		row := compare(column(samples[0], i), column(samples[1], i), m.lessIsBetter)
		row.Case, row.Unit, row.PeerName = c.name, m.unit, "strongSwan"
		if m.name != "" {
			row.Case += ": " + m.name
		}
		rows = append(rows, row)
	}
	return rows, nil
}

func column(table [][]float64, i int) (out []float64) {
	for _, line := range table {
		out = append(out, line[i])
	}
	return out
}

// installPairs is how many pairs are installed at once, each with selectors of
// its own.
const installPairs = 400

// installRounds is how often either side does it at a time; the faster counts,
// which nothing else on the machine has slowed.
const installRounds = 2

// installRate compares how fast pairs are installed: by ours as a Quick Mode
// does it, one after the other, with an SPI that the kernel is asked for, and
// policies that block first and name the state once it is activated; and by one
// run of ip(8) that installs the same states, policies and routes from a file.
func installRate(o options) (Row, error) {
	n, err := harness.New()
	if err != nil {
		return Row{}, err
	}
	defer n.Close()
	a, _, err := n.Sites(1)
	if err != nil {
		return Row{}, err
	}
	file := filepath.Join(n.Dir(), "batch")
	if err := os.WriteFile(file, []byte(batchCommands()), 0o600); err != nil {
		return Row{}, err
	}
	program, err := os.Executable()
	if err != nil {
		return Row{}, err
	}
	ours := func() (float64, error) {
		// A process of its own is in the namespace with all its threads, as the
		// daemon is.
		out, err := a.Run(program, "-installs")
		if err != nil {
			return 0, err
		}
		return strconv.ParseFloat(strings.TrimSpace(out), 64)
	}
	peer := func() (float64, error) {
		return fastest(func() (float64, error) {
			start := time.Now()
			out, err := exec.Command("ip", "-n", a.Namespace(), "-batch", file).CombinedOutput()
			took := time.Since(start)
			if err != nil {
				return 0, fmt.Errorf("%w: %s", err, out)
			}
			if err := installed(a.Run); err != nil {
				return 0, err
			}
			_, err = a.Run("ip", "xfrm", "state", "flush")
			_, err2 := a.Run("ip", "xfrm", "policy", "flush")
			_, err3 := a.Run("ip", "route", "flush", "table", "220")
			return installPairs / took.Seconds(), errors.Join(err, err2, err3)
		})
	}
	return pairs(o.pairs, false, ours, peer)
}

// fastest is the best of the rounds.
func fastest(round func() (float64, error)) (best float64, err error) {
	for range installRounds {
		rate, err := round()
		if err != nil {
			return 0, err
		}
		best = max(best, rate)
	}
	return best, nil
}

// installed reports whether all states and policies are there, by ip(8) in
// their network namespace.
func installed(run func(name string, args ...string) (string, error)) error {
	for what, want := range map[string]int{"state": 2 * installPairs, "policy": 3 * installPairs} {
		out, err := run("ip", "xfrm", what)
		if err != nil {
			return err
		}
		if got := strings.Count("\n"+out, "\nsrc "); got != want {
			return fmt.Errorf("the kernel has %d of %d: %s", got, want, what)
		}
	}
	return nil
}

// subnet is the network of pair i at a site.
func subnet(site, i int) string { return fmt.Sprintf("10.%d.%d.0/24", 10*site+i/250, i%250) }

// installOurs installs the pairs in the process's network namespace and returns
// how many in a second.
func installOurs() (float64, error) {
	b, err := offload.New(offload.Options{Kinds: []sa.Kind{sa.Kernel}, Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
	if err != nil {
		return 0, err
	}
	defer b.Close()
	local, remote := netip.MustParseAddr(harness.AddrA), netip.MustParseAddr(harness.AddrB)
	proposal, err := sa.ParseProposal(sa.ESP, "aes128gcm16")
	if err != nil {
		return 0, err
	}
	start := time.Now()
	for i := range installPairs {
		p := &sa.Pair{ID: uint32(i + 1), Suite: proposal[0].Suite, ReplayWindow: 32, Offload: sa.OffloadNo}
		p.Conn, p.Child, p.Reqid = "bench", fmt.Sprint(i), uint32(i+1)
		p.Local, p.Remote = netip.AddrPortFrom(local, 4500), netip.AddrPortFrom(remote, 4500)
		p.LocalTS, p.RemoteTS = sa.PrefixSelector(netip.MustParsePrefix(subnet(1, i))), sa.PrefixSelector(netip.MustParsePrefix(subnet(2, i)))
		p.In = sa.SA{EncryptionKey: make(sa.Key, p.Suite.EncryptionKeyLen())}
		p.Out = sa.SA{SPI: sa.SPI(0x10000 + i), EncryptionKey: make(sa.Key, p.Suite.EncryptionKeyLen())}
		if p.In.SPI, err = b.ReserveSPI(sa.ESP, local); err != nil {
			return 0, err
		}
		at, err := b.Install(p)
		if err != nil {
			return 0, err
		}
		if at.Kind != sa.Kernel {
			return 0, fmt.Errorf("a pair runs as %s", at.Kind)
		}
		if err := b.Activate(p); err != nil {
			return 0, err
		}
	}
	took := time.Since(start)
	return installPairs / took.Seconds(), installed(func(name string, args ...string) (string, error) {
		out, err := exec.Command(name, args...).Output()
		return string(out), err
	})
}

// printInstalls installs pairs for a process that has this one do it.
func printInstalls() error {
	rate, err := fastest(installOurs)
	if err == nil {
		fmt.Println(rate)
	}
	return err
}

// batchCommands are the same pairs in ip(8)'s words.
func batchCommands() string {
	var b strings.Builder
	key := "0x" + strings.Repeat("00", 20)
	for i := range installPairs {
		for _, s := range []struct {
			src, dst, dir, more string
			spi                 int
		}{{harness.AddrB, harness.AddrA, "in", "replay-window 32", 0x20000 + i}, {harness.AddrA, harness.AddrB, "out", "", 0x10000 + i}} {
			fmt.Fprintf(&b, "xfrm state add src %s dst %s proto esp spi %#x reqid %d mode tunnel %s aead rfc4106(gcm(aes)) %s 128 dir %s\n",
				s.src, s.dst, s.spi, i+1, s.more, key, s.dir)
		}
		for _, p := range []struct{ src, dst, dir, from, to string }{
			{subnet(1, i), subnet(2, i), "out", harness.AddrA, harness.AddrB},
			{subnet(2, i), subnet(1, i), "in", harness.AddrB, harness.AddrA},
			{subnet(2, i), subnet(1, i), "fwd", harness.AddrB, harness.AddrA},
		} {
			fmt.Fprintf(&b, "xfrm policy add src %s dst %s dir %s priority 1000 tmpl src %s dst %s proto esp reqid %d mode tunnel\n",
				p.src, p.dst, p.dir, p.from, p.to, i+1)
		}
		fmt.Fprintf(&b, "route add %s via %s table 220\n", subnet(2, i), harness.AddrB)
	}
	return b.String()
}

// keyed is a pair of daemons of one make whose SAs the kernel carries.
type keyed struct {
	a, b    *harness.Peer
	session *vici.Client
}

func newKeyed(start func(*harness.Host) (*harness.Peer, error)) (*keyed, error) {
	n, err := harness.New()
	if err != nil {
		return nil, err
	}
	hostA, hostB, err := n.Sites(1)
	if err != nil {
		return nil, err
	}
	k := &keyed{}
	if k.a, err = start(hostA); err != nil {
		return nil, err
	}
	if k.b, err = start(hostB); err != nil {
		return nil, err
	}
	c := tunnelConfig(false)
	if err := errors.Join(k.a.Load(c), k.b.Load(c.Mirror())); err != nil {
		return nil, err
	}
	if k.session, err = vici.Dial(context.Background(), k.a.Socket); err != nil {
		return nil, err
	}
	return k, viciCall(k.session, "initiate", "ike", "sites")
}

// firstPacket brings the child up under pings that begin before, and returns
// the milliseconds from the last message of Quick Mode on the wire to the first
// answer on it.
func (k *keyed) firstPacket() ([]float64, error) {
	w, err := watch(k.a.Host)
	if err != nil {
		return nil, err
	}
	wait := k.a.Host.StartPing(harness.Ping{Source: insideA, Dest: insideB, Count: 400, Interval: 2 * time.Millisecond})
	err = viciCall(k.session, "initiate", "child", "net")
	_, pingErr := wait()
	seen, watchErr := w.stop()
	if err = errors.Join(err, pingErr, watchErr); err != nil {
		return nil, err
	}
	var last time.Time
	for _, p := range seen {
		switch {
		case p.ike && p.mine:
			last = p.at
		case !p.ike && !p.mine && !last.IsZero():
			return []float64{p.at.Sub(last).Seconds() * 1e3}, viciCall(k.session, "terminate", "child", "net")
		}
	}
	return nil, fmt.Errorf("no ping was answered: %d packets seen", len(seen))
}

// rekey renegotiates the child under pings, and returns the milliseconds from
// the first message on the wire until both ends have sent on the new SAs, and
// how many of a hundred pings were answered.
func (k *keyed) rekey() ([]float64, error) {
	if err := viciCall(k.session, "initiate", "child", "net"); err != nil {
		return nil, err
	}
	w, err := watch(k.a.Host)
	if err != nil {
		return nil, err
	}
	const count, interval = 500, 2 * time.Millisecond
	wait := k.a.Host.StartPing(harness.Ping{Source: insideA, Dest: insideB, Count: count, Interval: interval})
	time.Sleep(count * interval / 4)
	err = viciCall(k.session, "rekey", "child", "net")
	pings, pingErr := wait()
	seen, watchErr := w.stop()
	if err = errors.Join(err, pingErr, watchErr); err != nil {
		return nil, err
	}
	var begun time.Time
	old := map[uint32]bool{}
	var here, there time.Time
	for _, p := range seen {
		switch {
		case p.ike && begun.IsZero():
			begun = p.at
		case p.ike:
		case begun.IsZero():
			old[p.spi] = true
		case !old[p.spi] && p.mine && here.IsZero():
			here = p.at
		case !old[p.spi] && !p.mine && there.IsZero():
			there = p.at
		}
	}
	if here.IsZero() || there.IsZero() {
		return nil, fmt.Errorf("the new SAs were not used: %d packets seen", len(seen))
	}
	done := here
	if there.After(here) {
		done = there
	}
	err = viciCall(k.session, "terminate", "child", "net")
	return []float64{done.Sub(begun).Seconds() * 1e3, 100 * float64(pings.Received) / float64(pings.Sent)}, err
}
