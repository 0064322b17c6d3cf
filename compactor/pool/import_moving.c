/* SPDX-License-Identifier: Apache-2.0 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "compactor/pool/import_parts.h"
#include "scanner/base/file.h"

/*
 * Segments are moved in rounds.  What is stored of them is synced, the cache is dropped, and their bytes are read from the disk by
 * the new maps, which are known to nobody but this process until then.  Those that are proven become the maps of their leaves; a
 * leaf whose bytes are others keeps the old one.  So there is no moment in which a tree leads to what was not proven.
 */

#define ROUND 64 /* segments: 128 MiB */
#define MIN_RUN ((uint64_t)16 << 10) /* what is there already, in runs of so much, is not stored twice */

struct import *import_new_moving(struct pool *pool, unsigned unit_bits, struct err *err)
{
	const struct import_options o = { .unit_bits = unit_bits, .min_run = MIN_RUN };
	CLEANUP(import_free) struct import *i = import_new_any(pool, &o, err);

	if (!i)
		return NULL;
	i->nr_segments = UINT64_MAX;
	i->moved = calloc(ROUND + 2, sizeof(*i->moved)); /* two at once are digested, and one waits */
	return i->moved ? STEAL(i) : err_null(err, ERR_MEMORY, "no memory to move what is in a pool");
}

void import_moved(struct import *i)
{
	i->moved[i->nr_moved++] = i->leaf;
}

/* 1 = it is not what it should be, as *err says. */
static int prove(struct import *i, const struct leaf *leaf, uint8_t *bytes, struct err *err)
{
	char text[DIGEST_TEXT_ROOM];
	uint8_t is[DIGEST_SIZE];

	if (tree_read_leaf(i->pool->clusters, leaf, bytes, NULL) == 0) {
		digest_bytes(bytes, SEGMENT_SIZE, is);
		if (memcmp(is, leaf->digest, DIGEST_SIZE) == 0)
			return nodes_replace_leaf(i->pool->nodes, leaf, err);
	}
	err_set(err, ERR_IO, "segment %s reads back otherwise than it was written; it stays where it was",
		digest_text(leaf->digest, text));
	return 1;
}

/* A leaf that is not found is written once more.  Other than 0: that was so, or more is wrong. */
static int read_nodes_back(struct import *i, struct err *err)
{
	int bad = 0;

	if (pool_sync(i->pool, err) < 0 || nodes_drop_cache(i->pool->nodes, err) < 0)
		return 1;
	for (size_t n = 0; n < i->nr_moved; n++) {
		const struct leaf *leaf = &i->moved[n];

		if (nodes_get_leaf(i->pool->nodes, leaf->digest, leaf->unit_bits, &i->twin, NULL) == 0)
			continue;
		bad = 1;
		if (nodes_replace_leaf(i->pool->nodes, leaf, NULL) < 0)
			return err_set(err, ERR_IO, "a node of the pool reads back otherwise than it was written"), 1;
	}
	if (bad && pool_sync(i->pool, NULL) == 0)
		err_set(err, ERR_IO, "a node of the pool read back otherwise than it was written");
	return bad;
}

static int end_round(struct import *i, struct err *err)
{
	CLEANUP(free) uint8_t *bytes = malloc(SEGMENT_SIZE);
	int bad = 0;

	if (!bytes)
		return err_set(err, ERR_MEMORY, "no memory for a segment");
	if (import_take_waiting(i, err) < 0 || clusters_sync(i->pool->clusters, err) < 0 ||
	    file_drop_cache(cluster_file_fd(clusters_growing(i->pool->clusters).file), err) < 0)
		return -1;
	for (size_t n = 0; n < i->nr_moved;) {
		int rc = prove(i, &i->moved[n], bytes, err);

		if (rc < 0)
			return -1;
		if (rc == 0)
			n++;
		else
			i->moved[n] = i->moved[--i->nr_moved];
		bad += rc;
	}
	bad += read_nodes_back(i, err);
	i->nr_moved = 0;
	return bad ? -1 : 0;
}

/* It is in the round, and needs not be moved twice. */
static bool is_in_round(const struct import *i, const uint8_t digest[DIGEST_SIZE])
{
	for (size_t n = 0; n < i->nr_moved; n++)
		if (memcmp(i->moved[n].digest, digest, DIGEST_SIZE) == 0)
			return true;
	return i->waits && memcmp(i->moving, digest, DIGEST_SIZE) == 0;
}

int import_store(struct import *i, const uint8_t digest[DIGEST_SIZE], const void *bytes, struct err *err)
{
	assert(i->moved);
	if (is_in_round(i, digest))
		return 0;
	memcpy(i->moving, digest, DIGEST_SIZE);
	if (import_segment(i, i->next, bytes, err) < 0)
		return -1;
	return i->nr_moved >= ROUND ? end_round(i, err) : 0;
}

int import_move(struct import *i, const struct leaf *leaf, struct err *err)
{
	CLEANUP(free) uint8_t *bytes = malloc(SEGMENT_SIZE);
	struct err why = ERR_INIT;

	assert(i->moved && leaf->unit_bits == i->leaf.unit_bits);
	if (!bytes)
		return err_set(err, ERR_MEMORY, "no memory for a segment");
	if (is_in_round(i, leaf->digest))
		return 0;
	if (tree_read_segment(i->pool->nodes, i->pool->clusters, leaf->digest, bytes, &why) < 0) {
		err_set(err, why.kind, "%s", why.text);
		return why.kind == ERR_MEMORY ? -1 : 1;
	}
	return import_store(i, leaf->digest, bytes, err);
}

int import_end_moving(struct import *i, struct import_stats *ret_stats, struct err *err)
{
	if (end_round(i, err) < 0)
		return -1;
	*ret_stats = i->stats;
	return 0;
}

/* ---- of several units ---- */

struct import *import_mover(struct import_movers *m, struct pool *pool, unsigned unit_bits, struct err *err)
{
	if (!m->of[unit_bits])
		m->of[unit_bits] = import_new_moving(pool, unit_bits, err);
	return m->of[unit_bits];
}

int import_end_movers(struct import_movers *m, struct err *err)
{
	struct import_stats stats;

	for (unsigned bits = POOL_UNIT_BITS_MIN; bits <= POOL_UNIT_BITS_MAX; bits += 2)
		if (m->of[bits] && import_end_moving(m->of[bits], &stats, err) < 0)
			return -1;
	return 0;
}

void import_free_movers(struct import_movers *m)
{
	for (unsigned bits = POOL_UNIT_BITS_MIN; bits <= POOL_UNIT_BITS_MAX; bits += 2)
		import_free(m->of[bits]);
}
