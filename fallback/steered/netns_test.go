// SPDX-License-Identifier: Apache-2.0

package steered

import (
	"fmt"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"quicksand/sa"
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

// TestKernelMove moves an SA between workers while the kernel's own driver
// steers its packets to them: none is lost and none is overtaken.
func TestKernelMove(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	ip(t, "link add fake0 type veth peer name far0")
	ip(t, "link set fake0 up")
	ip(t, "link set far0 up")
	w, err := New(Options{Devices: []string{"fake0"}, Workers: 2, Sockets: newFloor(), Ports: [2]uint16{500, 4500}})
	if err != nil {
		t.Fatal(err)
	}
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
