// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"quicksand/sa"
)

// metricsTime bounds how long a reader of the metrics may take.
const metricsTime = 5 * time.Second

// listenMetrics opens the metrics' address; one without a host is the
// loopback's.
func listenMetrics(address string) (net.Listener, error) {
	l, err := net.Listen("tcp", loopback(address))
	if err != nil {
		return nil, fmt.Errorf("serve metrics: %w", err)
	}
	return l, nil
}

// serveMetrics answers in Prometheus's text form until ctx ends.
func (d *Daemon) serveMetrics(ctx context.Context, l net.Listener) {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, r *http.Request) {
		var b bytes.Buffer
		if err := d.call(r.Context(), func() { d.writeMetrics(&b) }); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		w.Header().Set("Content-Type", "text/plain; version=0.0.4")
		w.Write(b.Bytes())
	})
	s := &http.Server{Handler: mux, ReadHeaderTimeout: metricsTime, WriteTimeout: metricsTime}
	d.helpers.Go(func() {
		if err := s.Serve(l); err != nil && !errors.Is(err, http.ErrServerClosed) {
			d.log.Error("serve metrics: " + err.Error())
		}
	})
	context.AfterFunc(ctx, func() { s.Close() })
}

func loopback(address string) string {
	if host, port, err := net.SplitHostPort(address); err == nil && host == "" {
		return net.JoinHostPort("127.0.0.1", port)
	}
	return address
}

// engineGauges are the numbers among the engine's counters that also fall.
var engineGauges = []string{"ike.sas", "ike.children", "ike.half-open"}

// writeMetrics writes what is counted. It runs in the loop.
func (d *Daemon) writeMetrics(b *bytes.Buffer) {
	s := d.stats()
	gauge := func(name, help string, v int) {
		fmt.Fprintf(b, "# HELP quicksand_%s %s\n# TYPE quicksand_%[1]s gauge\nquicksand_%[1]s %[3]d\n", name, help, v)
	}
	gauge("ike_sas", "IKE SAs.", s.IKESAs)
	gauge("ike_sas_half_open", "IKE SAs still in Main Mode.", s.HalfOpen)
	gauge("dh_workers", "Diffie-Hellman workers.", s.DHWorkers)
	gauge("dh_busy", "Diffie-Hellman computations at work.", s.DHBusy)
	gauge("dh_queued", "Diffie-Hellman computations that wait.", s.DHQueued)
	gauge("traps", "Trap policies that stand.", len(d.place.traps))
	b.WriteString("# HELP quicksand_pairs Installed pairs of SAs by where they run.\n# TYPE quicksand_pairs gauge\n")
	byKind := make(map[sa.Kind]int)
	for _, at := range d.place.pairs {
		byKind[at.placement.Kind]++
	}
	for k := sa.Packet; k <= sa.Userspace; k++ {
		fmt.Fprintf(b, "quicksand_pairs{placement=%q} %d\n", k, byKind[k])
	}
	counters := d.messageCounters()
	for _, name := range slices.Sorted(maps.Keys(counters)) {
		if slices.Contains(engineGauges, name) {
			continue
		}
		m := "quicksand_" + strings.NewReplacer(".", "_", "-", "_").Replace(name)
		fmt.Fprintf(b, "# TYPE %s_total counter\n%[1]s_total %[2]d\n", m, counters[name])
	}
}
