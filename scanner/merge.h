/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_MERGE_H
#define DEDUPSCAN_MERGE_H

#include "scanner/base/schedule.h"
#include "scanner/base/vec.h"
#include "scanner/catalog.h"

/* The second stage of a scan: the requests in the spool go into the index, one partition at a time. */

struct merge_options {
	uint64_t memory; /* bytes that this process may take */
	unsigned nr_threads;
	struct stopper *stopper; /* ends it with ERR_CANCELED; the next merge goes on from there */
	void (*progress)(void *ctx, uint64_t done, uint64_t total); /* requests; may be NULL */
	void *ctx;
};

/* Spool files that this process has completed: what it checked frame by frame as they came need not be read once more, and
 * making them durable has begun. */
struct merge_own {
	VEC(int64_t) images;
	struct syncer *syncer; /* has their descriptors */
};

/* Takes every complete spool file into the catalog's segments and marks it for merging, image by image: what was taken
 * stays taken when it is stopped.  Sorts `own`, which may be NULL. */
int merge_prepare(struct catalog *c, struct merge_own *own, struct stopper *stopper, unsigned nr_threads, struct err *err);

/* Brings the index up to date with the catalog: merges what is marked, or goes on with it. */
int merge_run(struct catalog *c, const struct merge_options *o, struct err *err);

/* True when merge_run() has work to do. */
int merge_pending(struct catalog *c, bool *ret, struct err *err);

#endif
