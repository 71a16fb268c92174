// SPDX-License-Identifier: Apache-2.0

package xdp

import (
	"errors"
	"math/bits"
	"sync/atomic"
)

// The layout of bpf/steer.h, which says what each means.
const (
	layoutVersion = 2
	bucketPlaces  = 8
	tableLevels   = 4
	hasFloor      = 1 << 13
	actionShift   = 14
	ahBit         = 1 << 17
	keyShift      = 17
	homeShift     = 18
	spiShift      = 32
	maxTarget     = 1<<13 - 1
	maxHomes      = 1<<14 - 1
)

// Words that are no entry.
const (
	empty   = 0 // never or no longer used
	retired = 1 // deleted; a packet that is under way may still have seen it
	vacant  = 2 // free, but others went past it to the next level
)

// bucketFill is how many entries a bucket of the first level has, on average,
// in a full table. More would make the table denser in the CPU's cache, and
// more packets look at two levels.
const bucketFill = 6

// geometry says where each level's buckets begin, and how many there are.
type geometry struct {
	first, buckets [tableLevels]uint32
}

// shape returns the geometry of a table with room for so many entries. Each
// level has more than twice the room for what the one above is expected to pass
// on, so that the last has none to take (TestShape).
func shape(room int) geometry {
	var g geometry
	n := uint32(0)
	for level, share := range [tableLevels]int{1, 12, 12 * 16, 12 * 16 * 8} {
		g.first[level] = n
		g.buckets[level] = uint32(room/(bucketFill*share)) + 4
		n += g.buckets[level]
	}
	return g
}

func (g *geometry) places() int {
	const last = tableLevels - 1
	return int(g.first[last]+g.buckets[last]) * bucketPlaces
}

// mix is the function of that name in bpf/table.h.
func mix(x uint64) uint64 {
	x ^= x >> 32
	x *= mix1
	x ^= x >> 29
	x *= mix2
	return x ^ x>>32
}

const (
	mix1 = 0x9e3779b97f4a7c15
	mix2 = 0xbf58476d1ce4e5b9
)

// bucket returns the number of a key's bucket on a level.
func (g *geometry) bucket(hash uint64, level int) int {
	shift := [tableLevels]int{32, 0, 16, 8}[level]
	at, _ := bits.Mul64(uint64(uint32(hash>>shift))<<32, uint64(g.buckets[level]))
	return int(g.first[level]) + int(at)
}

// errNoPlace is returned when all buckets of an SPI are full.
var errNoPlace = errors.New("no place in the table")

// core is the table of SPIs in the memory that the program reads. Keys and
// entries are words as in bpf/steer.h. It is not safe for concurrent use;
// packets may read meanwhile.
type core struct {
	geometry
	words []uint64 // of all levels' buckets

	passed []uint32 // for each bucket: entries that went past it, as it was full
	count  int      // entries
}

// newCore takes over what is in the memory. No packet may be under way that
// saw a word which was retired.
func newCore(g geometry, words []uint64) *core {
	c := &core{geometry: g, words: words, passed: make([]uint32, len(words)/bucketPlaces)}
	for place, word := range words {
		if !isEntry(word) {
			continue
		}
		c.count++
		c.pass(word, place, 1)
	}
	for place, word := range words {
		if word != empty && !isEntry(word) {
			c.release(place)
		}
	}
	return c
}

// isEntry says whether a word is one.
func isEntry(word uint64) bool { return word>>homeShift&maxHomes != 0 }

// find returns the place of the entry with the key.
func (c *core) find(key uint64) (place int, ok bool) {
	hash := mix(key)
	for level := range tableLevels {
		first := c.bucket(hash, level) * bucketPlaces
		bucket := c.words[first : first+bucketPlaces]
		for i, word := range bucket {
			if (word^key)>>keyShift == 0 {
				return first + i, true
			}
		}
		if bucket[bucketPlaces-1] == empty {
			break
		}
	}
	return 0, false
}

// choose returns a free place for a key that the table does not have.
func (c *core) choose(key uint64) (place int, err error) {
	hash := mix(key)
	for level := range tableLevels {
		first := c.bucket(hash, level) * bucketPlaces
		for place := first; place < first+bucketPlaces; place++ {
			if w := c.words[place]; w == empty || w == vacant {
				return place, nil
			}
		}
	}
	return 0, errNoPlace
}

// put writes an entry to the place that was chosen for it.
func (c *core) put(word uint64, place int) {
	c.pass(word, place, 1)
	c.count++
	c.store(place, word)
}

// retire takes an entry away, whose place is released later.
func (c *core) retire(place int) {
	word := c.words[place]
	c.store(place, retired)
	c.count--
	c.pass(word, place, -1)
}

// release makes the place of an entry that was retired free. No packet may be
// under way that saw the entry.
func (c *core) release(place int) {
	free := uint64(empty)
	if place%bucketPlaces == bucketPlaces-1 && c.passed[place/bucketPlaces] > 0 {
		free = vacant
	}
	c.store(place, free)
}

// pass counts an entry at the buckets above its own. The last word of a bucket
// that none passes any more tells packets to search no further.
func (c *core) pass(word uint64, place, by int) {
	hash := mix(word &^ (1<<keyShift - 1))
	for level := range tableLevels {
		bucket := c.bucket(hash, level)
		if bucket == place/bucketPlaces {
			return
		}
		c.passed[bucket] += uint32(by)
		if last := bucket*bucketPlaces + bucketPlaces - 1; c.passed[bucket] == 0 && c.words[last] == vacant {
			c.store(last, empty)
		}
	}
}

// store changes a word as packets see it: at once, and after what was stored
// before.
func (c *core) store(place int, word uint64) { atomic.StoreUint64(&c.words[place], word) }
