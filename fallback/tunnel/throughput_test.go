// SPDX-License-Identifier: Apache-2.0

package tunnel

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
)

// iperf is what is read of iperf3's report.
type iperf struct {
	End struct {
		SumReceived struct {
			BitsPerSecond float64 `json:"bits_per_second"`
		} `json:"sum_received"`
	}
}

// gbits measures TCP from a to b, in Gbit/s.
func gbits(t testing.TB, a, b *site, to, args string) float64 {
	t.Helper()
	result := runIperf(t, a, b, to, args)
	if result.End.SumReceived.BitsPerSecond == 0 {
		t.Fatal("nothing arrived")
	}
	return result.End.SumReceived.BitsPerSecond / 1e9
}

// runIperf runs iperf3 from a to b.
func runIperf(t testing.TB, a, b *site, to, args string) (result iperf) {
	t.Helper()
	defer serveIperf(t, b)()
	out := sh(t, "timeout 30 ip netns exec %s iperf3 -J -c %s %s", a.ns, to, args)
	if err := json.Unmarshal([]byte(out), &result); err != nil {
		t.Fatalf("iperf3: %v\n%s", err, out)
	}
	return result
}

// serveIperf starts iperf3's end at b for one run.
func serveIperf(t testing.TB, b *site) (stop func()) {
	t.Helper()
	server := exec.Command("ip", "netns", "exec", b.ns, "iperf3", "-s", "-1", "--forceflush")
	stdout, err := server.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	stop = func() { server.Process.Kill(); server.Wait() }
	buf := make([]byte, 4096)
	for text := ""; !strings.Contains(text, "listening"); {
		n, err := stdout.Read(buf)
		text += string(buf[:n])
		if err != nil {
			stop()
			t.Fatalf("iperf3: %v\n%s", err, text)
		}
	}
	go func() {
		for {
			if _, err := stdout.Read(buf); err != nil {
				return
			}
		}
	}()
	return stop
}

// cpu returns the CPU time that the site's helper has used, in seconds.
func (s *site) cpu() (seconds float64) {
	s.t.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", s.helper.Process.Pid))
	if err != nil {
		s.t.Fatal(err)
	}
	// Behind the command's name in parentheses: fields 14 and 15, in hundredths
	// (proc(5)).
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	for _, f := range fields[11:13] {
		ticks, _ := strconv.ParseUint(f, 10, 64)
		seconds += float64(ticks) / 100
	}
	return seconds
}

// BenchmarkThroughput measures TCP between two namespaces, and what it costs the
// two planes.
func BenchmarkThroughput(b *testing.B) {
	for _, encap := range []bool{false, true} {
		for _, proposal := range []string{"aes128gcm16", "aes256-sha256"} {
			b.Run(fmt.Sprintf("%s/encap=%v", proposal, encap), func(b *testing.B) {
				x, y := newSites(b)
				p := spec()
				p.Proposal, p.Encap = proposal, encap
				connect(x, y, p)
				for b.Loop() {
					before := x.cpu() + y.cpu()
					rate := gbits(b, x, y, innerB, "-t 3")
					b.ReportMetric(rate, "Gbit/s")
					b.ReportMetric((x.cpu()+y.cpu()-before)/(rate*3/8), "CPU-s/GB")
				}
				b.Logf("bare link: %.2f Gbit/s", gbits(b, x, y, outerB, "-t 2"))
			})
		}
	}
}
