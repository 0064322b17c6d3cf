/* SPDX-License-Identifier: Apache-2.0 */
#include "compactor/pool/reindex.h"

#include <stdlib.h>

#include "compactor/pool/clusters.h"
#include "compactor/pool/cluster_marks.h"
#include "compactor/pool/finder.h"
#include "compactor/pool/import.h"
#include "scanner/base/checked.h"
#include "scanner/cache_keeper.h"
#include "scanner/chunk/fingerprint.h"

/* How it works: for as much of the cluster file that grows, the only one whose blocks are shared, at a time as memory allows, a
 * walk through all nodes marks what maps lead to, by their units; then what is marked is read from front to back, each cluster
 * once, however many maps have it.  A map's unit is at a
 * multiple of itself, as are pieces, so none is cut.  Of equal blocks the first keeps the key, as when they were imported.
 *
 * Now and then the finder is synced with where this is, so that a run that was cut short goes on there. */

#define NR_UNITS 3 /* 4, 16, 64 KiB */
#define LARGEST ((uint64_t)64 << 10)
#define PIECE ((uint64_t)256 << 10)
#define SAVE_EACH ((uint64_t)1 << 30) /* bytes read */
#define MARKS_SHARE 6 /* of the finder's memory, for each of the units */

struct reindexing {
	struct pool *p;
	const struct reindex_options *o;
	struct cluster_marks marks[NR_UNITS];
	struct cache_keeper keeper;
	struct cluster_span file;
	uint64_t begin, end; /* addresses of what lacks keys */
	uint64_t unsaved;    /* bytes read */
	uint8_t *piece;
};

static unsigned bits_of(unsigned unit)
{
	return POOL_UNIT_BITS_MIN + 2 * unit;
}

static int stopped(const struct reindexing *r, struct err *err)
{
	return r->o->stopper && stopper_says(r->o->stopper) ? err_set(err, ERR_CANCELED, "stopped; run it again to go on") : 0;
}

/* ---- marking ---- */

static int mark_leaf(void *ctx, uint64_t offset, const struct leaf *leaf, const struct inner *inner, struct err *err)
{
	struct reindexing *r = ctx;

	(void)offset;
	(void)inner;
	if (leaf)
		cluster_marks_add_leaf(&r->marks[(leaf->unit_bits - POOL_UNIT_BITS_MIN) / 2], leaf);
	return stopped(r, err);
}

static bool any_has(const struct reindexing *r, uint64_t at)
{
	for (unsigned u = 0; u < NR_UNITS; u++)
		if (cluster_marks_has(&r->marks[u], at))
			return true;
	return false;
}

static bool next_part(struct reindexing *r)
{
	bool any = false;

	for (unsigned u = 0; u < NR_UNITS; u++)
		any = cluster_marks_next(&r->marks[u]);
	return any;
}

/* ---- reading ---- */

static int save(struct reindexing *r, uint64_t at, struct err *err)
{
	r->unsaved = 0;
	finder_set_lacks(r->p->finder, cluster_offset(at), cluster_offset(r->end));
	return pool_sync(r->p, err);
}

/* Units of one size in the piece that was read. */
static int add_units(struct reindexing *r, unsigned u, uint64_t at, uint64_t end, struct err *err)
{
	const uint64_t unit = (uint64_t)1 << bits_of(u), first = round_up(at, unit);
	struct fingerprint prints[PIECE / BLOCK_SIZE];

	if (end < first + unit)
		return 0;
	import_prints(r->piece + (first - at), unit, (unsigned)((end - first) / unit), prints);
	for (uint64_t place = first; place + unit <= end; place += unit) {
		struct fingerprint f = prints[(place - first) / unit];

		if (cluster_marks_has(&r->marks[u], place) && !fingerprint_is_null(f) &&
		    finder_add(r->p->finder, FINDER_BLOCK, bits_of(u), f.hi, f.lo, cluster_offset(place) / BLOCK_SIZE, false,
			       err) < 0)
			return -1;
	}
	return 0;
}

/* What cannot be read is left out, in small pieces. */
static int add_piece(struct reindexing *r, uint64_t at, uint64_t end, struct err *err)
{
	struct err why = ERR_INIT;
	uint64_t step;

	cache_keeper_before(&r->keeper, cluster_file_fd(r->file.file), cluster_offset(at), end - at);
	r->unsaved += end - at;
	if (clusters_read(r->p->clusters, r->piece, end - at, at, &why) == 0) {
		for (unsigned u = 0; u < NR_UNITS; u++)
			if (add_units(r, u, at, end, err) < 0)
				return -1;
		return 0;
	}
	if (why.kind == ERR_MEMORY)
		return err_set(err, why.kind, "%s", why.text);
	if (end - at == BLOCK_SIZE)
		return 0;
	step = end - at > LARGEST ? LARGEST : BLOCK_SIZE;
	for (uint64_t to; at < end; at = to) {
		to = min_u64(round_down(at, step) + step, end);
		if (add_piece(r, at, to, err) < 0)
			return -1;
	}
	return 0;
}

/* Up to the end of what is marked, or of the piece. */
static uint64_t run_end(const struct reindexing *r, uint64_t at)
{
	uint64_t end = min_u64(round_down(at, PIECE) + PIECE, r->marks[0].end);

	while (at < end && any_has(r, at))
		at += BLOCK_SIZE;
	return at;
}

static int read_part(struct reindexing *r, struct err *err)
{
	uint64_t at = r->marks[0].begin, to;

	for (; at < r->marks[0].end; at = to) {
		to = run_end(r, at);
		if (to == at) {
			to += BLOCK_SIZE;
			continue;
		}
		if (r->o->progress)
			r->o->progress(r->o->ctx, "indexing", at - r->begin, r->end - r->begin);
		if (stopped(r, err) < 0)
			return save(r, at, NULL), -1;
		if (add_piece(r, at, to, err) < 0 || (r->unsaved >= SAVE_EACH && save(r, to, err) < 0))
			return -1;
	}
	return 0;
}

/* ---- the whole ---- */

static int reindex(struct reindexing *r, struct err *err)
{
	do {
		if (nodes_each(r->p->nodes, mark_leaf, r, err) < 0 || read_part(r, err) < 0)
			return -1;
	} while (next_part(r));
	return save(r, r->end, err);
}

int pool_reindex(struct pool *p, const struct reindex_options *o, struct err *err)
{
	struct reindexing r = { .p = p, .o = o, .piece = malloc(PIECE), .file = clusters_growing(p->clusters) };
	int rc = r.piece ? 0 : err_set(err, ERR_MEMORY, "no memory to index a pool");

	finder_lacks(p->finder, &r.begin, &r.end);
	r.begin = max_u64(r.file.begin - POOL_DATA_BEGIN + r.begin, r.file.begin);
	r.end += r.file.begin - POOL_DATA_BEGIN;
	for (unsigned u = 0; rc == 0 && u < NR_UNITS; u++)
		rc = cluster_marks_init(&r.marks[u], r.begin, r.end, p->memory / MARKS_SHARE, err);
	r.begin = r.marks[0].begin;
	cache_keeper_begin(&r.keeper, true);
	if (rc == 0)
		rc = reindex(&r, err);
	cache_keeper_end(&r.keeper);
	for (unsigned u = 0; u < NR_UNITS; u++)
		cluster_marks_release(&r.marks[u]);
	free(r.piece);
	return rc;
}

/* One that is opened for this alone, as it is on the disk. */
int pool_prove_index(struct pool *p, struct stopper *stopper, struct err *ret_why, struct err *err)
{
	const uint8_t *uuid = cluster_file_id(clusters_growing(p->clusters).file)->uuid;
	bool whole;
	CLEANUP(finder_close) struct finder *f = finder_open(p->dirs[POOL_INDEX], uuid, p->memory, false, &whole, err);

	return f ? finder_prove(f, stopper, ret_why, err) : -1;
}

int pool_forget_index(struct pool *p, struct err *err)
{
	struct err why = ERR_INIT;

	if (finder_clear(p->finder, err) < 0)
		return -1;
	finder_set_lacks(p->finder, POOL_DATA_BEGIN, cluster_offset(clusters_growing(p->clusters).end));
	if (nodes_remember_all(p->nodes, &why) == 0)
		return 0;
	finder_give_up(p->finder, &why); /* or nodes that it lacks would be lost */
	return err_set(err, why.kind, "%s", why.text);
}

int pool_lacks_keys(struct pool *p, bool *ret, struct err *err)
{
	CLEANUP(finder_close) struct finder *f = NULL;
	struct cluster_span grows = clusters_growing(p->clusters);
	uint64_t begin, end;
	bool whole;

	if (!p->finder && !(f = finder_open(p->dirs[POOL_INDEX], cluster_file_id(grows.file)->uuid, 0, false, &whole, err)))
		return -1;
	finder_lacks(p->finder ? p->finder : f, &begin, &end);
	*ret = max_u64(begin, POOL_DATA_BEGIN) < min_u64(end, cluster_offset(grows.end));
	return 0;
}
