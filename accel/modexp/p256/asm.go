// SPDX-License-Identifier: Apache-2.0

//go:build amd64 && !purego

package p256

import (
	"slices"
	"sync"
)

//go:generate go run -C ../_asm . -kernel p256 -out ../p256/ifma_amd64.s -stubs ../p256/ifma_amd64.go -pkg p256
//go:generate go run -C ../_asm . -kernel p256words -out ../p256/words_amd64.s -stubs ../p256/words_amd64.go -pkg p256

const haveAssembly = true

// Multiply sets out[i] to the x-coordinate of scalars[i] times points[i], for up
// to eight. A scalar is 32 bytes, big-endian, above 0 and below the curve's order;
// a point is x and y, each 32 bytes, and lies on the curve. The level is one of
// Levels.
func Multiply(l Level, out, scalars, points [][]byte) {
	if inLanes(l, len(out)) {
		multiplyLanes(out, scalars, points)
		return
	}
	for i := range out {
		multiplyWords(out[i], scalars[i], points[i])
	}
}

// MultiplyBase sets out[i] to x and y of scalars[i] times the base point, for up
// to eight. Scalars are as Multiply takes them.
func MultiplyBase(l Level, out, scalars [][]byte) {
	if inLanes(l, len(out)) {
		multiplyBaseLanes(out, scalars)
		return
	}
	for i := range out {
		multiplyBaseWords(out[i], scalars[i])
	}
}

// inLanes reports whether a number of products is made in lanes. Eight lanes take
// longer for one product than words do.
func inLanes(l Level, n int) bool { return l == IFMA && (n > 1 || !haveWords()) }

var haveWords = sync.OnceValue(func() bool { return slices.Contains(Levels(), ADX) })
