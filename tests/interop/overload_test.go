// SPDX-License-Identifier: Apache-2.0

package interop

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"quicksand/sa"
	"quicksand/tests/harness"
)

// flood sends packets that name an SA and are not authentic, which costs whoever
// has the SA as much as those that are, until stop is called, which returns how
// many were sent. They look as if they came from site a's gateway to site b's.
func flood(t *testing.T, from *harness.Host, spi sa.SPI, encap bool) (sent *atomic.Uint64, stop func() uint64) {
	t.Helper()
	const batch, payload = 64, 96
	var fd int
	ok(t, from.Do(func() (err error) {
		fd, err = unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
		return err
	}))
	source, dest := netip.MustParseAddr(harness.AddrA).As4(), netip.MustParseAddr(harness.AddrB).As4()
	header := []byte{0x45, 0, 0, 0, 0, 0, 0, 0, 64, unix.IPPROTO_ESP, 0, 0}
	header = append(append(header, source[:]...), dest[:]...)
	if encap {
		header[9] = unix.IPPROTO_UDP
		header = binary.BigEndian.AppendUint16(header, 4500)
		header = binary.BigEndian.AppendUint16(header, 4500)
		header = binary.BigEndian.AppendUint16(header, 8+payload)
		header = append(header, 0, 0) // no checksum
	}
	at := len(header)
	header = binary.BigEndian.AppendUint32(header, uint32(spi))
	to := unix.RawSockaddrInet4{Family: unix.AF_INET, Addr: dest}
	packets, iovs, messages := make([][]byte, batch), make([]unix.Iovec, batch), make([]unix.Mmsghdr, batch)
	for i := range packets {
		packets[i] = append(header[:len(header):len(header)], make([]byte, payload-4)...)
		binary.BigEndian.PutUint16(packets[i][2:], uint16(len(packets[i])))
		iovs[i].Base = &packets[i][0]
		iovs[i].SetLen(len(packets[i]))
		h := &messages[i].Hdr
		h.Name, h.Namelen, h.Iov = (*byte)(unsafe.Pointer(&to)), unix.SizeofSockaddrInet4, &iovs[i]
		h.SetIovlen(1)
	}
	sent = new(atomic.Uint64)
	var over atomic.Bool
	var done sync.WaitGroup
	done.Go(func() {
		defer unix.Close(fd)
		// Above the window, and each another one.
		for sequence := uint32(1 << 20); !over.Load(); {
			for _, p := range packets {
				sequence++
				binary.BigEndian.PutUint32(p[at+4:], sequence)
			}
			n, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, uintptr(fd), uintptr(unsafe.Pointer(&messages[0])), batch, 0, 0, 0)
			if errno == 0 {
				sent.Add(uint64(n))
			} else if errno != unix.ENOBUFS {
				t.Errorf("flood: %v", errno)
				return
			}
		}
		runtime.KeepAlive(packets)
	})
	return sent, sync.OnceValue(func() uint64 {
		over.Store(true)
		done.Wait()
		return sent.Load()
	})
}

// throttle lets a process run for a part of the time only, until stop is called.
func throttle(p *harness.Process, run, rest time.Duration) (stop func()) {
	over := make(chan struct{})
	var done sync.WaitGroup
	done.Go(func() {
		defer p.Signal(unix.SIGCONT)
		for {
			p.Signal(unix.SIGSTOP)
			select {
			case <-over:
				return
			case <-time.After(rest):
			}
			p.Signal(unix.SIGCONT)
			time.Sleep(run)
		}
	})
	return sync.OnceFunc(func() {
		close(over)
		done.Wait()
	})
}

// countersOf are a daemon's counters by name.
func countersOf(t *testing.T, p *harness.Peer) map[string]uint64 {
	t.Helper()
	out, err := p.Host.Run(harness.Binary(), "counters", "--uri", "unix://"+p.Socket)
	ok(t, err)
	all := map[string]uint64{}
	for line := range strings.Lines(out) {
		if f := strings.Fields(line); len(f) == 2 {
			all[f[0]], err = strconv.ParseUint(f[1], 10, 64)
			ok(t, err)
		}
	}
	return all
}

// arrivedAt is what came to the plane, and what found its queues full.
func arrivedAt(c map[string]uint64) (taken, full uint64) {
	for name, n := range c {
		switch {
		case name == "esp.in.drop.queue_full":
			full += n
		case strings.HasPrefix(name, "esp.in.drop."):
			taken += n
		}
	}
	return taken, full
}

// TestOverload offers a daemon, which is let run for a small part of the time, at
// least ten times what its plane can take. Memory stays as it is, what is dropped
// is counted, the peer is answered and renegotiates meanwhile, and afterwards the
// tunnel is as before.
func TestOverload(t *testing.T) {
	for _, c := range []struct {
		name    string
		encap   bool
		steered bool
	}{{"ESP", false, false}, {"ESP in UDP", true, false}, {"ESP, steered", false, true}} {
		t.Run(c.name, func(t *testing.T) {
			n := harness.ForTest(t)
			a, b, err := n.Sites(1)
			ok(t, err)
			d := &duo{net: n}
			for p, h := range map[**harness.Peer]*harness.Host{&d.q: a, &d.s: b} {
				settings := []string{"backend = userspace"}
				if c.steered {
					settings = append(settings, "xdp_interfaces = "+h.Uplink(), "xdp_pins = off")
				}
				*p, err = harness.StartQuicksand(h, harness.QuicksandOptions{Settings: settings})
				ok(t, err)
			}
			overload(t, d, c.encap)
		})
	}
}

func overload(t *testing.T, d *duo, encap bool) {
	cn := conn(child("net", 0, "aes128gcm16"))
	cn.Options = harness.Options{"dpd_delay": "1s", "dpd_timeout": "3s"}
	if encap {
		cn.Options["encap"] = "yes"
	}
	d.load(t, config(cn))
	d.bringUp(t, role{"initiator", d.q, d.s}, "net")
	old, err := d.s.Child("net")
	ok(t, err)
	spi, err := strconv.ParseUint(fmt.Sprint(old.SPIIn), 16, 32)
	ok(t, err)

	// The pages of buffers are touched once.
	sent, stop := flood(t, d.q.Host, sa.SPI(spi), encap)
	defer func() { stop() }()
	ok(t, harness.Poll(10*time.Second, func() error {
		if n := sent.Load(); n < 100_000 {
			return fmt.Errorf("%d packets sent", n)
		}
		return nil
	}))
	stop()
	before, err := d.s.Proc.RSS()
	ok(t, err)
	ok(t, d.s.Proc.ResetPeak())
	ike := established(t, d.q)
	taken, full := arrivedAt(countersOf(t, d.s))

	unthrottle := throttle(d.s.Proc, time.Millisecond, 500*time.Millisecond)
	defer unthrottle()
	begin := time.Now()
	_, stop = flood(t, d.q.Host, sa.SPI(spi), encap)
	// Longer than a peer that does not answer is waited for.
	time.Sleep(4 * time.Second)
	offered := stop()
	took := time.Since(begin)
	// What is in the queues is taken.
	var total, lost uint64
	settled := harness.Poll(10*time.Second, func() error {
		x, y := arrivedAt(countersOf(t, d.s))
		if total, lost = x-taken, y-full; total+lost < offered*99/100 {
			return fmt.Errorf("of %d packets %d were taken and %d are counted as dropped", offered, total, lost)
		}
		return nil
	})
	t.Logf("%.0f packets a second offered, %.0f taken; %d of %d counted as dropped because queues were full",
		float64(offered)/took.Seconds(), float64(total)/took.Seconds(), lost, offered)
	ok(t, settled)
	if offered < 10*total {
		t.Errorf("%d packets offered, which is not ten times the %d that were taken", offered, total)
	}
	if after := established(t, d.q); after.ICookie != ike.ICookie {
		t.Error("the IKE SA was replaced: the peer was taken for dead")
	}
	_, stop = flood(t, d.q.Host, sa.SPI(spi), encap)
	begin = time.Now()
	_, err = d.q.Swanctl("--rekey", "--child", "net")
	ok(t, err)
	ok(t, harness.Poll(10*time.Second, func() error {
		for _, p := range []*harness.Peer{d.q, d.s} {
			fresh, err := p.Child("net")
			if err != nil {
				return err
			}
			if fresh.SPIIn == old.SPIIn || fresh.SPIOut == old.SPIIn {
				return fmt.Errorf("%s has the old child", p.Host.Name())
			}
		}
		return nil
	}))
	t.Logf("rekeyed beside the flood in %v", time.Since(begin).Round(time.Millisecond))
	stop()
	unthrottle()
	peak, err := d.s.Proc.PeakRSS()
	ok(t, err)
	t.Logf("memory %d MiB before, %d at most", before>>20, peak>>20)
	if peak > before+8<<20 {
		t.Errorf("memory grew from %d to %d MiB", before>>20, peak>>20)
	}
	d.ping(t, 0)
}
