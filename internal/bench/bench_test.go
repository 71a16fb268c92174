// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"quicksand/sa"
)

var silent = slog.New(slog.NewTextHandler(io.Discard, nil))

// TestSinkRefuses sends requests out of order and out of bounds to a sink; each
// has an answer that says why not, and leaves nothing.
func TestSinkRefuses(t *testing.T) {
	v := &service{sink: Sink{Device: "lo", Port: DefaultPort, Log: silent}, end: end{device: "lo", log: silent}}
	seed := make([]byte, 32)
	for name, c := range map[string]struct {
		r    request
		says string
	}{
		"no operation":       {request{}, `"" is no operation`},
		"unknown operation":  {request{Op: "shutdown"}, "is no operation"},
		"receive too early":  {request{Op: opReceive}, "there are no tunnels"},
		"stop too early":     {request{Op: opStop}, "does not receive"},
		"unknown placement":  {request{Op: opPrepare, Placement: "gpu", Seed: seed, SPIs: []uint32{256}}, `"gpu" is none of`},
		"no seed":            {request{Op: opPrepare, Placement: "userspace", SPIs: []uint32{256}}, "a seed of 0 bytes"},
		"no tunnels":         {request{Op: opPrepare, Placement: "userspace", Seed: seed}, "open 0 tunnels"},
		"too many tunnels":   {request{Op: opPrepare, Placement: "userspace", Seed: seed, SPIs: make([]uint32, MaxTunnels+1)}, "there may be 1 to"},
		"an address not its": {request{Op: opHello}, "is not on lo"},
	} {
		v.end.local = netip.MustParseAddr("192.0.2.1")
		if _, err := v.answer(c.r); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, not %q", name, err, c.says)
		}
		if v.end.backend != nil || len(v.end.spis) > 0 || v.run != nil {
			t.Fatalf("%s: something is left", name)
		}
	}
	if _, err := v.answer(request{Op: opRemove}); err != nil {
		t.Errorf("there is nothing to remove: %v", err)
	}
	v.end.spis = []uint32{300}
	if err := v.end.install(seed, []uint32{255}); err == nil || !strings.Contains(err.Error(), "reserved") {
		t.Errorf("an SPI that is reserved: %v", err)
	}
}

// TestChannelGarbage has a sink read what is no request.
func TestChannelGarbage(t *testing.T) {
	for name, c := range map[string]struct {
		sent, says string
	}{
		"not JSON": {"GET / HTTP/1.1\r\n", "invalid character"},
		"endless":  {strings.Repeat("x", maxMessage+2), "token too long"},
		"nothing":  {"", errEnded.Error()},
	} {
		a, b := net.Pipe()
		go func() {
			io.WriteString(a, c.sent)
			a.Close()
		}()
		var r request
		if err := newChannel(b).read(&r); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, not %q", name, err, c.says)
		}
		b.Close()
	}
}

// TestPairsMirror has both ends make the same SAs, each for its own side.
func TestPairsMirror(t *testing.T) {
	a, b := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	source := end{source: true, local: a, remote: b, kind: sa.Packet, spis: []uint32{300, 301}}
	sink := end{local: b, remote: a, kind: sa.Packet, spis: []uint32{400, 401}}
	seed := make([]byte, 32)
	var last *sa.Pair
	for i := range 2 {
		p, err := source.pair(i, seed, sa.SPI(sink.spis[i]))
		if err != nil {
			t.Fatal(err)
		}
		q, err := sink.pair(i, seed, sa.SPI(source.spis[i]))
		if err != nil {
			t.Fatal(err)
		}
		same := func(x, y sa.SA) bool { return x.SPI == y.SPI && string(x.EncryptionKey) == string(y.EncryptionKey) }
		if !same(p.Out, q.In) || !same(p.In, q.Out) || same(p.In, p.Out) || p.Local != q.Remote || p.LocalTS != q.RemoteTS || p.RemoteTS != q.LocalTS {
			t.Errorf("tunnel %d is %v at the source and %v at the sink", i, p, q)
		}
		if string(p.In.EncryptionKey) == string(p.Out.EncryptionKey) || last != nil && string(last.Out.EncryptionKey) == string(p.Out.EncryptionKey) {
			t.Error("two SAs have one key")
		}
		if p.RemoteTS.Contains(p.LocalTS) || !p.RemoteTS.ContainsAddr(sinkInner(i)) || !p.LocalTS.ContainsAddr(sourceNet.Addr()) {
			t.Errorf("tunnel %d selects %s to %s", i, p.LocalTS, p.RemoteTS)
		}
		last = p
	}
	if at := sinkInner(MaxTunnels - 1); !sinkNet.Contains(at) || at.String() != "198.19.255.254" {
		t.Errorf("the last tunnel's address is %s", at)
	}
}

func TestFiguresRefuse(t *testing.T) {
	good := count{Packets: 1000, Seconds: 0.5, SAs: 1000, Busy: 1, Elapsed: 2}
	f, err := figures(good, 1250, 1.5)
	if err != nil || f.Packets != 2000 || f.Gigabits != 0.02 || f.CPUSource != 1.5 || f.CPUSink != 0.5 {
		t.Errorf("%+v, %v", f, err)
	}
	clear := good
	clear.SAs = 999
	if _, err := figures(clear, 1250, 1); err == nil || !strings.Contains(err.Error(), "only 999 of them through the SAs") {
		t.Errorf("a packet in clear: %v", err)
	}
	if _, err := figures(count{Elapsed: 1}, 1250, 1); err == nil {
		t.Error("nothing that arrived has figures")
	}
}

func TestReport(t *testing.T) {
	r := newReport(Source{Sizes: []int{64, 1400}, Senders: 2, Segments: 8}, "eth0", "eth1")
	for _, n := range []int{1, 10} {
		c := r.cell(n, sa.Kernel)
		c.Detail, c.SinkDetail = "here", "there"
		for i := range c.Samples {
			c.Samples[i] = []Figures{{1000, 1, 1, 0.5}, {3000, 3, 1, 0.5}, {2000, 2, 1, 0.5}}
		}
		r.cell(n, sa.Packet).Refused = "no slot is left"
	}
	if r.cell(1, sa.Kernel) != r.Cells[0] {
		t.Error("a cell is made twice")
	}
	text := r.Markdown()
	for _, line := range []string{
		"| 1 | kernel | 64 bytes | 2.00 | 2000 | ± 50 % | 1.00 | 0.50 |\n",
		"| 10 | packet | | not to be had (1) | | | | |\n",
		"\n(1) no slot is left\n",
		"- senders: 2, 8 packets at once (UDP GSO)\n- kernel, as read back: at the source here; at the sink there\n",
	} {
		if !strings.Contains(text, line) {
			t.Errorf("there is no %q in\n%s", line, text)
		}
	}
	if strings.Contains(text, "(2)") {
		t.Errorf("a reason is given twice:\n%s", text)
	}
	dir := filepath.Join(t.TempDir(), "new")
	if err := r.Write(dir); err != nil {
		t.Fatal(err)
	}
	svg, err := os.ReadFile(filepath.Join(dir, "offload-packets.svg"))
	if err != nil || strings.Count(string(svg), "<circle") != 2 || !strings.Contains(string(svg), ">kernel<") {
		t.Errorf("%v:\n%s", err, svg)
	}
}
