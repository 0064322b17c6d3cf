/* SPDX-License-Identifier: Apache-2.0 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "compactor/pool/import_parts.h"
#include "scanner/base/file.h"

/*
 * Segments that are moved are proven in rounds: they are synced, the cache is dropped, and their new maps, and what those lead to,
 * are read from the disk.  Where that is something else, the leaf gets its old map again.
 */

#define ROUND 64 /* segments: 128 MiB */

struct import *import_new_moving(struct pool *pool, const struct import_options *o, struct err *err)
{
	CLEANUP(import_free) struct import *i = import_new_any(pool, o, err);

	if (!i)
		return NULL;
	i->nr_segments = UINT64_MAX;
	i->moved = calloc(ROUND, sizeof(*i->moved));
	return i->moved ? STEAL(i) : err_null(err, ERR_MEMORY, "no memory to move what is in a pool");
}

/* 1 = it is not what it should be, as *err says. */
static int prove(struct import *i, const struct leaf *old, uint8_t *bytes, struct err *err)
{
	char text[DIGEST_TEXT_ROOM];
	struct err why = ERR_INIT;
	uint8_t is[DIGEST_SIZE];
	int rc = nodes_get_leaf(i->pool->nodes, old->digest, old->unit_bits, &i->twin, &why);

	if (rc == 0)
		rc = tree_read_leaf(i->pool->clusters, &i->twin, bytes, &why);
	if (rc < 0 && why.kind == ERR_MEMORY)
		return err_set(err, why.kind, "%s", why.text);
	if (rc == 0)
		digest_bytes(bytes, SEGMENT_SIZE, is);
	if (rc == 0 && memcmp(is, old->digest, DIGEST_SIZE) == 0)
		return 0;
	err_set(err, ERR_IO, "segment %s reads back otherwise than it was written; it stays where it was",
		digest_text(old->digest, text));
	return 1;
}

static int prove_all(struct import *i, uint8_t *bytes, struct err *err)
{
	struct err why = ERR_INIT;
	int bad = 0;

	for (size_t n = 0; n < i->nr_moved; n++) {
		int rc = prove(i, &i->moved[n], bytes, &why);

		if (rc < 0 || (rc > 0 && nodes_replace_leaf(i->pool->nodes, &i->moved[n], err) < 0))
			return rc < 0 && err ? (*err = why, -1) : -1;
		bad += rc;
	}
	if (bad && pool_sync(i->pool, err) == 0 && err)
		*err = why;
	return bad ? -1 : 0;
}

static int end_round(struct import *i, struct err *err)
{
	CLEANUP(free) uint8_t *bytes = malloc(SEGMENT_SIZE);
	int rc;

	if (!bytes)
		return err_set(err, ERR_MEMORY, "no memory for a segment");
	if (import_take_waiting(i, err) < 0 || pool_sync(i->pool, err) < 0 ||
	    nodes_drop_cache(i->pool->nodes, err) < 0 ||
	    file_drop_cache(cluster_file_fd(clusters_growing(i->pool->clusters).file), err) < 0)
		return -1;
	rc = prove_all(i, bytes, err);
	i->nr_moved = 0;
	return rc;
}

int import_move(struct import *i, const struct leaf *leaf, struct err *err)
{
	CLEANUP(free) uint8_t *bytes = malloc(SEGMENT_SIZE);
	struct err why = ERR_INIT;

	assert(i->moved && leaf->unit_bits == i->leaf.unit_bits);
	if (!bytes)
		return err_set(err, ERR_MEMORY, "no memory for a segment");
	if (tree_read_segment(i->pool->nodes, i->pool->clusters, leaf->digest, bytes, &why) < 0) {
		err_set(err, why.kind, "%s", why.text);
		return why.kind == ERR_MEMORY ? -1 : 1;
	}
	i->moved[i->nr_moved++] = *leaf;
	if (import_segment(i, i->next, bytes, err) < 0)
		return -1;
	return i->nr_moved == ROUND ? end_round(i, err) : 0;
}

int import_end_moving(struct import *i, struct import_stats *ret_stats, struct err *err)
{
	if (end_round(i, err) < 0)
		return -1;
	*ret_stats = i->stats;
	return 0;
}
