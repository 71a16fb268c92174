// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	"quicksand/internal/vici"
	"quicksand/tests/harness"
)

// quickmode has the same initiator, quicksand, negotiate with quicksand and
// with strongSwan as responders, over an IKE SA that stands, and measures the
// Quick Modes done in a second and what each costs the responder's CPU.
func quickmode(o options) ([]Row, error) {
	ours, err := newResponder(func(h *harness.Host) (*harness.Peer, error) {
		return harness.StartQuicksand(h, harness.QuicksandOptions{NoKeyLog: true})
	})
	if err != nil {
		return nil, err
	}
	peer, err := newResponder(startStrongSwan)
	if err != nil {
		return nil, err
	}
	var rows []Row
	for _, esp := range []string{"aes128gcm16", "aes128gcm16-modp2048", "aes128gcm16-ecp256", "aes128gcm16-curve25519"} {
		for _, r := range []*responder{ours, peer} {
			if err := r.load(esp); err != nil {
				return nil, err
			}
		}
		for _, workers := range []int{1, parallel} {
			var cost [2][]float64
			measure := func(i int, r *responder) func() (float64, error) {
				return func() (float64, error) {
					rate, ms, err := r.run(workers, 2*o.time)
					cost[i] = append(cost[i], ms)
					return rate, err
				}
			}
			row, err := pairs(o.pairs, false, measure(0, ours), measure(1, peer))
			if err != nil {
				return nil, fmt.Errorf("%s: %w", esp, err)
			}
			how := map[bool]string{true: "one after the other", false: fmt.Sprintf("%d at once", workers)}[workers == 1]
			row.Case, row.Unit, row.PeerName = esp+", "+how, "Quick Modes/s", "strongSwan"
			rows = append(rows, row)
			a, b := median(cost[0]), median(cost[1])
			rows = append(rows, Row{Case: esp + ", " + how + ", responder", Unit: "CPU-ms", Ours: a, Peer: b, PeerName: "strongSwan", Ratio: b / a})
		}
	}
	return rows, nil
}

// parallel is how many IKE SAs negotiate at once.
const parallel = 8

// responder is a daemon under load, and the initiator that loads it.
type responder struct {
	from, to *harness.Peer
	sessions []*vici.Client
}

func newResponder(start func(*harness.Host) (*harness.Peer, error)) (*responder, error) {
	n, err := harness.New()
	if err != nil {
		return nil, err
	}
	a, b, err := n.Sites(parallel)
	if err != nil {
		return nil, err
	}
	r := &responder{}
	if r.from, err = harness.StartQuicksand(a, harness.QuicksandOptions{NoKeyLog: true}); err != nil {
		return nil, err
	}
	if r.to, err = start(b); err != nil {
		return nil, err
	}
	for range parallel {
		c, err := vici.Dial(context.Background(), r.from.Socket)
		if err != nil {
			return nil, err
		}
		r.sessions = append(r.sessions, c)
	}
	return r, nil
}

// load configures both ends for a proposal and brings the IKE SAs up.
func (r *responder) load(esp string) error {
	secrets := []harness.Secret{{Data: "a pre-shared key of the benchmark"}}
	from := harness.Config{Secrets: secrets}
	to := harness.Config{Secrets: secrets}
	for i := range parallel {
		c := harness.Conn{
			Name: fmt.Sprintf("c%d", i), LocalAddr: harness.AddrA, RemoteAddr: harness.AddrB,
			LocalID: fmt.Sprintf("c%d.example", i), RemoteID: "responder.example",
			Proposals: "aes256-sha256-curve25519", Options: harness.Options{"unique": "never"},
			Children: []harness.Child{{Name: fmt.Sprintf("net%d", i), ESP: esp,
				LocalTS: fmt.Sprintf("10.1.%d.0/24", i), RemoteTS: fmt.Sprintf("10.2.%d.0/24", i)}},
		}
		from.Conns = append(from.Conns, c)
		to.Conns = append(to.Conns, c.Mirror())
	}
	for i := range parallel {
		r.call(i, "terminate", "ike", fmt.Sprintf("c%d", i)) // nothing stands the first time
	}
	if err := r.from.Load(from); err != nil {
		return err
	}
	if err := r.to.Load(to); err != nil {
		return err
	}
	for i := range parallel {
		if err := r.call(i, "initiate", "ike", fmt.Sprintf("c%d", i)); err != nil {
			return err
		}
	}
	return nil
}

// call sends a command of one key and waits until it is done.
func (r *responder) call(i int, command, key, value string) error {
	return viciCall(r.sessions[i], command, key, value)
}

// viciCall sends a command of one key to a daemon and waits until it is done.
func viciCall(c *vici.Client, command, key, value string) error {
	m := &vici.Message{}
	m.Set(key, value)
	m.Set("timeout", "10000")
	m.Set("loglevel", "-1")
	answer, err := c.Call(context.Background(), command, m, "", nil)
	if err != nil {
		return fmt.Errorf("%s %s: %w", command, value, err)
	}
	if !answer.Yes("success") {
		return fmt.Errorf("%s %s: %s", command, value, answer.Get("errmsg"))
	}
	return nil
}

// run negotiates and deletes a child over and over, and returns the Quick
// Modes a second and the responder's CPU milliseconds for each, its deletion
// included.
func (r *responder) run(workers int, d time.Duration) (rate, ms float64, err error) {
	before, err := r.to.Proc.CPU()
	if err != nil {
		return 0, 0, err
	}
	var wg sync.WaitGroup
	counts, errs := make([]int, workers), make([]error, workers)
	start := time.Now()
	for i := range workers {
		wg.Go(func() {
			child := fmt.Sprintf("net%d", i)
			for time.Since(start) < d && errs[i] == nil {
				if errs[i] = r.call(i, "initiate", "child", child); errs[i] == nil {
					errs[i] = r.call(i, "terminate", "child", child)
					counts[i]++
				}
			}
		})
	}
	wg.Wait()
	passed := time.Since(start).Seconds()
	after, err := r.to.Proc.CPU()
	if err != nil {
		return 0, 0, err
	}
	n := 0
	for i := range workers {
		if errs[i] != nil {
			return 0, 0, errs[i]
		}
		n += counts[i]
	}
	return float64(n) / passed, (after - before) * 1000 / float64(n), nil
}
