/* SPDX-License-Identifier: Apache-2.0 */
#include "compactor/pool/heal.h"

#include <stdlib.h>
#include <string.h>

#include "compactor/pool/clusters.h"
#include "compactor/pool/growth.h"
#include "compactor/pool/import.h"
#include "compactor/pool/tree.h"
#include "scanner/base/checked.h"
#include "scanner/base/schedule.h"
#include "scanner/base/vec.h"
#include "scanner/index/judymap.h"

#define ROOM_MAX ((uint64_t)64 << 30) /* of a cluster file, asked for before the first one */
#define ROUND 8192 /* segments whose clusters are looked for at a time: some 50 MiB of memory */

struct hurt {
	uint8_t digest[DIGEST_SIZE];
	char *path; /* of an image or a label, "" = nobody's */
	uint64_t offset;
	bool found;
};

struct heal {
	struct pool *p;
	bool dry_run;
	struct stopper *stopper;
	VEC(struct hurt) list;
	struct judymap index; /* the first 64 bits of a digest, or the next free key, to its place in the list */
	size_t nr_found;
	bool full; /* there was no space for one */
	struct import_movers movers;
	uint8_t *bytes, *other; /* segments */
	struct judymap moved; /* where clusters that damaged segments have are stored again, 0 = not known */
	struct leaf leaf, newer;
};

struct heal *heal_new(struct pool *p, bool dry_run, struct stopper *stopper, struct err *err)
{
	CLEANUP(heal_free) struct heal *h = calloc(1, sizeof(*h));

	if (!h || !(h->bytes = malloc(SEGMENT_SIZE)) || !(h->other = malloc(SEGMENT_SIZE)))
		return err_null(err, ERR_MEMORY, "no memory to heal a pool");
	h->p = p;
	h->dry_run = dry_run;
	h->stopper = stopper;
	return STEAL(h);
}

void heal_free(struct heal *h)
{
	if (!h)
		return;
	import_free_movers(&h->movers);
	for (size_t i = 0; i < h->list.nr; i++)
		free(h->list.items[i].path);
	vec_release(&h->list);
	judymap_release(&h->index);
	judymap_release(&h->moved);
	free(h->bytes);
	free(h->other);
	free(h);
}

/* ---- which ---- */

/* Where the record of a digest is, or would be. */
static uint64_t key_of_digest(const struct heal *h, const uint8_t digest[DIGEST_SIZE])
{
	uint64_t key = le64_load(digest), *at;

	while ((at = judymap_get(&h->index, key)) && memcmp(h->list.items[*at].digest, digest, DIGEST_SIZE) != 0)
		key++;
	return key;
}

int heal_add(struct heal *h, const uint8_t digest[DIGEST_SIZE], const char *path, uint64_t offset, struct err *err)
{
	uint64_t key = key_of_digest(h, digest), *at;
	struct hurt x = { .offset = offset };

	if (judymap_get(&h->index, key))
		return 0;
	memcpy(x.digest, digest, DIGEST_SIZE);
	x.path = strdup(path);
	at = x.path ? judymap_put(&h->index, key) : NULL;
	if (!at || vec_push(&h->list, x) < 0) {
		free(x.path);
		return err_set(err, ERR_MEMORY, "no memory to heal a pool");
	}
	*at = h->list.nr - 1;
	return 0;
}

/* One of which nothing was found yet. */
static struct hurt *find_hurt(struct heal *h, const uint8_t digest[DIGEST_SIZE])
{
	uint64_t *at = judymap_get(&h->index, key_of_digest(h, digest));

	return at && !h->list.items[*at].found ? &h->list.items[*at] : NULL;
}

/* ---- healing ---- */

static bool gives(struct heal *h, const struct leaf *map, const uint8_t digest[DIGEST_SIZE], uint8_t *bytes)
{
	uint8_t is[DIGEST_SIZE];

	if (tree_read_leaf(h->p->clusters, map, bytes, NULL) < 0)
		return false;
	digest_bytes(bytes, SEGMENT_SIZE, is);
	return memcmp(is, digest, DIGEST_SIZE) == 0;
}

/* To write until it is full would trouble guests. */
static bool has_space(struct heal *h)
{
	h->full = h->full || growth_check_space(h->p, SEGMENT_SIZE, NULL) < 0;
	return !h->full;
}

/* Stores the bytes again for each map that does not give them.  Where each leads to what is gone, the one that gives them, which a
 * newer one hid, is the map from now on. */
static int heal(struct heal *h, struct hurt *x, const struct leaf *map, struct err *err)
{
	bool any = h->dry_run;

	x->found = true;
	h->nr_found++;
	for (unsigned bits = POOL_UNIT_BITS_MIN; !h->dry_run && bits <= POOL_UNIT_BITS_MAX; bits += 2) {
		struct import *i;

		if (nodes_get_leaf(h->p->nodes, x->digest, bits, &h->leaf, NULL) < 0)
			continue;
		any = true;
		if (gives(h, &h->leaf, x->digest, h->other))
			continue;
		i = has_space(h) ? import_mover(&h->movers, h->p, bits, err) : NULL;
		if (h->full) {
			x->found = false;
			h->nr_found--;
			return 0;
		}
		if (!i || import_store(i, x->digest, h->bytes, err) < 0)
			return -1;
	}
	if (any)
		return 0;
	h->leaf = *map;
	h->leaf.hint = import_hint(h->bytes);
	memcpy(h->leaf.digest, x->digest, DIGEST_SIZE);
	return nodes_replace_leaf(h->p->nodes, &h->leaf, err);
}

static int stopped(const struct heal *h, struct err *err)
{
	return h->stopper && stopper_says(h->stopper) ? err_set(err, ERR_CANCELED, "stopped; run it again to go on") : 0;
}

static int try_map(struct heal *h, const struct leaf *map, const uint8_t digest[DIGEST_SIZE], struct err *err)
{
	struct hurt *x = find_hurt(h, digest);

	if (stopped(h, err) < 0)
		return -1;
	return x && gives(h, map, digest, h->bytes) ? heal(h, x, map, err) : 0;
}

int heal_begin(struct heal *h, struct err *err)
{
	uint64_t bytes = min_u64(h->list.nr * SEGMENT_SIZE, ROOM_MAX);

	return h->dry_run || !bytes ? 0 : growth_for_view(h->p, bytes, 0, err);
}

/* ---- sources ---- */

static bool all_found(const struct heal *h)
{
	return h->nr_found == h->list.nr;
}

static int take_record(void *ctx, uint64_t offset, const struct leaf *leaf, const struct inner *inner, struct err *err)
{
	struct heal *h = ctx;

	(void)offset;
	(void)inner;
	return leaf && !all_found(h) ? try_map(h, leaf, leaf->digest, err) : 0;
}

int heal_from_maps(struct heal *h, struct err *err)
{
	return all_found(h) ? 0 : nodes_each(h->p->nodes, take_record, h, err);
}

struct view_walk {
	struct heal *h;
	struct tree_walk *tree;
};

static int take_map(void *ctx, uint64_t segment, struct leaf *map, struct err *err)
{
	struct view_walk *w = ctx;
	uint8_t digest[DIGEST_SIZE];
	uint64_t at;

	return tree_walk_next(w->tree, segment, &at, digest, NULL) > 0 && at == segment ? try_map(w->h, map, digest, err) : 0;
}

/* What cannot be read of it is no help. */
int heal_from_view(struct heal *h, const struct view *v, struct err *err)
{
	CLEANUP(tree_walk_free) struct tree_walk *tree = NULL;
	struct err why = ERR_INIT;

	if (all_found(h))
		return 0;
	tree = tree_walk_new(h->p->nodes, v->root, v->disk_size, err);
	if (!tree)
		return -1;
	if (view_each_map(h->p, v, take_map, &(struct view_walk){ h, tree }, &why) == 0 || why.kind == ERR_FORMAT || why.kind == ERR_IO)
		return 0;
	return err_set(err, why.kind, "%s", why.text);
}

/* ---- clusters that were stored again ---- */

/* A segment that healed has an old map and a new one: so it is known where its clusters are stored now, and others had them, too. */

static uint64_t place_of(const struct leaf *leaf, uint32_t unit)
{
	for (unsigned i = 0; i < leaf->nr_runs; i++)
		if (unit - leaf->runs[i].first < leaf->runs[i].nr)
			return leaf->runs[i].place + (unit - leaf->runs[i].first);
	return 0;
}

/* Places are multiples of 4 KiB. */
static uint64_t key_of(const struct leaf *leaf, uint64_t place)
{
	return place << leaf->unit_bits | (leaf->unit_bits - POOL_UNIT_BITS_MIN);
}

static int want_clusters(struct heal *h, const struct leaf *leaf, struct err *err)
{
	for (unsigned i = 0; i < leaf->nr_runs; i++)
		for (uint32_t n = 0; n < leaf->runs[i].nr; n++)
			if (!judymap_put(&h->moved, key_of(leaf, leaf->runs[i].place + n)))
				return err_set(err, ERR_MEMORY, "no memory to heal a pool");
	return 0;
}

static int take_moved(void *ctx, uint64_t offset, const struct leaf *leaf, const struct inner *inner, struct err *err)
{
	struct heal *h = ctx;
	uint64_t at;

	(void)inner;
	if (!leaf || nodes_locate(h->p->nodes, leaf->digest, 0, leaf->unit_bits, &at, NULL) <= 0 || at == offset ||
	    nodes_get_leaf(h->p->nodes, leaf->digest, leaf->unit_bits, &h->newer, NULL) < 0)
		return stopped(h, err);
	for (unsigned i = 0; i < leaf->nr_runs; i++) {
		for (uint32_t n = 0; n < leaf->runs[i].nr; n++) {
			uint64_t place = leaf->runs[i].place + n, now = place_of(&h->newer, leaf->runs[i].first + n);
			uint64_t *wanted = place != now ? judymap_get(&h->moved, key_of(leaf, place)) : NULL;

			if (wanted)
				*wanted = now;
		}
	}
	return stopped(h, err);
}

/* The same map, but for what was stored again. */
static void follow(struct heal *h, const struct leaf *leaf, struct leaf *ret)
{
	*ret = *leaf;
	ret->nr_runs = 0;
	for (unsigned i = 0; i < leaf->nr_runs; i++) {
		for (uint32_t n = 0; n < leaf->runs[i].nr; n++) {
			uint64_t place = leaf->runs[i].place + n, *now = judymap_get(&h->moved, key_of(leaf, place));

			ret->runs[ret->nr_runs++] = (struct run){ leaf->runs[i].first + n, 1, now && *now ? *now : place };
		}
	}
}

static int each_hurt_map(struct heal *h, size_t begin, size_t end,
			 int (*call)(struct heal *h, const struct leaf *leaf, struct err *err), struct err *err)
{
	for (size_t i = begin; i < end; i++)
		for (unsigned bits = POOL_UNIT_BITS_MIN; bits <= POOL_UNIT_BITS_MAX; bits += 2)
			if (!h->list.items[i].found &&
			    nodes_get_leaf(h->p->nodes, h->list.items[i].digest, bits, &h->leaf, NULL) == 0 &&
			    call(h, &h->leaf, err) < 0)
				return -1;
	return 0;
}

static int try_moved(struct heal *h, const struct leaf *leaf, struct err *err)
{
	follow(h, leaf, &h->newer);
	return try_map(h, &h->newer, leaf->digest, err);
}

int heal_from_moved(struct heal *h, struct err *err)
{
	size_t end;

	for (size_t begin = 0; begin < h->list.nr && !all_found(h); begin = end) {
		end = (size_t)min_u64(begin + ROUND, h->list.nr);
		judymap_release(&h->moved);
		if (each_hurt_map(h, begin, end, want_clusters, err) < 0 || nodes_each(h->p->nodes, take_moved, h, err) < 0 ||
		    each_hurt_map(h, begin, end, try_moved, err) < 0)
			return -1;
	}
	return 0;
}

/* ---- the end ---- */

int heal_end(struct heal *h, struct err *err)
{
	return import_end_movers(&h->movers, err);
}

int heal_each(const struct heal *h,
	      int (*call)(void *ctx, const uint8_t digest[DIGEST_SIZE], const char *path, uint64_t offset, bool healed,
			  struct err *err),
	      void *ctx, struct err *err)
{
	int rc = 0;

	for (size_t i = 0; rc == 0 && i < h->list.nr; i++) {
		const struct hurt *x = &h->list.items[i];

		rc = call(ctx, x->digest, x->path, x->offset, x->found, err);
	}
	return rc;
}
