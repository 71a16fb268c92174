// SPDX-License-Identifier: Apache-2.0

package xdp

import (
	"errors"
	"fmt"
	"sync"
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

// Table is the table of SPIs in the kernel. Changing it takes no system call:
// it is memory that the program reads, changed word by word.
type Table struct {
	room   int
	maps   [][]byte
	waiter *waiter
	grace  func() error // waits until no packet is under way that is now

	mu       sync.Mutex // guards what follows, and changes of the memory
	core     *core
	homes    *homes
	counters *counters
	retired  []int // places to be released after a grace period
	// releasing is closed when the places that were taken from retired are
	// free; nil if none were.
	releasing chan struct{}
	closed    bool
}

// openMemory maps a map's values. T is the type of them.
func openMemory[T any](t *Table, m *ebpf.Map, perValue int) ([]T, error) {
	each := int(unsafe.Sizeof(*new(T)))
	if int(m.ValueSize()) != perValue*each {
		return nil, fmt.Errorf("map memory of %v: values of %d octets, want %d", m, m.ValueSize(), perValue*each)
	}
	n := int(m.MaxEntries()) * perValue
	size := n * each
	memory, err := unix.Mmap(m.FD(), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map memory of %v: %w", m, err)
	}
	t.maps = append(t.maps, memory)
	return unsafe.Slice((*T)(unsafe.Pointer(&memory[0])), n), nil
}

func newTable(o *bpf.SteerObjects, room int) (*Table, error) {
	w, err := newWaiter()
	if err != nil {
		return nil, err
	}
	t := &Table{room: room, waiter: w, grace: w.wait}
	if err := t.open(o); err != nil {
		return nil, errors.Join(err, t.close())
	}
	return t, nil
}

// open maps the memory and takes over what is in it.
func (t *Table) open(o *bpf.SteerObjects) error {
	words, err := openMemory[uint64](t, o.Buckets, bucketPlaces)
	if err != nil {
		return err
	}
	signposts, err := openMemory[uint64](t, o.Signposts, 1)
	if err != nil {
		return err
	}
	addresses, err := openMemory[home](t, o.Homes, 1)
	if err != nil {
		return err
	}
	uses, err := openMemory[use](t, o.Uses, 1)
	if err != nil {
		return err
	}
	tallies, err := openMemory[tally](t, o.Tallies, 1)
	if err != nil {
		return err
	}
	// The process before may have deleted entries that packets still see.
	if err := t.grace(); err != nil {
		return err
	}
	t.core = newCore(shape(t.room), words)
	t.homes = newHomes(signposts, addresses)
	t.counters = &counters{places: len(words), uses: uses, tallies: tallies}
	for _, word := range words {
		if isEntry(word) {
			t.homes.entries[word>>homeShift&maxHomes]++
		}
	}
	return nil
}

func (t *Table) close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return nil
	}
	t.closed = true
	t.await()
	errs := []error{t.waiter.close()}
	for _, m := range t.maps {
		errs = append(errs, unix.Munmap(m))
	}
	t.maps = nil
	return errors.Join(errs...)
}

// lock locks the table unless it is closed.
func (t *Table) lock(verb string, k Key) error {
	t.mu.Lock()
	if t.closed {
		t.mu.Unlock()
		return fmt.Errorf("%s %s: table is closed", verb, k)
	}
	return nil
}

func checkTarget(t Target) error {
	if t.Action < Pass || t.Action > ToDevice || t.Action < ToSocket && t.Number != 0 || t.Number > maxTarget {
		return fmt.Errorf("no such target: action %d, number %d", t.Action, t.Number)
	}
	return nil
}

func checkKey(k Key) error {
	switch {
	case !k.Destination.IsValid():
		return errors.New("no destination")
	case k.Protocol != sa.ESP && k.Protocol != sa.AH:
		return fmt.Errorf("protocol %d is neither ESP nor AH", k.Protocol)
	}
	return nil
}

// keyWord is the part of an entry that finds it.
func keyWord(k Key, home uint64) uint64 {
	word := uint64(k.SPI)<<spiShift | home<<homeShift
	if k.Protocol == sa.AH {
		word |= ahBit
	}
	return word
}

func targetWord(t Target) uint64 {
	return uint64(t.Action)<<actionShift | uint64(t.Number)
}

func (t *Table) entry(word uint64) (Key, Target) {
	k := Key{
		Destination: t.homes.homes[word>>homeShift&maxHomes].addr(),
		SPI:         sa.SPI(word >> spiShift),
		Protocol:    sa.ESP,
	}
	if word&ahBit != 0 {
		k.Protocol = sa.AH
	}
	return k, Target{Action: Action(word >> actionShift & 7), Number: uint16(word & maxTarget)}
}

// find returns the place of a key's entry.
func (t *Table) find(k Key) (int, bool) {
	if checkKey(k) != nil {
		return 0, false
	}
	number := t.homes.find(homeOf(k.Destination))
	if number == 0 {
		return 0, false
	}
	return t.core.find(keyWord(k, number))
}

// Insert implements Steering.
func (t *Table) Insert(k Key, to Target) error {
	err := errors.Join(checkKey(k), checkTarget(to))
	if err != nil {
		return fmt.Errorf("insert %s: %w", k, err)
	}
	if err := t.lock("insert", k); err != nil {
		return err
	}
	defer t.mu.Unlock()
	for {
		err = t.insert(k, to)
		if !errors.Is(err, errNoPlace) && !errors.Is(err, errNoHome) {
			break
		}
		if again, e := t.reclaim(errors.Is(err, errNoHome)); !again {
			err = fmt.Errorf("%w: %w", ErrFull, errors.Join(err, e))
			break
		}
	}
	if err != nil {
		return fmt.Errorf("insert %s: %w", k, err)
	}
	return nil
}

func (t *Table) insert(k Key, to Target) error {
	address := homeOf(k.Destination)
	number := t.homes.find(address)
	if number != 0 {
		if _, ok := t.core.find(keyWord(k, number)); ok {
			return ErrExists
		}
	}
	if t.core.count >= t.room {
		return ErrFull
	}
	if number == 0 {
		var err error
		if number, err = t.homes.add(address); err != nil {
			return err
		}
	}
	key := keyWord(k, number)
	place, err := t.core.choose(key)
	if err != nil {
		return err
	}
	t.counters.begin(place)
	t.core.put(key|targetWord(to), place)
	t.homes.entries[number]++
	return nil
}

// Move implements Steering.
func (t *Table) Move(k Key, to Target) error {
	if err := checkTarget(to); err != nil {
		return fmt.Errorf("move %s: %w", k, err)
	}
	if err := t.lock("move", k); err != nil {
		return err
	}
	defer t.mu.Unlock()
	place, ok := t.find(k)
	if !ok {
		return fmt.Errorf("move %s: %w", k, ErrUnknown)
	}
	word := t.core.words[place]
	t.core.store(place, word>>keyShift<<keyShift|word&hasFloor|targetWord(to))
	return nil
}

// SetFloor has the program drop the SPI's packets whose sequence number is
// below, which are left of the replay window and could only be refused after
// they were looked at (RFC 4303 section 3.4.3). Without it none are dropped.
//
// The window moves to the right only, so a floor that is behind it lets more
// through and is never wrong; one that is lower than what was set changes
// nothing. It is not for extended sequence numbers, of which packets show the
// low half only: whether a low one is old or of the next round is for the
// window to say.
func (t *Table) SetFloor(k Key, sequence uint32) error {
	if err := t.lock("set floor of", k); err != nil {
		return err
	}
	defer t.mu.Unlock()
	place, ok := t.find(k)
	if !ok {
		return fmt.Errorf("set floor of %s: %w", k, ErrUnknown)
	}
	t.counters.setFloor(place, max(uint64(sequence), t.counters.floor(place)))
	if word := t.core.words[place]; word&hasFloor == 0 {
		t.core.store(place, word|hasFloor)
	}
	return nil
}

// Delete implements Steering.
func (t *Table) Delete(k Key) (Use, error) {
	if err := t.lock("delete", k); err != nil {
		return Use{}, err
	}
	defer t.mu.Unlock()
	place, ok := t.find(k)
	if !ok {
		return Use{}, fmt.Errorf("delete %s: %w", k, ErrUnknown)
	}
	t.retire(place)
	return t.counters.read(place, clock()), nil
}

// Use implements Steering.
func (t *Table) Use(k Key) (Use, error) {
	if err := t.lock("read", k); err != nil {
		return Use{}, err
	}
	defer t.mu.Unlock()
	place, ok := t.find(k)
	if !ok {
		return Use{}, fmt.Errorf("read %s: %w", k, ErrUnknown)
	}
	return t.counters.read(place, clock()), nil
}

// Entries implements Steering.
func (t *Table) Entries(f func(Entry) bool) error {
	const piece = 4096
	epoch := clock()
	var entries []Entry
	for first := 0; ; first += piece {
		entries = entries[:0]
		t.mu.Lock()
		if t.closed {
			t.mu.Unlock()
			return errors.New("read table: table is closed")
		}
		end := len(t.core.words)
		for place := first; place < min(first+piece, end); place++ {
			if word := t.core.words[place]; isEntry(word) {
				k, to := t.entry(word)
				entries = append(entries, Entry{Key: k, Target: to, Use: t.counters.read(place, epoch)})
			}
		}
		t.mu.Unlock()
		for _, e := range entries {
			if !f(e) {
				return nil
			}
		}
		if first+piece >= end {
			return nil
		}
	}
}

// Totals implements Steering.
func (t *Table) Totals() (Totals, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return Totals{}, errors.New("read totals: table is closed")
	}
	return t.counters.totals(), nil
}
