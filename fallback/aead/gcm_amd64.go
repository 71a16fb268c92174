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
		if k, ok := gcmLevels[l]; ok {
			all = append(all, implementation{l.String(), true, supportsGCM, newGCMKernels(k)})
		}
	}
	implementations = append(all, implementations...)
}

// gcmKernels are one level's functions. Seal and open take n packets, of which
// they set OK; open keeps the key stream of packets that it has not verified
// yet in room bytes at side, or on the stack where side is nil.
type gcmKernels struct {
	seal func(k *gcmKey, pkts *Packet, n int)
	open func(k *gcmKey, pkts *Packet, n int, side *byte, room int)
}

var gcmLevels = map[accel.Level]gcmKernels{
	accel.LevelVAES512: {gcmSealVAES512, gcmOpenVAES512},
	accel.LevelVAES256: {gcmSealVAES256, gcmOpenVAES256},
	accel.LevelAESNI:   {gcmSealAESNI, gcmOpenAESNI},
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
	gcmKernels
	key  gcmKey
	side scratch
}

func newGCMKernels(kernels gcmKernels) func(s sa.Suite, k *sa.SA) (Cipher, error) {
	return func(s sa.Suite, k *sa.SA) (Cipher, error) {
		g := &gcmVector{gcmKernels: kernels}
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
	g.seal(&g.key, unsafe.SliceData(pkts), len(pkts))
}

func (g *gcmVector) Open(pkts []Packet) {
	if g.wiped() {
		refuse(pkts)
		return
	}
	first := 0
	for i := range pkts {
		n := len(pkts[i].Data)
		if n <= gcmStreamRoom {
			continue
		}
		g.open(&g.key, unsafe.SliceData(pkts[first:i]), i-first, nil, 0)
		room := g.side.room(n + 64)
		g.open(&g.key, &pkts[i], 1, &room[0], len(room))
		first = i + 1
	}
	g.open(&g.key, unsafe.SliceData(pkts[first:]), len(pkts)-first, nil, 0)
}
