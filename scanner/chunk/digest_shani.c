/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "scanner/base/bytes.h"
#include "scanner/chunk/digest.h"

/* SHA-256 of two buffers at once, by the instructions for it (Intel, Intel SHA Extensions, 2013).
 *
 * Four rounds are two sha256rnds2, of which each needs what the one before gave: the processor could do several in that time, but
 * of one buffer there are no others to do.  So a round of one buffer stands beside a round of the other.  (Four buffers would be a
 * tenth faster still; they do not fit into the registers, and somebody has to hold them.)
 *
 * The makefile compiles this file with these instructions; on other processors it is empty. */

#ifdef __SHA__
#include <immintrin.h>

#define CHUNK 64 /* bytes that are taken in at once */
#define INLINE static inline __attribute__((always_inline))

/* The state's words as the instructions want them, the last 16 words of the message schedule. */
struct lane {
	__m128i abef, cdgh, w[4];
};

static const uint32_t initial[8] = {
	0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19,
};

static const uint32_t constants[64] = {
	0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
	0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
	0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
	0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
	0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
	0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
	0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
	0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
};

/* ---- one lane ---- */

INLINE __m128i load(const void *p)
{
	return _mm_loadu_si128(p);
}

INLINE void begin(struct lane *l)
{
	__m128i badc = _mm_shuffle_epi32(load(initial), 0xb1), hgfe = _mm_shuffle_epi32(load(initial + 4), 0x1b);

	l->abef = _mm_alignr_epi8(badc, hgfe, 8);
	l->cdgh = _mm_blend_epi16(hgfe, badc, 0xf0);
}

INLINE void end(const struct lane *l, uint8_t ret[DIGEST_SIZE])
{
	const __m128i swap = _mm_set_epi64x(0x0c0d0e0f08090a0b, 0x0405060700010203);
	__m128i abef = _mm_shuffle_epi32(l->abef, 0x1b), ghcd = _mm_shuffle_epi32(l->cdgh, 0xb1);

	_mm_storeu_si128((void *)ret, _mm_shuffle_epi8(_mm_blend_epi16(abef, ghcd, 0xf0), swap));
	_mm_storeu_si128((void *)(ret + 16), _mm_shuffle_epi8(_mm_alignr_epi8(ghcd, abef, 8), swap));
}

/* Rounds 4k to 4k + 3. */
INLINE void rounds(struct lane *l, unsigned k)
{
	__m128i m = _mm_add_epi32(l->w[k % 4], load(constants + 4 * k));

	l->cdgh = _mm_sha256rnds2_epu32(l->cdgh, l->abef, m);
	l->abef = _mm_sha256rnds2_epu32(l->abef, l->cdgh, _mm_shuffle_epi32(m, 0x0e));
}

/* The words that rounds 4k to 4k + 3 took make room for those of four rounds that come 16 later. */
INLINE void schedule(struct lane *l, unsigned k)
{
	__m128i w = _mm_sha256msg1_epu32(l->w[k % 4], l->w[(k + 1) % 4]);

	w = _mm_add_epi32(w, _mm_alignr_epi8(l->w[(k + 3) % 4], l->w[(k + 2) % 4], 4));
	l->w[k % 4] = _mm_sha256msg2_epu32(w, l->w[(k + 3) % 4]);
}

/* ---- both ---- */

INLINE void take(struct lane l[2], const uint8_t *p, const uint8_t *q, unsigned k)
{
	const __m128i swap = _mm_set_epi64x(0x0c0d0e0f08090a0b, 0x0405060700010203);

	l[0].w[k] = _mm_shuffle_epi8(load(p + 16 * k), swap);
	l[1].w[k] = _mm_shuffle_epi8(load(q + 16 * k), swap);
	rounds(&l[0], k);
	rounds(&l[1], k);
}

INLINE void go_on(struct lane l[2], unsigned k)
{
	schedule(&l[0], k);
	schedule(&l[1], k);
	rounds(&l[0], k);
	rounds(&l[1], k);
}

static void add_chunks(struct lane ret[2], const uint8_t *p, const uint8_t *q, size_t nr)
{
	struct lane l[2] = { ret[0], ret[1] };

	for (; nr; nr--, p += CHUNK, q += CHUNK) {
		__m128i abef[2] = { l[0].abef, l[1].abef }, cdgh[2] = { l[0].cdgh, l[1].cdgh };

		take(l, p, q, 0), take(l, p, q, 1), take(l, p, q, 2), take(l, p, q, 3);
		go_on(l, 4), go_on(l, 5), go_on(l, 6), go_on(l, 7);
		go_on(l, 8), go_on(l, 9), go_on(l, 10), go_on(l, 11);
		go_on(l, 12), go_on(l, 13), go_on(l, 14), go_on(l, 15);
		for (unsigned i = 0; i < 2; i++) {
			l[i].abef = _mm_add_epi32(l[i].abef, abef[i]);
			l[i].cdgh = _mm_add_epi32(l[i].cdgh, cdgh[i]);
		}
	}
	ret[0] = l[0];
	ret[1] = l[1];
}

/* What is left of the message, a bit, and its length in bits at the end; returns how many chunks that takes. */
static size_t pad(const uint8_t *rest, size_t len, uint8_t ret[2 * CHUNK])
{
	size_t nr = len % CHUNK + 9 > CHUNK ? 2 : 1;

	memset(ret, 0, 2 * CHUNK);
	memcpy(ret, rest, len % CHUNK);
	ret[len % CHUNK] = 0x80;
	be64_store(ret + nr * CHUNK - 8, (uint64_t)len * 8);
	return nr;
}

void digest_two_shani(const void *a, const void *b, size_t len, uint8_t ret_a[DIGEST_SIZE], uint8_t ret_b[DIGEST_SIZE]);
void digest_two_shani(const void *a, const void *b, size_t len, uint8_t ret_a[DIGEST_SIZE], uint8_t ret_b[DIGEST_SIZE])
{
	size_t whole = len - len % CHUNK, nr;
	const uint8_t *p = a, *q = b;
	uint8_t ends[2][2 * CHUNK];
	struct lane l[2];

	begin(&l[0]);
	begin(&l[1]);
	add_chunks(l, p, q, whole / CHUNK);
	nr = pad(p + whole, len, ends[0]);
	pad(q + whole, len, ends[1]);
	add_chunks(l, ends[0], ends[1], nr);
	end(&l[0], ret_a);
	end(&l[1], ret_b);
}
#else
typedef int digest_shani_is_empty;
#endif
