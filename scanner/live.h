/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_LIVE_H
#define DEDUPSCAN_LIVE_H

#include <stdbool.h>

#include "scanner/base/vec.h"
#include "scanner/catalog.h"
#include "scanner/index/judymap.h"

/* Which places are live, and whose they are: a Judy array from the first segment id of each run of segments to the run.
 *
 * Places of segments that changed or vanished, and of images that are left out, are found in no run. */

struct live_run {
	uint64_t first, last;  /* segment ids */
	uint64_t generation;   /* id - segment */
	uint32_t rank;	       /* of the image */
};

struct live {
	VEC(struct live_run) runs;
	struct judymap by_id; /* first id -> index in runs, + 1 */
};

/* Loads the runs of the images that rank_of() gives a rank; NULL = of all images, with rank 0. */
int live_load(struct live *l, struct catalog *c, bool (*rank_of)(void *ctx, int64_t image, uint32_t *ret), void *ctx,
	      struct err *err);
void live_release(struct live *l);
CLEANUP_DEFINE_RELEASE(struct live, live_release)

/* Where a live place is: the rank of its image and the block's number there.  False when it is not live. */
static inline bool live_find(const struct live *l, uint64_t place, uint32_t *ret_rank, uint64_t *ret_block)
{
	uint64_t id = place / SEGMENT_BLOCKS, key = id;
	const uint64_t *slot = judymap_last(&l->by_id, &key);
	const struct live_run *run;

	if (!slot)
		return false;
	run = &l->runs.items[*slot - 1];
	if (id > run->last)
		return false;
	*ret_rank = run->rank;
	*ret_block = place - run->generation * SEGMENT_BLOCKS;
	return true;
}

#endif
