/* SPDX-License-Identifier: Apache-2.0 */
#include "compactor/pool_estimate.h"

#include <pthread.h>
#include <stdlib.h>

#include "compactor/pool/finder.h"
#include "compactor/pool/pool_format.h"
#include "compactor/repeats.h"
#include "scanner/base/bytes.h"
#include "scanner/base/checked.h"
#include "scanner/duplicates.h"

/* One pass over the groups of the index (scanner/duplicates.h), in which the pool's own index is asked what it has: neighbours
 * whose originals are neighbours, in an image or in the pool, are a run.  Blocks that are all over a disk have their originals
 * elsewhere; so a segment that comes again as a whole is shared as a whole, whatever the runs in it.
 *
 * What the pool has of units larger than blocks no fingerprint of the catalog's tells.  There, and where its index lacks blocks,
 * only segments count that it has as a whole. */

#define STUB ((uint64_t)20 << 10)    /* of disk: header, refcounts, a hole */
#define OVERLAY ((uint64_t)24 << 10) /* the same, with an L1 table */
#define NAME ((uint64_t)4 << 10)
#define NODE 160 /* bytes of a leaf, its part of the inner nodes, and its lines in the index */
#define ENTRY 15 /* bytes of a block in the index */

struct estimating {
	struct store *s;
	const struct pool_estimate *o;
	struct pool_cost *costs;
	VEC(uint32_t) ranks;  /* rank -> image */
	pthread_mutex_t lock; /* of the finder */
};

struct duplicate_run {
	uint64_t position, origin, nr;
	bool in_pool;	 /* is its origin */
	uint64_t nr_counted; /* of its blocks, as they are in segments that come again */
};

static void count(struct estimating *e, const struct duplicate_run *r, uint64_t nr)
{
	e->costs[e->ranks.items[POSITION_RANK(r->position)]].shared += nr * BLOCK_SIZE;
	if (!r->in_pool && POSITION_RANK(r->origin) != POSITION_RANK(r->position))
		e->costs[e->ranks.items[POSITION_RANK(r->origin)]].given += nr * BLOCK_SIZE;
}

static void take_run(struct estimating *e, const struct duplicate_run *r)
{
	if (r->nr && r->nr * BLOCK_SIZE >= e->o->min_run)
		count(e, r, r->nr - r->nr_counted);
}

static bool goes_on(const struct duplicate_run *r, const struct record *with)
{
	return r->nr && r->in_pool == with->key.lo && with->key.hi == r->position + r->nr && with->value == r->origin + r->nr;
}

static int take_duplicate(struct estimating *e, struct duplicate_run *run, const struct record *r, struct repeats *repeats,
			  struct err *err)
{
	int again = repeats_has(repeats, r->key.hi, err);

	if (!goes_on(run, r)) {
		take_run(e, run);
		*run = (struct duplicate_run){ .position = r->key.hi, .origin = r->value, .in_pool = r->key.lo };
	}
	run->nr++;
	if (again > 0) {
		count(e, run, 1);
		run->nr_counted++;
	}
	return again < 0 ? -1 : 0;
}

static int take_duplicates(struct estimating *e, struct duplicates *d, struct err *err)
{
	CLEANUP(repeats_free) struct repeats *repeats = repeats_find(e->s, e->ranks.items, e->ranks.nr, err);
	struct duplicate_run run = { .nr = 0 };
	const struct record *r;
	ssize_t nr = -1;

	while (repeats && (nr = duplicates_next(d, &r, err)) > 0)
		for (ssize_t i = 0; i < nr; i++)
			if (take_duplicate(e, &run, &r[i], repeats, err) < 0)
				return -1;
	take_run(e, &run);
	return (int)nr;
}

/* An index that is damaged tells nothing.  Who opens it to change the pool makes it anew. */
static int unless_damaged(int rc, const struct err *why, struct err *err)
{
	return rc < 0 && why->kind == ERR_MEMORY ? err_set(err, why->kind, "%s", why->text) : rc > 0;
}

/* A key has more of the fingerprint than the pool's index goes by. */
static int look_for_block(void *ctx, struct key key, uint64_t *ret, struct err *err)
{
	struct estimating *e = ctx;
	struct err why = ERR_INIT;
	int rc;

	pthread_mutex_lock(&e->lock);
	rc = finder_get(e->o->finder, FINDER_BLOCK, e->o->cluster_bits, key.hi, key.lo, ret, &why);
	pthread_mutex_unlock(&e->lock);
	return unless_damaged(rc, &why, err);
}

/* Tables of the view for what it holds, nodes of the trees, the index for what is new.  Of an internal snapshot only what no layer
 * before it has is known (scanner/image/image.h): a leaf for each such segment. */
static int add_overhead(struct estimating *e, size_t image, struct err *err)
{
	const struct store_image *i = &e->s->images.items[image];
	struct pool_cost *c = &e->costs[image];
	uint64_t segments = 0, all = 0, nr_layers = 1 + (uint64_t)i->nr_snapshots, tables;
	uint64_t cluster = (uint64_t)1 << e->o->cluster_bits, disk = i->layer * BLOCK_SIZE;

	if (catalog_count_live_segments(e->s->c, i->id, disk, &segments, err) < 0 ||
	    catalog_count_live_segments(e->s->c, i->id, disk * nr_layers, &all, err) < 0)
		return -1;
	tables = segments * max_u64(SEGMENT_SIZE / cluster * 8, 1) + disk / (cluster * cluster / 8) * 8;
	c->overhead = round_up(tables, BLOCK_SIZE) + 3 * cluster + all * NODE + c->fresh / BLOCK_SIZE * ENTRY + STUB + OVERLAY +
		      nr_layers * NAME;
	return 0;
}

/* Segments that the pool has as a whole, by their digests. */
struct known {
	const struct estimating *e;
	uint64_t bytes;
};

static int look_up(void *ctx, uint64_t segment, const uint8_t digest[16], unsigned stored, unsigned zero, struct err *err)
{
	struct known *k = ctx;
	struct err why = ERR_INIT;
	uint64_t number;
	int rc = finder_get(k->e->o->finder, FINDER_SEGMENT, k->e->o->cluster_bits, le64_load(digest),
			   le64_load(digest + 8), &number, &why);

	(void)segment;
	rc = unless_damaged(rc, &why, err);
	k->bytes += rc > 0 ? (uint64_t)(stored - zero) * BLOCK_SIZE : 0;
	return rc < 0 ? -1 : 0;
}

/* Others of the images may have the same, so the larger of both counts. */
static int count_known(struct estimating *e, size_t image, struct err *err)
{
	struct known k = { .e = e };

	if (!e->o->finder)
		return 0;
	if (catalog_each_segment(e->s->c, e->s->images.items[image].id, look_up, &k, err) < 0)
		return -1;
	e->costs[image].shared = max_u64(e->costs[image].shared, k.bytes);
	return 0;
}

static int end_costs(struct estimating *e, struct err *err)
{
	for (size_t i = 0; i < e->ranks.nr; i++) {
		size_t image = e->ranks.items[i];
		struct pool_cost *c = &e->costs[image];
		uint64_t stored = e->s->plan->images[image].stored;

		if (count_known(e, image, err) < 0)
			return -1;
		c->shared = min_u64(c->shared, stored);
		c->fresh = stored - c->shared;
		if (add_overhead(e, image, err) < 0)
			return -1;
	}
	return 0;
}

/* Images by rank, those that are wanted. */
static int rank_wanted(struct estimating *e, struct duplicates_image *ret, struct err *err)
{
	const struct store *s = e->s;

	for (size_t r = 0; r < s->ranks.nr; r++) {
		const struct store_image *i = &s->images.items[s->ranks.items[r]];

		if (!e->costs[s->ranks.items[r]].wanted)
			continue;
		ret[e->ranks.nr] = (struct duplicates_image){ i->id, i->layer };
		if (vec_push(&e->ranks, s->ranks.items[r]) < 0)
			return err_set(err, ERR_MEMORY, "no memory to look for what a pool would share");
	}
	return 0;
}

static int estimate(struct estimating *e, const struct duplicates_image *images, struct err *err)
{
	const struct pool_estimate *o = e->o;
	struct duplicates_options how = {
		.memory = o->memory, .nr_threads = o->nr_threads, .stopper = e->s->stopper,
		.elsewhere = o->finder && o->cluster_bits == POOL_UNIT_BITS_MIN ? look_for_block : NULL, .ctx = e,
	};
	CLEANUP(duplicates_free) struct duplicates *d = duplicates_find(e->s->c, images, e->ranks.nr, &how, err);

	return !d || take_duplicates(e, d, err) < 0 ? -1 : end_costs(e, err);
}

int pool_estimate(struct store *s, const struct pool_estimate *o, struct pool_cost *costs, struct err *err)
{
	CLEANUP(free) struct duplicates_image *images = calloc(s->images.nr + 1, sizeof(*images));
	struct estimating e = { .s = s, .o = o, .costs = costs, .lock = PTHREAD_MUTEX_INITIALIZER };
	int rc;

	if (!images)
		return err_set(err, ERR_MEMORY, "no memory to look for what a pool would share");
	rc = rank_wanted(&e, images, err);
	if (rc == 0 && e.ranks.nr)
		rc = estimate(&e, images, err);
	vec_release(&e.ranks);
	return rc;
}
