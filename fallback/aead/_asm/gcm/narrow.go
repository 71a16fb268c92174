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
	n.function("gcmSeal"+level, "(k *byte, pkts *byte, n int)")
	n.Pragma("noescape")
	n.packets(narrowSeal)
	n.opening = true
	n.function("gcmOpen"+level, "(k *byte, pkts *byte, n int, side *byte, room int)")
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
	narrowSeal      = 128
	narrowStream    = 128

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
	n.Load(n.Param("k"), key)
	n.Load(n.Param("pkts"), cursor)
	n.Load(n.Param("n"), left)
	n.LEAQ(local.Offset(31), frame)
	n.ANDQ(I32(-32), frame)
	n.MOVQ(at(key, keyRounds), rounds)
	n.MOVQ(at(key, keyCounters), lastT)
	n.ADDQ(U32(counterRun*block-n.chunk()), lastT)
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

// hashAndCount encrypts (or makes the key stream of) a packet and hashes it,
// as wideGen.packet.
func (n *narrowGen) hashAndCount() {
	long, chunks, tail, next, end := n.label("long"), n.label("chunks"), n.label("tail"), n.label("blocks"), n.label("end")
	n.XORL(ECX, ECX)
	n.CMPQ(now, U32(groupBytes))
	n.JA(LabelRef(long))
	n.lastPower()
	n.LEAQ(at(power, -block), R14)
	n.MOVQ(R14, at(frame, narrowPower))
	n.clearSums()
	n.Label(chunks)
	n.chunks(tail)
	n.JMP(LabelRef(tail))

	n.Label(long)
	n.MOVQ(now, later)
	n.SUBQ(U32(groupBytes), later)
	n.MOVL(U32(groupBytes), EAX)
	n.VMOVDQU(at(frame, narrowHash), X0)
	n.LEAQ(at(key, keyPower1-96*block), power)
	n.firstProducts()
	n.ADDQ(Imm(block), power)
	n.JMP(LabelRef(chunks))

	n.Label(next)
	n.foldLanes()
	n.reduce()
	more := n.label("more")
	n.CMPQ(later, U32(groupBytes))
	n.JA(LabelRef(more))
	n.MOVQ(later, now)
	n.XORL(ECX, ECX)
	n.lastPower()
	n.MOVQ(power, at(frame, narrowPower))
	n.VMOVDQU(n.x(vHigh), at(frame, narrowHash))
	n.clearSums()
	n.JMP(LabelRef(chunks))
	n.Label(more)
	n.SUBQ(U32(groupBytes), later)
	n.MOVL(U32(groupBytes), EAX)
	n.LEAQ(at(key, keyPower1-95*block), power)
	n.VMOVDQA(n.x(vHigh), X0)
	n.firstProducts()
	n.JMP(LabelRef(chunks))

	n.Label(tail)
	n.ADDQ(U32(n.chunk()), now)
	n.JZ(LabelRef(end))
	n.tail()
	n.Label(end)
	n.TESTQ(later, later)
	n.JNZ(LabelRef(next))
}

func (n *narrowGen) lastPower() {
	n.LEAQ(at(now, block-1), R14)
	n.ANDQ(I32(-block), R14)
	n.LEAQ(at(key, keyPower1), power)
	n.SUBQ(R14, power)
}

func (n *narrowGen) clearSums() {
	for _, i := range []int{vLow, vMiddle, vHigh} {
		n.VPXOR(n.x(i), n.x(i), n.x(i))
	}
}

// firstProducts begins the sums with what was hashed before, in X0.
func (n *narrowGen) firstProducts() {
	n.VMOVDQU(at(power, 0), X1)
	n.VPCLMULQDQ(U8(0x00), X1, X0, n.x(vLow))
	n.VPCLMULQDQ(U8(0x01), X1, X0, n.x(vMiddle))
	n.VPCLMULQDQ(U8(0x10), X1, X0, X2)
	n.VPCLMULQDQ(U8(0x11), X1, X0, n.x(vHigh))
	n.VPXOR(X2, n.x(vMiddle), n.x(vMiddle))
}

// chunks does as many chunks as there are now. When encrypting, a chunk is
// hashed while the next one is encrypted.
func (n *narrowGen) chunks(end string) {
	loop, last := n.label("chunk"), n.label("chunk")
	size := n.chunk()
	next := func(rs ...Register) {
		for _, r := range rs {
			n.ADDQ(U32(size), r)
		}
		n.SUBQ(U32(size), now)
	}
	n.SUBQ(U32(size), now)
	n.JB(LabelRef(end))
	if n.opening {
		n.Label(loop)
		n.runOver()
		n.vectors(n.products(narrowStates, 0, n.v))
		next(src, ctr, power, side)
		n.JAE(LabelRef(loop))
		return
	}
	n.runOver()
	n.vectors(nil)
	next(src, ctr)
	n.JB(LabelRef(last))
	n.Label(loop)
	n.runOver()
	n.vectors(n.products(narrowStates, -size, n.v))
	next(src, ctr, power)
	n.JAE(LabelRef(loop))
	n.Label(last)
	for _, f := range n.products(narrowStates, -size, n.v) {
		f()
	}
	n.ADDQ(U32(size), power)
}

// runOver is wideGen.runOver; the two last blocks of a run are the last vector
// of 32 bytes, or two of 16.
func (n *narrowGen) runOver() {
	after, end := n.label("after"), n.label("ready")
	n.CMPQ(ctr, lastT)
	n.JB(LabelRef(end))
	n.JA(LabelRef(after))
	n.MOVQ(at(frame, narrowHigh), R14)
	n.LEAQ(at(R14, 1), R11)
	n.MOVQ(R11, at(frame, narrowHigh))
	n.XORQ(R14, R11)
	n.SHLQ(U8(8), R11)
	n.BSWAPL(R11L)
	n.VMOVD(R11L, n.x(vA))
	n.VPSLLDQ(U8(12), n.x(vA), n.x(vA))
	if n.size == 32 {
		n.VINSERTI128(U8(1), n.x(vA), n.v(vA), n.v(vA))
	}
	n.VPXOR(at(frame, narrowNonce), n.v(vA), n.v(vA))
	n.VMOVDQU(n.v(vA), at(frame, narrowNonceLast))
	n.JMP(LabelRef(end))
	n.Label(after)
	n.VMOVDQU(at(frame, narrowNonceLast), n.v(vA))
	n.VMOVDQU(n.v(vA), at(frame, narrowNonce))
	n.SUBQ(U32(counterRun*block), ctr)
	n.Label(end)
}

// vectors does a chunk of the packet.
func (n *narrowGen) vectors(between []func()) {
	for i := range narrowStates {
		n.counter(i, i*n.size >= n.chunk()-2*block)
	}
	n.aes(narrowStates, n.v, between)
	for i := range narrowStates {
		n.put(n.v(i), i*n.size)
	}
}

// counter makes counter blocks, last if they may be the last of a run.
func (n *narrowGen) counter(i int, last bool) {
	if last {
		n.VMOVDQU(at(ctr, i*n.size), n.v(i))
		n.VPXOR(at(frame, narrowNonceLast), n.v(i), n.v(i))
	} else {
		n.VMOVDQU(at(ctr, i*n.size), n.v(i))
		n.VPXOR(at(frame, narrowNonce), n.v(i), n.v(i))
	}
}

// put encrypts with a vector of key stream, or keeps it when decrypting.
func (n *narrowGen) put(stream Register, disp int) {
	if n.opening {
		n.VMOVDQU(stream, at(side, disp))
		return
	}
	n.VPXOR(at(src, disp), stream, stream)
	n.VMOVDQU(stream, at(src, disp))
}

// products adds the products of count vectors of ciphertext, from an offset,
// with the powers to the sums.
func (n *narrowGen) products(count, disp int, v func(int) Register) (out []func()) {
	size := int(v(0).Size())
	for i := range count {
		out = append(out,
			func() { n.VMOVDQU(at(src, disp+i*size), v(vText)) },
			func() { n.VPSHUFB(n.swap(), v(vText), v(vText)) })
		out = append(out, n.product(at(power, i*size), v)...)
	}
	return out
}

// product adds the product of vText with powers to the sums.
func (n *narrowGen) product(powers Mem, v func(int) Register) (out []func()) {
	var factor Op = powers
	if n.size == 32 { // a load that crosses cache lines costs more in a multiplication
		factor = v(vPower)
		out = append(out, func() { n.VMOVDQU(powers, v(vPower)) })
	}
	for i, p := range []struct{ imm, sum int }{{0x00, vLow}, {0x11, vHigh}, {0x01, vMiddle}, {0x10, vMiddle}} {
		t := v(vA + i%2)
		out = append(out,
			func() { n.VPCLMULQDQ(U8(p.imm), factor, v(vText), t) },
			func() { n.VPXOR(n.widen(t), n.v(p.sum), n.v(p.sum)) })
	}
	return out
}

// widen is the whole register of one that was written with 16 bytes, the rest
// of which is zero.
func (n *narrowGen) widen(r Register) Register {
	if n.size == 32 {
		return r.(Vec).AsY()
	}
	return r
}

// tail is what is left after the chunks: vectors, and at last blocks.
func (n *narrowGen) tail() {
	n.runOver()
	loop, blocks, part, end := n.label("vectors"), n.label("single"), n.label("part"), n.label("done")
	vectors := func(size int, v func(int) Register, loop, end string) {
		n.Label(loop)
		n.CMPQ(now, Imm(uint64(size)))
		n.JB(LabelRef(end))
		n.counterAt(size)
		n.aes(1, v, nil)
		n.put(v(0), 0)
		for _, f := range n.products(1, 0, v) {
			f()
		}
		for _, r := range []Register{src, ctr, power} {
			n.ADDQ(Imm(uint64(size)), r)
		}
		if n.opening {
			n.ADDQ(Imm(uint64(size)), side)
		}
		n.SUBQ(Imm(uint64(size)), now)
		n.JMP(LabelRef(loop))
	}
	if n.size == 32 {
		vectors(32, n.v, loop, blocks)
	}
	vectors(16, n.x, blocks, part)
	n.Label(part)
	n.TESTQ(now, now)
	n.JZ(LabelRef(end))
	n.counterAt(16)
	n.aes(1, n.x, nil)
	if n.opening {
		n.VMOVDQU(X0, at(side, 0))
	}
	n.loadPart(n.x(vText), src, now)
	if !n.opening {
		n.VPXOR(X0, n.x(vText), n.x(vText))
		n.LEAQ(n.partMask(), R14)
		n.SUBQ(now, R14)
		n.VPAND(at(R14, 16), n.x(vText), n.x(vText))
		n.storePart(n.x(vText), src, now)
	}
	n.VPSHUFB(n.swap(), n.x(vText), n.x(vText))
	for _, f := range n.product(at(power, 0), n.x) {
		f()
	}
	n.Label(end)
}

// counterAt makes the next counter block or blocks; those at the end of a run
// have the nonce that runs over.
func (n *narrowGen) counterAt(size int) {
	v := n.v(0)
	if size == 16 {
		v = X0
	}
	last := n.label("plain")
	n.VMOVDQU(at(ctr, 0), v)
	n.VPXOR(at(frame, narrowNonce), v, v)
	n.LEAQ(at(lastT, n.chunk()-2*block), R14)
	n.CMPQ(ctr, R14)
	n.JB(LabelRef(last))
	n.VMOVDQU(at(ctr, 0), v)
	n.VPXOR(at(frame, narrowNonceLast), v, v)
	n.Label(last)
}

// partMask has 16 bytes of ones, then as many of zeros.
func (n *narrowGen) partMask() Mem {
	return n.bytes("gcmPartMask", 32, func(i int) byte {
		if i < 16 {
			return 0xff
		}
		return 0
	})
}

// partShuffle moves bytes down, and zeros in.
func (n *narrowGen) partShuffle() Mem {
	return n.bytes("gcmPartShuffle", 32, func(i int) byte {
		if i < 16 {
			return byte(i)
		}
		return 0x80
	})
}

func (n *narrowGen) bytes(name string, count int, f func(int) byte) Mem {
	if m, ok := n.consts[name]; ok {
		return m
	}
	m := n.StaticGlobal(name)
	n.DataAttributes(attr.RODATA | attr.NOPTR)
	for i := range count {
		n.AppendDatum(U8(f(i)))
	}
	n.consts[name] = m
	return m
}

// loadPart loads the last 1 to 15 bytes of a packet, followed by zeros. It
// reads what precedes them instead of what follows.
func (n *narrowGen) loadPart(to, from, count Register) {
	n.VMOVDQU(Mem{Base: from, Index: count, Scale: 1, Disp: -16}, to)
	n.LEAQ(n.partShuffle(), R14)
	n.SUBQ(count, R14)
	n.VPSHUFB(at(R14, 16), to, to)
}

// storePart stores the first count bytes, 1 to 15. It uses R11 and R14, and
// moves the address.
func (n *narrowGen) storePart(from, to, count Register) {
	n.VMOVQ(from, R14)
	n.VPEXTRQ(U8(1), from, R11)
	for _, size := range []int{8, 4, 2, 1} {
		skip := n.label("not")
		n.TESTL(U32(size), count.(GP).As32())
		n.JZ(LabelRef(skip))
		switch size {
		case 8:
			n.MOVQ(R14, at(to, 0))
			n.MOVQ(R11, R14)
		case 4:
			n.MOVL(R14L, at(to, 0))
			n.SHRQ(U8(32), R14)
		case 2:
			n.MOVW(R14W, at(to, 0))
			n.SHRQ(U8(16), R14)
		case 1:
			n.MOVB(R14B, at(to, 0))
		}
		if size > 1 {
			n.ADDQ(Imm(uint64(size)), to)
		}
		n.Label(skip)
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
