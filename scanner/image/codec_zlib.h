/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_CODEC_ZLIB_H
#define DEDUPSCAN_CODEC_ZLIB_H

#include <stdbool.h>
#include <stddef.h>

#include "scanner/base/cleanup.h"
#include "scanner/base/err.h"

/* Deflate, for the clusters and grains of disk images.  The only user of zlib. */

enum codec_zlib_wrap {
	CODEC_ZLIB_RAW,	   /* bare deflate (RFC 1951), as in qcow2 */
	CODEC_ZLIB_HEADER, /* zlib stream (RFC 1950), as in VMDK grains */
};

/* Fills exactly len bytes of `ret` from the src_len bytes at `src`, of which a tail may be left over.  window_bits
 * (8-15) is the largest window a stream may ask for, and with it the memory taken.  ERR_FORMAT when the stream is
 * broken or short. */
int codec_zlib_decode(enum codec_zlib_wrap wrap, int window_bits, const void *src, size_t src_len, void *ret,
		      size_t len, struct err *err);

/* For one thread at a time. */
struct codec_zlib_encoder;
struct codec_zlib_encoder *codec_zlib_encoder_new(enum codec_zlib_wrap wrap, int window_bits, struct err *err);
void codec_zlib_encoder_free(struct codec_zlib_encoder *e);
CLEANUP_DEFINE(struct codec_zlib_encoder *, codec_zlib_encoder_free)

/* Makes a stream of the len bytes at `src`.  Returns its length, or 0 when it is longer than `room`. */
size_t codec_zlib_encode(struct codec_zlib_encoder *e, const void *src, size_t len, void *ret, size_t room);

/* Decompresses what it made, for who trusts nobody: false when the src_len bytes at `src` are not one whole stream of len bytes. */
bool codec_zlib_undo(struct codec_zlib_encoder *e, const void *src, size_t src_len, void *ret, size_t len);

#endif
