// SPDX-License-Identifier: Apache-2.0

//go:build cgo

package daemon

// underCgo: the runtime cannot reach every thread of a program with cgo, and
// says so.
const underCgo = true
