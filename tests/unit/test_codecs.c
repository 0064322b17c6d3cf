/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "scanner/image/codec_zlib.h"
#include "scanner/image/codec_zstd.h"

/* C8: what an encoder made is undone before it is believed. */

#define SIZE ((size_t)4096)
#define ROOM (2 * SIZE)

struct made {
	uint8_t plain[SIZE], packed[ROOM + 1], back[SIZE];
	size_t len;
};

typedef bool undo_call(void *encoder, const void *src, size_t src_len, void *ret, size_t len);

static bool undo_zlib(void *e, const void *src, size_t src_len, void *ret, size_t len)
{
	return codec_zlib_undo(e, src, src_len, ret, len);
}

static bool undo_zstd(void *e, const void *src, size_t src_len, void *ret, size_t len)
{
	return codec_zstd_undo(e, src, src_len, ret, len);
}

static void fill(struct made *m)
{
	for (size_t i = 0; i < SIZE; i++)
		m->plain[i] = (uint8_t)(i % 3 ? i * i >> 7 & 31 : i % 251);
}

static bool comes_back(struct made *m, void *encoder, undo_call *undo)
{
	memset(m->back, 0xa5, SIZE);
	return undo(encoder, m->packed, m->len, m->back, SIZE) && memcmp(m->back, m->plain, SIZE) == 0;
}

/* Whatever is wrong with it; and after that it is right again. */
static void only_the_whole_comes_back(struct made *m, void *encoder, undo_call *undo)
{
	size_t len = m->len;

	assert_in_range(len, 1, SIZE - 1);
	assert_true(comes_back(m, encoder, undo));
	assert_false(undo(encoder, m->packed, len, m->back, SIZE - 1));
	for (m->len = 0; m->len < len; m->len++)
		assert_false(comes_back(m, encoder, undo));
	m->packed[len] = 0;
	m->len = len + 1;
	assert_false(comes_back(m, encoder, undo));
	m->len = len;
	m->plain[SIZE / 2] ^= 1;
	assert_false(comes_back(m, encoder, undo));
	m->plain[SIZE / 2] ^= 1;
	assert_true(comes_back(m, encoder, undo));
}

static void a_zlib_stream_comes_back_whole_or_not_at_all(void **state)
{
	struct codec_zlib_encoder *e = codec_zlib_encoder_new(CODEC_ZLIB_HEADER, 15, NULL);
	size_t nr_harmless = 0;
	struct made m;

	(void)state;
	fill(&m);
	m.len = codec_zlib_encode(e, m.plain, SIZE, m.packed, ROOM);
	only_the_whole_comes_back(&m, e, undo_zlib);
	for (size_t bit = 0; bit < m.len * 8; bit++) {
		m.packed[bit / 8] ^= (uint8_t)(1 << bit % 8);
		nr_harmless += comes_back(&m, e, undo_zlib);
		m.packed[bit / 8] ^= (uint8_t)(1 << bit % 8);
	}
	assert_in_range(nr_harmless, 0, 7); /* those that fill its last byte */
	codec_zlib_encoder_free(e);
}

static void so_does_bare_deflate(void **state)
{
	struct codec_zlib_encoder *e = codec_zlib_encoder_new(CODEC_ZLIB_RAW, 12, NULL);
	struct made m;

	(void)state;
	fill(&m);
	m.len = codec_zlib_encode(e, m.plain, SIZE, m.packed, ROOM);
	only_the_whole_comes_back(&m, e, undo_zlib);
	codec_zlib_encoder_free(e);
}

static void so_does_a_zstd_frame(void **state)
{
	struct codec_zstd_encoder *e = codec_zstd_encoder_new(NULL);
	struct made m;

	(void)state;
	fill(&m);
	m.len = codec_zstd_encode(e, m.plain, SIZE, m.packed, ROOM);
	only_the_whole_comes_back(&m, e, undo_zstd);
	codec_zstd_encoder_free(e);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_zlib_stream_comes_back_whole_or_not_at_all),
		cmocka_unit_test(so_does_bare_deflate),
		cmocka_unit_test(so_does_a_zstd_frame),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
