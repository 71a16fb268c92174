// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"time"

	"quicksand/internal/measure"
	"quicksand/tests/harness"
)

// load is a stream of UDP datagrams from one host to another. Each is a packet
// of its own, as a gateway gets them. What the instrument costs is little, and
// the same for every tunnel.
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

// lossAllowed is the part of the packets that may get lost in what counts as
// carried.
const lossAllowed = 0.001

// run offers packets at a rate, or as fast as they can be sent where that is 0.
func (l load) run(rate float64, d time.Duration) (t trial, err error) {
	to := netip.AddrPortFrom(l.dest, 9000)
	var in *measure.Receiver
	var out *measure.Sender
	if err := l.to.Do(func() error { in, err = measure.NewReceiver(to); return err }); err != nil {
		return t, err
	}
	defer in.Close()
	if err := l.from.Do(func() error {
		out, err = measure.NewSender(l.source, []netip.AddrPort{to}, l.size, 1)
		return err
	}); err != nil {
		return t, err
	}
	defer out.Close()

	ended, done := make(chan struct{}), make(chan struct{})
	var got measure.Received
	var failed error
	go func() {
		const silence = 30 * time.Millisecond
		got, failed = in.Receive(ended, silence)
		close(done)
	}()
	start := time.Now()
	sent, err := out.Send(rate, d)
	took := time.Since(start)
	close(ended)
	<-done
	if err = errors.Join(err, failed); err != nil {
		return t, fmt.Errorf("send packets of %d bytes to %s: %w", l.size, l.dest, err)
	}
	return trial{sent, got.Packets, float64(sent) / took.Seconds(),
		float64(got.Packets) / max(took, got.Last.Sub(start)).Seconds()}, nil
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
	const precision, steps = 1.08, 14
	best, low, high, rate := 0.0, 0.0, math.Inf(1), guess
	for step := 0; step < steps && (low == 0 || high/low > precision); step++ {
		t, err := l.carried(rate, d)
		if err != nil {
			return 0, err
		}
		if t.loss() <= lossAllowed {
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

// carried tries a rate until no more is lost than may be, or tries are used up.
func (l load) carried(rate float64, d time.Duration) (t trial, err error) {
	const tries = 2
	for range tries {
		if t, err = l.run(rate, d); err != nil || t.sent > 0 && t.loss() <= lossAllowed {
			break
		}
	}
	return t, err
}
