// SPDX-License-Identifier: Apache-2.0

// Package vici is the server of strongSwan's Versatile IKE Control Interface:
// the protocol that swanctl speaks over a Unix socket, as strongSwan's
// description of its vici plugin gives it.
//
// The daemon makes a Server with New, starts it with Listen and Serve, and
// tells it of what happens with Report and Log, which never block.
package vici
