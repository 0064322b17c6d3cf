/* SPDX-License-Identifier: Apache-2.0 */
#include "scanner/image/codec_zlib.h"

#include <limits.h>
#include <stdint.h>
#include <stdlib.h>
#include <zlib.h>

/* An image knows the length of its compressed data only to a sector, so the stream may end before the input does;
 * and some writers end a stream without its last block, so a full output is what counts. */
static int inflate_all(z_stream *z, struct err *err)
{
	int rc = inflate(z, Z_FINISH);

	if (rc == Z_MEM_ERROR)
		return err_set(err, ERR_MEMORY, "no memory to decompress a cluster");
	if (rc != Z_STREAM_END && rc != Z_BUF_ERROR)
		return err_set(err, ERR_FORMAT, "compressed data is broken (%s)",
			       z->msg ? z->msg : "zlib stream error");
	if (z->avail_out != 0)
		return err_set(err, ERR_FORMAT, "compressed data ends early, %u bytes short", z->avail_out);
	return 0;
}

int codec_zlib_decode(enum codec_zlib_wrap wrap, int window_bits, const void *src, size_t src_len, void *ret,
		      size_t len, struct err *err)
{
	z_stream z = { .next_in = (void *)(uintptr_t)src, .next_out = ret };
	int rc;

	if (src_len > UINT_MAX || len > UINT_MAX)
		return err_set(err, ERR_UNSUPPORTED, "compressed data of %zu bytes is too large", src_len);
	z.avail_in = (uInt)src_len;
	z.avail_out = (uInt)len;
	if (inflateInit2(&z, wrap == CODEC_ZLIB_RAW ? -window_bits : window_bits) != Z_OK)
		return err_set(err, ERR_MEMORY, "no memory to decompress a cluster");
	rc = inflate_all(&z, err);
	inflateEnd(&z);
	return rc;
}

/* ---- encoding ---- */

#define LEVEL 6
#define MEMORY_LEVEL 8

struct codec_zlib_encoder {
	z_stream z, back;
};

struct codec_zlib_encoder *codec_zlib_encoder_new(enum codec_zlib_wrap wrap, int window_bits, struct err *err)
{
	CLEANUP(codec_zlib_encoder_free) struct codec_zlib_encoder *e = calloc(1, sizeof(*e));
	int bits = wrap == CODEC_ZLIB_RAW ? -window_bits : window_bits;

	if (e && deflateInit2(&e->z, LEVEL, Z_DEFLATED, bits, MEMORY_LEVEL, Z_DEFAULT_STRATEGY) == Z_OK &&
	    inflateInit2(&e->back, bits) == Z_OK)
		return STEAL(e);
	return err_null(err, ERR_MEMORY, "no memory to compress clusters");
}

void codec_zlib_encoder_free(struct codec_zlib_encoder *e)
{
	if (e) {
		deflateEnd(&e->z);
		inflateEnd(&e->back);
	}
	free(e);
}

size_t codec_zlib_encode(struct codec_zlib_encoder *e, const void *src, size_t len, void *ret, size_t room)
{
	z_stream *z = &e->z;

	deflateReset(z);
	z->next_in = (void *)(uintptr_t)src;
	z->avail_in = (uInt)len;
	z->next_out = ret;
	z->avail_out = (uInt)room;
	return deflate(z, Z_FINISH) == Z_STREAM_END ? room - z->avail_out : 0;
}

bool codec_zlib_undo(struct codec_zlib_encoder *e, const void *src, size_t src_len, void *ret, size_t len)
{
	z_stream *z = &e->back;

	inflateReset(z);
	z->next_in = (void *)(uintptr_t)src;
	z->avail_in = (uInt)src_len;
	z->next_out = ret;
	z->avail_out = (uInt)len;
	return inflate(z, Z_FINISH) == Z_STREAM_END && z->avail_in == 0 && z->avail_out == 0;
}
