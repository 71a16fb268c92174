// SPDX-License-Identifier: Apache-2.0

package aead

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"fmt"
	"testing"
	"time"

	"quicksand/sa"
)

// BenchmarkCBC has the best rate of AES-CBC with HMAC over batches of 32
// packets, in gigabytes of payload a second, for each implementation and for
// the plainest composition of the standard library. It shows the best of its
// runs, which other work on the machine disturbs least.
func BenchmarkCBC(b *testing.B) {
	for _, s := range []sa.Suite{
		{Protocol: sa.ESP, Encryption: sa.AESCBC, KeyBits: 128, Integrity: sa.HMACSHA1},
		{Protocol: sa.ESP, Encryption: sa.AESCBC, KeyBits: 128, Integrity: sa.HMACSHA256},
		{Protocol: sa.ESP, Encryption: sa.AESCBC, KeyBits: 256, Integrity: sa.HMACSHA1},
		{Protocol: sa.ESP, Encryption: sa.AESCBC, KeyBits: 256, Integrity: sa.HMACSHA256},
		{Protocol: sa.ESP, Encryption: sa.AESCBC, KeyBits: 256, Integrity: sa.HMACSHA512},
	} {
		k := keys(random(), s)
		all := []implementation{{"standard library", true, nil, func(s sa.Suite, k *sa.SA) (Cipher, error) {
			return &plain{suite: s, key: k}, nil
		}}}
		for _, i := range append(all, implementations...) {
			if !i.available || i.supports != nil && !i.supports(s) {
				continue
			}
			for _, n := range []int{64, 256, 576, 1424} {
				for _, dir := range []string{"seal", "open"} {
					b.Run(fmt.Sprintf("%s/%d/%s/%s/%d", i.name, s.KeyBits, s.Integrity, dir, n), func(b *testing.B) {
						c, err := i.make(s, k)
						if err != nil {
							b.Fatal(err)
						}
						benchmarkBatch(b, c, n, dir == "open")
					})
				}
			}
		}
	}
}

func benchmarkBatch(b *testing.B, c Cipher, n int, open bool) {
	r := random()
	var sealed, work [32]Packet
	for i := range sealed {
		sealed[i] = newGuarded(r, c, n, 0, uint64(i)+1).Packet
	}
	c.Seal(sealed[:])
	for i := range work {
		work[i] = Packet{Data: bytes.Clone(sealed[i].Data), Seq: sealed[i].Seq}
	}
	best := time.Hour
	for b.Loop() {
		var took time.Duration
		for range 8 {
			if !open {
				start := time.Now()
				c.Seal(work[:])
				took += time.Since(start)
				continue
			}
			for j := range work { // opening changes the packet
				copy(work[j].Data, sealed[j].Data)
			}
			start := time.Now()
			c.Open(work[:])
			took += time.Since(start)
			if !work[0].OK || !work[31].OK {
				b.Fatal("not opened")
			}
		}
		best = min(best, took)
	}
	b.ReportMetric(float64(8*len(work)*n)/float64(best.Nanoseconds()), "best-GB/s")
}

// plain is what one writes with crypto/cipher and crypto/hmac and no thought
// of speed.
type plain struct {
	suite sa.Suite
	key   *sa.SA
}

func (p *plain) IVLen() int    { return 16 }
func (p *plain) ICVLen() int   { return p.suite.ICVLen() }
func (p *plain) BlockLen() int { return 16 }

func (p *plain) sum(data []byte) []byte {
	h := hmac.New(hashes[p.suite.Integrity], p.key.IntegrityKey)
	h.Write(data)
	return h.Sum(nil)[:p.suite.ICVLen()]
}

func (p *plain) Wipe() {}

func (p *plain) Seal(pkts []Packet) {
	block, _ := aes.NewCipher(p.key.EncryptionKey)
	for i := range pkts {
		d := pkts[i].Data
		to := len(d) - p.ICVLen()
		rand.Read(d[8:24])
		cipher.NewCBCEncrypter(block, d[8:24]).CryptBlocks(d[24:to], d[24:to])
		copy(d[to:], p.sum(d[:to]))
		pkts[i].OK = true
	}
}

func (p *plain) Open(pkts []Packet) {
	block, _ := aes.NewCipher(p.key.EncryptionKey)
	for i := range pkts {
		d := pkts[i].Data
		to := len(d) - p.ICVLen()
		if pkts[i].OK = hmac.Equal(p.sum(d[:to]), d[to:]); pkts[i].OK {
			cipher.NewCBCDecrypter(block, d[8:24]).CryptBlocks(d[24:to], d[24:to])
		}
	}
}
