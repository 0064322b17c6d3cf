/* SPDX-License-Identifier: Apache-2.0 */
#include "compactor/moves.h"

#include <linux/fiemap.h>
#include <string.h>

#include "scanner/base/block.h"
#include "scanner/base/checked.h"
#include "scanner/base/file.h"
#include "scanner/base/memory.h"
#include "scanner/duplicates.h"

/*
 *	duplicates	in the order of images (duplicates.h): this block is like that one
 *	runs		neighbours whose originals are neighbours too
 *	chains		runs that lie equally far from their originals, with short gaps between them: one is a move
 *
 * Several chains are open at once, because a gap of one may be a run of another.
 *
 * What a move frees is looked up on the disk: blocks that only this file has are freed; of blocks that are shared already
 * all sharers have to move away.  Those are gathered as events at disk offsets, sorted, and swept over in the end:
 *
 *	disk	|....#####.....|		+1 reference at the beginning of each stretch, -1 at its end,
 *					   and the same for the stretches that move
 *
 * A file that several images name has references of each, as if it were shared.  An image that is written anew moves away
 * from everything: it saves what its duplicates have, less what its old file shares.
 */

#define CHAINS 8
#define GAP_BLOCKS (MOVES_GAP / BLOCK_SIZE)
#define NAME "moves.tmp"
#define GAPS_NAME "gaps.tmp"
#define MOVE_ROOM 512
#define GAP_ROOM 512u
#define BTRFS_SHARERS 1000 /* it gets slow when one extent has many references */

/* In blocks, from the beginning of the move. */
struct stored_gap {
	uint32_t at, len;
};

/* In blocks; positions are POSITION(rank, block). */
struct chain {
	uint64_t begin, end, origin; /* end 0 = not in use */
	uint64_t until;	    /* a gap is counted from here */
	uint64_t long_runs; /* blocks in runs of at least min_run */
	uint64_t known;	    /* blocks in runs of any length */
	uint32_t nr_gaps;
	struct stored_gap gaps[GAP_ROOM];
};

struct span {
	uint64_t first, nr, bytes;
};

struct moves {
	struct store *s;
	struct moves_options o;
	struct file_writer writer, gap_writer;
	int fd, gap_fd;
	uint64_t nr, nr_gaps;
	VEC(struct span) spans; /* by image */
	VEC(uint32_t) ranks;	/* of the file system at hand: rank -> image */
	bool *named_often;	/* by file: other images name it as well */
	struct chain chains[CHAINS];
	uint64_t run_end, run_origin; /* of the last run */
	struct sorter *events;
	struct {
		uint64_t first, nr;
		struct move items[MOVE_ROOM];
	} window;
	struct {
		uint64_t first, nr;
		struct stored_gap items[MOVE_ROOM];
	} gap_window;
};

static int no_memory(struct err *err)
{
	return err_set(err, ERR_MEMORY, "no memory to look for what can be shared");
}

/* ---- pieces ---- */

/* Where both sides of a move lie from `at` on: 1, or 0 when one of them cannot be shared; *ret->len is how far that goes. */
static int piece_at(struct store *s, const struct move *v, uint64_t at, struct piece *ret, struct err *err)
{
	struct range to, from;
	int rc = store_find(s, v->image, v->address + at, &to, err);

	if (rc > 0)
		rc = store_find(s, v->origin, v->from + at, &from, err);
	ret->len = BLOCK_SIZE;
	if (rc > 0)
		*ret = (struct piece){
			to.tag, from.tag, to.to, from.to, min_u64(min_u64(to.len, from.len), v->len - at), v->has_gaps,
			at,
		};
	return rc;
}

int move_each_piece(struct store *s, const struct move *v, int (*call)(void *ctx, const struct piece *p, struct err *err),
		    void *ctx, struct err *err)
{
	struct piece open = { .len = 0 }, p;
	int rc = 0;

	if (v->of_files) {
		p = (struct piece){ s->images.items[v->image].first_file, s->images.items[v->origin].first_file,
				    v->address, v->from, v->len, v->has_gaps, 0 };
		return call(ctx, &p, err);
	}
	for (uint64_t at = 0; rc == 0 && at < v->len; at += p.len) {
		int there = piece_at(s, v, at, &p, err);

		if (there < 0)
			return -1;
		if (there && open.len && open.file == p.file && open.from_file == p.from_file &&
		    open.offset + open.len == p.offset && open.from + open.len == p.from) {
			open.len += p.len;
			continue;
		}
		if (open.len)
			rc = call(ctx, &open, err);
		open = p;
		if (!there)
			open.len = 0;
	}
	return rc == 0 && open.len ? call(ctx, &open, err) : rc;
}

/* ---- what it frees ---- */

#define EVENT_END ((uint64_t)1 << 62)
#define EVENT_MOVES ((uint64_t)1 << 63)

/* File systems are swept one after the other: their offsets have nothing to do with each other. */
static int add_event(struct moves *m, size_t image, uint64_t at, uint64_t value, struct err *err)
{
	size_t room;
	struct record *r = sorter_room(m->events, 1, &room, err);

	if (!r)
		return -1;
	*r = (struct record){ .key = { m->s->images.items[image].fs, at }, .value = image | value };
	sorter_commit(m->events, 1);
	return 0;
}

static int add_events(struct moves *m, size_t image, uint64_t at, uint64_t len, uint64_t value, struct err *err)
{
	return add_event(m, image, at, value, err) < 0 ? -1 : add_event(m, image, at + len, value | EVENT_END, err);
}

#define NOT_PLAIN (FIEMAP_EXTENT_UNKNOWN | FIEMAP_EXTENT_DELALLOC | FIEMAP_EXTENT_DATA_INLINE | FIEMAP_EXTENT_NOT_ALIGNED)

/* Whether somebody besides this image holds a stretch of the file. */
static bool is_held(const struct moves *m, size_t file, const struct range *r)
{
	return (r->flags & FIEMAP_EXTENT_SHARED) || m->named_often[file];
}

static void add_freed(struct moves *m, size_t image, uint64_t len, bool whole_extent)
{
	m->s->plan->images[image].saving += len;
	if (whole_extent)
		m->s->images.items[image].whole += len;
}

/* One stretch that is contiguous in two files. */
static int account_piece(struct moves *m, size_t image, size_t file, uint64_t offset, size_t from_file, uint64_t from,
			 uint64_t len, struct err *err)
{
	struct plan_image *p = &m->s->plan->images[image];
	struct range to, of;

	for (uint64_t n; len; offset += n, from += n, len -= n) {
		int rc = rangemap_find(m->s->disk, file, offset, &to, err);

		if (rc <= 0)
			return rc;
		if (to.from > offset) { /* a hole */
			n = min_u64(to.from - offset, len);
			continue;
		}
		n = min_u64(to.len - (offset - to.from), len);
		rc = rangemap_find(m->s->disk, from_file, from, &of, err);
		if (rc < 0)
			return -1;
		if (rc > 0)
			n = min_u64(n, of.from > from ? of.from - from : of.len - (from - of.from));
		if (rc > 0 && of.from <= from && !((of.flags | to.flags) & NOT_PLAIN) &&
		    of.to + (from - of.from) == to.to + (offset - to.from))
			p->shared += n;
		else if (!is_held(m, file, &to))
			add_freed(m, image, n, n == to.len);
		else if (add_events(m, image, to.to + (offset - to.from), n, EVENT_MOVES, err) < 0)
			return -1;
	}
	return 0;
}

static int account_part(void *ctx, const struct piece *p, struct err *err)
{
	struct moves *m = ctx;
	size_t image = m->s->files.items[p->file].image;

	if (m->s->images.items[image].relayout) { /* where it lies now does not matter */
		m->s->plan->images[image].saving += p->len;
		return 0;
	}
	return account_piece(m, image, p->file, p->offset, p->from_file, p->from, p->len, err);
}

static int check_stopped(const struct moves *m, struct err *err)
{
	return m->s->stopper && stopper_says(m->s->stopper) ? err_set(err, ERR_CANCELED, "stopped while runs were looked for") : 0;
}

/* All stretches of a file that the disk shares already, each a reference. */
static int add_references(struct moves *m, size_t file, struct err *err)
{
	size_t image = m->s->files.items[file].image;
	bool relayout = m->s->images.items[image].relayout;
	uint64_t at = 0;
	struct range r;
	int rc = check_stopped(m, err);

	while (rc == 0 && (rc = rangemap_find(m->s->disk, file, at, &r, err)) > 0) {
		at = r.from + r.len;
		rc = 0;
		if (!is_held(m, file, &r))
			continue;
		rc = add_events(m, image, r.to, r.len, 0, err);
		if (rc == 0 && relayout) {
			m->s->plan->images[image].saving -= r.len; /* below zero for now; see end_savings() */
			rc = add_events(m, image, r.to, r.len, EVENT_MOVES, err);
		}
	}
	return rc;
}

static int compare_files(const void *a, const void *b, void *ctx)
{
	const struct moves *m = ctx;
	const struct spool_identity *x = &m->s->files.items[*(const size_t *)a].identity;
	const struct spool_identity *y = &m->s->files.items[*(const size_t *)b].identity;

	if (x->dev != y->dev)
		return x->dev < y->dev ? -1 : 1;
	return x->ino < y->ino ? -1 : x->ino > y->ino;
}

static int find_named_often(struct moves *m, struct err *err)
{
	size_t nr = m->s->files.nr;
	CLEANUP(free) size_t *order = calloc(nr + 1, sizeof(*order));

	m->named_often = calloc(nr + 1, sizeof(*m->named_often));
	if (!order || !m->named_often)
		return no_memory(err);
	for (size_t i = 0; i < nr; i++)
		order[i] = i;
	qsort_r(order, nr, sizeof(*order), compare_files, m);
	for (size_t i = 1; i < nr; i++)
		if (compare_files(&order[i - 1], &order[i], m) == 0)
			m->named_often[order[i - 1]] = m->named_often[order[i]] = true;
	return 0;
}

/* Bytes in 2^-64, as share_t. */
struct part {
	share_t freed, pinned;
};

/* What all that move free together is everybody's in equal parts: each of their steps is needed for it.  A part is kept as what one
 * would have got who moved all over the disk up to here; each has the difference between the end and the beginning of his
 * stretches, and nobody needs to know who moves at a place. */
struct sweep {
	uint64_t at, nr, nr_moving;
	struct part part;
	struct part *of_images;
};

/* Between two file systems nobody moves. */
static void sweep_to(struct sweep *w, uint64_t at)
{
	share_t part = w->nr_moving ? ((share_t)(at - w->at) << 64) / w->nr_moving : 0;

	w->at = at;
	if (w->nr <= 1) /* but the disk says that it is shared: by a file that is none of ours */
		w->part.pinned += part;
	else if (w->nr_moving >= w->nr)
		w->part.freed += part;
}

static void take_event(struct sweep *w, const struct record *r)
{
	struct part *p = &w->of_images[r->value & ~(EVENT_MOVES | EVENT_END)];
	bool end = r->value & EVENT_END;

	sweep_to(w, r->key.lo);
	if (!(r->value & EVENT_MOVES)) {
		w->nr += end ? (uint64_t)-1 : 1;
		return;
	}
	w->nr_moving += end ? (uint64_t)-1 : 1;
	p->freed += end ? w->part.freed : -w->part.freed;
	p->pinned += end ? w->part.pinned : -w->part.pinned;
}

static uint64_t whole_bytes(share_t part)
{
	return (uint64_t)((part + ((share_t)1 << 63)) >> 64);
}

static int sweep_events(struct moves *m, struct sweep *w, struct err *err)
{
	const struct record *r;
	ssize_t nr;

	while ((nr = sorter_next(m->events, &r, err)) > 0) {
		if (check_stopped(m, err) < 0)
			return -1;
		for (ssize_t i = 0; i < nr; i++)
			take_event(w, &r[i]);
	}
	for (size_t i = 0; nr == 0 && i < m->s->images.nr; i++) {
		m->s->plan->images[i].saving += whole_bytes(w->of_images[i].freed);
		m->s->plan->images[i].pinned += whole_bytes(w->of_images[i].pinned);
	}
	return (int)nr;
}

static int sweep(struct moves *m, struct err *err)
{
	CLEANUP(free) struct part *of_images = calloc(m->s->images.nr + 1, sizeof(*of_images));
	struct sweep w = { .of_images = of_images };

	if (!of_images)
		return no_memory(err);
	for (size_t i = 0; i < m->s->files.nr; i++) /* also of images that take no part */
		if (add_references(m, i, err) < 0)
			return -1;
	return sorter_finish(m->events, err) < 0 ? -1 : sweep_events(m, &w, err);
}

/* An image that is rewritten may cost more than it saves, which others that are then pay for.  None saves more than it takes:
 * tables may tell of the same block many times over. */
static int end_savings(struct moves *m, struct err *err)
{
	CLEANUP(free) uint64_t *owed = calloc(m->s->file_systems.nr + 1, sizeof(*owed));

	if (!owed)
		return no_memory(err);
	for (int paying = 0; paying < 2; paying++) {
		for (size_t i = 0; i < m->s->images.nr; i++) {
			const struct store_image *im = &m->s->images.items[i];
			struct plan_image *p = &m->s->plan->images[i];
			uint64_t cost = (int64_t)p->saving < 0 ? -p->saving : 0;
			uint64_t pays = paying && im->relayout ? min_u64(p->saving, owed[im->fs]) : 0;

			owed[im->fs] += cost - pays;
			p->saving = cost ? 0 : min_u64(p->saving - pays, p->used);
		}
	}
	return 0;
}

/* ---- chains ---- */

static uint64_t min_blocks(const struct moves *m)
{
	return max_u64(m->o.min_run / BLOCK_SIZE, 1);
}

static struct move move_of(const struct moves *m, uint64_t position, uint64_t origin, uint64_t nr)
{
	return (struct move){
		.image = m->ranks.items[POSITION_RANK(position)], .address = POSITION_BLOCK(position) * BLOCK_SIZE,
		.origin = m->ranks.items[POSITION_RANK(origin)], .from = POSITION_BLOCK(origin) * BLOCK_SIZE,
		.len = nr * BLOCK_SIZE,
	};
}

static int write_move(struct moves *m, const struct move *v, struct err *err)
{
	struct span *s = &m->spans.items[v->image];

	if (!s->nr)
		s->first = m->nr;
	s->nr++;
	s->bytes += v->len;
	m->nr++;
	return file_writer_append(&m->writer, v, sizeof(*v), err);
}

/* Chains of short runs are worth it only when the gaps turn out to be alike as well: most of it has to be known. */
static int end_chain(struct moves *m, struct chain *c, struct err *err)
{
	uint64_t len = c->end - c->begin;
	struct move v;

	if (!len)
		return 0;
	v = move_of(m, c->begin, c->origin, len);
	v.has_gaps = c->known < len;
	v.first_gap = m->nr_gaps;
	v.nr_gaps = c->nr_gaps;
	c->end = c->begin = 0;
	if (!c->long_runs && (len < min_blocks(m) || 2 * c->known < len))
		return 0;
	m->nr_gaps += v.nr_gaps;
	if (file_writer_append(&m->gap_writer, c->gaps, v.nr_gaps * sizeof(*c->gaps), err) < 0)
		return -1;
	return write_move(m, &v, err);
}

static int end_chains(struct moves *m, uint64_t before, struct err *err)
{
	for (unsigned i = 0; i < CHAINS; i++)
		if (m->chains[i].end && m->chains[i].until < before && end_chain(m, &m->chains[i], err) < 0)
			return -1;
	return 0;
}

/* What is filled with the same block or blocks again and again is like the first ones of them, and nothing else is known of it: in
 * copies it is like what lies at its place.  It is no gap. */
static void fill_gaps(struct moves *m, uint64_t position, uint64_t origin, uint64_t nr)
{
	for (unsigned i = 0; i < CHAINS && position == m->run_end && origin == m->run_origin; i++)
		m->chains[i].until = position + nr;
	m->run_end = position + nr;
	m->run_origin = origin;
}

/* A gap does not go over a run that is long enough on its own: that shares with its original, not with what lies there. */
static int end_others(struct moves *m, const struct chain *c, struct err *err)
{
	for (unsigned i = 0; i < CHAINS; i++)
		if (&m->chains[i] != c && m->chains[i].end && end_chain(m, &m->chains[i], err) < 0)
			return -1;
	return 0;
}

/* The first to give way: one that is not in use, one that is not worth a move so far, the oldest. */
static bool is_worse(const struct chain *a, const struct chain *b)
{
	if (!a->end || !b->end)
		return !a->end && b->end;
	if (!a->long_runs != !b->long_runs)
		return !a->long_runs;
	return a->end < b->end;
}

static struct chain *chain_for(struct moves *m, uint64_t position, uint64_t origin)
{
	struct chain *worst = &m->chains[0];

	for (unsigned i = 0; i < CHAINS; i++) {
		struct chain *c = &m->chains[i];

		/* equally far apart, in the same images; over the gap nothing is its own original */
		if (c->end && position - c->begin == origin - c->origin &&
		    POSITION_RANK(position) == POSITION_RANK(c->begin) && POSITION_RANK(origin) == POSITION_RANK(c->origin))
			return c;
		if (is_worse(c, worst))
			worst = c;
	}
	return worst;
}

static bool goes_on(const struct chain *c, uint64_t position, uint64_t origin)
{
	return c->end && position - c->begin == origin - c->origin && POSITION_RANK(c->origin) == POSITION_RANK(origin) &&
	       POSITION_RANK(c->begin) == POSITION_RANK(position) && c->nr_gaps < GAP_ROOM;
}

static int take_run(struct moves *m, uint64_t position, uint64_t origin, uint64_t nr, struct err *err)
{
	struct move v = move_of(m, position, origin, nr);
	struct plan_image *p = &m->s->plan->images[v.image];
	struct chain *c;

	p->duplicate += v.len;
	m->s->images.items[v.origin].gives += v.len;
	if (m->s->images.items[v.image].fixed)
		return 0;
	if (end_chains(m, position > GAP_BLOCKS ? position - GAP_BLOCKS : 0, err) < 0)
		return -1;
	fill_gaps(m, position, origin, nr);
	c = chain_for(m, position, origin);
	if (!goes_on(c, position, origin)) {
		if (end_chain(m, c, err) < 0)
			return -1;
		*c = (struct chain){ .begin = position, .origin = origin, .end = position };
	}
	if (position > c->end)
		c->gaps[c->nr_gaps++] = (struct stored_gap){ (uint32_t)(c->end - c->begin), (uint32_t)(position - c->end) };
	c->end = c->until = position + nr;
	c->known += nr;
	if (nr < min_blocks(m)) {
		p->short_runs += v.len;
		return 0;
	}
	c->long_runs += nr;
	if (end_others(m, c, err) < 0)
		return -1;
	return move_each_piece(m->s, &v, account_part, m, err);
}

/* ---- one file system ---- */

static bool usable(void *ctx, uint32_t rank, uint64_t block)
{
	struct moves *m = ctx;
	size_t image = m->ranks.items[rank];
	struct range r;

	if (!m->s->images.items[image].mixed)
		return true;
	return store_find(m->s, image, block * BLOCK_SIZE, &r, NULL) > 0;
}

static int take_duplicates(struct moves *m, struct duplicates *d, struct err *err)
{
	uint64_t position = 0, origin = 0, len = 0;
	const struct record *r;
	ssize_t nr;

	while ((nr = duplicates_next(d, &r, err)) > 0) {
		if (check_stopped(m, err) < 0)
			return -1;
		for (ssize_t i = 0; i < nr; i++) {
			if (len && r[i].key.hi == position + len && r[i].value == origin + len) {
				len++;
				continue;
			}
			if (len && take_run(m, position, origin, len, err) < 0)
				return -1;
			position = r[i].key.hi;
			origin = r[i].value;
			len = 1;
		}
	}
	if (nr < 0 || (len && take_run(m, position, origin, len, err) < 0))
		return -1;
	return end_chains(m, UINT64_MAX, err);
}

static int find_on(struct moves *m, size_t fs, struct err *err)
{
	struct duplicates_options o = {
		.memory = m->o.memory, .nr_threads = m->o.nr_threads, .stopper = m->s->stopper, .usable = usable,
		.sharers = m->o.sharers, .ctx = m,
	};
	const struct store_fs *on = &m->s->file_systems.items[fs];

	CLEANUP(free) struct duplicates_image *images = calloc(m->s->images.nr + 1, sizeof(*images));
	CLEANUP(duplicates_free) struct duplicates *d = NULL;

	if (!images)
		return no_memory(err);
	if (!o.sharers && on->whole_extents)
		o.sharers = BTRFS_SHARERS;
	m->ranks.nr = 0;
	for (size_t i = 0; i < m->s->ranks.nr; i++) {
		const struct store_image *im = &m->s->images.items[m->s->ranks.items[i]];

		if (im->out || im->fs != fs || im->copy_of != STORE_NO_COPY)
			continue;
		images[m->ranks.nr] = (struct duplicates_image){ im->id, im->layer };
		if (vec_push(&m->ranks, m->s->ranks.items[i]) < 0)
			return no_memory(err);
	}
	if (!m->ranks.nr)
		return 0;
	d = duplicates_find(m->s->c, images, m->ranks.nr, &o, err);
	return d ? take_duplicates(m, d, err) : -1;
}

/* ---- copies ---- */

/* What it holds at odd places, and all else of the file. */
static int take_copy(struct moves *m, size_t image, struct err *err)
{
	const struct store_image *i = &m->s->images.items[image];
	struct move v = { .image = image, .origin = i->copy_of, .has_gaps = 1, .of_files = 1 };
	struct plan_image *p = &m->s->plan->images[image];

	v.len = round_down(m->s->files.items[i->first_file].size, m->s->file_systems.items[i->fs].block);
	if (v.len < m->o.min_run)
		return 0;
	p->duplicate = p->stored;
	p->misaligned = 0;
	if (move_each_piece(m->s, &v, account_part, m, err) < 0)
		return -1;
	return write_move(m, &v, err);
}

/* ---- the whole ---- */

static int find(struct moves *m, struct err *err)
{
	for (size_t i = 0; i < m->s->images.nr; i++)
		if (vec_push(&m->spans, (struct span){ 0 }) < 0)
			return no_memory(err);
	if (find_named_often(m, err) < 0)
		return -1;
	for (size_t i = 0; i < m->s->file_systems.nr; i++)
		if (m->s->file_systems.items[i].dedupes && find_on(m, i, err) < 0)
			return -1;
	for (size_t i = 0; i < m->s->images.nr; i++)
		if (m->s->images.items[i].copy_of != STORE_NO_COPY && take_copy(m, i, err) < 0)
			return -1;
	if (file_writer_flush(&m->writer, err) < 0 || file_writer_flush(&m->gap_writer, err) < 0)
		return -1;
	return sweep(m, err) < 0 ? -1 : end_savings(m, err);
}

struct moves *moves_find(struct store *s, const struct moves_options *o, struct err *err)
{
	CLEANUP(moves_free) struct moves *m = calloc(1, sizeof(*m));
	int dirfd = catalog_spool_dirfd(s->c);

	if (!m) {
		no_memory(err);
		return NULL;
	}
	m->s = s;
	m->o = *o;
	m->writer.fd = m->gap_writer.fd = -1;
	if (file_writer_open(&m->writer, dirfd, NAME, 64 * KIB, err) < 0 ||
	    file_writer_open(&m->gap_writer, dirfd, GAPS_NAME, 64 * KIB, err) < 0)
		return NULL;
	file_unlink(dirfd, NAME, NULL);
	file_unlink(dirfd, GAPS_NAME, NULL);
	m->fd = m->writer.fd;
	m->gap_fd = m->gap_writer.fd;
	m->events = sorter_new(memory_left(o->memory) / 8, dirfd, err);
	if (!m->events || find(m, err) < 0)
		return NULL;
	sorter_free(STEAL(m->events));
	return STEAL(m);
}

uint64_t moves_count(const struct moves *m, size_t image, uint64_t *ret_bytes)
{
	*ret_bytes = m->spans.items[image].bytes;
	return m->spans.items[image].nr;
}

int moves_get(struct moves *m, size_t image, uint64_t n, struct move *ret, struct err *err)
{
	uint64_t at = m->spans.items[image].first + n;

	if (at < m->window.first || at >= m->window.first + m->window.nr) {
		m->window.first = at;
		m->window.nr = 0;
		if (file_read(m->fd, m->window.items, min_u64(MOVE_ROOM, m->nr - at) * sizeof(struct move),
			      at * sizeof(struct move), err) < 0)
			return -1;
		m->window.nr = min_u64(MOVE_ROOM, m->nr - at);
	}
	*ret = m->window.items[at - m->window.first];
	return 0;
}

int moves_gap(struct moves *m, const struct move *v, uint64_t n, struct move_gap *ret, struct err *err)
{
	uint64_t at = v->first_gap + n;
	const struct stored_gap *g;

	if (at < m->gap_window.first || at >= m->gap_window.first + m->gap_window.nr) {
		m->gap_window.first = at;
		m->gap_window.nr = 0;
		if (file_read(m->gap_fd, m->gap_window.items, min_u64(MOVE_ROOM, m->nr_gaps - at) * sizeof(*g), at * sizeof(*g),
			      err) < 0)
			return -1;
		m->gap_window.nr = min_u64(MOVE_ROOM, m->nr_gaps - at);
	}
	g = &m->gap_window.items[at - m->gap_window.first];
	*ret = (struct move_gap){ g->at * BLOCK_SIZE, g->len * BLOCK_SIZE };
	return 0;
}

void moves_free(struct moves *m)
{
	if (!m)
		return;
	file_writer_release(&m->writer);
	file_writer_release(&m->gap_writer);
	vec_release(&m->spans);
	vec_release(&m->ranks);
	free(m->named_often);
	sorter_free(m->events);
	free(m);
}
