/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Counters. All of them are a CPU's own: there is no lock and no shared line.
 * User space reads them meanwhile (xdp/use.go).
 */
#ifndef QUICKSAND_TALLY_H
#define QUICKSAND_TALLY_H

#include "table.h"

/* The CPU may show its stores to others in another order; not on x86. */
volatile const u8 weakly_ordered = 0;

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct spi_use);
} uses SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct tally);
} tallies SEC(".maps");

/*
 * What was stored before is seen before what is stored after. Atomic operations
 * that return a value are full barriers to BPF; there is no plain one.
 */
static __always_inline void ordered(struct tally *t)
{
	asm volatile("" ::: "memory");
	if (weakly_ordered) {
		u64 before = __sync_fetch_and_add(&t->fence, 1);

		asm volatile("" : : "r"(before));
	}
}

static __always_inline void move_uses(struct tally *t, u32 cpu)
{
	t->moves++;
	ordered(t);
	for (int i = 0; i < RECENT; i++) {
		struct recent_use *recent = &t->recent[i];
		u32 index = (cpu + 1) * places + (u32)recent->place;
		struct spi_use *use = bpf_map_lookup_elem(&uses, &index);

		if (use) {
			use->packets += recent->packets;
			use->bytes += recent->bytes;
			use->last = recent->last;
		}
	}
	t->waiting = 0;
	ordered(t);
	t->moves++;
}

/*
 * CLOCK_MONOTONIC_COARSE, which goes by ticks; the tick is a load from memory,
 * the clock a call.
 */
static __always_inline u64 coarse_now(struct tally *t)
{
	u64 tick = bpf_jiffies64();

	if (t->tick != tick) {
		t->tick = tick;
		t->now = bpf_ktime_get_coarse_ns();
	}
	return t->now;
}

static __always_inline void count_use(struct tally *t, u32 cpu, u32 place, u64 length)
{
	u64 waiting = t->waiting, now = coarse_now(t);
	struct recent_use *recent = &t->recent[(waiting - 1) & (RECENT - 1)];

	if (waiting && recent->place == place) {
		recent->packets++;
		recent->bytes += length;
		recent->last = now;
		return;
	}
	if (waiting >= RECENT) {
		move_uses(t, cpu);
		waiting = 0;
	}
	recent = &t->recent[waiting & (RECENT - 1)];
	recent->place = place;
	recent->packets = 1;
	recent->bytes = length;
	recent->last = now;
	ordered(t);
	t->waiting = waiting + 1;
}

#endif
