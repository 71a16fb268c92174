/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The rate of intel-ipsec-mb for AES-GCM in ESP, over packets of one SA or of
 * several in turn, in place, with 8 bytes of additional data and an ICV of 16
 * bytes.
 *
 *   gcm BITS DIRECTION SIZE MILLISECONDS [SAS]
 *
 * DIRECTION is seal or open; SIZE that of the encrypted payload in bytes. The
 * library leaves the comparison of the tag to its caller, which has to make it
 * before it uses the payload: it is part of what is measured.
 * Prints the best rate of several runs in gigabytes of payload a second, the
 * interface that had it and the library's version. The interfaces are a direct
 * call for each packet, and jobs submitted one after the other or in bursts.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <intel-ipsec-mb.h>

enum { BATCH = 32, HEADER = 8, IV = 8, ICV = 16, MAX = 16384 };

static uint8_t memory[BATCH * (MAX + 128)] __attribute__((aligned(64)));
static uint8_t *packets[BATCH];
static uint8_t nonces[BATCH][16];
static uint8_t tags[BATCH][ICV];
static struct gcm_key_data keys[BATCH] __attribute__((aligned(64)));
static unsigned sas = 1;
static struct gcm_context_data ctx __attribute__((aligned(64)));
static uint64_t sequence;
static unsigned bad;

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec * 1e-9;
}

/* The IV is the sequence number when sealing, and the packet's when opening.
 * All are made before the first is used: the library would otherwise wait for
 * the memory that was just written. */
static void make_nonces(int seal)
{
	for (unsigned i = 0; i < BATCH; i++) {
		uint64_t iv;
		if (seal) {
			iv = __builtin_bswap64(++sequence);
			memcpy(packets[i] + HEADER, &iv, IV);
		} else {
			memcpy(&iv, packets[i] + HEADER, IV);
		}
		memcpy(nonces[i] + 4, &iv, IV);
	}
}

/* The packets are not restored between runs, so that tags do not match; the
 * comparison takes the same time. */
static void compare(unsigned i, unsigned size)
{
	uint64_t a[2], b[2];
	memcpy(a, tags[i], ICV);
	memcpy(b, packets[i] + HEADER + IV + size, ICV);
	bad += ((a[0] ^ b[0]) | (a[1] ^ b[1])) != 0;
}

static void direct(IMB_MGR *m, unsigned bits, int seal, unsigned size)
{
	for (unsigned i = 0; i < BATCH; i++) {
		uint8_t *p = packets[i], *d = p + HEADER + IV, *iv = nonces[i];
		const struct gcm_key_data *key = &keys[i % sas];
		if (seal && bits == 128)
			IMB_AES128_GCM_ENC(m, key, &ctx, d, d, size, iv, p, HEADER, d + size, ICV);
		else if (seal)
			IMB_AES256_GCM_ENC(m, key, &ctx, d, d, size, iv, p, HEADER, d + size, ICV);
		else if (bits == 128)
			IMB_AES128_GCM_DEC(m, key, &ctx, d, d, size, iv, p, HEADER, tags[i], ICV);
		else
			IMB_AES256_GCM_DEC(m, key, &ctx, d, d, size, iv, p, HEADER, tags[i], ICV);
		if (!seal)
			compare(i, size);
	}
}

static void fill(IMB_JOB *j, unsigned i, unsigned bits, int seal, unsigned size)
{
	uint8_t *p = packets[i];
	j->enc_keys = &keys[i % sas];
	j->dec_keys = &keys[i % sas];
	j->key_len_in_bytes = bits / 8;
	j->src = p + HEADER + IV;
	j->dst = p + HEADER + IV;
	j->iv = nonces[i];
	j->iv_len_in_bytes = 12;
	j->cipher_start_src_offset_in_bytes = 0;
	j->msg_len_to_cipher_in_bytes = size;
	j->hash_start_src_offset_in_bytes = 0;
	j->msg_len_to_hash_in_bytes = size;
	j->auth_tag_output = seal ? p + HEADER + IV + size : tags[i];
	j->auth_tag_output_len_in_bytes = ICV;
	j->u.GCM.aad = p;
	j->u.GCM.aad_len_in_bytes = HEADER;
	j->cipher_mode = IMB_CIPHER_GCM;
	j->hash_alg = IMB_AUTH_AES_GMAC;
	j->cipher_direction = seal ? IMB_DIR_ENCRYPT : IMB_DIR_DECRYPT;
	j->chain_order = seal ? IMB_ORDER_CIPHER_HASH : IMB_ORDER_HASH_CIPHER;
	j->user_data = (void *)(uintptr_t)i;
}

static void done(const IMB_JOB *j, int seal, unsigned size)
{
	if (j->status != IMB_STATUS_COMPLETED) {
		fprintf(stderr, "job not completed\n");
		exit(1);
	}
	if (!seal)
		compare((uintptr_t)j->user_data, size);
}

static void by_job(IMB_MGR *m, unsigned bits, int seal, unsigned size)
{
	IMB_JOB *j;
	for (unsigned i = 0; i < BATCH; i++) {
		fill(IMB_GET_NEXT_JOB(m), i, bits, seal, size);
		for (j = IMB_SUBMIT_JOB_NOCHECK(m); j; j = IMB_GET_COMPLETED_JOB(m))
			done(j, seal, size);
	}
	while ((j = IMB_FLUSH_JOB(m)))
		done(j, seal, size);
}

static void by_burst(IMB_MGR *m, unsigned bits, int seal, unsigned size)
{
	IMB_JOB *j[BATCH];
	uint32_t n = IMB_GET_NEXT_BURST(m, BATCH, j);
	while (n < BATCH) {
		n = IMB_FLUSH_BURST(m, BATCH, j);
		for (uint32_t i = 0; i < n; i++)
			done(j[i], seal, size);
		n = IMB_GET_NEXT_BURST(m, BATCH, j);
	}
	for (unsigned i = 0; i < BATCH; i++)
		fill(j[i], i, bits, seal, size);
	n = IMB_SUBMIT_BURST_NOCHECK(m, BATCH, j);
	for (uint32_t i = 0; i < n; i++)
		done(j[i], seal, size);
	while ((n = IMB_FLUSH_BURST(m, BATCH, j)))
		for (uint32_t i = 0; i < n; i++)
			done(j[i], seal, size);
}

static const struct mode {
	const char *name;
	void (*run)(IMB_MGR *, unsigned, int, unsigned);
} modes[] = { { "direct", direct }, { "job", by_job }, { "burst", by_burst } };

int main(int argc, char **argv)
{
	unsigned bits = argc >= 5 ? atoi(argv[1]) : 0, size = argc >= 5 ? atoi(argv[3]) : 0;
	if (argc == 6)
		sas = atoi(argv[5]);
	if ((bits != 128 && bits != 256) || size < 1 || size > MAX || sas < 1 || sas > BATCH || argc > 6) {
		fprintf(stderr, "usage: gcm BITS DIRECTION SIZE MILLISECONDS [SAS]\n");
		return 2;
	}
	int seal = !strcmp(argv[2], "seal");
	double length = atof(argv[4]) / 1e3;

	/* Packets stand close to each other, so that short ones share the cache. */
	for (unsigned i = 0; i < BATCH; i++)
		packets[i] = memory + i * ((HEADER + IV + size + ICV + 63) / 64 * 64);

	IMB_MGR *m = alloc_mb_mgr(0);
	if (!m)
		return 1;
	init_mb_mgr_auto(m, NULL);
	uint8_t raw[32];
	for (unsigned k = 0; k < sas; k++) {
		for (unsigned i = 0; i < sizeof raw; i++)
			raw[i] = (uint8_t)(i * 11 + 3 + k);
		if (bits == 128)
			IMB_AES128_GCM_PRE(m, raw, &keys[k]);
		else
			IMB_AES256_GCM_PRE(m, raw, &keys[k]);
	}

	/* The interfaces take turns in short slices, so that none has the quiet times. */
	const unsigned count = sizeof modes / sizeof *modes, slices = 5;
	double best = 0;
	const char *name = "";
	for (unsigned s = 0; s < slices * count; s++) {
		const struct mode *w = &modes[s % count];
		double start = now(), end, took = 1e9;
		do {
			double t = now();
			for (int i = 0; i < 8; i++) {
				make_nonces(seal);
				w->run(m, bits, seal, size);
			}
			end = now();
			if (end - t < took)
				took = end - t;
		} while (end - start < length / (slices * count));
		double rate = 8.0 * BATCH * size / took / 1e9;
		if (getenv("VERBOSE"))
			fprintf(stderr, "%s %.3f\n", w->name, rate);
		if (rate > best) {
			best = rate;
			name = w->name;
		}
	}
	printf("%.3f %s %s\n", best, name, imb_get_version_str());
	free_mb_mgr(m);
	return 0;
}
