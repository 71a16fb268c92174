// SPDX-License-Identifier: Apache-2.0

package aead

// mixedMost is how many packets go through a kernel together.
const mixedMost = 64

// Seal seals packets of several SAs, pkts[i] by ciphers[i], as each cipher's Seal
// does. Where the machine's kernel can, those of different SAs go through it
// together, so that a short packet does not wait for the one before.
func Seal(ciphers []Cipher, pkts []Packet) {
	inRuns(ciphers, pkts, sealMixed, Cipher.Seal)
}

// Open opens packets of several SAs, as Seal seals them.
func Open(ciphers []Cipher, pkts []Packet) {
	inRuns(ciphers, pkts, openMixed, Cipher.Open)
}

// inRuns hands on what can go together, and else the packets of one SA that follow
// each other.
func inRuns(ciphers []Cipher, pkts []Packet, mixed func([]Cipher, []Packet) int, one func(Cipher, []Packet)) {
	ciphers = ciphers[:len(pkts)]
	for len(pkts) > 0 {
		n := mixed(ciphers, pkts)
		if n == 0 {
			for n = 1; n < len(pkts) && ciphers[n] == ciphers[0]; n++ {
			}
			one(ciphers[0], pkts[:n])
		}
		ciphers, pkts = ciphers[n:], pkts[n:]
	}
}
