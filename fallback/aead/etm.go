// SPDX-License-Identifier: Apache-2.0

package aead

import (
	"crypto/cipher"
	"crypto/subtle"

	"quicksand/sa"
)

// etm is a cipher with an HMAC over what it makes: encrypt, then authenticate
// (RFC 4303 section 3.3.2.1).
type etm struct {
	mac    *MAC
	cipher transform // nil: NULL
	iv     ivSource  // nil: no IV
	ivLen  int
	block  int
	esn    bool
	wiped  bool
}

// A transform encrypts and decrypts the payload d[from:to] in place; its IV
// ends at from.
type transform interface {
	encrypt(d []byte, from, to int)
	decrypt(d []byte, from, to int)
	wipe()
}

func newETM(s sa.Suite, b cipher.Block, salt []byte, integrityKey sa.Key) (*etm, error) {
	mac, err := NewMAC(s.Integrity, integrityKey)
	if err != nil {
		return nil, err
	}
	e := &etm{mac: mac, ivLen: s.Encryption.IVLen(), block: s.Encryption.BlockLen(), esn: s.ESN}
	switch s.Encryption {
	case sa.EncryptionNull:
	case sa.AESCTR:
		e.iv = sequenceIV{}
		e.cipher, err = newCTR(b, salt)
	default:
		e.cipher = newCBC(b)
		e.iv, err = newRandomIV()
	}
	if err != nil {
		return nil, err
	}
	return e, nil
}

func (e *etm) IVLen() int    { return e.ivLen }
func (e *etm) ICVLen() int   { return e.mac.Len() }
func (e *etm) BlockLen() int { return e.block }

// bounds returns where the payload begins and ends.
func (e *etm) bounds(p *Packet) (from, to int, ok bool) {
	from, to = HeaderLen+e.ivLen, len(p.Data)-e.mac.Len()
	return from, to, to >= from && (to-from)%e.block == 0
}

// authenticate computes the HMAC over all of the packet before the ICV.
func (e *etm) authenticate(p *Packet, to int) {
	e.mac.Reset()
	e.mac.Write(p.Data[:to])
	if e.esn {
		e.mac.WriteHigh(p.Seq)
	}
}

func (e *etm) Wipe() {
	e.mac.Wipe()
	if e.cipher != nil {
		e.cipher.wipe()
	}
	e.cipher, e.iv, e.wiped = nil, nil, true
}

func (e *etm) Seal(pkts []Packet) {
	if e.wiped {
		refuse(pkts)
		return
	}
	for i := range pkts {
		p := &pkts[i]
		from, to, ok := e.bounds(p)
		if p.OK = ok; !ok {
			continue
		}
		if e.iv != nil {
			e.iv.next(p.Data[HeaderLen:from], p.Seq)
		}
		if e.cipher != nil {
			e.cipher.encrypt(p.Data, from, to)
		}
		e.authenticate(p, to)
		copy(p.Data[to:], e.mac.Sum())
	}
}

func (e *etm) Open(pkts []Packet) {
	if e.wiped {
		refuse(pkts)
		return
	}
	for i := range pkts {
		p := &pkts[i]
		from, to, ok := e.bounds(p)
		if p.OK = ok; !ok {
			continue
		}
		e.authenticate(p, to)
		if p.OK = e.mac.Verify(p.Data[to:]); p.OK && e.cipher != nil {
			e.cipher.decrypt(p.Data, from, to)
		}
	}
}

// cbc is a block cipher in CBC mode (RFC 2451, RFC 3602).
type cbc struct {
	enc, dec cbcMode
	block    int
}

// cbcMode is what the standard library's CBC modes are: an IV can be set for
// each packet without a new one being made.
type cbcMode interface {
	cipher.BlockMode
	SetIV([]byte)
}

func newCBC(b cipher.Block) *cbc {
	iv := make([]byte, b.BlockSize())
	return &cbc{
		cipher.NewCBCEncrypter(b, iv).(cbcMode),
		cipher.NewCBCDecrypter(b, iv).(cbcMode),
		b.BlockSize(),
	}
}

func (c *cbc) encrypt(d []byte, from, to int) {
	c.enc.SetIV(d[from-c.block : from])
	c.enc.CryptBlocks(d[from:to], d[from:to])
}

func (c *cbc) decrypt(d []byte, from, to int) {
	c.dec.SetIV(d[from-c.block : from])
	c.dec.CryptBlocks(d[from:to], d[from:to])
}

func (c *cbc) wipe() { *c = cbc{} }

// ctr is AES in counter mode (RFC 3686). Its counter block is nonce, IV and a
// 32-bit counter from 1. GCM's is the same and counts the payload from 2, so
// that all but the first block can go through the standard library's GCM,
// which is fast, keeps no state between packets and allocates nothing. Its tag
// is left aside.
type ctr struct {
	block cipher.Block
	gcm   cipher.AEAD
	side  scratch
	nonce [16]byte // nonce, IV, counter
	first [16]byte // key stream
}

func newCTR(b cipher.Block, salt []byte) (*ctr, error) {
	g, err := cipher.NewGCM(b)
	if err != nil {
		return nil, err
	}
	c := &ctr{block: b, gcm: g}
	copy(c.nonce[:], salt)
	c.nonce[15] = 1
	return c, nil
}

func (c *ctr) encrypt(d []byte, from, to int) {
	copy(c.nonce[4:12], d[from-8:from])
	c.block.Encrypt(c.first[:], c.nonce[:])
	n := subtle.XORBytes(d[from:to], d[from:to], c.first[:])
	if rest := d[from+n : to]; len(rest) > 0 {
		copy(rest, c.gcm.Seal(c.side.room(len(rest) + gcmTag)[:0], c.nonce[:12], rest, nil))
	}
}

func (c *ctr) decrypt(d []byte, from, to int) { c.encrypt(d, from, to) }

func (c *ctr) wipe() {
	clear(c.side)
	*c = ctr{}
}
