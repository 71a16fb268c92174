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
