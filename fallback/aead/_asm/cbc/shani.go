// SPDX-License-Identifier: Apache-2.0

package main

import (
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// shaNI writes the block functions with the CPU's own SHA instructions, for one
// message and for two side by side: the instructions of the one fill the time
// that those of the other take.
func shaNI(g *generator) {
	swap := g.StaticGlobal("niSwap1")
	g.DataAttributes(readOnly)
	for i := range 16 {
		g.AddDatum(i, U8(15-i)) // also puts the words in descending order
	}
	g.sha1NI("sha1NI", 1, swap)
	g.sha1NI("sha1NIPair", 2, swap)

	swap = g.StaticGlobal("niSwap2")
	g.DataAttributes(readOnly)
	for i := range 16 {
		g.AddDatum(i, U8(i^3))
	}
	k := g.StaticGlobal("niConstants")
	g.DataAttributes(readOnly)
	for i, v := range roots(64, 32) {
		g.AddDatum(4*i, U32(v))
	}
	g.sha256NI("sha256NI", 1, swap, k)
	g.sha256NI("sha256NIPair", 2, swap, k)
}

// A stream is the registers of one message.
type stream struct {
	state, p reg.Register
	x, m     []reg.VecPhysical
	save     Mem
}

// streams begins a function over one or two messages. Each gets x registers of
// its own and four for the message.
func (g *generator) streams(name string, count, x int) (s []stream, blocks reg.Register) {
	args := "(state, p *byte, blocks int)"
	if count == 2 {
		args = "(state0, p0, state1, p1 *byte, blocks int)"
	}
	g.function(name, args)
	for i := range count {
		suffix := []string{"0", "1"}[i]
		if count == 1 {
			suffix = ""
		}
		first := i * (x + 4)
		s = append(s, stream{
			state: g.Load(g.Param("state"+suffix), g.GP64()),
			p:     g.Load(g.Param("p"+suffix), g.GP64()),
			x:     xmm[1+first:][:x],
			m:     xmm[1+first+x:][:4],
			save:  g.AllocLocal(32),
		})
	}
	return s, g.Load(g.Param("blocks"), g.GP64())
}

// sha1NI keeps a to d in x[0], the highest first, and e in the highest word of
// x[1] or x[2] in turn.
func (g *generator) sha1NI(name string, count int, swap Mem) {
	all, blocks := g.streams(name, count, 3)
	for _, s := range all {
		g.MOVUPS(Mem{Base: s.state}, s.x[0])
		g.PSHUFD(Imm(0x1b), s.x[0], s.x[0])
		g.PXOR(s.x[1], s.x[1])
		g.PINSRD(Imm(3), Mem{Base: s.state, Disp: 16}, s.x[1])
	}
	g.Label("block")
	g.MOVUPS(swap, reg.X0)
	for _, s := range all {
		g.MOVUPS(s.x[0], s.save)
		g.MOVUPS(s.x[1], s.save.Offset(16))
		for i, m := range s.m {
			g.MOVUPS(Mem{Base: s.p, Disp: 16 * i}, m)
			g.PSHUFB(reg.X0, m)
		}
		g.ADDQ(Imm(64), s.p)
	}
	for t := range 20 {
		for _, s := range all {
			m := func(i int) reg.VecPhysical { return s.m[(t+i+4)%4] }
			e, next := s.x[1+t%2], s.x[2-t%2]
			if t == 0 {
				g.PADDD(m(0), e)
			} else {
				g.SHA1NEXTE(m(0), e)
			}
			g.MOVAPS(s.x[0], next)
			if t >= 3 && t <= 18 {
				g.SHA1MSG2(m(0), m(1))
			}
			g.SHA1RNDS4(Imm(uint64(t/5)), e, s.x[0])
			if t >= 1 && t <= 16 {
				g.SHA1MSG1(m(0), m(-1))
			}
			if t >= 2 && t <= 17 {
				g.PXOR(m(0), m(2))
			}
		}
	}
	for _, s := range all {
		g.MOVUPS(s.save, reg.X0)
		g.PADDD(reg.X0, s.x[0])
		g.MOVUPS(s.save.Offset(16), reg.X0)
		g.SHA1NEXTE(reg.X0, s.x[1])
	}
	g.DECQ(blocks)
	g.JNZ(LabelRef("block"))
	for _, s := range all {
		g.PSHUFD(Imm(0x1b), s.x[0], s.x[0])
		g.MOVUPS(s.x[0], Mem{Base: s.state})
		g.PEXTRD(Imm(3), s.x[1], Mem{Base: s.state, Disp: 16})
	}
	g.RET()
}

// sha256NI keeps a, b, e and f in x[0], the highest first, and c, d, g and h in
// x[1].
func (g *generator) sha256NI(name string, count int, swap, k Mem) {
	all, blocks := g.streams(name, count, 3)
	for _, s := range all {
		g.MOVUPS(Mem{Base: s.state}, s.x[0])           // d c b a
		g.MOVUPS(Mem{Base: s.state, Disp: 16}, s.x[1]) // h g f e
		g.PSHUFD(Imm(0xb1), s.x[0], s.x[0])            // c d a b
		g.PSHUFD(Imm(0x1b), s.x[1], s.x[1])            // e f g h
		g.MOVAPS(s.x[0], s.x[2])
		g.PALIGNR(Imm(8), s.x[1], s.x[0])    // a b e f
		g.PBLENDW(Imm(0xf0), s.x[2], s.x[1]) // c d g h
	}
	g.Label("block")
	g.MOVUPS(swap, reg.X0)
	for _, s := range all {
		g.MOVUPS(s.x[0], s.save)
		g.MOVUPS(s.x[1], s.save.Offset(16))
		for i, m := range s.m {
			g.MOVUPS(Mem{Base: s.p, Disp: 16 * i}, m)
			g.PSHUFB(reg.X0, m)
		}
		g.ADDQ(Imm(64), s.p)
	}
	for t := range 16 {
		for _, s := range all {
			m := func(i int) reg.VecPhysical { return s.m[(t+i+4)%4] }
			g.MOVUPS(k.Offset(16*t), reg.X0)
			g.PADDD(m(0), reg.X0)
			g.SHA256RNDS2(reg.X0, s.x[0], s.x[1])
			if t >= 3 && t <= 14 {
				g.MOVAPS(m(0), s.x[2])
				g.PALIGNR(Imm(4), m(-1), s.x[2])
				g.PADDD(s.x[2], m(1))
				g.SHA256MSG2(m(0), m(1))
			}
			g.PSHUFD(Imm(0x0e), reg.X0, reg.X0)
			g.SHA256RNDS2(reg.X0, s.x[1], s.x[0])
			if t >= 1 && t <= 12 {
				g.SHA256MSG1(m(0), m(-1))
			}
		}
	}
	for _, s := range all {
		for i := range 2 {
			g.MOVUPS(s.save.Offset(16*i), reg.X0)
			g.PADDD(reg.X0, s.x[i])
		}
	}
	g.DECQ(blocks)
	g.JNZ(LabelRef("block"))
	for _, s := range all {
		g.PSHUFD(Imm(0x1b), s.x[0], s.x[0]) // f e b a
		g.PSHUFD(Imm(0xb1), s.x[1], s.x[1]) // d c h g
		g.MOVAPS(s.x[0], s.x[2])
		g.PBLENDW(Imm(0xf0), s.x[1], s.x[0]) // d c b a
		g.PALIGNR(Imm(8), s.x[2], s.x[1])    // h g f e
		g.MOVUPS(s.x[0], Mem{Base: s.state})
		g.MOVUPS(s.x[1], Mem{Base: s.state, Disp: 16})
	}
	g.RET()
}
