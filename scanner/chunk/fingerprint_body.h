/* SPDX-License-Identifier: Apache-2.0 */

/* The body of one build of the fingerprints: included by fingerprint_*.c, which define ISA_NAME and ISA_SYMBOL (and by their
 * compiler flags the instructions).  No guard: it is code. */

#define XXH_INLINE_ALL
#include <xxhash.h>
#ifdef __AVX__
#include <immintrin.h>
#endif

#include "scanner/chunk/fingerprint.h"

/* To be called last.  As long as the upper halves of registers hold something, code that knows the lower ones only has to carry
 * them along, and its instructions wait for each other: libcrypto's SHA-256 takes a third longer.  Compilers do not see to it in
 * all of XXH3. */
static inline void clear_upper_halves(void)
{
#ifdef __AVX__
	_mm256_zeroupper();
#endif
}

/* Data is almost never zero in its first 64 bytes only to differ later: reject on them before reading the rest. */
static inline bool zero_64(const uint64_t *p)
{
	return !(p[0] | p[1] | p[2] | p[3] | p[4] | p[5] | p[6] | p[7]);
}

static bool block_is_zero(const uint8_t *block)
{
	uint64_t chunk[64];

	for (size_t i = 0; i < BLOCK_SIZE; i += sizeof(chunk)) {
		uint64_t any = 0;

		__builtin_memcpy(chunk, block + i, sizeof(chunk));
		if (i == 0 && !zero_64(chunk))
			return false;
		for (size_t k = 0; k < 64; k++)
			any |= chunk[k];
		if (any)
			return false;
	}
	return true;
}

static inline struct fingerprint hash(const void *buf, size_t len)
{
	XXH128_hash_t h = XXH3_128bits(buf, len);

	/* The null value is taken; a forged block that hashes to it must not pass for zeros. */
	if (!(h.high64 | h.low64))
		h.low64 = 1ull << 32;
	return (struct fingerprint){ .hi = h.high64, .lo = h.low64 };
}

static struct fingerprint bytes(const void *buf, size_t len)
{
	struct fingerprint f = hash(buf, len);

	clear_upper_halves();
	return f;
}

static size_t blocks(const void *buf, size_t nr, struct fingerprint *ret)
{
	const uint8_t *p = buf;
	size_t nr_data = 0;

	for (size_t i = 0; i < nr; i++, p += BLOCK_SIZE) {
		if (block_is_zero(p)) {
			ret[i] = (struct fingerprint){ 0, 0 };
		} else {
			ret[i] = hash(p, BLOCK_SIZE);
			nr_data++;
		}
	}
	clear_upper_halves();
	return nr_data;
}

extern const struct fingerprint_isa ISA_SYMBOL;
const struct fingerprint_isa ISA_SYMBOL = {
	.name = ISA_NAME,
	.blocks = blocks,
	.bytes = bytes,
};
