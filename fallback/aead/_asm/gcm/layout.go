// SPDX-License-Identifier: Apache-2.0

package main

// Offsets in the key's state (gcmKey) and in a Packet, which the Go side
// asserts.
const (
	keyRounds     = 0
	keyICV        = 8
	keyBase       = 16
	keyAADShuffle = 32
	keyLengths    = 48
	keyTagShuffle = 64
	keyTagMask    = 80
	keyCounters   = 96
	keyRoundKeys  = 112
	keyPowers     = 352
	keyPower1     = keyPowers + 97*16 // H; the higher powers are before it

	pktData = 0
	pktLen  = 8
	pktSeq  = 24
	pktOK   = 32
	pktSize = 40

	headerLen = 16 // SPI, sequence number and IV
	block     = 16
	maxRounds = 14

	// groupBytes are hashed with one reduction: 96 blocks, with the additional
	// data at the power 98.
	groupBytes = 96 * block

	// counterRun is the number of counter blocks in the table (gcmCounters).
	counterRun = 256
)
