// SPDX-License-Identifier: Apache-2.0

// Package ike is IKEv1 (RFC 2407, RFC 2408, RFC 2409): Main Mode with a
// pre-shared key, Quick Mode and Informational, with NAT traversal (RFC 3947)
// and dead peer detection (RFC 3706).
//
// It holds no socket, goroutine, clock or kernel call. A datagram, a tick of
// the clock, a finished computation or a command goes into an Engine, and a
// list of actions comes out for the caller to carry out. An Engine is not safe
// for concurrent use.
package ike
