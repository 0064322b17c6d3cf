/* SPDX-License-Identifier: Apache-2.0 */
#include "scanner/image/codec_zstd.h"

#include <stdint.h>
#include <zstd.h>

struct codec_zstd {
	ZSTD_DCtx *dctx;
};

struct codec_zstd *codec_zstd_new(struct err *err)
{
	CLEANUP(codec_zstd_free) struct codec_zstd *z = calloc(1, sizeof(*z));

	if (z)
		z->dctx = ZSTD_createDCtx();
	if (!z || !z->dctx)
		return err_null(err, ERR_MEMORY, "no memory for a zstd decoder");
	return STEAL(z);
}

void codec_zstd_free(struct codec_zstd *z)
{
	if (z)
		ZSTD_freeDCtx(z->dctx);
	free(z);
}

int codec_zstd_decode(struct codec_zstd *z, const void *src, size_t src_len, void *ret, size_t len, struct err *err)
{
	size_t in = 0, out = 0;

	while (out < len) {
		const uint8_t *frame = (const uint8_t *)src + in;
		size_t n = ZSTD_findFrameCompressedSize(frame, src_len - in);

		if (ZSTD_isError(n))
			return err_set(err, ERR_FORMAT, "compressed data is broken (%s)", ZSTD_getErrorName(n));
		in += n;
		n = ZSTD_decompressDCtx(z->dctx, (uint8_t *)ret + out, len - out, frame, n);
		if (ZSTD_isError(n))
			return err_set(err, ERR_FORMAT, "compressed data is broken (%s)", ZSTD_getErrorName(n));
		out += n;
	}
	return 0;
}

/* ---- encoding ---- */

#define LEVEL ZSTD_CLEVEL_DEFAULT

struct codec_zstd_encoder {
	ZSTD_CCtx *cctx;
	ZSTD_DCtx *dctx;
};

struct codec_zstd_encoder *codec_zstd_encoder_new(struct err *err)
{
	CLEANUP(codec_zstd_encoder_free) struct codec_zstd_encoder *e = calloc(1, sizeof(*e));

	if (e) {
		e->cctx = ZSTD_createCCtx();
		e->dctx = ZSTD_createDCtx();
	}
	if (!e || !e->cctx || !e->dctx)
		return err_null(err, ERR_MEMORY, "no memory for a zstd encoder");
	return STEAL(e);
}

void codec_zstd_encoder_free(struct codec_zstd_encoder *e)
{
	if (e) {
		ZSTD_freeCCtx(e->cctx);
		ZSTD_freeDCtx(e->dctx);
	}
	free(e);
}

size_t codec_zstd_encode(struct codec_zstd_encoder *e, const void *src, size_t len, void *ret, size_t room)
{
	size_t n = ZSTD_compressCCtx(e->cctx, ret, room, src, len, LEVEL);

	return ZSTD_isError(n) ? 0 : n;
}

bool codec_zstd_undo(struct codec_zstd_encoder *e, const void *src, size_t src_len, void *ret, size_t len)
{
	return ZSTD_findFrameCompressedSize(src, src_len) == src_len && ZSTD_decompressDCtx(e->dctx, ret, len, src, src_len) == len;
}
