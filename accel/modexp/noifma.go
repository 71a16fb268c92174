// SPDX-License-Identifier: Apache-2.0

//go:build !amd64 || purego

package modexp

const haveIFMA = false

// wide is not there: Levels does not list IFMA.
type wide struct{}

func newWide([]byte, int) *wide { return nil }

func (*wide) power(_, _, _ [][]byte) {}

func (*wide) powerOfTwo(_, _ [][]byte) {}
