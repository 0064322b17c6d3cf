/* SPDX-License-Identifier: Apache-2.0 */
#include "compactor/pool/gather.h"

#include "compactor/pool/clusters.h"
#include "compactor/pool/growth.h"
#include "compactor/pool/import.h"
#include "compactor/pool/tree.h"
#include "scanner/base/schedule.h"

/* What lies elsewhere is counted, then moved: so there is room for all of it, in the file and on the disk. */

struct gathering {
	struct pool *p;
	const uint8_t *root;
	uint64_t size;
	uint32_t file; /* where all is to be */
	unsigned unit_bits;
	uint64_t bytes; /* that lie elsewhere */
	struct import_movers movers;
	struct leaf leaf;
};

/* 1 = it lies elsewhere, and its leaf is found; 0, -1. */
static int find_elsewhere(struct gathering *g, const uint8_t digest[DIGEST_SIZE], struct err *err)
{
	int rc = nodes_find_leaf_in(g->p->nodes, g->file, digest, g->unit_bits, &g->leaf, err);

	if (rc)
		return rc < 0 ? -1 : 0;
	return nodes_find_leaf(g->p->nodes, digest, g->unit_bits, &g->leaf, err);
}

static int count(struct gathering *g, struct err *err)
{
	(void)err;
	g->bytes += leaf_bytes(&g->leaf);
	return 0;
}

static int move(struct gathering *g, struct err *err)
{
	struct import *i = import_mover(&g->movers, g->p, g->leaf.unit_bits, err);
	struct err why = ERR_INIT;
	int rc = i ? import_move(i, &g->leaf, &why) : -1;

	if (rc > 0)
		return err_set(err, ERR_FORMAT, "%s; dedupscan pool check tells whom that hits", why.text);
	if (rc < 0 && i)
		return err_set(err, why.kind, "%s", why.text);
	return rc;
}

static int each_elsewhere(struct gathering *g, int (*call)(struct gathering *g, struct err *err), struct err *err)
{
	CLEANUP(tree_walk_free) struct tree_walk *w = tree_walk_new(g->p->nodes, g->root, g->size, err);
	uint8_t digest[DIGEST_SIZE];
	uint64_t at = 0;
	int rc = -1;

	for (; w && (rc = tree_walk_next(w, at, &at, digest, err)) > 0; at++) {
		if (g->p->stopper && stopper_says(g->p->stopper))
			return err_set(err, ERR_CANCELED, "stopped");
		rc = find_elsewhere(g, digest, err);
		if (rc < 0 || (rc > 0 && call(g, err) < 0))
			return -1;
	}
	return rc;
}

/* For that, and for the view's tables.  Where another file begins, all of it lies elsewhere. */
static int make_room(struct gathering *g, struct err *err)
{
	for (;;) {
		g->file = clusters_growing(g->p->clusters).number;
		g->bytes = 0;
		if (each_elsewhere(g, count, err) < 0)
			return -1;
		if (!g->bytes)
			return 0;
		if (growth_check_space(g->p, g->bytes, err) < 0 || growth_for_view(g->p, g->bytes, g->size, err) < 0)
			return -1;
		if (clusters_growing(g->p->clusters).number == g->file)
			return 0;
	}
}

static int gather_all(struct gathering *g, struct err *err)
{
	int rc = make_room(g, err);

	if (rc < 0 || !g->bytes)
		return rc;
	return each_elsewhere(g, move, err) < 0 ? -1 : import_end_movers(&g->movers, err);
}

int gather(struct pool *p, const uint8_t root[DIGEST_SIZE], uint64_t size, unsigned unit_bits, struct err *err)
{
	struct gathering g = {
		.p = p, .root = root, .size = size, .file = clusters_growing(p->clusters).number, .unit_bits = unit_bits,
	};
	int rc = clusters_nr(p->clusters) > 1 ? gather_all(&g, err) : 0;

	import_free_movers(&g.movers);
	return rc < 0 ? err_add(err, "bringing a disk into one cluster file") : 0;
}
