/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The rate of intel-ipsec-mb for AES-CBC with HMAC in ESP, over batches of
 * packets of one SA or of several in turn, in place.
 *
 *   cc -O2 -o cbc cbc.c -lIPSec_MB
 *   cbc BITS HASH DIRECTION SIZE MILLISECONDS [SAS]
 *
 * HASH is sha1, sha256, sha384 or sha512; DIRECTION seal or open; SIZE that of
 * the encrypted payload in bytes. Prints the best rate of several runs in
 * gigabytes of payload a second, and the way of submission that had it: one job
 * after the other or in bursts, each flushed at the end of the batch or, which
 * no packet path can do when traffic is thin, never.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <intel-ipsec-mb.h>

enum { BATCH = 32, HEADER = 8, IV = 16, MAX = 16384 };

static struct hash {
	const char *name;
	IMB_HASH_ALG alg;
	unsigned icv, block, key;
} hashes[] = {
	{ "sha1", IMB_AUTH_HMAC_SHA_1, 12, 64, 20 },
	{ "sha256", IMB_AUTH_HMAC_SHA_256, 16, 64, 32 },
	{ "sha384", IMB_AUTH_HMAC_SHA_384, 24, 128, 48 },
	{ "sha512", IMB_AUTH_HMAC_SHA_512, 32, 128, 64 },
};

static uint8_t packets[BATCH][MAX + 128] __attribute__((aligned(64)));
static uint8_t tags[BATCH][64];
static DECLARE_ALIGNED(uint8_t inner[BATCH][64], 16);
static DECLARE_ALIGNED(uint8_t outer[BATCH][64], 16);
static DECLARE_ALIGNED(uint32_t enc[BATCH][4 * 15], 16);
static DECLARE_ALIGNED(uint32_t dec[BATCH][4 * 15], 16);
static unsigned sas = 1;
static unsigned bad;

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec * 1e-9;
}

static void one_block(IMB_MGR *m, const struct hash *h, const uint8_t *b, void *out)
{
	switch (h->alg) {
	case IMB_AUTH_HMAC_SHA_1: IMB_SHA1_ONE_BLOCK(m, b, out); break;
	case IMB_AUTH_HMAC_SHA_256: IMB_SHA256_ONE_BLOCK(m, b, out); break;
	case IMB_AUTH_HMAC_SHA_384: IMB_SHA384_ONE_BLOCK(m, b, out); break;
	default: IMB_SHA512_ONE_BLOCK(m, b, out);
	}
}

static void pad_key(IMB_MGR *m, const struct hash *h, unsigned of, uint8_t with, void *out)
{
	uint8_t block[128];
	memset(block, with, sizeof block);
	for (unsigned i = 0; i < h->key; i++)
		block[i] ^= (uint8_t)(i * 7 + 1 + of);
	one_block(m, h, block, out);
}

static void fill(IMB_JOB *j, unsigned i, unsigned bits, const struct hash *h, int seal, unsigned size)
{
	j->enc_keys = enc[i % sas];
	j->dec_keys = dec[i % sas];
	j->key_len_in_bytes = bits / 8;
	j->src = packets[i];
	j->dst = packets[i] + HEADER + IV;
	j->iv = packets[i] + HEADER;
	j->iv_len_in_bytes = IV;
	j->cipher_start_src_offset_in_bytes = HEADER + IV;
	j->msg_len_to_cipher_in_bytes = size;
	j->hash_start_src_offset_in_bytes = 0;
	j->msg_len_to_hash_in_bytes = HEADER + IV + size;
	/* a received ICV is compared with one computed aside */
	j->auth_tag_output = seal ? packets[i] + HEADER + IV + size : tags[i];
	j->auth_tag_output_len_in_bytes = h->icv;
	j->u.HMAC._hashed_auth_key_xor_ipad = inner[i % sas];
	j->u.HMAC._hashed_auth_key_xor_opad = outer[i % sas];
	j->cipher_mode = IMB_CIPHER_CBC;
	j->cipher_direction = seal ? IMB_DIR_ENCRYPT : IMB_DIR_DECRYPT;
	j->chain_order = seal ? IMB_ORDER_CIPHER_HASH : IMB_ORDER_HASH_CIPHER;
	j->hash_alg = h->alg;
	j->user_data = packets[i] + HEADER + IV + size;
}

static void done(const IMB_JOB *j)
{
	if (j->status != IMB_STATUS_COMPLETED) {
		fprintf(stderr, "job not completed\n");
		exit(1);
	}
	if (j->cipher_direction == IMB_DIR_DECRYPT)
		bad += memcmp(j->auth_tag_output, j->user_data, j->auth_tag_output_len_in_bytes) != 0;
}

static void by_job(IMB_MGR *m, unsigned bits, const struct hash *h, int seal, unsigned size, int flush)
{
	IMB_JOB *j;
	for (unsigned i = 0; i < BATCH; i++) {
		fill(IMB_GET_NEXT_JOB(m), i, bits, h, seal, size);
		for (j = IMB_SUBMIT_JOB_NOCHECK(m); j; j = IMB_GET_COMPLETED_JOB(m))
			done(j);
	}
	if (flush)
		while ((j = IMB_FLUSH_JOB(m)))
			done(j);
}

static void by_burst(IMB_MGR *m, unsigned bits, const struct hash *h, int seal, unsigned size, int flush)
{
	IMB_JOB *j[BATCH];
	uint32_t n = IMB_GET_NEXT_BURST(m, BATCH, j);
	while (n < BATCH) {
		n = IMB_FLUSH_BURST(m, BATCH, j);
		for (uint32_t i = 0; i < n; i++)
			done(j[i]);
		n = IMB_GET_NEXT_BURST(m, BATCH, j);
	}
	for (unsigned i = 0; i < BATCH; i++)
		fill(j[i], i, bits, h, seal, size);
	n = IMB_SUBMIT_BURST_NOCHECK(m, BATCH, j);
	for (uint32_t i = 0; i < n; i++)
		done(j[i]);
	while (flush && (n = IMB_FLUSH_BURST(m, BATCH, j)))
		for (uint32_t i = 0; i < n; i++)
			done(j[i]);
}

static const struct mode {
	const char *name;
	void (*run)(IMB_MGR *, unsigned, const struct hash *, int, unsigned, int);
	int flush;
} modes[] = {
	{ "job", by_job, 1 }, { "job-unflushed", by_job, 0 },
	{ "burst", by_burst, 1 }, { "burst-unflushed", by_burst, 0 },
};

int main(int argc, char **argv)
{
	const struct hash *h = NULL;
	for (unsigned i = 0; (argc == 6 || argc == 7) && i < sizeof hashes / sizeof *hashes; i++)
		if (!strcmp(argv[2], hashes[i].name))
			h = &hashes[i];
	if (!h) {
		fprintf(stderr, "usage: cbc BITS HASH DIRECTION SIZE MILLISECONDS [SAS]\n");
		return 2;
	}
	unsigned bits = atoi(argv[1]), size = atoi(argv[4]);
	int seal = !strcmp(argv[3], "seal");
	double length = atof(argv[5]) / 1e3;
	if (argc == 7)
		sas = atoi(argv[6]);
	if (size % 16 || size > MAX || (bits != 128 && bits != 256) || sas < 1 || sas > BATCH)
		return 2;

	IMB_MGR *m = alloc_mb_mgr(0);
	if (!m)
		return 1;
	init_mb_mgr_auto(m, NULL);
	for (unsigned of = 0; of < sas; of++) {
		uint8_t key[32];
		for (unsigned i = 0; i < sizeof key; i++)
			key[i] = (uint8_t)(i * 11 + 3 + of);
		if (bits == 128)
			IMB_AES_KEYEXP_128(m, key, enc[of], dec[of]);
		else
			IMB_AES_KEYEXP_256(m, key, enc[of], dec[of]);
		pad_key(m, h, of, 0x36, inner[of]);
		pad_key(m, h, of, 0x5c, outer[of]);
	}

	/* The ways take turns in short slices, so that none has the quiet times. */
	const unsigned count = sizeof modes / sizeof *modes, slices = 5;
	double best = 0;
	const char *name = "";
	for (unsigned s = 0; s < slices * count; s++) {
		const struct mode *w = &modes[s % count];
		double start = now(), end, took = 1e9;
		do {
			double t = now();
			for (int i = 0; i < 8; i++)
				w->run(m, bits, h, seal, size, w->flush);
			end = now();
			if (end - t < took)
				took = end - t;
		} while (end - start < length / (slices * count));
		if (!w->flush)
			by_job(m, bits, h, seal, size, 1);
		double rate = 8.0 * BATCH * size / took / 1e9;
		if (rate > best) {
			best = rate;
			name = w->name;
		}
	}
	printf("%.3f %s %s\n", best, name, imb_get_version_str());
	free_mb_mgr(m);
	return 0;
}
