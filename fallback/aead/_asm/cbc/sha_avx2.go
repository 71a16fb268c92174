// SPDX-License-Identifier: Apache-2.0

package main

import (
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

var ymm = [16]reg.VecPhysical{reg.Y0, reg.Y1, reg.Y2, reg.Y3, reg.Y4, reg.Y5, reg.Y6, reg.Y7,
	reg.Y8, reg.Y9, reg.Y10, reg.Y11, reg.Y12, reg.Y13, reg.Y14, reg.Y15}

// A narrow hasher has eight lanes of AVX2. There are too few registers for the
// message schedule, which is on the stack.
type narrow struct {
	*generator
	family
	s []reg.VecPhysical // a, b, ...
	t []reg.VecPhysical // for intermediate values
	w Mem
	k Mem
}

func lanesAVX2(g *generator) {
	for _, f := range []family{
		{name: "SHA1", word: 4, rounds: 80, state: 5, digest: 5, k: k1[:]},
		{name: "SHA256", word: 4, rounds: 64, state: 8, digest: 8, k: roots(64, 32)},
	} {
		g.hmacAVX2(f)
	}
}

// spread emits constants, each eight times, and returns where they are.
func (g *generator) spread(name string, values ...uint64) Mem {
	m := g.StaticGlobal(name)
	g.DataAttributes(readOnly)
	for i, v := range values {
		for lane := range 8 {
			g.AddDatum(32*i+4*lane, U32(v))
		}
	}
	return m
}

// hmacAVX2 is hmacLanes for eight lanes, each of which begins with states of its
// own: a word of every lane after the other.
func (g *generator) hmacAVX2(f family) {
	k := g.spread(f.name+"Spread", f.k...)
	swap := g.spread(f.name + "SpreadSwap")
	for i := range 32 {
		g.AddDatum(i, U8(i%16^3))
	}
	padding := g.spread(f.name+"Padding", 1<<31, uint64(32*(16+f.digest)))

	g.function("hmac"+f.name+"AVX2", "(lanes *byte, inner *byte, outer *byte, blocks int, icvs *byte)")
	h := &narrow{generator: g, family: f, s: ymm[:f.state], t: ymm[8:16], k: k}
	base := g.Load(g.Param("lanes"), g.GP64())
	inner := g.Load(g.Param("inner"), g.GP64())
	outer := g.Load(g.Param("outer"), g.GP64())
	blocks := g.Load(g.Param("blocks"), g.GP64())
	row, tmp := g.GP64(), g.GP64()
	h.w = g.AllocLocal(16 * 32)
	mask := g.AllocLocal(32)
	at := func(off, i int) Mem { return Mem{Base: base, Disp: off + i} }
	start := func(from reg.Register) {
		for i, s := range h.s {
			g.VMOVDQU(Mem{Base: from, Disp: 32 * i}, s)
			g.VMOVDQU(s, at(hmacSum, 64*i))
		}
	}
	start(inner)
	g.XORQ(row, row)

	g.Label("block")
	h.load(base, swap)
	index, ptr, on := h.t[0], h.t[1], h.t[2]
	broadcastRow := func() {
		g.VMOVD(row.As32(), index.AsX())
		g.VPBROADCASTD(index.AsX(), index)
	}
	broadcastRow()
	g.VMOVDQU(at(hmacTotal, 0), on)
	g.VPCMPGTD(index, on, on) // row < total
	g.VMOVDQU(on, mask)
	g.INCQ(row)
	broadcastRow()
	g.MOVQ(U64(64), tmp)
	g.VMOVQ(tmp, h.t[3].AsX())
	g.VPBROADCASTQ(h.t[3].AsX(), h.t[3])
	for i := range 2 { // four pointers each
		g.VMOVDQU(at(hmacTotal, 16*i), on.AsX())
		g.VPCMPGTD(index.AsX(), on.AsX(), on.AsX())
		g.VPMOVSXDQ(on.AsX(), on)
		g.VPAND(h.t[3], on, on)
		g.VPADDQ(at(hmacData, 32*i), on, ptr)
		g.VPCMPEQD(at(hmacWhole, 16*i), index.AsX(), on.AsX())
		g.VPMOVSXDQ(on.AsX(), on)
		g.VMOVDQU(at(hmacTail, 32*i), h.t[4])
		g.VPBLENDVB(on, h.t[4], ptr, ptr)
		g.VMOVDQU(ptr, at(hmacData, 32*i))
	}

	g.Label("compress")
	for t := range f.rounds {
		if f.state == 5 {
			h.round1(t)
		} else {
			h.round2(t)
		}
	}
	g.VMOVDQU(mask, h.t[1])
	for i, s := range h.s {
		g.VPAND(h.t[1], s, s)
		g.VPADDD(at(hmacSum, 64*i), s, s)
		g.VMOVDQU(s, at(hmacSum, 64*i))
	}
	g.CMPQ(row, blocks)
	g.JL(LabelRef("block"))
	g.JG(LabelRef("done"))

	// The outer hash: one block, the inner sum padded.
	g.VPXOR(h.t[0], h.t[0], h.t[0])
	for i := range 16 {
		switch {
		case i < f.digest:
			g.VMOVDQU(h.s[i], h.wordAt(i))
		case i == f.digest:
			g.VMOVDQU(padding, h.t[1])
			g.VMOVDQU(h.t[1], h.wordAt(i))
		case i == 15:
			g.VMOVDQU(padding.Offset(32), h.t[1])
			g.VMOVDQU(h.t[1], h.wordAt(i))
		default:
			g.VMOVDQU(h.t[0], h.wordAt(i))
		}
	}
	start(outer)
	g.INCQ(row)
	g.VPCMPEQD(h.t[0], h.t[0], h.t[0])
	g.VMOVDQU(h.t[0], mask)
	g.JMP(LabelRef("compress"))

	g.Label("done")
	icvs := g.Load(g.Param("icvs"), tmp)
	for _, s := range h.s[:4] {
		g.VPSHUFB(swap, s, s)
	}
	g.turn(h.s[:4], h.t)
	for i, r := range h.s[:4] {
		g.VMOVDQU(r.AsX(), Mem{Base: icvs, Disp: 32 * i})
		g.VEXTRACTI128(Imm(1), r, Mem{Base: icvs, Disp: 32 * (4 + i)})
	}
	g.VZEROALL()
	g.RET()
}

// wordAt is where the schedule's word t is.
func (h *narrow) wordAt(t int) Mem { return h.w.Offset(32 * (t % 16)) }

// load reads a block of every lane and turns it about: register i of four has
// 16 bytes of lanes i and 4+i first.
func (h *narrow) load(base reg.Register, swap Mem) {
	ptrs := []reg.GPVirtual{h.GP64(), h.GP64(), h.GP64(), h.GP64(), h.GP64(), h.GP64(), h.GP64(), h.GP64()}
	for i, p := range ptrs {
		h.MOVQ(Mem{Base: base, Disp: hmacData + 8*i}, p)
	}
	regs, t := h.t[:4], h.t[4:8]
	for q := range 4 {
		for i, r := range regs {
			h.VMOVDQU(Mem{Base: ptrs[i], Disp: 16 * q}, r.AsX())
			h.VINSERTI128(Imm(1), Mem{Base: ptrs[4+i], Disp: 16 * q}, r, r)
		}
		h.turn(regs, t)
		for i, r := range regs {
			h.VPSHUFB(swap, r, r)
			h.VMOVDQU(r, h.wordAt(4*q+i))
		}
	}
}

func (h *narrow) at(word, t int) reg.VecPhysical {
	n := len(h.s)
	return h.s[((word-t)%n+n)%n]
}

// rotate is a rotation to the left, of two shifts.
func (h *narrow) rotate(by uint64, x, out, t reg.Register) {
	h.VPSRLD(Imm(32-by), x, t)
	if by == 1 {
		h.VPADDD(x, x, out)
	} else {
		h.VPSLLD(Imm(by), x, out)
	}
	h.VPXOR(t, out, out)
}

// round1 is a round of SHA-1 (FIPS 180-4 section 6.1.2).
func (h *narrow) round1(t int) {
	a, b, c, d, e := h.at(0, t), h.at(1, t), h.at(2, t), h.at(3, t), h.at(4, t)
	w, f, x, y, k := h.t[0], h.t[1], h.t[2], h.t[3], h.t[4]
	if t%20 == 0 {
		h.VMOVDQU(h.k.Offset(32*(t/20)), k)
	}
	h.VPADDD(k, e, e)
	if t < 16 {
		h.VPADDD(h.wordAt(t), e, e)
	} else {
		h.VMOVDQU(h.wordAt(t-16), x)
		h.VPXOR(h.wordAt(t-14), x, x)
		h.VPXOR(h.wordAt(t-8), x, x)
		h.VPXOR(h.wordAt(t-3), x, x)
		h.rotate(1, x, w, y)
		h.VMOVDQU(w, h.wordAt(t))
		h.VPADDD(w, e, e)
	}
	switch t / 20 {
	case 0: // b ? c : d
		h.VPXOR(d, c, f)
		h.VPAND(b, f, f)
		h.VPXOR(d, f, f)
		h.VPADDD(f, e, e)
	case 2: // the majority: the two terms have no bit in common
		h.VPXOR(c, b, f)
		h.VPAND(d, f, f)
		h.VPADDD(f, e, e)
		h.VPAND(c, b, f)
		h.VPADDD(f, e, e)
	default:
		h.VPXOR(c, b, f)
		h.VPXOR(d, f, f)
		h.VPADDD(f, e, e)
	}
	h.rotate(5, a, x, y)
	h.VPADDD(x, e, e)
	h.rotate(30, b, b, y)
}

// sum2 is the exclusive or of three rotations to the right, the last a shift
// where shift is set.
func (h *narrow) sum2(x reg.Register, by [3]uint64, shift bool, out, t reg.Register) {
	h.VPSRLD(Imm(by[0]), x, out)
	for i, n := range by {
		if i > 0 {
			h.VPSRLD(Imm(n), x, t)
			h.VPXOR(t, out, out)
		}
		if i < 2 || !shift {
			h.VPSLLD(Imm(32-n), x, t)
			h.VPXOR(t, out, out)
		}
	}
}

// round2 is a round of SHA-256 (FIPS 180-4 section 6.2.2).
func (h *narrow) round2(n int) {
	var r [8]reg.VecPhysical
	for i := range r {
		r[i] = h.at(i, n)
	}
	a, b, c, d, e, f, g, hh := r[0], r[1], r[2], r[3], r[4], r[5], r[6], r[7]
	w, x, y, z := h.t[0], h.t[1], h.t[2], h.t[3]
	if n < 16 {
		h.VPADDD(h.wordAt(n), hh, hh)
	} else {
		h.VMOVDQU(h.wordAt(n-16), w)
		h.VPADDD(h.wordAt(n-7), w, w)
		h.VMOVDQU(h.wordAt(n-15), x)
		h.sum2(x, [3]uint64{7, 18, 3}, true, y, z)
		h.VPADDD(y, w, w)
		h.VMOVDQU(h.wordAt(n-2), x)
		h.sum2(x, [3]uint64{17, 19, 10}, true, y, z)
		h.VPADDD(y, w, w)
		h.VMOVDQU(w, h.wordAt(n))
		h.VPADDD(w, hh, hh)
	}
	h.VPADDD(h.k.Offset(32*n), hh, hh)
	h.sum2(e, [3]uint64{6, 11, 25}, false, y, z)
	h.VPADDD(y, hh, hh)
	h.VPXOR(g, f, x)
	h.VPAND(e, x, x)
	h.VPXOR(g, x, x)
	h.VPADDD(x, hh, hh)
	h.VPADDD(hh, d, d)
	h.sum2(a, [3]uint64{2, 13, 22}, false, y, z)
	h.VPADDD(y, hh, hh)
	h.VPXOR(b, a, x)
	h.VPAND(c, x, x)
	h.VPADDD(x, hh, hh)
	h.VPAND(b, a, x)
	h.VPADDD(x, hh, hh)
}
