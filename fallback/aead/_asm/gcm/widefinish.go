// SPDX-License-Identifier: Apache-2.0

package main

import (
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// loadDue makes what is due in the lane the present work.
func (w *wideGen) loadDue() {
	index := func(disp int) Mem { return Mem{Base: frame, Index: lane, Scale: 8, Disp: disp} }
	w.MOVQ(index(frameDuePtr), duePtr)
	w.MOVQ(index(frameDueSide), dueSide)
	w.MOVQ(index(frameDueLen), dueLen) // which is the lane's register
}

// reduce folds the sums to one block in each lane, which it leaves in hi: first
// the low half into the middle one, then that into the high one.
func (w *wideGen) reduce(lo, mid, hi, poly, t VecPhysical) {
	if poly == X14 {
		w.VMOVDQU(w.constant("gcmPoly", 1, 0xc2<<56), poly)
	} else {
		w.VBROADCASTI32X4(w.constant("gcmPoly", 1, 0xc2<<56), poly)
	}
	w.VPCLMULQDQ(U8(0x01), lo, poly, t)
	w.VPSHUFD(U8(0x4e), lo, lo)
	w.VPTERNLOGQ(xor3, t, lo, mid)
	w.VPCLMULQDQ(U8(0x01), mid, poly, t)
	w.VPSHUFD(U8(0x4e), mid, mid)
	w.VPTERNLOGQ(xor3, t, mid, hi)
}

// finish makes the tags of four packets, and writes or compares them.
func (w *wideGen) finish() {
	for i, sum := range []VecPhysical{low, middle, high} {
		acc := func(j int) Mem { return at(frame, frameAcc+j*accSize+i*vector) }
		w.VMOVDQU64(acc(0), Z0)
		w.VMOVDQU64(acc(2), Z1)
		w.VSHUFI64X2(U8(0xee), acc(1), Z0, Z2)
		w.VSHUFI64X2(U8(0x44), acc(1), Z0, Z0)
		w.VSHUFI64X2(U8(0xee), acc(3), Z1, Z3)
		w.VSHUFI64X2(U8(0x44), acc(3), Z1, Z1)
		w.VPXORQ(Z2, Z0, Z0)
		w.VPXORQ(Z3, Z1, Z1)
		w.VSHUFI64X2(U8(0xdd), Z1, Z0, Z2)
		w.VSHUFI64X2(U8(0x88), Z1, Z0, Z0)
		w.VPXORQ(Z2, Z0, sum)
	}
	// What was hashed before, and the lengths.
	w.VMOVDQU64(at(frame, frameHash), Z0)
	for j := range lanes {
		w.MOVQ(at(frame, framePower+8*j), RAX)
		if j == 0 {
			w.VBROADCASTI32X4(at(RAX, 0), Z1)
		} else {
			w.VBROADCASTI32X4(at(RAX, 0), laneMask[j], Z1)
		}
	}
	for j, x := range []VecPhysical{X2, X3, X14, X15} {
		w.VMOVQ(at(frame, frameLen+8*j), x)
	}
	w.VINSERTI32X4(U8(1), X3, Z2, Z2)
	w.VINSERTI32X4(U8(1), X15, Z14, Z14)
	w.VINSERTI64X4(U8(1), Y14, Z2, Z2)
	w.VBROADCASTI32X4(at(key, keyLengths), temp[0])
	w.VPSLLQ(U8(3), Z2, Z2)
	w.VPXORQ(temp[0], Z2, Z2)
	w.VBROADCASTI32X4(at(key, keyPower1), Z3)
	for _, p := range []struct {
		imm U8
		sum VecPhysical
	}{{0x00, low}, {0x11, high}, {0x01, middle}, {0x10, middle}} {
		w.VPCLMULQDQ(p.imm, Z1, Z0, temp[0])
		w.VPCLMULQDQ(p.imm, Z3, Z2, temp[1])
		w.VPTERNLOGQ(xor3, temp[0], temp[1], p.sum)
	}
	w.reduce(low, middle, high, temp[0], temp[1])
	if w.opening {
		w.VPSHUFB(at(frame, frameSwap), high, Z0)
	} else {
		w.VPSHUFB(swap, high, Z0)
	}
	w.VPXORQ(at(frame, frameMasks), Z0, Z0)
	if w.opening {
		w.compare()
	} else {
		w.putTags()
	}
}

// finishOne is finish after startOne, with the sums still in their registers.
func (w *wideGen) finishOne() {
	for i, v := range []VecPhysical{low, middle, high} {
		z, v, t := v, v.(Vec), state[i].(Vec)
		w.VEXTRACTI64X4(U8(1), z, t.AsY())
		w.VPXOR(t.AsY(), v.AsY(), v.AsY())
		w.VEXTRACTI128(U8(1), v.AsY(), t.AsX())
		w.VPXOR(t.AsX(), v.AsX(), v.AsX())
	}
	w.MOVQ(at(frame, framePower), RAX)
	w.VMOVDQU(at(frame, frameHash), X0)
	w.VMOVDQU(at(RAX, 0), X1)
	w.VMOVQ(at(frame, frameLen), X2)
	w.VPSLLQ(U8(3), X2, X2)
	w.VPXOR(at(key, keyLengths), X2, X2)
	w.VMOVDQU(at(key, keyPower1), X3)
	for _, p := range []struct {
		imm U8
		sum VecPhysical
	}{{0x00, X8}, {0x01, X9}, {0x10, X9}, {0x11, X10}} {
		w.VPCLMULQDQ(p.imm, X1, X0, X14)
		w.VPCLMULQDQ(p.imm, X3, X2, X15)
		w.VPTERNLOGQ(xor3, X14, X15, p.sum)
	}
	w.reduce(X8, X9, X10, X14, X15)
	if !w.opening {
		w.VPSHUFB(X13, X10, X0)
		w.VPXOR(at(frame, frameMasks), X0, X0)
		w.MOVQ(at(frame, framePtr), RAX)
		w.ADDQ(at(frame, frameLen), RAX)
		w.VMOVDQU8(X0, tagMask, at(RAX, headerLen))
		return
	}
	w.VPSHUFB(at(frame, frameSwap), X10, X0)
	w.VPXOR(at(frame, frameMasks), X0, X0)
	w.MOVQ(at(key, keyICV), RCX)
	w.MOVQ(at(frame, framePtr), RAX)
	w.MOVQ(at(frame, frameLen), RDX)
	w.ADDQ(RAX, RCX)
	w.ADDQ(Imm(headerLen), RAX)
	w.MOVQ(RAX, at(frame, frameDuePtr))
	w.VPSHUFB(at(key, keyTagShuffle), X0, X0)
	w.VPXOR(Mem{Base: RCX, Index: RDX, Scale: 1}, X0, X0)
	w.VPXOR(X2, X2, X2)
	w.VMOVDQU(Y2, at(frame, frameDueLen))
	w.MOVQ(at(frame, frameSide), RAX)
	w.MOVQ(RAX, at(frame, frameDueSide))
	w.MOVQ(U32(1), at(frame, frameDue))
	w.MOVQ(at(frame, framePkt), RAX)
	w.XORL(ECX, ECX)
	w.VPTEST(at(key, keyTagMask), X0)
	w.SETEQ(at(RAX, pktOK))
	w.CMOVQEQ(RDX, RCX)
	w.MOVQ(RCX, at(frame, frameDueLen))
}

func (w *wideGen) putTags() {
	end := w.label("put")
	w.MOVQ(at(frame, frameCount), RCX)
	for j := range lanes {
		if j > 0 {
			w.CMPQ(RCX, Imm(uint64(j)))
			w.JE(LabelRef(end))
			w.VEXTRACTI32X4(U8(j), Z0, X1)
		}
		w.MOVQ(at(frame, framePtr+8*j), RAX)
		w.ADDQ(at(frame, frameLen+8*j), RAX)
		w.VMOVDQU8([]VecPhysical{X0, X1}[min(j, 1)], tagMask, at(RAX, headerLen))
	}
	w.Label(end)
}

// compare sets the packets' OK, and notes those whose tag is right as due to
// be decrypted.
func (w *wideGen) compare() {
	w.MOVQ(at(key, keyICV), RCX)
	for j := range lanes { // the 16 bytes at the packet's end
		w.MOVQ(at(frame, framePtr+8*j), RAX)
		w.ADDQ(at(frame, frameLen+8*j), RAX)
		m := Mem{Base: RAX, Index: RCX, Scale: 1}
		if j == 0 {
			w.VBROADCASTI32X4(m, Z1)
		} else {
			w.VBROADCASTI32X4(m, laneMask[j], Z1)
		}
	}
	w.VBROADCASTI32X4(at(key, keyTagShuffle), Z2)
	w.VPSHUFB(Z2, Z0, Z0)
	w.VPXORQ(Z1, Z0, Z0)
	w.VBROADCASTI32X4(at(key, keyTagMask), Z1)
	w.VPTESTMQ(Z1, Z0, K7)
	w.KMOVB(K7, ECX)
	w.VPXORQ(X0, X0, X0)
	w.VMOVDQU(Y0, at(frame, frameDueLen))
	index := func(disp int) Mem { return Mem{Base: frame, Index: lane, Scale: 8, Disp: disp} }
	w.eachLane(func() {
		w.MOVQ(index(framePkt), RAX)
		w.XORL(EDX, EDX)
		w.TESTL(U32(3), ECX)
		w.SETEQ(at(RAX, pktOK))
		w.CMOVQEQ(index(frameLen), RDX)
		w.MOVQ(RDX, index(frameDueLen))
		w.MOVQ(index(framePtr), RAX)
		w.ADDQ(Imm(headerLen), RAX)
		w.MOVQ(RAX, index(frameDuePtr))
		w.MOVQ(index(frameSide), RAX)
		w.MOVQ(RAX, index(frameDueSide))
		w.SHRL(U8(2), ECX)
	})
	w.MOVQ(lane, at(frame, frameDue))
}

// decryptRest decrypts what is due in lane and those after it.
func (w *wideGen) decryptRest() {
	loop, end := w.label("due"), w.label("nothing")
	w.Label(loop)
	w.CMPQ(lane, at(frame, frameDue))
	w.JAE(LabelRef(end))
	w.MOVQ(lane, at(frame, frameLane))
	w.loadDue()
	w.decrypt()
	w.MOVQ(at(frame, frameLane), lane)
	w.INCQ(lane)
	w.JMP(LabelRef(loop))
	w.Label(end)
}

// decrypt adds the key stream to the rest of what is due.
func (w *wideGen) decrypt() {
	loop, one, part, end := w.label("four"), w.label("one"), w.label("part"), w.label("decrypted")
	w.Label(loop)
	w.SUBQ(U32(chunk), dueLen)
	w.JB(LabelRef(part))
	for _, f := range w.addStream() {
		f()
	}
	w.ADDQ(U32(chunk), duePtr)
	w.ADDQ(U32(chunk), dueSide)
	w.JMP(LabelRef(loop))
	w.Label(part)
	w.ADDQ(U32(chunk), dueLen)
	w.JZ(LabelRef(end))
	w.Label(one)
	w.CMPQ(dueLen, Imm(vector))
	last := w.label("rest")
	w.JBE(LabelRef(last))
	w.VMOVDQU64(at(dueSide, 0), due)
	w.VPXORQ(at(duePtr, 0), due, due)
	w.VMOVDQU64(due, at(duePtr, 0))
	w.ADDQ(Imm(vector), duePtr)
	w.ADDQ(Imm(vector), dueSide)
	w.SUBQ(Imm(vector), dueLen)
	w.JMP(LabelRef(one))
	w.Label(last)
	w.MOVL(U32(vector), ECX)
	w.SUBL(R11L, ECX)
	w.MOVQ(I32(-1), RAX)
	w.SHRQ(CL, RAX)
	w.KMOVQ(RAX, tailMask)
	w.loadPart(at(duePtr, 0), due)
	w.VPXORQ(at(dueSide, 0), due, due)
	w.storePart(due, at(duePtr, 0))
	w.Label(end)
}
