/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The tables that the steering program shares with user space. Fields are in
 * host order unless they say otherwise.
 */
#ifndef QUICKSAND_STEER_H
#define QUICKSAND_STEER_H

#include "kernel.h"

/*
 * What became of a packet; the index of its global counter. A packet that the
 * program does not understand is always passed, as if there were no program:
 * the stack has the rules for it and counts it in its own books.
 */
enum verdict {
	OTHER,		 /* passed: neither IPsec nor IKE */
	MALFORMED,	 /* passed: cut short, lengths that disagree, too many headers */
	FRAGMENT,	 /* passed: any fragment, which only reassembly makes sense of */
	KEEPALIVE,	 /* passed: NAT keepalive, RFC 3948 section 2.3 */
	IKE,		 /* passed: IKE, including new exchanges within the limit */
	IKE_LIMITED,	 /* dropped: a new exchange, its source is over the limit */
	UNKNOWN_PASSED,	 /* passed: no such SPI in the table */
	UNKNOWN_DROPPED, /* dropped: no such SPI in the table */
	PASSED,		 /* passed, as the table says */
	DROPPED,	 /* dropped, as the table says */
	TO_SOCKET,	 /* to an AF_XDP socket */
	TO_CPU,		 /* to a CPU */
	TO_DEVICE,	 /* to another device */
	NO_TARGET,	 /* passed: the socket, CPU or device is not there */
	VERDICTS,
};

/* The key of the SPI table. */
struct spi_key {
	u8 destination[16]; /* IPv4 as ::ffff:a.b.c.d */
	u32 spi;	    /* network order */
	u32 protocol;	    /* 50 or 51; UDP-encapsulated ESP is 50 */
};

/*
 * The value of the SPI table is one word, so that no packet sees half of a
 * change:
 *
 *	bits  0..23  slot: where its counters are
 *	bits 24..39  target: socket of the queue, CPU, or next hop
 *	bits 40..43  action
 *	bits 44..63  the low bits of the SPI, in host order
 *
 * The kernel may give an element that was deleted to another key while a
 * packet still looks at it; the SPI's bits tell.
 */
#define SLOT_BITS 24
#define TARGET_SHIFT 24
#define ACTION_SHIFT 40
#define CHECK_SHIFT 44

enum action {
	ACTION_PASS = 1,
	ACTION_DROP,
	ACTION_SOCKET,
	ACTION_CPU,
	ACTION_DEVICE,
};

/*
 * Counters of one SPI on one CPU. The array has `slots` of them for the first
 * CPU, then for the second, and so on.
 */
struct spi_use {
	u64 packets;
	u64 bytes; /* of the IP packets */
	u64 last;  /* CLOCK_MONOTONIC_COARSE, nanoseconds; 0 is never */
	u64 unused;
};

/* Counters of all verdicts on one CPU. */
struct totals {
	u64 packets[VERDICTS];
	u64 bytes[VERDICTS]; /* of the frames */
};

/* The addresses that a frame gets on its way to another device. */
struct next_hop {
	u8 destination[6];
	u8 source[6];
};

/* A source of new exchanges: an IPv4 address, or an IPv6 /64. */
struct source {
	u8 prefix[16];
};

#endif
