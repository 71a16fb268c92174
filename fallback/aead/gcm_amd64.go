// SPDX-License-Identifier: Apache-2.0

//go:build !purego

package aead

import (
	"encoding/binary"
	"unsafe"

	"quicksand/accel"
	"quicksand/sa"
)

//go:generate go run -C _asm ./gcm -dir ..

func init() {
	var all []implementation
	for _, l := range accel.Detect().Levels() {
		if l != accel.LevelGeneric {
			all = append(all, implementation{l.String(), true, supportsGCM, newGCMKernels(l)})
		}
	}
	implementations = append(all, implementations...)
}

// sealGCM and openGCM run a level's kernel over n packets, of which it sets OK.
// The first packet's key is the one that keys points to, and the next one's is
// step bytes on: 0 where all are of one SA, as they have to be at VAES-512, which
// does four packets together. openGCM keeps the key stream of a packet that is not
// verified yet in room bytes at side, or on the stack where side is nil.
//
// They are no table of functions, through which what is on the caller's stack would
// go to the heap.
func sealGCM(l accel.Level, keys **gcmKey, step int, pkts *Packet, n int) {
	switch l {
	case accel.LevelVAES512:
		gcmSealVAES512(*keys, pkts, n)
	case accel.LevelVAES256:
		gcmSealVAES256(keys, step, pkts, n)
	default:
		gcmSealAESNI(keys, step, pkts, n)
	}
}

func openGCM(l accel.Level, keys **gcmKey, step int, pkts *Packet, n int, side *byte, room int) {
	switch l {
	case accel.LevelVAES512:
		gcmOpenVAES512(*keys, pkts, n, side, room)
	case accel.LevelVAES256:
		gcmOpenVAES256(keys, step, pkts, n, side, room)
	default:
		gcmOpenAESNI(keys, step, pkts, n, side, room)
	}
}

func supportsGCM(s sa.Suite) bool { return s.Encryption.AEAD() }

const (
	// gcmPowersLen is the number of the hash key's powers: 96 blocks are hashed
	// with one reduction, with room for the additional data and the lengths.
	gcmPowersLen = 98
	// gcmStreamRoom is the longest payload, in bytes, whose key stream the
	// kernels keep on the stack; the generator calls it streamRoom.
	gcmStreamRoom = 8704
)

// gcmKey is what the kernels need of an SA. Their generator knows the layout.
type gcmKey struct {
	rounds     uint64
	icv        uint64   // bytes
	base       [16]byte // salt, with the first round key added over the block
	aadShuffle [16]byte // header and sequence number to additional data, last byte first
	lengths    [2]uint64
	tagShuffle [16]byte // moves the ICV's bytes to the end
	tagMask    [16]byte // selects them there
	counters   *[256][16]byte
	_          uint64
	roundKeys  [15][aesBlock]byte
	// powers of the hash key times x, highest first, each as the kernels
	// multiply with it, and as many zeros as a vector reads too far.
	powers [gcmPowersLen + 3][16]byte
}

// The offsets that the kernels' generator counts on: an index that is not 0
// does not compile.
var (
	_ = [1]int{}[unsafe.Offsetof(gcmKey{}.icv)-8]
	_ = [1]int{}[unsafe.Offsetof(gcmKey{}.base)-16]
	_ = [1]int{}[unsafe.Offsetof(gcmKey{}.aadShuffle)-32]
	_ = [1]int{}[unsafe.Offsetof(gcmKey{}.lengths)-48]
	_ = [1]int{}[unsafe.Offsetof(gcmKey{}.tagShuffle)-64]
	_ = [1]int{}[unsafe.Offsetof(gcmKey{}.tagMask)-80]
	_ = [1]int{}[unsafe.Offsetof(gcmKey{}.counters)-96]
	_ = [1]int{}[unsafe.Offsetof(gcmKey{}.roundKeys)-112]
	_ = [1]int{}[unsafe.Offsetof(gcmKey{}.powers)-352]
	_ = [1]int{}[unsafe.Offsetof(Packet{}.Data)-0]
	_ = [1]int{}[unsafe.Offsetof(Packet{}.Seq)-24]
	_ = [1]int{}[unsafe.Offsetof(Packet{}.OK)-32]
	_ = [1]int{}[unsafe.Sizeof(Packet{})-40]
)

// gcmCounters are the counters from 2, which a payload begins with, as they
// are added to the nonce's block: the lowest byte only.
var gcmCounters = func() *[256][16]byte {
	c := new([256][16]byte)
	for i := range c {
		c[i][15] = byte(i + 2)
	}
	return c
}()

// gcmVector is AES-GCM by one of the kernels.
type gcmVector struct {
	level accel.Level
	key   gcmKey
	side  scratch
}

func newGCMKernels(l accel.Level) func(s sa.Suite, k *sa.SA) (Cipher, error) {
	return func(s sa.Suite, k *sa.SA) (Cipher, error) {
		g := &gcmVector{level: l}
		n := int(s.KeyBits) / 8
		g.key.init(k.EncryptionKey[:n], k.EncryptionKey[n:], s.Encryption.TagLen(), s.ESN)
		return g, nil
	}
}

func (k *gcmKey) init(key, salt []byte, icv int, esn bool) {
	expanded := newAESKey(key)
	defer func() { *expanded = aesKey{} }()
	k.rounds, k.icv, k.counters = uint64(expanded.rounds), uint64(icv), gcmCounters
	k.roundKeys = expanded.enc
	k.base = expanded.enc[0]
	for i := range salt {
		k.base[i] ^= salt[i]
	}
	// The source is SPI, low half of the sequence number, and the sequence
	// number in the machine's order.
	aad := []byte{0, 1, 2, 3, 4, 5, 6, 7}
	if esn {
		aad = []byte{0, 1, 2, 3, 15, 14, 13, 12, 4, 5, 6, 7}
	}
	for i := range k.aadShuffle {
		k.aadShuffle[i] = 0x80 // zero
	}
	for i, from := range aad {
		k.aadShuffle[15-i] = from
	}
	k.lengths[1] = uint64(len(aad)) * 8
	for i := range icv {
		k.tagShuffle[16-icv+i] = byte(i)
		k.tagMask[16-icv+i] = 0xff
	}
	h := expanded.encryptZero()
	k.setPowers(&h)
	clear(h[:])
}

// setPowers makes the powers of the hash key. Each is multiplied by x, so that
// the product of two numbers with their bits in reverse, which is one bit
// short, is in place.
func (k *gcmKey) setPowers(h *[16]byte) {
	high, low := binary.BigEndian.Uint64(h[:]), binary.BigEndian.Uint64(h[8:])
	carry := -(high >> 63)
	high = high<<1 | low>>63
	low <<= 1
	high ^= carry & (0xc2 << 56)
	low ^= carry & 1
	first := k.powers[gcmPowersLen-1][:]
	binary.LittleEndian.PutUint64(first, low)
	binary.LittleEndian.PutUint64(first[8:], high)
	gcmPowers(k)
}

func (g *gcmVector) IVLen() int    { return gcmIVLen }
func (g *gcmVector) ICVLen() int   { return int(g.key.icv) }
func (g *gcmVector) BlockLen() int { return 1 }

// wiped is also what a key looks like that was never set.
func (g *gcmVector) wiped() bool { return g.key.rounds == 0 }

func (g *gcmVector) Wipe() {
	clear(g.side)
	g.key, g.side = gcmKey{}, nil
}

func (g *gcmVector) Seal(pkts []Packet) {
	if g.wiped() {
		refuse(pkts)
		return
	}
	key := &g.key
	sealGCM(g.level, &key, 0, unsafe.SliceData(pkts), len(pkts))
}

func (g *gcmVector) Open(pkts []Packet) {
	if g.wiped() {
		refuse(pkts)
		return
	}
	key := &g.key
	first := 0
	for i := range pkts {
		if len(pkts[i].Data) <= gcmStreamRoom {
			continue
		}
		openGCM(g.level, &key, 0, unsafe.SliceData(pkts[first:i]), i-first, nil, 0)
		g.openLong(&pkts[i])
		first = i + 1
	}
	openGCM(g.level, &key, 0, unsafe.SliceData(pkts[first:]), len(pkts)-first, nil, 0)
}

// openLong opens a packet whose key stream does not fit the stack.
func (g *gcmVector) openLong(p *Packet) {
	key := &g.key
	room := g.side.room(len(p.Data) + 64)
	openGCM(g.level, &key, 0, p, 1, &room[0], len(room))
}

// mixes reports whether a packet of this SA can go through one kernel together
// with those of another.
func (g *gcmVector) mixes(p *Packet) bool {
	return g.level != accel.LevelVAES512 && !g.wiped() && len(p.Data) <= gcmStreamRoom
}

// sealMixed seals the packets at the front that a kernel can take together, and
// returns how many those are: 0 where the first is not among them.
func sealMixed(ciphers []Cipher, pkts []Packet) int {
	var keys [mixedMost]*gcmKey
	level, n := gatherKeys(&keys, ciphers, pkts)
	if n == 0 {
		return mixedCBC(ciphers, pkts, true)
	}
	sealGCM(level, &keys[0], int(unsafe.Sizeof(keys[0])), unsafe.SliceData(pkts), n)
	return n
}

// openMixed is sealMixed for opening.
func openMixed(ciphers []Cipher, pkts []Packet) int {
	var keys [mixedMost]*gcmKey
	level, n := gatherKeys(&keys, ciphers, pkts)
	if n == 0 {
		return mixedCBC(ciphers, pkts, false)
	}
	openGCM(level, &keys[0], int(unsafe.Sizeof(keys[0])), unsafe.SliceData(pkts), n, nil, 0)
	return n
}

func gatherKeys(keys *[mixedMost]*gcmKey, ciphers []Cipher, pkts []Packet) (level accel.Level, n int) {
	for n < min(len(pkts), len(keys)) {
		g, ok := ciphers[n].(*gcmVector)
		if !ok || !g.mixes(&pkts[n]) || n > 0 && g.level != level {
			break
		}
		level = g.level
		keys[n] = &g.key
		n++
	}
	return level, n
}
