// SPDX-License-Identifier: Apache-2.0

package xdp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"quicksand/bpf"
	"quicksand/sa"
)

// What the table returns.
var (
	ErrExists  = errors.New("SPI is in the table already")
	ErrUnknown = errors.New("SPI is not in the table")
	ErrFull    = errors.New("table is full")
)

// The word that is the table's value; bpf/steer.h says why it is one.
const (
	targetShift = 24
	actionShift = 40
	checkShift  = 44
	slotMask    = 1<<targetShift - 1
)

// spareSlots are slots for counters beyond the room for SPIs: a slot is used
// again only after so many others, when no packet that met the deleted SPI
// can still be counting.
const spareSlots = 1024

// wireKey is struct spi_key.
type wireKey struct {
	Destination [16]byte
	SPI         [4]byte // network order
	Protocol    uint32
}

func (k Key) wire() wireKey {
	w := wireKey{Destination: k.Destination.As16(), Protocol: uint32(k.Protocol)}
	binary.BigEndian.PutUint32(w.SPI[:], uint32(k.SPI))
	return w
}

func (w *wireKey) key() Key {
	return Key{
		Destination: netip.AddrFrom16(w.Destination).Unmap(),
		SPI:         sa.SPI(binary.BigEndian.Uint32(w.SPI[:])),
		Protocol:    sa.Protocol(w.Protocol),
	}
}

func word(k Key, t Target, slot uint32) uint64 {
	return uint64(k.SPI)<<checkShift | uint64(t.Action)<<actionShift | uint64(t.Number)<<targetShift | uint64(slot)
}

func targetOf(word uint64) Target {
	return Target{Action: Action(word >> actionShift & 15), Number: uint16(word >> targetShift)}
}

// use is struct spi_use.
type use struct {
	packets, bytes, last, _ uint64
}

// Table is the table of SPIs in the kernel.
type Table struct {
	spis, verdicts *ebpf.Map

	memory []byte
	uses   []use // slots of the first CPU, then of the second ...; the kernel writes
	slots  int   // for each CPU

	mu   sync.Mutex // guards what follows, and changes of the table
	free slotQueue
}

// slotQueue hands slots out in the order they came back.
type slotQueue struct {
	slots []uint32
	first int
	count int
}

func (q *slotQueue) put(slot uint32) {
	q.slots[(q.first+q.count)%len(q.slots)] = slot
	q.count++
}

func (q *slotQueue) take() uint32 {
	slot := q.slots[q.first]
	q.first = (q.first + 1) % len(q.slots)
	q.count--
	return slot
}

func newTable(o *bpf.SteerObjects, room int) (*Table, error) {
	t := &Table{spis: o.Spis, verdicts: o.Verdicts, slots: room + spareSlots}
	entries := int(o.Uses.MaxEntries())
	size := entries * int(unsafe.Sizeof(use{}))
	memory, err := unix.Mmap(o.Uses.FD(), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map counters: %w", err)
	}
	t.memory = memory
	t.uses = unsafe.Slice((*use)(unsafe.Pointer(&memory[0])), entries)

	// Slots in use are those of the table taken over.
	taken := make([]bool, t.slots)
	err = t.walk(func(_ *wireKey, word uint64) bool {
		if slot := word & slotMask; slot < uint64(len(taken)) {
			taken[slot] = true
		}
		return true
	})
	if err != nil {
		return nil, errors.Join(err, t.close())
	}
	t.free.slots = make([]uint32, t.slots)
	for slot := range taken {
		if !taken[slot] {
			t.free.put(uint32(slot))
		}
	}
	return t, nil
}

func (t *Table) close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.memory == nil {
		return nil
	}
	err := unix.Munmap(t.memory)
	t.memory, t.uses = nil, nil
	return err
}

func checkTarget(t Target) error {
	if t.Action < Pass || t.Action > ToDevice || t.Action < ToSocket && t.Number != 0 {
		return fmt.Errorf("no such target: action %d, number %d", t.Action, t.Number)
	}
	return nil
}

// Insert implements Steering.
func (t *Table) Insert(k Key, to Target) error {
	if err := checkTarget(to); err != nil {
		return fmt.Errorf("insert %s: %w", k, err)
	}
	if !k.Destination.IsValid() {
		return fmt.Errorf("insert %s: no destination", k)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.uses == nil {
		return fmt.Errorf("insert %s: table is closed", k)
	}
	if t.free.count <= spareSlots {
		return fmt.Errorf("insert %s: %w", k, ErrFull)
	}
	slot := t.free.take()
	t.clear(slot)
	wire, value := k.wire(), word(k, to, slot)
	err := t.spis.Update(&wire, &value, ebpf.UpdateNoExist)
	if err == nil {
		return nil
	}
	t.free.put(slot)
	switch {
	case errors.Is(err, ebpf.ErrKeyExist):
		err = ErrExists
	case errors.Is(err, unix.E2BIG):
		err = ErrFull
	}
	return fmt.Errorf("insert %s: %w", k, err)
}

// Move implements Steering.
func (t *Table) Move(k Key, to Target) error {
	if err := checkTarget(to); err != nil {
		return fmt.Errorf("move %s: %w", k, err)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	wire, value := k.wire(), uint64(0)
	err := t.spis.Lookup(&wire, &value)
	if err == nil {
		value = word(k, to, uint32(value&slotMask))
		err = t.spis.Update(&wire, &value, ebpf.UpdateExist)
	}
	return known("move", k, err)
}

// Delete implements Steering.
func (t *Table) Delete(k Key) (Use, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	wire, value := k.wire(), uint64(0)
	if err := known("delete", k, t.spis.LookupAndDelete(&wire, &value)); err != nil {
		return Use{}, err
	}
	slot := uint32(value & slotMask)
	used := t.read(slot, clock())
	t.free.put(slot)
	return used, nil
}

// Use implements Steering.
func (t *Table) Use(k Key) (Use, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	wire, value := k.wire(), uint64(0)
	if err := known("read", k, t.spis.Lookup(&wire, &value)); err != nil {
		return Use{}, err
	}
	return t.read(uint32(value&slotMask), clock()), nil
}

func known(verb string, k Key, err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		err = ErrUnknown
	}
	return fmt.Errorf("%s %s: %w", verb, k, err)
}

// Entries implements Steering.
func (t *Table) Entries(f func(Entry) bool) error {
	epoch := clock()
	return t.walk(func(w *wireKey, word uint64) bool {
		t.mu.Lock()
		used := t.read(uint32(word&slotMask), epoch)
		t.mu.Unlock()
		return f(Entry{Key: w.key(), Target: targetOf(word), Use: used})
	})
}

// walk reads the table in pieces of some thousand lines.
func (t *Table) walk(f func(*wireKey, uint64) bool) error {
	const piece = 4096
	keys, words := make([]wireKey, piece), make([]uint64, piece)
	var cursor ebpf.MapBatchCursor
	for {
		n, err := t.spis.BatchLookup(&cursor, keys, words, nil)
		if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("read table: %w", err)
		}
		for i := range n {
			if !f(&keys[i], words[i]) {
				return nil
			}
		}
		if err != nil {
			return nil
		}
	}
}

// Totals implements Steering.
func (t *Table) Totals() (Totals, error) {
	type perCPU struct{ Packets, Bytes [verdicts]uint64 }
	var all []perCPU
	if err := t.verdicts.Lookup(uint32(0), &all); err != nil {
		return Totals{}, fmt.Errorf("read totals: %w", err)
	}
	var sum Totals
	for _, one := range all {
		for v := range sum {
			sum[v].Packets += one.Packets[v]
			sum[v].Bytes += one.Bytes[v]
		}
	}
	return sum, nil
}

// clear sets a slot's counters to zero; no packet counts there.
func (t *Table) clear(slot uint32) {
	for i := int(slot); i < len(t.uses); i += t.slots {
		u := &t.uses[i]
		atomic.StoreUint64(&u.packets, 0)
		atomic.StoreUint64(&u.bytes, 0)
		atomic.StoreUint64(&u.last, 0)
	}
}

// read sums a slot's counters up while packets may be counted.
func (t *Table) read(slot uint32, epoch time.Time) Use {
	var sum Use
	var last uint64
	for i := int(slot); i < len(t.uses); i += t.slots {
		u := &t.uses[i]
		sum.Packets += atomic.LoadUint64(&u.packets)
		sum.Bytes += atomic.LoadUint64(&u.bytes)
		last = max(last, atomic.LoadUint64(&u.last))
	}
	if last != 0 {
		sum.Last = epoch.Add(time.Duration(last))
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
