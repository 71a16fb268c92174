// SPDX-License-Identifier: Apache-2.0

package aead

import (
	"bytes"
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	"quicksand/sa"
)

// mixedSuites are those of several SAs whose packets come together.
func mixedSuites() (out []sa.Suite) {
	for _, s := range suites() {
		if s.Encryption.AEAD() || s.Encryption == sa.AESCBC {
			out = append(out, s)
		}
	}
	return out
}

// TestMixed has packets of many SAs in random order, at every level and with
// levels mixed, sealed and opened as each SA's cipher would.
func TestMixed(t *testing.T) {
	r := random()
	all := mixedSuites()
	for round := range 150 {
		var ciphers []Cipher
		var suite []sa.Suite
		var secrets []*sa.SA
		// In half of the rounds there are few suites, so that many SAs have the same.
		some := all
		if round%2 == 0 {
			at := r.Uint64() % uint64(len(all)-1)
			some = all[at : at+2]
		}
		for range 12 {
			s := some[r.Uint64()%uint64(len(some))]
			k := keys(r, s)
			var levels []implementation
			for _, i := range slices.Concat(implementations, cbcMixes()) {
				if i.available && i.supports(s) {
					levels = append(levels, i)
				}
			}
			level := levels[round%len(levels)]
			if round%4 == 3 {
				level = levels[r.Uint64()%uint64(len(levels))]
			}
			c, err := level.make(s, k)
			if err != nil {
				t.Fatal(err)
			}
			suite, secrets, ciphers = append(suite, s), append(secrets, k), append(ciphers, c)
		}
		count := int(r.Uint64() % 200)
		of, by := make([]int, count), make([]Cipher, count)
		packets, pkts := make([]guarded, count), make([]Packet, count)
		for i := range pkts {
			if i > 0 && r.Uint64()%2 == 0 {
				of[i] = of[i-1] // some follow each other
			} else {
				of[i] = int(r.Uint64() % uint64(len(ciphers)))
			}
			by[i] = ciphers[of[i]]
			size := int(r.Uint64() % 700)
			if r.Uint64()%64 == 0 {
				size += 9000 // beyond what has room on the stack
			}
			size -= size % by[i].BlockLen()
			packets[i] = newGuarded(r, by[i], size, i%17, r.Uint64()>>1)
			pkts[i] = packets[i].Packet
		}
		Seal(by, pkts)
		for i, g := range packets {
			iv := g.Data[HeaderLen:][:by[i].IVLen()]
			want := reference(suite[of[i]], secrets[of[i]], g.Seq, g.Data[:HeaderLen], iv, g.plain)
			if !pkts[i].OK || !bytes.Equal(g.Data, want) || !g.intact() {
				t.Fatalf("%s, %d bytes, packet %d: sealed %v\n%x\nwant\n%x", suite[of[i]], len(g.plain), i, pkts[i].OK, g.Data, want)
			}
		}
		bad := map[int]bool{}
		for i := range pkts {
			switch r.Uint64() % 16 {
			case 0:
				bad[i] = true
				pkts[i].Data[r.Uint64()%uint64(len(pkts[i].Data))] ^= 1
			case 1:
				bad[i] = true
				pkts[i].Data = pkts[i].Data[:r.Uint64()%uint64(HeaderLen+by[i].IVLen()+by[i].ICVLen())]
			case 2:
				if of[i] == 0 && round%3 == 0 {
					ciphers[0].Wipe()
				}
			}
		}
		if w := []Packet{newGuarded(r, ciphers[0], 0, 0, 1).Packet}; true {
			if ciphers[0].Seal(w); !w[0].OK {
				for i := range of {
					bad[i] = bad[i] || of[i] == 0
				}
			}
		}
		Open(by, pkts)
		for i, g := range packets {
			payload := g.Data[HeaderLen+by[i].IVLen():][:len(g.plain)]
			if pkts[i].OK == bad[i] || !bad[i] && !bytes.Equal(payload, g.plain) || !g.intact() {
				t.Fatalf("%s, %d bytes, packet %d: opened is %v", suite[of[i]], len(g.plain), i, pkts[i].OK)
			}
			if bad[i] && len(g.plain) >= 16 && bytes.Contains(g.Data, g.plain[:16]) {
				t.Fatalf("%s, packet %d: payload released", suite[of[i]], i)
			}
		}
	}
}

func TestMixedNoAllocation(t *testing.T) {
	for _, s := range mixedBench {
		by, pkts := mixedPackets(t, s, 40, 128)
		run := func() {
			Seal(by, pkts)
			Open(by, pkts)
			if !pkts[0].OK || !pkts[len(pkts)-1].OK {
				t.Fatalf("%s: failed", s)
			}
		}
		if n := testing.AllocsPerRun(20, run); n != 0 {
			t.Errorf("%s: %v allocations", s, n)
		}
	}
}

var mixedBench = []sa.Suite{
	{Protocol: sa.ESP, Encryption: sa.AESGCM16, KeyBits: 128},
	{Protocol: sa.ESP, Encryption: sa.AESCBC, KeyBits: 128, Integrity: sa.HMACSHA1},
	{Protocol: sa.ESP, Encryption: sa.AESCBC, KeyBits: 256, Integrity: sa.HMACSHA256},
}

// mixedPackets are packets of as many SAs, one of each.
func mixedPackets(t testing.TB, s sa.Suite, count, size int) ([]Cipher, []Packet) {
	r := random()
	by, pkts := make([]Cipher, count), make([]Packet, count)
	for i := range by {
		var err error
		if by[i], err = New(s, keys(r, s)); err != nil {
			t.Fatal(err)
		}
		block := by[i].BlockLen()
		n := HeaderLen + by[i].IVLen() + (size+block-1)/block*block + by[i].ICVLen()
		pkts[i] = Packet{Data: make([]byte, n, (n+63)&^63), Seq: uint64(i) + 1}
	}
	return by, pkts
}

// BenchmarkMixed has one packet of each of 32 SAs: all in one call, and a call for
// each. The best of many runs says more than the mean where the machine does other
// work.
func BenchmarkMixed(b *testing.B) {
	const count = 32
	for _, suite := range mixedBench {
		for _, size := range []int{64, 256, 576, 1420} {
			by, pkts := mixedPackets(b, suite, count, size)
			apart := func(f func(Cipher, []Packet)) func() {
				return func() {
					for i := range by {
						f(by[i], pkts[i:i+1])
					}
				}
			}
			for _, way := range []struct {
				name string
				run  func()
			}{
				{"seal/together", func() { Seal(by, pkts) }}, {"seal/apart", apart(Cipher.Seal)},
				{"open/together", func() { Open(by, pkts) }}, {"open/apart", apart(Cipher.Open)},
			} {
				b.Run(fmt.Sprintf("%s/%d/%s", suite, size, way.name), func(b *testing.B) {
					best := time.Duration(math.MaxInt64)
					for b.Loop() {
						Seal(by, pkts)
						start := time.Now()
						way.run()
						best = min(best, time.Since(start))
					}
					if !pkts[count-1].OK {
						b.Fatal("failed")
					}
					b.ReportMetric(float64(best.Nanoseconds())/count, "best-ns/packet")
				})
			}
		}
	}
}
