// SPDX-License-Identifier: Apache-2.0

package aead

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"testing"

	"quicksand/sa"
)

// cbcLevels are the implementations that are tested against each other: those
// of New, and on CPUs with kernels also every mix of these that some CPU has.
func cbcLevels(s sa.Suite) (out []implementation) {
	for _, i := range append(implementations[:len(implementations):len(implementations)], cbcMixes()...) {
		if i.available && i.supports(s) {
			out = append(out, i)
		}
	}
	return out
}

func eachCBC(t *testing.T, s sa.Suite, k *sa.SA, f func(t *testing.T, c Cipher)) {
	t.Helper()
	for _, i := range cbcLevels(s) {
		c, err := i.make(s, k)
		if err != nil {
			t.Fatalf("%s: %v", i.name, err)
		}
		t.Run(i.name+"/"+s.String(), func(t *testing.T) { f(t, c) })
	}
}

func cbcSuites() (out []sa.Suite) {
	for _, bits := range []uint16{128, 192, 256} {
		for i := sa.HMACMD5; i <= sa.HMACSHA512; i++ {
			out = append(out, sa.Suite{Protocol: sa.ESP, Encryption: sa.AESCBC, KeyBits: bits, Integrity: i, ESN: (uint16(i)+bits/64)%2 == 0})
		}
	}
	return out
}

// TestCBCEveryLengthAndAlignment compares with the reference at every length to
// 2048 bytes and every place in a cache line; the short test takes one place
// for each length.
func TestCBCEveryLengthAndAlignment(t *testing.T) {
	r := random()
	for _, s := range cbcSuites() {
		switch s.Integrity { // TestConformance has the others
		case sa.HMACSHA1:
			if s.KeyBits != 128 {
				continue
			}
		case sa.HMACSHA256, sa.HMACSHA512:
			if s.KeyBits != 256 {
				continue
			}
		default:
			continue
		}
		k := keys(r, s)
		each(t, s, k, func(t *testing.T, c Cipher) {
			seq := uint64(1) << 33
			for first := range 64 {
				var batch []guarded
				for n := 0; n <= 2048; n += 16 {
					if misalign := (n/16*5 + first) % 64; first == 0 || !testing.Short() {
						seq++
						batch = append(batch, newGuarded(r, c, n, misalign, seq))
					}
					if len(batch) == 32 {
						checkBatch(t, s, k, c, batch)
						batch = batch[:0]
					}
				}
				checkBatch(t, s, k, c, batch)
			}
		})
	}
}

// TestCBCMixedBatches has packets of all lengths side by side, some of lengths
// that cannot be, in batches from one to more than are sorted together.
func TestCBCMixedBatches(t *testing.T) {
	for _, s := range cbcSuites() {
		r := random()
		k := keys(r, s)
		choose := rand.New(random())
		eachCBC(t, s, k, func(t *testing.T, c Cipher) {
			for size := 1; size <= 40; size++ {
				checkMixed(t, s, k, c, r, choose, size)
			}
			for _, size := range []int{63, 64, 65, 130} {
				checkMixed(t, s, k, c, r, choose, size)
			}
		})
	}
}

func checkMixed(t *testing.T, s sa.Suite, k *sa.SA, c Cipher, r *rand.ChaCha8, choose *rand.Rand, size int) {
	t.Helper()
	batch := make([]guarded, size)
	pkts := make([]Packet, size)
	wrong := make([]bool, size)
	for i := range batch {
		n := 16 * choose.IntN(100)
		switch choose.IntN(4) {
		case 0:
			n = 64
		case 1:
			n = 1424
		}
		batch[i] = newGuarded(r, c, n, choose.IntN(64), choose.Uint64())
		if choose.IntN(10) == 0 { // no possible length
			wrong[i] = true
			batch[i].Data = batch[i].Data[:len(batch[i].Data)-1-choose.IntN(12)]
		}
		pkts[i] = batch[i].Packet
	}
	c.Seal(pkts)
	for i, g := range batch {
		if pkts[i].OK == wrong[i] {
			t.Fatalf("batch of %d, packet %d: sealed is %v", size, i, pkts[i].OK)
		}
		if wrong[i] {
			continue
		}
		want := reference(s, k, g.Seq, g.Data[:HeaderLen], g.Data[HeaderLen:][:16], g.plain)
		if !bytes.Equal(g.Data, want) {
			t.Fatalf("batch of %d, packet %d of length %d: sealed\n%x\nwant\n%x", size, i, len(g.plain), g.Data, want)
		}
		if choose.IntN(8) == 0 {
			wrong[i] = true
			g.Data[choose.IntN(len(g.Data))] ^= 1 << choose.IntN(8)
		}
	}
	before := make([][]byte, size)
	for i := range pkts {
		before[i] = bytes.Clone(pkts[i].Data)
	}
	c.Open(pkts)
	for i, g := range batch {
		if pkts[i].OK == wrong[i] {
			t.Fatalf("batch of %d, packet %d of length %d: opened is %v", size, i, len(g.plain), pkts[i].OK)
		}
		if end := len(g.Data) - c.ICVLen(); wrong[i] && end > 0 && !bytes.Equal(g.Data[:end], before[i][:end]) {
			t.Fatalf("batch of %d, packet %d: a packet that is wrong was changed", size, i)
		}
		if !wrong[i] && !bytes.Equal(g.Data[HeaderLen+16:][:len(g.plain)], g.plain) {
			t.Fatalf("batch of %d, packet %d of length %d: opened wrongly", size, i, len(g.plain))
		}
		if !g.intact() {
			t.Fatalf("batch of %d, packet %d of length %d: wrote outside of the packet", size, i, len(g.plain))
		}
	}
}

// FuzzCBCLevels seals a batch at each level and opens it at every other one,
// after bytes of it were changed: all have to agree.
func FuzzCBCLevels(f *testing.F) {
	f.Add(uint8(0), []byte{1, 2, 3}, uint16(0), uint8(0))
	f.Add(uint8(7), bytes.Repeat([]byte{90, 4}, 20), uint16(99), uint8(1))
	f.Add(uint8(14), bytes.Repeat([]byte{0}, 17), uint16(1500), uint8(128))
	f.Add(uint8(3), []byte{255, 0, 255, 0, 1}, uint16(20), uint8(7))
	suites := cbcSuites()
	f.Fuzz(func(t *testing.T, suite uint8, lengths []byte, at uint16, change uint8) {
		s := suites[int(suite)%len(suites)]
		lengths = lengths[:min(len(lengths), 80)]
		r := random()
		k := keys(r, s)
		var ciphers []Cipher
		for _, i := range cbcLevels(s) {
			c, err := i.make(s, k)
			if err != nil {
				t.Fatal(err)
			}
			ciphers = append(ciphers, c)
		}
		for a, c := range ciphers {
			batch := make([]guarded, len(lengths))
			pkts := make([]Packet, len(lengths))
			for i, n := range lengths {
				batch[i] = newGuarded(r, c, 16*int(n), int(n)*7%64, uint64(i)<<32|uint64(at))
				pkts[i] = batch[i].Packet
			}
			c.Seal(pkts)
			for i := range pkts {
				if d := pkts[i].Data; int(at) < len(d) {
					d[at] ^= change
				}
			}
			for b, other := range ciphers {
				got := make([]Packet, len(pkts))
				for i := range pkts {
					got[i] = Packet{Data: bytes.Clone(pkts[i].Data), Seq: pkts[i].Seq}
				}
				other.Open(got)
				for i, g := range batch {
					want := change == 0 || int(at) >= len(g.Data)
					plain := got[i].Data[HeaderLen+16:][:len(g.plain)]
					if got[i].OK != want || want && !bytes.Equal(plain, g.plain) {
						t.Fatalf("%s: level %d opened packet %d of %d of level %d: %v", s, b, i, len(g.plain), a, got[i].OK)
					}
				}
			}
		}
	})
}

// TestCBCDoesNotTouchTheRest has the packets of a batch in one piece of memory,
// one behind the other.
func TestCBCDoesNotTouchTheRest(t *testing.T) {
	r := random()
	s := sa.Suite{Protocol: sa.ESP, Encryption: sa.AESCBC, KeyBits: 256, Integrity: sa.HMACSHA1}
	k := keys(r, s)
	eachCBC(t, s, k, func(t *testing.T, c Cipher) {
		const n = 33
		size := func(i int) int { return HeaderLen + 16 + 16*(i%7) + c.ICVLen() }
		total := 0
		for i := range n {
			total += size(i)
		}
		memory := fill(r, total)
		was := bytes.Clone(memory)
		pkts := make([]Packet, n)
		rest := memory
		for i := range pkts {
			pkts[i] = Packet{Data: rest[:size(i)], Seq: uint64(i)}
			rest = rest[size(i):]
		}
		c.Seal(pkts)
		rest = was
		for i, p := range pkts {
			w := rest[:size(i)]
			rest = rest[size(i):]
			want := reference(s, k, p.Seq, w[:HeaderLen], p.Data[HeaderLen:][:16], w[HeaderLen+16:len(w)-c.ICVLen()])
			if !bytes.Equal(p.Data, want) {
				t.Fatalf("packet %d: %x, want %x", i, p.Data, want)
			}
		}
		c.Open(pkts)
		for i, p := range pkts {
			if !p.OK {
				t.Fatalf("packet %d was not opened", i)
			}
		}
	})
}

// TestCBCRepeatedIV has no IV twice over many batches, nor one that another
// cipher of the same keys makes.
func TestCBCRepeatedIV(t *testing.T) {
	r := random()
	s := sa.Suite{Protocol: sa.ESP, Encryption: sa.AESCBC, KeyBits: 128, Integrity: sa.HMACSHA1}
	k := keys(r, s)
	seen := map[string]string{}
	for _, i := range append(cbcLevels(s), cbcLevels(s)...) {
		c, err := i.make(s, k)
		if err != nil {
			t.Fatal(err)
		}
		for batch := range 20 {
			pkts := make([]Packet, 1+batch)
			for j := range pkts {
				pkts[j] = newGuarded(r, c, 16, 0, 7).Packet
			}
			c.Seal(pkts)
			for j, p := range pkts {
				iv := string(p.Data[HeaderLen:][:16])
				here := fmt.Sprintf("%s, batch %d, packet %d", i.name, batch, j)
				if there, ok := seen[iv]; ok {
					t.Fatalf("%s and %s have the same IV", there, here)
				}
				seen[iv] = here
				if binary.BigEndian.Uint64(p.Data[HeaderLen:]) == 0 {
					t.Fatalf("%s: the IV is a counter", here)
				}
			}
		}
	}
}
