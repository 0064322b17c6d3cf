/* SPDX-License-Identifier: Apache-2.0 */
#include "compactor/pool/import.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "compactor/pool/growth.h"
#include "compactor/pool/import_parts.h"
#include "scanner/base/checked.h"

/*
 * A segment as a whole is looked for twice: by its fingerprint, which is fast and needs no digest, then by its digest, when the
 * fingerprint has led nowhere.  Its bytes are compared with the clusters both times.  If a leaf of its digest has clusters with
 * other bytes, or none that can be read, those are damaged: the segment gets new ones and the leaf a new map, which heals all disks
 * that have it.
 *
 * Digests are most of the work for what is new, and two at once take little longer than one.  So a segment that needs one waits, in
 * a copy, for another one that does, or for whatever has to come behind it.
 *
 * A node or cluster that cannot be read is as if it were not there; what cannot be written ends the import.
 */

/* ---- leaves that are there ---- */

/* A node that cannot be read is none: it is written again. */
static int unless_damaged(int rc, const struct err *why, struct err *err)
{
	if (rc >= 0 || why->kind == ERR_FORMAT || why->kind == ERR_IO || why->kind == ERR_STALE)
		return rc > 0;
	return err_set(err, why->kind, "%s", why->text);
}

struct fingerprint import_hint(const void *segment)
{
	const struct fingerprint_isa *isa = fingerprint_best();
	struct fingerprint blocks[SEGMENT_BLOCKS];

	isa->blocks(segment, SEGMENT_BLOCKS, blocks);
	return isa->bytes(blocks, sizeof(blocks));
}

static int find_segment(struct import *i, struct fingerprint hint, struct leaf *ret, struct err *err)
{
	struct err why = ERR_INIT;
	int rc = nodes_find_segment(i->pool->nodes, hint, i->leaf.unit_bits, ret, &why);

	return unless_damaged(rc, &why, err);
}

/* One in the file that grows, if there is one. */
static int find_leaf(struct import *i, const uint8_t digest[DIGEST_SIZE], struct leaf *ret, struct err *err)
{
	struct nodes *n = i->pool->nodes;
	struct err why = ERR_INIT;
	int rc = 0;

	if (!i->maker) { /* the very map that is to be moved */
		rc = nodes_get_leaf(n, digest, i->leaf.unit_bits, ret, &why) == 0;
		return unless_damaged(rc || why.kind == ERR_FORMAT ? rc : -1, &why, err);
	}
	if (clusters_nr(i->pool->clusters) > 1)
		rc = nodes_find_leaf_in(n, i->file, digest, i->leaf.unit_bits, ret, &why);
	if (rc == 0)
		rc = nodes_find_leaf(n, digest, i->leaf.unit_bits, ret, &why);
	i->heals = rc < 0;
	return unless_damaged(rc, &why, err);
}

static void go_on_behind(struct import *i, const struct leaf *l)
{
	const struct run *last = l->nr_runs ? &l->runs[l->nr_runs - 1] : NULL;

	if (last && leaf_lies_in(l, i->file))
		import_shared_to(i, (last->place + last->nr) << l->unit_bits);
}

static int add_to_tree(struct import *i, uint64_t segment, const uint8_t digest[DIGEST_SIZE], struct err *err)
{
	return i->maker ? tree_maker_add(i->maker, segment, digest, err) : 0; /* else it is moved (import_moving.c) */
}

/* The segment is that of a leaf. */
static int take_leaf(struct import *i, uint64_t segment, const struct leaf *l, struct err *err)
{
	uint64_t bytes = leaf_bytes(l);

	i->stats.zeros += SEGMENT_SIZE - bytes;
	i->stats.shared_segments += bytes;
	go_on_behind(i, l);
	return add_to_tree(i, segment, l->digest, err);
}

/* ---- leaves that are new ---- */

static void look_at_file(struct import *i)
{
	struct cluster_span grows = clusters_growing(i->pool->clusters);

	if (i->file != grows.number)
		i->follows = 0;
	i->goes_on &= i->file == grows.number;
	i->file = grows.number;
	i->data_begin = grows.begin;
}

/* For what is in the pool as it is no other file has to begin. */
static int begin_storing(struct import *i, struct err *err)
{
	i->storing = true;
	if (i->maker && growth_for_image(i->pool, i->size, err) < 0)
		return -1;
	look_at_file(i);
	return 0;
}

static int make_leaf(struct import *i, struct err *err)
{
	struct nodes *n = i->pool->nodes;

	if (!i->storing && begin_storing(i, err) < 0)
		return -1;
	i->leaf.nr_runs = 0;
	i->leaf.hint = i->at->hint;
	memcpy(i->leaf.digest, i->at->digest, DIGEST_SIZE);
	if (import_match(i, err) < 0)
		return -1;
	if (!i->maker) {
		import_moved(i);
		return 0;
	}
	if ((i->heals ? nodes_replace_leaf : nodes_put_leaf)(n, &i->leaf, err) < 0)
		return -1;
	return add_to_tree(i, i->at->number, i->leaf.digest, err);
}

/* Wherever it is, unless it is to be moved. */
static bool is_good(const struct import *i, int found)
{
	return found > 0 && (i->maker || leaf_lies_in(&i->twin, i->file));
}

/* Its digest is known. */
static int take_digested(struct import *i, struct segment *s, struct err *err)
{
	int rc = find_leaf(i, s->digest, &i->twin, err);

	if (rc < 0)
		return -1;
	i->at = s;
	if (is_good(i, rc) && memcmp(s->digest, s->bad, DIGEST_SIZE) != 0 && import_same_bytes(i, &i->twin)) {
		i->stats.zeros -= SEGMENT_SIZE - (uint64_t)s->nr * i->unit; /* they are counted by what the leaf has */
		return take_leaf(i, s->number, &i->twin, err);
	}
	i->heals |= rc > 0;
	return make_leaf(i, err);
}

/* ---- digesting ---- */

/* Its bytes are the caller's no longer than this call. */
static void wait_for_another(struct import *i)
{
	i->at->bytes = memcpy(i->room, i->at->bytes, SEGMENT_SIZE);
	i->waits = i->at;
}

static int take_both(struct import *i, struct segment *a, struct segment *b, struct err *err)
{
	digest_two(a->bytes, b->bytes, SEGMENT_SIZE, a->digest, b->digest);
	return take_digested(i, a, err) < 0 ? -1 : take_digested(i, b, err);
}

/* Something comes behind it that needs no digest. */
int import_take_waiting(struct import *i, struct err *err)
{
	struct segment *s = STEAL(i->waits);

	if (!s)
		return 0;
	digest_bytes(s->bytes, SEGMENT_SIZE, s->digest);
	return take_digested(i, s, err);
}

static int take_segment(struct import *i, uint64_t number, const uint8_t *bytes, struct err *err)
{
	struct segment *s = &i->segments[i->waits == &i->segments[0]];
	int rc;

	s->number = number;
	s->bytes = bytes;
	memset(s->bad, 0, DIGEST_SIZE);
	i->at = s;
	import_take_hint(i);
	rc = i->maker ? find_segment(i, s->hint, &i->found, err) : 0; /* what is moved gets a map of its own */
	if (rc < 0)
		return -1;
	if (rc > 0 && import_same_bytes(i, &i->found)) {
		if (nodes_put_leaf(i->pool->nodes, &i->found, err) < 0) /* a newer map may lead to what is gone */
			return -1;
		return import_take_waiting(i, err) < 0 ? -1 : take_leaf(i, number, &i->found, err);
	}
	if (rc > 0)
		memcpy(s->bad, i->found.digest, DIGEST_SIZE);
	import_take_units(i);
	if (s->nr && i->waits)
		return take_both(i, STEAL(i->waits), s, err);
	if (s->nr)
		wait_for_another(i);
	return 0;
}

int import_segment(struct import *i, uint64_t segment, const void *bytes, struct err *err)
{
	assert(segment >= i->next && segment < i->nr_segments);
	i->next = segment + 1;
	i->stats.bytes += SEGMENT_SIZE;
	return take_segment(i, segment, bytes, err);
}

/* ---- segments of the base ---- */

static int base_is_damaged(uint64_t segment, const struct err *why, struct err *err)
{
	if (why->kind == ERR_MEMORY)
		return err_set(err, why->kind, "%s", why->text);
	return err_set(err, ERR_FORMAT, "what it stands on is damaged at offset %llu: %s; dedupscan pool repair may heal that",
		       (unsigned long long)(segment * SEGMENT_SIZE), why->text);
}

/* Its bytes, as many as the disk has of them. */
static int read_base(struct import *i, uint64_t segment, const uint8_t digest[DIGEST_SIZE], uint8_t *ret, struct err *err)
{
	uint64_t inside = min_u64(i->size - segment * SEGMENT_SIZE, SEGMENT_SIZE);
	struct err why = ERR_INIT;

	if (tree_read_segment(i->pool->nodes, i->pool->clusters, digest, ret, &why) < 0)
		return base_is_damaged(segment, &why, err);
	memset(ret + inside, 0, SEGMENT_SIZE - inside);
	return 0;
}

static uint8_t *new_bytes(struct err *err)
{
	uint8_t *bytes = malloc(SEGMENT_SIZE);

	return bytes ? bytes : err_null(err, ERR_MEMORY, "no memory for a segment");
}

static int store_base(struct import *i, uint64_t segment, const uint8_t digest[DIGEST_SIZE], struct err *err)
{
	CLEANUP(free) uint8_t *bytes = new_bytes(err);

	return !bytes || read_base(i, segment, digest, bytes, err) < 0 ? -1 : take_segment(i, segment, bytes, err);
}

/* Where a leaf has smaller units than this disk is to have, or more bytes, it does not do. */
static int take_base(struct import *i, uint64_t segment, const uint8_t digest[DIGEST_SIZE], struct err *err)
{
	bool cut = segment == i->nr_segments - 1 && i->size % SEGMENT_SIZE && i->base_size > i->size;
	int rc = find_leaf(i, digest, &i->found, err);

	if (rc < 0)
		return -1;
	if (!rc || cut)
		return store_base(i, segment, digest, err);
	if (import_take_waiting(i, err) < 0)
		return -1;
	go_on_behind(i, &i->found);
	return add_to_tree(i, segment, digest, err);
}

int import_same(struct import *i, uint64_t segment, struct err *err)
{
	uint8_t digest[DIGEST_SIZE];
	uint64_t at = 0;
	int rc = 0;

	assert(i->base && segment >= i->next && segment <= i->nr_segments);
	while (i->next < segment && (rc = tree_walk_next(i->base, i->next, &at, digest, err)) > 0 && at < segment) {
		i->next = at + 1;
		if (take_base(i, at, digest, err) < 0)
			return -1;
	}
	i->next = segment;
	return rc < 0 ? -1 : 0;
}

static int read_base_at(struct import *i, uint64_t segment, uint8_t *ret, struct err *err)
{
	uint8_t digest[DIGEST_SIZE] = { 0 };
	struct err why = ERR_INIT;
	uint64_t at;
	int rc = tree_walk_next(i->base, segment, &at, digest, &why);

	if (rc < 0)
		return base_is_damaged(segment, &why, err);
	if (!rc || at != segment)
		memset(digest, 0, sizeof(digest));
	return read_base(i, segment, digest, ret, err);
}

int import_own(struct import *i, uint64_t segment, const void *bytes, const struct sectors *own, struct err *err)
{
	CLEANUP(free) uint8_t *merged = NULL;
	unsigned begin = 0, end, inside;

	if (import_same(i, segment, err) < 0)
		return -1;
	inside = (unsigned)div_up(min_u64(i->size - segment * SEGMENT_SIZE, SEGMENT_SIZE), SECTOR_SIZE);
	if (sectors_have(own, 0) && sectors_end(own, 0) >= inside)
		return import_segment(i, segment, bytes, err);
	merged = new_bytes(err);
	if (!merged || read_base_at(i, segment, merged, err) < 0)
		return -1;
	for (; begin < inside; begin = end) {
		end = sectors_end(own, begin);
		if (sectors_have(own, begin))
			memcpy(merged + (size_t)begin * SECTOR_SIZE, (const uint8_t *)bytes + (size_t)begin * SECTOR_SIZE,
			       (size_t)(end - begin) * SECTOR_SIZE);
	}
	return import_segment(i, segment, merged, err);
}

/* ---- a disk ---- */

struct import *import_new_any(struct pool *pool, const struct import_options *o, struct err *err)
{
	CLEANUP(import_free) struct import *i = calloc(1, sizeof(*i));

	assert(pool->writing && o->unit_bits >= POOL_UNIT_BITS_MIN && o->unit_bits <= POOL_UNIT_BITS_MAX);
	if (!i || !(i->piece = aligned_alloc(BLOCK_SIZE, IMPORT_PIECE)) || !(i->room = aligned_alloc(BLOCK_SIZE, SEGMENT_SIZE)))
		return err_null(err, ERR_MEMORY, "no memory to import a disk");
	i->pool = pool;
	i->isa = fingerprint_best();
	i->leaf.unit_bits = o->unit_bits;
	i->unit = (size_t)1 << o->unit_bits;
	i->min_run = (unsigned)min_u64(max_u64(div_up(o->min_run, i->unit), 1), SEGMENT_BLOCKS);
	look_at_file(i);
	return digest_prepare(err) < 0 ? NULL : STEAL(i);
}

struct import *import_new(struct pool *pool, uint64_t size, const struct import_options *o, const uint8_t *base, uint64_t base_size,
			  struct err *err)
{
	CLEANUP(import_free) struct import *i = import_new_any(pool, o, err);

	if (!i)
		return NULL;
	i->size = size;
	i->nr_segments = div_up(size, SEGMENT_SIZE);
	i->base_size = base_size;
	if (base && !(i->base = tree_walk_new(pool->nodes, base, base_size, err)))
		return NULL;
	i->maker = tree_maker_new(pool->nodes, size, base, base_size, err);
	return i->maker ? STEAL(i) : NULL;
}

int import_end(struct import *i, uint8_t ret[DIGEST_SIZE], struct import_stats *ret_stats, struct err *err)
{
	if (import_take_waiting(i, err) < 0 || tree_maker_end(i->maker, ret, err) < 0)
		return -1;
	*ret_stats = i->stats;
	return 0;
}

void import_free(struct import *i)
{
	if (!i)
		return;
	tree_maker_free(i->maker);
	tree_walk_free(i->base);
	free(i->moved);
	free(i->piece);
	free(i->room);
	free(i);
}
