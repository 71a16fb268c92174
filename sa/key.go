// SPDX-License-Identifier: Apache-2.0

package sa

import (
	"fmt"
	"log/slog"
)

// Key is secret bytes: a key, a pre-shared key, a Diffie-Hellman secret. It
// prints as its length only, whatever the verb, and is wiped by its owner.
type Key []byte

func (k Key) redacted() string { return fmt.Sprintf("[secret, %d bytes]", len(k)) }

// Format redacts under every verb of package fmt.
func (k Key) Format(s fmt.State, _ rune) { fmt.Fprint(s, k.redacted()) }

// LogValue redacts in structured logs.
func (k Key) LogValue() slog.Value { return slog.StringValue(k.redacted()) }

// MarshalText redacts in JSON and other text encodings.
func (k Key) MarshalText() ([]byte, error) { return []byte(k.redacted()), nil }

// Wipe overwrites the key with zeros.
func (k Key) Wipe() { clear(k) }

// Clone returns a copy that its new owner wipes.
func (k Key) Clone() Key { return append(Key(nil), k...) }
