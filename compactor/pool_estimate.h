/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_POOL_ESTIMATE_H
#define DEDUPSCAN_POOL_ESTIMATE_H

#include "compactor/store.h"

/* What images would take in a pool, from the indices of catalog and pool alone: the bytes that each adds when they enter one
 * after the other, by the rule of compactor/pool/import.h, that runs of at least min_run are shared with what is there. */

struct pool_cost {
	bool wanted;	  /* set by the caller: it is to enter */
	const char *child; /* the caller's, too: the path of an image that stands on it; NULL = none is known */
	uint64_t fresh;	  /* clusters, bytes: what nobody before it has, in runs long enough */
	uint64_t shared;  /* bytes that others before it, or itself, have */
	uint64_t given;	  /* bytes that others share with it */
	uint64_t overhead; /* bytes of tables, nodes, index, stub and overlay */
};

struct pool_estimate {
	uint64_t memory; /* bytes that this process may take */
	unsigned nr_threads;
	uint64_t min_run;
	unsigned cluster_bits; /* of the views */
	struct finder *finder; /* of the pool, if there is one: what it knows is there; NULL = none */
};

/* Fills costs[image] for all images of the store that are wanted, in the order of ranks.  Exact but for runs that end where the
 * pool's clusters are not contiguous, and for blocks that are all over a disk: in a segment of which something else changed they
 * count as new, being short runs by their originals, though the import finds them in the midst of a longer one.  So an image rather
 * takes less than that. */
int pool_estimate(struct store *s, const struct pool_estimate *o, struct pool_cost *costs, struct err *err);

#endif
