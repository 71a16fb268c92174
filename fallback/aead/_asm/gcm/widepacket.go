// SPDX-License-Identifier: Apache-2.0

package main

import (
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// aes does all rounds but the first key's addition, with other instructions in
// between.
func (w *wideGen) aes(st []VecPhysical, between []func()) {
	const always = 9
	slots := always * len(st)
	slot, done := 0, 0
	for i := 1; i <= always; i++ {
		for _, s := range st {
			w.VAESENC(roundKey(i), s, s)
			for slot++; done < len(between)*slot/slots; done++ {
				between[done]()
			}
		}
	}
	last := w.label("last")
	w.CMPQ(rounds, Imm(12))
	w.JB(LabelRef(last))
	for i := always + 1; i < maxRounds; i++ {
		if i == 12 {
			w.JE(LabelRef(last))
		}
		for _, s := range st {
			w.VAESENC(roundKey(i), s, s)
		}
	}
	w.Label(last)
	for _, s := range st {
		w.VAESENCLAST(lastKey, s, s)
	}
}

// packet encrypts (or makes the key stream of) one packet, and hashes all of
// it but what finish does for four packets at once.
func (w *wideGen) packet() {
	index := func(disp, scale int) Mem { return Mem{Base: frame, Index: lane, Scale: uint8(scale), Disp: disp} }
	long, next, chunks, tail, end := w.label("long"), w.label("blocks"), w.label("chunks"), w.label("tail"), w.label("end")
	w.MOVQ(index(framePtr, 8), src)
	w.ADDQ(Imm(headerLen), src)
	w.MOVQ(index(frameLen, 8), now)
	if w.opening {
		w.MOVQ(index(frameSide, 8), side)
	}
	w.MOVQ(lane, at(frame, frameLane))
	w.MOVQ(lane, R14)
	w.SHLQ(U8(4), R14)
	w.VBROADCASTI32X4(Mem{Base: frame, Index: R14, Scale: 1, Disp: frameNonces}, nonce)
	w.VMOVDQA64(nonce, nonceLast)
	w.LEAQ(at(lastT, chunk-counterRun*block), ctr)
	w.MOVQ(U32(0), at(frame, frameHigh))
	w.XORL(ECX, ECX)
	w.CMPQ(now, U32(groupBytes))
	w.JA(LabelRef(long))
	w.lastPower()
	w.LEAQ(at(power, -block), R14)
	w.MOVQ(R14, index(framePower, 8))
	if w.opening {
		w.loadDue()
	}
	w.clearSums()
	w.Label(chunks)
	w.chunks(tail)
	w.JMP(LabelRef(tail))

	w.Label(long) // R14 is 16 times the lane
	w.MOVQ(now, later)
	w.SUBQ(U32(groupBytes), later)
	w.MOVL(U32(groupBytes), now.(GP).As32())
	w.VMOVDQU(Mem{Base: frame, Index: R14, Scale: 1, Disp: frameHash}, X0)
	w.LEAQ(at(key, keyPower1-96*block), power)
	w.firstProducts()
	w.ADDQ(Imm(block), power)
	if w.opening {
		w.loadDue()
	}
	w.JMP(LabelRef(chunks))

	w.Label(next)
	w.reduce(low, middle, high, temp[0], temp[1])
	w.VEXTRACTI64X4(U8(1), high, Y0)
	w.VPXORQ(Y0, Y10, Y0)
	w.VEXTRACTI32X4(U8(1), Y0, X1)
	w.VPXORQ(X1, X0, X0)
	more := w.label("more")
	w.CMPQ(later, U32(groupBytes))
	w.JA(LabelRef(more))
	w.MOVQ(later, now)
	w.XORL(ECX, ECX)
	w.lastPower()
	w.MOVQ(at(frame, frameLane), R14)
	w.MOVQ(power, Mem{Base: frame, Index: R14, Scale: 8, Disp: framePower})
	w.SHLQ(U8(4), R14)
	w.VMOVDQU(X0, Mem{Base: frame, Index: R14, Scale: 1, Disp: frameHash})
	w.clearSums()
	w.JMP(LabelRef(chunks))
	w.Label(more)
	w.SUBQ(U32(groupBytes), later)
	w.MOVL(U32(groupBytes), now.(GP).As32())
	w.LEAQ(at(key, keyPower1-95*block), power)
	w.firstProducts()
	w.JMP(LabelRef(chunks))

	w.Label(tail)
	w.ADDQ(U32(chunk), now)
	w.JZ(LabelRef(end))
	w.runOver()
	w.tail(end)
	w.Label(end)
	w.TESTQ(later, later)
	w.JNZ(LabelRef(next))
	w.MOVQ(at(frame, frameLane), R14)
	w.LEAQ(Mem{Base: R14, Index: R14, Scale: 2}, R14)
	w.SHLQ(U8(6), R14)
	for i, v := range []VecPhysical{low, middle, high} {
		w.VMOVDQU64(v, Mem{Base: frame, Index: R14, Scale: 1, Disp: frameAcc + i*vector})
	}
	if w.opening {
		w.decrypt()
		w.MOVQ(at(frame, frameLane), lane)
	}
}

// chunks does as many chunks as there are now. When encrypting, a chunk is
// hashed while the next one is encrypted; when decrypting, a chunk of what is
// due is decrypted.
func (w *wideGen) chunks(end string) {
	loop, last := w.label("chunk"), w.label("chunk")
	next := func(rs ...Register) {
		for _, r := range rs {
			w.ADDQ(U32(chunk), r)
		}
		w.SUBQ(U32(chunk), now)
	}
	w.SUBQ(U32(chunk), now)
	w.JB(LabelRef(end))
	if w.opening {
		w.Label(loop)
		w.CMPQ(dueLen, U32(chunk))
		w.JB(LabelRef(last))
		w.runOver()
		w.vectors(4, false, w.addStream())
		w.ADDQ(U32(chunk), duePtr)
		w.ADDQ(U32(chunk), dueSide)
		w.SUBQ(U32(chunk), dueLen)
		next(src, ctr, power, side)
		w.JAE(LabelRef(loop))
		w.JMP(LabelRef(end))
		w.Label(last)
		w.runOver()
		w.vectors(4, false, nil)
		next(src, ctr, power, side)
		w.JAE(LabelRef(last))
		return
	}
	w.runOver()
	w.vectors(4, false, nil)
	next(src, ctr)
	w.JB(LabelRef(last))
	w.Label(loop)
	w.runOver()
	w.vectors(4, false, w.products(text))
	next(src, ctr, power)
	w.JAE(LabelRef(loop))
	w.Label(last)
	for _, f := range w.products(text) {
		f()
	}
	w.ADDQ(U32(chunk), power)
}

// addStream decrypts a chunk of what is due.
func (w *wideGen) addStream() (out []func()) {
	for i := range 4 {
		out = append(out, func() { w.VMOVDQU64(at(dueSide, i*vector), due) })
		out = append(out, func() { w.VPXORQ(at(duePtr, i*vector), due, due) })
		out = append(out, func() { w.VMOVDQU64(due, at(duePtr, i*vector)) })
	}
	return out
}

// lastPower is the power of the first block of the last group: of as many
// blocks as there are now, and one for the block of lengths.
func (w *wideGen) lastPower() {
	w.LEAQ(at(now, block-1), R14)
	w.ANDQ(I32(-block), R14)
	w.LEAQ(at(key, keyPower1), power)
	w.SUBQ(R14, power)
}

func (w *wideGen) clearSums() {
	for _, x := range []VecPhysical{X8, X9, X10} {
		w.VPXORQ(x, x, x)
	}
}

// firstProducts begins the sums with what was hashed before, in X0.
func (w *wideGen) firstProducts() {
	w.VMOVDQU(at(power, 0), X1)
	w.VPCLMULQDQ(U8(0x00), X1, X0, X8)
	w.VPCLMULQDQ(U8(0x01), X1, X0, X9)
	w.VPCLMULQDQ(U8(0x10), X1, X0, X2)
	w.VPCLMULQDQ(U8(0x11), X1, X0, X10)
	w.VPXORQ(X2, X9, X9)
}

// runOver prepares the nonces where the counter's lowest byte runs over, which
// is in the last vector of the chunk at lastT and after that chunk.
func (w *wideGen) runOver() {
	after, end := w.label("after"), w.label("ready")
	w.CMPQ(ctr, lastT)
	w.JB(LabelRef(end))
	w.JA(LabelRef(after))
	w.INCQ(at(frame, frameHigh))
	w.changeHigh(nonceLast, 0x8800)
	w.JMP(LabelRef(end))
	w.Label(after)
	w.changeHigh(nonce, 0x8888)
	w.VMOVDQA64(nonce, nonceLast)
	w.SUBQ(U32(counterRun*block), ctr)
	w.Label(end)
}

// changeHigh makes the counter's upper bytes what they became, in the
// doublewords that the mask selects. They became one more.
func (w *wideGen) changeHigh(v VecPhysical, mask uint32) {
	w.MOVL(U32(mask), R14.As32())
	w.KMOVW(R14.As32(), K7)
	w.MOVQ(at(frame, frameHigh), R14)
	w.BLSMSKQ(R14, R14)
	w.SHLQ(U8(8), R14)
	w.BSWAPL(R14.As32())
	w.VPBROADCASTD_Z(R14.As32(), K7, temp[0])
	w.VPXORQ(temp[0], v, v)
}

// tail is the last 1 to 255 bytes, in as many vectors as it takes.
func (w *wideGen) tail(end string) {
	var label [5]string
	for n := 2; n <= 4; n++ {
		label[n] = w.label("vectors")
	}
	w.CMPQ(now, Imm(2*vector))
	w.JA(LabelRef(label[3]))
	w.CMPQ(now, Imm(vector))
	w.JA(LabelRef(label[2]))
	for n := 1; n <= 4; n++ {
		if n > 1 {
			w.Label(label[n])
			if n == 3 {
				w.CMPQ(now, U32(3*vector))
				w.JA(LabelRef(label[4]))
			}
		}
		w.partMask(n)
		w.vectors(n, true, nil)
		if n < 4 {
			w.JMP(LabelRef(end))
		}
	}
}

// partMask sets tailMask for the last of n vectors; now is not changed.
func (w *wideGen) partMask(n int) {
	w.MOVQ(later, R14)
	w.MOVL(U32(n*vector), ECX)
	w.SUBL(now.(GP).As32(), ECX)
	w.MOVQ(I32(-1), now)
	w.SHRQ(CL, now)
	w.KMOVQ(now, tailMask)
	w.MOVQ(R14, later)
}

// byWidth runs f for the narrowest register that takes the bytes of the mask,
// which is in RAX as well. A masked access counts as one of its full width
// where the CPU looks for a load that depends on a store, so that a wide one
// would wait for what was just written to the next packet in memory.
func (w *wideGen) byWidth(z VecPhysical, f func(r Register)) {
	wide, half, end := w.label("wide"), w.label("half"), w.label("accessed")
	w.BTQ(U8(32), RAX)
	w.JCS(LabelRef(wide))
	w.BTQ(U8(16), RAX)
	w.JCS(LabelRef(half))
	f(z.(Vec).AsX())
	w.JMP(LabelRef(end))
	w.Label(half)
	f(z.(Vec).AsY())
	w.JMP(LabelRef(end))
	w.Label(wide)
	f(z)
	w.Label(end)
}

// loadPart loads the bytes of the mask, and zeros behind them.
func (w *wideGen) loadPart(from Mem, to VecPhysical) {
	w.byWidth(to, func(r Register) { w.VMOVDQU8_Z(from, tailMask, r) })
}

// storePart stores the bytes of the mask.
func (w *wideGen) storePart(from VecPhysical, to Mem) {
	w.byWidth(from, func(r Register) { w.VMOVDQU8(r, tailMask, to) })
}

// vectors does n vectors of the packet, of which the last may be partial. When
// encrypting, whole ones are left to be hashed in text.
func (w *wideGen) vectors(n int, partial bool, between []func()) {
	for i := range n {
		nc := nonce
		if i == 3 {
			nc = nonceLast
		}
		w.VPXORQ(at(ctr, i*vector), nc, state[i])
	}
	last := at(src, (n-1)*vector)
	if w.opening {
		var hash []func()
		if partial {
			w.loadPart(last, text[n-1])
		}
		for i := range n {
			hash = append(hash, func() {
				if !partial || i < n-1 {
					w.VMOVDQU64(at(src, i*vector), text[i])
				}
			}, func() { w.VPSHUFB(at(frame, frameSwap), text[i], text[i]) })
		}
		hash = append(hash, w.products(text[:n])...)
		w.aes(state[:n], merge(hash, between))
		for i := range n {
			w.VMOVDQU64(state[i], at(side, i*vector))
		}
		return
	}
	to := text
	if partial {
		w.loadPart(last, text[0])
		to = state
	}
	w.aes(state[:n], between)
	for i := range n {
		m := at(src, i*vector)
		if partial && i == n-1 {
			w.VPXORQ(text[0], state[i], state[i])
			w.storePart(state[i], m)
			w.VMOVDQU8_Z(state[i], tailMask, state[i])
		} else {
			w.VPXORQ(m, state[i], state[i])
			w.VMOVDQU64(state[i], m)
		}
		w.VPSHUFB(swap, state[i], to[i])
	}
	if !partial {
		return
	}
	for _, f := range w.products(state[:n]) {
		f()
	}
}

// merge spreads the shorter list over the longer one.
func merge(long, short []func()) (out []func()) {
	done := 0
	for i, f := range long {
		out = append(out, f)
		for ; done < len(short)*(i+1)/len(long); done++ {
			out = append(out, short[done])
		}
	}
	return out
}

// products adds the products of vectors of blocks with the powers to the sums.
func (w *wideGen) products(v []VecPhysical) (out []func()) {
	a, b, p, q := temp[0], temp[1], temp[2], temp[3]
	mul := func(imm int, v, p, to VecPhysical) {
		out = append(out, func() { w.VPCLMULQDQ(U8(imm), p, v, to) })
	}
	add := func(sum, x, y VecPhysical) {
		out = append(out, func() { w.VPTERNLOGQ(xor3, x, y, sum) })
	}
	load := func(i int, to VecPhysical) {
		out = append(out, func() { w.VMOVDQU64(at(power, i*vector), to) })
	}
	for i := 0; i+1 < len(v); i += 2 {
		load(i, p)
		load(i+1, q)
		mul(0x00, v[i], p, a)
		mul(0x00, v[i+1], q, b)
		add(low, a, b)
		mul(0x11, v[i], p, a)
		mul(0x11, v[i+1], q, b)
		add(high, a, b)
		mul(0x01, v[i], p, a)
		mul(0x10, v[i], p, b)
		add(middle, a, b)
		mul(0x01, v[i+1], q, a)
		mul(0x10, v[i+1], q, b)
		add(middle, a, b)
	}
	if i := len(v) - 1; len(v)%2 == 1 {
		load(i, p)
		mul(0x01, v[i], p, a)
		mul(0x10, v[i], p, b)
		add(middle, a, b)
		mul(0x00, v[i], p, a)
		out = append(out, func() { w.VPXORQ(a, low, low) })
		mul(0x11, v[i], p, b)
		out = append(out, func() { w.VPXORQ(b, high, high) })
	}
	return out
}
