// SPDX-License-Identifier: Apache-2.0

// Package bpf holds the kernel's half of steering by SPI: an XDP program that
// looks at each frame once and sends ESP (RFC 4303), AH (RFC 4302) and
// UDP-encapsulated ESP (RFC 3948) to whoever owns the SA. The program is in
// steer.c, the way of a packet through the table of SPIs in table.h, counting
// in tally.h, and what user space shares with them in steer.h. The objects
// beside them are made by "make bpf" and are in the repository, so that a build
// needs no clang; "make test" compares them. They hold no type of a kernel and
// load from Linux 6.1 on. Package xdp loads and feeds them.
package bpf

//go:generate go run github.com/cilium/ebpf/cmd/bpf2go -cc clang-19 -strip llvm-strip-19 -go-package bpf -output-stem steer -no-global-types -cflags "-O2 -g -mcpu=v3 -Wall -Werror -Wno-unused-variable" Steer steer.c
