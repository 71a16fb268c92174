// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"quicksand/internal/measure"
	"quicksand/sa"
)

// Sink is the end that receives.
type Sink struct {
	Device string // it listens on this one alone
	Port   uint16
	// Placement is where its end of the tunnels runs; 0 is where the source's
	// does.
	Placement sa.Kind
	Log       *slog.Logger
}

// Serve serves one source after the other until ctx ends.
func (s Sink) Serve(ctx context.Context) error {
	release, err := claim(false)
	if err != nil {
		return err
	}
	defer release()
	config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) (err error) {
		return errors.Join(c.Control(func(fd uintptr) { err = unix.BindToDevice(int(fd), s.Device) }), err)
	}}
	l, err := config.Listen(ctx, "tcp", fmt.Sprintf(":%d", s.Port))
	if err != nil {
		return fmt.Errorf("listen on %s: %w", s.Device, err)
	}
	defer context.AfterFunc(ctx, func() { l.Close() })()
	s.Log.Info("the sink is ready", "device", s.Device, "port", s.Port)
	for {
		c, err := l.Accept()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("accept: %w", err)
		}
		err = s.serve(ctx, c)
		c.Close()
		if err != nil {
			s.Log.Error("a source has left: "+err.Error(), "source", c.RemoteAddr())
		}
	}
}

// serve answers one source's requests until it hangs up. What it has installed
// goes with it.
func (s Sink) serve(ctx context.Context, c net.Conn) error {
	defer context.AfterFunc(ctx, func() { c.Close() })()
	local, remote := addrOf(c.LocalAddr()), addrOf(c.RemoteAddr())
	s.Log.Info("a source has come", "source", remote)
	v := &service{sink: s, end: end{device: s.Device, local: local, remote: remote, log: s.Log}}
	defer v.finish()
	ch := newChannel(c)
	for {
		var r request
		if err := ch.read(&r); errors.Is(err, errEnded) || ctx.Err() != nil {
			return nil
		} else if err != nil {
			return err
		}
		a, err := v.answer(r)
		if err != nil {
			a = answer{Error: err.Error()}
		}
		if err := ch.write(a); err != nil {
			return err
		}
	}
}

func addrOf(a net.Addr) netip.Addr {
	return a.(*net.TCPAddr).AddrPort().Addr().Unmap()
}

// service is a sink at the service of a source.
type service struct {
	sink Sink
	end  end
	run  *reception
}

func (v *service) answer(r request) (a answer, err error) {
	switch r.Op {
	case opHello:
		return answer{Machine: describe(v.sink.Device)}, onDevice(v.sink.Device, v.end.local)
	case opPrepare:
		return v.prepare(r)
	case opReceive:
		if v.run != nil || len(v.end.pairs) == 0 {
			return a, errors.New("there are no tunnels, or it receives already")
		}
		v.run, err = receive(v.sink.Port, &v.end)
		return a, err
	case opStop:
		if v.run == nil {
			return a, errors.New("it does not receive")
		}
		a.count, err = v.run.stop(&v.end)
		v.run = nil
		return a, err
	case opRemove:
		return a, v.finish()
	}
	return a, fmt.Errorf("%q is no operation", r.Op)
}

func (v *service) prepare(r request) (a answer, err error) {
	kind, err := placementOf(r.Placement)
	if err != nil {
		return a, err
	}
	if v.sink.Placement != 0 {
		kind = v.sink.Placement
	}
	const seedLen = 32
	if len(r.Seed) != seedLen {
		return a, fmt.Errorf("a seed of %d bytes, and not %d", len(r.Seed), seedLen)
	}
	if v.end.backend != nil {
		return a, errors.New("there are tunnels already")
	}
	if err := v.end.open(kind, len(r.SPIs)); err != nil {
		return a, err
	}
	if err := v.end.install(r.Seed, r.SPIs); err != nil {
		return a, errors.Join(err, v.end.close())
	}
	return answer{SPIs: v.end.spis, Detail: v.end.detail}, nil
}

// finish ends a reception and removes the tunnels.
func (v *service) finish() error {
	if v.run != nil {
		_, _ = v.run.stop(&v.end) // nobody asks for it
		v.run = nil
	}
	return v.end.close()
}

// reception counts what arrives.
type reception struct {
	receivers []*measure.Receiver
	ended     chan struct{}
	results   chan result
	start     time.Time
	busy      float64
	carried   uint64
}

// silence is after how long without a packet nothing more is expected.
const silence = 200 * time.Millisecond

type result struct {
	measure.Received
	err error
}

// receive begins to count, on as many threads as there are CPUs.
func receive(port uint16, e *end) (r *reception, err error) {
	r = &reception{ended: make(chan struct{}), results: make(chan result)}
	if r.carried, err = e.carried(); err != nil {
		return nil, err
	}
	for range runtime.NumCPU() {
		in, err := measure.NewReceiver(netip.AddrPortFrom(netip.IPv4Unspecified(), port))
		if err != nil {
			r.closeAll()
			return nil, err
		}
		r.receivers = append(r.receivers, in)
	}
	if r.busy, err = measure.Busy(); err != nil {
		r.closeAll()
		return nil, err
	}
	r.start = time.Now()
	for _, in := range r.receivers {
		go func() {
			got, err := in.Receive(r.ended, silence)
			r.results <- result{got, err}
		}()
	}
	return r, nil
}

func (r *reception) closeAll() {
	for _, in := range r.receivers {
		in.Close()
	}
}

// stop ends the count once nothing more comes.
func (r *reception) stop(e *end) (c count, err error) {
	defer r.closeAll()
	busy, err := measure.Busy()
	c.Busy, c.Elapsed = busy-r.busy, time.Since(r.start).Seconds()
	close(r.ended)
	var first, last time.Time
	for range r.receivers {
		got := <-r.results
		err = errors.Join(err, got.err)
		if got.Packets == 0 {
			continue
		}
		c.Packets += got.Packets
		if first.IsZero() || got.First.Before(first) {
			first = got.First
		}
		if got.Last.After(last) {
			last = got.Last
		}
	}
	c.Seconds = last.Sub(first).Seconds()
	carried, err2 := e.carried()
	c.SAs = carried - r.carried
	return c, errors.Join(err, err2)
}
