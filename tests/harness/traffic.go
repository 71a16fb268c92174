// SPDX-License-Identifier: Apache-2.0

package harness

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Ping is a run of ping(8).
type Ping struct {
	Source, Dest string
	Count        int
	Interval     time.Duration // 10 ms by default
	Size         int           // of the ICMP payload in bytes; 0 for ping's own 56
}

// PingResult is what ping counted.
type PingResult struct {
	Sent, Received, Duplicates int
	RTT                        time.Duration // the average
}

// Lost is the number of requests without an answer.
func (r PingResult) Lost() int { return r.Sent - r.Received }

func (r PingResult) String() string {
	return fmt.Sprintf("%d sent, %d lost, %v on average", r.Sent, r.Lost(), r.RTT)
}

var (
	pingCounts = regexp.MustCompile(`(\d+) packets transmitted, (\d+) received(?:, \+(\d+) duplicates)?`)
	pingRTT    = regexp.MustCompile(`rtt min/avg/max/mdev = [\d.]+/([\d.]+)/`)
)

// Ping pings and returns the counts; lost packets are not an error.
func (h *Host) Ping(p Ping) (PingResult, error) {
	return h.StartPing(p)()
}

// StartPing begins to ping; the function it returns waits for the end.
func (h *Host) StartPing(p Ping) func() (PingResult, error) {
	if p.Interval == 0 {
		p.Interval = 10 * time.Millisecond
	}
	args := []string{"-n", "-q", "-W", "1", "-c", strconv.Itoa(p.Count),
		"-i", strconv.FormatFloat(p.Interval.Seconds(), 'f', -1, 64)}
	if p.Source != "" {
		args = append(args, "-I", p.Source)
	}
	if p.Size > 0 {
		args = append(args, "-s", strconv.Itoa(p.Size))
	}
	return background(func(ctx context.Context) (r PingResult, err error) {
		out, err := h.Command(ctx, "ping", append(args, p.Dest)...).CombinedOutput()
		m := pingCounts.FindStringSubmatch(string(out))
		if m == nil {
			return r, fmt.Errorf("ping %s from %s: %v: %s", p.Dest, h.name, err, bytes.TrimSpace(out))
		}
		r.Sent, _ = strconv.Atoi(m[1])
		r.Received, _ = strconv.Atoi(m[2])
		r.Duplicates, _ = strconv.Atoi(m[3])
		if m := pingRTT.FindStringSubmatch(string(out)); m != nil {
			ms, _ := strconv.ParseFloat(m[1], 64)
			r.RTT = time.Duration(ms * float64(time.Millisecond)).Round(time.Microsecond)
		}
		return r, nil
	}, time.Duration(p.Count)*p.Interval+20*time.Second)
}

// background runs f beside the caller; the function returned waits for it.
func background[T any](f func(context.Context) (T, error), limit time.Duration) func() (T, error) {
	var (
		value T
		err   error
		wg    sync.WaitGroup
	)
	wg.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), limit)
		defer cancel()
		value, err = f(ctx)
	})
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
