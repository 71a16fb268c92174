// SPDX-License-Identifier: Apache-2.0

package main

import (
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// Offsets in Go's type hmacLanes.
const (
	hmacData  = 0
	hmacTail  = 128
	hmacWhole = 256
	hmacTotal = 320
	hmacSum   = 384
)

// A family is a hash function on 512-bit registers, each of which holds one
// word of every lane.
type family struct {
	name    string
	word    int // bytes
	rounds  int
	state   int // words
	digest  int // words of it that are the sum
	k       []uint64
	round   func(h *hasher, t int)
	swap    [16]byte // reverses each word's bytes
	padding int      // words of the length field
}

// A hasher is what the rounds of one function work with. Registers 16 to 31
// hold the last sixteen words of the message schedule.
type hasher struct {
	*generator
	family
	s []reg.VecPhysical // a, b, ...; rotated by each round
	w []reg.VecPhysical
	t []reg.VecPhysical // for intermediate values
	k Mem
}

func lanesSHA(g *generator) {
	for _, f := range []family{
		{name: "SHA1", word: 4, rounds: 80, state: 5, digest: 5, k: k1[:], round: (*hasher).round1},
		{name: "SHA256", word: 4, rounds: 64, state: 8, digest: 8, k: roots(64, 32), round: (*hasher).round2},
		{name: "SHA512", word: 8, rounds: 80, state: 8, digest: 8, k: roots(80, 64), round: (*hasher).round2},
		{name: "SHA384", word: 8, rounds: 80, state: 8, digest: 6, k: roots(80, 64), round: (*hasher).round2},
	} {
		g.hmacLanes(f)
	}
}

// table emits the round constants and returns where they are. A second
// function with the same ones uses the same table.
func (g *generator) table(f family) Mem {
	name := f.name + "Constants"
	if f.name == "SHA384" {
		return NewDataAddr(Symbol{Name: "SHA512Constants", Static: true}, 0)
	}
	m := g.StaticGlobal(name)
	g.DataAttributes(readOnly)
	for i, k := range f.k {
		if f.word == 4 {
			g.AddDatum(4*i, U32(k))
		} else {
			g.AddDatum(8*i, U64(k))
		}
	}
	return m
}

// hmacLanes makes the HMAC of a message in each lane: the inner hash over
// whole blocks of the message and then over the padded rest, which stands
// aside, and the outer hash over the inner one's sum. Lanes that are through
// keep their state.
func (g *generator) hmacLanes(f family) {
	lanes := 64 / f.word
	for i := range f.swap {
		f.swap[i] = byte(i ^ (f.word - 1))
	}
	k := g.table(f)
	g.StaticGlobal(f.name + "Swap")
	g.DataAttributes(readOnly)
	for i, b := range f.swap {
		g.AddDatum(i, U8(b))
	}

	g.function("hmac"+f.name+"Lanes", "(lanes *byte, inner *byte, outer *byte, blocks int, icvs *byte)")
	h := &hasher{generator: g, family: f, s: zmm[:f.state], w: zmm[16:32], t: zmm[8:16], k: k}
	base := g.Load(g.Param("lanes"), g.GP64())
	inner := g.Load(g.Param("inner"), g.GP64())
	outer := g.Load(g.Param("outer"), g.GP64())
	blocks := g.Load(g.Param("blocks"), g.GP64())
	row, tmp := g.GP64(), g.GP64()
	at := func(off, i int) Mem { return Mem{Base: base, Disp: off + 64*i} }
	start := func(from reg.Register) {
		for i, s := range h.s {
			h.broadcast(Mem{Base: from, Disp: f.word * i}, s)
			g.VMOVDQU64(s, at(hmacSum, i))
		}
	}
	start(inner)
	g.XORQ(row, row)

	g.Label("block")
	h.load(base, tmp)
	index, ptr := h.t[0], h.t[1]
	g.VPBROADCASTD(row.As32(), index)
	g.VPCMPUD(Imm(1), at(hmacTotal, 0), index, reg.K1) // row < total
	// Where the lanes go on: behind the whole blocks with the rest, and nowhere
	// behind that. It is stored long before it is loaded again.
	g.INCQ(row)
	g.VPBROADCASTD(row.As32(), index)
	g.VPCMPUD(Imm(1), at(hmacTotal, 0), index, reg.K2) // row < total
	g.VPCMPUD(Imm(0), at(hmacWhole, 0), index, reg.K3) // row == whole
	g.MOVQ(U64(uint64(16*f.word)), tmp)
	g.VPBROADCASTQ(tmp, h.t[2])
	for i := range lanes / 8 {
		g.VMOVDQU64(at(hmacData, i), ptr)
		g.VPADDQ(h.t[2], ptr, reg.K2, ptr)
		g.VMOVDQU64(at(hmacTail, i), reg.K3, ptr)
		g.VMOVDQU64(ptr, at(hmacData, i))
		if i == 0 {
			g.KSHIFTRW(Imm(8), reg.K2, reg.K2)
			g.KSHIFTRW(Imm(8), reg.K3, reg.K3)
		}
	}

	g.Label("compress")
	for t := range f.rounds {
		f.round(h, t)
	}
	for i, s := range h.s {
		g.VMOVDQU64(at(hmacSum, i), h.t[0])
		if f.word == 4 {
			g.VPADDD(h.t[0], s, reg.K1, h.t[0])
		} else {
			g.VPADDQ(h.t[0], s, reg.K1, h.t[0])
		}
		g.VMOVDQU64(h.t[0], at(hmacSum, i))
		g.VMOVDQA64(h.t[0], s)
	}
	g.CMPQ(row, blocks)
	g.JL(LabelRef("block"))
	g.JG(LabelRef("done"))

	// The outer hash: one block, the inner sum padded.
	for i := range 16 {
		switch {
		case i < f.digest:
			g.VMOVDQA64(h.s[i], h.w[i])
		case i == f.digest:
			h.set(1<<(8*f.word-1), tmp, h.w[i])
		case i == 15:
			h.set(uint64(8*f.word*(16+f.digest)), tmp, h.w[i])
		default:
			g.VPXORQ(h.w[i], h.w[i], h.w[i])
		}
	}
	start(outer)
	g.INCQ(row)
	g.KXNORW(reg.K1, reg.K1, reg.K1)
	g.JMP(LabelRef("compress"))

	g.Label("done")
	icvs := g.Load(g.Param("icvs"), tmp)
	h.store(icvs)
	g.wipe(zmm[:])
	g.RET()
}

// store turns the first four words of the sums about and stores them in network
// order, those of each lane in 32 bytes.
func (h *hasher) store(icvs reg.Register) {
	swap, out := h.t[4], h.t[:4]
	h.VBROADCASTI32X4(NewDataAddr(Symbol{Name: h.name + "Swap", Static: true}, 0), swap)
	for _, s := range h.s[:4] {
		h.VPSHUFB(swap, s, s)
	}
	if h.word == 8 {
		// Quarter q of registers 2i and 2i+1 are words 2i and 2i+1 of lanes 2q and
		// 2q+1.
		for i := range 2 {
			h.VPUNPCKLQDQ(h.s[2*i+1], h.s[2*i], out[2*i])
			h.VPUNPCKHQDQ(h.s[2*i+1], h.s[2*i], out[2*i+1])
		}
		for i, r := range out {
			for q := range 4 {
				h.VEXTRACTI32X4(Imm(uint64(q)), r, Mem{Base: icvs, Disp: 32*(2*q+i%2) + 16*(i/2)})
			}
		}
		return
	}
	// Quarter q of register i are the words of lane 4q+i.
	h.turn(h.s[:4], out)
	for i, r := range h.s[:4] {
		for q := range 4 {
			h.VEXTRACTI32X4(Imm(uint64(q)), r, Mem{Base: icvs, Disp: 32 * (4*q + i)})
		}
	}
}

// turn transposes words of four bytes in each quarter of four registers.
func (h *generator) turn(w, t []reg.VecPhysical) {
	h.VPUNPCKLDQ(w[1], w[0], t[0])
	h.VPUNPCKHDQ(w[1], w[0], t[1])
	h.VPUNPCKLDQ(w[3], w[2], t[2])
	h.VPUNPCKHDQ(w[3], w[2], t[3])
	h.VPUNPCKLQDQ(t[2], t[0], w[0])
	h.VPUNPCKHQDQ(t[2], t[0], w[1])
	h.VPUNPCKLQDQ(t[3], t[1], w[2])
	h.VPUNPCKHQDQ(t[3], t[1], w[3])
}

func (h *hasher) broadcast(m Mem, r reg.Register) {
	if h.word == 4 {
		h.VPBROADCASTD(m, r)
	} else {
		h.VPBROADCASTQ(m, r)
	}
}

// set puts a constant into every lane.
func (h *hasher) set(v uint64, tmp reg.GPVirtual, r reg.Register) {
	h.MOVQ(U64(v), tmp)
	if h.word == 4 {
		h.VPBROADCASTD(tmp.As32(), r)
	} else {
		h.VPBROADCASTQ(tmp, r)
	}
}

// load reads a block of every lane and turns it about, so that each register
// holds one word of all lanes. The first half of the turn is in how quarters of
// registers are loaded: those of register 4q+j, or 2q+j for words of 8 bytes,
// are 16 bytes at 16q of lanes j, j+4, ... or j, j+2, ...
func (h *hasher) load(base, tmp reg.Register) {
	step := 16 / h.word // words in 16 bytes, and registers that are turned together
	ptrs := []reg.GPVirtual{h.GP64(), h.GP64(), h.GP64(), h.GP64()}
	for j := range step {
		for n, p := range ptrs {
			h.MOVQ(Mem{Base: base, Disp: hmacData + 8*(step*n+j)}, p)
		}
		for q := range 16 / step {
			r := h.w[step*q+j]
			h.gather(r, func(n int) Mem { return Mem{Base: ptrs[n], Disp: 16 * q} })
		}
	}
	swap := NewDataAddr(Symbol{Name: h.name + "Swap", Static: true}, 0)
	h.VBROADCASTI32X4(swap, h.t[7])
	for q := range 16 / step {
		w := h.w[step*q:][:step]
		t := h.t
		if step == 2 {
			h.VPUNPCKLQDQ(w[1], w[0], t[0])
			h.VPUNPCKHQDQ(w[1], w[0], t[1])
			h.VPSHUFB(t[7], t[0], w[0])
			h.VPSHUFB(t[7], t[1], w[1])
			continue
		}
		h.turn(w, t)
		for _, r := range w {
			h.VPSHUFB(t[7], r, r)
		}
	}
}

// at returns the register of a state word, by its name in FIPS 180-4, in round
// t: each round renames them.
func (h *hasher) at(word, t int) reg.VecPhysical {
	n := len(h.s)
	return h.s[((word-t)%n+n)%n]
}

// Truth tables of VPTERNLOG: of the first (the destination), second and third
// operand.
const (
	parity   = 0x96
	choose   = 0xca
	majority = 0xe8
)

// round1 is a round of SHA-1 (FIPS 180-4 section 6.1.2).
func (h *hasher) round1(t int) {
	a, b, c, d, e := h.at(0, t), h.at(1, t), h.at(2, t), h.at(3, t), h.at(4, t)
	w, tmp := h.w[t%16], h.t[t%2]
	if t >= 16 {
		h.VPTERNLOGD(Imm(parity), h.w[(t-8)%16], h.w[(t-14)%16], w)
		h.VPXORD(h.w[(t-3)%16], w, w)
		h.VPROLD(Imm(1), w, w)
	}
	f := []uint64{choose, parity, majority, parity}[t/20]
	h.VPADDD_BCST(h.k.Offset(4*(t/20)), e, e)
	h.VPADDD(w, e, e)
	h.VMOVDQA64(b, tmp)
	h.VPTERNLOGD(Imm(f), d, c, tmp)
	h.VPADDD(tmp, e, e)
	h.VPROLD(Imm(5), a, h.t[2+t%2])
	h.VPADDD(h.t[2+t%2], e, e)
	h.VPROLD(Imm(30), b, b)
}

var k1 = [4]uint64{0x5a827999, 0x6ed9eba1, 0x8f1bbcdc, 0xca62c1d6}

// sum2 is the exclusive or of three rotations, the last a shift where shift is
// set (FIPS 180-4 section 4.1.2 and 4.1.3).
func (h *hasher) sum2(x reg.Register, by [3]uint64, shift bool, out, t1, t2 reg.Register) {
	ror, shr := h.VPRORD, h.VPSRLD
	if h.word == 8 {
		ror, shr = h.VPRORQ, h.VPSRLQ
	}
	ror(Imm(by[0]), x, out)
	ror(Imm(by[1]), x, t1)
	if shift {
		shr(Imm(by[2]), x, t2)
	} else {
		ror(Imm(by[2]), x, t2)
	}
	h.VPTERNLOGD(Imm(parity), t2, t1, out)
}

// round2 is a round of SHA-2 (FIPS 180-4 sections 6.2.2 and 6.4.2).
func (h *hasher) round2(n int) {
	var r [8]reg.VecPhysical
	for i := range r {
		r[i] = h.at(i, n)
	}
	a, b, c, d, e, f, g, hh := r[0], r[1], r[2], r[3], r[4], r[5], r[6], r[7]
	big0, big1, small0, small1 := [3]uint64{2, 13, 22}, [3]uint64{6, 11, 25}, [3]uint64{7, 18, 3}, [3]uint64{17, 19, 10}
	add, addK := h.VPADDD, h.VPADDD_BCST
	if h.word == 8 {
		big0, big1, small0, small1 = [3]uint64{28, 34, 39}, [3]uint64{14, 18, 41}, [3]uint64{1, 8, 7}, [3]uint64{19, 61, 6}
		add, addK = h.VPADDQ, h.VPADDQ_BCST
	}
	t := h.t
	w := h.w[n%16]
	if n >= 16 {
		add(h.w[(n-7)%16], w, w)
		h.sum2(h.w[(n-15)%16], small0, true, t[0], t[1], t[2])
		h.sum2(h.w[(n-2)%16], small1, true, t[3], t[4], t[5])
		add(t[0], w, w)
		add(t[3], w, w)
	}
	addK(h.k.Offset(h.word*n), hh, hh)
	add(w, hh, hh)
	h.sum2(e, big1, false, t[0], t[1], t[2])
	h.VMOVDQA64(e, t[3])
	h.VPTERNLOGD(Imm(choose), g, f, t[3])
	add(t[3], hh, hh)
	add(t[0], hh, hh)
	add(hh, d, d)
	h.sum2(a, big0, false, t[4], t[5], t[6])
	h.VMOVDQA64(a, t[7])
	h.VPTERNLOGD(Imm(majority), c, b, t[7])
	add(t[7], hh, hh)
	add(t[4], hh, hh)
}
