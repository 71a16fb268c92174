// SPDX-License-Identifier: Apache-2.0

//go:build timing

package aead

import (
	"bytes"
	"testing"

	"quicksand/sa"
	"quicksand/tests/dudect"
)

// TestTiming has classes that differ in where a wrong ICV does, and in the payload.
func TestTiming(t *testing.T) {
	const samples = 40000
	for _, s := range []sa.Suite{
		{Protocol: sa.ESP, Encryption: sa.AESCBC, KeyBits: 128, Integrity: sa.HMACSHA1},
		{Protocol: sa.ESP, Encryption: sa.AESCBC, KeyBits: 256, Integrity: sa.HMACSHA256},
		{Protocol: sa.ESP, Encryption: sa.AESGCM16, KeyBits: 128},
	} {
		r := random()
		k := keys(r, s)
		each(t, s, k, func(t *testing.T, c Cipher) {
			good := newGuarded(r, c, 64, 0, 1).Packet
			c.Seal([]Packet{good})
			icv := len(good.Data) - c.ICVLen()
			work := []Packet{{Data: bytes.Clone(good.Data), Seq: 1}}
			dudect.Compare(t, "where the ICV differs", samples, func(class int) {
				copy(work[0].Data, good.Data)
				work[0].Data[icv+class*(c.ICVLen()-1)] ^= 1
			}, func() { c.Open(work) })

			zeros, noise := make([]byte, 64), fill(r, 64)
			payload := work[0].Data[HeaderLen+c.IVLen() : icv]
			dudect.Compare(t, "what the payload is", samples, func(class int) {
				copy(payload, [][]byte{zeros, noise}[class])
			}, func() { c.Seal(work) })
		})
	}
}
