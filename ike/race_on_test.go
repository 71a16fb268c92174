// SPDX-License-Identifier: Apache-2.0

//go:build race

package ike

// slower is how much less of what one goroutine does alone is worth doing under
// the race detector, which cannot find anything there.
const slower = 10
