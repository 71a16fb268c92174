// SPDX-License-Identifier: Apache-2.0

package offload

import (
	"fmt"

	"quicksand/sa"
)

// The names of the transforms in the kernel's crypto API.
var (
	aeadNames  = map[sa.Encryption]string{sa.AESGCM8: gcmName, sa.AESGCM12: gcmName, sa.AESGCM16: gcmName}
	cryptNames = map[sa.Encryption]string{
		sa.EncryptionNull: "ecb(cipher_null)",
		sa.TripleDESCBC:   "cbc(des3_ede)",
		sa.AESCBC:         "cbc(aes)",
		sa.AESCTR:         "rfc3686(ctr(aes))",
	}
	authNames = map[sa.Integrity]string{
		sa.HMACMD5:    "hmac(md5)",
		sa.HMACSHA1:   "hmac(sha1)",
		sa.HMACSHA256: "hmac(sha256)",
		sa.HMACSHA384: "hmac(sha384)",
		sa.HMACSHA512: "hmac(sha512)",
	}
)

// gcmName is RFC 4106's AES-GCM, for which the kernel makes IVs with seqiv.
const gcmName = "rfc4106(gcm(aes))"

// transforms puts a suite and one direction's keys into the state.
func (s *state) transforms(suite sa.Suite, keys *sa.SA) error {
	if name, ok := aeadNames[suite.Encryption]; ok {
		s.AEAD = &algorithm{Name: name, Key: keys.EncryptionKey, ICVBits: 8 * suite.ICVLen()}
		return nil
	}
	if suite.Protocol == sa.ESP {
		name, ok := cryptNames[suite.Encryption]
		if !ok {
			return fmt.Errorf("the kernel has no name for %s", suite.Encryption)
		}
		s.Crypt = &algorithm{Name: name, Key: keys.EncryptionKey}
	}
	if suite.Integrity != sa.IntegrityNone {
		name, ok := authNames[suite.Integrity]
		if !ok {
			return fmt.Errorf("the kernel has no name for %s", suite.Integrity)
		}
		s.Auth = &algorithm{Name: name, Key: keys.IntegrityKey, ICVBits: 8 * suite.Integrity.ICVLen()}
	}
	return nil
}
