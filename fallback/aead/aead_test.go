// SPDX-License-Identifier: Apache-2.0

package aead

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/des"
	"crypto/hmac"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"quicksand/sa"
)

// suites are all of ESP, without and with ESN.
func suites() (out []sa.Suite) {
	add := func(e sa.Encryption, sizes ...uint16) {
		for _, bits := range sizes {
			first, last := sa.HMACMD5, sa.HMACSHA512
			if e.AEAD() {
				first, last = sa.IntegrityNone, sa.IntegrityNone
			}
			for i := first; i <= last; i++ {
				for _, esn := range []bool{false, true} {
					out = append(out, sa.Suite{Protocol: sa.ESP, Encryption: e, KeyBits: bits, Integrity: i, ESN: esn})
				}
			}
		}
	}
	add(sa.EncryptionNull, 0)
	add(sa.TripleDESCBC, 192)
	for _, e := range []sa.Encryption{sa.AESCBC, sa.AESCTR, sa.AESGCM8, sa.AESGCM12, sa.AESGCM16} {
		add(e, 128, 192, 256)
	}
	return out
}

// random is the same in every run.
func random() *rand.ChaCha8 { return rand.NewChaCha8([32]byte{'q', 's'}) }

func fill(r *rand.ChaCha8, n int) []byte {
	b := make([]byte, n)
	r.Read(b)
	return b
}

func keys(r *rand.ChaCha8, s sa.Suite) *sa.SA {
	return &sa.SA{EncryptionKey: fill(r, s.EncryptionKeyLen()), IntegrityKey: fill(r, s.Integrity.KeyLen())}
}

// reference seals one packet with a given IV in the plainest way there is.
func reference(s sa.Suite, k *sa.SA, seq uint64, header, iv, payload []byte) []byte {
	key, salt := k.EncryptionKey[:s.KeyBits/8], k.EncryptionKey[s.KeyBits/8:]
	high := binary.BigEndian.AppendUint32(nil, uint32(seq>>32))
	out := concat(header, iv, payload)
	body := out[len(header)+len(iv):]
	block, _ := aes.NewCipher(key)
	switch s.Encryption {
	case sa.TripleDESCBC:
		block, _ := des.NewTripleDESCipher(key)
		cipher.NewCBCEncrypter(block, iv).CryptBlocks(body, body)
	case sa.AESCBC:
		cipher.NewCBCEncrypter(block, iv).CryptBlocks(body, body)
	case sa.AESCTR:
		cipher.NewCTR(block, concat(salt, iv, []byte{0, 0, 0, 1})).XORKeyStream(body, body)
	case sa.AESGCM8, sa.AESGCM12, sa.AESGCM16:
		g, _ := cipher.NewGCM(block)
		aad := header
		if s.ESN {
			aad = concat(header[:4], high, header[4:])
		}
		sealed := g.Seal(nil, concat(salt, iv), payload, aad)
		return concat(header, iv, sealed[:len(payload)+s.Encryption.TagLen()])
	}
	h := hmac.New(hashes[s.Integrity], k.IntegrityKey)
	h.Write(out)
	if s.ESN {
		h.Write(high)
	}
	return append(out, h.Sum(nil)[:s.Integrity.ICVLen()]...)
}

// guarded is a packet with bytes around it that must not change.
type guarded struct {
	Packet
	whole, plain []byte
}

const guard = 24

func newGuarded(r *rand.ChaCha8, c Cipher, n, misalign int, seq uint64) guarded {
	size := HeaderLen + c.IVLen() + n + c.ICVLen()
	g := guarded{whole: bytes.Repeat([]byte{0xa5}, guard+misalign+size+guard)}
	g.Data = g.whole[guard+misalign:][:size]
	g.plain = fill(r, n)
	g.Seq = seq
	binary.BigEndian.PutUint32(g.Data, 0xdeadbeef)
	binary.BigEndian.PutUint32(g.Data[4:], uint32(seq))
	copy(g.Data[HeaderLen+c.IVLen():], g.plain)
	return g
}

func (g *guarded) intact() bool {
	before := cap(g.whole) - cap(g.Data)
	return len(bytes.Trim(g.whole[:before], "\xa5")) == 0 &&
		len(bytes.Trim(g.whole[before+len(g.Data):], "\xa5")) == 0
}

// TestConformance runs every implementation and suite against the reference,
// at every length up to 1500 bytes, in batches, at every alignment.
func TestConformance(t *testing.T) {
	r := random()
	for _, s := range suites() {
		k := keys(r, s)
		each(t, s, k, func(t *testing.T, c Cipher) {
			if c.IVLen() != s.Encryption.IVLen() || c.ICVLen() != s.ICVLen() || c.BlockLen() != s.Encryption.BlockLen() {
				t.Fatalf("lengths %d, %d, %d", c.IVLen(), c.ICVLen(), c.BlockLen())
			}
			step := c.BlockLen()
			if step == 1 && s.KeyBits == 192 {
				step = 7 // as good as the other sizes, which go by 1
			}
			var batch []guarded
			seq := uint64(r.Uint64() >> 1)
			for n := 0; n <= 1500; n += step {
				seq++
				batch = append(batch, newGuarded(r, c, n, n%17, seq))
				if len(batch) == 1+n%40 || n+step > 1500 {
					checkBatch(t, s, k, c, batch)
					batch = batch[:0]
				}
			}
		})
	}
}

func checkBatch(t *testing.T, s sa.Suite, k *sa.SA, c Cipher, batch []guarded) {
	pkts := make([]Packet, len(batch))
	for i := range batch {
		pkts[i] = batch[i].Packet
	}
	c.Seal(pkts)
	for i, g := range batch {
		iv := g.Data[HeaderLen:][:c.IVLen()]
		want := reference(s, k, g.Seq, g.Data[:HeaderLen], iv, g.plain)
		if !pkts[i].OK || !bytes.Equal(g.Data, want) {
			t.Fatalf("length %d: sealed\n%x\nwant\n%x", len(g.plain), g.Data, want)
		}
	}
	c.Open(pkts)
	for i, g := range batch {
		if !pkts[i].OK || !bytes.Equal(g.Data[HeaderLen+c.IVLen():][:len(g.plain)], g.plain) {
			t.Fatalf("length %d: not opened", len(g.plain))
		}
		if !g.intact() {
			t.Fatalf("length %d: wrote outside of the packet", len(g.plain))
		}
	}
}

// TestTampering changes every byte and cuts at every length, and expects
// nothing of the payload to be released.
func TestTampering(t *testing.T) {
	r := random()
	for _, s := range suites() {
		k := keys(r, s)
		each(t, s, k, func(t *testing.T, c Cipher) {
			const n = 48
			g := newGuarded(r, c, n, 0, 1<<40+7)
			sealOne(c, g.Data, g.Seq)
			released := func(d []byte) bool {
				return s.Encryption != sa.EncryptionNull && bytes.Contains(d, g.plain[:8])
			}
			for i := range g.Data {
				d := bytes.Clone(g.Data)
				d[i] ^= 1 << (i % 8)
				if openOne(c, d, g.Seq) || released(d) {
					t.Fatalf("byte %d: accepted or released", i)
				}
			}
			for i := range g.Data {
				if d := bytes.Clone(g.Data[:i]); openOne(c, d, g.Seq) || released(d) {
					t.Fatalf("cut to %d: accepted or released", i)
				}
			}
			if got := openOne(c, bytes.Clone(g.Data), g.Seq+1<<32); got == s.ESN {
				t.Fatal("the high half counts with ESN only")
			}
			if !openOne(c, bytes.Clone(g.Data), g.Seq) {
				t.Fatal("not opened after failures")
			}
		})
	}
}

// TestBatchFailure has one bad packet among good ones.
func TestBatchFailure(t *testing.T) {
	r := random()
	for _, s := range suites() {
		k := keys(r, s)
		each(t, s, k, func(t *testing.T, c Cipher) {
			pkts := make([]Packet, 9)
			for i := range pkts {
				pkts[i] = newGuarded(r, c, 96, i, uint64(i)+1).Packet
			}
			c.Seal(pkts)
			pkts[4].Data[40] ^= 1
			pkts[6].Data = pkts[6].Data[:5]
			c.Open(pkts)
			for i, p := range pkts {
				if p.OK == (i == 4 || i == 6) {
					t.Fatalf("packet %d: %v", i, p.OK)
				}
			}
			if pkts[0].Data = nil; sealOne(c, nil, 1) {
				t.Fatal("sealed nothing")
			}
		})
	}
}

// TestIV has IVs that never repeat, and that CBC's cannot be told from the
// sequence number.
func TestIV(t *testing.T) {
	r := random()
	for _, s := range suites() {
		k := keys(r, s)
		each(t, s, k, func(t *testing.T, c Cipher) {
			if c.IVLen() == 0 {
				return
			}
			other, err := New(s, k)
			if err != nil {
				t.Fatal(err)
			}
			seen := map[string]bool{}
			for seq := uint64(1); seq <= 200; seq++ {
				for _, c := range []Cipher{c, other} {
					g := newGuarded(r, c, 16, 0, seq)
					c.Seal([]Packet{g.Packet})
					seen[string(g.Data[HeaderLen:][:c.IVLen()])] = true
				}
			}
			want := 200 // the counter modes' are the sequence number
			if c.BlockLen() > 1 {
				want = 400
			}
			if len(seen) != want {
				t.Fatalf("%d different IVs, want %d", len(seen), want)
			}
		})
	}
}

// TestWipe has a cipher refuse everything once it is wiped, as often as that
// happens, and leave packets as they are.
func TestWipe(t *testing.T) {
	r := random()
	for _, s := range suites() {
		k := keys(r, s)
		each(t, s, k, func(t *testing.T, c Cipher) {
			g := newGuarded(r, c, 48, 0, 1)
			if !sealOne(c, g.Data, 1) {
				t.Fatal("not sealed")
			}
			for range 2 {
				c.Wipe()
				d := bytes.Clone(g.Data)
				if openOne(c, d, 1) || sealOne(c, d, 2) || !bytes.Equal(d, g.Data) {
					t.Error("a wiped cipher took or changed a packet")
				}
			}
		})
	}
	for i := range hashes {
		m, err := newMAC(i, fill(r, i.KeyLen()))
		if err != nil {
			t.Fatal(err)
		}
		inner, outer := m.inner, m.outer
		m.Write([]byte("message"))
		icv := bytes.Clone(m.Sum())
		for range 2 {
			m.Wipe()
			m.Reset()
			m.Write([]byte("message"))
			if m.Verify(icv) || m.Verify(bytes.Clone(m.Sum())) || !allZero(inner) || !allZero(outer) {
				t.Errorf("%s: a wiped HMAC verifies, or keeps its key's states", i)
			}
		}
	}
}

func allZero(b []byte) bool { return len(bytes.Trim(b, "\x00")) == 0 }

func TestNewRefuses(t *testing.T) {
	good := sa.Suite{Protocol: sa.ESP, Encryption: sa.AESCBC, KeyBits: 128, Integrity: sa.HMACSHA256}
	r := random()
	for name, c := range map[string]struct {
		change func(s *sa.Suite, k *sa.SA)
		want   error
	}{
		"good":         {func(*sa.Suite, *sa.SA) {}, nil},
		"AH":           {func(s *sa.Suite, _ *sa.SA) { s.Protocol = sa.AH }, ErrSuite},
		"no cipher":    {func(s *sa.Suite, _ *sa.SA) { s.Encryption = sa.EncryptionNone }, ErrSuite},
		"cipher 99":    {func(s *sa.Suite, _ *sa.SA) { s.Encryption = 99 }, ErrSuite},
		"no integrity": {func(s *sa.Suite, _ *sa.SA) { s.Integrity = sa.IntegrityNone }, ErrSuite},
		"integrity 99": {func(s *sa.Suite, _ *sa.SA) { s.Integrity = 99 }, ErrSuite},
		"both":         {func(s *sa.Suite, _ *sa.SA) { s.Encryption = sa.AESGCM16 }, ErrSuite},
		"160 bits":     {func(s *sa.Suite, _ *sa.SA) { s.KeyBits = 160 }, ErrSuite},
		"short key":    {func(_ *sa.Suite, k *sa.SA) { k.EncryptionKey = k.EncryptionKey[:15] }, ErrKeyLen},
		"no key":       {func(_ *sa.Suite, k *sa.SA) { *k = sa.SA{} }, ErrKeyLen},
		"long auth":    {func(_ *sa.Suite, k *sa.SA) { k.IntegrityKey = append(k.IntegrityKey, 0) }, ErrKeyLen},
	} {
		s, k := good, keys(r, good)
		c.change(&s, k)
		got, err := New(s, k)
		if !errors.Is(err, c.want) || (got == nil) != (c.want != nil) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	if Implementation(good) == "none" {
		t.Error("no implementation")
	}
}

// TestNoAllocation seals and opens batches without the heap.
func TestNoAllocation(t *testing.T) {
	r := random()
	for _, s := range suites() {
		k := keys(r, s)
		each(t, s, k, func(t *testing.T, c Cipher) {
			pkts := make([]Packet, 4)
			for i := range pkts {
				pkts[i] = newGuarded(r, c, 144*i, 0, uint64(i)+1).Packet
			}
			run := func() {
				c.Seal(pkts)
				c.Open(pkts)
			}
			run()
			if n := testing.AllocsPerRun(20, run); n != 0 {
				t.Errorf("%v allocations", n)
			}
		})
	}
}

func FuzzOpen(f *testing.F) {
	all := suites()
	r := random()
	ciphers, secrets := make([]Cipher, len(all)), make([]*sa.SA, len(all))
	for i, s := range all {
		secrets[i] = keys(r, s)
		c, err := New(s, secrets[i])
		if err != nil {
			f.Fatal(err)
		}
		ciphers[i] = c
		g := newGuarded(r, c, 48, 0, 1)
		c.Seal([]Packet{g.Packet})
		f.Add(uint8(i), uint64(1), g.Data)
	}
	f.Add(uint8(0), uint64(0), []byte{})
	f.Fuzz(func(t *testing.T, i uint8, seq uint64, data []byte) {
		k := int(i) % len(all)
		c, d := ciphers[k], bytes.Clone(data)
		if !openOne(c, d, seq) {
			return
		}
		front := HeaderLen + c.IVLen()
		plain := d[front : len(d)-c.ICVLen()]
		if want := reference(all[k], secrets[k], seq, data[:HeaderLen], data[HeaderLen:front], plain); !bytes.Equal(data, want) {
			t.Fatalf("%s: accepted %x", all[k], data)
		}
	})
}

func BenchmarkCipher(b *testing.B) {
	for _, s := range []sa.Suite{
		{Protocol: sa.ESP, Encryption: sa.AESGCM16, KeyBits: 128},
		{Protocol: sa.ESP, Encryption: sa.AESGCM8, KeyBits: 128},
		{Protocol: sa.ESP, Encryption: sa.AESCTR, KeyBits: 128, Integrity: sa.HMACSHA256},
		{Protocol: sa.ESP, Encryption: sa.AESCBC, KeyBits: 128, Integrity: sa.HMACSHA1},
		{Protocol: sa.ESP, Encryption: sa.AESCBC, KeyBits: 128, Integrity: sa.HMACSHA256},
	} {
		for _, n := range []int{64, 576, 1424} {
			r := random()
			c, err := New(s, keys(r, s))
			if err != nil {
				b.Fatal(err)
			}
			sealed := make([]Packet, 32)
			for i := range sealed {
				sealed[i] = newGuarded(r, c, n, 0, uint64(i)+1).Packet
			}
			c.Seal(sealed)
			for _, dir := range []string{"seal", "open"} {
				b.Run(fmt.Sprintf("%s/%s/%d", s, dir, n), func(b *testing.B) {
					b.SetBytes(int64(n))
					work := make([]Packet, len(sealed))
					for i := range work {
						work[i] = Packet{Data: bytes.Clone(sealed[i].Data), Seq: sealed[i].Seq}
					}
					for i := 0; i < b.N; i += len(work) {
						if dir == "seal" {
							c.Seal(work)
							continue
						}
						for j := range work { // opening changes the packet
							copy(work[j].Data, sealed[j].Data)
						}
						c.Open(work)
						if !work[0].OK {
							b.Fatal("not opened")
						}
					}
				})
			}
		}
	}
}
