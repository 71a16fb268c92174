// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"quicksand/accel/dh"
)

// dhGroups are measured beside OpenSSL under its names for them.
var dhGroups = []struct {
	group dh.Group
	peer  string
}{
	{dh.MODP2048, "ffdh2048"},
	{dh.MODP3072, "ffdh3072"},
	{dh.MODP4096, "ffdh4096"},
	{dh.MODP6144, "ffdh6144"},
	{dh.MODP8192, "ffdh8192"},
	{dh.ECP256, "ecdhp256"},
	{dh.ECP384, "ecdhp384"},
	{dh.ECP521, "ecdhp521"},
	{dh.Curve25519, "ecdhx25519"},
}

// inFlight is how many requests wait at once where all lanes are to be full.
const inFlight = 64

// dhGroup has one worker compute shared secrets, with all its lanes full and
// one request after the other, and key pairs. OpenSSL works on the thread that
// asks, so that is measured too: the rest is the way to the worker and back.
func dhGroup(o options) ([]Row, error) {
	e, err := dh.New(dh.Options{Workers: 1, Queue: 2 * inFlight})
	if err != nil {
		return nil, err
	}
	defer e.Close()
	var rows []Row
	for _, g := range dhGroups {
		key, err := compute(e, dh.Request{Group: g.group})
		if err != nil {
			return nil, err
		}
		shared := dh.Request{Group: g.group, Private: key.Private, Peer: key.Public}
		ours := func(depth int, r dh.Request) func() (float64, error) {
			return func() (float64, error) { return dhRate(e, r, depth, o.time) }
		}
		peer := func() (float64, error) { return opensslRate(g.peer, o.time) }
		full, err := pairs(o.pairs, false, ours(inFlight, shared), peer)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", g.peer, err)
		}
		full.Case, full.Unit, full.PeerName = fmt.Sprintf("%s, shared secret, lanes full", g.group), "ops/s", "OpenSSL"
		full.chart, full.series, full.x = "dh", "quicksand", fmt.Sprint(g.group)
		latency := func(f func() (float64, error)) func() (float64, error) {
			return func() (float64, error) {
				rate, err := f()
				return 1e6 / rate, err
			}
		}
		lone, err := pairs(o.pairs, true, latency(ours(1, shared)), latency(peer))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", g.peer, err)
		}
		lone.Case, lone.Unit, lone.PeerName = fmt.Sprintf("%s, shared secret, a lone request", g.group), "µs", "OpenSSL"
		bare, err := pairs(o.pairs, true, latency(func() (float64, error) { return bareRate(e, shared, o.time) }), latency(peer))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", g.peer, err)
		}
		bare.Case, bare.Unit, bare.PeerName = fmt.Sprintf("%s, shared secret, on the caller's thread", g.group), "µs", "OpenSSL"
		made, err := pairs(o.pairs, false, ours(inFlight, dh.Request{Group: g.group}), ours(inFlight, shared))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", g.peer, err)
		}
		made.Case, made.Unit, made.PeerName = fmt.Sprintf("%s, key pair, lanes full", g.group), "ops/s", "our shared secret"
		rows = append(rows, full, lone, bare, made)
	}
	return rows, nil
}

func compute(e *dh.Engine, r dh.Request) (dh.Result, error) {
	done := make(chan dh.Result, 1)
	r.Done = func(x dh.Result) { done <- x }
	if err := e.Submit(r); err != nil {
		return dh.Result{}, err
	}
	x := <-done
	return x, x.Err
}

// dhRate keeps depth requests in flight for a time and returns those done in a
// second.
func dhRate(e *dh.Engine, r dh.Request, depth int, d time.Duration) (float64, error) {
	results := make(chan error, depth)
	r.Done = func(x dh.Result) { results <- x.Err }
	for range depth {
		if err := e.Submit(r); err != nil {
			return 0, err
		}
	}
	n, waiting := 0, depth
	start := time.Now()
	var end time.Time
	for waiting > 0 {
		if err := <-results; err != nil {
			return 0, err
		}
		waiting--
		if time.Since(start) < d {
			n++
			end = time.Now()
			if err := e.Submit(r); err != nil {
				return 0, err
			}
			waiting++
		}
	}
	return float64(n) / end.Sub(start).Seconds(), nil
}

// bareRate computes without a worker.
func bareRate(e *dh.Engine, r dh.Request, d time.Duration) (float64, error) {
	n, start := 0, time.Now()
	for time.Since(start) < d {
		if res := e.Compute(r); res.Err != nil {
			return 0, res.Err
		}
		n++
	}
	return float64(n) / time.Since(start).Seconds(), nil
}

// opensslRate returns the operations a second that "openssl speed" measures.
func opensslRate(algorithm string, d time.Duration) (float64, error) {
	seconds := max(1, int(d.Round(time.Second)/time.Second))
	out, err := exec.Command("openssl", "speed", "-mr", "-elapsed", "-seconds", strconv.Itoa(seconds), algorithm).Output()
	if err != nil {
		return 0, fmt.Errorf("openssl speed %s: %w", algorithm, err)
	}
	for s := bufio.NewScanner(bytes.NewReader(out)); s.Scan(); {
		// +F8:index:bits:operations a second:seconds an operation
		if f := strings.Split(s.Text(), ":"); len(f) == 5 && (f[0] == "+F5" || f[0] == "+F8") {
			return strconv.ParseFloat(f[3], 64)
		}
	}
	return 0, fmt.Errorf("openssl speed %s: no figure in its output", algorithm)
}
