// SPDX-License-Identifier: Apache-2.0

package words

import (
	"testing"
	"unsafe"
)

func TestTakeGive(t *testing.T) {
	for n := 1; n < 300; n++ {
		for range 2 {
			b := Take(n)
			if len(b) != n || uintptr(unsafe.Pointer(&b[0]))%line != 0 {
				t.Fatalf("asked for %d words: %d at %p", n, len(b), &b[0])
			}
			for i := range b {
				if b[i] != 0 {
					t.Fatalf("word %d of %d holds %#x", i, n, b[i])
				}
				b[i] = ^uint64(0)
			}
			Give(b)
			if b[0] != 0 || b[n-1] != 0 {
				t.Fatal("what was given back is not overwritten")
			}
		}
	}
}
