// SPDX-License-Identifier: Apache-2.0

package tunnel

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// resident returns the memory of the site's helper that is resident, in MB.
func (s *site) resident() int {
	s.t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.helper.Process.Pid))
	if err != nil {
		s.t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		var kb int
		if n, _ := fmt.Sscanf(line, "VmRSS: %d kB", &kb); n == 1 {
			return kb >> 10
		}
	}
	s.t.Fatalf("no VmRSS in %s", status)
	return 0
}

// TestOverload sends far more than a plane is let seal, and then far more than
// one is let open. What they cannot take is dropped before them, and where that
// is the TUN device it is counted here; memory stays, and so does the tunnel.
func TestOverload(t *testing.T) {
	a, b := newSites(t)
	p := spec()
	p.Encap = true
	connect(a, b, p)
	// The pages of the buffers are touched once.
	gbits(t, a, b, innerB, "-n 20M")
	for _, slow := range []*site{a, b} {
		before := [2]int{a.resident(), b.resident()}
		slow.renice(19)
		sent := a.do("counters", p).Out.Packets
		dropped := a.stat("out.drop.queue_full")
		a.flood(b)
		dropped = a.stat("out.drop.queue_full") - dropped
		sent = a.do("counters", p).Out.Packets - sent
		received := b.do("counters", p).In.Packets
		after := [2]int{a.resident(), b.resident()}
		slow.renice(0)
		t.Logf("%d packets sent, %d received so far, %d dropped; %v MB resident before, %v after",
			sent, received, dropped, before, after)
		// What is offered is ten times what is sent and more, where the machine
		// has nothing else to do.
		if slow == a && dropped < sent {
			t.Error("no overload, or it is not counted")
		}
		for i := range after {
			if after[i]-before[i] > 8 {
				t.Errorf("memory grew from %d to %d MB", before[i], after[i])
			}
		}
		a.drained()
		a.ping(innerB, "")
	}
}

// drained waits until there is room again behind what the flood has left in
// queues, ten seconds at most.
func (s *site) drained() {
	s.t.Helper()
	for range 50 {
		if _, err := tryShell("ip netns exec %s ping -c 1 -W 0.2 %s", s.ns, innerB); err == nil {
			return
		}
	}
}

// flood sends as much as it can into the tunnel for two seconds, from several
// sockets at once: one alone waits until there is room for it. Nothing that comes
// at the end has to get through.
func (s *site) flood(to *site) {
	s.t.Helper()
	defer serveIperf(s.t, to)()
	out, err := tryShell("timeout -s KILL 2 ip netns exec %s iperf3 -c %s -u -b 0 -l 64 -P 8 -t 60", s.ns, innerB)
	if err == nil {
		s.t.Errorf("the flood ended by itself:\n%s", out)
	}
}

// renice sets the priority of all threads of the site's helper.
func (s *site) renice(n int) {
	s.t.Helper()
	sh(s.t, "renice -n %d -p $(ls /proc/%d/task)", n, s.helper.Process.Pid)
}
