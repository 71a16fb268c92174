// SPDX-License-Identifier: Apache-2.0

// Package daemon is the room that knows all others: it feeds datagrams, timers,
// finished computations, backend events and the operator's commands into an
// ike.Engine, and turns the actions that come out into effects. It chooses the
// backend of every pair of SAs (RFC 4301 section 4.4.2) and brings up, traps
// or installs what the configuration wants standing.
//
// One goroutine, the loop, owns the engine and calls the backends; whatever
// else happens reaches it as a message.
package daemon
