/* SPDX-License-Identifier: Apache-2.0 */
#include "scanner/image/codec_zlib.h"

#include <limits.h>
#include <stdint.h>
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
