// SPDX-License-Identifier: Apache-2.0

//go:build !purego

package aead

import (
	"fmt"
	"unsafe"

	"quicksand/accel"
	"quicksand/sa"
)

//go:generate go run -C _asm ./cbc -dir ..

// kernels says which instructions are used: VAES on 512-bit registers in place
// of AES-NI, hashes in lanes of 512 or 256 bits or none, and the CPU's own for
// SHA-1 and SHA-256.
type kernels struct {
	wide   bool
	vector int
	ni     bool
}

func init() {
	cpu := accel.Detect()
	ni := cpu.Has(accel.SHANI)
	level := func(name string, available bool, wide bool, vector int) implementation {
		return implementation{name, available && cpu.Has(accel.AESNI), supportsCBC, newCBCKernels(kernels{wide, vector, ni})}
	}
	implementations = append([]implementation{
		level("VAES-512, HMAC by AVX-512", cpu.Has(accel.VAES512) && cpu.Has(accel.AVX512), true, 512),
		level("AES-NI, HMAC by AVX-512", cpu.Has(accel.AVX512), false, 512),
		level("AES-NI, HMAC by AVX2", cpu.Has(accel.AVX2), false, 256),
		level("AES-NI, HMAC by packet", true, false, 0),
	}, implementations...)
}

func supportsCBC(s sa.Suite) bool { return s.Encryption == sa.AESCBC }

const (
	// groupSize is the number of packets that the wide kernels work on at a
	// time.
	groupSize = 16
	// sortSize is the number of packets among which those of about the same
	// length are brought together.
	sortSize = 64
)

// cbcBatch is AES in CBC mode with an HMAC, over batches: a packet's blocks have
// to be encrypted and hashed one after the other, so that the CPU's units are
// only filled by those of many packets.
type cbcBatch struct {
	key   *aesKey
	iv    *ivBatch
	mac   hmacBatch
	icv   int
	use   kernels
	lanes cbcLanes
	queue [sortSize]job
	wiped bool

	shared *cbcShared // made when it first works for other SAs too
}

// A job is a packet with a possible length.
type job struct {
	pkt *Packet
	to  int       // where the payload ends
	of  *cbcBatch // whose packet it is where there are several SAs, else nil
}

func newCBCKernels(use kernels) func(s sa.Suite, k *sa.SA) (Cipher, error) {
	return func(s sa.Suite, k *sa.SA) (Cipher, error) {
		iv, err := newIVBatch(use.wide)
		if err != nil {
			return nil, fmt.Errorf("make cipher for %s: %w", s, err)
		}
		c := &cbcBatch{key: newAESKey(k.EncryptionKey), iv: iv, icv: s.ICVLen(), use: use}
		if err := c.mac.init(s.Integrity, k.IntegrityKey, s.ESN, use); err != nil {
			return nil, fmt.Errorf("make cipher for %s: %w", s, err)
		}
		return c, nil
	}
}

// payloadStart is where the payload begins: behind header and IV.
const payloadStart = HeaderLen + aesBlock

func (c *cbcBatch) IVLen() int    { return aesBlock }
func (c *cbcBatch) ICVLen() int   { return c.icv }
func (c *cbcBatch) BlockLen() int { return aesBlock }

func (c *cbcBatch) Wipe() {
	*c.key, *c.iv.key, c.iv.blocks = aesKey{}, aesKey{}, [groupSize]ivBlock{}
	c.mac.wipe()
	c.wiped = true
}

func (c *cbcBatch) Seal(pkts []Packet) {
	if c.wiped {
		refuse(pkts)
		return
	}
	for len(pkts) > 0 {
		n := min(len(pkts), sortSize)
		for jobs := c.sort(pkts[:n]); len(jobs) > 0; {
			m := min(len(jobs), groupSize)
			c.seal(jobs[:m])
			jobs = jobs[m:]
		}
		pkts = pkts[n:]
	}
}

func (c *cbcBatch) Open(pkts []Packet) {
	if c.wiped {
		refuse(pkts)
		return
	}
	for len(pkts) > 0 {
		n := min(len(pkts), sortSize)
		for jobs := c.sort(pkts[:n]); len(jobs) > 0; {
			m := min(len(jobs), groupSize)
			c.open(jobs[:m])
			jobs = jobs[m:]
		}
		pkts = pkts[n:]
	}
}

// sort returns the packets of possible length, the longest first: lanes that
// begin together then end together.
func (c *cbcBatch) sort(pkts []Packet) []job {
	n := 0
	for i := range pkts {
		n += c.insert(n, job{pkt: &pkts[i], to: len(pkts[i].Data) - c.icv})
	}
	return c.queue[:n]
}

// insert puts a job among the first n, and returns 1, or 0 where its length is not
// possible.
func (c *cbcBatch) insert(n int, j job) int {
	j.pkt.OK = j.to >= payloadStart && (j.to-payloadStart)%aesBlock == 0
	if !j.pkt.OK {
		return 0
	}
	for ; n > 0 && c.queue[n-1].to < j.to; n-- {
		c.queue[n] = c.queue[n-1]
	}
	c.queue[n] = j
	return 1
}

func (c *cbcBatch) seal(jobs []job) {
	c.iv.next(jobs)
	for i := range jobs {
		c.lanes.set(i, &jobs[i])
	}
	c.lanes.encrypt(c.key, len(jobs), c.use.wide)
	c.mac.sum(jobs)
	for i := range jobs {
		c.mac.put(i, jobs[i].pkt.Data[jobs[i].to:])
	}
}

func (c *cbcBatch) open(jobs []job) {
	c.mac.sum(jobs)
	n := 0
	for i := range jobs {
		j := &jobs[i]
		if j.pkt.OK = c.mac.equal(i, j.pkt.Data[j.to:]); j.pkt.OK {
			c.lanes.set(n, j)
			n++
		}
	}
	if n > 0 {
		c.lanes.decrypt(c.key, n, c.use.wide)
	}
}

// set makes a packet's payload the work of a lane.
func (l *cbcLanes) set(lane int, j *job) {
	l.ptr[lane] = unsafe.Pointer(&j.pkt.Data[payloadStart])
	l.blocks[lane] = uint64(j.to-payloadStart) / aesBlock
}
