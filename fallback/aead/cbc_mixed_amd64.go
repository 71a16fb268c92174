// SPDX-License-Identifier: Apache-2.0

//go:build !purego

package aead

import "unsafe"

// ownKeys are the round keys of packets of several SAs: of each round those of
// every lane.
type ownKeys [15][narrowLanes][aesBlock]byte

// set gives a lane its key.
func (k *ownKeys) set(lane int, key *aesKey) {
	for i := range key.rounds + 1 {
		k[i][lane] = key.enc[i]
	}
}

// cbcShared is what a cipher needs to work on packets of other SAs along with its
// own. All of it is of keys, and cleared after use.
type cbcShared struct {
	keys   ownKeys
	starts [2]hmacStart
}

// apart is from how many packets of one SA in a row its own kernels have enough to
// fill their lanes.
const apart = narrowLanes

// mixedCBC seals or opens the packets at the front that are of several SAs with the
// same algorithms, and returns how many those are: 0 where they are of one SA, or
// there is no kernel for them. The first one's cipher is the host of all.
func mixedCBC(ciphers []Cipher, pkts []Packet, seal bool) int {
	host, ok := ciphers[0].(*cbcBatch)
	if !ok || host.use.vector < 256 {
		return 0
	}
	kernel, ok := hmacKernels[256][host.mac.hash]
	if !ok {
		return 0
	}
	n := host.alike(ciphers[:min(len(pkts), sortSize)])
	if n == 0 {
		return 0
	}
	if host.shared == nil {
		host.shared = new(cbcShared)
	}
	before, cost := host.mac.kernel, host.mac.cost
	host.mac.kernel, host.mac.cost, host.mac.own = kernel, host.mac.costOf(&kernel), &host.shared.starts
	for jobs := host.sortOwn(ciphers[:n], pkts[:n]); len(jobs) > 0; {
		m := min(len(jobs), groupSize)
		if seal {
			host.sealOwn(jobs[:m])
		} else {
			host.openOwn(jobs[:m])
		}
		jobs = jobs[m:]
	}
	host.mac.kernel, host.mac.cost, host.mac.own = before, cost, nil
	*host.shared = cbcShared{}
	host.mac.states = [2]hmacState{}
	clear(host.queue[:n])
	return n
}

// alike returns how many ciphers at the front the host's kernels can work for,
// without a long run of one SA, and 0 if all are the same.
func (c *cbcBatch) alike(ciphers []Cipher) int {
	run, several := 0, false
	for i := range ciphers {
		o, ok := ciphers[i].(*cbcBatch)
		if !ok || o.wiped || o.mac.hash != c.mac.hash || o.key.rounds != c.key.rounds || o.use != c.use {
			if !several {
				return 0
			}
			return i
		}
		if i > 0 && ciphers[i-1] != ciphers[i] {
			run, several = 0, true
		}
		if run++; run == apart {
			if first := i + 1 - apart; first > 1 {
				return first
			}
			return 0
		}
	}
	if !several {
		return 0
	}
	return len(ciphers)
}

// sortOwn is sort for packets of several SAs.
func (c *cbcBatch) sortOwn(ciphers []Cipher, pkts []Packet) []job {
	n := 0
	for i := range pkts {
		n += c.insert(n, job{pkt: &pkts[i], to: len(pkts[i].Data) - c.icv, of: ciphers[i].(*cbcBatch)})
	}
	return c.queue[:n]
}

func (c *cbcBatch) sealOwn(jobs []job) {
	c.iv.next(jobs)
	c.shared.encrypt(jobs, c.key.rounds)
	c.mac.sum(jobs)
	for i := range jobs {
		c.mac.put(i, jobs[i].pkt.Data[jobs[i].to:])
	}
}

func (c *cbcBatch) openOwn(jobs []job) {
	c.mac.sum(jobs)
	for i := range jobs {
		j := &jobs[i]
		if j.pkt.OK = c.mac.equal(i, j.pkt.Data[j.to:]); j.pkt.OK && j.to > payloadStart {
			cbcDecryptAESNI(&j.of.key.dec, j.of.key.rounds, unsafe.Pointer(&j.pkt.Data[payloadStart]), (j.to-payloadStart)/aesBlock)
		}
	}
}

// encrypt encrypts the payloads, the longest first. As in cbcLanes.encrypt, the
// kernel runs until the shortest lane comes to its end; the next packet then takes
// that lane.
func (s *cbcShared) encrypt(jobs []job, rounds int) {
	var ptr [wideLanes]unsafe.Pointer
	var left [narrowLanes]int
	var of [narrowLanes]*aesKey
	for next := 0; ; {
		rows, busy := 0, -1
		for lane := range left {
			if left[lane] == 0 && next < len(jobs) {
				j := &jobs[next]
				next++
				ptr[lane], left[lane], of[lane] = unsafe.Pointer(&j.pkt.Data[payloadStart]), (j.to-payloadStart)/aesBlock, j.of.key
				s.keys.set(lane, of[lane])
			}
			if n := left[lane]; n > 0 && (busy < 0 || n < rows) {
				rows, busy = n, lane
			}
		}
		if busy < 0 {
			if next == len(jobs) {
				return
			}
			continue // those had no blocks
		}
		for lane := range left {
			if left[lane] > 0 {
				continue
			}
			// The same work as another lane's, with the same outcome.
			ptr[lane] = ptr[busy]
			if of[lane] != of[busy] {
				of[lane] = of[busy]
				s.keys.set(lane, of[lane])
			}
		}
		cbcEncryptOwnAESNI(&s.keys, rounds, &ptr, rows)
		for lane := range left {
			if left[lane] > 0 {
				left[lane] -= rows
				ptr[lane] = unsafe.Add(ptr[lane], rows*aesBlock)
			}
		}
	}
}
