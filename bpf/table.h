/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The way of a packet through the table of SPIs. It takes no lock and writes
 * nothing. User space changes the table by stores of whole words, each seen by
 * all CPUs in the order it was made, so that the words alone must suffice:
 *
 *  - an entry is one word, and never moves;
 *  - a bucket is passed over to the next level only while its last word is not
 *    0, so that the last word's being 0 ends the search. A packet that sees it
 *    so is before an insert, or after a delete, that happens meanwhile;
 *  - an address is whole before a signpost leads to it, and its place in memory
 *    depends on the signpost, which orders the loads on every CPU;
 *  - what was removed (a place, a home) is used for something else only after
 *    an RCU grace period, when no packet is under way that saw it before.
 */
#ifndef QUICKSAND_TABLE_H
#define QUICKSAND_TABLE_H

#include "steer.h"

/* Written by user space before the program is loaded. */
volatile const u32 level_buckets[LEVELS] = { 1, 1, 1, 1 };
volatile const u32 level_first[LEVELS] = { 0, 0, 0, 0 };
volatile const u32 signpost_mask = 0;
volatile const u32 places = PLACES; /* in a row of counters */

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct bucket);
} buckets SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, u64);
} signposts SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct home);
} homes SEC(".maps");

#define READ_ONCE(x) (*(volatile typeof(x) *)&(x))

/* Finalizers of a multiply-and-shift hash; xdp/core.go has the same. */
#define MIX1 0x9e3779b97f4a7c15ULL
#define MIX2 0xbf58476d1ce4e5b9ULL

static __always_inline u64 mix(u64 x)
{
	x ^= x >> 32;
	x *= MIX1;
	x ^= x >> 29;
	x *= MIX2;
	return x ^ x >> 32;
}

/* The home of an address, or 0. */
static __always_inline u32 find_home(u64 high, u64 low)
{
	u64 hash = mix(high * MIX2 + low);

	for (int i = 0; i < PROBES; i++) {
		u32 index = ((u32)hash + i) & signpost_mask, number;
		u64 *signpost = bpf_map_lookup_elem(&signposts, &index);
		struct home *home;
		u64 word;

		if (!signpost)
			return 0;
		word = READ_ONCE(*signpost);
		if (!word)
			return 0;
		if ((word ^ hash) >> HASH_SHIFT)
			continue;
		number = word & 0xffff;
		home = bpf_map_lookup_elem(&homes, &number);
		if (number && home && READ_ONCE(home->high) == high && READ_ONCE(home->low) == low)
			return number;
	}
	return 0;
}

/* The entry with the key, or 0; and its place. */
static __always_inline u64 find_entry(u64 key, u32 *place)
{
	u64 hash = mix(key);

	for (int level = 0; level < LEVELS; level++) {
		/* Each level looks at bits of its own first. */
		u32 bits = hash >> (level == 0 ? 32 : level == 1 ? 0 : level == 2 ? 16 : 8);
		u32 index = level_first[level] + (u32)((u64)bits * level_buckets[level] >> 32);
		struct bucket *bucket = bpf_map_lookup_elem(&buckets, &index);
		u64 word = 0;

		if (!bucket)
			return 0;
		for (int i = 0; i < PLACES; i++) {
			word = READ_ONCE(bucket->words[i]);
			if ((word ^ key) >> KEY_SHIFT == 0) {
				*place = index * PLACES + i;
				return word;
			}
		}
		if (!word)
			return 0;
	}
	return 0;
}

#endif
