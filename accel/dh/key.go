// SPDX-License-Identifier: Apache-2.0

package dh

import (
	"crypto/ecdh"
	"fmt"
	"io"
	"sync"
)

// PrivateKey is a private key that only its maker can use. It may be used in
// several requests, and wiped at any time: a request that then needs it answers
// ErrWiped. It prints as its group only.
type PrivateKey struct {
	group  Group
	public []byte // the value that goes with it, on the wire

	mu       sync.Mutex       // guards what follows
	exponent []byte           // of a MODP group, big-endian; of a curve, the scalar
	scalar   *ecdh.PrivateKey // of the curves, where crypto/ecdh is used
}

// Group returns the key's group.
func (k *PrivateKey) Group() Group { return k.group }

// Wipe makes the key useless and overwrites the bytes that this package holds.
// What lies inside crypto/ecdh, which offers no way to overwrite it, is let go
// for the collector to take. A nil key is left alone.
func (k *PrivateKey) Wipe() {
	if k == nil {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	clear(k.exponent)
	k.exponent, k.scalar = nil, nil
}

// Format redacts under every verb of package fmt.
func (k *PrivateKey) Format(s fmt.State, _ rune) {
	if k == nil {
		io.WriteString(s, "[no private key]")
		return
	}
	fmt.Fprintf(s, "[private key of %s]", k.group)
}

// copyExponent returns a copy for the caller to overwrite.
func (k *PrivateKey) copyExponent() ([]byte, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.exponent == nil {
		return nil, ErrWiped
	}
	return append([]byte(nil), k.exponent...), nil
}

// curveKey returns the scalar as crypto/ecdh's key, which is made of its bytes
// where another way to compute made the pair.
func (k *PrivateKey) curveKey(c ecdh.Curve) (*ecdh.PrivateKey, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.scalar == nil && k.exponent != nil {
		var err error
		if k.scalar, err = c.NewPrivateKey(k.exponent); err != nil {
			return nil, fmt.Errorf("read private scalar: %w", err)
		}
	}
	if k.scalar == nil {
		return nil, ErrWiped
	}
	return k.scalar, nil
}
