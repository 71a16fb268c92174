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
	STALE,		 /* dropped: left of the replay window, as the table says */
	VERDICTS,
};

/* The layout of the maps that are pinned; another one is not taken over. */
#define LAYOUT 2

/*
 * The table of SPIs. User space writes it, and packets read it, through the
 * same memory; table.h has the way of a packet through it.
 *
 * An entry is one word, so that it comes, changes and goes at once, and so that
 * no packet sees half of one:
 *
 *	bits  0..12  target: socket of the queue, CPU, or next hop
 *	bit  13      floors has a sequence number for it
 *	bits 14..16  action
 *	bit  17      protocol: 0 is ESP, 1 is AH
 *	bits 18..31  home: the destination's index in homes; 0 is none
 *	bits 32..63  SPI, in host order
 *
 * Bits 17 and above are the key: the whole of it, as a home is one destination
 * and no other. A word without home is no entry: 0 is free, and others are not
 * (see xdp/core.go).
 *
 * A bucket is a cache line of eight words. An SPI's bucket is found by a hash
 * of the key; where it is full the SPI goes to a bucket of the next, smaller
 * level. Entries never move, so that the place of an entry, which is its
 * bucket's number times eight and its word's, is where everything else about it
 * is found.
 */
#define PLACES 8
#define LEVELS 4
#define TARGET_BITS 13
#define HAS_FLOOR (1U << 13)
#define ACTION_SHIFT 14
#define KEY_SHIFT 17
#define HOME_SHIFT 18

struct bucket {
	u64 words[PLACES];
};

enum action {
	ACTION_PASS = 1,
	ACTION_DROP,
	ACTION_SOCKET,
	ACTION_CPU,
	ACTION_DEVICE,
};

/*
 * A destination that has SPIs: an IPv6 address, or IPv4 as ::ffff:a.b.c.d, in
 * network order. It is found by signposts, a hash table with linear probing; a
 * signpost is
 *
 *	bits  0..15  home; 0 is none: the signpost was removed, and others follow
 *	bits 16..63  bits of the address's hash
 *
 * and 0 where no further one follows.
 */
struct home {
	u64 high, low;
};

#define PROBES 16
#define HASH_SHIFT 16

/*
 * A row of these, one for each place, is user space's, and one is each CPU's,
 * in this order.
 */
struct spi_use {
	u64 packets; /* user space's: counted for the SPIs that were here before */
	u64 bytes;   /* of the IP packets; user space's: likewise */
	u64 last;    /* CLOCK_MONOTONIC_COARSE, nanoseconds; 0 is never */
	u64 floor;   /* user space's: lowest sequence number that is of use */
};

/*
 * What one CPU has seen. A packet counts in recent, which is in the nearest
 * cache; when that is full all of it goes to the places' counters, whose lines
 * are then fetched side by side instead of one for each packet.
 */
#define RECENT 16

struct recent_use {
	u64 place;
	u64 packets;
	u64 bytes;
	u64 last;
};

struct tally {
	u64 moves;   /* odd while recent goes to the counters */
	u64 waiting; /* how many of recent are not there yet */
	u64 fence;
	u64 tick; /* jiffies when it was now */
	u64 now;
	u64 unused[3];
	struct recent_use recent[RECENT];
	u64 packets[VERDICTS];
	u64 bytes[VERDICTS]; /* of the frames */
} __attribute__((aligned(128))); /* CPUs fetch lines in pairs */

/* The addresses that a frame gets on its way to another device. */
struct next_hop {
	u16 destination[3];
	u16 source[3];
};

/* A source of new exchanges: an IPv4 address, or an IPv6 /64. */
struct source {
	u64 high, low;
};

#endif
