/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_COMPACT_H
#define DEDUPSCAN_COMPACT_H

#include "compactor/pool/immutable.h"
#include "compactor/pool/view.h"
#include "scanner/base/jail.h"
#include "scanner/base/schedule.h"
#include "scanner/cache_loan.h"
#include "scanner/catalog.h"
#include "scanner/plan.h"
#include "scanner/roots.h"
#include "scanner/scan.h"

/* Compaction: makes a plan from the catalog, and carries it out. */

struct compact_options {
	struct roots *roots; /* a pool that is made is added */
	const char *format;	/* NULL = as probed */
	const struct jail *jail;
	uint64_t memory;	/* bytes, of this process */
	unsigned nr_threads;
	uint64_t limit;		/* bytes of work a second, 0 = none */
	struct stopper *stopper;
	struct cache_loan *loan; /* of the scan before; may be NULL */
	const struct scan_watch *watch;

	uint64_t min_run;
	uint64_t sharers;	/* 0 = as the file system likes it */
	int64_t keep_originals; /* seconds */
	bool methods[PLAN_NR_METHODS];
	bool (*wanted)(void *ctx, const char *path); /* NULL = all images */
	void *ctx;
	bool assume_idle, preallocated;
	bool apply;		/* the plan is to be carried out: workshops are held from the beginning */
	int64_t wait;		/* seconds, for other processes that are in there, or in the pool */

	/* method pool */
	const char *pool;      /* where it is; NULL = in the directory of the first root */
	unsigned cluster_bits; /* of views: 12, 14 or 16 */
	bool tell_file_size;
	uint64_t file_size;    /* growth.h; from now on, where it is told */
	struct stub_wish stubs; /* of new views, from now on */
	bool cross_owner;      /* also images that not everybody can read who can read the pool's members */
	bool tell_immutable;   /* what `immutable` says, from now on */
	enum pool_immutable immutable;
	bool compat;	       /* overlays that older consumers take */
	bool to_qcow2;	       /* images of other formats, too: they become qcow2 images */
	bool to_versions;      /* images with internal snapshots, too: these become versions */
};

#define COMPACT_MIN_RUN ((uint64_t)16 << 10)
#define COMPACT_KEEP_ORIGINALS (7 * 86400)

struct compaction;

/* Looks at the store as the catalog knows it and plans; changes nothing, but for what an earlier run left in the middle
 * (workshop_recover()).  *ret is to be released, whatever happens to the
 * compaction. */
struct compaction *compact_plan(struct catalog *c, const struct compact_options *o, struct plan *ret, struct err *err);
void compact_free(struct compaction *c);
CLEANUP_DEFINE(struct compaction *, compact_free)

/* Leaves only those steps in the plan that `told` has as well: a plan made before.  Images that are not what they were then are
 * left alone. */
int compact_restrict(struct compaction *c, const struct plan *told, struct err *err);

/* Carries it out; what came of it is in the plan.  ERR_CANCELED when it was stopped: what is done stays done, and the next plan has
 * what is left.  Images that cannot be changed now are no failure. */
int compact_apply(struct compaction *c, struct err *err);

#endif
