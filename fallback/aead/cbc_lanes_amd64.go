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

// cbcLanes is the work of a group: a pointer to the payload of each packet,
// which stands behind its IV, and its length in blocks. The assembly knows the
// layout.
type cbcLanes struct {
	ptr    [groupSize]unsafe.Pointer
	blocks [groupSize]uint64
}

// Numbers of packets that the kernels encrypt at a time.
const (
	wideLanes   = 16
	narrowLanes = 8
)

// encrypt encrypts the first n lanes' payloads. The kernels take packets of one
// length: they run until the shortest comes to its end, and go on without it,
// and with the next.
func (l *cbcLanes) encrypt(k *aesKey, n int, wide bool) {
	var ptr [wideLanes]unsafe.Pointer
	var left [wideLanes]uint64
	width := narrowLanes
	if wide {
		width = wideLanes
	}
	next, active := 0, 0
	for {
		for ; active < width && next < n; next++ {
			if l.blocks[next] > 0 {
				ptr[active], left[active] = l.ptr[next], l.blocks[next]
				active++
			}
		}
		if active == 0 {
			return
		}
		rows := left[0]
		for _, b := range left[1:active] {
			rows = min(rows, b)
		}
		for i := active; i < width; i++ {
			ptr[i] = ptr[0] // the same work, with the same outcome
		}
		switch {
		case wide && active > wideLanes/2:
			cbcEncryptVAES(&k.enc, k.rounds, &ptr, int(rows))
		case wide:
			cbcEncryptVAES8(&k.enc, k.rounds, &ptr, int(rows))
		case active > narrowLanes/2:
			cbcEncryptAESNI(&k.enc, k.rounds, &ptr, int(rows))
		default:
			cbcEncryptAESNI4(&k.enc, k.rounds, &ptr, int(rows))
		}
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
	blocks  [groupSize]ivBlock
	lanes   cbcLanes
}

// ivBlock is a block before which stands CBC's IV of zeros: it is encrypted as it
// is.
type ivBlock struct{ zero, block [aesBlock]byte }

func newIVBatch(wide bool) (*ivBatch, error) {
	key := make([]byte, 16)
	if _, err := rand.Read(key); err != nil {
		return nil, err
	}
	v := &ivBatch{key: newAESKey(key), wide: wide}
	clear(key)
	return v, nil
}

// encryptZero encrypts a block of zeros.
func (k *aesKey) encryptZero() [aesBlock]byte {
	var b ivBlock
	var l cbcLanes
	l.ptr[0], l.blocks[0] = unsafe.Pointer(&b.block), 1
	l.encrypt(k, 1, false)
	return b.block
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

// cbcEncryptVAES encrypts rows blocks of each of sixteen packets, of which
// several may be the same.
//
//go:noescape
func cbcEncryptVAES(keys *[15][aesBlock]byte, rounds int, lanes *[wideLanes]unsafe.Pointer, rows int)

// cbcEncryptVAES8 is cbcEncryptVAES for the first eight packets.
//
//go:noescape
func cbcEncryptVAES8(keys *[15][aesBlock]byte, rounds int, lanes *[wideLanes]unsafe.Pointer, rows int)

// cbcDecryptVAES decrypts the payloads of n packets.
//
//go:noescape
func cbcDecryptVAES(keys *[15][aesBlock]byte, rounds int, lanes *cbcLanes, n int)

// cbcEncryptAESNI is cbcEncryptVAES for the first eight packets.
//
//go:noescape
func cbcEncryptAESNI(keys *[15][aesBlock]byte, rounds int, lanes *[wideLanes]unsafe.Pointer, rows int)

// cbcEncryptAESNI4 is cbcEncryptVAES for the first four packets.
//
//go:noescape
func cbcEncryptAESNI4(keys *[15][aesBlock]byte, rounds int, lanes *[wideLanes]unsafe.Pointer, rows int)

// cbcEncryptOwnAESNI is cbcEncryptVAES for the first eight packets, each with a key
// of its own, all of one length.
//
//go:noescape
func cbcEncryptOwnAESNI(keys *ownKeys, rounds int, lanes *[wideLanes]unsafe.Pointer, rows int)

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
