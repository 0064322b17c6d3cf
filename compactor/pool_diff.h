/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_POOL_DIFF_H
#define DEDUPSCAN_POOL_DIFF_H

#include "compactor/pool/pool.h"

/* In what two disks of a pool differ: equal parts of their trees are not entered, segments that differ are read and compared by
 * blocks of 4 KiB. */

struct pool_disk {
	uint8_t root[DIGEST_SIZE];
	uint64_t size; /* bytes */
};

/* The disk that "IMAGE" or "IMAGE@VERSION" names: of a version that is folded in, or an image to which nothing was written
 * since.  ERR_USAGE: there is none.  ERR_REFUSED: the pool does not know its content yet. */
int pool_disk_find(struct pool *p, const char *path, const char *label, struct pool_disk *ret, struct err *err);

struct pool_diff_sum {
	uint64_t bytes; /* in blocks that differ, zeros behind the end of the shorter one left out */
	uint64_t nr_ranges, nr_segments;
};

/* Calls for each range that differs, ascending, whole blocks but for the end of the longer disk; ranges do not touch.  A disk
 * that ends counts as zeros from there on.  Stops at the first call that returns other than 0, and returns that. */
int pool_diff(struct pool *p, const struct pool_disk *a, const struct pool_disk *b,
	      int (*call)(void *ctx, uint64_t offset, uint64_t len, struct err *err), void *ctx, struct pool_diff_sum *ret,
	      struct err *err);

#endif
