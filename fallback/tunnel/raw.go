// SPDX-License-Identifier: Apache-2.0

package tunnel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"quicksand/fallback/esp"
	"quicksand/fallback/tun"
	"quicksand/sa"
)

// kernelWire is the Wire through the kernel's sockets: the daemon's NAT
// traversal port for ESP in UDP, and raw sockets for plain ESP and AH, which
// are opened when the first pair needs them.
type kernelWire struct {
	natt *Socket // or nil
	mark int
	id   atomic.Uint32 // last IPv4 identification

	mu     sync.Mutex // guards raw's writing, input and closed
	raw    [4]atomic.Pointer[conn]
	input  func(*Batch)
	closed bool
	done   sync.WaitGroup
}

// NewSocketWire returns a Wire through the kernel's sockets. natt is the
// daemon's NAT traversal port, without which there is no ESP in UDP; mark is
// the SO_MARK of what is sent.
func NewSocketWire(natt *Socket, mark int) Wire { return &kernelWire{natt: natt, mark: mark} }

func rawIndex(proto uint8, v6 bool) int {
	i := 0
	if proto == uint8(sa.AH) {
		i = 2
	}
	if v6 {
		i++
	}
	return i
}

// Carries opens the raw socket the path needs, unless it is open.
func (w *kernelWire) Carries(p Path) error {
	if p.Proto == unix.IPPROTO_UDP {
		if w.natt == nil {
			return errors.New("there is no NAT traversal port for UDP encapsulation")
		}
		_, err := w.natt.conn(p.Remote.Addr())
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	i := rawIndex(p.Proto, p.Remote.Addr().Is6())
	if w.raw[i].Load() != nil {
		return nil
	}
	if w.closed {
		return os.ErrClosed
	}
	c, err := openConn(p.Remote.Addr().Is6(), int(p.Proto), 0, w.mark)
	if err != nil {
		return fmt.Errorf("carry %s: %w", sa.Protocol(p.Proto), err)
	}
	w.raw[i].Store(c)
	if w.input != nil {
		w.done.Go(func() { w.read(c, p.Proto) })
	}
	return nil
}

// Admit has nothing to do: the kernel takes whatever SPI comes.
func (w *kernelWire) Admit(sa.SPI, Path) string { return "sockets" }

// Dismiss has nothing to do either.
func (w *kernelWire) Dismiss(sa.SPI, Path) {}

// Advance has nothing to do: nothing looks at packets before the plane does.
func (w *kernelWire) Advance(sa.SPI, Path, uint32) bool { return true }

func (w *kernelWire) Send(p Path, batch []esp.Packet) {
	if p.Proto == unix.IPPROTO_UDP {
		w.natt.sendESP(p, batch)
		return
	}
	v6 := p.Remote.Addr().Is6()
	c := w.raw[rawIndex(p.Proto, v6)].Load()
	if c == nil {
		fail(batch, os.ErrClosed)
		return
	}
	if v6 {
		if p.Proto == uint8(sa.AH) {
			// The kernel makes the header again; what the ICV covers of it is
			// the same.
			for i := range batch {
				batch[i].Off += 40
				batch[i].Len -= 40
			}
		}
		c.tx.send(p, batch)
		return
	}
	whole := true
	for i := range batch {
		q := &batch[i]
		if p.Proto == uint8(sa.ESP) {
			q.Err = esp.PushIP(q, esp.Outer{Src: p.Local.Addr(), Dst: p.Remote.Addr(), Protocol: p.Proto,
				TOS: q.TOS, DF: q.DF && q.Len+20 <= p.MTU, ID: uint16(w.id.Add(1))})
		}
		whole = whole && q.Err == nil && q.Len <= p.MTU
	}
	if whole {
		c.tx.send(p, batch)
		return
	}
	for i := range batch {
		if q := &batch[i]; q.Err == nil {
			w.sendLong(c, p, q)
		}
	}
}

// sendLong sends one IPv4 packet, in fragments where it is longer than its
// path takes.
func (w *kernelWire) sendLong(c *conn, p Path, q *esp.Packet) {
	if q.Len <= p.MTU {
		one := []esp.Packet{*q}
		c.tx.send(p, one)
		q.Err = one[0].Err
		return
	}
	frags := fragment(q.Bytes(), p.MTU)
	c.tx.send(p, frags)
	for i := range frags {
		if q.Err = frags[i].Err; q.Err != nil {
			return
		}
	}
}

// fragment cuts an IPv4 packet whose header has no options into fragments of
// at most mtu bytes (RFC 791 section 3.2). The DF bit is cleared.
func fragment(packet []byte, mtu int) []esp.Packet {
	const header = 20
	each := max(8, (mtu-header)&^7)
	payload := packet[header:]
	var out []esp.Packet
	for at := 0; at < len(payload); at += each {
		n := min(each, len(payload)-at)
		b := append(append(make([]byte, 0, header+n), packet[:header]...), payload[at:at+n]...)
		flags := uint16(at / 8)
		if at+n < len(payload) {
			flags |= 0x2000
		}
		binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
		binary.BigEndian.PutUint16(b[6:], flags)
		b[10], b[11] = 0, 0
		binary.BigEndian.PutUint16(b[10:], ^tun.Checksum(0, b[:header]))
		out = append(out, esp.Packet{Buf: b, Len: len(b)})
	}
	return out
}

// Receive takes packets in. They always go by sockets: there is no move to tell
// of.
func (w *kernelWire) Receive(input func(*Batch), _ func(sa.SPI, string)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.input = input
	if w.natt != nil {
		w.natt.input.Store(&input)
	}
	for i := range w.raw {
		if c := w.raw[i].Load(); c != nil {
			proto := uint8(sa.ESP)
			if i >= 2 {
				proto = uint8(sa.AH)
			}
			w.done.Go(func() { w.read(c, proto) })
		}
	}
}

func (w *kernelWire) PathMTU(local, remote netip.Addr) (int, error) {
	return pathMTU(local, remote, w.mark)
}

// Close closes the raw sockets and lets the NAT traversal port go, which is
// the daemon's to close.
func (w *kernelWire) Close() error {
	w.mu.Lock()
	w.closed = true
	if w.natt != nil {
		w.natt.input.Store(nil)
	}
	var errs []error
	for i := range w.raw {
		if c := w.raw[i].Swap(nil); c != nil {
			errs = append(errs, c.close())
		}
	}
	w.mu.Unlock()
	w.done.Wait()
	return errors.Join(errs...)
}

// read is the run of one raw socket's goroutine.
func (w *kernelWire) read(c *conn, proto uint8) {
	r := newReceiver(c, batchSize)
	var batch Batch
	for {
		n, err := r.receive()
		if errors.Is(err, os.ErrClosed) {
			return
		}
		for i := 0; err == nil && i < n; i++ {
			if m, ok := r.message(i); ok {
				addRaw(&batch, &m, proto, c.v6)
			}
		}
		if r.busy = len(batch.Packets) > 0; r.busy {
			w.input(&batch)
		}
		batch.Reset()
	}
}

// addRaw adds a message of a raw socket to the batch: of IPv4 it begins with
// the IP header, of IPv6 behind all headers.
func addRaw(batch *Batch, m *message, proto uint8, v6 bool) {
	p := esp.Packet{Buf: m.buf, Off: rxHeadroom, Len: m.len, TOS: m.class, TTL: m.ttl}
	from := Path{Local: netip.AddrPortFrom(m.local, 0), Remote: netip.AddrPortFrom(m.remote.Addr(), 0), Proto: proto}
	switch {
	case v6 && proto == uint8(sa.AH):
		if esp.PushIP(&p, esp.Outer{Src: m.remote.Addr(), Dst: m.local, Protocol: proto, TOS: m.class, TTL: m.ttl}) != nil {
			return
		}
	case !v6:
		ip := p.Bytes()
		header := 0
		if len(ip) >= 20 {
			header = int(ip[0]&15) * 4
		}
		if header < 20 || header > len(ip) {
			return
		}
		p.TOS, p.TTL = ip[1], ip[8]
		from.Local = netip.AddrPortFrom(netip.AddrFrom4([4]byte(ip[16:20])), 0)
		if proto == uint8(sa.ESP) {
			p.Off += header
			p.Len -= header
		}
	}
	batch.Add(p, from)
}
