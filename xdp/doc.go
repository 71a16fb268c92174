// SPDX-License-Identifier: Apache-2.0

// Package xdp steers IPsec packets by their SPI: it loads and attaches the XDP
// program of package bpf, keeps its table of SPIs (ESP, RFC 4303; AH, RFC 4302;
// ESP in UDP, RFC 3948), reads its counters, and opens the AF_XDP sockets to
// which packets may be sent.
package xdp
