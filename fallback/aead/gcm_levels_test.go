// SPDX-License-Identifier: Apache-2.0

package aead

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"testing"

	"quicksand/sa"
)

// gcmLevel is one implementation's cipher, and its twin of the standard
// library under the same keys.
type gcmLevel struct {
	name       string
	fast, twin Cipher
}

func gcmSuites() (out []sa.Suite) {
	for _, s := range suites() {
		if s.Encryption.AEAD() {
			out = append(out, s)
		}
	}
	return out
}

func gcmAll(t testing.TB, s sa.Suite, k *sa.SA) (out []gcmLevel) {
	t.Helper()
	for _, i := range implementations {
		if !i.available || !i.supports(s) || i.name == "generic" {
			continue
		}
		fast, err := i.make(s, k)
		if err != nil {
			t.Fatal(err)
		}
		twin, err := newGeneric(s, k)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, gcmLevel{i.name + "/" + s.String(), fast, twin})
	}
	return out
}

// A gcmCase is a packet of a batch: its payload's length, its misalignment, and
// a bit that is wrong when it is opened, if any.
type gcmCase struct {
	n, misalign int
	flip        int // in bits from the packet's start; -1: none
	seq         uint64
}

// compare seals and opens a batch with a level and its twin, packet by packet
// for the twin, and compares every byte.
func (l *gcmLevel) compare(t testing.TB, r *rand.ChaCha8, cases []gcmCase) {
	t.Helper()
	fast, twin := make([]Packet, len(cases)), make([]Packet, len(cases))
	whole := make([]guarded, len(cases))
	for i, c := range cases {
		whole[i] = newGuarded(r, l.fast, c.n, c.misalign, c.seq)
		fast[i] = whole[i].Packet
		twin[i] = Packet{Data: bytes.Clone(fast[i].Data), Seq: c.seq}
	}
	same := func(what string) {
		t.Helper()
		for i, c := range cases {
			if fast[i].OK != twin[i].OK || !bytes.Equal(fast[i].Data, twin[i].Data) {
				t.Fatalf("%s: %s packet %d of %d (%+v): OK is %v and %v, first difference at %d",
					l.name, what, i, len(cases), c, fast[i].OK, twin[i].OK, firstDifference(fast[i].Data, twin[i].Data))
			}
			if !whole[i].intact() {
				t.Fatalf("%s: %s packet %d of %d (%+v): wrote outside of it", l.name, what, i, len(cases), c)
			}
		}
	}
	l.fast.Seal(fast)
	l.twin.Seal(twin)
	same("sealed")
	sealed := make([][]byte, len(cases))
	for i, c := range cases {
		if c.flip >= 0 {
			at := c.flip / 8 % len(fast[i].Data)
			fast[i].Data[at] ^= 1 << (c.flip % 8)
			twin[i].Data[at] ^= 1 << (c.flip % 8)
		}
		sealed[i] = bytes.Clone(fast[i].Data)
	}
	l.fast.Open(fast)
	l.twin.Open(twin)
	for i, c := range cases {
		if fast[i].OK != (c.flip < 0) {
			t.Fatalf("%s: packet %d of %d (%+v): OK is %v", l.name, i, len(cases), c, fast[i].OK)
		}
		payload := func(d []byte) []byte { return d[HeaderLen+gcmIVLen : len(d)-l.fast.ICVLen()] }
		if !fast[i].OK && !bytes.Equal(payload(fast[i].Data), payload(sealed[i])) {
			t.Fatalf("%s: packet %d of %d (%+v): a wrong packet was changed", l.name, i, len(cases), c)
		}
		// The ICV's bytes, and all of a wrong packet with its twin, are of no use.
		if fast[i].OK {
			copy(fast[i].Data[len(fast[i].Data)-l.fast.ICVLen():], sealed[i][len(sealed[i])-l.fast.ICVLen():])
			copy(twin[i].Data[len(twin[i].Data)-l.fast.ICVLen():], sealed[i][len(sealed[i])-l.fast.ICVLen():])
		} else {
			copy(fast[i].Data, twin[i].Data)
		}
	}
	same("opened")
}

func firstDifference(a, b []byte) int {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return i
		}
	}
	return min(len(a), len(b))
}

// TestGCMDifferential compares the levels with the generic twin at every length
// up to 2048 bytes and every misalignment, in batches of mixed lengths.
func TestGCMDifferential(t *testing.T) {
	r := random()
	all := gcmSuites()
	step := 1
	if testing.Short() {
		step = 13
	}
	for misalign := range 64 {
		s := all[misalign%len(all)]
		k := keys(r, s)
		for _, l := range gcmAll(t, s, k) {
			var batch []gcmCase
			for n := misalign % step; n <= 2048; n += step {
				// The order mixes short and long packets in a batch.
				c := gcmCase{n: n, misalign: misalign, flip: -1, seq: r.Uint64()}
				if n%2 == 1 {
					c.n = (2047 - n + 2048) % 2048
				}
				if r.Uint64()%16 == 0 {
					c.flip = int(r.Uint64() % 1e6)
				}
				if batch = append(batch, c); len(batch) > n%9 {
					l.compare(t, r, batch)
					batch = batch[:0]
				}
			}
			l.compare(t, r, batch)
		}
	}
}

// TestGCMLong has payloads that are hashed in several groups, whose counters
// run over a byte, or two, and whose key stream does not fit the stack.
func TestGCMLong(t *testing.T) {
	r := random()
	for _, s := range gcmSuites() {
		if s.KeyBits == 192 || testing.Short() && s.KeyBits == 256 {
			continue
		}
		k := keys(r, s)
		for _, l := range gcmAll(t, s, k) {
			var batch []gcmCase
			for _, around := range []int{1536, 3072, 4064, 4096, 8160, 8192, 8624, 8704, 12256, 16384, 65535, 1 << 20} {
				if around > 1<<16 && (s.Encryption != sa.AESGCM16 || s.KeyBits != 128) {
					continue
				}
				for _, n := range []int{around - 33, around - 1, around, around + 1, around + 17, around + 129} {
					c := gcmCase{n: n, misalign: n % 61, flip: -1, seq: r.Uint64()}
					if n%4 == 0 {
						c.flip = int(r.Uint64() % uint64(8*n))
					}
					batch = append(batch, c, gcmCase{n: n % 97, flip: -1, seq: r.Uint64()})
				}
			}
			for _, size := range []int{1, len(batch)} {
				for i := 0; i < len(batch); i += size {
					l.compare(t, r, batch[i:min(i+size, len(batch))])
				}
			}
		}
	}
}

// TestGCMEdges has keys, blocks and numbers of zeros and ones.
func TestGCMEdges(t *testing.T) {
	for _, s := range gcmSuites() {
		for _, fill := range []byte{0, 0xff, 0x80, 1} {
			k := &sa.SA{EncryptionKey: bytes.Repeat([]byte{fill}, s.EncryptionKeyLen())}
			for _, l := range gcmAll(t, s, k) {
				for _, seq := range []uint64{0, 1, 1<<32 - 1, 1 << 32, 1<<64 - 1} {
					for n := range 140 {
						d := bytes.Repeat([]byte{^fill}, HeaderLen+gcmIVLen+n+l.fast.ICVLen())
						fast, twin := []Packet{{Data: d, Seq: seq}}, []Packet{{Data: bytes.Clone(d), Seq: seq}}
						l.fast.Seal(fast)
						l.twin.Seal(twin)
						if !bytes.Equal(fast[0].Data, twin[0].Data) {
							t.Fatalf("%s: fill %x, number %x, length %d: %x, want %x", l.name, fill, seq, n, fast[0].Data, twin[0].Data)
						}
						if l.fast.Open(fast); !fast[0].OK {
							t.Fatalf("%s: fill %x, number %x, length %d: not opened", l.name, fill, seq, n)
						}
					}
				}
			}
		}
	}
}

// TestGCMTagBits has each bit of the ICV wrong in each lane of a group.
func TestGCMTagBits(t *testing.T) {
	r := random()
	for _, s := range gcmSuites() {
		k := keys(r, s)
		for _, l := range gcmAll(t, s, k) {
			for bit := range 8 * l.fast.ICVLen() {
				var batch []gcmCase
				for lane := range 5 {
					c := gcmCase{n: 20 * lane, flip: -1, seq: r.Uint64()}
					if lane == bit%5 || lane == bit/5%5 {
						c.flip = 8*(HeaderLen+gcmIVLen+c.n) + bit
					}
					batch = append(batch, c)
				}
				l.compare(t, r, batch)
			}
		}
	}
}

// TestGCMBadLengths has packets too short to be any among good ones.
func TestGCMBadLengths(t *testing.T) {
	r := random()
	for _, s := range gcmSuites() {
		k := keys(r, s)
		for _, l := range gcmAll(t, s, k) {
			for good := range 1 << 6 {
				for _, run := range []func([]Packet){l.fast.Seal, l.fast.Open} {
					pkts := make([]Packet, 6)
					for i := range pkts {
						n := HeaderLen + gcmIVLen + l.fast.ICVLen() - 1 - i
						if good>>i&1 == 1 {
							n = HeaderLen + gcmIVLen + l.fast.ICVLen() + 30*i
						}
						pkts[i] = Packet{Data: bytes.Repeat([]byte{0x5a}, n), Seq: 7, OK: i%2 == 0}
					}
					l.twin.Seal(pkts)
					run(pkts)
					for i, p := range pkts {
						if p.OK != (good>>i&1 == 1) {
							t.Fatalf("%s: good %06b: packet %d is %v", l.name, good, i, p.OK)
						}
						if !p.OK && len(bytes.Trim(p.Data, "\x5a")) > 0 {
							t.Fatalf("%s: good %06b: packet %d was changed", l.name, good, i)
						}
					}
				}
			}
			l.fast.Seal(nil)
			l.fast.Open(nil)
		}
	}
}

// FuzzGCMLevels reads a batch from its input: a suite, then for each packet its
// length, misalignment and a bit to change.
func FuzzGCMLevels(f *testing.F) {
	all := gcmSuites()
	f.Add(uint8(0), uint64(1), []byte{0, 64, 3, 0, 0})
	f.Add(uint8(17), uint64(1<<32), []byte{5, 140, 63, 0, 0, 0, 0, 1, 255, 3, 32, 1, 7, 0, 9})
	f.Fuzz(func(t *testing.T, suite uint8, seq uint64, data []byte) {
		s := all[int(suite)%len(all)]
		r := rand.NewChaCha8([32]byte{suite, byte(seq)})
		var batch []gcmCase
		for ; len(data) >= 5 && len(batch) < 12; data = data[5:] {
			c := gcmCase{
				n: int(binary.BigEndian.Uint16(data)) % 10000, misalign: int(data[2] % 64),
				flip: int(binary.BigEndian.Uint16(data[3:])) - 1, seq: seq + uint64(len(batch)),
			}
			batch = append(batch, c)
		}
		for _, l := range gcmAll(t, s, keys(r, s)) {
			l.compare(t, r, batch)
		}
	})
}
