// SPDX-License-Identifier: Apache-2.0

package xdp

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"
)

func emptyCore(room int) *core {
	g := shape(room)
	return newCore(g, make([]uint64, g.places()))
}

// Tables of all sizes take as many entries as they have room for, whatever
// their SPIs look like.
func TestShape(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	keys := map[string]func(i int) uint64{
		"random":     func(int) uint64 { return uint64(random.Uint32())<<spiShift | 1<<homeShift },
		"one by one": func(i int) uint64 { return uint64(i)<<spiShift | 1<<homeShift },
		"multiples":  func(i int) uint64 { return uint64(uint32(257*i))<<spiShift | 1<<homeShift },
		"many destinations": func(i int) uint64 {
			return uint64(i/100)<<spiShift | uint64(1+i%100)<<homeShift | uint64(i&1)<<keyShift
		},
	}
	for _, room := range []int{1, 2, 10, 100, 1000, 1 << 16, maxSPIs} {
		for name, key := range keys {
			if room > 1<<16 && (name != "random" || testing.Short()) {
				continue // these take long, and a level is a level
			}
			c := emptyCore(room)
			level := [tableLevels]int{}
			for i := 0; c.count < room; i++ {
				k := key(i)
				if _, there := c.find(k); there {
					continue
				}
				place, err := c.choose(k)
				if err != nil {
					t.Fatalf("%s: %d of %d: %v", name, c.count, room, err)
				}
				c.put(k, place)
				for l := range level {
					if place/bucketPlaces >= int(c.first[l]) && place/bucketPlaces < int(c.first[l]+c.buckets[l]) {
						level[l]++
					}
				}
			}
			if room == maxSPIs {
				t.Logf("%s: %.1f MB, entries on the levels %v of %v buckets", name, float64(c.places())*8/1e6, level, c.buckets)
			}
			if c.places() > room*2+200 {
				t.Errorf("room for %d has %d places", room, c.places())
			}
		}
	}
}

// check compares a table with what should be in it, as packets see it.
func (c *core) check(want map[uint64]bool, keys uint64) error {
	if c.count != len(want) {
		return fmt.Errorf("%d entries, want %d", c.count, len(want))
	}
	for i := range keys {
		key := testKey(i)
		if place, ok := c.find(key); ok != want[key] || ok && c.words[place]>>keyShift != key>>keyShift {
			return fmt.Errorf("key %#x: found %v at %d", key, ok, place)
		}
	}
	passed := make([]uint32, len(c.passed))
	for place, word := range c.words {
		if isEntry(word) {
			for level, hash := 0, mix(word>>keyShift<<keyShift); c.bucket(hash, level) != place/bucketPlaces; level++ {
				passed[c.bucket(hash, level)]++
			}
		}
	}
	for b, n := range passed {
		if last := c.words[b*bucketPlaces+bucketPlaces-1]; n != c.passed[b] || n > 0 && last == empty || n == 0 && last == vacant {
			return fmt.Errorf("bucket %d: %d entries went past it, counted %d, last word %#x", b, n, c.passed[b], last)
		}
	}
	return nil
}

func testKey(i uint64) uint64 { return i<<spiShift | 3<<homeShift }

// FuzzCore has a small table, whose buckets overflow all the time, changed at
// random: two octets are an operation and a key. After each change it must
// hold what a map holds, and look the same when it is taken over.
func FuzzCore(f *testing.F) {
	f.Add([]byte{0, 1, 0, 2, 1, 1, 2, 0, 0, 1})
	random := rand.New(rand.NewPCG(5, 6))
	long := make([]byte, 4000)
	for i := range long {
		long[i] = byte(random.Uint32())
	}
	f.Add(long)
	f.Fuzz(func(t *testing.T, operations []byte) {
		const keys = 256
		c := newCore(shape(1), make([]uint64, 4*4*bucketPlaces))
		want, gone := map[uint64]bool{}, []int{}
		for ; len(operations) >= 2; operations = operations[2:] {
			key := testKey(uint64(operations[1]) % keys)
			switch place, there := c.find(key); operations[0] % 4 {
			case 0, 1:
				if there {
					break
				}
				if place, err := c.choose(key); err == nil {
					if w := c.words[place]; w != empty && w != vacant {
						t.Fatalf("chose a place with %#x", w)
					}
					c.put(key|uint64(operations[0]), place)
					want[key] = true
				}
			case 2:
				if there {
					c.retire(place)
					gone = append(gone, place)
					delete(want, key)
				}
			case 3:
				for _, place := range gone {
					c.release(place)
				}
				gone = gone[:0]
			}
			if err := c.check(want, keys); err != nil {
				t.Fatal(err)
			}
		}
		c = newCore(c.geometry, c.words)
		if err := c.check(want, keys); err != nil {
			t.Fatalf("taken over: %v", err)
		}
	})
}

// FuzzHomes has destinations come and go in a table of signposts that has
// little room.
func FuzzHomes(f *testing.F) {
	random := rand.New(rand.NewPCG(7, 8))
	long := make([]byte, 4000)
	for i := range long {
		long[i] = byte(random.Uint32())
	}
	f.Add(long)
	f.Fuzz(func(t *testing.T, operations []byte) {
		const room = 32
		h := newHomes(make([]uint64, 64), make([]home, room+1))
		want := map[home]uint64{}
		for ; len(operations) >= 2; operations = operations[2:] {
			to := home{1, uint64(binary.LittleEndian.Uint16(operations)) >> 2 % 100}
			number := h.find(to)
			if number != want[to] {
				t.Fatalf("%v is %d, want %d", to, number, want[to])
			}
			switch operations[0] % 4 {
			case 0, 1:
				if number != 0 {
					h.entries[number]++
				} else if number, err := h.add(to); err == nil {
					for other, its := range want {
						if its == number {
							t.Fatalf("%v has the number of %v", to, other)
						}
					}
					want[to] = number
					h.entries[number]++
				} else if len(want) < room/2 {
					t.Fatalf("%d destinations: %v", len(want), err)
				}
			case 2:
				if number != 0 && h.entries[number] > 0 {
					h.entries[number]--
				}
			case 3:
				idle := h.removeIdle()
				for to, number := range want {
					if h.entries[number] == 0 {
						delete(want, to)
					}
				}
				h.free = append(h.free, idle...)
				if len(h.free)+len(want) != room {
					t.Fatalf("%d numbers are free and %d used, of %d", len(h.free), len(want), room)
				}
			}
			for to, number := range want {
				if got := h.find(to); got != number {
					t.Fatalf("%v is %d, want %d", to, got, number)
				}
			}
		}
	})
}

// A CPU that is stopped while it moves its recent uses holds nobody up, and no
// counter falls below zero for it.
func TestUseOfStoppedCPU(t *testing.T) {
	c := counters{places: 4, uses: make([]use, 3*4), tallies: make([]tally, 2)}
	const place = 2
	c.uses[1*4+place] = use{packets: 5, bytes: 500, last: 1000}
	c.uses[2*4+place] = use{packets: 1, bytes: 100, last: 3000}
	cpu := &c.tallies[0]
	cpu.moves, cpu.waiting = 7, 2 // one of them is in the row, and not yet gone from here
	cpu.recent[0].place, cpu.recent[0].packets, cpu.recent[0].bytes = place, 2, 200
	cpu.recent[1].place, cpu.recent[1].packets = place+1, 9
	c.begin(place)
	if got := c.uses[place]; got.packets != 8 || got.bytes != 800 {
		t.Errorf("begins at %+v", got)
	}
	cpu.moves, cpu.waiting = 8, 0
	if got := c.read(place, time.Time{}); got != (Use{}) {
		t.Errorf("unused, and counted %+v", got)
	}
	c.uses[2*4+place] = use{packets: 4, bytes: 400, last: 9000}
	if got, want := c.read(place, time.Time{}), (Use{1, 100, time.Time{}.Add(9000)}); got != want {
		t.Errorf("counted %+v, want %+v", got, want)
	}
}

func TestHomeAddress(t *testing.T) {
	for _, text := range []string{"192.0.2.1", "2001:db8::1", "::1", "0.0.0.0", "fe80::1%eth0"} {
		a := netip.MustParseAddr(text)
		if got := homeOf(a).addr(); got != a.WithZone("") {
			t.Errorf("%s became %s", a, got)
		}
	}
}
