/* SPDX-License-Identifier: Apache-2.0 */
#include "compactor/pool/gather.h"

#include "compactor/pool/clusters.h"
#include "compactor/pool/import.h"
#include "compactor/pool/tree.h"

struct gathering {
	struct pool *p;
	uint32_t file; /* where all is to be */
	unsigned unit_bits;
	struct import *imports[POOL_UNIT_BITS_MAX + 1]; /* by unit, as they are needed */
	struct leaf leaf;
};

static struct import *import_of(struct gathering *g, unsigned unit_bits, struct err *err)
{
	const struct import_options o = { .unit_bits = unit_bits, .min_run = GATHER_MIN_RUN };

	if (!g->imports[unit_bits])
		g->imports[unit_bits] = import_new_moving(g->p, &o, err);
	return g->imports[unit_bits];
}

static int gather_one(struct gathering *g, const uint8_t digest[DIGEST_SIZE], struct err *err)
{
	int rc = nodes_find_leaf_in(g->p->nodes, g->file, digest, g->unit_bits, &g->leaf, err);
	struct import *i;

	if (rc)
		return rc < 0 ? -1 : 0;
	rc = nodes_find_leaf(g->p->nodes, digest, g->unit_bits, &g->leaf, err);
	if (rc <= 0)
		return rc;
	i = import_of(g, g->leaf.unit_bits, err);
	return i ? import_move(i, &g->leaf, err) : -1;
}

static int gather_all(struct gathering *g, const uint8_t root[DIGEST_SIZE], uint64_t size, struct err *err)
{
	CLEANUP(tree_walk_free) struct tree_walk *w = tree_walk_new(g->p->nodes, root, size, err);
	uint8_t digest[DIGEST_SIZE];
	struct import_stats stats;
	uint64_t at = 0;
	int rc = -1;

	while (w && (rc = tree_walk_next(w, at, &at, digest, err)) > 0) {
		if (gather_one(g, digest, err) < 0)
			return -1;
		at++;
	}
	for (unsigned bits = POOL_UNIT_BITS_MIN; rc == 0 && bits <= POOL_UNIT_BITS_MAX; bits += 2)
		if (g->imports[bits])
			rc = import_end_moving(g->imports[bits], &stats, err);
	return rc;
}

int gather(struct pool *p, const uint8_t root[DIGEST_SIZE], uint64_t size, unsigned unit_bits, struct err *err)
{
	struct gathering g = { .p = p, .file = clusters_growing(p->clusters).number, .unit_bits = unit_bits };
	int rc = clusters_nr(p->clusters) > 1 ? gather_all(&g, root, size, err) : 0;

	for (unsigned bits = POOL_UNIT_BITS_MIN; bits <= POOL_UNIT_BITS_MAX; bits += 2)
		import_free(g.imports[bits]);
	return rc < 0 ? err_add(err, "bringing a disk into one cluster file") : 0;
}
