// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"runtime"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"quicksand/tests/harness"
)

// load is a stream of UDP datagrams from one host to another. Each is a packet
// of its own, as a gateway gets them; the sender hands them over in batches
// (sendmmsg(2)) and the receiver takes them in batches a millisecond apart, so
// that what the instrument costs, which is the same for every tunnel, is little.
type load struct {
	from, to     *harness.Host
	source, dest netip.Addr
	size         int // of the IPv4 packet in bytes
}

// trial is what became of a load of some length.
type trial struct {
	sent, received int
	offered        float64 // packets a second that were sent
	rate           float64 // packets a second that arrived, from the first sent to the last received
}

func (t trial) loss() float64 { return 1 - float64(t.received)/float64(t.sent) }

const (
	loadPort  = 9000
	loadBatch = 64
	// loadTick is how far apart the sender's batches are, as long as the rate
	// does not fill them.
	loadTick = 200 * time.Microsecond
	// loadBuffer is the receiver's: more than comes in many of its pauses.
	loadBuffer = 64 << 20
	loadPause  = time.Millisecond
	// loadDrain is after how long a silence nothing more is expected, and
	// loadPatience how long the receiver waits for that.
	loadDrain    = 30 * time.Millisecond
	loadPatience = 10 * time.Second
	udpHeaders   = 20 + 8
)

// lossAllowed is the part of the packets that may get lost in what counts as
// carried.
const lossAllowed = 0.001

// run offers packets at a rate, or as fast as they can be sent where that is 0.
func (l load) run(rate float64, d time.Duration) (t trial, err error) {
	in, err := l.socket(l.to, l.dest, false)
	if err != nil {
		return t, err
	}
	defer unix.Close(in)
	out, err := l.socket(l.from, l.source, true)
	if err != nil {
		return t, err
	}
	defer unix.Close(out)

	ended := make(chan struct{})
	type counted struct {
		n    int
		last time.Time
		err  error
	}
	result := make(chan counted, 1)
	go func() {
		var c counted
		c.n, c.last, c.err = receive(in, ended)
		result <- c
	}()
	start := time.Now()
	sent, err := send(out, l.size-udpHeaders, rate, d)
	took := time.Since(start)
	close(ended)
	c := <-result
	if err = errors.Join(err, c.err); err != nil {
		return t, fmt.Errorf("send packets of %d bytes to %s: %w", l.size, l.dest, err)
	}
	t = trial{sent: sent, received: c.n, offered: float64(sent) / took.Seconds()}
	if c.n > 0 {
		t.rate = float64(c.n) / max(took, c.last.Sub(start)).Seconds()
	}
	return t, nil
}

// socket opens a UDP socket in the host. A sender's is connected.
func (l load) socket(h *harness.Host, addr netip.Addr, sender bool) (fd int, err error) {
	err = h.Do(func() error {
		if fd, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		port := loadPort
		if sender {
			port = 0
		} else if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, loadBuffer); err != nil {
			return err
		}
		if err := unix.Bind(fd, &unix.SockaddrInet4{Port: port, Addr: addr.As4()}); err != nil || !sender {
			return err
		}
		return unix.Connect(fd, &unix.SockaddrInet4{Port: loadPort, Addr: l.dest.As4()})
	})
	if err != nil {
		return -1, fmt.Errorf("open socket in %s: %w", h.Name(), err)
	}
	return fd, nil
}

// vector makes messages for sendmmsg(2) and recvmmsg(2), each of a buffer of
// that many bytes.
func vector(size int) []unix.Mmsghdr {
	hdrs, iovs := make([]unix.Mmsghdr, loadBatch), make([]unix.Iovec, loadBatch)
	for i := range hdrs {
		iovs[i].Base = unsafe.SliceData(make([]byte, size))
		iovs[i].SetLen(size)
		hdrs[i].Hdr.Iov = &iovs[i]
		hdrs[i].Hdr.SetIovlen(1)
	}
	return hdrs
}

// send sends datagrams for some time and returns how many. What has fallen
// behind the rate is sent as long as that is less than a few batches.
func send(fd, size int, rate float64, d time.Duration) (sent int, err error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0); err != nil {
		return 0, fmt.Errorf("set timer slack: %w", err)
	}
	msgs := vector(size)
	batch := loadBatch
	var gap time.Duration
	if rate > 0 {
		batch = min(max(int(rate*loadTick.Seconds()), 1), loadBatch)
		gap = time.Duration(float64(batch) / rate * 1e9)
	}
	start := time.Now()
	next := start
	for now := start; now.Sub(start) < d; now = time.Now() {
		if wait := next.Sub(now); wait > 0 {
			ts := unix.NsecToTimespec(int64(wait))
			_ = unix.Nanosleep(&ts, nil) // cut short by a signal it is as good
			continue
		}
		next = next.Add(gap)
		if behind := now.Sub(next); behind > 10*max(gap, loadTick) {
			next = now
		}
		n, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, uintptr(fd), uintptr(unsafe.Pointer(&msgs[0])), uintptr(batch), 0, 0, 0)
		switch errno {
		case 0:
			sent += int(n)
		case unix.EINTR, unix.ENOBUFS, unix.EAGAIN:
		default:
			return sent, fmt.Errorf("sendmmsg: %w", errno)
		}
	}
	return sent, nil
}

// receive counts datagrams until ended is closed and nothing comes any more.
func receive(fd int, ended <-chan struct{}) (n int, last time.Time, err error) {
	msgs := vector(2048)
	last = time.Now()
	var over time.Time
	for {
		got, _, errno := unix.Syscall6(unix.SYS_RECVMMSG, uintptr(fd), uintptr(unsafe.Pointer(&msgs[0])), loadBatch, unix.MSG_DONTWAIT, 0, 0)
		switch errno {
		case 0:
			n, last = n+int(got), time.Now()
			if got == loadBatch {
				continue
			}
		case unix.EINTR, unix.EAGAIN:
		default:
			return n, last, fmt.Errorf("recvmmsg: %w", errno)
		}
		select {
		case <-ended:
			if over.IsZero() {
				over = time.Now()
			}
			if silence := time.Since(last); silence > loadDrain && time.Since(over) > loadDrain || time.Since(over) > loadPatience {
				return n, last, nil
			}
		default:
		}
		time.Sleep(loadPause)
	}
}

// most searches the highest rate of which no more than the allowed part gets
// lost, in packets a second that arrive, to within some percent. A rate at
// which more is lost is tried once more: a hiccup of the machine is not the
// tunnel's. guess is where to begin; 0 is what arrives when far too much is
// offered.
func (l load) most(guess float64, d time.Duration) (float64, error) {
	if guess == 0 {
		t, err := l.run(0, d/2)
		if err != nil {
			return 0, err
		}
		guess = max(t.rate, 1000)
	}
	const precision, steps, tries = 1.08, 14, 2
	best, low, high, rate := 0.0, 0.0, math.Inf(1), guess
	for step := 0; step < steps && (low == 0 || high/low > precision); step++ {
		var t trial
		var err error
		carried := false
		for try := 0; try < tries && !carried; try++ {
			if t, err = l.run(rate, d); err != nil {
				return 0, err
			}
			carried = t.sent > 0 && t.loss() <= lossAllowed
		}
		if carried {
			low, best = rate, max(best, t.rate)
			if t.offered < rate/precision {
				break // more cannot be sent
			}
		} else {
			high = rate
		}
		switch {
		case math.IsInf(high, 1):
			rate *= 1.25
		case low == 0:
			rate *= 0.75
		default:
			rate = math.Sqrt(low * high)
		}
	}
	if best == 0 {
		return 0, fmt.Errorf("send packets of %d bytes to %s: even at %.0f a second more than %g %% get lost", l.size, l.dest, rate, lossAllowed*100)
	}
	return best, nil
}
