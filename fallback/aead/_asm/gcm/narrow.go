// SPDX-License-Identifier: Apache-2.0

package main

import (
	"github.com/mmcloughlin/avo/attr"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// A narrowGen writes the functions for 16 registers of 16 or 32 bytes, VEX
// encoded. Packets go one after the other; the CPU overlaps them.
type narrowGen struct {
	*generator
	size    int // bytes of a vector
	opening bool
}

func vaes256(g *generator) { narrow(g, 32, "VAES256") }
func aesni(g *generator)   { narrow(g, 16, "AESNI") }

func narrow(g *generator, size int, level string) {
	n := &narrowGen{g, size, false}
	n.function("gcmSeal"+level, "(keys *byte, step int, pkts *byte, n int)")
	n.Pragma("noescape")
	n.packets(narrowSeal)
	n.opening = true
	n.function("gcmOpen"+level, "(keys *byte, step int, pkts *byte, n int, side *byte, room int)")
	n.Pragma("noescape")
	n.packets(narrowStream + streamRoom)
}

// The frame.
const (
	narrowNonceLast = 0  // nonce where the counter runs over
	narrowMask      = 32 // the encrypted first counter block
	narrowHash      = 48 // what was hashed before the last group of blocks
	narrowPower     = 64 // pointer to the power that belongs to it
	narrowHigh      = 72 // the counter's bytes above the lowest
	narrowLen       = 80 // of the payload
	narrowSide      = 88
	narrowNonce     = 96
	narrowKeys      = 128 // pointer to the pointer to the packet's key
	narrowStep      = 136 // from it to the next one's
	narrowSeal      = 160
	narrowStream    = 160

	narrowStates = 8
)

// v is a vector register.
func (n *narrowGen) v(i int) Register {
	if n.size == 32 {
		return []Register{Y0, Y1, Y2, Y3, Y4, Y5, Y6, Y7, Y8, Y9, Y10, Y11, Y12, Y13, Y14, Y15}[i]
	}
	return n.x(i)
}

func (n *narrowGen) x(i int) Register {
	return []Register{X0, X1, X2, X3, X4, X5, X6, X7, X8, X9, X10, X11, X12, X13, X14, X15}[i]
}

// Vector registers; 0 to 7 are counter blocks and what they become.
const (
	vLow = 8 + iota
	vMiddle
	vHigh
	vPower
	vKey
	vA
	vB
	vText
)

func (n *narrowGen) chunk() int { return narrowStates * n.size }

// twice returns a constant of 16 bytes as often as it fits a vector of 32.
func (n *narrowGen) twice(name string, low, high uint64) Mem {
	if m, ok := n.consts[name]; ok {
		return m
	}
	m := n.StaticGlobal(name)
	n.DataAttributes(attr.RODATA | attr.NOPTR)
	for range 2 {
		n.AppendDatum(U64(low))
		n.AppendDatum(U64(high))
	}
	n.consts[name] = m
	return m
}

func (n *narrowGen) swap() Mem {
	return n.twice("gcmSwap", 0x08090a0b0c0d0e0f, 0x0001020304050607)
}

// packets is the body of both functions.
func (n *narrowGen) packets(frameSize int) {
	local := n.AllocLocal(frameSize + 32)
	n.Load(n.Param("keys"), key)
	n.Load(n.Param("step"), R14)
	n.Load(n.Param("pkts"), cursor)
	n.Load(n.Param("n"), left)
	n.LEAQ(local.Offset(31), frame)
	n.ANDQ(I32(-32), frame)
	n.SUBQ(R14, key)
	n.MOVQ(key, at(frame, narrowKeys))
	n.MOVQ(R14, at(frame, narrowStep))
	if n.opening {
		own := n.label("own")
		n.Load(n.Param("side"), RAX)
		n.TESTQ(RAX, RAX)
		n.JNZ(LabelRef(own))
		n.LEAQ(at(frame, narrowStream), RAX)
		n.Label(own)
		n.MOVQ(RAX, at(frame, narrowSide))
	}
	next, skip, good, done := n.label("packet"), n.label("skip"), n.label("good"), n.label("done")
	n.Label(next)
	n.TESTQ(left, left)
	n.JZ(LabelRef(done))
	n.MOVQ(at(frame, narrowKeys), key)
	n.ADDQ(at(frame, narrowStep), key)
	n.MOVQ(key, at(frame, narrowKeys))
	n.MOVQ(at(key, 0), key)
	n.MOVQ(at(key, keyRounds), rounds)
	n.MOVQ(at(key, keyCounters), lastT)
	n.ADDQ(U32(counterRun*block-n.chunk()), lastT)
	n.MOVQ(at(cursor, pktLen), now)
	n.SUBQ(Imm(headerLen), now)
	n.SUBQ(at(key, keyICV), now)
	n.JGE(LabelRef(good))
	n.MOVB(U8(0), at(cursor, pktOK))
	n.Label(skip)
	n.ADDQ(Imm(pktSize), cursor)
	n.DECQ(left)
	n.JMP(LabelRef(next))
	n.Label(good)
	n.start()
	n.hashAndCount()
	n.finish(skip)
	n.Label(done)
	n.VZEROUPPER()
	n.RET()
}

// start prepares nonce, tag mask and additional data as wideGen.startOne.
func (n *narrowGen) start() {
	n.MOVQ(now, at(frame, narrowLen))
	n.MOVQ(at(cursor, pktData), src)
	n.VMOVQ(at(src, 0), X0)
	n.VPINSRQ(U8(1), at(cursor, pktSeq), X0, X0)
	n.VPSHUFB(at(key, keyAADShuffle), X0, X1)
	n.VMOVDQU(X1, at(frame, narrowHash))
	if n.opening {
		n.VMOVDQU(at(src, 0), X0)
		n.VPSHUFB(n.constant("gcmNonceOpen", 0x0b0a090880808080, 0x808080800f0e0d0c), X0, X0)
		n.MOVQ(at(frame, narrowSide), side)
	} else {
		n.VPSHUFB(n.constant("gcmNonceSeal", 0x0c0d0e0f80808080, 0x8080808008090a0b), X0, X0)
		n.MOVB(U8(1), at(cursor, pktOK))
		n.MOVQ(at(cursor, pktSeq), RCX)
		n.BSWAPQ(RCX)
		n.MOVQ(RCX, at(src, 8))
	}
	n.VPXOR(at(key, keyBase), X0, n.x(vA))
	n.VPXOR(n.constant("gcmOne", 0, 1<<56), n.x(vA), X0)
	n.aes(1, n.x, nil)
	n.VMOVDQU(X0, at(frame, narrowMask))
	if n.size == 32 {
		n.VINSERTI128(U8(1), n.x(vA), n.v(vA), n.v(vA))
	}
	n.VMOVDQU(n.v(vA), at(frame, narrowNonceLast))
	n.VMOVDQU(n.v(vA), at(frame, narrowNonce))
	n.ADDQ(Imm(headerLen), src)
	n.LEAQ(at(lastT, n.chunk()-counterRun*block), ctr)
	n.MOVQ(U32(0), at(frame, narrowHigh))
}

// aes does all rounds but the first key's addition on the first count
// registers, with other instructions in between.
func (n *narrowGen) aes(count int, v func(int) Register, between []func()) {
	const always = 9
	load := func(m Mem) {
		if v(vKey).Size() == 32 {
			n.VBROADCASTI128(m, v(vKey))
		} else {
			n.VMOVDQU(m, v(vKey))
		}
	}
	slot, done := 0, 0
	for i := 1; i <= always; i++ {
		load(at(key, keyRoundKeys+i*block))
		for j := range count {
			n.VAESENC(v(vKey), v(j), v(j))
			for slot++; done < len(between)*slot/(always*count); done++ {
				between[done]()
			}
		}
	}
	last := n.label("last")
	n.CMPQ(rounds, Imm(12))
	n.JB(LabelRef(last))
	for i := always + 1; i < maxRounds; i++ {
		if i == 12 {
			n.JE(LabelRef(last))
		}
		load(at(key, keyRoundKeys+i*block))
		for j := range count {
			n.VAESENC(v(vKey), v(j), v(j))
		}
	}
	n.Label(last)
	n.MOVQ(rounds, R14)
	n.SHLQ(U8(4), R14)
	load(Mem{Base: key, Index: R14, Scale: 1, Disp: keyRoundKeys})
	for j := range count {
		n.VAESENCLAST(v(vKey), v(j), v(j))
	}
}

// foldLanes adds up the sums' two lanes.
func (n *narrowGen) foldLanes() {
	if n.size == 16 {
		return
	}
	for _, i := range []int{vLow, vMiddle, vHigh} {
		n.VEXTRACTI128(U8(1), n.v(i), X0)
		n.VPXOR(X0, n.x(i), n.x(i))
	}
}

// reduce folds the sums to one block, in vHigh.
func (n *narrowGen) reduce() {
	n.VMOVDQU(n.constant("gcmPoly", 1, 0xc2<<56), X1)
	for i := vLow; i < vHigh; i++ {
		n.VPCLMULQDQ(U8(0x01), n.x(i), X1, X0)
		n.VPSHUFD(U8(0x4e), n.x(i), n.x(i))
		n.VPXOR(n.x(i), n.x(i+1), n.x(i+1))
		n.VPXOR(X0, n.x(i+1), n.x(i+1))
	}
}

// finish makes the tag, and writes or compares it, and goes to the next packet.
func (n *narrowGen) finish(next string) {
	n.foldLanes()
	n.MOVQ(at(frame, narrowPower), RAX)
	n.VMOVDQU(at(frame, narrowHash), X0)
	n.VMOVQ(at(frame, narrowLen), X2)
	n.VPSLLQ(U8(3), X2, X2)
	n.VPXOR(at(key, keyLengths), X2, X2)
	for _, f := range []struct {
		block Register
		power Mem
	}{{X0, at(RAX, 0)}, {X2, at(key, keyPower1)}} {
		for _, p := range []struct{ imm, sum int }{{0x00, vLow}, {0x01, vMiddle}, {0x10, vMiddle}, {0x11, vHigh}} {
			n.VPCLMULQDQ(U8(p.imm), f.power, f.block, X3)
			n.VPXOR(X3, n.x(p.sum), n.x(p.sum))
		}
	}
	n.reduce()
	n.VPSHUFB(n.swap(), n.x(vHigh), X0)
	n.VPXOR(at(frame, narrowMask), X0, X0)
	n.MOVQ(at(cursor, pktData), src)
	n.MOVQ(at(frame, narrowLen), now)
	n.MOVQ(at(key, keyICV), RCX)
	if !n.opening {
		n.putTag(next)
		return
	}
	n.LEAQ(Mem{Base: src, Index: now, Scale: 1}, R14)
	n.VPSHUFB(at(key, keyTagShuffle), X0, X0)
	n.VPXOR(Mem{Base: R14, Index: RCX, Scale: 1}, X0, X0)
	n.VPTEST(at(key, keyTagMask), X0)
	n.SETEQ(at(cursor, pktOK))
	n.JNE(LabelRef(next))
	n.decrypt(next)
}

func (n *narrowGen) putTag(next string) {
	short, end := n.label("short"), n.label("eight")
	n.LEAQ(Mem{Base: src, Index: now, Scale: 1, Disp: headerLen}, src)
	n.CMPQ(RCX, Imm(16))
	n.JNE(LabelRef(short))
	n.VMOVDQU(X0, at(src, 0))
	n.JMP(LabelRef(next))
	n.Label(short)
	n.VMOVQ(X0, at(src, 0))
	n.CMPQ(RCX, Imm(8))
	n.JE(LabelRef(end))
	n.VPEXTRD(U8(2), X0, at(src, 8))
	n.Label(end)
	n.JMP(LabelRef(next))
}

// decrypt adds the key stream to a packet whose tag is right.
func (n *narrowGen) decrypt(next string) {
	n.ADDQ(Imm(headerLen), src)
	n.MOVQ(at(frame, narrowSide), side)
	add := func(count, size int, v func(int) Register) {
		loop, end := n.label("add"), n.label("added")
		bytes := count * size
		n.Label(loop)
		n.SUBQ(U32(bytes), now)
		n.JB(LabelRef(end))
		for i := range count {
			n.VMOVDQU(at(side, i*size), v(i))
			n.VPXOR(at(src, i*size), v(i), v(i))
			n.VMOVDQU(v(i), at(src, i*size))
		}
		n.ADDQ(U32(bytes), src)
		n.ADDQ(U32(bytes), side)
		n.JMP(LabelRef(loop))
		n.Label(end)
		n.ADDQ(U32(bytes), now)
	}
	add(4, n.size, n.v)
	add(1, 16, n.x)
	n.JZ(LabelRef(next))
	n.loadPart(X0, src, now)
	n.VPXOR(at(side, 0), X0, X0)
	n.storePart(X0, src, now)
	n.JMP(LabelRef(next))
}
