// SPDX-License-Identifier: Apache-2.0

package sa

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Suite is what one IPsec SA computes with.
type Suite struct {
	Protocol   Protocol
	Encryption Encryption
	KeyBits    uint16 // of the cipher, without its salt; 0 where there is no key
	Integrity  Integrity
	ESN        bool // 64-bit sequence numbers, RFC 4303 section 2.2.1
}

// EncryptionKeyLen is the cipher's key and salt in KEYMAT, in bytes.
func (s Suite) EncryptionKeyLen() int { return int(s.KeyBits)/8 + s.Encryption.SaltLen() }

// KeymatLen is the KEYMAT one SA needs, in bytes (RFC 2409 section 5.5): the
// cipher's key and salt, then the integrity key.
func (s Suite) KeymatLen() int { return s.EncryptionKeyLen() + s.Integrity.KeyLen() }

// ICVLen is the ICV's length on the wire, in bytes.
func (s Suite) ICVLen() int { return s.Encryption.TagLen() + s.Integrity.ICVLen() }

// String returns the suite as strongSwan's log shows it:
// "ESP:AES_CBC_128/HMAC_SHA1_96/NO_EXT_SEQ".
func (s Suite) String() string {
	var parts []string
	if s.Encryption != EncryptionNone {
		parts = append(parts, sized(s.Encryption, s.KeyBits))
	}
	if s.Integrity != IntegrityNone {
		parts = append(parts, s.Integrity.String())
	}
	if s.ESN {
		parts = append(parts, "EXT_SEQ")
	} else {
		parts = append(parts, "NO_EXT_SEQ")
	}
	return s.Protocol.String() + ":" + strings.Join(parts, "/")
}

func sized(e Encryption, bits uint16) string {
	if bits == 0 || e.info().keyBits != 0 {
		return e.String()
	}
	return fmt.Sprintf("%s_%d", e, bits)
}

// Transform is one complete choice for an IPsec SA: a suite and the PFS group
// that Quick Mode must use for it, GroupNone without PFS.
type Transform struct {
	Suite
	Group Group
}

// String returns the transform as strongSwan's log shows it.
func (t Transform) String() string {
	if t.Group == GroupNone {
		return t.Suite.String()
	}
	s := t.Suite.String()
	i := strings.LastIndexByte(s, '/')
	if i < 0 {
		i = strings.IndexByte(s, ':')
	}
	return s[:i+1] + t.Group.String() + "/" + s[i+1:]
}

// Proposal is a list of transforms of one protocol in order of preference.
type Proposal []Transform

// IKETransform is one complete choice for an IKE SA (RFC 2409 section 4).
type IKETransform struct {
	Encryption Encryption // AESCBC or TripleDESCBC
	KeyBits    uint16
	Hash       Hash
	Group      Group
}

// String returns the transform as strongSwan's log shows it:
// "IKE:AES_CBC_256/HMAC_SHA2_256_128/PRF_HMAC_SHA2_256/MODP_2048".
func (t IKETransform) String() string {
	return fmt.Sprintf("IKE:%s/%s/%s/%s", sized(t.Encryption, t.KeyBits), t.Hash.Integrity(), t.Hash, t.Group)
}

// IKEProposal is a list of IKE transforms in order of preference.
type IKEProposal []IKETransform

// DefaultIKEProposal is what the keyword "default" stands for in an IKE
// proposal. MD5, SHA-1, 3DES and groups under 2048 bits are not in it.
func DefaultIKEProposal() IKEProposal {
	p, err := ParseIKEProposal("aes128-aes192-aes256-sha256-sha384-sha512-curve25519-ecp256-ecp384-ecp521-modp3072-modp4096-modp6144-modp8192-modp2048")
	if err != nil {
		panic(err)
	}
	return p
}

// DefaultProposal is what the keyword "default" stands for in an ESP or AH
// proposal: no PFS group, as in strongSwan, and no MD5, SHA-1 or 3DES.
func DefaultProposal(p Protocol) Proposal {
	if p == AH {
		return must(ParseProposal(AH, "sha256-sha384-sha512"))
	}
	return append(must(ParseProposal(ESP, "aes128gcm16-aes256gcm16")),
		must(ParseProposal(ESP, "aes128-aes192-aes256-sha256-sha384-sha512"))...)
}

func must(p Proposal, err error) Proposal {
	if err != nil {
		panic(err)
	}
	return p
}

// keywords is a proposal string taken apart.
type keywords struct {
	encryption []Suite // only Encryption and KeyBits are set
	integrity  []Integrity
	prf        []Hash
	group      []Group
	esn        []bool
}

var encryptionKeywords = map[string]Suite{
	"null": {Encryption: EncryptionNull},
	"3des": {Encryption: TripleDESCBC, KeyBits: 192},
	"aes":  {Encryption: AESCBC, KeyBits: 128},
}

var integrityKeywords = map[string]Integrity{
	"md5": HMACMD5, "sha": HMACSHA1, "sha1": HMACSHA1,
	"sha256": HMACSHA256, "sha2_256": HMACSHA256,
	"sha384": HMACSHA384, "sha2_384": HMACSHA384,
	"sha512": HMACSHA512, "sha2_512": HMACSHA512,
}

var prfKeywords = map[string]Hash{
	"prfmd5": MD5, "prfsha1": SHA1, "prfsha256": SHA256, "prfsha384": SHA384, "prfsha512": SHA512,
}

var groupKeywords = map[string]Group{"x25519": Curve25519}

func init() {
	for g, n := range groups {
		groupKeywords[n[0]] = g
	}
	for _, bits := range []uint16{128, 192, 256} {
		b := strconv.Itoa(int(bits))
		encryptionKeywords["aes"+b] = Suite{Encryption: AESCBC, KeyBits: bits}
		encryptionKeywords["aes"+b+"ctr"] = Suite{Encryption: AESCTR, KeyBits: bits}
		for _, gcm := range []struct {
			e     Encryption
			names []string
		}{
			{AESGCM8, []string{"gcm8", "gcm64"}},
			{AESGCM12, []string{"gcm12", "gcm96"}},
			{AESGCM16, []string{"gcm16", "gcm128", "gcm"}},
		} {
			for _, n := range gcm.names {
				encryptionKeywords["aes"+b+n] = Suite{Encryption: gcm.e, KeyBits: bits}
			}
		}
	}
}

func parseKeywords(s string) (keywords, error) {
	var k keywords
	for _, w := range strings.Split(strings.TrimSpace(s), "-") {
		w = strings.ToLower(w)
		if e, ok := encryptionKeywords[w]; ok {
			k.encryption = append(k.encryption, e)
		} else if i, ok := integrityKeywords[w]; ok {
			k.integrity = append(k.integrity, i)
		} else if h, ok := prfKeywords[w]; ok {
			k.prf = append(k.prf, h)
		} else if g, ok := groupKeywords[w]; ok {
			k.group = append(k.group, g)
		} else if w == "esn" || w == "noesn" {
			k.esn = append(k.esn, w == "esn")
		} else if w == "modpnone" {
			k.group = append(k.group, GroupNone)
		} else {
			return k, fmt.Errorf("parse proposal %q: algorithm %q is not known, or has no IKEv1 transform", s, w)
		}
	}
	return k, nil
}

// ParseProposal reads one proposal in strongSwan's notation, such as
// "aes128-sha256-modp2048-esn" or "aes256gcm16", and expands it to the
// transforms that it stands for. Several keywords of one kind are
// alternatives, first preferred.
func ParseProposal(p Protocol, s string) (Proposal, error) {
	k, err := parseKeywords(s)
	if err != nil {
		return nil, err
	}
	bad := func(why string) (Proposal, error) {
		return nil, fmt.Errorf("parse proposal %q: %w", s, errors.New(why))
	}
	switch {
	case len(k.prf) > 0:
		return bad("a PRF has no place in an IPsec proposal")
	case p == AH && len(k.encryption) > 0:
		return bad("AH does not encrypt")
	case p == AH && len(k.integrity) == 0:
		return bad("AH needs an integrity algorithm")
	case p == ESP && len(k.encryption) == 0:
		return bad("ESP needs a cipher; null is one")
	}
	if p == AH {
		k.encryption = []Suite{{Encryption: EncryptionNone}}
	}
	if len(k.group) == 0 {
		k.group = []Group{GroupNone}
	}
	if len(k.esn) == 0 {
		k.esn = []bool{false}
	}
	var out Proposal
	for _, g := range k.group {
		for _, e := range k.encryption {
			integrity := k.integrity
			if e.Encryption.AEAD() {
				if len(integrity) > 0 {
					return bad("AES-GCM authenticates by itself and takes no integrity algorithm")
				}
				integrity = []Integrity{IntegrityNone}
			} else if len(integrity) == 0 {
				return bad(fmt.Sprintf("%s needs an integrity algorithm", e.Encryption))
			}
			for _, i := range integrity {
				for _, esn := range k.esn {
					out = append(out, Transform{Suite{p, e.Encryption, e.KeyBits, i, esn}, g})
				}
			}
		}
	}
	return out, nil
}

// ParseIKEProposal reads one IKE proposal in strongSwan's notation, such as
// "aes256-sha256-modp2048", and expands it to the transforms that it stands
// for. A PRF may be named and must then be that of the hash.
func ParseIKEProposal(s string) (IKEProposal, error) {
	k, err := parseKeywords(s)
	if err != nil {
		return nil, err
	}
	bad := func(why string) (IKEProposal, error) {
		return nil, fmt.Errorf("parse proposal %q: %w", s, errors.New(why))
	}
	switch {
	case len(k.encryption) == 0:
		return bad("an IKE proposal needs a cipher")
	case len(k.integrity) == 0:
		return bad("an IKE proposal needs a hash")
	case len(k.group) == 0:
		return bad("an IKE proposal needs a Diffie-Hellman group")
	case len(k.esn) > 0:
		return bad("esn has no place in an IKE proposal")
	}
	for _, prf := range k.prf {
		if len(k.integrity) != 1 || prf.Integrity() != k.integrity[0] {
			return bad("in IKEv1 the PRF is HMAC with the proposal's hash")
		}
	}
	var out IKEProposal
	for _, g := range k.group {
		if g == GroupNone {
			return bad("an IKE proposal needs a Diffie-Hellman group")
		}
		for _, e := range k.encryption {
			if e.Encryption != AESCBC && e.Encryption != TripleDESCBC {
				return bad(fmt.Sprintf("%s is not a cipher of IKEv1", e.Encryption))
			}
			for _, i := range k.integrity {
				for h := MD5; h <= SHA512; h++ {
					if h.Integrity() == i {
						out = append(out, IKETransform{e.Encryption, e.KeyBits, h, g})
					}
				}
			}
		}
	}
	return out, nil
}
