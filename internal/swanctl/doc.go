// SPDX-License-Identifier: Apache-2.0

// Package swanctl reads the configuration: swanctl.conf in strongSwan's format
// (strongswan.conf(5), swanctl.conf(5)) into an ike.Config, and quicksand.conf,
// the daemon's own settings in the same format, into Settings.
//
// A text becomes a tree of Sections, in which every setting knows its file and
// line; the tree becomes typed values by tables, one for each kind of section,
// which also print the documentation. What arrives over the control protocol
// as a tree of its own goes through the same tables.
//
// A configuration is taken whole or not at all: the first error ends the
// reading, and says file, line, section and key. Secrets are in no error.
package swanctl
