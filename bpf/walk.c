// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause

//go:build ignore

/*
 * Programs to measure steering by. A test run shows a program the same frame
 * again and again, whose table lines are then always in the CPU's nearest
 * cache. The walking programs change the SPI before they look, at random over
 * all that the table has.
 */
#include "steer.c"

#define SPI_OFFSET 34
#define FIRST_SPI 0x10000000

volatile const u32 walk_mask = 0;  /* SPIs less one; one less than a power of two */
volatile const u32 walk_burst = 1; /* packets of one SPI in a row */
/*
 * Zipf's law: the SPI of rank r comes 1/r as often as the first. Each doubling
 * of the ranks then has as many packets.
 */
volatile const u8 walk_zipf = 0;

/* What a frame carries behind its ESP header from packet to packet. */
struct walker {
	u32 spi, sequence, state, count;
};

static __always_inline int walk(const struct xdp_md *ctx)
{
	struct walker *w = at(ctx, SPI_OFFSET, sizeof(*w));
	u32 rank;

	if (!w)
		return 0;
	if (++w->count < walk_burst)
		return 1;
	w->count = 0;
	w->state = w->state * 1664525 + 1013904223;
	rank = (w->state >> 8) & walk_mask;
	if (walk_zipf) {
		/* Equally likely: 0 to 20 more bits, of 21 for 1 << 20 SPIs. */
		rank = 1 << ((w->state >> 27) * 21 >> 5);
		rank = (rank | ((w->state >> 4) & (rank - 1))) & walk_mask;
	}
	w->spi = be32(FIRST_SPI + rank);
	return 1;
}

SEC("xdp")
int pass_all(struct xdp_md *ctx)
{
	return XDP_PASS;
}

SEC("xdp")
int redirect_all(struct xdp_md *ctx)
{
	return bpf_redirect_map(&cpus, 0, XDP_PASS);
}

SEC("xdp")
int walk_pass(struct xdp_md *ctx)
{
	return walk(ctx) ? XDP_PASS : XDP_ABORTED;
}

/* What the lookup alone takes, and what it takes in the kernel's hash table. */
SEC("xdp")
int walk_lookup(struct xdp_md *ctx)
{
	u64 address[2] = {};
	u32 *header, home, place;

	if (!walk(ctx))
		return XDP_ABORTED;
	header = at(ctx, SPI_OFFSET - 4, 8);
	if (!header)
		return XDP_ABORTED;
	((u16 *)address)[5] = 0xffff;
	((u32 *)address)[3] = header[0];
	home = find_home(address[0], address[1]);
	return find_entry((u64)be32(header[1]) << 32 | home << HOME_SHIFT, &place) ? XDP_PASS : XDP_ABORTED;
}

struct hash_key {
	u8 destination[16];
	u32 spi;
	u32 protocol;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, struct hash_key);
	__type(value, u64);
} hash SEC(".maps");

SEC("xdp")
int walk_hash(struct xdp_md *ctx)
{
	struct hash_key key = { .protocol = ESP };
	u32 *header;

	if (!walk(ctx))
		return XDP_ABORTED;
	header = at(ctx, SPI_OFFSET - 4, 8);
	if (!header)
		return XDP_ABORTED;
	key.destination[10] = key.destination[11] = 0xff;
	__builtin_memcpy(key.destination + 12, header, 4);
	key.spi = header[1];
	return bpf_map_lookup_elem(&hash, &key) ? XDP_PASS : XDP_ABORTED;
}

SEC("xdp")
int walk_steer(struct xdp_md *ctx)
{
	return walk(ctx) ? handle(ctx) : XDP_ABORTED;
}
