/* SPDX-License-Identifier: Apache-2.0 */
#include "scanner/merge.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "scanner/base/checked.h"
#include "scanner/base/memory.h"
#include "scanner/base/parallel.h"
#include "scanner/base/vec.h"
#include "scanner/index/join.h"
#include "scanner/live.h"

/*
 * Work is cut into units: a stretch of keys that is both whole slices of the spool files and whole partitions of the index.  A
 * unit's requests are sorted and then either become a small table of their own (a delta), or are joined with all tables of
 * the unit, whose stale places fall out, into new partitions, as many as their size asks for.
 *
 *	slices      |0|1|2|3|4|5|6|7|                 a partition that holds several slices is a unit,
 *	partitions  |   0   | 2 |4|5|6|7a|7b|         a slice that holds several partitions is one as well
 *	units       |   a   | b |c|d|e|  f  |
 *
 * Units are done in order of key and committed a few at a time, so what is committed is a prefix of the keys: merge_done says
 * how far.  Tables are synced before the commit that names them; those it no longer names are removed after it.  What a kill
 * leaves over is swept at the next start.
 *
 * Nobody waits for a sync that another thread can wait for: spool files are synced from when they are complete, tables from
 * when they are written, and only a commit that relies on them waits until all are.
 */

#define PARTITION_TARGET ((uint64_t)256 * 1024) /* places; 4 MiB on disk; more where OUT_BITS_MAX bounds the splitting */
#define PIECE_REQUESTS ((uint64_t)64 * 1024) /* sorted at once, where no slice has more: 1.5 MiB and as much scratch */
#define SLICE_BITS 8
#define OUT_BITS_MAX (SLICE_BITS + 6) /* so that a unit never has more tables than can be open at once */
#define TABLE_ROOM (64 * 1024)
#define TABLES_ROOM (2 * 1024 * 1024) /* for all tables of a unit */
#define UNIT_TABLES_MAX 1000
#define KEYS_END ((uint64_t)1 << 32)
#define COMMIT_SEGMENTS 65536 /* rows of segments taken in one transaction */

struct input {
	int64_t image;
	uint64_t shift;
	struct spool *spool;
};

struct output {
	unsigned bits;
	uint32_t prefix;
	struct index_table table; /* no name: the partition is empty */
};

struct unit {
	unsigned bits; /* at most SLICE_BITS */
	uint32_t prefix;
	unsigned out_bits;
	bool delta;
	uint64_t nr_requests, nr_places;
	unsigned nr_partitions, max_tables, max_bits;
	VEC(struct index_table) tables; /* to join with, in order of partition, base first */
	VEC(struct output) outputs;
};

struct merge {
	struct catalog *c;
	const struct merge_options *o;
	VEC(struct input) inputs;
	VEC(struct partition) partitions;
	VEC(struct unit) units;
	uint64_t slices[SPOOL_SLICES]; /* requests */
	struct live live;
	bool rewrite; /* so much is stale that every partition is written anew */
	unsigned nr_threads;
	struct sorter **sorters; /* one a thread */
	struct syncer *syncer; /* of tables */
	_Atomic uint64_t serial, requests_done;
	uint64_t requests_total;
	size_t batch_first;
};

static bool stopped(const struct merge *m)
{
	return stopper_says(m->o->stopper);
}

static int canceled(struct err *err)
{
	return err_set(err, ERR_CANCELED, "stopped while the index was being brought up to date");
}

/* ---- preparing ---- */

static int64_t image_of_spool(const char *name)
{
	char *end;
	long long id = strtoll(name, &end, 10);

	return end != name && strcmp(end, ".req") == 0 ? (int64_t)id : 0;
}

/* Ids are given to the whole stretch of segments that the image may have, so that a new image is one run. */
static uint64_t take_generation(const struct spool *s, uint64_t *next)
{
	uint64_t generation = *next;

	*next += div_up(s->image->span, SEGMENT_SIZE) + 1;
	return generation;
}

/* A complete spool file. */
struct ready {
	int64_t id;
	bool own; /* as in struct merge_own */
	bool damaged;
};

struct preparing {
	struct catalog *c;
	struct merge_own *own;
	struct stopper *stopper;
	VEC(struct ready) ready;
	uint64_t next;	      /* segment id */
	uint64_t nr_segments; /* taken since the last commit */
};

static int begin(struct catalog *c, struct preparing *p, struct err *err)
{
	p->nr_segments = 0;
	if (catalog_begin(c, err) < 0)
		return -1;
	return catalog_number(c, "next_segment", &p->next, err);
}

/* From here on the catalog says that what is in the spool is known. */
static int commit(struct catalog *c, struct preparing *p, struct err *err)
{
	if (p->own && syncer_wait(p->own->syncer, err) < 0)
		return -1;
	if (file_sync_dir(catalog_spool_dirfd(c), err) < 0)
		return -1;
	if (catalog_set_number(c, "next_segment", p->next, err) < 0 ||
	    catalog_set_number(c, "merge_pending", 1, err) < 0)
		return -1;
	return catalog_commit(c, err);
}

static int take_one(struct catalog *c, int64_t id, struct spool *s, struct preparing *p, struct err *err)
{
	uint64_t generation = take_generation(s, &p->next);

	if (catalog_take_spool(c, id, s, generation, err) < 0)
		return -1;
	if (s->totals.nr_requests && catalog_add_merge_input(c, id, generation * SEGMENT_BLOCKS, err) < 0)
		return -1;
	p->nr_segments += s->totals.nr_segments;
	if (p->nr_segments < COMMIT_SEGMENTS)
		return 0;
	return commit(c, p, err) < 0 ? -1 : begin(c, p, err);
}

/* A spool file that is damaged is thrown away: its image has no row that is up to date, and is read again. */
static int take_ready(struct catalog *c, const struct ready *r, struct preparing *p, struct err *err)
{
	CLEANUP(catalog_image_release) struct catalog_image image = { 0 };
	CLEANUP(spool_close) struct spool *s = NULL;
	char name[32], file[40];
	int rc = catalog_image_by_id(c, r->id, &image, err);

	if (rc < 0)
		return -1;
	snprintf(name, sizeof(name), "%lld", (long long)r->id);
	snprintf(file, sizeof(file), "%s.req", name);
	if (rc == 0 || r->damaged)
		return file_unlink(catalog_spool_dirfd(c), file, err);
	s = spool_open(catalog_spool_dirfd(c), name, false, err);
	if (!s)
		return -1;
	if (s->image->base == image.base)
		return take_one(c, r->id, s, p, err);
	return file_unlink(catalog_spool_dirfd(c), file, err);
}

/* Looks at every byte of a spool file, and makes it durable. */
static int check_ready(void *ctx, unsigned thread, size_t item, struct err *err)
{
	struct preparing *p = ctx;
	struct ready *r = &p->ready.items[item];
	CLEANUP(spool_close) struct spool *s = NULL;
	struct err why = ERR_INIT;
	char name[32];

	(void)thread;
	if (r->own)
		return 0;
	if (stopper_says(p->stopper))
		return canceled(err);
	snprintf(name, sizeof(name), "%lld", (long long)r->id);
	s = spool_open(catalog_spool_dirfd(p->c), name, true, &why);
	r->damaged = !s && (why.kind == ERR_FORMAT || why.kind == ERR_UNSUPPORTED);
	if (r->damaged)
		return 0;
	if (!s)
		return err_set(err, why.kind, "%s", why.text);
	return spool_sync(s, err);
}

struct spool_call {
	struct catalog *c;
	int (*call)(struct catalog *c, int64_t id, void *arg, struct err *err);
	void *arg;
};

static int call_for_spool(void *ctx, const char *name, struct err *err)
{
	struct spool_call *s = ctx;
	int64_t id = image_of_spool(name);

	return id ? s->call(s->c, id, s->arg, err) : 0;
}

static int each_spool(struct catalog *c, int (*call)(struct catalog *c, int64_t id, void *arg, struct err *err),
		      void *arg, struct err *err)
{
	struct spool_call s = { c, call, arg };

	return file_each_name(catalog_spool_dirfd(c), call_for_spool, &s, err);
}

static int compare_ids(const void *a, const void *b)
{
	int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;

	return x < y ? -1 : x > y;
}

static bool is_own(const struct merge_own *own, int64_t id)
{
	return own && own->images.nr && bsearch(&id, own->images.items, own->images.nr, sizeof(id), compare_ids);
}

static int add_ready(struct catalog *c, int64_t id, void *arg, struct err *err)
{
	struct preparing *p = arg;

	(void)c;
	return vec_push(&p->ready, (struct ready){ .id = id, .own = is_own(p->own, id) }) < 0
		       ? err_set(err, ERR_MEMORY, "no memory for a list of spool files")
		       : 0;
}

static int take_all(struct catalog *c, struct preparing *p, struct err *err)
{
	if (begin(c, p, err) < 0)
		return -1;
	for (size_t i = 0; i < p->ready.nr; i++) {
		if (stopper_says(p->stopper))
			return canceled(err);
		if (take_ready(c, &p->ready.items[i], p, err) < 0)
			return -1;
	}
	return catalog_claim_parts(c, err) < 0 ? -1 : commit(c, p, err);
}

int merge_prepare(struct catalog *c, struct merge_own *own, struct stopper *stopper, unsigned nr_threads, struct err *err)
{
	struct preparing p = { .c = c, .own = own, .stopper = stopper };
	int rc;

	if (own && own->images.nr)
		qsort(own->images.items, own->images.nr, sizeof(own->images.items[0]), compare_ids);
	rc = each_spool(c, add_ready, &p, err);
	if (rc == 0)
		rc = parallel_run(nr_threads, p.ready.nr, check_ready, &p, err);
	if (rc == 0 && (rc = take_all(c, &p, err)) < 0)
		catalog_rollback(c);
	vec_release(&p.ready);
	return rc;
}

int merge_pending(struct catalog *c, bool *ret, struct err *err)
{
	uint64_t pending;

	if (catalog_number(c, "merge_pending", &pending, err) < 0)
		return -1;
	*ret = pending;
	return 0;
}

/* ---- loading ---- */

static int load_input(void *ctx, int64_t image, uint64_t shift, struct err *err)
{
	struct merge *m = ctx;
	struct input input = { .image = image, .shift = shift };
	char name[32];

	snprintf(name, sizeof(name), "%lld", (long long)image);
	input.spool = spool_open(catalog_spool_dirfd(m->c), name, false, err);
	if (!input.spool)
		return -1;
	if (vec_push(&m->inputs, input) < 0) {
		spool_close(input.spool);
		return err_set(err, ERR_MEMORY, "no memory for a list of spool files");
	}
	if (spool_count_slices(input.spool, m->slices, err) < 0)
		return -1;
	spool_let_go(input.spool);
	return 0;
}

static int load_partition(void *ctx, const struct partition *p, struct err *err)
{
	struct merge *m = ctx;

	return vec_push(&m->partitions, *p) < 0 ? err_set(err, ERR_MEMORY, "no memory for a list of partitions") : 0;
}

static uint64_t slice_requests(const struct merge *m, unsigned bits, uint32_t prefix)
{
	uint64_t sum = 0;

	for (uint32_t i = prefix << (SLICE_BITS - bits); i < (prefix + 1) << (SLICE_BITS - bits); i++)
		sum += m->slices[i];
	return sum;
}

/* An empty partition splits at no cost: into as many as the requests to come ask for. */
static int split_empty(struct merge *m, unsigned bits, uint32_t prefix, struct err *err)
{
	if (bits == SLICE_BITS || slice_requests(m, bits, prefix) <= PARTITION_TARGET)
		return catalog_add_partition(m->c, bits, prefix, err);
	if (split_empty(m, bits + 1, prefix * 2, err) < 0)
		return -1;
	return split_empty(m, bits + 1, prefix * 2 + 1, err);
}

static int load_partitions(struct merge *m, struct err *err)
{
	m->partitions.nr = 0;
	return catalog_each_partition(m->c, load_partition, m, err);
}

static int split_empty_partitions(struct merge *m, struct err *err)
{
	if (catalog_begin(m->c, err) < 0)
		return -1;
	for (size_t i = 0; i < m->partitions.nr; i++) {
		const struct partition *p = &m->partitions.items[i];

		if (p->nr_tables || p->bits >= SLICE_BITS)
			continue;
		if (catalog_drop_partitions(m->c, p->bits, p->prefix, err) < 0 ||
		    split_empty(m, p->bits, p->prefix, err) < 0) {
			catalog_rollback(m->c);
			return -1;
		}
	}
	if (catalog_commit(m->c, err) < 0)
		return -1;
	return load_partitions(m, err);
}

static uint64_t first_key(unsigned bits, uint32_t prefix)
{
	return (uint64_t)prefix << (32 - bits);
}

/* Partitions come in order of key, so those of one slice follow one another. */
static int add_to_units(struct merge *m, const struct partition *p, struct err *err)
{
	unsigned bits = p->bits < SLICE_BITS ? p->bits : SLICE_BITS;
	uint32_t prefix = p->prefix >> (p->bits - bits);
	struct unit *u = m->units.nr ? &m->units.items[m->units.nr - 1] : NULL;

	if (!u || u->bits != bits || u->prefix != prefix) {
		struct unit new = { .bits = bits, .prefix = prefix, .nr_requests = slice_requests(m, bits, prefix) };

		if (vec_push(&m->units, new) < 0)
			return err_set(err, ERR_MEMORY, "no memory for a list of units");
		u = &m->units.items[m->units.nr - 1];
	}
	u->nr_partitions++;
	u->nr_places += p->nr_places;
	if (u->max_tables < p->nr_tables)
		u->max_tables = p->nr_tables;
	if (u->max_bits < p->bits)
		u->max_bits = p->bits;
	return 0;
}

static int make_units(struct merge *m, struct err *err)
{
	for (size_t i = 0; i < m->partitions.nr; i++)
		if (add_to_units(m, &m->partitions.items[i], err) < 0)
			return -1;
	return 0;
}

/* Small additions become deltas: the base is not even read. */
static void choose_way(const struct merge *m, struct unit *u)
{
	uint64_t expected = u->nr_places + u->nr_requests;

	u->delta = !m->rewrite && u->nr_places && u->nr_requests < u->nr_places / 8 &&
		   u->max_tables < PARTITION_TABLES && u->max_tables > 0;
	u->out_bits = u->bits;
	while (u->out_bits < OUT_BITS_MAX && expected >> (u->out_bits - u->bits) > PARTITION_TARGET)
		u->out_bits++;
	if (u->out_bits < u->max_bits)
		u->out_bits = u->max_bits;
}

/* More than a quarter of the places stale: time to sweep, even without requests. */
static int choose_rewrite(struct merge *m, struct err *err)
{
	uint64_t nr_live = 0, nr_places = 0, live_blocks;

	for (size_t i = 0; i < m->partitions.nr; i++)
		nr_places += m->partitions.items[i].nr_places;
	if (catalog_live_blocks(m->c, &live_blocks, err) < 0)
		return -1;
	nr_live = live_blocks;
	m->rewrite = nr_places + m->requests_total > nr_live + nr_live / 3 + 4096;
	return 0;
}

/* ---- a unit ---- */

static bool unit_needs_work(const struct merge *m, const struct unit *u)
{
	return u->nr_requests || (m->rewrite && u->nr_places);
}

/* The requests of a unit, sorted a few slices at a time: small pieces are sorted in the cache, and the same memory serves
 * them all. */
struct feed {
	struct merge *m;
	struct sorter *sorter;
	unsigned next, end; /* slices */
};

static int sort_slices(struct feed *f, unsigned first, unsigned last, struct err *err)
{
	struct merge *m = f->m;

	sorter_reset(f->sorter);
	for (size_t i = 0; i < m->inputs.nr; i++) {
		const struct input *in = &m->inputs.items[i];

		if (stopped(m))
			return canceled(err);
		if (spool_requests(in->spool, first, last, in->shift, f->sorter, err) < 0)
			return -1;
	}
	return sorter_finish(f->sorter, err);
}

/* The next piece.  1, or 0 after the last. */
static int sort_more(void *ctx, struct err *err)
{
	struct feed *f = ctx;
	unsigned first = f->next;
	uint64_t nr = 0;

	while (f->next < f->end && (nr == 0 || nr + f->m->slices[f->next] <= PIECE_REQUESTS))
		nr += f->m->slices[f->next++];
	if (nr == 0)
		return 0;
	return sort_slices(f, first, f->next - 1, err) < 0 ? -1 : 1;
}

struct unit_writer {
	struct merge *m;
	struct unit *u;
	struct table_writer *w;
	struct output out;
};

static int finish_output(struct unit_writer *uw, struct err *err)
{
	struct table_writer *w = uw->w;

	uw->w = NULL;
	if (w && table_writer_finish(w, uw->m->syncer, &uw->out.table.stats, err) < 0)
		return -1;
	return vec_push(&uw->u->outputs, uw->out) < 0 ? err_set(err, ERR_MEMORY, "no memory for a partition") : 0;
}

/* Closes outputs until the one that the key belongs to is at hand; empty ones are partitions as well. */
static int move_to(struct unit_writer *uw, uint32_t prefix, struct err *err)
{
	while (uw->out.prefix < prefix) {
		if (finish_output(uw, err) < 0)
			return -1;
		uw->out = (struct output){ .bits = uw->out.bits, .prefix = uw->out.prefix + 1 };
	}
	return 0;
}

static int write_place(struct unit_writer *uw, struct key key, uint64_t place, struct err *err)
{
	uint32_t prefix = key_prefix(key, uw->out.bits);

	if (prefix != uw->out.prefix && move_to(uw, prefix, err) < 0)
		return -1;
	if (!uw->w) {
		snprintf(uw->out.table.name, sizeof(uw->out.table.name), "%u-%x-%llx", uw->out.bits, prefix,
			 (unsigned long long)atomic_fetch_add(&uw->m->serial, 1));
		uw->w = table_writer_new(catalog_index_dirfd(uw->m->c), uw->out.table.name, err);
		if (!uw->w)
			return -1;
	}
	return table_writer_add(uw->w, key, place, err);
}

static int write_joined(struct unit_writer *uw, struct join *j, struct err *err)
{
	const struct merge *m = uw->m;
	uint64_t place, block, n = 0;
	uint32_t rank;
	struct key key;
	int rc;

	while ((rc = join_next_key(j, &key, err)) > 0) {
		while ((rc = join_next_place(j, &place, err)) > 0) {
			if ((++n & 0x3fff) == 0 && stopped(m))
				return canceled(err);
			/* What a scan has just asked for is live; what lay in tables may not be any more. */
			if (uw->u->tables.nr && !live_find(&m->live, place, &rank, &block))
				continue;
			if (write_place(uw, key, place, err) < 0)
				return -1;
		}
		if (rc < 0)
			return -1;
	}
	if (rc < 0)
		return -1;
	return move_to(uw, ((uw->u->prefix + 1) << (uw->out.bits - uw->u->bits)) - 1, err) < 0 ? -1
											       : finish_output(uw, err);
}

static int join_and_write(struct merge *m, struct unit *u, struct table **tables, struct sorter *sorter,
			  struct err *err)
{
	struct feed feed = { m, sorter, u->prefix << (SLICE_BITS - u->bits), (u->prefix + 1) << (SLICE_BITS - u->bits) };
	unsigned bits = u->delta ? u->max_bits : u->out_bits;
	struct unit_writer uw = { .m = m, .u = u, .out = { .bits = bits, .prefix = u->prefix << (bits - u->bits) } };
	CLEANUP(join_free) struct join *j = join_new(tables, u->tables.nr, sorter, err);
	int rc = j ? 0 : -1;

	sorter_reset(sorter);
	if (rc == 0 && (rc = sorter_finish(sorter, err)) == 0) { /* empty: the first piece is fetched as all others */
		join_set_more(j, sort_more, &feed);
		rc = write_joined(&uw, j, err);
	}
	table_writer_free(uw.w);
	return rc;
}

static int run_unit(void *ctx, unsigned thread, size_t item, struct err *err)
{
	struct merge *m = ctx;
	struct unit *u = &m->units.items[m->batch_first + item];
	CLEANUP(free) struct table **tables = calloc(u->tables.nr + 1, sizeof(struct table *));
	size_t room =
		max_u64(min_u64(TABLE_ROOM, TABLES_ROOM / (u->tables.nr + 1) / TABLE_PAGE * TABLE_PAGE), TABLE_PAGE);
	int rc = tables ? 0 : err_set(err, ERR_MEMORY, "no memory for tables");

	if (!unit_needs_work(m, u))
		return 0;
	for (size_t i = 0; rc == 0 && i < u->tables.nr; i++)
		if (!(tables[i] = table_open(catalog_index_dirfd(m->c), u->tables.items[i].name, room, err)))
			rc = -1;
	if (rc == 0)
		rc = join_and_write(m, u, tables, m->sorters[thread], err);
	for (size_t i = 0; tables && i < u->tables.nr; i++)
		table_close(tables[i]);
	atomic_fetch_add(&m->requests_done, u->nr_requests);
	return rc;
}

/* ---- batches ---- */

/* The tables that a unit joins; also counts them against the limit of open ones. */
static int load_tables(struct merge *m, struct unit *u, size_t *at, struct err *err)
{
	struct index_table tables[PARTITION_TABLES];

	while (*at < m->partitions.nr) {
		const struct partition *p = &m->partitions.items[*at];
		ssize_t nr;

		if (first_key(p->bits, p->prefix) >= first_key(u->bits, u->prefix) + (KEYS_END >> u->bits))
			break;
		nr = u->delta || !unit_needs_work(m, u) ? 0 : catalog_tables(m->c, p->bits, p->prefix, tables, err);
		if (nr < 0)
			return -1;
		for (ssize_t i = 0; i < nr; i++)
			if (vec_push(&u->tables, tables[i]) < 0)
				return err_set(err, ERR_MEMORY, "no memory for a list of tables");
		(*at)++;
	}
	return u->tables.nr <= UNIT_TABLES_MAX ? 0
					       : err_set(err, ERR_UNSUPPORTED, "the index is too large for one merge");
}

static int commit_unit(struct merge *m, const struct unit *u, struct err *err)
{
	if (!unit_needs_work(m, u))
		return 0;
	if (!u->delta && catalog_drop_partitions(m->c, u->bits, u->prefix, err) < 0)
		return -1;
	for (size_t i = 0; i < u->outputs.nr; i++) {
		const struct output *o = &u->outputs.items[i];

		if (!u->delta && catalog_add_partition(m->c, o->bits, o->prefix, err) < 0)
			return -1;
		if (o->table.name[0] && catalog_add_table(m->c, o->bits, o->prefix, &o->table, err) < 0)
			return -1;
	}
	return 0;
}

static int commit_batch(struct merge *m, size_t nr, struct err *err)
{
	const struct unit *last = &m->units.items[m->batch_first + nr - 1];

	if (syncer_wait(m->syncer, err) < 0 || file_sync_dir(catalog_index_dirfd(m->c), err) < 0 ||
	    catalog_begin(m->c, err) < 0)
		return -1;
	for (size_t i = 0; i < nr; i++) {
		if (commit_unit(m, &m->units.items[m->batch_first + i], err) < 0) {
			catalog_rollback(m->c);
			return -1;
		}
	}
	if (catalog_set_number(m->c, "table_serial", m->serial, err) < 0 ||
	    catalog_set_number(m->c, "merge_done", first_key(last->bits, last->prefix) + (KEYS_END >> last->bits),
			       err) < 0) {
		catalog_rollback(m->c);
		return -1;
	}
	return catalog_commit(m->c, err);
}

static int unlink_replaced(struct merge *m, size_t nr, struct err *err)
{
	for (size_t i = 0; i < nr; i++) {
		struct unit *u = &m->units.items[m->batch_first + i];

		for (size_t k = 0; k < u->tables.nr; k++)
			if (catalog_remove_file(m->c, catalog_index_dirfd(m->c), u->tables.items[k].name, err) < 0)
				return -1;
		vec_release(&u->tables);
		vec_release(&u->outputs);
	}
	return 0;
}

static int run_batches(struct merge *m, uint64_t merged_to, struct err *err)
{
	size_t at = 0, per_batch = 8 * (size_t)m->nr_threads;

	/* Those done before we were stopped are not even committed again: that would take merge_done back. */
	for (m->batch_first = 0; m->batch_first < m->units.nr; m->batch_first++) {
		const struct unit *u = &m->units.items[m->batch_first];

		if (first_key(u->bits, u->prefix) >= merged_to)
			break;
		at += u->nr_partitions;
		m->requests_done += u->nr_requests;
	}
	while (m->batch_first < m->units.nr) {
		size_t nr = 0;

		if (stopped(m))
			return canceled(err);
		while (nr < per_batch && m->batch_first + nr < m->units.nr) {
			struct unit *u = &m->units.items[m->batch_first + nr];

			choose_way(m, u);
			if (load_tables(m, u, &at, err) < 0)
				return -1;
			nr++;
		}
		if (parallel_run(m->nr_threads, nr, run_unit, m, err) < 0 || commit_batch(m, nr, err) < 0 ||
		    unlink_replaced(m, nr, err) < 0)
			return -1;
		m->batch_first += nr;
		if (m->o->progress)
			m->o->progress(m->o->ctx, m->requests_done, m->requests_total);
	}
	return 0;
}

/* ---- the whole ---- */

static int drop_unknown_table(void *ctx, const char *name, struct err *err)
{
	struct merge *m = ctx;
	bool known;

	if (catalog_knows_table(m->c, name, &known, err) < 0)
		return -1;
	return known ? 0 : file_unlink(catalog_index_dirfd(m->c), name, err);
}

/* What is left of an image that is gone. */
static int drop_orphan(struct merge *m, const char *part, struct err *err)
{
	CLEANUP(catalog_image_release) struct catalog_image image = { 0 };
	int rc = catalog_image_by_id(m->c, strtoll(part, NULL, 10), &image, err);

	return rc ? (rc < 0 ? -1 : 0) : file_unlink(catalog_spool_dirfd(m->c), part, err);
}

/* Working files that a kill left, which have no name for longer than a moment, and beginnings of what is gone. */
static int drop_leftover(void *ctx, const char *name, struct err *err)
{
	struct merge *m = ctx;
	const char *dot = strrchr(name, '.');

	if (strncmp(name, "sort-", 5) == 0 || strcmp(name, "digests") == 0)
		return file_unlink(catalog_spool_dirfd(m->c), name, err);
	return dot && strcmp(dot, ".part") == 0 ? drop_orphan(m, name, err) : 0;
}

static int finish(struct merge *m, struct err *err)
{
	if (catalog_begin(m->c, err) < 0)
		return -1;
	if (catalog_clear_merge_inputs(m->c, err) < 0 || catalog_set_number(m->c, "merge_done", 0, err) < 0 ||
	    catalog_set_number(m->c, "merge_pending", 0, err) < 0) {
		catalog_rollback(m->c);
		return -1;
	}
	return catalog_commit(m->c, err);
}

/* A spool file that was taken names a state of its image that is past. */
static int drop_taken(struct catalog *c, int64_t id, void *unused, struct err *err)
{
	CLEANUP(catalog_image_release) struct catalog_image image = { 0 };
	CLEANUP(spool_close) struct spool *s = NULL;
	char name[32], file[40];
	int rc = catalog_image_by_id(c, id, &image, err);

	(void)unused;
	if (rc < 0)
		return -1;
	snprintf(name, sizeof(name), "%lld", (long long)id);
	snprintf(file, sizeof(file), "%s.req", name);
	if (rc > 0 && (s = spool_open(catalog_spool_dirfd(c), name, false, NULL)) && s->image->base == image.base)
		return 0;
	return catalog_remove_file(c, catalog_spool_dirfd(c), file, err);
}

static int make_sorters(struct merge *m, struct err *err)
{
	size_t each, memory = memory_left(m->o->memory),
		     least = 2 * 24 * PARTITION_TARGET; /* what sorts a partition's requests without going to disk */

	m->nr_threads = m->o->nr_threads ? m->o->nr_threads : 1;
	while (m->nr_threads > 1 && memory / m->nr_threads < least / 2)
		m->nr_threads--;
	each = memory / m->nr_threads;
	if (each > m->requests_total * 48 + MIB)
		each = m->requests_total * 48 + MIB;
	m->sorters = calloc(m->nr_threads, sizeof(*m->sorters));
	if (!m->sorters)
		return err_set(err, ERR_MEMORY, "no memory for sorting");
	for (unsigned i = 0; i < m->nr_threads; i++)
		if (!(m->sorters[i] = sorter_new(each, catalog_spool_dirfd(m->c), err)))
			return -1;
	return 0;
}

static int run(struct merge *m, struct err *err)
{
	uint64_t serial, merged_to;

	if (catalog_number(m->c, "table_serial", &serial, err) < 0 ||
	    catalog_number(m->c, "merge_done", &merged_to, err) < 0 ||
	    file_each_name(catalog_index_dirfd(m->c), drop_unknown_table, m, err) < 0 ||
	    file_each_name(catalog_spool_dirfd(m->c), drop_leftover, m, err) < 0 ||
	    catalog_each_merge_input(m->c, load_input, m, err) < 0 || load_partitions(m, err) < 0)
		return -1;
	m->serial = serial;
	for (unsigned i = 0; i < SPOOL_SLICES; i++)
		m->requests_total += m->slices[i];
	if (!merged_to && split_empty_partitions(m, err) < 0)
		return -1;
	if (choose_rewrite(m, err) < 0)
		return -1;
	if (m->requests_total || m->rewrite) {
		m->syncer = syncer_new(m->o->nr_threads, err);
		if (!m->syncer || live_load(&m->live, m->c, NULL, NULL, err) < 0 || make_sorters(m, err) < 0 ||
		    make_units(m, err) < 0 || run_batches(m, merged_to, err) < 0)
			return -1;
	}
	if (finish(m, err) < 0)
		return -1;
	return each_spool(m->c, drop_taken, NULL, err);
}

int merge_run(struct catalog *c, const struct merge_options *o, struct err *err)
{
	struct merge m = { .c = c, .o = o };
	int rc = run(&m, err);

	syncer_free(m.syncer);
	for (size_t i = 0; i < m.inputs.nr; i++)
		spool_close(m.inputs.items[i].spool);
	for (unsigned i = 0; m.sorters && i < m.nr_threads; i++)
		sorter_free(m.sorters[i]);
	for (size_t i = 0; i < m.units.nr; i++) {
		vec_release(&m.units.items[i].tables);
		vec_release(&m.units.items[i].outputs);
	}
	free(m.sorters);
	vec_release(&m.inputs);
	vec_release(&m.partitions);
	vec_release(&m.units);
	live_release(&m.live);
	return rc;
}
