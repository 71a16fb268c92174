// SPDX-License-Identifier: Apache-2.0

package tunnel

import (
	"errors"
	"fmt"
	"sync/atomic"

	"quicksand/fallback/esp"
)

// reason is why packets were dropped, or what else is counted.
type reason int

const (
	outMalformed  reason = iota // not an IP packet
	outNoPolicy                 // no policy admits it
	outFragment                 // a later fragment, and the policy names a port; or transport mode
	outNoPair                   // its child has neither pair nor trap
	outExpired                  // the pair's hard lifetime or sequence numbers ended
	outHeldFull                 // enough packets wait for the pair already
	outHeldStale                // the pair came too late for it
	outTooBig                   // too long for the path and may not be fragmented
	outTooBigSent               // ICMP messages about it
	outSeal                     // refused by ESP or AH for another reason
	outSend                     // refused by the network
	inUnknownSPI                // no SA has its SPI
	inWrongWay                  // the SA expects another protocol or encapsulation
	inExpired                   // the pair's hard lifetime ended
	inMalformed                 // malformed inside or outside
	inReplay                    // replayed or too old
	inICV                       // not authentic
	inPadding                   // padding wrong
	inSelector                  // the inner packet is outside the SA's selectors
	inECN                       // congestion marked on a packet without ECN
	inDummy                     // traffic flow confidentiality
	inOther                     // refused for another reason
	inTUN                       // refused by the TUN device
	reasons
)

var reasonNames = [reasons]string{
	"out.drop.malformed", "out.drop.no_policy", "out.drop.fragment", "out.drop.no_sa", "out.drop.expired",
	"out.drop.held_full", "out.drop.held_stale", "out.drop.too_big", "out.icmp_too_big", "out.drop.seal", "out.drop.send",
	"in.drop.unknown_spi", "in.drop.wrong_encapsulation", "in.drop.expired", "in.drop.malformed", "in.drop.replay",
	"in.drop.icv", "in.drop.padding", "in.drop.selector", "in.drop.ecn", "in.dummy",
	"in.drop.other", "in.drop.tun",
}

type stats [reasons]atomic.Uint64

func (s *stats) count(r reason) { s[r].Add(1) }

// sealReason and openReason are the reasons of package esp's errors.
func sealReason(err error) reason {
	switch {
	case errors.Is(err, esp.ErrMalformed):
		return outMalformed
	case errors.Is(err, esp.ErrExpired), errors.Is(err, esp.ErrExhausted):
		return outExpired
	case errors.Is(err, esp.ErrFragment):
		return outFragment
	}
	return outSeal
}

func openReason(err error) reason {
	for _, r := range [...]struct {
		err error
		reason
	}{
		{esp.ErrMalformed, inMalformed}, {esp.ErrReplay, inReplay}, {esp.ErrICV, inICV},
		{esp.ErrPadding, inPadding}, {esp.ErrSelector, inSelector}, {esp.ErrECN, inECN},
		{esp.ErrDummy, inDummy}, {esp.ErrExpired, inExpired},
	} {
		if errors.Is(err, r.err) {
			return r.reason
		}
	}
	return inOther
}

// Stats returns the counters by name: "out.drop.REASON" and "in.drop.REASON"
// for packets dropped. "out.drop.queue_full" is the kernel's count of those that
// found the TUN device's queue full, which a super-packet is one of, and
// "in.drop.queue_full" that of those that the wire's were full for;
// "out.queue.N" is how many packets came by the device's N-th queue.
func (p *Plane) Stats() map[string]uint64 {
	m := make(map[string]uint64, reasons+1)
	p.ctl.Lock()
	if !p.closing.Load() {
		m["out.drop.queue_full"] = p.router.queueDrops()
		m["in.drop.queue_full"] = p.wire.Overflow()
	}
	p.ctl.Unlock()
	for i, w := range p.workers {
		m[fmt.Sprintf("out.queue.%d", i)] = w.taken.Load()
	}
	for r := range p.stats {
		m[reasonNames[r]] = p.stats[r].Load()
	}
	return m
}
