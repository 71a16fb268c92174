// SPDX-License-Identifier: Apache-2.0

package xdp

import (
	"runtime"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const recentUses = 16

// use is struct spi_use: in the first row user space's own, then the CPUs'.
type use struct {
	packets, bytes, last, floor uint64
}

// tally is struct tally.
type tally struct {
	moves, waiting, fence uint64
	tick, now             uint64
	_                     [3]uint64
	recent                [recentUses]struct{ place, packets, bytes, last uint64 }
	packets, bytes        [verdicts]uint64
	_                     [10]uint64
}

// counters are what packets are counted in, in memory that is the program's
// too.
type counters struct {
	places  int
	uses    []use   // rows of places
	tallies []tally // by CPU
}

// sum adds up what was counted at a place since the counters were made.
func (c *counters) sum(place int) use {
	var all use
	for cpu := range c.tallies {
		one := c.settled(cpu, place)
		all.packets += one.packets
		all.bytes += one.bytes
		all.last = max(all.last, one.last)
	}
	return all
}

// patience is how often a reader looks again while a CPU moves its recent
// uses, which takes a few microseconds. A CPU that a hypervisor has stopped
// there is not waited for longer than some milliseconds; up to sixteen packets
// may then be counted twice, or not yet.
const patience = 10_000

// settled is what one CPU has counted at a place: what is in its row, and what
// is not there yet.
func (c *counters) settled(cpu, place int) use {
	t := &c.tallies[cpu]
	row := &c.uses[(cpu+1)*c.places+place]
	for try := 0; ; try++ {
		moves := atomic.LoadUint64(&t.moves)
		u := use{packets: atomic.LoadUint64(&row.packets), bytes: atomic.LoadUint64(&row.bytes), last: atomic.LoadUint64(&row.last)}
		for i := range min(atomic.LoadUint64(&t.waiting), recentUses) {
			if r := &t.recent[i]; atomic.LoadUint64(&r.place) == uint64(place) {
				u.packets += atomic.LoadUint64(&r.packets)
				u.bytes += atomic.LoadUint64(&r.bytes)
				u.last = max(u.last, atomic.LoadUint64(&r.last))
			}
		}
		if moves&1 == 0 && atomic.LoadUint64(&t.moves) == moves || try == patience {
			return u
		}
		runtime.Gosched()
	}
}

// begin has a place's counters begin at zero. The CPUs' go on: a CPU may still
// have packets of the SPI that was there before on their way to its row.
func (c *counters) begin(place int) {
	before, own := c.sum(place), &c.uses[place]
	own.packets, own.bytes = before.packets, before.bytes
	c.setFloor(place, 0)
}

// read returns what was counted at a place since begin.
func (c *counters) read(place int, epoch time.Time) Use {
	all, own := c.sum(place), &c.uses[place]
	u := Use{Packets: all.packets - min(all.packets, own.packets), Bytes: all.bytes - min(all.bytes, own.bytes)}
	if u.Packets != 0 {
		u.Last = epoch.Add(time.Duration(all.last))
	}
	return u
}

func (c *counters) floor(place int) uint64 { return c.uses[place].floor }

func (c *counters) setFloor(place int, sequence uint64) {
	atomic.StoreUint64(&c.uses[place].floor, sequence)
}

// totals adds up what all CPUs have counted.
func (c *counters) totals() Totals {
	var sum Totals
	for cpu := range c.tallies {
		t := &c.tallies[cpu]
		for v := range sum {
			sum[v].Packets += atomic.LoadUint64(&t.packets[v])
			sum[v].Bytes += atomic.LoadUint64(&t.bytes[v])
		}
	}
	return sum
}

// clock returns the time at which the kernel's monotonic clock was zero.
func clock() time.Time {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		return time.Time{}
	}
	return time.Now().Add(-time.Duration(ts.Nano())).Round(0)
}
