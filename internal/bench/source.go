// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"quicksand/internal/measure"
	"quicksand/sa"
)

// Source is the end that sends.
type Source struct {
	Device     string // the way to the sink has to begin here
	Sink       string // its address
	Port       uint16 // and port
	Tunnels    []int
	Placements []sa.Kind
	Sizes      []int         // of the IP packets in the tunnels, in bytes
	Segments   int           // packets that are handed over as one
	Senders    int           // threads
	Time       time.Duration // of one measurement
	Rounds     int           // in which each placement is measured once
	Log        *slog.Logger
	Progress   func(format string, args ...any)
}

// Run measures and returns the report. A placement that is not to be had is
// part of it; none at all is an error. With an error the report has what was
// measured until then, and is nil where that is nothing.
func (s Source) Run(ctx context.Context) (*Report, error) {
	release, err := claim(true)
	if err != nil {
		return nil, err
	}
	defer release()
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", net.JoinHostPort(s.Sink, strconv.Itoa(int(s.Port))))
	if err != nil {
		return nil, fmt.Errorf("reach the sink: %w", err)
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	r := &runner{Source: s, sink: newChannel(c),
		end: end{device: s.Device, local: addrOf(c.LocalAddr()), remote: addrOf(c.RemoteAddr()), source: true, log: s.Log}}
	defer r.end.close()
	if err := onDevice(s.Device, r.end.local); err != nil {
		return nil, err
	}
	hello, err := r.sink.ask(request{Op: opHello})
	if err != nil {
		return nil, err
	}
	report := newReport(s, describe(s.Device), hello.Machine)
	for _, n := range s.Tunnels {
		for range s.Rounds {
			for _, kind := range s.Placements {
				cell := report.cell(n, kind)
				if cell.Refused != "" {
					continue // it will not be had the next time either
				}
				if err := r.measure(cell); err != nil {
					return report, errors.Join(ctx.Err(), err)
				}
			}
		}
	}
	if !slices.ContainsFunc(report.Cells, func(c *Cell) bool { return c.Refused == "" }) {
		return report, errors.New("none of the placements is to be had")
	}
	return report, nil
}

// runner is a source at work.
type runner struct {
	Source
	sink *channel
	end  end
}

// measure installs a cell's tunnels, measures with every size and removes them.
// What goes wrong there goes into the cell; the error is one that keeps the next
// cell from being measured.
func (r *runner) measure(c *Cell) error {
	refused, err := r.prepare(c)
	if err == nil && refused == nil {
		refused = r.sizes(c)
	}
	if refused != nil {
		c.Refused = refused.Error()
		r.Progress("%d tunnels, %s: not to be had: %v", c.Tunnels, c.Placement, refused)
	}
	err = errors.Join(err, r.end.close())
	if _, e := r.sink.ask(request{Op: opRemove}); err == nil {
		err = e
	}
	if err != nil && c.Refused == "" {
		c.Refused = err.Error()
	}
	return err
}

// prepare installs the tunnels at both ends. What either of them refuses is
// told apart from what keeps the measurement from going on.
func (r *runner) prepare(c *Cell) (refused, err error) {
	seed := make([]byte, 32)
	if _, err := rand.Read(seed); err != nil {
		return nil, err
	}
	kind, err := placementOf(c.Placement)
	if err != nil {
		return nil, err
	}
	if err := r.end.open(kind, c.Tunnels); err != nil {
		return err, nil
	}
	if err := r.sink.write(request{Op: opPrepare, Placement: c.Placement, Seed: seed, SPIs: r.end.spis}); err != nil {
		return nil, fmt.Errorf("ask the sink to %s: %w", opPrepare, err)
	}
	var a answer
	if err := r.sink.read(&a); err != nil {
		return nil, fmt.Errorf("ask the sink to %s: %w", opPrepare, err)
	}
	if a.Error != "" {
		return fmt.Errorf("at the sink: %s", a.Error), nil
	}
	if err := r.end.install(seed, a.SPIs); err != nil {
		return err, nil
	}
	c.Detail, c.SinkDetail = r.end.detail, a.Detail
	time.Sleep(settle)
	return nil, nil
}

// sizes warms the tunnels up and measures with packets of each size.
func (r *runner) sizes(c *Cell) error {
	if err := r.warm(c); err != nil {
		return err
	}
	for i, size := range r.Sizes {
		got, cpu, err := r.load(c, size, 0, r.Time)
		if err != nil {
			return err
		}
		f, err := figures(got, size, cpu)
		if err != nil {
			return err
		}
		c.Samples[i] = append(c.Samples[i], f)
		r.Progress("%d tunnels, %s, %d bytes: %s Gbit/s, %s packets/s", c.Tunnels, c.Placement, size,
			measure.Number(f.Gigabits), measure.Number(f.Packets))
	}
	return nil
}

// warm sends little until some of it arrives.
func (r *runner) warm(c *Cell) error {
	const rate, length, tries = 5000, 100 * time.Millisecond, 50
	for range tries {
		got, _, err := r.load(c, r.Sizes[0], rate, length)
		if err != nil || got.Packets > 0 {
			return err
		}
	}
	return fmt.Errorf("%d tunnels, %s: nothing arrives", c.Tunnels, c.Placement)
}

// load sends for some time over all tunnels in turn, at a rate or, where that is
// 0, as fast as it can. It returns what the sink has counted, and the CPUs that
// have worked here.
func (r *runner) load(c *Cell, size int, rate float64, d time.Duration) (got count, cpu float64, err error) {
	senders, err := r.senders(c, size)
	if err != nil {
		return got, 0, err
	}
	defer closeAll(senders)
	if _, err := r.sink.ask(request{Op: opReceive}); err != nil {
		return got, 0, err
	}
	busy, err := measure.Busy()
	if err != nil {
		return got, 0, err
	}
	start := time.Now()
	results := make(chan error)
	for _, s := range senders {
		go func() {
			_, err := s.Send(rate/float64(len(senders)), d)
			results <- err
		}()
	}
	for range senders {
		err = errors.Join(err, <-results)
	}
	elapsed := time.Since(start).Seconds()
	after, busyErr := measure.Busy()
	a, stopErr := r.sink.ask(request{Op: opStop})
	return a.count, (after - busy) / elapsed, errors.Join(err, busyErr, stopErr)
}

// senders opens the senders, each with a part of the tunnels. With fewer of
// these than senders several share one.
func (r *runner) senders(c *Cell, size int) (all []*measure.Sender, err error) {
	for k := range r.Senders {
		var ends []netip.AddrPort
		for i := k % c.Tunnels; i < c.Tunnels; i += r.Senders {
			ends = append(ends, netip.AddrPortFrom(sinkInner(i), r.Port))
		}
		s, err := measure.NewSender(sourceNet.Addr(), ends, size, r.Segments)
		if err != nil {
			closeAll(all)
			return nil, err
		}
		all = append(all, s)
	}
	return all, nil
}

func closeAll(senders []*measure.Sender) {
	for _, s := range senders {
		s.Close()
	}
}
