/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_CODEC_ZSTD_H
#define DEDUPSCAN_CODEC_ZSTD_H

#include <stdbool.h>
#include <stddef.h>

#include "scanner/base/cleanup.h"
#include "scanner/base/err.h"

/* Zstandard, for compressed clusters.  The only user of zstd. */

/* Loads it, if it is there.  To be called before a jail is entered in which it may be needed. */
void codec_zstd_prepare(void);

struct codec_zstd;

struct codec_zstd *codec_zstd_new(struct err *err);
void codec_zstd_free(struct codec_zstd *z);
CLEANUP_DEFINE(struct codec_zstd *, codec_zstd_free)

/* Fills exactly len bytes of `ret` from the src_len bytes at `src`, of which a tail may be left over.  Several
 * frames in a row are taken as one.  The output serves as the window, so a frame that asks for a large one gets no
 * memory for it.  ERR_FORMAT when the data is broken, short, or more than len bytes. */
int codec_zstd_decode(struct codec_zstd *z, const void *src, size_t src_len, void *ret, size_t len, struct err *err);

/* For one thread at a time. */
struct codec_zstd_encoder;
struct codec_zstd_encoder *codec_zstd_encoder_new(struct err *err);
void codec_zstd_encoder_free(struct codec_zstd_encoder *e);
CLEANUP_DEFINE(struct codec_zstd_encoder *, codec_zstd_encoder_free)

/* Makes a frame of the len bytes at `src`.  Returns its length, or 0 when it is longer than `room`. */
size_t codec_zstd_encode(struct codec_zstd_encoder *e, const void *src, size_t len, void *ret, size_t room);

/* Decompresses what it made, for who trusts nobody: false when the src_len bytes at `src` are not one whole frame of len bytes. */
bool codec_zstd_undo(struct codec_zstd_encoder *e, const void *src, size_t src_len, void *ret, size_t len);

#endif
