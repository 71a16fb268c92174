// SPDX-License-Identifier: Apache-2.0

package harness

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"time"
)

// background runs f beside the caller; the function returned waits for it.
func background[T any](f func() (T, error)) func() (T, error) {
	var (
		value T
		err   error
		wg    sync.WaitGroup
	)
	wg.Go(func() { value, err = f() })
	return func() (T, error) {
		wg.Wait()
		return value, err
	}
}

// Iperf is a run of iperf3 from one host to a server on another.
type Iperf struct {
	Source, Dest string // addresses; Source may be empty
	Time         time.Duration
	UDP          bool
	Rate         string // of UDP, such as "200M"
	Reverse      bool   // the server sends
	Streams      int    // 1 by default
	Args         []string
}

// IperfResult is what the receiving side counted.
type IperfResult struct {
	BitsPerSecond float64
	Retransmits   int     // of TCP
	LostPercent   float64 // of UDP
}

// Iperf starts a server on the host "to" for one test and runs the client on
// the host "from".
func (n *Net) Iperf(from, to *Host, p Iperf) (r IperfResult, err error) {
	if p.Time == 0 {
		p.Time = 2 * time.Second
	}
	const port = 5201
	server, err := to.Start("iperf3", nil, "iperf3", "-s", "-1", "-B", p.Dest, "-p", strconv.Itoa(port))
	if err != nil {
		return r, err
	}
	defer server.Kill()
	if err := Poll(5*time.Second, func() error { return to.listening(port) }); err != nil {
		return r, fmt.Errorf("run iperf3: %w: %s", err, server.Log.Tail(5))
	}
	args := []string{"-J", "-c", p.Dest, "-p", strconv.Itoa(port), "-t",
		strconv.FormatFloat(p.Time.Seconds(), 'f', -1, 64)}
	if p.Source != "" {
		args = append(args, "-B", p.Source)
	}
	if p.UDP {
		args = append(args, "-u", "-b", p.Rate)
	}
	if p.Reverse {
		args = append(args, "-R")
	}
	if p.Streams > 1 {
		args = append(args, "-P", strconv.Itoa(p.Streams))
	}
	ctx, cancel := context.WithTimeout(context.Background(), p.Time+20*time.Second)
	defer cancel()
	out, err := from.Command(ctx, "iperf3", append(args, p.Args...)...).Output()
	var report struct {
		Error string
		End   struct {
			Received struct {
				Rate float64 `json:"bits_per_second"`
			} `json:"sum_received"`
			Sent struct {
				Retransmits int
			} `json:"sum_sent"`
			Sum struct {
				Rate float64 `json:"bits_per_second"`
				Lost float64 `json:"lost_percent"`
			}
		}
	}
	if jsonErr := json.Unmarshal(out, &report); jsonErr != nil || report.Error != "" || err != nil {
		if e, ok := err.(*exec.ExitError); ok && len(e.Stderr) > 0 {
			report.Error += " " + strings.TrimSpace(string(e.Stderr))
		}
		return r, fmt.Errorf("run iperf3 from %s to %s: %v: %s", from.name, p.Dest, err, report.Error)
	}
	r.BitsPerSecond = report.End.Received.Rate
	r.Retransmits = report.End.Sent.Retransmits
	if p.UDP {
		r.LostPercent = report.End.Sum.Lost
		r.BitsPerSecond = report.End.Sum.Rate * (1 - r.LostPercent/100)
	}
	return r, nil
}

// listening returns nil once a TCP socket in the host listens on the port.
func (h *Host) listening(port int) error {
	return h.Do(func() error {
		want := fmt.Sprintf(":%04X", port)
		for _, file := range []string{"tcp", "tcp6"} {
			// The thread's own view: the process's is the main thread's.
			table, _ := os.ReadFile("/proc/thread-self/net/" + file)
			for line := range strings.Lines(string(table)) {
				const listen = "0A"
				f := strings.Fields(line)
				if len(f) > 3 && strings.HasSuffix(f[1], want) && f[3] == listen {
					return nil
				}
			}
		}
		return fmt.Errorf("nothing listens on port %d", port)
	})
}
