// SPDX-License-Identifier: Apache-2.0

package aead

import (
	"crypto/cipher"
	"encoding/binary"
)

// gcmIVLen is the length of GCM's explicit IV in bytes (RFC 4106 section 3.1).
const gcmIVLen = 8

// gcmTag is the length of the full tag.
const gcmTag = 16

// gcmState is what a combined mode needs for each packet. Its arrays live here
// so that nothing escapes to the heap for a packet.
type gcmState struct {
	nonce [12]byte // salt, then the explicit IV (RFC 4106 section 4)
	aad   [12]byte
	esn   bool
}

// setAAD fills in the additional data: SPI and sequence number, of which all
// 64 bits count with ESN (RFC 4106 section 5).
func (g *gcmState) setAAD(p *Packet) []byte {
	if !g.esn {
		return append(g.aad[:0], p.Data[:HeaderLen]...)
	}
	copy(g.aad[:4], p.Data)
	binary.BigEndian.PutUint32(g.aad[4:], uint32(p.Seq>>32))
	copy(g.aad[8:], p.Data[4:HeaderLen])
	return g.aad[:]
}

// setIV makes the packet's IV of its sequence number, which is unique under
// the key, as the IV has to be (RFC 4106 section 3.1).
func (g *gcmState) setIV(p *Packet) {
	iv := p.Data[HeaderLen : HeaderLen+gcmIVLen]
	binary.BigEndian.PutUint64(iv, p.Seq)
	copy(g.nonce[4:], iv)
}

// gcm is AES-GCM with an ICV of 16 bytes.
type gcm struct {
	gcmState
	aead cipher.AEAD
}

func newGCM(b cipher.Block, salt []byte, esn bool) (*gcm, error) {
	a, err := cipher.NewGCM(b)
	if err != nil {
		return nil, err
	}
	g := &gcm{gcmState{esn: esn}, a}
	copy(g.nonce[:], salt)
	return g, nil
}

func (g *gcm) IVLen() int    { return gcmIVLen }
func (g *gcm) ICVLen() int   { return gcmTag }
func (g *gcm) BlockLen() int { return 1 }

func (g *gcm) Wipe() { *g = gcm{} }

func (g *gcm) Seal(pkts []Packet) {
	if g.aead == nil {
		refuse(pkts)
		return
	}
	for i := range pkts {
		p := &pkts[i]
		if p.OK = len(p.Data) >= HeaderLen+gcmIVLen+gcmTag; !p.OK {
			continue
		}
		g.setIV(p)
		payload := p.Data[HeaderLen+gcmIVLen : len(p.Data)-gcmTag]
		g.aead.Seal(payload[:0], g.nonce[:], payload, g.setAAD(p))
	}
}

func (g *gcm) Open(pkts []Packet) {
	if g.aead == nil {
		refuse(pkts)
		return
	}
	for i := range pkts {
		p := &pkts[i]
		if p.OK = len(p.Data) >= HeaderLen+gcmIVLen+gcmTag; !p.OK {
			continue
		}
		copy(g.nonce[4:], p.Data[HeaderLen:])
		payload := p.Data[HeaderLen+gcmIVLen:]
		_, err := g.aead.Open(payload[:0], g.nonce[:], payload, g.setAAD(p))
		p.OK = err == nil
	}
}

// shortGCM is AES-GCM with an ICV of 8 or 12 bytes: the first bytes of the full
// tag (NIST SP 800-38D section 7.1). The standard library does not make the
// one, and for the other it writes whole blocks at the packet's end, beyond a
// tag of 12 bytes; so both go through memory aside, with the full tag.
type shortGCM struct {
	gcmState
	aead cipher.AEAD
	tag  int
	side scratch
}

func newShortGCM(b cipher.Block, salt []byte, tag int, esn bool) (*shortGCM, error) {
	a, err := cipher.NewGCM(b)
	if err != nil {
		return nil, err
	}
	g := &shortGCM{gcmState: gcmState{esn: esn}, aead: a, tag: tag}
	copy(g.nonce[:], salt)
	return g, nil
}

// scratch is memory that grows to the most that was asked of it.
type scratch []byte

func (s *scratch) room(n int) []byte {
	if len(*s) < n {
		*s = make([]byte, max(n, 2048))
	}
	return (*s)[:n]
}

func (g *shortGCM) IVLen() int    { return gcmIVLen }
func (g *shortGCM) ICVLen() int   { return g.tag }
func (g *shortGCM) BlockLen() int { return 1 }

func (g *shortGCM) Wipe() {
	clear(g.side)
	*g = shortGCM{tag: g.tag}
}

func (g *shortGCM) Seal(pkts []Packet) {
	if g.aead == nil {
		refuse(pkts)
		return
	}
	for i := range pkts {
		p := &pkts[i]
		if p.OK = len(p.Data) >= HeaderLen+gcmIVLen+g.tag; !p.OK {
			continue
		}
		g.setIV(p)
		out := p.Data[HeaderLen+gcmIVLen:]
		payload := out[:len(out)-g.tag]
		sealed := g.aead.Seal(g.side.room(len(payload) + gcmTag)[:0], g.nonce[:], payload, g.setAAD(p))
		copy(out, sealed) // up to the ICV's end, which cuts the tag short
	}
}

func (g *shortGCM) Open(pkts []Packet) {
	if g.aead == nil {
		refuse(pkts)
		return
	}
	for i := range pkts {
		p := &pkts[i]
		if p.OK = len(p.Data) >= HeaderLen+gcmIVLen+g.tag; !p.OK {
			continue
		}
		copy(g.nonce[4:], p.Data[HeaderLen:])
		in := p.Data[HeaderLen+gcmIVLen:]
		payload, icv := in[:len(in)-g.tag], in[len(in)-g.tag:]
		n := len(payload)
		side := g.side.room(2 * (n + gcmTag))
		// The key stream is the same in both directions: sealing ciphertext
		// makes plaintext, and sealing that makes the tag it must have had.
		plain := g.aead.Seal(side[:0:n+gcmTag], g.nonce[:], payload, nil)[:n]
		again := g.aead.Seal(side[n+gcmTag:n+gcmTag], g.nonce[:], plain, g.setAAD(p))
		if p.OK = Equal(again[n:n+g.tag], icv); p.OK {
			copy(payload, plain)
		}
		clear(plain)
	}
}
