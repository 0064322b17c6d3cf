/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_GROUP_H
#define DEDUPSCAN_GROUP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "scanner/base/err.h"
#include "scanner/tally.h"

/* Counting one group: all blocks of one content, in any number. */

/* A block's position: the rank of its image above 40 bits of block number, so that positions order as (rank, address). */
#define POSITION_BLOCK_BITS 40
#define POSITION(rank, block) ((uint64_t)(rank) << POSITION_BLOCK_BITS | (block))
#define POSITION_RANK(p) ((uint32_t)((p) >> POSITION_BLOCK_BITS))
#define POSITION_BLOCK(p) ((p) & (((uint64_t)1 << POSITION_BLOCK_BITS) - 1))

/* A share of bytes in 2^-64: order of addition does not matter, and the error stays far below a byte. */
typedef unsigned __int128 share_t;

/* Counts of one image, by rank; in blocks. */
struct image_count {
	uint64_t nr_grouped;	/* blocks in groups of two and more */
	uint64_t nr_shared;	/* of these, in groups with other images */
	uint64_t nr_own_groups; /* groups that lie in this image alone */
	uint64_t nr_within, nr_between;
	share_t share;
};

struct count {
	uint64_t nr_groups; /* distinct contents */
	uint64_t within_same, within_other, between_same, between_other;
	struct histogram_bucket histogram[HISTOGRAM_BUCKETS];
	struct image_count *images; /* by rank */
	const uint64_t *layer;	    /* by rank: blocks from one layer to the next */
	/* Told of every duplicate: its position and its original's; may be NULL. */
	int (*duplicate)(void *ctx, uint64_t position, uint64_t origin, struct err *err);
	void *ctx;
};

/* A group that fits into memory: nr >= 1 positions in any order, which are sorted.  scratch is as large. */
int group_count(struct count *c, uint64_t *positions, uint64_t *scratch, size_t nr, struct err *err);

/* A group of any size: next() gives its positions one by one (1, 0 at the end, -1), rewind() goes back to the first. */
struct group_stream {
	int (*next)(void *ctx, uint64_t *ret, struct err *err);
	int (*rewind)(void *ctx, struct err *err);
	void *ctx;
};

/* Memory: some 50 bytes for each image that has part in the group, and 4 MiB. */
int group_count_stream(struct count *c, const struct group_stream *s, struct err *err);

#endif
