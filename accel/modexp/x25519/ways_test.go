// SPDX-License-Identifier: Apache-2.0

//go:build amd64 && !purego

package x25519

func ways() (all []way) {
	for _, l := range Levels() {
		switch l {
		case IFMA:
			all = append(all, way{l.String(), Lanes, multiplyLanes})
		case ADX:
			all = append(all, way{l.String(), 1, func(out, scalars, points [][]byte) { Multiply(ADX, out, scalars, points) }})
		}
	}
	return all
}
