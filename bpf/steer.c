// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause

//go:build ignore

/*
 * Steers ESP (RFC 4303), AH (RFC 4302) and UDP-encapsulated ESP (RFC 3948) by
 * destination and SPI, and keeps floods of new IKE exchanges off the daemon.
 */
#include "tally.h"

#define ETHERNET 14
#define VLANS 2
#define EXTENSIONS 6
#define PORTS 4

/* No header begins further inside a frame; one less than a power of two. */
#define FURTHEST 0x3fff

#define P_8021Q 0x8100
#define P_8021AD 0x88a8
#define P_IPV4 0x0800
#define P_IPV6 0x86dd

#define HOP_BY_HOP 0
#define UDP 17
#define ROUTING 43
#define FRAGMENT_HEADER 44
#define ESP 50
#define AH 51
#define DESTINATION_OPTIONS 60

/* RFC 2408 section 3.1: two cookies, then twelve octets. */
#define ISAKMP_HEADER 28

/* Written by user space before the program is loaded. */
volatile const u32 sockets_per_queue = 1; /* AF_XDP sockets */
volatile const u8 drop_unknown = 0;	   /* SPIs that are not in the table */
volatile const u16 ike_port = 500;
volatile const u16 encapsulation_ports[PORTS] = { 4500 }; /* 0 is none */
/*
 * New exchanges from one source: one every ike_interval nanoseconds, and at
 * most ike_burst nanoseconds' worth at once. ike_interval 0 is no limit.
 */
volatile const u64 ike_interval = 0;
volatile const u64 ike_burst = 0;

/* LAYOUT, for who takes the maps over. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, u64);
} layout SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, u32);
} sockets SEC(".maps");

struct cpu_entry {
	u32 queue;
	u32 program;
};

struct {
	__uint(type, BPF_MAP_TYPE_CPUMAP);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct cpu_entry);
} cpus SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_DEVMAP);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, u32);
} devices SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct next_hop);
} next_hops SEC(".maps");

/* When the source's allowance will be whole again. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1);
	__type(key, struct source);
	__type(value, u64);
} sources SEC(".maps");

/* What parsing can find beside the final verdicts. */
#define STEERED 100
#define NEW_EXCHANGE 101

struct packet {
	u64 high, low; /* destination, as in struct home */
	u64 ip;	       /* where the IP header begins */
	u64 length;    /* of the IP packet */
	u32 spi;
	u32 sequence;
	u32 protocol;
	u8 version;
};

/* Points to the n octets at off if the frame has them. */
static __always_inline void *at(const struct xdp_md *ctx, u64 off, u64 n)
{
	u8 *data = (u8 *)(long)ctx->data;
	u8 *end = (u8 *)(long)ctx->data_end;

	if (off > FURTHEST)
		return 0;
	data += off;
	if (data + n > end)
		return 0;
	return data;
}

/*
 * The same offset, with all the verifier learnt about it forgotten but its
 * bound: the ways that lead to one place look alike to it, and it walks on
 * from there once.
 */
static __always_inline u64 any_offset(u64 off)
{
	asm volatile("" : "+r"(off));
	return off & FURTHEST;
}

/*
 * Loads of the size of what they load: the compiler would make one of each
 * octet, as it cannot know how a frame is aligned. All of it is aligned to four
 * octets from the IP header on, and where a driver puts that is the kernel's
 * care (NET_IP_ALIGN).
 */
static __always_inline u16 load16(const u8 *p) { return be16(*(const u16 *)p); }
static __always_inline u32 load32(const u8 *p) { return be32(*(const u32 *)p); }

/* ESP or AH, whose SPI is at off + skip. */
static __always_inline u32 security(const struct xdp_md *ctx, struct packet *p, u64 off, u64 end, u32 protocol)
{
	u64 size = protocol == ESP ? 8 : 12;
	u8 *header = at(ctx, off, size);

	if (!header || off + size > end)
		return MALFORMED;
	/* Both have the sequence number behind the SPI. */
	p->spi = load32(header + size - 8);
	p->sequence = load32(header + size - 4);
	p->protocol = protocol;
	return STEERED;
}

static __always_inline u32 ike(const struct xdp_md *ctx, u64 off, u64 end)
{
	u8 *header = at(ctx, off, ISAKMP_HEADER);

	if (!header || off + ISAKMP_HEADER > end)
		return MALFORMED;
	/* The responder's cookie. */
	return load32(header + 8) | load32(header + 12) ? IKE : NEW_EXCHANGE;
}

static __always_inline u32 udp(const struct xdp_md *ctx, struct packet *p, u64 off, u64 end)
{
	u8 *header = at(ctx, off, 8);
	u8 *payload;
	u64 length;
	u16 port;
	u8 encapsulated = 0;

	if (!header || off + 8 > end)
		return MALFORMED;
	port = load16(header + 2);
	for (int i = 0; i < PORTS; i++)
		if (port == encapsulation_ports[i])
			encapsulated = 1;
	if (port == 0 || (port != ike_port && !encapsulated))
		return OTHER;
	length = load16(header + 4);
	if (length < 8 || off + length > end)
		return MALFORMED;
	end = off + length;
	off += 8;
	if (!encapsulated)
		return ike(ctx, off, end);

	payload = at(ctx, off, 1);
	if (!payload || off == end)
		return MALFORMED;
	if (end - off == 1 && *payload == 0xff)
		return KEEPALIVE;
	payload = at(ctx, off, 4);
	if (!payload || off + 4 > end)
		return MALFORMED;
	/* The non-ESP marker of RFC 3948 section 2.2. */
	if (!load32(payload))
		return ike(ctx, off + 4, end);
	return security(ctx, p, off, end, ESP);
}

/* The second half of ::ffff:a.b.c.d. */
static __always_inline u64 mapped(const u8 *address)
{
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
	return (u64)*(const u32 *)address << 32 | 0xffff0000;
#else
	return *(const u32 *)address | 0xffff00000000;
#endif
}

/* Where ipv4 and ipv6 found what the IP packet carries. */
#define CARRIED 102

struct payload {
	u64 off, end; /* in the frame */
	u8 protocol;
};

static __always_inline u32 ipv4(const struct xdp_md *ctx, struct packet *p, struct payload *in, u64 off, u64 frame)
{
	u8 *header = at(ctx, off, 20);
	u64 length, ihl;

	if (!header || header[0] >> 4 != 4)
		return MALFORMED;
	ihl = (header[0] & 15) * 4;
	length = load16(header + 2);
	if (ihl < 20 || length < ihl || off + length > frame)
		return MALFORMED;
	/* More fragments, or an offset. */
	if (load16(header + 6) & 0x3fff)
		return FRAGMENT;
	p->length = length;
	p->version = 4;
	p->high = 0;
	p->low = mapped(header + 16);
	in->off = off + ihl;
	in->end = off + length;
	in->protocol = header[9];
	return CARRIED;
}

static __always_inline int is_extension(u8 protocol)
{
	return protocol == HOP_BY_HOP || protocol == ROUTING || protocol == FRAGMENT_HEADER ||
	       protocol == DESTINATION_OPTIONS;
}

static __always_inline u32 ipv6(const struct xdp_md *ctx, struct packet *p, struct payload *in, u64 off, u64 frame)
{
	u8 *header = at(ctx, off, 40);
	u64 end;
	u8 next;

	if (!header || header[0] >> 4 != 6)
		return MALFORMED;
	end = off + 40 + load16(header + 4);
	if (end > frame)
		return MALFORMED;
	p->length = end - off;
	p->version = 6;
	p->high = *(u64 *)(header + 24);
	p->low = *(u64 *)(header + 32);
	next = header[6];
	off += 40;
	for (int i = 0; i < EXTENSIONS && is_extension(next); i++) {
		header = at(ctx, off, 8);
		if (!header || off + 8 > end)
			return MALFORMED;
		if (next == FRAGMENT_HEADER) {
			/* One that is whole is none (RFC 6946). */
			if (load16(header + 2) & 0xfff9)
				return FRAGMENT;
			off += 8;
		} else {
			/* The packet is still on its way to somebody else. */
			if (next == ROUTING && header[3])
				return OTHER;
			off += header[1] * 8 + 8;
		}
		off = any_offset(off);
		next = header[0];
	}
	if (is_extension(next))
		return MALFORMED;
	in->off = off;
	in->end = end;
	in->protocol = next;
	return CARRIED;
}

static __always_inline u32 parse(const struct xdp_md *ctx, struct packet *p, u64 frame)
{
	u64 off = ETHERNET;
	u8 *header = at(ctx, 0, ETHERNET);
	struct payload in;
	u32 found = OTHER;
	u16 type;

	if (!header)
		return MALFORMED;
	type = load16(header + 12);
	for (int i = 0; i < VLANS; i++) {
		if (type != P_8021Q && type != P_8021AD)
			break;
		header = at(ctx, off, 4);
		if (!header)
			return MALFORMED;
		type = load16(header + 2);
		off += 4;
	}
	p->ip = off;
	if (type == P_IPV4)
		found = ipv4(ctx, p, &in, off, frame);
	else if (type == P_IPV6)
		found = ipv6(ctx, p, &in, off, frame);
	if (found != CARRIED)
		return found;
	in.off = any_offset(in.off);
	if (in.protocol == UDP)
		return udp(ctx, p, in.off, in.end);
	if (in.protocol == ESP || in.protocol == AH)
		return security(ctx, p, in.off, in.end, in.protocol);
	return OTHER;
}

/*
 * Two CPUs may both let the same allowance pass: the limit is for floods, and
 * a lock would be the flood's gain.
 */
static __always_inline u32 limit(const struct xdp_md *ctx, const struct packet *p)
{
	struct source source = {};
	u64 now, whole, *seen;
	u8 *header = at(ctx, p->ip, p->version == 6 ? 40 : 20);

	if (!ike_interval || !header)
		return IKE;
	if (p->version == 6)
		source.high = *(u64 *)(header + 8);
	else
		source.low = mapped(header + 12);
	now = bpf_ktime_get_ns();
	seen = bpf_map_lookup_elem(&sources, &source);
	if (!seen) {
		whole = now + ike_interval;
		bpf_map_update_elem(&sources, &source, &whole, BPF_ANY);
		return IKE;
	}
	whole = *seen;
	if (whole < now)
		whole = now;
	whole += ike_interval;
	if (whole - now > ike_burst)
		return IKE_LIMITED;
	*seen = whole;
	return IKE;
}

static __always_inline int to_device(struct xdp_md *ctx, u32 target)
{
	struct next_hop *hop = bpf_map_lookup_elem(&next_hops, &target);
	struct next_hop *addresses = at(ctx, 0, sizeof(*addresses));
	int action;

	if (!hop || !addresses)
		return XDP_PASS;
	action = bpf_redirect_map(&devices, target, XDP_PASS);
	if (action == XDP_REDIRECT)
		*addresses = *hop;
	return action;
}

/* A packet that the window's left edge has passed; RFC 4303 section 3.4.3. */
static __always_inline int is_stale(const struct packet *p, u32 place)
{
	struct spi_use *use = bpf_map_lookup_elem(&uses, &place);

	return use && p->sequence < READ_ONCE(use->floor);
}

static __always_inline u32 steer(struct xdp_md *ctx, const struct packet *p, struct tally *tally, u32 cpu, int *action)
{
	u32 home = find_home(p->high, p->low), place = 0, target, what, verdict;
	u64 word = 0;

	if (home)
		word = find_entry((u64)p->spi << 32 | home << HOME_SHIFT | (u32)(p->protocol == AH) << KEY_SHIFT, &place);
	if (!word) {
		if (!drop_unknown)
			return UNKNOWN_PASSED;
		*action = XDP_DROP;
		return UNKNOWN_DROPPED;
	}
	/* It does not count as use: nobody has shown that it is the peer's. */
	if (word & HAS_FLOOR && is_stale(p, place)) {
		*action = XDP_DROP;
		return STALE;
	}
	count_use(tally, cpu, place, p->length);

	target = word & ((1 << TARGET_BITS) - 1);
	what = (word >> ACTION_SHIFT) & 7;
	if (what == ACTION_SOCKET) {
		if (target >= sockets_per_queue)
			return NO_TARGET;
		*action = bpf_redirect_map(&sockets, ctx->rx_queue_index * sockets_per_queue + target, XDP_PASS);
		verdict = TO_SOCKET;
	} else if (what == ACTION_CPU) {
		*action = bpf_redirect_map(&cpus, target, XDP_PASS);
		verdict = TO_CPU;
	} else if (what == ACTION_DEVICE) {
		*action = to_device(ctx, target);
		verdict = TO_DEVICE;
	} else if (what == ACTION_DROP) {
		*action = XDP_DROP;
		return DROPPED;
	} else {
		return PASSED;
	}
	return *action == XDP_REDIRECT ? verdict : NO_TARGET;
}

static __always_inline int handle(struct xdp_md *ctx)
{
	u64 frame = (u64)ctx->data_end - (u64)ctx->data;
	u32 cpu = bpf_get_smp_processor_id(), verdict;
	struct tally *tally = bpf_map_lookup_elem(&tallies, &cpu);
	struct packet p;
	int action = XDP_PASS;

	if (!tally)
		return XDP_PASS;
	verdict = parse(ctx, &p, frame);
	if (verdict == STEERED) {
		verdict = steer(ctx, &p, tally, cpu, &action);
	} else if (verdict == NEW_EXCHANGE) {
		verdict = limit(ctx, &p);
		if (verdict == IKE_LIMITED)
			action = XDP_DROP;
	}
	if (verdict < VERDICTS) {
		tally->packets[verdict]++;
		tally->bytes[verdict] += frame;
	}
	return action;
}

SEC("xdp")
int quicksand_steer(struct xdp_md *ctx)
{
	return handle(ctx);
}

/* What the kernel asks before it lends its helpers. */
char dual_license[] SEC("license") = "Dual BSD/GPL";
