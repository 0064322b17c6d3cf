/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_BITMAPS_H
#define DEDUPSCAN_BITMAPS_H

#include <stdbool.h>

#include "scanner/base/cleanup.h"
#include "scanner/base/vec.h"
#include "scanner/image/qcow2_format.h"

/* The persistent dirty bitmaps of a qcow2 image, by which incremental backups know what was written to since when.  A new file for
 * the same disk gets them as they are: names, granularity, flags, extra data, and each bit.
 *
 *	header extension -> directory -> table of each bitmap -> clusters of bits
 *
 * They are read after docs/interop/qcow2.rst of QEMU, with the limits of its block/qcow2-bitmap.c, by this very process: only
 * numbers are taken from them, and each is checked against the file's size before it is used.
 *
 * A bitmap that is in use (it was not saved properly; QEMU calls it inconsistent) stays that, with whatever bits its table has. */

/* What is carried at most: 1 GiB of bits tells 64 KiB apart on 512 TiB. */
#define BITMAPS_MOST 1024u
#define BITMAPS_DIRECTORY_MOST ((uint64_t)2 << 20)
#define BITMAPS_BITS_MOST ((uint64_t)1 << 30) /* bytes, of all together */

struct bitmap {
	const char *name; /* of name_len bytes, not terminated; both lie in the directory */
	const uint8_t *extra;
	uint32_t extra_len, flags;
	uint16_t name_len;
	unsigned granularity_bits;
	uint64_t table_offset;
	uint32_t table_size; /* entries */
	uint64_t nr_bits;    /* one in use: as many as its table has room for */
};

struct bitmaps {
	int fd; /* the caller's */
	unsigned cluster_bits;
	uint64_t size, file_size; /* of the disk, in whole sectors as QEMU counts it; of the file */
	uint8_t *directory;
	VEC(struct bitmap) list;
	uint64_t stored;     /* bytes that their clusters take */
	uint32_t nr_invalid; /* a program that knows no bitmaps wrote to the image since: they mean nothing; list is empty */
};
#define BITMAPS_INIT { .fd = -1 }

/* What the image in `fd` has, all tables checked.  ERR_FORMAT: QEMU would not open such an image; ERR_UNSUPPORTED: they are larger,
 * or of another kind, than what is carried. */
int bitmaps_read(int fd, struct bitmaps *ret, struct err *err);
void bitmaps_release(struct bitmaps *b);
CLEANUP_DEFINE_RELEASE(struct bitmaps, bitmaps_release)

/* 64 KiB of the bits, from byte `at` on, a multiple of that.  Behind the last one there are zeros. */
#define BITMAPS_PIECE ((size_t)64 << 10)
int bitmaps_bits(const struct bitmaps *b, const struct bitmap *m, uint64_t at, uint8_t ret[BITMAPS_PIECE], struct err *err);

/* Those that are not carried because they mean nothing any more are to be told of: true, and in which words. */
bool bitmaps_left_behind(const struct bitmaps *b, struct err *ret);

/* As proof_check in compactor/proof.h: called for every 64 KiB of bits; when it fails, so does what called it.  May be NULL. */
typedef int bitmaps_check(void *ctx, uint64_t done, uint64_t total, struct err *err);

/* Appends them to a new qcow2 image of the same size that has none, open for reading and writing: version 3, clusters of 64 KiB
 * without gaps between them, refcounts of 16 bits, as overlay_write() and writers make it.  Not synced. */
int bitmaps_append(const struct bitmaps *b, int fd, bitmaps_check *check, void *check_ctx, struct err *err);

/* The image in `fd` has the same ones, in the same order; else ERR_IO says which differs. */
int bitmaps_prove(const struct bitmaps *b, int fd, bitmaps_check *check, void *check_ctx, struct err *err);

#endif
