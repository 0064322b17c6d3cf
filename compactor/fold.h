/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_FOLD_H
#define DEDUPSCAN_FOLD_H

#include "compactor/versions.h"
#include "scanner/base/jail.h"
#include "scanner/base/schedule.h"
#include "scanner/roots.h"

/* Folding: what snapshots sealed enters the pool, and images that stood on it stand on a view again.
 *
 * Only segments that a sealed overlay holds something of are read; the others are as in what it stands on.  What has entered is
 * read back from the disk and proven before the pool says so. */

struct fold_options {
	const struct roots *roots; /* the pool is registered with them */
	const struct jail *jail;
	struct stopper *stopper;
	struct versions_how how;
	bool cross_owner; /* also what not everybody may read who reads the pool (pool_home_admit()) */
	unsigned unit_bits;
	uint64_t min_run;
	/* Opens the workshop that images at `path` are replaced in: 1 with *ret (not to be closed) and its root's path, 0 = the
	 * image is left as it is, -1. */
	int (*workshop)(void *ctx, const char *path, struct workshop **ret, const char **ret_root, struct err *err);
	void (*problem)(void *ctx, const char *path, const struct err *why); /* what was left for the next time */
	void (*progress)(void *ctx, uint64_t done, uint64_t total); /* bytes of one disk; may be NULL */
	/* After each: whether others are to have the pool now; may be NULL. */
	bool (*enough)(void *ctx);
	void *ctx;
};

/* To begin with all 0. */
struct folded {
	uint64_t nr_folded, nr_left; /* the latter stay sealed; problem() was told */
	uint64_t bytes_read, bytes_stored;
	struct pool_ids done; /* folded, or left for the next time */
};
void folded_release(struct folded *f);
CLEANUP_DEFINE_RELEASE(struct folded, folded_release)

/* 0; 1 = that was enough, and it is to be called again, with the pool opened again; -1. */
int fold_sealed(struct pool *p, const struct fold_options *o, struct folded *f, struct err *err);

#endif
