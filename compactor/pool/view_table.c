/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "compactor/pool/tree.h"
#include "compactor/pool/view_parts.h"
#include "scanner/base/checked.h"

/* One L2 table maps cluster_size / 8 clusters: of 4 KiB one segment, of 16 KiB 16 segments, of 64 KiB 256.  A leaf's map counts in
 * units of at least a cluster, which are cut up here. */

struct view_tables {
	struct pool *pool;
	struct tree_walk *walk;
	unsigned cluster_bits;
	uint64_t origin; /* what offsets in the view count from */
	uint32_t file;	 /* the view's */
	view_tables_look *look; /* may be NULL */
	void *ctx;
	bool pending;	 /* the walk's last segment is not in a table yet */
	uint64_t segment;
	uint8_t digest[DIGEST_SIZE];
	struct leaf leaf;
	be64 entries[]; /* 1 << cluster_bits bytes */
};

struct view_tables *view_tables_new(struct pool *p, const uint8_t root[DIGEST_SIZE], uint64_t disk_size, unsigned cluster_bits,
				    uint32_t slot, struct err *err)
{
	CLEANUP(view_tables_free) struct view_tables *t = calloc(1, sizeof(*t) + ((size_t)1 << cluster_bits));

	if (!t)
		return err_null(err, ERR_MEMORY, "no memory for a table of a view");
	t->pool = p;
	t->cluster_bits = cluster_bits;
	t->origin = slot_address(slot);
	t->file = slot / (uint32_t)POOL_NR_SLOTS;
	t->walk = tree_walk_new(p->nodes, root, disk_size, err);
	return t->walk ? STEAL(t) : NULL;
}

void view_tables_free(struct view_tables *t)
{
	if (t)
		tree_walk_free(t->walk);
	free(t);
}

/* The walk's next segment, unless one is pending: 1, 0, -1. */
static int look(struct view_tables *t, struct err *err)
{
	int rc = t->pending ? 1 : tree_walk_next(t->walk, t->segment, &t->segment, t->digest, err);

	t->pending = rc > 0;
	return rc;
}

void view_tables_set_look(struct view_tables *t, view_tables_look *call, void *ctx)
{
	t->look = call;
	t->ctx = ctx;
}

/* 1, 0 = it is in another file, -1. */
static int find_leaf(struct view_tables *t, struct err *err)
{
	char text[DIGEST_TEXT_ROOM];
	int rc = nodes_find_leaf_in(t->pool->nodes, t->file, t->digest, t->cluster_bits, &t->leaf, err);

	if (rc == 0 && t->look && nodes_find_leaf(t->pool->nodes, t->digest, POOL_UNIT_BITS_MIN, &t->leaf, NULL) > 0)
		return 0;
	if (rc == 0 && nodes_find_leaf(t->pool->nodes, t->digest, POOL_UNIT_BITS_MIN, &t->leaf, NULL) > 0)
		return err_set(err, ERR_UNSUPPORTED, "it is stored in clusters of %llu KiB", 1ull << t->leaf.unit_bits >> 10);
	if (rc == 0)
		return err_set(err, ERR_FORMAT, "segment %llu (%s) has no map in clusters of %llu KiB or more",
			       (unsigned long long)t->segment, digest_text(t->digest, text), 1ull << t->cluster_bits >> 10);
	return rc;
}

static int check_run(const struct view_tables *t, const struct run *r, struct err *err)
{
	unsigned bits = t->leaf.unit_bits;

	if (range_within(r->first, r->nr, SEGMENT_SIZE >> bits) &&
	    clusters_have(t->pool->clusters, r->place << bits, (uint64_t)r->nr << bits))
		return 0;
	return err_set(err, ERR_FORMAT, "the map of segment %llu leaves the cluster file", (unsigned long long)t->segment);
}

static int add_leaf(struct view_tables *t, be64 *entries, struct err *err)
{
	unsigned bits = t->cluster_bits, shift = t->leaf.unit_bits - bits;

	for (unsigned i = 0; i < t->leaf.nr_runs; i++) {
		const struct run *r = &t->leaf.runs[i];
		uint64_t at;

		if (check_run(t, r, err) < 0)
			return -1;
		at = (r->place << t->leaf.unit_bits) - t->origin;
		for (size_t n = 0; n < (size_t)r->nr << shift; n++)
			entries[((size_t)r->first << shift) + n] = be64_from(at + ((uint64_t)n << bits));
	}
	return 0;
}

static int add_segment(struct view_tables *t, struct err *err)
{
	unsigned bits = t->cluster_bits;
	be64 *entries = t->entries + ((size_t)(t->segment * SEGMENT_SIZE >> bits) & (((size_t)1 << bits) / 8 - 1));
	int rc = find_leaf(t, err);

	if (rc < 0 || (rc > 0 && add_leaf(t, entries, err) < 0))
		return -1;
	return t->look ? t->look(t->ctx, t->segment, t->digest, rc > 0, entries, err) : 0;
}

int view_tables_next(struct view_tables *t, uint64_t *ret_index, const be64 **ret, struct err *err)
{
	unsigned l2_bits = 2 * t->cluster_bits - 3;
	uint64_t index;
	int rc = look(t, err);

	if (rc <= 0)
		return rc;
	index = t->segment * SEGMENT_SIZE >> l2_bits;
	memset(t->entries, 0, (size_t)1 << t->cluster_bits);
	for (; rc > 0 && t->segment * SEGMENT_SIZE >> l2_bits == index; rc = look(t, err)) {
		if (add_segment(t, err) < 0)
			return -1;
		t->pending = false;
		t->segment++;
	}
	if (rc < 0)
		return -1;
	*ret_index = index;
	*ret = t->entries;
	return 1;
}
