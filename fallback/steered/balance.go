// SPDX-License-Identifier: Apache-2.0

package steered

import (
	"time"

	"quicksand/xdp"
)

// Every balanceEvery the workers' loads are compared. Where one has been busy
// for more than crowded of that time, and for more than twice as long as the
// idlest, the SA moves that brings the two closest together.
const (
	balanceEvery = time.Second
	crowded      = balanceEvery / 2
)

// balance is the run of the goroutine that moves SAs.
func (w *Wire) balance() {
	t := time.NewTicker(balanceEvery)
	defer t.Stop()
	for {
		select {
		case <-w.stop:
			return
		case <-t.C:
		}
		if a, to := w.imbalance(); a != nil {
			if err := w.move(a, to); err != nil {
				w.log.Warn("an SA has moved badly", "spi", a.key.SPI, "error", err)
			} else {
				w.log.Debug("an SA has moved to another worker", "spi", a.key.SPI, "worker", to)
			}
		}
	}
}

// imbalance returns the SA that should move, and to which worker, or nil.
func (w *Wire) imbalance() (*admitted, int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	busy := make([]time.Duration, len(w.workers))
	for _, d := range w.devices {
		for _, p := range d.flat {
			busy[p.number] += time.Duration(p.busy.Load())
		}
	}
	hot, cool := 0, 0
	for i := range busy {
		// A device that went took its part along.
		busy[i], w.workers[i].busy = max(0, busy[i]-w.workers[i].busy), busy[i]
		if busy[i] > busy[hot] {
			hot = i
		}
		if busy[i] < busy[cool] {
			cool = i
		}
	}
	if busy[hot] < crowded || busy[hot] < 2*busy[cool] {
		return nil, 0
	}
	return w.best(hot, busy[hot], busy[cool]), cool
}

// best is the SA of the hot worker whose move leaves the busier of the two
// least busy: by its part of what all the worker's SAs have received since the
// last time somebody looked.
func (w *Wire) best(hot int, busy, idle time.Duration) (found *admitted) {
	bytes := map[*admitted]uint64{}
	for _, d := range w.devices {
		if !d.attached() {
			continue
		}
		_ = d.table.Entries(func(e xdp.Entry) bool {
			if a := w.sas[e.Key.SPI]; a != nil {
				bytes[a] += e.Use.Bytes
			}
			return true
		})
	}
	var total uint64
	for a, n := range bytes {
		if n >= a.bytes {
			bytes[a], a.bytes = n-a.bytes, n
		} else {
			a.bytes = n
		}
		if a.worker == hot {
			total += bytes[a]
		}
	}
	least := busy - busy/10 // less is not worth a move
	for a, n := range bytes {
		if a.worker != hot || a.moving || n == 0 {
			continue
		}
		part := time.Duration(float64(busy) * float64(n) / float64(total))
		if then := max(busy-part, idle+part); then < least {
			least, found = then, a
		}
	}
	return found
}
