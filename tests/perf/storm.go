// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"quicksand/accel/dh"
	"quicksand/tests/harness"
)

// The storm: so many IKE SAs that each do one Quick Mode with PFS after the
// other, while a calm peer negotiates at an even pace, one without PFS and one
// with a cheap group in turn.
const (
	stormPeers = 16
	stormGroup = dh.MODP4096
	stormESP   = "aes128gcm16-modp4096"
	calmGroup  = dh.ECP256
	calmPace   = 5 * time.Millisecond
	calmAddr   = "10.9.0.3"
)

// calmChildren are the calm peer's, and their proposals.
var calmChildren = [2]struct{ name, esp string }{
	{"without PFS", "aes128gcm16"}, {"with PFS ecp256", "aes128gcm16-ecp256"},
}

// stormed is what one responder makes of the storm.
type stormed struct {
	p50, p99 [len(calmChildren)]float64 // of the calm peer's Quick Modes, in ms
	rate     float64                    // of the storm's, a second
	// Of all the responder's threads, a second.
	migrations, preempted float64
}

// storm has quicksand with the DH engine on a core of its own, quicksand
// without, and strongSwan respond to the same peers, in turn. The peers are kept
// off the DH engine's core, since the cores of other machines are not the
// responder's.
func storm(o options) ([]Row, error) {
	cores := runtime.NumCPU()
	if cores < 2 {
		return nil, fmt.Errorf("a core for Diffie-Hellman alone needs two cores, there is %d", cores)
	}
	core := cores - 1
	quicksand := func(settings ...string) func(*harness.Host) (*harness.Peer, error) {
		return func(h *harness.Host) (*harness.Peer, error) {
			return harness.StartQuicksand(h, harness.QuicksandOptions{NoKeyLog: true, Settings: settings})
		}
	}
	var all [3]*target
	for i, start := range []func(*harness.Host) (*harness.Peer, error){
		quicksand(fmt.Sprintf("dh_cores = %d", core)), quicksand(), startStrongSwan,
	} {
		var err error
		if all[i], err = newTarget(start); err != nil {
			return nil, err
		}
		defer all[i].close()
	}
	back, err := keepOff(core)
	if err != nil {
		return nil, err
	}
	defer back()
	for _, t := range all {
		if err := t.connect(); err != nil {
			return nil, err
		}
	}
	var got [3][]stormed
	for range o.pairs {
		for i, t := range all {
			s, err := t.run(4 * o.time)
			if err != nil {
				return nil, fmt.Errorf("storm: %w", err)
			}
			got[i] = append(got[i], s)
		}
	}
	return stormRows(got), nil
}

// stormRows compares the first responder with each of the others.
func stormRows(got [3][]stormed) []Row {
	type line struct {
		name, unit   string
		lessIsBetter bool
		of           func(stormed) float64
	}
	var lines []line
	for i, c := range calmChildren {
		lines = append(lines,
			line{"calm peer " + c.name + ", p50", "ms", true, func(s stormed) float64 { return s.p50[i] }},
			line{"calm peer " + c.name + ", p99", "ms", true, func(s stormed) float64 { return s.p99[i] }})
	}
	lines = append(lines,
		line{"the storm itself", "Quick Modes/s", false, func(s stormed) float64 { return s.rate }},
		line{"migrations of the responder's threads", "a second", true, func(s stormed) float64 { return s.migrations }},
		line{"involuntary switches of the responder's threads", "a second", true, func(s stormed) float64 { return s.preempted }})
	var rows []Row
	for i, peer := range []string{"quicksand, no dh_cores", "strongSwan"} {
		for _, l := range lines {
			var ours, theirs []float64
			for n := range got[0] {
				ours, theirs = append(ours, l.of(got[0][n])), append(theirs, l.of(got[i+1][n]))
			}
			row := compare(ours, theirs, l.lessIsBetter)
			row.Case, row.Unit, row.PeerName = "MODP-4096 storm: "+l.name, l.unit, peer
			rows = append(rows, row)
		}
	}
	return rows
}

func startStrongSwan(h *harness.Host) (*harness.Peer, error) {
	return harness.StartStrongSwan(h, harness.StrongSwanOptions{
		NoKeyLog: true,
		// It keeps the IVs of 3 exchanges by default, and its threads overtake each other.
		Settings: []string{"max_ikev1_exchanges = 256"},
	})
}

// target is a responder and the peers that it has.
type target struct {
	host        *harness.Host
	to          *harness.Peer
	storm, calm *initiator
}

func newTarget(start func(*harness.Host) (*harness.Peer, error)) (*target, error) {
	n, err := harness.New()
	if err != nil {
		return nil, err
	}
	a, b, err := n.Sites(stormPeers + len(calmChildren))
	if err != nil {
		return nil, err
	}
	if err := a.AddAddr(a.Uplink(), calmAddr+"/24"); err != nil {
		return nil, err
	}
	t := &target{host: a}
	if t.to, err = start(b); err != nil {
		return nil, err
	}
	return t, nil
}

// connect configures the responder and brings its IKE SAs up.
func (t *target) connect() error {
	secrets := []harness.Secret{{Data: "a pre-shared key of the benchmark"}}
	child := func(i int, name, esp string) harness.Child {
		return harness.Child{Name: name, ESP: esp, LocalTS: fmt.Sprintf("10.1.%d.0/24", i), RemoteTS: fmt.Sprintf("10.2.%d.0/24", i)}
	}
	conn := func(name, addr string, children ...harness.Child) harness.Conn {
		return harness.Conn{
			Name: name, LocalAddr: addr, RemoteAddr: harness.AddrB,
			LocalID: name + ".example", RemoteID: "responder.example",
			Proposals: "aes256-sha256-curve25519", Options: harness.Options{"unique": "never"}, Children: children,
		}
	}
	storm, calm := harness.Config{Secrets: secrets}, harness.Config{Secrets: secrets}
	for i := range stormPeers {
		storm.Conns = append(storm.Conns, conn(stormConn(i), harness.AddrA, child(i, stormChild(i), stormESP)))
	}
	var children []harness.Child
	for i, c := range calmChildren {
		children = append(children, child(stormPeers+i, calmChild(i), c.esp))
	}
	calm.Conns = append(calm.Conns, conn("calm", calmAddr, children...))
	both := harness.Config{Secrets: secrets, Conns: append(slices.Clone(storm.Conns), calm.Conns...)}
	if err := t.to.Load(both.Mirror()); err != nil {
		return err
	}
	var err error
	if t.storm, err = newInitiator(t.host, harness.AddrA, storm, stormGroup); err != nil {
		return err
	}
	if t.calm, err = newInitiator(t.host, calmAddr, calm, calmGroup); err != nil {
		return err
	}
	for i := range stormPeers {
		if _, err := t.storm.initiate(stormConn(i), "", harness.AddrA, harness.AddrB); err != nil {
			return err
		}
	}
	_, err = t.calm.initiate("calm", "", calmAddr, harness.AddrB)
	return err
}

func (t *target) close() {
	for _, i := range []*initiator{t.storm, t.calm} {
		if i != nil {
			i.close()
		}
	}
	t.host.Net().Close()
}

// run has the storm blow for a time, and the calm peer negotiate in it.
func (t *target) run(d time.Duration) (s stormed, err error) {
	var wg sync.WaitGroup
	counts, errs := make([]int, stormPeers), make([]error, stormPeers)
	start := time.Now()
	before, err := threads(t.to.Proc.PID)
	if err != nil {
		return s, err
	}
	for i := range stormPeers {
		wg.Go(func() {
			for time.Since(start) < d && errs[i] == nil {
				if _, errs[i] = t.storm.initiate(stormConn(i), stormChild(i), harness.AddrA, harness.AddrB); errs[i] == nil {
					t.storm.terminate(stormChild(i))
					counts[i]++
				}
			}
		})
	}
	took, calmErr := t.calmly(start, d)
	wg.Wait()
	passed := time.Since(start).Seconds()
	after, err := threads(t.to.Proc.PID)
	if err != nil {
		return s, err
	}
	for _, err := range append(errs, calmErr) {
		if err != nil {
			return s, err
		}
	}
	n := 0
	for _, c := range counts {
		n += c
	}
	s = stormed{rate: float64(n) / passed,
		migrations: perSecond(after.migrations-before.migrations, passed),
		preempted:  perSecond(after.preempted-before.preempted, passed)}
	for i := range took {
		slices.Sort(took[i])
		ms := func(percent int) float64 {
			return float64(took[i][(len(took[i])-1)*percent/100].Microseconds()) / 1000
		}
		s.p50[i], s.p99[i] = ms(50), ms(99)
	}
	return s, nil
}

// perSecond never returns 0, of which there is no ratio: what did not happen is
// counted as if it had happened once.
func perSecond(n, passed float64) float64 { return max(n, 1) / passed }

// calmly negotiates at an even pace and returns how long each Quick Mode took, by
// child.
func (t *target) calmly(start time.Time, d time.Duration) (took [len(calmChildren)][]time.Duration, err error) {
	next := start
	for n := 0; next.Sub(start) < d || n < 2*len(calmChildren); n++ {
		time.Sleep(time.Until(next))
		i := n % len(calmChildren)
		one, err := t.calm.initiate("calm", calmChild(i), calmAddr, harness.AddrB)
		if err != nil {
			return took, err
		}
		t.calm.terminate(calmChild(i))
		took[i] = append(took[i], one)
		next = next.Add(calmPace)
		if late := time.Since(next); late > 0 {
			next = next.Add(late)
		}
	}
	return took, nil
}

func stormConn(i int) string  { return fmt.Sprintf("storm%d", i) }
func stormChild(i int) string { return fmt.Sprintf("net%d", i) }
func calmChild(i int) string  { return fmt.Sprintf("net%d", stormPeers+i) }

// threads sums, over all of the process's threads, how often the kernel moved them
// between cores and took the core from them: which of them compute
// Diffie-Hellman differs between the responders, and all of them are there to
// answer.
func threads(pid int) (s stormed, err error) {
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", pid))
	if err != nil {
		return s, err
	}
	read := 0
	for _, task := range tasks {
		var moved, preempted float64
		if _, err := fmt.Sscan(field(task+"/sched", "se.nr_migrations"), &moved); err != nil {
			continue // it has ended
		}
		if _, err := fmt.Sscan(field(task+"/status", "nonvoluntary_ctxt_switches"), &preempted); err != nil {
			continue
		}
		s.migrations += moved
		s.preempted += preempted
		read++
	}
	if read == 0 {
		return s, fmt.Errorf("read migrations and context switches of process %d: the kernel tells none", pid)
	}
	return s, nil
}

// keepOff keeps this process's threads off a core until back is called.
func keepOff(core int) (back func(), err error) {
	var all unix.CPUSet
	if err := unix.SchedGetaffinity(0, &all); err != nil {
		return nil, fmt.Errorf("read affinity: %w", err)
	}
	rest := all
	rest.Clear(core)
	set := func(cpus *unix.CPUSet) {
		tasks, _ := os.ReadDir("/proc/self/task")
		for _, t := range tasks {
			var tid int
			if _, err := fmt.Sscan(t.Name(), &tid); err == nil {
				_ = unix.SchedSetaffinity(tid, cpus) // a thread that has ended
			}
		}
	}
	set(&rest)
	return func() { set(&all) }, nil
}
