// SPDX-License-Identifier: Apache-2.0

package main

import (
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// The frame of the 512-bit functions, aligned to 64 bytes. Four packets are
// under way at a time; what each has is in arrays of four.
const (
	frameNonces = 0    // nonce and first round key
	frameMasks  = 64   // the encrypted first counter block, which masks the tag
	frameHash   = 128  // what was hashed before the last group of blocks
	frameAcc    = 192  // sums of products: low, middle, high
	framePtr    = 960  // of the packet
	frameLen    = 992  // of the payload
	framePower  = 1024 // pointer to the power that belongs to frameHash
	framePkt    = 1056 // pointer to the Packet
	frameSide   = 1088 // pointer to the key stream
	frameCount  = 1120 // packets in the group
	frameHigh   = 1128 // the counter's bytes above the lowest
	frameLane   = 1136
	frameCursor = 1144
	frameLeft   = 1152
	frameSeal   = 1216 // bytes that encryption needs

	// Packets whose tag was right, and which are decrypted while the next ones
	// are hashed.
	frameDuePtr  = 1160 // of the payload
	frameDueSide = 1192
	frameDueLen  = 1224 // 0: none
	frameRoom    = 1256 // bytes for key stream
	frameStart   = 1264 // where they start
	frameOther   = 1272 // where those of the packets that are due start
	frameDue     = 1280 // lanes in which something may be due
	frameSwap    = 1344 // the order of bytes, for which no register is left
	frameStream  = 1408

	lanes      = 4
	vector     = 64
	chunk      = 4 * vector
	streamRoom = 8704 // bytes of key stream: a packet of 8 KiB, or four of 2 KiB
	accSize    = 3 * vector
)

// General registers.
var (
	key    = RDI
	cursor = RSI // the next Packet
	left   = R8  // Packets from there on
	frame  = RBX
	lastT  = R9 // in the table of counters, where the lowest byte runs over
	rounds = R10
	lane   = R11
	power  = R12 // of the hash key for the next block
	ctr    = R13 // in the table of counters
	side   = R15 // where key stream goes
	src    = RDX
	now    = RAX // bytes of this group of blocks

	// While a packet is worked on, what is due of another one.
	duePtr  = RSI
	dueSide = R8
	dueLen  = R11

	later = RCX // bytes after it
)

// Vector registers.
var (
	state     = []VecPhysical{Z0, Z1, Z2, Z3}
	text      = []VecPhysical{Z4, Z5, Z6, Z7}
	low       = Z8
	middle    = Z9
	high      = Z10
	nonce     = Z11
	nonceLast = Z12 // for the last vector of a chunk: counters that run over
	swap      = Z13 // when encrypting
	due       = Z13
	temp      = []VecPhysical{Z14, Z15, Z30, Z31}
	lastKey   = Z29
)

// roundKey is the key of a round but the first and the last.
func roundKey(i int) VecPhysical {
	return []VecPhysical{Z16, Z17, Z18, Z19, Z20, Z21, Z22, Z23, Z24, Z25, Z26, Z27, Z28}[i-1]
}

// Mask registers.
var (
	tailMask = K1
	laneMask = []Register{nil, K2, K3, K4} // a lane's four doublewords
	tagMask  = K6
)

const xor3 = U8(0x96)

func wide(g *generator) {
	w := &wideGen{generator: g}
	w.seal("gcmSealVAES512")
	w.open("gcmOpenVAES512")
}

type wideGen struct {
	*generator
	opening bool
}

func (w *wideGen) seal(name string) {
	w.opening = false
	w.function(name, "(k *byte, pkts *byte, n int)")
	w.Pragma("noescape")
	w.enter(frameSeal)
	w.groups()
}

func (w *wideGen) open(name string) {
	w.opening = true
	w.function(name, "(k *byte, pkts *byte, n int, side *byte, room int)")
	w.Pragma("noescape")
	w.enter(frameStream + 2*streamRoom)
	own := w.label("own")
	w.Load(w.Param("side"), RAX)
	w.Load(w.Param("room"), RCX)
	w.TESTQ(RAX, RAX)
	w.JNZ(LabelRef(own))
	w.LEAQ(at(frame, frameStream), RAX)
	w.MOVQ(U32(streamRoom), RCX)
	w.Label(own)
	w.MOVQ(RAX, at(frame, frameStart))
	w.LEAQ(at(frame, frameStream+streamRoom), RAX)
	w.MOVQ(RAX, at(frame, frameOther))
	w.MOVQ(RCX, at(frame, frameRoom))
	w.VMOVDQU64(Z13, at(frame, frameSwap))
	w.VPXORQ(X0, X0, X0)
	w.VMOVDQU(Y0, at(frame, frameDueLen))
	w.MOVQ(U32(0), at(frame, frameDue))
	w.groups()
}

func (w *wideGen) enter(size int) {
	local := w.AllocLocal(size + vector)
	w.Load(w.Param("k"), key)
	w.Load(w.Param("pkts"), cursor)
	w.Load(w.Param("n"), left)
	w.LEAQ(local.Offset(vector-1), frame)
	w.ANDQ(I32(-vector), frame)
	w.MOVQ(at(key, keyRounds), rounds)
	w.MOVQ(at(key, keyCounters), lastT)
	w.ADDQ(U32(counterRun*block-chunk), lastT)
	for i := 1; i < maxRounds; i++ {
		w.VBROADCASTI32X4(at(key, keyRoundKeys+i*block), roundKey(i))
	}
	w.MOVQ(rounds, RAX)
	w.SHLQ(U8(4), RAX)
	w.VBROADCASTI32X4(Mem{Base: key, Index: RAX, Scale: 1, Disp: keyRoundKeys}, lastKey)
	w.VBROADCASTI32X4(w.constant("gcmSwap", 0x08090a0b0c0d0e0f, 0x0001020304050607), swap)
	for j := 1; j < lanes; j++ {
		w.MOVL(U32(0xf<<(4*j)), EAX)
		w.KMOVW(EAX, laneMask[j])
	}
	if !w.opening {
		w.MOVQ(at(key, keyICV), RCX)
		w.MOVL(U32(1), EAX)
		w.SHLL(CL, EAX)
		w.DECL(EAX)
		w.KMOVW(EAX, tagMask)
	}
}

// groups takes the packets by fours.
func (w *wideGen) groups() {
	group, done := w.label("group"), w.label("done")
	w.Label(group)
	w.gather()
	w.MOVQ(lane, at(frame, frameCount))
	w.TESTQ(lane, lane)
	w.JZ(LabelRef(done))
	w.MOVQ(cursor, at(frame, frameCursor))
	w.MOVQ(left, at(frame, frameLeft))
	one, end := w.label("single"), w.label("finished")
	w.CMPQ(lane, Imm(1))
	w.JE(LabelRef(one))
	w.fillUp()
	w.start()
	w.eachLane(w.packet)
	if w.opening {
		w.decryptRest()
	}
	w.finish()
	w.JMP(LabelRef(end))
	w.Label(one)
	w.startOne()
	w.XORQ(lane, lane)
	w.packet()
	if w.opening {
		w.INCQ(lane)
		w.decryptRest()
	}
	w.finishOne()
	w.Label(end)
	w.MOVQ(at(frame, frameCursor), cursor)
	w.MOVQ(at(frame, frameLeft), left)
	w.TESTQ(left, left)
	w.JNZ(LabelRef(group))
	w.Label(done)
	if w.opening {
		w.XORQ(lane, lane)
		w.decryptRest()
	}
	w.VZEROUPPER()
	w.RET()
}

// gather collects the next packets of a possible length, lane of them. When
// decrypting they also have to have room for their key stream.
func (w *wideGen) gather() {
	next, skip, bad, end := w.label("gather"), w.label("skip"), w.label("bad"), w.label("gathered")
	w.XORQ(lane, lane)
	if w.opening {
		w.MOVQ(at(frame, frameStart), side)
		w.MOVQ(at(frame, frameOther), RAX)
		w.MOVQ(side, at(frame, frameOther))
		w.MOVQ(RAX, at(frame, frameStart))
		w.MOVQ(at(frame, frameRoom), R13)
	}
	w.Label(next)
	w.TESTQ(left, left)
	w.JZ(LabelRef(end))
	w.MOVQ(at(cursor, pktLen), RCX)
	w.SUBQ(Imm(headerLen), RCX)
	w.SUBQ(at(key, keyICV), RCX)
	w.JL(LabelRef(bad))
	if w.opening {
		fits := w.label("fits")
		w.LEAQ(at(RCX, vector-1), RDX)
		w.ANDQ(I32(-vector), RDX)
		w.SUBQ(RDX, R13)
		w.JGE(LabelRef(fits))
		w.TESTQ(lane, lane)
		w.JNZ(LabelRef(end))
		w.JMP(LabelRef(bad))
		w.Label(fits)
		w.MOVQ(side, Mem{Base: frame, Index: lane, Scale: 8, Disp: frameSide})
		w.ADDQ(RDX, side)
	}
	w.MOVQ(at(cursor, pktData), RAX)
	if !w.opening {
		w.MOVB(U8(1), at(cursor, pktOK))
		w.MOVQ(at(cursor, pktSeq), RDX)
		w.BSWAPQ(RDX)
		w.MOVQ(RDX, at(RAX, 8))
	}
	w.MOVQ(RAX, Mem{Base: frame, Index: lane, Scale: 8, Disp: framePtr})
	w.MOVQ(RCX, Mem{Base: frame, Index: lane, Scale: 8, Disp: frameLen})
	w.MOVQ(cursor, Mem{Base: frame, Index: lane, Scale: 8, Disp: framePkt})
	w.INCQ(lane)
	w.Label(skip)
	w.ADDQ(Imm(pktSize), cursor)
	w.DECQ(left)
	w.CMPQ(lane, Imm(lanes))
	w.JB(LabelRef(next))
	w.JMP(LabelRef(end))
	w.Label(bad)
	w.MOVB(U8(0), at(cursor, pktOK))
	w.JMP(LabelRef(skip))
	w.Label(end)
}

// fillUp gives lanes without a packet the first one, to be read only.
func (w *wideGen) fillUp() {
	full, more := w.label("full"), w.label("fill")
	w.CMPQ(lane, Imm(lanes))
	w.JE(LabelRef(full))
	w.MOVQ(at(frame, framePtr), RAX)
	w.MOVQ(at(frame, frameLen), RCX)
	w.MOVQ(at(frame, framePkt), RDX)
	w.LEAQ(at(key, keyPower1), R12)
	w.Label(more)
	w.MOVQ(RAX, Mem{Base: frame, Index: lane, Scale: 8, Disp: framePtr})
	w.MOVQ(RCX, Mem{Base: frame, Index: lane, Scale: 8, Disp: frameLen})
	w.MOVQ(RDX, Mem{Base: frame, Index: lane, Scale: 8, Disp: framePkt})
	w.MOVQ(R12, Mem{Base: frame, Index: lane, Scale: 8, Disp: framePower})
	w.INCQ(lane)
	w.CMPQ(lane, Imm(lanes))
	w.JB(LabelRef(more))
	w.Label(full)
}

// eachLane runs f for the packets of the group.
func (w *wideGen) eachLane(f func()) {
	loop := w.label("lane")
	w.XORQ(lane, lane)
	w.Label(loop)
	f()
	w.INCQ(lane)
	w.CMPQ(lane, at(frame, frameCount))
	w.JB(LabelRef(loop))
}

// start makes of four packets the nonces, the hash of the additional data (one
// block, not yet multiplied) and the masks of the tags.
func (w *wideGen) start() {
	for j := range lanes {
		w.MOVQ(at(frame, framePtr+8*j), RAX)
		w.MOVQ(at(frame, framePkt+8*j), RCX)
		x := state[j].(Vec).AsX()
		w.VMOVQ(at(RAX, 0), x)
		w.VPINSRQ(U8(1), at(RCX, pktSeq), x, x)
		if w.opening {
			m := at(RAX, 0)
			if j == 0 {
				w.VBROADCASTI32X4(m, text[0])
			} else {
				w.VBROADCASTI32X4(m, laneMask[j], text[0])
			}
		}
	}
	w.VINSERTI32X4(U8(1), X1, Z0, Z0)
	w.VINSERTI32X4(U8(1), X3, Z2, Z2)
	w.VINSERTI64X4(U8(1), Y2, Z0, Z0)
	w.VBROADCASTI32X4(at(key, keyAADShuffle), temp[0])
	w.VPSHUFB(temp[0], Z0, temp[1])
	w.VMOVDQU64(temp[1], at(frame, frameHash))
	if w.opening { // the IV is the packet's
		w.VBROADCASTI32X4(w.nonceOpen(), temp[0])
		w.VPSHUFB(temp[0], text[0], Z0)
	} else { // the IV is the sequence number
		w.VBROADCASTI32X4(w.nonceSeal(), temp[0])
		w.VPSHUFB(temp[0], Z0, Z0)
	}
	w.VBROADCASTI32X4(at(key, keyBase), temp[1])
	w.VPXORQ(temp[1], Z0, Z0)
	w.VMOVDQU64(Z0, at(frame, frameNonces))
	w.VBROADCASTI32X4(w.one(), temp[0])
	w.VPXORQ(temp[0], Z0, Z0)
	w.aes(state[:1], nil)
	w.VMOVDQU64(Z0, at(frame, frameMasks))
}

// startOne is start for a group of one packet, which needs no lanes.
func (w *wideGen) startOne() {
	w.MOVQ(at(frame, framePtr), RAX)
	w.MOVQ(at(frame, framePkt), RCX)
	w.VMOVQ(at(RAX, 0), X0)
	w.VPINSRQ(U8(1), at(RCX, pktSeq), X0, X0)
	w.VPSHUFB(at(key, keyAADShuffle), X0, X1)
	w.VMOVDQU(X1, at(frame, frameHash))
	if w.opening {
		w.VMOVDQU(at(RAX, 0), X0)
		w.VPSHUFB(w.nonceOpen(), X0, X0)
	} else {
		w.VPSHUFB(w.nonceSeal(), X0, X0)
	}
	w.VPXOR(at(key, keyBase), X0, X0)
	w.VMOVDQU(X0, at(frame, frameNonces))
	w.VPXOR(w.one(), X0, X0)
	w.aes(state[:1], nil)
	w.VMOVDQU(X0, at(frame, frameMasks))
}

// nonceSeal puts the sequence number's bytes where GCM has the IV, behind the
// salt.
func (w *wideGen) nonceSeal() Mem {
	return w.constant("gcmNonceSeal", 0x0c0d0e0f80808080, 0x8080808008090a0b)
}

// nonceOpen puts the packet's IV there.
func (w *wideGen) nonceOpen() Mem {
	return w.constant("gcmNonceOpen", 0x0b0a090880808080, 0x808080800f0e0d0c)
}

// one is a counter's difference of 1.
func (w *wideGen) one() Mem { return w.constant("gcmOne", 0, 1<<56) }

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

// loadDue makes what is due in the lane the present work.
func (w *wideGen) loadDue() {
	index := func(disp int) Mem { return Mem{Base: frame, Index: lane, Scale: 8, Disp: disp} }
	w.MOVQ(index(frameDuePtr), duePtr)
	w.MOVQ(index(frameDueSide), dueSide)
	w.MOVQ(index(frameDueLen), dueLen) // which is the lane's register
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
	if w.opening {
		var hash []func()
		for i := range n {
			hash = append(hash, func() {
				if partial && i == n-1 {
					w.VMOVDQU8_Z(at(src, i*vector), tailMask, text[i])
				} else {
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
	w.aes(state[:n], between)
	to := text
	if partial {
		to = state
	}
	for i := range n {
		m := at(src, i*vector)
		if partial && i == n-1 {
			w.VMOVDQU8_Z(m, tailMask, text[0])
			w.VPXORQ(text[0], state[i], state[i])
			w.VMOVDQU8(state[i], tailMask, m)
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
	w.VMOVDQU8_Z(at(duePtr, 0), tailMask, due)
	w.VPXORQ(at(dueSide, 0), due, due)
	w.VMOVDQU8(due, tailMask, at(duePtr, 0))
	w.Label(end)
}
