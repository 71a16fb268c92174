// SPDX-License-Identifier: Apache-2.0

package tunnel

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"quicksand/fallback/esp"
)

// DefaultMark is the firewall mark (SO_MARK) of everything quicksand itself
// sends: the rule that leads traffic into the tunnel leaves it alone.
const DefaultMark = 0x7153

// groBatch is how many messages are received at once where the kernel may have
// joined many datagrams in each.
const groBatch = 16

// Socket is one of the daemon's two UDP ports, for IPv4 and IPv6 both: the
// plain IKE port (500), or the NAT traversal port (4500) on which ESP and IKE
// come side by side (RFC 3948 section 2).
type Socket struct {
	port  uint16
	natt  bool
	onIKE func(data []byte, local, remote netip.AddrPort, alone bool)
	conns [2]*conn // IPv4, IPv6 or nil
	bulk  [2]*conn // likewise those that ESP comes and goes by, on the NAT traversal port

	input atomic.Pointer[func(*Batch)]
	done  sync.WaitGroup

	mu     sync.Mutex // guards what follows
	closed bool
	share  *share // the kernel's part in the port, or nil

	ike, keepalives, short, truncated, orphans atomic.Uint64
}

// Listen opens the port on all addresses; port 0 takes any that is free. mark
// is the SO_MARK of what is sent, DefaultMark as a rule. With natt the port is
// the NAT traversal one: IKE messages have the non-ESP marker there, which
// onIKE does not get to see, and what has none is ESP for the Plane that is
// given the Socket.
//
// onIKE is called from the socket's own goroutines and keeps data; local is
// the address and port the message was sent to. With alone no ESP comes in on the
// port now, so that nothing waits while onIKE takes its time.
func Listen(port uint16, mark int, natt bool, onIKE func(data []byte, local, remote netip.AddrPort, alone bool)) (*Socket, error) {
	s := &Socket{natt: natt, onIKE: onIKE}
	for tries := 0; ; tries++ {
		err := s.open(port, mark)
		if err == nil {
			break
		}
		// A port chosen for IPv4 may be taken for IPv6.
		if port != 0 || tries == 10 || !errors.Is(err, unix.EADDRINUSE) {
			return nil, fmt.Errorf("listen on port %d: %w", port, err)
		}
	}
	if natt {
		if err := s.divide(mark); err != nil {
			return nil, errors.Join(fmt.Errorf("listen on port %d: %w", port, err), s.Close())
		}
	}
	for _, c := range s.all() {
		batch := batchSize
		if natt {
			batch = groBatch
			// An old kernel joins none, which is as well.
			_ = c.setInt(unix.IPPROTO_UDP, unix.UDP_GRO, 1)
		}
		s.done.Go(func() { s.read(newReceiver(c, batch)) })
	}
	return s, nil
}

// all are the sockets there are.
func (s *Socket) all() []*conn {
	return slices.DeleteFunc(slices.Concat(s.conns[:], s.bulk[:]), func(c *conn) bool { return c == nil })
}

func (s *Socket) open(port uint16, mark int) error {
	c4, err := openConn(false, unix.IPPROTO_UDP, port, mark)
	if err != nil {
		return err
	}
	s.port = c4.localPort()
	c6, err := openConn(true, unix.IPPROTO_UDP, s.port, mark)
	if err != nil && !errors.Is(err, unix.EAFNOSUPPORT) && !errors.Is(err, unix.EADDRNOTAVAIL) {
		c4.close()
		return err
	}
	s.conns = [2]*conn{c4, c6}
	return nil
}

// Port is the port the socket is bound to.
func (s *Socket) Port() uint16 { return s.port }

// marker is the non-ESP marker (RFC 3948 section 2.2).
var marker = make([]byte, 4)

// SendIKE sends an IKE message, on the NAT traversal port behind the marker.
// The source address is local's where it has one; its port is the socket's.
func (s *Socket) SendIKE(data []byte, local, remote netip.AddrPort) error {
	parts := [][]byte{data}
	if s.natt {
		parts = [][]byte{marker, data}
	}
	return s.send(parts, local, remote)
}

// SendKeepalive sends a NAT keepalive (RFC 3948 section 2.3).
func (s *Socket) SendKeepalive(local, remote netip.AddrPort) error {
	return s.send([][]byte{{0xff}}, local, remote)
}

func (s *Socket) send(parts [][]byte, local, remote netip.AddrPort) error {
	c, err := s.conn(remote.Addr())
	if err != nil {
		return err
	}
	if err := c.sendTo(parts, local.Addr(), remote); err != nil {
		return fmt.Errorf("send to %s: %w", remote, err)
	}
	return nil
}

func (s *Socket) conn(remote netip.Addr) (*conn, error) {
	i := 0
	if !remote.Is4() {
		i = 1
	}
	if !remote.IsValid() || s.conns[i] == nil {
		return nil, fmt.Errorf("send to %s: no socket of its family", remote)
	}
	return s.conns[i], nil
}

// sendESP sends ESP packets in UDP.
func (s *Socket) sendESP(p Path, batch []esp.Packet) {
	i := 0
	if !p.Remote.Addr().Is4() {
		i = 1
	}
	if s.bulk[i] == nil {
		fail(batch, fmt.Errorf("send to %s: no socket of its family", p.Remote))
		return
	}
	s.bulk[i].tx.send(p, batch)
}

func fail(batch []esp.Packet, err error) {
	for i := range batch {
		batch[i].Err = err
	}
}

// Stats returns what came in on the port and was not ESP for a plane.
func (s *Socket) Stats() map[string]uint64 {
	return map[string]uint64{
		"ike":            s.ike.Load(),
		"keepalive":      s.keepalives.Load(),
		"drop.short":     s.short.Load(),
		"drop.truncated": s.truncated.Load(),
		"drop.no_plane":  s.orphans.Load(),
	}
}

// overflow returns how many datagrams found the receive buffers full.
func (s *Socket) overflow() (n uint64) {
	for _, c := range s.all() {
		n += c.overflow()
	}
	return n
}

// Close closes the port; onIKE is not called any more once it returned.
func (s *Socket) Close() error {
	s.mu.Lock()
	closed, share := s.closed, s.share
	s.closed, s.share = true, nil
	s.mu.Unlock()
	if closed {
		return nil
	}
	errs := []error{share.close()}
	for _, c := range s.all() {
		errs = append(errs, c.close())
	}
	s.done.Wait()
	return errors.Join(errs...)
}

// read is the run of one family's goroutine: a batch of datagrams in, its ESP
// packets through the plane, and around again.
func (s *Socket) read(r *receiver) {
	split := &splitter{s: s, quiet: quietReads}
	if s.natt {
		split.spare = newBuffers(batchSize)
	}
	for {
		n, err := r.receive()
		if errors.Is(err, os.ErrClosed) {
			return
		}
		// Any other error is a message's own, such as an ICMP error that came
		// back for one that was sent.
		for i := 0; err == nil && i < n; i++ {
			m, ok := r.message(i)
			if !ok {
				s.truncated.Add(1)
				continue
			}
			split.message(&m)
		}
		r.busy = len(split.batch.Packets) > 0
		split.flush()
	}
}

// splitter sorts what comes in on a port: IKE, ESP, keepalives.
type splitter struct {
	s     *Socket
	batch Batch
	spare [][]byte // buffers for datagrams that the kernel had joined
	used  int
	quiet int // reads since the last one that brought ESP
}

// quietReads is after how many reads in a row without ESP a port is taken to
// carry none.
const quietReads = 8

func (sp *splitter) message(m *message) {
	if m.segment <= 0 || m.segment >= m.len {
		sp.datagram(m, m.buf, m.len)
		return
	}
	for data := m.data(); len(data) > 0; {
		n := min(m.segment, len(data))
		if sp.used == len(sp.spare) {
			sp.flush()
		}
		// Each gets a buffer of its own, with room before it and behind it.
		buf := sp.spare[sp.used]
		copy(buf[rxHeadroom:], data[:n])
		if sp.datagram(m, buf, n) {
			sp.used++
		}
		data = data[n:]
	}
}

// datagram sorts the datagram at buf[rxHeadroom:][:n], and reports whether the
// buffer is kept until the next flush.
func (sp *splitter) datagram(m *message, buf []byte, n int) (kept bool) {
	s, data := sp.s, buf[rxHeadroom:][:n]
	local := netip.AddrPortFrom(m.local, s.port)
	switch {
	case s.natt && n == 1 && data[0] == 0xff:
		s.keepalives.Add(1)
		return false
	case s.natt && n < 8, n == 0:
		s.short.Add(1)
		return false
	case s.natt && [4]byte(data) == [4]byte{}:
		data = data[4:]
		fallthrough
	case !s.natt:
		s.ike.Add(1)
		s.onIKE(append([]byte(nil), data...), local, m.remote, sp.quiet >= quietReads && len(sp.batch.Packets) == 0)
		return false
	}
	sp.batch.Add(esp.Packet{Buf: buf, Off: rxHeadroom, Len: n, TOS: m.class, TTL: m.ttl},
		Path{Local: local, Remote: m.remote, Proto: unix.IPPROTO_UDP})
	return true
}

// flush hands the ESP packets gathered so far to the plane.
func (sp *splitter) flush() {
	sp.quiet++
	if n := len(sp.batch.Packets); n > 0 {
		sp.quiet = 0
		if input := sp.s.input.Load(); input != nil {
			(*input)(&sp.batch)
		} else {
			sp.s.orphans.Add(uint64(n))
		}
	}
	sp.batch.Reset()
	sp.used = 0
}
