// SPDX-License-Identifier: Apache-2.0

package inner

import (
	"cmp"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"quicksand/tests/harness"
)

// gcmKey is a key of AES-128 with its salt.
const gcmKey = "3132333435363738393031323334353664636261"

// sa is a state that ip(8) installs.
type sa struct {
	src, dst string
	spi      uint32
	mode     string
	offload  string // "packet", "crypto", or empty for software
	dev      string // of the offload
	dir      string // "in" or "out"
	key      string // in hexadecimal; gcmKey by default
	icv      int    // in bits; 128 by default
	reqid    int    // 1 by default, and none below 0
	extra    string // further words
}

// add installs the state.
func (s sa) add(h *harness.Host) error { return xfrm(h, s.words()) }

// words are what ip(8) is told to install the state.
func (s sa) words() string {
	key, icv, reqid := cmp.Or(s.key, gcmKey), cmp.Or(s.icv, 128), max(0, cmp.Or(s.reqid, 1))
	words := fmt.Sprintf("xfrm state add src %s dst %s proto esp spi %#x reqid %d mode %s %s aead rfc4106(gcm(aes)) 0x%s %d",
		s.src, s.dst, s.spi, reqid, s.mode, s.extra, key, icv)
	switch s.offload {
	case "packet":
		words += " offload packet dev " + s.dev + " dir " + s.dir
	case "crypto":
		words += " offload dev " + s.dev + " dir " + s.dir
	default:
		words += " dir " + s.dir
	}
	return words
}

// deletion are the words that remove it.
func (s sa) deletion() string {
	return fmt.Sprintf("xfrm state delete src %s dst %s proto esp spi %#x", s.src, s.dst, s.spi)
}

// xfrm runs commands of ip(8) in the host, in one go. The first that fails ends
// it.
func xfrm(h *harness.Host, commands ...string) error {
	cmd := exec.Command("ip", "-n", h.Namespace(), "-batch", "-")
	cmd.Stdin = strings.NewReader(strings.Join(commands, "\n") + "\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("ip in %s: %w: %s", h.Name(), err, out)
	}
	return nil
}

// ip runs ip(8) where the test runs.
func ip(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		t.Fatalf("ip %s: %v: %s", strings.Join(args, " "), err, out)
	}
}

// states is what the kernel holds in the host, as ip(8) shows it.
func states(t *testing.T, h *harness.Host) string {
	t.Helper()
	out, err := exec.Command("ip", "-n", h.Namespace(), "-s", "xfrm", "state").CombinedOutput()
	ok(t, err)
	return string(out)
}

// kernelState is what the kernel of the host holds and why it has dropped
// packets, for whoever reads of a failure.
func kernelState(h *harness.Host) string {
	const script = `ip -s xfrm state; ip xfrm policy; ip rule; ip route show table all type unicast; awk '$2 > 0' /proc/net/xfrm_stat`
	out, err := h.Run("sh", "-c", script)
	if err != nil {
		return err.Error()
	}
	return out
}

// refused fails unless the error has the words.
func refused(t *testing.T, err error, words string) {
	t.Helper()
	if err == nil {
		t.Errorf("it was taken, and should have been refused with %s", strconv.Quote(words))
	} else if !strings.Contains(err.Error(), words) {
		t.Errorf("it was refused with other words than %s: %v", strconv.Quote(words), err)
	}
}

// udpEncap opens a socket that takes ESP in UDP for the kernel, as an IKE
// daemon does (udp(7), UDP_ENCAP).
func udpEncap(t *testing.T, h *harness.Host) {
	t.Helper()
	ok(t, h.Do(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		t.Cleanup(func() { unix.Close(fd) })
		const udpEncap, espInUDP = 100, 2
		if err := unix.SetsockoptInt(fd, unix.SOL_UDP, udpEncap, espInUDP); err != nil {
			return err
		}
		return unix.Bind(fd, &unix.SockaddrInet4{Port: 4500})
	}))
}
