// SPDX-License-Identifier: Apache-2.0

//go:build !purego

package aead

import (
	"crypto/rand"
	"encoding/binary"
	"unsafe"
)

const aesBlock = 16

// aesKey is an expanded key (FIPS 197 section 5.2). Decryption is by the
// equivalent inverse cipher (section 5.3.5), whose keys are other ones.
type aesKey struct {
	rounds   int
	enc, dec [15][aesBlock]byte
}

func newAESKey(key []byte) *aesKey {
	words := len(key) / 4
	k := &aesKey{rounds: words + 6}
	var w [60]uint32
	for i := range words {
		w[i] = binary.LittleEndian.Uint32(key[4*i:])
	}
	rcon := uint32(1)
	for i := words; i < 4*(k.rounds+1); i++ {
		t := w[i-1]
		switch {
		case i%words == 0:
			t = aesSubWord(t>>8|t<<24) ^ rcon
			rcon = rcon<<1 ^ rcon>>7*0x11b
		case words == 8 && i%words == 4:
			t = aesSubWord(t)
		}
		w[i] = w[i-words] ^ t
	}
	for i := range 4 * (k.rounds + 1) {
		binary.LittleEndian.PutUint32(k.enc[i/4][i%4*4:], w[i])
	}
	for i := range k.rounds + 1 {
		k.dec[i] = k.enc[k.rounds-i]
		if i > 0 && i < k.rounds {
			aesInverseMix(&k.dec[i])
		}
	}
	clear(w[:])
	return k
}

// cbcLanes is what the kernels read: a pointer to the payload of each packet,
// which stands behind its IV, and its length in blocks. The assembly knows the
// layout.
type cbcLanes struct {
	ptr    [groupSize]unsafe.Pointer
	blocks [groupSize]uint64
	aside  [aesBlock]byte // the work of lanes that have none
}

// encrypt encrypts the first n lanes' payloads, the longest first.
func (l *cbcLanes) encrypt(k *aesKey, n int, wide bool) {
	if !wide {
		l.encryptNarrow(k, n)
		return
	}
	for i := n; i < groupSize; i++ {
		l.ptr[i] = unsafe.Pointer(&l.aside)
		l.blocks[i] = 0
	}
	if rows := l.blocks[0]; rows > 0 {
		cbcEncryptVAES(&k.enc, k.rounds, l, int(rows))
	}
}

// narrowLanes is the number of packets that the kernel for AES-NI works on.
const narrowLanes = 8

// encryptNarrow gives the kernel a new packet for each that has come to its
// end.
func (l *cbcLanes) encryptNarrow(k *aesKey, n int) {
	var ptr [narrowLanes]unsafe.Pointer
	var left [narrowLanes]uint64
	next, active := 0, 0
	for {
		for ; active < narrowLanes && next < n && l.blocks[next] > 0; next++ {
			ptr[active], left[active] = l.ptr[next], l.blocks[next]
			active++
		}
		if active == 0 {
			return
		}
		rows := left[0]
		for i := 1; i < active; i++ {
			rows = min(rows, left[i])
		}
		for i := active; i < narrowLanes; i++ {
			ptr[i] = ptr[0] // the same work, with the same outcome
		}
		cbcEncryptAESNI(&k.enc, k.rounds, &ptr, int(rows))
		still := 0
		for i := range active {
			if left[i] -= rows; left[i] > 0 {
				ptr[still], left[still] = unsafe.Add(ptr[i], rows*aesBlock), left[i]
				still++
			}
		}
		active = still
	}
}

// decrypt decrypts the first n lanes' payloads.
func (l *cbcLanes) decrypt(k *aesKey, n int, wide bool) {
	if wide {
		cbcDecryptVAES(&k.dec, k.rounds, l, n)
		return
	}
	for i := range n {
		if l.blocks[i] > 0 {
			cbcDecryptAESNI(&k.dec, k.rounds, l.ptr[i], int(l.blocks[i]))
		}
	}
}

// ivBatch makes IVs as randomIV does, for a group of packets at once: a counter
// encrypted under a random key of its own.
type ivBatch struct {
	key     *aesKey
	wide    bool
	counter uint64
	blocks  [groupSize]struct{ zero, block [aesBlock]byte }
	lanes   cbcLanes
}

func newIVBatch(wide bool) (*ivBatch, error) {
	key := make([]byte, 16)
	if _, err := rand.Read(key); err != nil {
		return nil, err
	}
	v := &ivBatch{key: newAESKey(key), wide: wide}
	clear(key)
	return v, nil
}

// next writes the packets' IVs.
func (v *ivBatch) next(jobs []job) {
	for i := range jobs {
		v.counter++
		b := &v.blocks[i].block
		binary.BigEndian.PutUint64(b[:8], 0)
		binary.BigEndian.PutUint64(b[8:], v.counter)
		v.lanes.ptr[i] = unsafe.Pointer(b)
		v.lanes.blocks[i] = 1
	}
	v.lanes.encrypt(v.key, len(jobs), v.wide)
	for i := range jobs {
		*(*[aesBlock]byte)(jobs[i].pkt.Data[HeaderLen:]) = v.blocks[i].block
	}
}

// cbcEncryptVAES encrypts rows blocks at most of each of sixteen packets.
//
//go:noescape
func cbcEncryptVAES(keys *[15][aesBlock]byte, rounds int, lanes *cbcLanes, rows int)

// cbcDecryptVAES decrypts the payloads of n packets.
//
//go:noescape
func cbcDecryptVAES(keys *[15][aesBlock]byte, rounds int, lanes *cbcLanes, n int)

// cbcEncryptAESNI encrypts rows blocks of each of eight packets, of which
// several may be the same.
//
//go:noescape
func cbcEncryptAESNI(keys *[15][aesBlock]byte, rounds int, lanes *[narrowLanes]unsafe.Pointer, rows int)

// cbcDecryptAESNI decrypts the blocks at ptr, before which stands their IV.
//
//go:noescape
func cbcDecryptAESNI(keys *[15][aesBlock]byte, rounds int, ptr unsafe.Pointer, blocks int)

// aesSubWord is SubWord of FIPS 197 section 5.2.
//
//go:noescape
func aesSubWord(w uint32) uint32

// aesInverseMix is InvMixColumns of FIPS 197 section 5.3.3, in place.
//
//go:noescape
func aesInverseMix(key *[aesBlock]byte)
