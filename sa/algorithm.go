// SPDX-License-Identifier: Apache-2.0

// Package sa is the vocabulary that every part of quicksand shares: the
// algorithms and selectors an IPsec security association (RFC 4301 section 4)
// is made of, the negotiated pair of them, and the contract of the backends
// that carry it.
package sa

import "fmt"

// Protocol is the IP protocol number of an IPsec protocol.
type Protocol uint8

// The two IPsec protocols (RFC 4303, RFC 4302).
const (
	ESP Protocol = 50
	AH  Protocol = 51
)

func (p Protocol) String() string {
	switch p {
	case ESP:
		return "ESP"
	case AH:
		return "AH"
	}
	return fmt.Sprintf("protocol %d", uint8(p))
}

// Mode is the encapsulation mode of an SA (RFC 4301 section 4.1).
type Mode uint8

// The encapsulation modes.
const (
	Tunnel Mode = iota
	Transport
)

func (m Mode) String() string {
	if m == Transport {
		return "TRANSPORT"
	}
	return "TUNNEL"
}

// Encryption is a cipher of ESP or, for the CBC ones, of IKE.
type Encryption uint8

// The ciphers. EncryptionNone is that of AH.
const (
	EncryptionNone Encryption = iota
	EncryptionNull
	TripleDESCBC
	AESCBC
	AESCTR
	AESGCM8
	AESGCM12
	AESGCM16
)

type encryptionInfo struct {
	keyword string // of strongSwan's proposals, without the key size
	name    string // as swanctl prints it
	keyBits uint16 // where only one size exists
	salt    int    // bytes of KEYMAT after the key
	iv      int
	block   int
	tag     int // bytes of ICV that the cipher itself makes
}

// RFC 2410, RFC 2451, RFC 3602, RFC 3686, RFC 4106.
var encryptions = [...]encryptionInfo{
	EncryptionNone: {keyword: "", name: "", block: 1},
	EncryptionNull: {keyword: "null", name: "NULL", block: 1},
	TripleDESCBC:   {keyword: "3des", name: "3DES_CBC", keyBits: 192, iv: 8, block: 8},
	AESCBC:         {keyword: "aes", name: "AES_CBC", iv: 16, block: 16},
	AESCTR:         {keyword: "aes", name: "AES_CTR", salt: 4, iv: 8, block: 1},
	AESGCM8:        {keyword: "aes", name: "AES_GCM_8", salt: 4, iv: 8, block: 1, tag: 8},
	AESGCM12:       {keyword: "aes", name: "AES_GCM_12", salt: 4, iv: 8, block: 1, tag: 12},
	AESGCM16:       {keyword: "aes", name: "AES_GCM_16", salt: 4, iv: 8, block: 1, tag: 16},
}

func (e Encryption) info() encryptionInfo {
	if int(e) < len(encryptions) {
		return encryptions[e]
	}
	return encryptionInfo{name: fmt.Sprintf("encryption %d", uint8(e)), block: 1}
}

// String returns the cipher's name without a key size, as swanctl prints it.
func (e Encryption) String() string { return e.info().name }

// AEAD reports whether the cipher authenticates as well.
func (e Encryption) AEAD() bool { return e.info().tag > 0 }

// SaltLen is the number of KEYMAT bytes that follow the key, in bytes.
func (e Encryption) SaltLen() int { return e.info().salt }

// IVLen is the length of the explicit IV in each packet, in bytes.
func (e Encryption) IVLen() int { return e.info().iv }

// BlockLen is the cipher's block, in bytes: 1 where none has to be filled.
func (e Encryption) BlockLen() int { return e.info().block }

// TagLen is the length of an AEAD's ICV in bytes, 0 for other ciphers.
func (e Encryption) TagLen() int { return e.info().tag }

// Integrity is the truncated HMAC of an SA.
type Integrity uint8

// The integrity algorithms. IntegrityNone goes with an AEAD.
const (
	IntegrityNone Integrity = iota
	HMACMD5                 // HMAC-MD5-96, RFC 2403
	HMACSHA1                // HMAC-SHA1-96, RFC 2404
	HMACSHA256              // HMAC-SHA-256-128, RFC 4868
	HMACSHA384              // HMAC-SHA-384-192, RFC 4868
	HMACSHA512              // HMAC-SHA-512-256, RFC 4868
)

var integrities = [...]struct {
	keyword, name string
	key, icv      int
}{
	IntegrityNone: {},
	HMACMD5:       {"md5", "HMAC_MD5_96", 16, 12},
	HMACSHA1:      {"sha1", "HMAC_SHA1_96", 20, 12},
	HMACSHA256:    {"sha256", "HMAC_SHA2_256_128", 32, 16},
	HMACSHA384:    {"sha384", "HMAC_SHA2_384_192", 48, 24},
	HMACSHA512:    {"sha512", "HMAC_SHA2_512_256", 64, 32},
}

// String returns the algorithm's name as swanctl prints it.
func (i Integrity) String() string {
	if int(i) < len(integrities) {
		return integrities[i].name
	}
	return fmt.Sprintf("integrity %d", uint8(i))
}

// KeyLen is the key's length in bytes.
func (i Integrity) KeyLen() int { return integrities[i].key }

// ICVLen is the truncated length on the wire, in bytes.
func (i Integrity) ICVLen() int { return integrities[i].icv }

// Hash is the hash of an IKE SA; HMAC with it is the SA's PRF (RFC 2409
// section 4).
type Hash uint8

// The hashes of an IKE SA.
const (
	MD5 Hash = iota + 1
	SHA1
	SHA256
	SHA384
	SHA512
)

var hashes = [...]struct {
	keyword, prf string
	size         int
	integrity    Integrity
}{
	MD5:    {"md5", "PRF_HMAC_MD5", 16, HMACMD5},
	SHA1:   {"sha1", "PRF_HMAC_SHA1", 20, HMACSHA1},
	SHA256: {"sha256", "PRF_HMAC_SHA2_256", 32, HMACSHA256},
	SHA384: {"sha384", "PRF_HMAC_SHA2_384", 48, HMACSHA384},
	SHA512: {"sha512", "PRF_HMAC_SHA2_512", 64, HMACSHA512},
}

// String returns the PRF's name as swanctl prints it.
func (h Hash) String() string {
	if h != 0 && int(h) < len(hashes) {
		return hashes[h].prf
	}
	return fmt.Sprintf("hash %d", uint8(h))
}

// Size is the digest's length in bytes.
func (h Hash) Size() int { return hashes[h].size }

// Integrity is the integrity algorithm that strongSwan shows for the hash.
func (h Hash) Integrity() Integrity { return hashes[h].integrity }

// Group is a Diffie-Hellman group by its IANA number.
type Group uint16

// The groups (RFC 2409 section 6, RFC 3526, RFC 5903, RFC 8031).
const (
	GroupNone  Group = 0
	MODP1024   Group = 2
	MODP1536   Group = 5
	MODP2048   Group = 14
	MODP3072   Group = 15
	MODP4096   Group = 16
	MODP6144   Group = 17
	MODP8192   Group = 18
	ECP256     Group = 19
	ECP384     Group = 20
	ECP521     Group = 21
	Curve25519 Group = 31
)

// groups holds each group's keyword and its name as swanctl prints it.
var groups = map[Group][2]string{
	MODP1024:   {"modp1024", "MODP_1024"},
	MODP1536:   {"modp1536", "MODP_1536"},
	MODP2048:   {"modp2048", "MODP_2048"},
	MODP3072:   {"modp3072", "MODP_3072"},
	MODP4096:   {"modp4096", "MODP_4096"},
	MODP6144:   {"modp6144", "MODP_6144"},
	MODP8192:   {"modp8192", "MODP_8192"},
	ECP256:     {"ecp256", "ECP_256"},
	ECP384:     {"ecp384", "ECP_384"},
	ECP521:     {"ecp521", "ECP_521"},
	Curve25519: {"curve25519", "CURVE_25519"},
}

// String returns the group's name as swanctl prints it.
func (g Group) String() string {
	if n, ok := groups[g]; ok {
		return n[1]
	}
	if g == GroupNone {
		return "NONE"
	}
	return fmt.Sprintf("group %d", uint16(g))
}
