// SPDX-License-Identifier: Apache-2.0

package measure

import "slices"

// Median returns the middle of some values, of which there is at least one.
func Median(v []float64) float64 {
	s := slices.Sorted(slices.Values(v))
	if n := len(s); n%2 == 0 {
		return (s[n/2-1] + s[n/2]) / 2
	}
	return s[len(s)/2]
}
