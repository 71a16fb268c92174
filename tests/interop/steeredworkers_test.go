// SPDX-License-Identifier: Apache-2.0

package interop

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"quicksand/tests/harness"
	"quicksand/xdp"
)

// TestSteeredWorkers has a worker on each of two cores and all the load on the
// children of one of them, so that one of these moves to the other.
func TestSteeredWorkers(t *testing.T) {
	if runtime.NumCPU() < 2 {
		t.Fatal("workers on two cores want two cores")
	}
	n := harness.ForTest(t)
	a, b, err := n.Sites(4)
	ok(t, err)
	d := steeredDuo(t, n, a, b, false, "worker_cores = 0-1")
	// Ones that are slow to authenticate.
	children := make([]harness.Child, 4)
	for i := range children {
		children[i] = child(fmt.Sprintf("net%d", i), i, "aes256-sha512")
	}
	c := conn(children...)
	c.Options = harness.Options{"encap": "yes"}
	d.load(t, config(c))
	spis := make([]uint32, len(children))
	for i := range children {
		_, s := d.bringUp(t, role{"initiator", d.q, d.s}, children[i].Name)
		spi, err := strconv.ParseUint(s.SPIIn, 16, 32)
		ok(t, err)
		spis[i] = uint32(spi)
	}
	spread := func() string {
		words := ""
		for _, w := range statusOf(t, d.s).Workers {
			cpu := -1
			if w.CPU != nil {
				cpu = *w.CPU
			}
			words += fmt.Sprintf("%d on %d, ", w.SAs, cpu)
		}
		return words
	}
	if got, want := spread(), "2 on 0, 2 on 1, "; got != want {
		t.Fatalf("SAs are %s, want %s", got, want)
	}
	for cpu := range 2 {
		if !boundTo(t, d.s, cpu) {
			t.Errorf("no thread is bound to CPU %d", cpu)
		}
	}

	// Children begin at the worker that has the fewest: 0 and 2 are together.
	stop := make(chan struct{})
	done := make(chan error, 1)
	go func() {
		done <- a.Do(func() error { return forge(harness.AddrA, harness.AddrB, []uint32{spis[0], spis[2]}, stop) })
	}()
	err = harness.Poll(20*time.Second, func() error {
		if got := spread(); got != "1 on 0, 3 on 1, " && got != "3 on 0, 1 on 1, " {
			return fmt.Errorf("SAs are %s still", got)
		}
		return nil
	})
	close(stop)
	ok(t, <-done)
	ok(t, err)
	for lan := range 4 {
		d.ping(t, lan)
	}
}

// forge sends ESP packets in UDP with nothing right but the SPIs until it is
// stopped: the receiver has to authenticate each, and the sender does nothing
// for it.
func forge(from, to string, spis []uint32, stop <-chan struct{}) error {
	c, err := net.DialUDP("udp4", &net.UDPAddr{IP: net.ParseIP(from)}, &net.UDPAddr{IP: net.ParseIP(to), Port: 4500})
	if err != nil {
		return err
	}
	defer c.Close()
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	const header, iv, icv, each = 8, 16, 32, 40
	const size = header + iv + 80*16 + icv
	if e := raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_UDP, unix.UDP_SEGMENT, size) }); e != nil || err != nil {
		return errors.Join(e, err)
	}
	packets := make([]byte, each*size)
	for i, sequence := 0, uint32(1<<16); ; i++ {
		select {
		case <-stop:
			return nil
		default:
		}
		for at := 0; at < len(packets); at += size {
			sequence++
			binary.BigEndian.PutUint32(packets[at:], spis[i%len(spis)])
			binary.BigEndian.PutUint32(packets[at+4:], sequence)
		}
		if _, err := c.Write(packets); err != nil && !errors.Is(err, unix.ENOBUFS) {
			return err
		}
	}
}

// boundTo says whether a thread of the peer may run on that CPU alone.
func boundTo(t *testing.T, p *harness.Peer, cpu int) bool {
	t.Helper()
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", p.Proc.PID))
	ok(t, err)
	alone := regexp.MustCompile(fmt.Sprintf(`(?m)^Cpus_allowed_list:\s%d$`, cpu))
	for _, path := range tasks {
		text, err := os.ReadFile(path)
		if err == nil && alone.Match(text) { // threads end
			return true
		}
	}
	return false
}

// TestSteeredIKELimit has a stranger begin far more exchanges than the limit
// allows. They end at the interface, and the peers' own go on.
func TestSteeredIKELimit(t *testing.T) {
	n := harness.ForTest(t)
	a, b, err := n.Sites(1)
	ok(t, err)
	const burst, count = 20, 2000
	d := steeredDuo(t, n, a, b, false, "xdp_ike_interval = 1", fmt.Sprint("xdp_ike_burst = ", burst))
	d.load(t, config(conn(child("net", 0, "aes128gcm16"))))
	d.bringUp(t, role{"initiator", d.q, d.s}, "net")
	const stranger = "10.9.0.77"
	ok(t, b.AddAddr(b.Uplink(), stranger+"/24"))
	// The neighbours know each other before the flood.
	_, err = a.Ping(harness.Ping{Dest: stranger, Count: 1})
	ok(t, err)
	begun := time.Now()
	before := statusOf(t, d.q)
	ok(t, b.Do(func() error { return beginExchanges(stranger, harness.AddrA, count) }))
	after := statusOf(t, d.q)
	refill := uint64(time.Since(begun)/time.Second) + 1
	dropped := after.verdict(xdp.IKELimited) - before.verdict(xdp.IKELimited)
	if dropped > count-burst || dropped < count-burst-refill {
		t.Errorf("%d of %d exchanges were dropped; %d may begin, and %d more by now", dropped, count, burst, refill)
	}
	// What has a limit of its own, or is no new exchange, is not touched.
	_, err = d.q.Swanctl("--rekey", "--child", "net")
	ok(t, err)
	_, err = d.s.Swanctl("--rekey", "--ike", "net")
	ok(t, err)
	d.settled(t, "net")
	pingBoth(t, d, "10.1.0.1", "10.2.0.1", d.q, d.s)
}

// beginExchanges sends first messages of Main Mode, each with a cookie of its
// own (RFC 2408 section 3.1).
func beginExchanges(from, to string, count int) error {
	c, err := net.DialUDP("udp4", &net.UDPAddr{IP: net.ParseIP(from)}, &net.UDPAddr{IP: net.ParseIP(to), Port: 500})
	if err != nil {
		return err
	}
	defer c.Close()
	const sa, version, mainMode, size = 1, 0x10, 2, 28 + 12
	message := make([]byte, size)
	message[16], message[17], message[18] = sa, version, mainMode
	binary.BigEndian.PutUint32(message[24:], size)
	binary.BigEndian.PutUint16(message[28+2:], size-28)
	for i := range count {
		binary.BigEndian.PutUint64(message, uint64(i+1))
		if _, err := c.Write(message); err != nil {
			return err
		}
	}
	return nil
}
