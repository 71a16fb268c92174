// SPDX-License-Identifier: Apache-2.0

package aead

import (
	"quicksand/sa"
)

func newGeneric(s sa.Suite, k *sa.SA) (Cipher, error) {
	return nil, ErrSuite
}
