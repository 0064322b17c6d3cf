/* SPDX-License-Identifier: Apache-2.0 */
#include "compactor/pool_estimate.h"

#include <stdlib.h>

#include "compactor/pool/finder.h"
#include "compactor/pool/pool_format.h"
#include "scanner/base/bytes.h"
#include "scanner/base/checked.h"
#include "scanner/duplicates.h"

/* One pass over the groups of the index (scanner/duplicates.h): neighbours whose originals are neighbours are a run. */

#define STUB ((uint64_t)20 << 10)    /* of disk: header, refcounts, a hole */
#define OVERLAY ((uint64_t)24 << 10) /* the same, with an L1 table */
#define NAME ((uint64_t)4 << 10)
#define NODE 160 /* bytes of a leaf, its part of the inner nodes, and its lines in the index */
#define ENTRY 15 /* bytes of a block in the index */

struct estimating {
	struct store *s;
	const struct pool_estimate *o;
	struct pool_cost *costs;
	VEC(uint32_t) ranks; /* rank -> image */
};

static void take_run(struct estimating *e, uint64_t position, uint64_t origin, uint64_t nr)
{
	if (nr * BLOCK_SIZE < e->o->min_run || !nr)
		return;
	e->costs[e->ranks.items[POSITION_RANK(position)]].shared += nr * BLOCK_SIZE;
	if (POSITION_RANK(origin) != POSITION_RANK(position))
		e->costs[e->ranks.items[POSITION_RANK(origin)]].given += nr * BLOCK_SIZE;
}

static int take_duplicates(struct estimating *e, struct duplicates *d, struct err *err)
{
	uint64_t position = 0, origin = 0, len = 0;
	const struct record *r;
	ssize_t nr;

	while ((nr = duplicates_next(d, &r, err)) > 0) {
		for (ssize_t i = 0; i < nr; i++) {
			if (len && r[i].key.hi == position + len && r[i].value == origin + len) {
				len++;
				continue;
			}
			take_run(e, position, origin, len);
			position = r[i].key.hi;
			origin = r[i].value;
			len = 1;
		}
	}
	take_run(e, position, origin, len);
	return (int)nr;
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
	uint64_t number;
	int rc = finder_get(k->e->o->finder, FINDER_SEGMENT, k->e->o->cluster_bits, le64_load(digest), le64_load(digest + 8), &number, err);

	(void)segment;
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

int pool_estimate(struct store *s, const struct pool_estimate *o, struct pool_cost *costs, struct err *err)
{
	CLEANUP(free) struct duplicates_image *images = calloc(s->images.nr + 1, sizeof(*images));
	CLEANUP(duplicates_free) struct duplicates *d = NULL;
	struct duplicates_options how = { .memory = o->memory, .nr_threads = o->nr_threads, .stopper = s->stopper };
	struct estimating e = { .s = s, .o = o, .costs = costs };
	int rc = -1;

	for (size_t r = 0; images && r < s->ranks.nr; r++) {
		const struct store_image *i = &s->images.items[s->ranks.items[r]];

		if (!costs[s->ranks.items[r]].wanted)
			continue;
		images[e.ranks.nr] = (struct duplicates_image){ i->id, i->layer };
		if (vec_push(&e.ranks, s->ranks.items[r]) < 0) {
			vec_release(&e.ranks);
			return err_set(err, ERR_MEMORY, "no memory to look for what a pool would share");
		}
	}
	if (!images)
		return err_set(err, ERR_MEMORY, "no memory to look for what a pool would share");
	if (!e.ranks.nr)
		return 0;
	d = duplicates_find(s->c, images, e.ranks.nr, &how, err);
	if (d && take_duplicates(&e, d, err) == 0)
		rc = end_costs(&e, err);
	vec_release(&e.ranks);
	return rc;
}
