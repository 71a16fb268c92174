// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"strings"
	"sync"
	"testing"

	"quicksand/internal/vici"
)

// TestXDPStatus prints what a daemon tells, in both forms.
func TestXDPStatus(t *testing.T) {
	m := &vici.Message{}
	var mu sync.Mutex // guards m
	_, _, uri := start(t, func(s *vici.Server) {
		s.Handle("xdp-status", func(context.Context, *vici.Message, func(string, *vici.Message) error) (*vici.Message, error) {
			mu.Lock()
			defer mu.Unlock()
			return m, nil
		})
	})
	if out, _, exit := command(t, "xdp", "status", "--uri", uri); exit != exitOK || !strings.HasPrefix(out, "nothing is steered") {
		t.Errorf("exit %d: %s", exit, out)
	}
	mu.Lock()
	m = &vici.Message{}
	m.SetYes("steering", true)
	workers := m.SetSub("workers")
	workers.SetSub("0").SetInt("sas", 2)
	one := workers.SetSub("1")
	one.SetInt("cpu", 5)
	one.SetInt("sas", 1)
	devices := m.SetSub("devices")
	devices.SetSub("eth0").Set("why", "another XDP program is attached")
	d := devices.SetSub("eth1")
	d.SetYes("attached", true)
	d.Set("mode", "generic")
	d.Set("why", "no such operation")
	d.SetInt("queues", 4)
	d.SetInt("entries", 3)
	d.SetInt("room", 65536)
	v := d.SetSub("verdicts")
	v.SetSub("ike").SetInt("packets", 0)
	used := v.SetSub("to socket")
	used.SetInt("packets", 7)
	used.SetInt("bytes", 700)
	k := d.SetSub("sockets").SetSub("3.1")
	k.SetInt("packets", 7)
	k.SetInt("sent", 8)
	k.SetInt("lost", 9)
	mu.Unlock()
	out, _, exit := command(t, "xdp", "status", "--uri", uri)
	want := `worker 0      any CPU, 2 SAs
worker 1      CPU 5, 1 SAs
eth0          not attached, packets go by sockets: another XDP program is attached
  table       0 SPIs of 0
eth1          attached, generic (not native: no such operation); sockets copy; queues 4
  table       3 SPIs of 65536
  socket 3.1  7 packets received, 9 lost, 8 sent
  to socket   7 packets, 700 bytes
`
	if exit != exitOK || out != want {
		t.Errorf("exit %d, got\n%swant\n%s", exit, out, want)
	}
	out, _, exit = command(t, "xdp", "status", "--json", "--uri", uri)
	var got xdpStatus
	if err := json.Unmarshal([]byte(out), &got); err != nil || exit != exitOK {
		t.Fatalf("exit %d, %v: %s", exit, err, out)
	}
	if len(got.Devices) != 2 || got.Devices[1].Sockets[0] != (xdpSocket{"3.1", 7, 8, 9}) || *got.Workers[1].CPU != 5 {
		t.Errorf("got %+v", got)
	}
	if _, _, exit := command(t, "xdp", "attach"); exit != exitUsage {
		t.Errorf("exit %d of a verb that there is not", exit)
	}
}
