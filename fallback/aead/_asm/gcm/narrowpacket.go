// SPDX-License-Identifier: Apache-2.0

package main

import (
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

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
