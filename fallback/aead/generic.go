// SPDX-License-Identifier: Apache-2.0

package aead

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/des"
	"fmt"

	"quicksand/sa"
)

// newGeneric makes any suite's cipher from the standard library.
func newGeneric(s sa.Suite, k *sa.SA) (Cipher, error) {
	bits := int(s.KeyBits) / 8
	key, salt := k.EncryptionKey[:bits], k.EncryptionKey[bits:]
	var block cipher.Block
	var err error
	switch s.Encryption {
	case sa.EncryptionNull:
	case sa.TripleDESCBC:
		block, err = des.NewTripleDESCipher(key)
	default:
		block, err = aes.NewCipher(key)
	}
	if err != nil {
		return nil, fmt.Errorf("make cipher for %s: %w", s, err)
	}
	var c Cipher
	switch s.Encryption {
	case sa.AESGCM8, sa.AESGCM12:
		c, err = newShortGCM(block, salt, s.Encryption.TagLen(), s.ESN)
	case sa.AESGCM16:
		c, err = newGCM(block, salt, s.ESN)
	default:
		c, err = newETM(s, block, salt, k.IntegrityKey)
	}
	if err != nil {
		return nil, fmt.Errorf("make cipher for %s: %w", s, err)
	}
	return c, nil
}
