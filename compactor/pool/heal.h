/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_HEAL_H
#define DEDUPSCAN_HEAL_H

#include "compactor/pool/pool.h"
#include "compactor/pool/view.h"

/* Healing segments whose data is damaged from what the pool itself still has of them: a map in other units, an older one that leads
 * to another cluster file, or what a view leads to; or from clusters of other segments, which healed.  They are stored again, proven
 * from the disk, and then trees lead there; the old clusters stay for a collection.  What there is no space for stays damaged.
 *
 *	heal_add()	each segment that a check found to be damaged
 *	heal_begin()	before they are looked for
 *	heal_from_maps(), heal_from_view(), heal_from_moved()	look for their bytes
 *	heal_end()	after that, all that was found is durable */

struct heal;

/* dry_run: they are only looked for.  Stops with ERR_CANCELED. */
struct heal *heal_new(struct pool *p, bool dry_run, struct stopper *stopper, struct err *err);
void heal_free(struct heal *h);
CLEANUP_DEFINE(struct heal *, heal_free)

/* `path` and `offset`: of a disk that has it, for heal_each(); the first one counts. */
int heal_add(struct heal *h, const uint8_t digest[DIGEST_SIZE], const char *path, uint64_t offset, struct err *err);

int heal_begin(struct heal *h, struct err *err);
int heal_from_maps(struct heal *h, struct err *err);
int heal_from_view(struct heal *h, const struct view *v, struct err *err);
int heal_from_moved(struct heal *h, struct err *err);
int heal_end(struct heal *h, struct err *err);

int heal_each(const struct heal *h,
	      int (*call)(void *ctx, const uint8_t digest[DIGEST_SIZE], const char *path, uint64_t offset, bool healed,
			  struct err *err),
	      void *ctx, struct err *err);

#endif
