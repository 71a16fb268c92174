// SPDX-License-Identifier: Apache-2.0

// Package daemon is the room that knows all others: it feeds datagrams, timers,
// finished computations, backend events and the operator's commands into an
// ike.Engine, and turns the actions that come out into effects. It chooses the
// backend of every pair of SAs (RFC 4301 section 4.4.2) and brings up, traps
// or installs what the configuration wants standing.
//
// The engine and the backends are called by one goroutine at a time, the one that
// has the turn: the loop, which whatever happens reaches as a message, or a
// socket's reader, which handles a datagram itself where nothing else is in hand.
// "In the loop" means with the turn.
package daemon
