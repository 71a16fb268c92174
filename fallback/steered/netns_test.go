// SPDX-License-Identifier: Apache-2.0

package steered

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"quicksand/fallback/esp"
	"quicksand/fallback/tun"
	"quicksand/fallback/tunnel"
	"quicksand/sa"
	"quicksand/xdp"
)

// inNamespace runs the test once more in a network namespace of its own, and
// reports whether this is that run.
func inNamespace(t *testing.T) bool {
	t.Helper()
	if os.Getenv("STEERED_NAMESPACE") != "" {
		return true
	}
	if os.Geteuid() != 0 {
		if os.Getenv("CI") != "" {
			t.Fatal("network namespaces need root")
		}
		t.Skip("network namespaces need root")
	}
	cmd := exec.Command(os.Args[0], "-test.run", "^"+t.Name()+"$", "-test.v", "-test.count=1")
	cmd.Env = append(os.Environ(), "STEERED_NAMESPACE=1")
	cmd.SysProcAttr = &unix.SysProcAttr{Unshareflags: unix.CLONE_NEWNET}
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Fatal(err)
	}
	return false
}

func ip(t *testing.T, format string, args ...any) {
	t.Helper()
	if out, err := exec.Command("sh", "-c", "ip "+fmt.Sprintf(format, args...)).CombinedOutput(); err != nil {
		t.Fatalf("ip "+format+": %v: %s", append(args, err, out)...)
	}
}

// steerVeth makes a pair of devices, fake0 and far0, and steers the first.
func steerVeth(t *testing.T) *Wire {
	t.Helper()
	ip(t, "link add fake0 type veth peer name far0")
	ip(t, "link set fake0 up")
	ip(t, "link set far0 up")
	w, err := New(Options{Devices: []string{"fake0"}, Workers: 2, Sockets: newFloor(), Ports: [2]uint16{500, 4500}})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// TestKernelMove moves an SA between workers while the kernel's own driver
// steers its packets to them: none is lost and none is overtaken.
func TestKernelMove(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	w := steerVeth(t)
	defer w.Close()
	if s := w.Status(); !s.Devices[0].Attached {
		t.Fatalf("not attached: %s", s.Devices[0].Why)
	}
	got := newArrivals()
	w.Receive(got.input, nil)
	const spi = sa.SPI(1000)
	w.Admit(spi, path4)
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	to := &unix.SockaddrLinklayer{Ifindex: new(linux).index("far0")}
	const packets = 200000
	var sender sync.WaitGroup
	over := make(chan struct{})
	sender.Go(func() {
		defer close(over)
		data := frame(t, path4, sealed(spi, 0))
		for seq := uint32(1); seq <= packets; seq++ {
			at := ethernetHeader + 20 + 4
			data[at], data[at+1], data[at+2], data[at+3] = byte(seq>>24), byte(seq>>16), byte(seq>>8), byte(seq)
			// What no frame is left for would be lost.
			if seq%64 == 0 && got.waitFor(spi, seq-min(seq, 1000)) != "" {
				return
			}
			if err := unix.Sendto(fd, data, 0, to); err != nil {
				t.Error(err)
				return
			}
		}
	})
	moves := 0
	begin := time.Now()
	for going := true; going; moves++ {
		w.mu.Lock()
		a := w.sas[spi]
		next := 1 - a.worker
		w.mu.Unlock()
		if err := w.move(a, next); err != nil {
			t.Fatal(err)
		}
		select {
		case <-over:
			going = false
		default:
		}
	}
	sender.Wait()
	if bad := got.wait(packets); bad != "" {
		t.Fatal(bad)
	}
	if moves < 10 {
		t.Errorf("%d moves", moves)
	}
	t.Logf("%d packets and %d moves in %s", packets, moves, time.Since(begin).Round(time.Millisecond))
}

// Packets that a replay window has left behind are dropped by the program, and
// counted there; those that it has not, whatever their order, arrive. With extended
// sequence numbers none is dropped so, also where the low half begins anew.
func TestKernelDropsStale(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	w := steerVeth(t)
	device := tun.NewMemory(1<<16, 1)
	plane, err := tunnel.New(tunnel.Options{TUN: device, Wire: w})
	if err != nil {
		t.Fatal(errors.Join(err, w.Close()))
	}
	defer plane.Close()
	far, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(far)
	to := &unix.SockaddrLinklayer{Ifindex: new(linux).index("far0")}
	send := func(frames ...[]byte) {
		t.Helper()
		for _, f := range frames {
			if err := unix.Sendto(far, f, 0, to); err != nil {
				t.Fatal(err)
			}
		}
	}
	arrived := 0
	wait := func(n int) {
		t.Helper()
		late := time.After(5 * time.Second)
		for arrived < n {
			select {
			case <-device.Out:
				arrived++
			case <-late:
				t.Fatalf("%d packets arrived, not %d: %v", arrived, n, plane.Stats())
			}
		}
	}
	// Of an extended number only the low half is sent: an old one is taken for one of
	// the next round, and found not to be authentic.
	refusals := func() uint64 { return plane.Stats()["in.drop.replay"] + plane.Stats()["in.drop.icv"] }
	verdicts := func() xdp.Totals { return w.Status().Devices[0].Verdicts }

	const window, sent = 256, 100 * 64
	// The second pair has the SPI of the first, and its numbers begin again.
	for _, esn := range []bool{false, true} {
		pair := stalePair(sa.SPI(1000), window, esn)
		if _, err := plane.Install(pair); err != nil {
			t.Fatal(err)
		}
		peer, err := esp.NewOutbound(stalePeer(pair))
		if err != nil {
			t.Fatal(err)
		}
		seal := func() []byte {
			p := []esp.Packet{{Buf: make([]byte, esp.Headroom+28+esp.Tailroom), Off: esp.Headroom, Len: 28}}
			copy(p[0].Bytes(), []byte{0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 10, 2, 0, 1, 10, 1, 0, 1, 0, 1, 0, 2, 0, 8})
			if peer.Seal(p); p[0].Err != nil {
				t.Fatal(p[0].Err)
			}
			return frame(t, path4, p[0])
		}
		first := arrived
		var frames [][]byte
		for i := range sent {
			if frames = append(frames, seal()); i%64 == 63 {
				// The last of them come in the reverse order: the window takes it.
				slices.Reverse(frames[i-15 : i+1])
				send(frames[i-63:]...)
				wait(first + i + 1)
			}
		}
		n := arrived
		stale, refused := verdicts()[xdp.Stale].Packets, refusals()
		for at := 0; at < sent; at += 64 {
			send(frames[at : at+64]...)
			// A new one behind them shows that they are through.
			send(seal())
			n++
			wait(n)
		}
		dropped, replayed := verdicts()[xdp.Stale].Packets-stale, refusals()-refused
		t.Logf("ESN %v: %d old packets dropped by the program, %d refused by the window", esn, dropped, replayed)
		if dropped+replayed != sent || esn && dropped != 0 || !esn && dropped < sent-window-2048 {
			t.Errorf("of %d old packets %d were dropped and %d refused", sent, dropped, replayed)
		}
		if arrived != n {
			t.Errorf("%d packets arrived, not %d", arrived, n)
		}
		if err := plane.Remove(pair); err != nil {
			t.Fatal(err)
		}
	}
}

// stalePair is a pair along path4.
func stalePair(spi sa.SPI, window uint32, esn bool) *sa.Pair {
	selector := func(s string) sa.Selector {
		x, err := sa.ParseSelector(s)
		if err != nil {
			panic(err)
		}
		return x
	}
	key := make(sa.Key, 20)
	return &sa.Pair{
		ID: 1, Suite: sa.Suite{Protocol: sa.ESP, Encryption: sa.AESGCM16, KeyBits: 128, ESN: esn}, ReplayWindow: window,
		Policy: sa.Policy{Conn: "test", Child: "net", Local: path4.Local, Remote: path4.Remote,
			LocalTS: selector("10.1.0.0/24"), RemoteTS: selector("10.2.0.0/24")},
		In: sa.SA{SPI: spi, EncryptionKey: key}, Out: sa.SA{SPI: spi + 1, EncryptionKey: key},
	}
}

// stalePeer is the pair as the peer has it.
func stalePeer(p *sa.Pair) *sa.Pair {
	q := *p
	q.Local, q.Remote, q.LocalTS, q.RemoteTS, q.In, q.Out = p.Remote, p.Local, p.RemoteTS, p.LocalTS, p.Out, p.In
	return &q
}
