/* SPDX-License-Identifier: Apache-2.0 */
#include "scanner/image/codec_zstd.h"

#include <stdint.h>
#include <zstd.h>

#include "scanner/base/late.h"

#define CALLS(X)													\
	X(ZSTD_createDCtx) X(ZSTD_freeDCtx) X(ZSTD_findFrameCompressedSize) X(ZSTD_isError)				\
	X(ZSTD_getErrorName) X(ZSTD_decompressDCtx) X(ZSTD_createCCtx) X(ZSTD_freeCCtx) X(ZSTD_compressCCtx)
LATE_LIBRARY("libzstd.so.1", "libzstd, which packs and unpacks clusters,", "libzstd1", CALLS);

void codec_zstd_prepare(void)
{
	late_load(&library, NULL);
}

struct codec_zstd {
	ZSTD_DCtx *dctx;
};

struct codec_zstd *codec_zstd_new(struct err *err)
{
	CLEANUP(codec_zstd_free) struct codec_zstd *z = calloc(1, sizeof(*z));

	if (late_load(&library, err) < 0)
		return NULL;
	if (z)
		z->dctx = lib.ZSTD_createDCtx();
	if (!z || !z->dctx)
		return err_null(err, ERR_MEMORY, "no memory for a zstd decoder");
	return STEAL(z);
}

void codec_zstd_free(struct codec_zstd *z)
{
	if (z && z->dctx)
		lib.ZSTD_freeDCtx(z->dctx);
	free(z);
}

int codec_zstd_decode(struct codec_zstd *z, const void *src, size_t src_len, void *ret, size_t len, struct err *err)
{
	size_t in = 0, out = 0;

	while (out < len) {
		const uint8_t *frame = (const uint8_t *)src + in;
		size_t n = lib.ZSTD_findFrameCompressedSize(frame, src_len - in);

		if (lib.ZSTD_isError(n))
			return err_set(err, ERR_FORMAT, "compressed data is broken (%s)", lib.ZSTD_getErrorName(n));
		in += n;
		n = lib.ZSTD_decompressDCtx(z->dctx, (uint8_t *)ret + out, len - out, frame, n);
		if (lib.ZSTD_isError(n))
			return err_set(err, ERR_FORMAT, "compressed data is broken (%s)", lib.ZSTD_getErrorName(n));
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

	if (late_load(&library, err) < 0)
		return NULL;
	if (e) {
		e->cctx = lib.ZSTD_createCCtx();
		e->dctx = lib.ZSTD_createDCtx();
	}
	if (!e || !e->cctx || !e->dctx)
		return err_null(err, ERR_MEMORY, "no memory for a zstd encoder");
	return STEAL(e);
}

void codec_zstd_encoder_free(struct codec_zstd_encoder *e)
{
	if (e && e->cctx)
		lib.ZSTD_freeCCtx(e->cctx);
	if (e && e->dctx)
		lib.ZSTD_freeDCtx(e->dctx);
	free(e);
}

size_t codec_zstd_encode(struct codec_zstd_encoder *e, const void *src, size_t len, void *ret, size_t room)
{
	size_t n = lib.ZSTD_compressCCtx(e->cctx, ret, room, src, len, LEVEL);

	return lib.ZSTD_isError(n) ? 0 : n;
}

bool codec_zstd_undo(struct codec_zstd_encoder *e, const void *src, size_t src_len, void *ret, size_t len)
{
	return lib.ZSTD_findFrameCompressedSize(src, src_len) == src_len &&
	       lib.ZSTD_decompressDCtx(e->dctx, ret, len, src, src_len) == len;
}
