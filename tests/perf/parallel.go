// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"

	"quicksand/accel"
	"quicksand/tests/harness"
)

// parallelCase is TCP by several streams through a child with two pairs of SAs
// side by side, against the same daemons with one pair. Either has two workers at
// each end.
var parallelCase = tunnelCase{"TCP, 4 streams, two workers", tcpMetrics, tcp(4), "", ""}

// parallelPairs measures it for both ways of our packets. On two cores, which
// both ends share, there is nothing to be won: one pair keeps them busy.
func parallelPairs(o options) (rows []Row, err error) {
	if !o.wants(parallelCase.name) {
		return nil, nil
	}
	cpus, err := accel.Allowed()
	if err != nil {
		return nil, err
	}
	workers := fmt.Sprintf("worker_cores = %d,%d", cpus[0], cpus[len(cpus)-1])
	for _, way := range []struct {
		name  string
		way   string
		encap bool
	}{{"ESP in UDP", sockets, true}, {"ESP, XDP", steered, false}} {
		if !o.among(way.name) {
			continue
		}
		var tunnels []*tunnel
		for _, pairs := range []int{2, 1} {
			m := maker{way.name + ", 2 pairs", true, func(t *tunnel) error { return t.parallel(way.way, way.encap, pairs, workers) }}
			if pairs == 1 {
				m.name, m.ours = "1 pair", false
			}
			t, err := newTunnel(m)
			if err != nil {
				return nil, err
			}
			defer t.net.Close()
			tunnels = append(tunnels, t)
		}
		got, err := parallelCase.run(tunnels, o)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", parallelCase.name, err)
		}
		rows = append(rows, got...)
	}
	return rows, nil
}

// parallel runs our daemon at both ends, with so many pairs and these workers.
func (t *tunnel) parallel(way string, encap bool, pairs int, workers string) error {
	return t.ike(way, encap, pairs, func(h *harness.Host) (*harness.Peer, error) {
		return harness.StartQuicksand(h, harness.QuicksandOptions{NoKeyLog: true, Settings: append(userspace(h, way), workers)})
	})
}
