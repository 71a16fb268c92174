// SPDX-License-Identifier: Apache-2.0

package harness

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"
)

// Ping is a run of ICMP echo requests at a fixed rate, which the kernel of the
// host pinged answers. ping(8) waits for the last answer for two round trips
// only, which on a busy machine looks like a loss.
type Ping struct {
	Source, Dest string // addresses; Source may be empty
	Count        int
	Interval     time.Duration // 10 ms by default
	Size         int           // of the ICMP payload in bytes; 56 by default
	Linger       time.Duration // how long to wait for the last answers; 1 s by default
}

// PingResult is what was counted.
type PingResult struct {
	Sent, Received, Duplicates int
	RTT                        time.Duration   // the average
	Times                      []time.Duration // round trips in the order of the answers
	Missing                    []int           // numbers of the requests without an answer, from 1
}

// Lost is the number of requests without an answer.
func (r PingResult) Lost() int { return r.Sent - r.Received }

func (r PingResult) String() string {
	s := fmt.Sprintf("%d sent, %d lost, %v on average", r.Sent, r.Lost(), r.RTT)
	if len(r.Missing) > 0 {
		s += fmt.Sprintf(", without numbers %v", r.Missing[:min(20, len(r.Missing))])
	}
	return s
}

// Ping pings and returns the counts; lost packets are not an error.
func (h *Host) Ping(p Ping) (PingResult, error) {
	return h.StartPing(p)()
}

// StartPing begins to ping; the function it returns waits for the end.
func (h *Host) StartPing(p Ping) func() (PingResult, error) {
	if p.Interval == 0 {
		p.Interval = 10 * time.Millisecond
	}
	if p.Size == 0 {
		p.Size = 56
	}
	if p.Linger == 0 {
		p.Linger = time.Second
	}
	return background(func() (PingResult, error) {
		var r pinger
		err := r.run(h, p)
		if err != nil {
			err = fmt.Errorf("ping %s from %s: %w", p.Dest, h.name, err)
		}
		return r.result(), err
	})
}

// pinger is one run of pings.
type pinger struct {
	conn *net.IPConn
	dest *net.IPAddr
	id   uint16
	v6   bool

	mu         sync.Mutex // guards what follows
	sent       []time.Time
	answered   []bool
	received   int
	duplicates int
	times      []time.Duration // round trips
}

// pingHeader is the ICMP header (RFC 792, RFC 4443 section 4.1) and the number
// of the request behind it, in bytes.
const pingHeader = 8 + 4

func (r *pinger) run(h *Host, p Ping) error {
	dest, err := netip.ParseAddr(p.Dest)
	if err != nil {
		return err
	}
	r.v6 = dest.Is6()
	r.dest = &net.IPAddr{IP: dest.AsSlice()}
	r.id = uint16(rand.Uint32())
	network := "ip4:icmp"
	if r.v6 {
		network = "ip6:ipv6-icmp"
	}
	err = h.Do(func() error {
		var source *net.IPAddr
		if p.Source != "" {
			source = &net.IPAddr{IP: net.ParseIP(p.Source)}
		}
		r.conn, err = net.ListenIP(network, source)
		return err
	})
	if err != nil {
		return err
	}
	defer r.conn.Close()
	var wg sync.WaitGroup
	wg.Go(r.receive)
	defer wg.Wait()
	defer r.conn.SetReadDeadline(time.Unix(1, 0))

	ticker := time.NewTicker(p.Interval)
	defer ticker.Stop()
	for i := range p.Count {
		if i > 0 {
			<-ticker.C
		}
		if err := r.send(i, p.Size); err != nil {
			return err
		}
	}
	for end := time.Now().Add(p.Linger); time.Now().Before(end) && !r.complete(); {
		time.Sleep(time.Millisecond)
	}
	return nil
}

// send sends request number i. What the host itself refuses to send, for want
// of a route or by policy, counts as sent and lost.
func (r *pinger) send(i, size int) error {
	b := make([]byte, max(8+size, pingHeader))
	b[0] = 8
	if r.v6 {
		b[0] = 128
	}
	binary.BigEndian.PutUint16(b[4:], r.id)
	binary.BigEndian.PutUint16(b[6:], uint16(i))
	binary.BigEndian.PutUint32(b[8:], uint32(i))
	if !r.v6 {
		binary.BigEndian.PutUint16(b[2:], checksum(b))
	}
	r.mu.Lock()
	r.sent = append(r.sent, time.Now())
	r.answered = append(r.answered, false)
	r.mu.Unlock()
	_, err := r.conn.WriteToIP(b, r.dest)
	var refused *os.SyscallError
	if errors.As(err, &refused) {
		return nil
	}
	return err
}

// receive counts answers until the deadline passes.
func (r *pinger) receive() {
	reply := byte(0)
	if r.v6 {
		reply = 129
	}
	b := make([]byte, 1<<16)
	for {
		n, _, err := r.conn.ReadFromIP(b)
		if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil || n < pingHeader || b[0] != reply || binary.BigEndian.Uint16(b[4:]) != r.id {
			continue
		}
		i := int(binary.BigEndian.Uint32(b[8:]))
		r.mu.Lock()
		switch {
		case i >= len(r.sent):
		case r.answered[i]:
			r.duplicates++
		default:
			r.answered[i] = true
			r.received++
			r.times = append(r.times, time.Since(r.sent[i]))
		}
		r.mu.Unlock()
	}
}

func (r *pinger) complete() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.received == len(r.sent)
}

func (r *pinger) result() PingResult {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := PingResult{Sent: len(r.sent), Received: r.received, Duplicates: r.duplicates, Times: r.times}
	if r.received > 0 {
		var total time.Duration
		for _, t := range r.times {
			total += t
		}
		out.RTT = (total / time.Duration(r.received)).Round(time.Microsecond)
	}
	for i, ok := range r.answered {
		if !ok {
			out.Missing = append(out.Missing, i+1)
		}
	}
	return out
}

// checksum is the Internet checksum (RFC 1071) of b, whose own field is zero.
func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i < len(b); i += 2 {
		sum += uint32(b[i]) << 8
		if i+1 < len(b) {
			sum += uint32(b[i+1])
		}
	}
	sum = sum>>16 + sum&0xffff
	sum += sum >> 16
	return ^uint16(sum)
}
