// SPDX-License-Identifier: Apache-2.0

//go:build amd64 && !purego

package modexp

import (
	"encoding/binary"
	"math/big"
	"math/bits"

	"quicksand/accel/modexp/internal/words"
)

const (
	limbBits = 52
	maxWords = 1024/8 + 1
)

// limbsFor returns how many limbs hold 4p for a p of size bytes: numbers are
// below 2p between operations, and a product is then below 2p again.
func limbsFor(size int) int { return (8*size + 2 + limbBits - 1) / limbBits }

// shape says how a number lies in memory.
type shape struct {
	size  int           // bytes of p
	limbs int           // of a number
	bits  int           // of a limb
	p     []uint64      // 64-bit words of p, the lowest first
	at    func(int) int // word of a limb, in the first lane
}

func newShape(p *big.Int, limbs, bits int, at func(int) int) shape {
	s := shape{size: p.BitLen() / 8, limbs: limbs, bits: bits, p: make([]uint64, p.BitLen()/64), at: at}
	b := p.Bytes()
	for i := range s.p {
		s.p[i] = binary.BigEndian.Uint64(b[len(b)-8*(i+1):])
	}
	return s
}

// mask is ones as long as a limb.
func (s *shape) mask() uint64 { return 1<<s.bits - 1 }

// number cuts a public number into limbs.
func (s *shape) number(x *big.Int) []uint64 {
	limbs := words.Aligned(s.limbs)
	rest, mask := new(big.Int).Set(x), new(big.Int).SetUint64(s.mask())
	for i := range limbs {
		limbs[s.at(i)] = new(big.Int).And(rest, mask).Uint64()
		rest.Rsh(rest, uint(s.bits))
	}
	return limbs
}

// load cuts a big-endian number of the modulus's length into a lane's limbs.
func (s *shape) load(limbs []uint64, lane int, b []byte) {
	var wide [maxWords]uint64
	n := s.size / 8
	for i := range n {
		wide[i] = binary.BigEndian.Uint64(b[s.size-8*(i+1):])
	}
	for i := range s.limbs {
		word, shift := i*s.bits/64, i*s.bits%64
		var limb uint64
		if word < n {
			limb = (wide[word]>>shift | wide[word+1]<<(64-shift)) & s.mask()
		}
		limbs[s.at(i)+lane] = limb
	}
	clear(wide[:])
}

// store writes a lane, which is below 2p, reduced to below p.
func (s *shape) store(b []byte, limbs []uint64, lane int) {
	var wide, less [maxWords]uint64
	n := s.size / 8
	for i := range s.limbs {
		word, shift := i*s.bits/64, i*s.bits%64
		if word > n {
			break // 2p has one bit more than p, so the rest is zero
		}
		limb := limbs[s.at(i)+lane]
		wide[word] |= limb << shift
		if shift > 64-s.bits && word < n {
			wide[word+1] |= limb >> (64 - shift)
		}
	}
	var borrow uint64
	for i := range n {
		less[i], borrow = bits.Sub64(wide[i], s.p[i], borrow)
	}
	_, borrow = bits.Sub64(wide[n], 0, borrow)
	keep := -borrow // all ones where the number was below p
	for i := range n {
		binary.BigEndian.PutUint64(b[s.size-8*(i+1):], wide[i]&keep|less[i]&^keep)
	}
	clear(wide[:])
	clear(less[:])
}

// two returns the base 2 as a number of the modulus's length.
func (s *shape) two() []byte {
	b := make([]byte, s.size)
	b[s.size-1] = 2
	return b
}

// nibble returns four bits of a big-endian number, the i-th from below.
func nibble(x []byte, i int) uint64 {
	if i/2 >= len(x) {
		return 0
	}
	return uint64(x[len(x)-1-i/2]>>(4*(i%2))) & 15
}
