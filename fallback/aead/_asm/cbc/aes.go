// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"

	"github.com/mmcloughlin/avo/attr"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

const noSplit = attr.NOSPLIT

// Offsets in Go's type cbcLanes.
const (
	lanePtr    = 0
	laneBlocks = 128
)

var (
	xmm = [16]reg.VecPhysical{reg.X0, reg.X1, reg.X2, reg.X3, reg.X4, reg.X5, reg.X6, reg.X7,
		reg.X8, reg.X9, reg.X10, reg.X11, reg.X12, reg.X13, reg.X14, reg.X15}
	zmm = [32]reg.VecPhysical{reg.Z0, reg.Z1, reg.Z2, reg.Z3, reg.Z4, reg.Z5, reg.Z6, reg.Z7,
		reg.Z8, reg.Z9, reg.Z10, reg.Z11, reg.Z12, reg.Z13, reg.Z14, reg.Z15,
		reg.Z16, reg.Z17, reg.Z18, reg.Z19, reg.Z20, reg.Z21, reg.Z22, reg.Z23,
		reg.Z24, reg.Z25, reg.Z26, reg.Z27, reg.Z28, reg.Z29, reg.Z30, reg.Z31}
)

// vaes writes the 512-bit forms, in which a register holds four blocks.
func vaes(g *generator) {
	g.cbcEncryptVAES("cbcEncryptVAES", 4)
	g.cbcEncryptVAES("cbcEncryptVAES8", 2) // for few packets: each row takes less time
	g.cbcDecryptVAES()
}

// rounds emits one AES computation over several blocks: the middle rounds of
// AES-128, then those that the longer keys have more. The keys' first and last
// are the caller's.
func (g *generator) rounds(label string, rounds reg.Register, round func(i int)) {
	for i := 1; i <= 9; i++ {
		round(i)
	}
	g.CMPQ(rounds, Imm(10))
	g.JE(LabelRef(label))
	round(10)
	round(11)
	g.CMPQ(rounds, Imm(12))
	g.JE(LabelRef(label))
	round(12)
	round(13)
	g.Label(label)
}

// broadcastKeys fills zmm 16 to 30 with the round keys, four times each, and
// puts the last one that this key length has into zmm 31.
func (g *generator) broadcastKeys(keys, rounds reg.Register) {
	for i := range 15 {
		g.VBROADCASTI32X4(Mem{Base: keys, Disp: 16 * i}, zmm[16+i])
	}
	at := g.GP64()
	g.MOVQ(rounds, at)
	g.SHLQ(Imm(4), at)
	g.VBROADCASTI32X4(Mem{Base: keys, Index: at, Scale: 1}, zmm[31])
}

// cbcEncryptVAES works on a block of each of four packets a register at a time,
// of which all have as many blocks.
func (g *generator) cbcEncryptVAES(name string, count int) {
	g.function(name, "(keys *byte, rounds int, lanes *byte, rows int)")
	keys := g.Load(g.Param("keys"), g.GP64())
	rounds := g.Load(g.Param("rounds"), g.GP64())
	lanes := g.Load(g.Param("lanes"), g.GP64())
	rows := g.Load(g.Param("rows"), g.GP64())
	g.broadcastKeys(keys, rounds)
	state, text := zmm[0:count], zmm[4:8]
	ptr, off := g.GP64(), g.GP64()
	at := func(i, disp int) func(int) Mem {
		return func(lane int) Mem {
			g.MOVQ(Mem{Base: lanes, Disp: 8 * (4*i + lane)}, ptr)
			return Mem{Base: ptr, Index: off, Scale: 1, Disp: disp}
		}
	}
	g.XORQ(off, off)
	// The chain begins with the IV, which stands before the payload.
	for i, r := range state {
		g.gather(r, at(i, -16))
	}
	g.Label("row")
	for i, r := range state {
		g.gather(text[i], at(i, 0))
		g.VPTERNLOGQ(Imm(parity), zmm[16], text[i], r)
	}
	g.rounds("last", rounds, func(k int) {
		for _, r := range state {
			g.VAESENC(zmm[16+k], r, r)
		}
	})
	for _, r := range state {
		g.VAESENCLAST(zmm[31], r, r)
	}
	for i, r := range state {
		for lane := range 4 {
			m := at(i, 0)(lane)
			if lane == 0 {
				g.VMOVDQU(r.AsX(), m)
			} else {
				g.VEXTRACTI32X4(Imm(uint64(lane)), r, m)
			}
		}
	}
	g.ADDQ(Imm(16), off)
	g.DECQ(rows)
	g.JNZ(LabelRef("row"))
	g.wipe(zmm[:])
	g.RET()
}

// gather fills a register with a block of each of four lanes.
func (g *generator) gather(r reg.VecPhysical, at func(lane int) Mem) {
	g.VMOVDQU64(at(0), r.AsX())
	for lane := 1; lane < 4; lane++ {
		g.VINSERTI32X4(Imm(uint64(lane)), at(lane), r, r)
	}
}

// wipe clears registers that held keys or plaintext.
func (g *generator) wipe(regs []reg.VecPhysical) {
	for _, r := range regs[16:] {
		g.VPXORD(r, r, r)
	}
	g.VZEROALL()
}

// cbcDecryptVAES decrypts packets one after the other, sixteen blocks at a
// time, each from its end: what a block is to be combined with is the
// ciphertext before it, which must not have been overwritten.
func (g *generator) cbcDecryptVAES() {
	g.function("cbcDecryptVAES", "(keys *byte, rounds int, lanes *byte, n int)")
	keys := g.Load(g.Param("keys"), g.GP64())
	rounds := g.Load(g.Param("rounds"), g.GP64())
	lanes := g.Load(g.Param("lanes"), g.GP64())
	n := g.Load(g.Param("n"), g.GP64())
	g.broadcastKeys(keys, rounds)
	state := zmm[0:8]
	ptr, blocks, end, mask := g.GP64(), g.GP64(), g.GP64(), g.GP64()

	g.Label("packet")
	g.MOVQ(Mem{Base: lanes, Disp: lanePtr}, ptr)
	g.MOVQ(Mem{Base: lanes, Disp: laneBlocks}, blocks)
	g.MOVQ(blocks, end)
	g.SHLQ(Imm(4), end)
	g.ADDQ(ptr, end)

	g.SUBQ(Imm(32), blocks)
	g.JL(LabelRef("rest32"))
	g.Label("whole32")
	g.SUBQ(U32(512), end)
	g.decryptBlocks("last32", rounds, state[:8], end, nil)
	g.SUBQ(Imm(32), blocks)
	g.JGE(LabelRef("whole32"))
	g.Label("rest32")
	g.ADDQ(Imm(32), blocks)

	g.SUBQ(Imm(16), blocks)
	g.JL(LabelRef("rest16"))
	g.SUBQ(U32(256), end)
	g.decryptBlocks("last16", rounds, state[:4], end, nil)
	g.SUBQ(Imm(16), blocks)
	g.Label("rest16")
	g.ADDQ(Imm(16), blocks)

	// What is left, at the packet's beginning: two mask bits for each block.
	g.JZ(LabelRef("next"))
	g.ADDQ(blocks, blocks)
	g.MOVQ(U64(1<<64-1), mask)
	g.BZHIQ(blocks, mask, mask)
	masks := []reg.Register{reg.K1, reg.K2, reg.K3, reg.K4}
	for i, k := range masks {
		g.KMOVW(mask.As32(), k)
		if i < 3 {
			g.SHRQ(Imm(8), mask)
		}
	}
	g.CMPQ(blocks, Imm(16))
	g.JG(LabelRef("rest4"))
	g.decryptBlocks("last2", rounds, state[:2], ptr, masks)
	g.JMP(LabelRef("next"))
	g.Label("rest4")
	g.decryptBlocks("last4", rounds, state[:4], ptr, masks)

	g.Label("next")
	g.ADDQ(Imm(8), lanes)
	g.DECQ(n)
	g.JNZ(LabelRef("packet"))
	g.wipe(zmm[:])
	g.RET()
}

// decryptBlocks decrypts four blocks at from for each register, under masks
// where there are any.
func (g *generator) decryptBlocks(label string, rounds reg.Register, state []reg.VecPhysical, from reg.Register, masks []reg.Register) {
	chain := zmm[8:16]
	for i, r := range state {
		at := Mem{Base: from, Disp: 64 * i}
		if masks != nil {
			g.VMOVDQU64_Z(at, masks[i], r)
			g.VMOVDQU64_Z(at.Offset(-16), masks[i], chain[i])
		} else {
			g.VMOVDQU64(at, r)
			g.VMOVDQU64(at.Offset(-16), chain[i])
		}
		g.VPXORQ(zmm[16], r, r)
	}
	g.rounds(label, rounds, func(k int) {
		for _, r := range state {
			g.VAESDEC(zmm[16+k], r, r)
		}
	})
	for i, r := range state {
		g.VAESDECLAST(zmm[31], r, r)
		g.VPXORQ(chain[i], r, r)
		at := Mem{Base: from, Disp: 64 * i}
		if masks != nil {
			g.VMOVDQU64(r, masks[i], at)
		} else {
			g.VMOVDQU64(r, at)
		}
	}
}

// aesni writes the 128-bit forms, and the parts of the key expansion that are
// not for tables.
func aesni(g *generator) {
	g.cbcEncryptAESNI("cbcEncryptAESNI", 8)
	g.cbcEncryptAESNI("cbcEncryptAESNI4", 4) // for few packets: each row takes less time
	g.cbcEncryptOwnAESNI()
	g.cbcDecryptAESNI()

	g.function("aesSubWord", "(w uint32) uint32")
	w := g.Load(g.Param("w"), g.GP32())
	g.MOVD(w, reg.X0)
	g.PSHUFD(Imm(0), reg.X0, reg.X0)
	g.AESKEYGENASSIST(Imm(0), reg.X0, reg.X0)
	g.MOVD(reg.X0, w)
	g.PXOR(reg.X0, reg.X0)
	g.Store(w, g.ReturnIndex(0))
	g.RET()

	g.function("aesInverseMix", "(key *byte)")
	key := g.Load(g.Param("key"), g.GP64())
	g.MOVUPS(Mem{Base: key}, reg.X0)
	g.AESIMC(reg.X0, reg.X0)
	g.MOVUPS(reg.X0, Mem{Base: key})
	g.PXOR(reg.X0, reg.X0)
	g.RET()
}

// roundsNI is rounds with keys in memory.
func (g *generator) roundsNI(label string, keys, rounds reg.Register, states []reg.VecPhysical,
	round func(key, r Op), last func(key, r Op)) {
	g.rounds(label, rounds, func(k int) {
		g.MOVUPS(Mem{Base: keys, Disp: 16 * k}, reg.X15)
		for _, r := range states {
			round(reg.X15, r)
		}
	})
	at := g.GP64()
	g.MOVQ(rounds, at)
	g.SHLQ(Imm(4), at)
	g.MOVUPS(Mem{Base: keys, Index: at, Scale: 1}, reg.X15)
	for _, r := range states {
		last(reg.X15, r)
	}
}

// cbcEncryptAESNI works on a block of each of count packets at a time, of which
// all have as many blocks.
func (g *generator) cbcEncryptAESNI(name string, count int) {
	g.function(name, "(keys *byte, rounds int, lanes *byte, rows int)")
	keys := g.Load(g.Param("keys"), g.GP64())
	rounds := g.Load(g.Param("rounds"), g.GP64())
	lanes := g.Load(g.Param("lanes"), g.GP64())
	rows := g.Load(g.Param("rows"), g.GP64())
	ptr, off := g.GP64(), g.GP64()
	state := xmm[:count]
	load := func(lane int) Mem {
		g.MOVQ(Mem{Base: lanes, Disp: lanePtr + 8*lane}, ptr)
		return Mem{Base: ptr, Index: off, Scale: 1}
	}
	g.XORQ(off, off)
	for i, r := range state {
		g.MOVUPS(load(i).Offset(-16), r)
	}
	g.Label("row")
	g.MOVUPS(Mem{Base: keys}, reg.X15)
	for i, r := range state {
		g.MOVUPS(load(i), reg.X14)
		g.PXOR(reg.X14, r)
		g.PXOR(reg.X15, r)
	}
	g.roundsNI("last", keys, rounds, state, g.AESENC, g.AESENCLAST)
	for i, r := range state {
		g.MOVUPS(r, load(i))
	}
	g.ADDQ(Imm(16), off)
	g.DECQ(rows)
	g.JNZ(LabelRef("row"))
	g.RET()
}

// cbcEncryptOwnAESNI is cbcEncryptAESNI for eight packets with a key each, all of
// one length: a round key of every lane after the other.
func (g *generator) cbcEncryptOwnAESNI() {
	const count = 8
	g.function("cbcEncryptOwnAESNI", "(keys *byte, rounds int, lanes *byte, rows int)")
	keys := g.Load(g.Param("keys"), g.GP64())
	rounds := g.Load(g.Param("rounds"), g.GP64())
	lanes := g.Load(g.Param("lanes"), g.GP64())
	rows := g.Load(g.Param("rows"), g.GP64())
	ptr, off, last := g.GP64(), g.GP64(), g.GP64()
	state := xmm[:count]
	load := func(lane int) Mem {
		g.MOVQ(Mem{Base: lanes, Disp: lanePtr + 8*lane}, ptr)
		return Mem{Base: ptr, Index: off, Scale: 1}
	}
	key := func(from reg.Register, k, lane int) Mem { return Mem{Base: from, Disp: 16 * (count*k + lane)} }
	// Go aligns the keys to eight bytes, and instructions with an operand in memory
	// want sixteen unless they are VEX.
	g.MOVQ(rounds, last)
	g.SHLQ(Imm(7), last)
	g.ADDQ(keys, last)
	g.XORQ(off, off)
	for i, r := range state {
		g.VMOVDQU(load(i).Offset(-16), r)
	}
	g.Label("row")
	for i, r := range state {
		g.VPXOR(load(i), r, r)
		g.VPXOR(key(keys, 0, i), r, r)
	}
	g.rounds("last", rounds, func(k int) {
		for i, r := range state {
			g.VAESENC(key(keys, k, i), r, r)
		}
	})
	for i, r := range state {
		g.VAESENCLAST(key(last, 0, i), r, r)
	}
	for i, r := range state {
		g.VMOVDQU(r, load(i))
	}
	g.ADDQ(Imm(16), off)
	g.DECQ(rows)
	g.JNZ(LabelRef("row"))
	g.VZEROALL()
	g.RET()
}

// cbcDecryptAESNI decrypts one packet from its end, eight blocks at a time.
func (g *generator) cbcDecryptAESNI() {
	g.function("cbcDecryptAESNI", "(keys *byte, rounds int, ptr *byte, blocks int)")
	keys := g.Load(g.Param("keys"), g.GP64())
	rounds := g.Load(g.Param("rounds"), g.GP64())
	ptr := g.Load(g.Param("ptr"), g.GP64())
	blocks := g.Load(g.Param("blocks"), g.GP64())
	end := g.GP64()
	g.MOVQ(blocks, end)
	g.SHLQ(Imm(4), end)
	g.ADDQ(ptr, end)
	for _, n := range []int{8, 4, 2, 1} {
		loop, rest := fmt.Sprintf("whole%d", n), fmt.Sprintf("rest%d", n)
		g.SUBQ(Imm(uint64(n)), blocks)
		g.JL(LabelRef(rest))
		g.Label(loop)
		g.SUBQ(Imm(uint64(16*n)), end)
		g.MOVUPS(Mem{Base: keys}, reg.X15)
		for i, r := range xmm[:n] {
			g.MOVUPS(Mem{Base: end, Disp: 16 * i}, r)
			g.PXOR(reg.X15, r)
		}
		g.roundsNI(fmt.Sprintf("last%d", n), keys, rounds, xmm[:n], g.AESDEC, g.AESDECLAST)
		for i, r := range xmm[:n] {
			g.MOVUPS(Mem{Base: end, Disp: 16*i - 16}, reg.X14)
			g.PXOR(reg.X14, r)
		}
		for i, r := range xmm[:n] {
			g.MOVUPS(r, Mem{Base: end, Disp: 16 * i})
		}
		g.SUBQ(Imm(uint64(n)), blocks)
		g.JGE(LabelRef(loop))
		g.Label(rest)
		g.ADDQ(Imm(uint64(n)), blocks)
	}
	g.RET()
}
