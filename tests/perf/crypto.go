// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha1"
	"crypto/sha256"
	"fmt"
	"hash"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"quicksand/fallback/aead"
	"quicksand/sa"
)

// batch is how many packets are handed over in one call.
const batch = 32

// cryptoCase is a suite, with what its peers call it.
type cryptoCase struct {
	name    string
	suite   sa.Suite
	program string   // of intel-ipsec-mb's harness
	args    []string // before direction, size and time
	calls   []int    // packets in a call of ours; the peer takes batches of CBC only
	sizes   []int
	sas     int            // whose packets come in turn; 0: one
	library func() library // nil: not compared with it
}

// library is a suite put together from Go's standard library: it seals the
// payload of a packet in place, with its header as additional data.
type library func(packet []byte, size int)

var cryptoCases = []cryptoCase{
	gcmCase(128), gcmCase(256), many(gcmCase(128), 64, 256, 576),
	cbcCase(128, "sha1", sa.HMACSHA1, sha1.New), cbcCase(256, "sha1", sa.HMACSHA1, sha1.New),
	cbcCase(128, "sha256", sa.HMACSHA256, sha256.New), cbcCase(256, "sha256", sa.HMACSHA256, sha256.New),
	many(cbcCase(128, "sha1", sa.HMACSHA1, sha1.New), 256, 576, 1424), many(cbcCase(256, "sha256", sa.HMACSHA256, sha256.New), 256, 576, 1424),
}

func gcmCase(bits int) cryptoCase {
	return cryptoCase{
		name:    fmt.Sprintf("AES-%d-GCM", bits),
		suite:   sa.Suite{Protocol: sa.ESP, Encryption: sa.AESGCM16, KeyBits: uint16(bits)},
		program: "gcm", args: []string{strconv.Itoa(bits)},
		calls: []int{batch, 1},
		sizes: []int{64, 256, 576, 1420, 8192},
		library: func() library {
			block, _ := aes.NewCipher(make([]byte, bits/8))
			g, _ := cipher.NewGCM(block)
			nonce := make([]byte, 12)
			return func(p []byte, size int) {
				copy(nonce[4:], p[aead.HeaderLen:])
				g.Seal(p[16:16], nonce, p[16:16+size], p[:aead.HeaderLen])
			}
		},
	}
}

// many is a case with a packet of each of as many SAs as a batch takes.
func many(c cryptoCase, sizes ...int) cryptoCase {
	c.name = fmt.Sprintf("%s of %d SAs", c.name, batch)
	c.sas, c.sizes, c.library = batch, sizes, nil
	return c
}

func cbcCase(bits int, name string, integrity sa.Integrity, digest func() hash.Hash) cryptoCase {
	return cryptoCase{
		name:    fmt.Sprintf("AES-%d-CBC + HMAC-%s", bits, strings.ToUpper(name)),
		suite:   sa.Suite{Protocol: sa.ESP, Encryption: sa.AESCBC, KeyBits: uint16(bits), Integrity: integrity},
		program: "cbc", args: []string{strconv.Itoa(bits), name},
		calls: []int{batch},
		sizes: []int{256, 576, 1424},
		library: func() library {
			block, _ := aes.NewCipher(make([]byte, bits/8))
			mac := hmac.New(digest, make([]byte, integrity.KeyLen()))
			sum := make([]byte, 0, 64)
			return func(p []byte, size int) {
				cipher.NewCBCEncrypter(block, p[8:24]).CryptBlocks(p[24:24+size], p[24:24+size])
				mac.Reset()
				mac.Write(p[:24+size])
				copy(p[24+size:], mac.Sum(sum)[:integrity.ICVLen()])
			}
		},
	}
}

// crypto measures the software ESP's packet cryptography on one core, in
// gigabytes of payload a second: beside intel-ipsec-mb's best way of
// submission, and beside the straight use of Go's standard library.
func crypto(o options) ([]Row, error) {
	var rows []Row
	for _, c := range cryptoCases {
		for _, direction := range []string{"seal", "open"} {
			for _, size := range c.sizes {
				for _, per := range c.calls {
					row, err := pairs(o.pairs, false,
						func() (float64, error) { return c.ours(direction, size, per, o.time/4) },
						func() (float64, error) { return c.ipsecMB(direction, size, o.time/4) })
					if err != nil {
						return nil, fmt.Errorf("%s, %s, %d bytes: %w", c.name, direction, size, err)
					}
					row.Case = fmt.Sprintf("%s, %s, %d bytes, %s", c.name, direction, size, map[bool]string{true: "in batches", false: "one by one"}[per > 1])
					row.Unit, row.PeerName = "GB/s", "intel-ipsec-mb"
					if per > 1 && c.sas == 0 {
						row.chart, row.series, row.x = chartName(c.name, direction), "quicksand", strconv.Itoa(size)
					}
					rows = append(rows, row)
				}
			}
		}
		for _, size := range c.sizes {
			if c.library == nil {
				break
			}
			row, err := pairs(o.pairs, false,
				func() (float64, error) { return c.ours("seal", size, batch, o.time/4) },
				func() (float64, error) { return c.standard(size, o.time/4), nil })
			if err != nil {
				return nil, err
			}
			row.Case, row.Unit, row.PeerName = fmt.Sprintf("%s, seal, %d bytes, in batches", c.name, size), "GB/s", "Go's library"
			row.chart, row.series, row.x = chartName(c.name, "seal"), "quicksand", strconv.Itoa(size)
			rows = append(rows, row)
		}
	}
	return rows, nil
}

func chartName(name, direction string) string {
	return strings.ToLower(strings.NewReplacer(" + ", "-", " ", "-").Replace(name)) + "-" + direction
}

// packets returns packets of a payload size, close to each other at cache
// lines.
func packets(c aead.Cipher, size int) []aead.Packet {
	length := aead.HeaderLen + c.IVLen() + size + c.ICVLen()
	step := (length + 63) &^ 63
	memory := make([]byte, batch*step)
	out := make([]aead.Packet, batch)
	for i := range out {
		out[i] = aead.Packet{Data: memory[i*step:][:length:length], Seq: uint64(i) + 1}
	}
	return out
}

// ours returns the best rate of many short runs over the packets, which other
// work on the machine disturbs least; the peer's harness does the same.
func (c cryptoCase) ours(direction string, size, per int, d time.Duration) (float64, error) {
	of := make([]aead.Cipher, batch)
	for i := range of {
		if i >= max(c.sas, 1) {
			of[i] = of[i%max(c.sas, 1)]
			continue
		}
		key := &sa.SA{EncryptionKey: make(sa.Key, c.suite.EncryptionKeyLen()), IntegrityKey: make(sa.Key, c.suite.Integrity.KeyLen())}
		key.EncryptionKey[0] = byte(i)
		var err error
		if of[i], err = aead.New(c.suite, key); err != nil {
			return 0, err
		}
	}
	pkts := packets(of[0], size)
	run := func(several func([]aead.Cipher, []aead.Packet), one func(aead.Cipher, []aead.Packet)) time.Duration {
		start := time.Now()
		for i := 0; i < len(pkts); i += per {
			if c.sas > 0 && per > 1 {
				several(of[i:i+per], pkts[i:i+per])
			} else {
				one(of[i], pkts[i:i+per])
			}
		}
		return time.Since(start)
	}
	best := time.Duration(1 << 62)
	for start := time.Now(); time.Since(start) < d; {
		took := run(aead.Seal, aead.Cipher.Seal)
		if direction == "open" {
			took = run(aead.Open, aead.Cipher.Open)
		}
		best = min(best, took)
	}
	for _, p := range pkts {
		if !p.OK {
			return 0, fmt.Errorf("%s failed", direction)
		}
	}
	return float64(size*batch) / float64(best.Nanoseconds()), nil
}

// standard is the same of the standard library.
func (c cryptoCase) standard(size int, d time.Duration) float64 {
	seal := c.library()
	memory := make([]byte, batch*(size+128))
	best := time.Duration(1 << 62)
	for start := time.Now(); time.Since(start) < d; {
		t := time.Now()
		for i := range batch {
			seal(memory[i*(size+128):][:size+128], size)
		}
		best = min(best, time.Since(t))
	}
	return float64(size*batch) / float64(best.Nanoseconds())
}

// ipsecMB runs intel-ipsec-mb's harness, which "make bench" builds.
func (c cryptoCase) ipsecMB(direction string, size int, d time.Duration) (float64, error) {
	args := append(append([]string(nil), c.args...), direction, strconv.Itoa(size), strconv.Itoa(int(d.Milliseconds())))
	if c.sas > 0 {
		args = append(args, strconv.Itoa(c.sas))
	}
	out, err := exec.Command(filepath.Join("bin", "ipsecmb-"+c.program), args...).Output()
	if err != nil {
		return 0, fmt.Errorf("run intel-ipsec-mb: %w", err)
	}
	rate, _, _ := strings.Cut(string(out), " ")
	return strconv.ParseFloat(rate, 64)
}
