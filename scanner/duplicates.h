/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_DUPLICATES_H
#define DEDUPSCAN_DUPLICATES_H

#include "scanner/base/schedule.h"
#include "scanner/catalog.h"
#include "scanner/group.h"
#include "scanner/index/sorter.h"

/* Finding duplicates: one pass over the index, every group of blocks with one content counted, its duplicates told in the
 * order of the images.  Exact, in bounded memory, in time linear in the index. */

/* Images take part by rank: their place in the list, lowest first. */
struct duplicates_image {
	int64_t id;	/* in the catalog */
	uint64_t layer; /* blocks from one layer to the next, at least 1 */
};

struct duplicates_options {
	uint64_t memory; /* bytes that this process may take */
	unsigned nr_threads;
	struct stopper *stopper;
	/* How many blocks of these images are in the index.  Given, groups of one are counted too; 0 = only duplicates are
	 * wanted. */
	uint64_t nr_blocks;
	/* Which blocks take part at all; several threads ask.  NULL = all. */
	bool (*usable)(void *ctx, uint32_t rank, uint64_t block);
	/* So many blocks at most have one original, then another of them becomes one; 0 = no limit. */
	uint64_t sharers;
	/* Asked of every content that occurs, in the order of keys but by several threads: 1 = it is elsewhere, too, and *ret
	 * says where; 0, -1.  NULL = it is nowhere else. */
	int (*elsewhere)(void *ctx, struct key key, uint64_t *ret, struct err *err);
	void *ctx;
};

struct duplicates;

/* Does the pass.  ERR_CANCELED when it was stopped. */
struct duplicates *duplicates_find(struct catalog *c, const struct duplicates_image *images, size_t nr,
				   const struct duplicates_options *o, struct err *err);

/* The next duplicates, as sorter_next() has them: key.hi is the POSITION() of one, value that of its original; they
 * ascend.  Of contents that are elsewhere all blocks are told instead, with key.lo = 1 and where as value. */
ssize_t duplicates_next(struct duplicates *d, const struct record **ret, struct err *err);

/* Counts of threads, for duplicates_nr_threads() of them; images by rank. */
unsigned duplicates_nr_threads(const struct duplicates *d);
const struct count *duplicates_count(const struct duplicates *d, unsigned thread);

void duplicates_free(struct duplicates *d);
CLEANUP_DEFINE(struct duplicates *, duplicates_free)

#endif
