// SPDX-License-Identifier: Apache-2.0

//go:build !purego

package aead

import (
	"crypto/subtle"
	"encoding/binary"
	"fmt"
	"hash"
	"unsafe"

	"quicksand/sa"
)

// An hmacKernel makes HMACs in lanes. A block in every lane costs as much as
// cost/10 blocks one after the other: ni by the CPU's instructions for the hash,
// plain by the standard library.
type hmacKernel struct {
	word, lanes int // bytes; how many words a register holds
	all         func(l *hmacLanes, inner, outer *hmacStart, blocks int, icvs *[32]byte)
	ni, plain   int
	own         bool // each lane begins with states of its own
}

// hmacKernels are the kernels by the width of registers in bits.
var hmacKernels = map[int]map[sa.Integrity]hmacKernel{
	512: {
		sa.HMACSHA1:   {4, 16, hmacSHA1Lanes, 40, 20, false},
		sa.HMACSHA256: {4, 16, hmacSHA256Lanes, 87, 18, false},
		sa.HMACSHA384: {8, 8, hmacSHA384Lanes, 0, 16, false},
		sa.HMACSHA512: {8, 8, hmacSHA512Lanes, 0, 16, false},
	},
	256: {
		sa.HMACSHA1:   {4, 8, hmacSHA1AVX2, 49, 25, true},
		sa.HMACSHA256: {4, 8, hmacSHA256AVX2, 117, 24, true},
	},
}

// blockFunctions are those of the CPU's instructions for a hash, for one
// message and for two.
type blockFunctions struct {
	one func(state *hmacState, p unsafe.Pointer, blocks int)
	two func(state0 *hmacState, p0 unsafe.Pointer, state1 *hmacState, p1 unsafe.Pointer, blocks int)
}

var hmacNI = map[sa.Integrity]blockFunctions{
	sa.HMACSHA1:   {sha1NI, sha1NIPair},
	sa.HMACSHA256: {sha256NI, sha256NIPair},
}

// hmacState is the state of a hash function, in words of the CPU's byte order.
type hmacState [64]byte

// hmacStart is the states that the lanes begin with: a single one for all of them,
// or a word of every lane after the other.
type hmacStart [256]byte

// set is the state that a lane of its own begins with.
func (s *hmacStart) set(lane int, state *hmacState) {
	for i := range 8 {
		*(*[4]byte)(s[32*i+4*lane:]) = [4]byte(state[4*i:])
	}
}

// fill is the state that all lanes begin with.
func (s *hmacStart) fill(state *hmacState, k *hmacKernel) {
	if !k.own {
		copy(s[:], state[:])
		return
	}
	for lane := range k.lanes {
		s.set(lane, state)
	}
}

// hmacLanes is what the kernels read: for each message its whole blocks and,
// aside, its padded rest, with how many blocks are the one and how many both.
// The hash's state is a word of every lane after the other. The assembly knows
// the layout, and moves data.
type hmacLanes struct {
	data, tail   [groupSize]unsafe.Pointer
	whole, total [groupSize]uint32
	state        [8][64]byte
}

// hmacBatch makes the truncated HMACs of a group of packets.
type hmacBatch struct {
	hash         sa.Integrity
	kernel       hmacKernel     // none: not in lanes
	block        blockFunctions // none: the CPU has no instructions for this hash
	cost         int            // of a block in every lane
	esn          bool
	icv          int
	inner, outer hmacState     // behind the padded key
	starts       [2]hmacStart  // the same for kernel
	own          *[2]hmacStart // in place of starts while packets of other SAs are among those at work
	mac          *MAC          // in place of block
	lanes        hmacLanes
	tails        [groupSize][256]byte
	states       [2]hmacState
	icvs         [2 * groupSize][32]byte // a kernel writes those of all its lanes
}

func (m *hmacBatch) init(i sa.Integrity, key []byte, esn bool, use kernels) error {
	m.hash, m.esn, m.icv = i, esn, i.ICVLen()
	m.kernel = hmacKernels[use.vector][i]
	if use.ni {
		m.block = hmacNI[i]
	}
	m.cost = m.costOf(&m.kernel)
	if m.block.one != nil {
		m.kernel.word = 4
	} else {
		var err error
		if m.mac, err = newMAC(i, key); err != nil {
			return fmt.Errorf("make HMAC: %w", err)
		}
	}
	if m.kernel.word == 0 {
		return nil
	}
	for state, pad := range map[*hmacState]byte{&m.inner: innerPad, &m.outer: outerPad} {
		if err := state.start(hashes[i](), key, pad, m.kernel.word); err != nil {
			return fmt.Errorf("make HMAC: %w", err)
		}
	}
	m.starts[0].fill(&m.inner, &m.kernel)
	m.starts[1].fill(&m.outer, &m.kernel)
	return nil
}

// costOf is what a block in every lane of a kernel costs here.
func (m *hmacBatch) costOf(k *hmacKernel) int {
	if m.block.one != nil {
		return k.ni
	}
	return k.plain
}

// start is the state of the hash behind the padded key: the standard library gives
// it away behind a mark of four bytes.
func (s *hmacState) start(h hash.Hash, key []byte, pad byte, word int) error {
	b, err := padState(h, key, pad)
	if err != nil {
		return err
	}
	const mark = 4
	size := h.Size()
	if word == 8 { // SHA-384's sum is not all of its state
		size = len(s)
	}
	for i := 0; i < size; i += word {
		if word == 4 {
			binary.LittleEndian.PutUint32(s[i:], binary.BigEndian.Uint32(b[mark+i:]))
		} else {
			binary.LittleEndian.PutUint64(s[i:], binary.BigEndian.Uint64(b[mark+i:]))
		}
	}
	clear(b)
	return nil
}

// wipe overwrites what was computed of the key.
func (m *hmacBatch) wipe() {
	m.inner, m.outer, m.states, m.starts = hmacState{}, hmacState{}, [2]hmacState{}, [2]hmacStart{}
	m.lanes, m.tails, m.icvs = hmacLanes{}, [groupSize][256]byte{}, [2 * groupSize][32]byte{}
	if m.mac != nil {
		m.mac.Wipe()
	}
}

// of is the HMAC of a packet's own SA: m but where packets of several are together.
func (m *hmacBatch) of(j *job) *hmacBatch {
	if j.of != nil {
		return &j.of.mac
	}
	return m
}

// sum makes the HMACs of the packets, the longest first.
func (m *hmacBatch) sum(jobs []job) {
	step := m.kernel.lanes
	if step == 0 {
		step = groupSize
	}
	for first := 0; first < len(jobs); first += step {
		m.group(jobs[first:min(first+step, len(jobs))], first)
	}
}

// group does as many packets as there are lanes at most: all at once but for
// some of the longest, for which alone the lanes would have to go on.
func (m *hmacBatch) group(jobs []job, first int) {
	alone := m.alone(jobs)
	if alone < len(jobs) {
		m.together(jobs[alone:], first+alone)
	}
	switch {
	case alone > 0 && m.mac == nil:
		for i := range alone {
			m.prepare(i, &jobs[i])
		}
		m.pairs(jobs[:alone], first)
	case alone > 0:
		m.plain(jobs[:alone], first)
	}
}

// alone returns how many of the packets, the longest first, are better hashed
// by themselves.
func (m *hmacBatch) alone(jobs []job) int {
	if m.kernel.all == nil {
		return len(jobs)
	}
	best, count, alone := 0, 0, 0
	for i := range jobs {
		blocks := m.blockCount(jobs[i].to)
		if cost := alone + m.cost*blocks; i == 0 || cost < best {
			best, count = cost, i
		}
		if alone += 10 * blocks; alone >= best {
			return count
		}
	}
	return len(jobs)
}

// blockCount is about how many blocks the HMAC of so many bytes takes.
func (m *hmacBatch) blockCount(bytes int) int {
	return 2 + (bytes+2*m.kernel.word)/(16*m.kernel.word)
}

// together does the packets in lanes.
func (m *hmacBatch) together(jobs []job, first int) {
	l := &m.lanes
	longest := uint32(0)
	for i := range jobs {
		m.prepare(i, &jobs[i])
		longest = max(longest, l.total[i])
	}
	for i := len(jobs); i < m.kernel.lanes; i++ {
		l.data[i], l.tail[i] = unsafe.Pointer(&m.tails[i]), unsafe.Pointer(&m.tails[i])
		l.whole[i], l.total[i] = 0, 0
	}
	starts := &m.starts
	if m.own != nil {
		starts = m.own
		for i := range jobs {
			mac := m.of(&jobs[i])
			starts[0].set(i, &mac.inner)
			starts[1].set(i, &mac.outer)
		}
	}
	m.kernel.all(l, &starts[0], &starts[1], int(longest), &m.icvs[first])
}

// plain makes the HMACs of packets with the standard library.
func (m *hmacBatch) plain(jobs []job, first int) {
	for i := range jobs {
		p, own := jobs[i].pkt, m.of(&jobs[i])
		own.mac.Reset()
		own.mac.Write(p.Data[:jobs[i].to])
		if own.esn {
			own.mac.WriteHigh(p.Seq)
		}
		copy(m.icvs[first+i][:], own.mac.Sum())
	}
}

// prepare makes a packet the work of a lane, and pads its rest: a one bit,
// zeros, and the length in bits, which includes the padded key's block.
func (m *hmacBatch) prepare(lane int, j *job) {
	block := 16 * m.kernel.word
	d := j.pkt.Data[:j.to]
	whole := len(d) / block
	t := &m.tails[lane]
	n := copy(t[:], d[whole*block:])
	if m.of(j).esn {
		binary.BigEndian.PutUint32(t[n:], uint32(j.pkt.Seq>>32))
		n += 4
	}
	bits := uint64(block+whole*block+n) * 8
	size := block
	if n >= block-2*m.kernel.word {
		size = 2 * block
	}
	clear(t[n:size])
	t[n] = 0x80
	binary.BigEndian.PutUint64(t[size-8:], bits)

	l := &m.lanes
	l.data[lane], l.tail[lane] = unsafe.Pointer(&d[0]), unsafe.Pointer(t)
	if whole == 0 {
		l.data[lane] = unsafe.Pointer(t)
	}
	l.whole[lane] = uint32(whole)
	l.total[lane] = uint32(whole + size/block)
}

// pairs makes the HMACs of the first lanes, which are those packets, with the
// CPU's instructions for the hash, two at a time.
func (m *hmacBatch) pairs(jobs []job, first int) {
	l, n := &m.lanes, len(jobs)
	for i := 0; i < n; i += 2 {
		if i+1 == n { // the other of the pair has no blocks
			l.whole[i+1], l.total[i+1] = 0, 0
			l.data[i+1], l.tail[i+1] = l.tail[i], l.tail[i]
		}
		own := [2]*hmacBatch{m.of(&jobs[i]), m.of(&jobs[min(i+1, n-1)])}
		m.states[0], m.states[1] = own[0].inner, own[1].inner
		m.blocks(&l.data, i, l.whole[i], l.whole[i+1])
		m.blocks(&l.tail, i, l.total[i]-l.whole[i], l.total[i+1]-l.whole[i+1])
		for k := range 2 {
			m.pad(&m.tails[i+k], &m.states[k])
			m.states[k] = own[k].outer
			l.tail[i+k] = unsafe.Pointer(&m.tails[i+k])
		}
		m.blocks(&l.tail, i, 1, uint32(min(n-i-1, 1)))
		for k := range min(2, n-i) {
			for w := 0; w < m.icv; w += 4 {
				binary.BigEndian.PutUint32(m.icvs[first+i+k][w:], binary.LittleEndian.Uint32(m.states[k][w:]))
			}
		}
	}
}

// blocks hashes the blocks of the two lanes that begin at i, together as far
// as both have any.
func (m *hmacBatch) blocks(ptr *[groupSize]unsafe.Pointer, i int, n0, n1 uint32) {
	both := min(n0, n1)
	if both > 0 {
		m.block.two(&m.states[0], ptr[i], &m.states[1], ptr[i+1], int(both))
	}
	done := uintptr(both) * 64
	if n0 > both {
		m.block.one(&m.states[0], unsafe.Add(ptr[i], done), int(n0-both))
	}
	if n1 > both {
		m.block.one(&m.states[1], unsafe.Add(ptr[i+1], done), int(n1-both))
	}
}

// pad makes the block of the outer hash of an inner sum.
func (m *hmacBatch) pad(t *[256]byte, inner *hmacState) {
	n := 20
	if m.icv == 16 { // HMAC-SHA-256
		n = 32
	}
	for w := 0; w < n; w += 4 {
		binary.BigEndian.PutUint32(t[w:], binary.LittleEndian.Uint32(inner[w:]))
	}
	t[n] = 0x80
	clear(t[n+1 : 62])
	binary.BigEndian.PutUint16(t[62:], uint16(64+n)*8)
}

// put writes a packet's ICV.
func (m *hmacBatch) put(i int, icv []byte) {
	sum := &m.icvs[i]
	for n := 0; n < len(icv) && n < len(sum); n += 4 {
		*(*[4]byte)(icv[n:]) = [4]byte(sum[n:])
	}
}

// equal compares a packet's ICV in constant time.
func (m *hmacBatch) equal(i int, icv []byte) bool {
	var differ uint32
	sum := &m.icvs[i]
	for n := 0; n < len(icv) && n < len(sum); n += 4 {
		differ |= binary.LittleEndian.Uint32(sum[n:]) ^ binary.LittleEndian.Uint32(icv[n:])
	}
	return subtle.ConstantTimeEq(int32(differ), 0) == 1 && len(icv) == m.icv
}
