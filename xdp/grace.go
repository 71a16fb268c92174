// SPDX-License-Identifier: Apache-2.0

package xdp

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
)

// waiter waits until each packet that programs look at now is done with. The
// kernel does that when a map of maps is changed (maybe_wait_bpf_programs in
// kernel/bpf/syscall.c), so that its user knows when the map that was replaced
// is out of use.
type waiter struct{ outer, inner *ebpf.Map }

func newWaiter() (*waiter, error) {
	spec := &ebpf.MapSpec{Name: "grace", Type: ebpf.ArrayOfMaps, KeySize: 4, ValueSize: 4, MaxEntries: 1,
		InnerMap: &ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: 1}}
	outer, err := ebpf.NewMap(spec)
	if err != nil {
		return nil, fmt.Errorf("make map of maps: %w", err)
	}
	inner, err := ebpf.NewMap(spec.InnerMap)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make inner map: %w", err), outer.Close())
	}
	return &waiter{outer, inner}, nil
}

func (w *waiter) wait() error {
	if err := w.outer.Update(uint32(0), w.inner, ebpf.UpdateAny); err != nil {
		return fmt.Errorf("wait for packets under way: %w", err)
	}
	return nil
}

func (w *waiter) close() error { return errors.Join(w.outer.Close(), w.inner.Close()) }

// retireBatch is how many places wait for one grace period, which takes some
// milliseconds.
const retireBatch = 4096

// reclaim makes places, or else destinations, free that are no longer used. It
// returns false if there are none.
func (t *Table) reclaim(destinations bool) (bool, error) {
	if destinations {
		idle := t.homes.removeIdle()
		if len(idle) == 0 {
			return false, nil
		}
		if err := t.grace(); err != nil {
			return false, err
		}
		t.homes.free = append(t.homes.free, idle...)
		return true, nil
	}
	if t.releasing != nil {
		t.await()
		return true, nil
	}
	if len(t.retired) == 0 {
		return false, nil
	}
	if err := t.grace(); err != nil {
		return false, err
	}
	t.release(t.retired)
	t.retired = t.retired[:0]
	return true, nil
}

func (t *Table) release(places []int) {
	for _, place := range places {
		t.core.release(place)
	}
}

// retire takes an entry away. Its place is free after a grace period, for
// which deletes do not wait.
func (t *Table) retire(place int) {
	word := t.core.words[place]
	t.core.retire(place)
	t.counters.setFloor(place, 0)
	t.homes.entries[word>>homeShift&maxHomes]--
	t.retired = append(t.retired, place)
	if len(t.retired) < min(retireBatch, t.room/8+1) || t.releasing != nil {
		return
	}
	batch, done := t.retired, make(chan struct{})
	t.retired, t.releasing = nil, done
	go func() {
		err := t.grace()
		t.mu.Lock()
		defer t.mu.Unlock()
		if err == nil {
			t.release(batch)
		} else {
			t.retired = append(t.retired, batch...) // Insert says why
		}
		t.releasing = nil
		close(done)
	}()
}

// await waits for places that are being released.
func (t *Table) await() {
	for t.releasing != nil {
		done := t.releasing
		t.mu.Unlock()
		<-done
		t.mu.Lock()
	}
}
