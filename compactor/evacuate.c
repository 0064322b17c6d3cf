/* SPDX-License-Identifier: Apache-2.0 */
#include "compactor/evacuate.h"

#include "compactor/pool/clusters.h"
#include "compactor/pool/growth.h"
#include "compactor/pool/import.h"
#include "compactor/pool/nodes.h"

/* Leaves are gone through in the order of their records, once for each unit of maps, as their clusters are shared by themselves.  A
 * record that another one of its node replaced is none: what it leads to is found by nothing. */

struct evacuating {
	const struct evacuation *e;
	struct import *import; /* of a unit */
	unsigned unit_bits;
	uint64_t done;	  /* bytes */
	uint64_t damaged; /* segments */
};

/* 1, 0, -1. */
static int is_found(struct evacuating *v, uint64_t offset, const struct leaf *leaf, struct err *err)
{
	uint64_t at;
	int rc = nodes_locate(v->e->p->nodes, leaf->digest, 0, leaf->unit_bits, &at, err);

	return rc > 0 ? at == offset : rc;
}

static int move_leaf(void *ctx, uint64_t offset, const struct leaf *leaf, const struct inner *inner, struct err *err)
{
	struct evacuating *v = ctx;
	struct err why = ERR_INIT;
	int rc;

	(void)inner;
	if (!leaf || leaf->unit_bits != v->unit_bits || !leaf_lies_in(leaf, v->e->file))
		return 0;
	rc = is_found(v, offset, leaf, err);
	if (rc <= 0)
		return rc;
	if (v->e->check(v->e->ctx, v->done, v->e->lives, err) != 0)
		return -1;
	rc = import_move(v->import, leaf, &why);
	if (rc < 0)
		return err_set(err, why.kind, "%s", why.text);
	v->damaged += rc > 0;
	v->done += leaf_bytes(leaf);
	return 0;
}

static int move_unit(struct evacuating *v, unsigned unit_bits, uint64_t *moved, struct err *err)
{
	CLEANUP(import_free) struct import *i = import_new_moving(v->e->p, unit_bits, err);
	struct import_stats stats;

	if (!i)
		return -1;
	v->import = i;
	v->unit_bits = unit_bits;
	if (nodes_each(v->e->p->nodes, move_leaf, v, err) < 0 || import_end_moving(i, &stats, err) < 0)
		return -1;
	*moved += stats.stored;
	return 0;
}

static int make_room(const struct evacuation *e, struct err *err)
{
	if (clusters_growing(e->p->clusters).number == e->file)
		return growth_begin(e->p, err);
	return growth_for_view(e->p, e->lives, 0, err);
}

int evacuate_segments(const struct evacuation *e, uint64_t *moved, uint64_t *damaged, struct err *err)
{
	struct evacuating v = { .e = e };

	if (make_room(e, err) < 0)
		return -1;
	for (unsigned bits = POOL_UNIT_BITS_MIN; bits <= POOL_UNIT_BITS_MAX; bits += 2)
		if (move_unit(&v, bits, moved, err) < 0)
			return err_add(err, "evacuating a cluster file");
	*damaged += v.damaged;
	return 0;
}
