// SPDX-License-Identifier: Apache-2.0

//go:build !purego

package aead

import (
	"bytes"
	"crypto/aes"
	"crypto/hmac"
	"encoding/binary"
	"fmt"
	"testing"

	"quicksand/accel"
	"quicksand/sa"
)

// cbcMixes are kernels in the combinations of CPUs that lack one of what this
// one has.
func cbcMixes() []implementation {
	cpu := accel.Detect()
	var out []implementation
	for _, use := range []kernels{{true, 512, false}, {false, 512, false}, {false, 256, false}, {false, 0, false}} {
		out = append(out, implementation{fmt.Sprintf("%+v", use), available(cpu, use), supportsCBC, newCBCKernels(use)})
	}
	return out
}

func available(cpu accel.CPU, use kernels) bool {
	return cpu.Has(accel.AESNI) && (!use.wide || cpu.Has(accel.VAES512)) && (!use.ni || cpu.Has(accel.SHANI)) &&
		(use.vector < 512 || cpu.Has(accel.AVX512)) && (use.vector < 256 || cpu.Has(accel.AVX2))
}

func TestAESKey(t *testing.T) {
	if !accel.Detect().Has(accel.AESNI) {
		t.Skip("no AES-NI")
	}
	// FIPS 197 appendix A: the last word of each expanded key.
	for key, want := range map[string]uint32{
		"\x2b\x7e\x15\x16\x28\xae\xd2\xa6\xab\xf7\x15\x88\x09\xcf\x4f\x3c":                                                                 0xb6630ca6,
		"\x8e\x73\xb0\xf7\xda\x0e\x64\x52\xc8\x10\xf3\x2b\x80\x90\x79\xe5\x62\xf8\xea\xd2\x52\x2c\x6b\x7b":                                 0x01002202,
		"\x60\x3d\xeb\x10\x15\xca\x71\xbe\x2b\x73\xae\xf0\x85\x7d\x77\x81\x1f\x35\x2c\x07\x3b\x61\x08\xd7\x2d\x98\x10\xa3\x09\x14\xdf\xf4": 0x706c631e,
	} {
		k := newAESKey([]byte(key))
		if got := binary.BigEndian.Uint32(k.enc[k.rounds][12:]); got != want {
			t.Errorf("key of %d bytes expands to %08x at the end, want %08x", len(key), got, want)
		}
	}
	// One block in each way, with random keys.
	r := random()
	for _, n := range []int{16, 24, 32} {
		for range 100 {
			key, in := fill(r, n), fill(r, 16)
			k := newAESKey(key)
			block, _ := aes.NewCipher(key)
			want := make([]byte, 16)
			block.Encrypt(want, in)
			for _, wide := range []bool{false, accel.Detect().Has(accel.VAES512)} {
				var l cbcLanes
				d := concat(make([]byte, 24), in) // an IV of zeros
				j := job{pkt: &Packet{Data: d}, to: len(d)}
				l.set(0, &j)
				if l.encrypt(k, 1, wide); !bytes.Equal(d[24:], want) {
					t.Fatalf("%x encrypts to %x, want %x", in, d[24:], want)
				}
				if l.decrypt(k, 1, wide); !bytes.Equal(d[24:], in) {
					t.Fatalf("%x decrypts to %x, want %x", want, d[24:], in)
				}
			}
		}
	}
}

// TestHMACKernels compares both ways of every hash with crypto/hmac, in groups
// of each size and with every length of rest.
func TestHMACKernels(t *testing.T) {
	cpu := accel.Detect()
	r := random()
	for i := sa.HMACMD5; i <= sa.HMACSHA512; i++ {
		for _, way := range []kernels{{vector: 512}, {vector: 256}, {ni: true}, {}} {
			if !available(cpu, way) {
				continue
			}
			for _, esn := range []bool{false, true} {
				key := fill(r, i.KeyLen())
				var m hmacBatch
				if err := m.init(i, key, esn, way); err != nil {
					t.Fatal(err)
				}
				m.cost = 0 // in lanes whatever there is
				for n := 1; n <= 400; n += 1 + n/200 {
					jobs := make([]job, 1+n%groupSize)
					for k := range jobs {
						d := fill(r, n+k*k*k%97)
						jobs[k] = job{pkt: &Packet{Data: d, Seq: r.Uint64()}, to: len(d)}
					}
					m.sum(jobs)
					for k, j := range jobs {
						h := hmac.New(hashes[i], key)
						h.Write(j.pkt.Data)
						if esn {
							h.Write(binary.BigEndian.AppendUint64(nil, j.pkt.Seq)[:4])
						}
						if want := h.Sum(nil)[:i.ICVLen()]; !m.equal(k, want) {
							t.Fatalf("%s, %+v, ESN %v, length %d, %d of %d: %x, want %x", i, way, esn, j.to, k, len(jobs), m.icvs[k], want)
						}
					}
				}
			}
		}
	}
}

// TestWycheproofHMACKernels has the vectors' messages in the lanes.
func TestWycheproofHMACKernels(t *testing.T) {
	cpu := accel.Detect()
	var v struct {
		Tests []struct {
			TcID          int
			Hash          string
			Key, Msg, Tag hexBytes
			Valid         bool
		}
	}
	load(t, "wycheproof_hmac.json", &v)
	kinds := map[string]sa.Integrity{
		"sha1": sa.HMACSHA1, "sha256": sa.HMACSHA256, "sha384": sa.HMACSHA384, "sha512": sa.HMACSHA512,
	}
	done := 0
	for _, c := range v.Tests {
		if len(c.Msg) == 0 {
			continue // a packet has a header
		}
		for _, way := range []kernels{{vector: 512}, {vector: 256}, {ni: true}} {
			if !available(cpu, way) { // none is, where the CPU is to be generic
				continue
			}
			var m hmacBatch
			if err := m.init(kinds[c.Hash], c.Key, false, way); err != nil {
				t.Fatal(err)
			}
			m.cost = 0
			m.sum([]job{{pkt: &Packet{Data: c.Msg}, to: len(c.Msg)}})
			if m.equal(0, c.Tag) != c.Valid {
				t.Errorf("%s case %d: valid is %v", c.Hash, c.TcID, !c.Valid)
			}
			done++
		}
	}
	if done < 50 && available(cpu, kernels{ni: true}) {
		t.Fatal("vectors are missing")
	}
}

// TestWipedMemory looks for what is left of keys.
func TestWipedMemory(t *testing.T) {
	r := random()
	for _, s := range suites() {
		k := keys(r, s)
		each(t, s, k, func(t *testing.T, c Cipher) {
			pkts := []Packet{newGuarded(r, c, 9008, 0, 1).Packet}
			c.Seal(pkts)
			c.Open(pkts)
			switch c := c.(type) {
			case *gcmVector:
				side := c.side
				if c.key.powers[gcmPowersLen-1] == [16]byte{} || len(side) == 0 {
					t.Fatal("there is nothing to overwrite")
				}
				if c.Wipe(); c.key != (gcmKey{}) || !allZero(side) {
					t.Error("the key, powers of the hash key or a key stream are left")
				}
			case *cbcBatch:
				key, iv := c.key, c.iv.key
				if c.Wipe(); *key != (aesKey{}) || *iv != (aesKey{}) || c.iv.blocks != [groupSize]ivBlock{} {
					t.Error("a key is left")
				}
				m := &c.mac
				if m.inner != (hmacState{}) || m.outer != (hmacState{}) || m.states != [2]hmacState{} || m.lanes != (hmacLanes{}) || m.starts != [2]hmacStart{} {
					t.Error("a state of the HMAC is left")
				}
			}
		})
	}
}

// What a cipher was lent of other SAs' keys does not stay with it.
func TestMixedLeavesNoKeys(t *testing.T) {
	for _, s := range mixedBench {
		by, pkts := mixedPackets(t, s, 20, 200)
		Seal(by, pkts)
		Open(by, pkts)
		host, ok := by[0].(*cbcBatch)
		if !ok {
			continue
		}
		if host.use.vector >= 256 && host.shared == nil {
			t.Errorf("%s: packets of several SAs went one by one", s)
		}
		if host.shared != nil && *host.shared != (cbcShared{}) || host.mac.states != [2]hmacState{} {
			t.Errorf("%s: keys are left", s)
		}
	}
}
