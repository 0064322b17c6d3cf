/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "compactor/collect_parts.h"
#include "compactor/pool/nodes.h"
#include "scanner/base/checked.h"
#include "scanner/base/file.h"

/* Which dead clusters become holes follows from where the live ones are and from nothing else, so it is the same whatever was done
 * before, and a run that was cut short is finished by the next.  A hole between live clusters costs the file system an extent; so
 * there are two rules:
 *
 *	| live | dead, a hole, dead ... | live |	64 KiB and more without anything live: what is dead goes
 *	| dead | live | dead | live | dead ... |	a stretch of 1 MiB of which at most half lives: all that is dead goes
 *
 * Elsewhere what is dead stays: less than what lives, and mostly much less. */

#define MIN_RUN ((uint64_t)64 << 10)
#define STRETCH ((uint64_t)1 << 20)
#define STRETCH_LIVE 2 /* one part in so many, at most, of what is mostly dead */
#define MARKS_SHARE 4  /* of the memory */

/* ---- marking ---- */

static struct cluster_span span_of(const struct collecting *c, size_t in_batch)
{
	return clusters_span(c->p->clusters, c->first + in_batch);
}

/* The index in the batch of the file that an address lies in; false = it is in another batch. */
static bool find_in_batch(const struct collecting *c, uint64_t address, size_t *ret)
{
	for (size_t i = 0; i < c->batch.nr; i++)
		if (span_of(c, i).number == address >> POOL_FILE_BITS) {
			*ret = i;
			return true;
		}
	return false;
}

/* A file that is marked part by part counts with its first one. */
static bool is_first_part(const struct collecting *c, size_t in_batch)
{
	return c->batch.items[in_batch].begin == span_of(c, in_batch).begin;
}

static int mark_table(void *ctx, uint64_t offset, uint64_t len, struct err *err)
{
	struct collecting *c = ctx;
	size_t i;

	(void)err;
	if (!find_in_batch(c, offset, &i))
		return 0;
	cluster_marks_add(&c->batch.items[i], offset, len);
	if (is_first_part(c, i))
		c->ret->tables += len;
	return 0;
}

/* *ret_file is that of the first run; all are in one file, but nothing depends on that. */
static void mark_leaf(struct collecting *c, const struct leaf *leaf, size_t *ret_file)
{
	*ret_file = SIZE_MAX;
	for (unsigned r = 0; r < leaf->nr_runs; r++) {
		uint64_t address = leaf->runs[r].place << leaf->unit_bits;
		size_t i;

		if (!find_in_batch(c, address, &i))
			continue;
		cluster_marks_add(&c->batch.items[i], address, (uint64_t)leaf->runs[r].nr << leaf->unit_bits);
		if (r == 0)
			*ret_file = i;
	}
}

static int mark_of_table(void *ctx, uint64_t segment, struct leaf *map, struct err *err)
{
	struct collecting *c = ctx;
	size_t file;

	(void)segment;
	mark_leaf(c, map, &file);
	return collect_stopped(c, err);
}

static int mark_of_node(void *ctx, uint64_t offset, const struct leaf *leaf, const struct inner *inner, struct err *err)
{
	struct collecting *c = ctx;
	size_t file = SIZE_MAX;

	(void)inner;
	if (!collect_keeps_record(c, offset))
		c->nr_dead_nodes++;
	else if (leaf)
		mark_leaf(c, leaf, &file);
	if (file != SIZE_MAX && is_first_part(c, file))
		c->swept.items[c->first + file].leaves++;
	return collect_stopped(c, err);
}

static bool is_in_batch(const struct collecting *c, const struct collected_view *v)
{
	size_t i;

	return find_in_batch(c, slot_address(v->view.slot), &i);
}

static int mark_clusters(struct collecting *c, struct err *err)
{
	collect_tell(c, "marking", 0, 0);
	c->nr_dead_nodes = 0;
	for (size_t i = 0; i < c->batch.nr; i++)
		cluster_marks_clear(&c->batch.items[i]);
	for (size_t i = 0; i < c->views.nr; i++) {
		const struct collected_view *v = &c->views.items[i];

		if (v->stub.fate == REMOVED || !is_in_batch(c, v))
			continue;
		if (view_each_table(c->p, &v->view, mark_table, c, err) < 0 ||
		    view_each_map(c->p, &v->view, mark_of_table, c, err) < 0)
			return -1;
	}
	return nodes_each(c->p->nodes, mark_of_node, c, err);
}

/* ---- batches of files ---- */

static void release_batch(struct collecting *c)
{
	for (size_t i = 0; i < c->batch.nr; i++)
		cluster_marks_release(&c->batch.items[i]);
	c->batch.nr = 0;
}

void collect_release_space(struct collecting *c)
{
	release_batch(c);
	vec_release(&c->batch);
	vec_release(&c->swept);
}

/* Bytes of marks for all of a file. */
static uint64_t room_for(const struct cluster_span *s)
{
	return div_up(s->end - s->begin, CLUSTER_MARKS_ALIGN) * (CLUSTER_MARKS_ALIGN / BLOCK_SIZE / 8);
}

static int add_to_batch(struct collecting *c, const struct cluster_span *s, uint64_t memory, struct err *err)
{
	struct cluster_marks m;

	if (vec_push(&c->swept, (struct swept){ .number = s->number }) < 0)
		return collect_no_memory(err);
	if (cluster_marks_init(&m, s->begin, s->end, memory, err) < 0)
		return -1;
	if (vec_push(&c->batch, m) == 0)
		return 0;
	cluster_marks_release(&m);
	return collect_no_memory(err);
}

/* Files from `first` on whose marks fit into memory; if not even one does, part of it. */
static int begin_batch(struct collecting *c, size_t first, struct err *err)
{
	uint64_t left = c->o->memory / MARKS_SHARE;

	release_batch(c);
	c->first = first;
	for (size_t i = first; i < clusters_nr(c->p->clusters); i++) {
		struct cluster_span s = clusters_span(c->p->clusters, i);
		uint64_t room = room_for(&s);

		if (i > first && room > left)
			break;
		if (add_to_batch(c, &s, max_u64(left, CLUSTER_MARKS_MIN), err) < 0)
			return -1;
		left -= min_u64(room, left);
	}
	return mark_clusters(c, err);
}

static int ignore_map(void *ctx, uint64_t segment, struct leaf *map, struct err *err)
{
	(void)segment;
	(void)map;
	return collect_stopped(ctx, err);
}

/* Views of other batches than the first are marked later: before anything is moved they must be whole, too. */
int collect_look_at_space(struct collecting *c, struct err *err)
{
	if (begin_batch(c, 0, err) < 0)
		return -1;
	for (size_t i = 0; i < c->views.nr; i++) {
		const struct collected_view *v = &c->views.items[i];

		if (v->stub.fate != REMOVED && !is_in_batch(c, v) && view_each_map(c->p, &v->view, ignore_map, c, err) < 0)
			return -1;
	}
	return 0;
}

/* ---- sweeping ---- */

static int punch(struct collecting *c, struct err *err)
{
	uint64_t at = c->hole, len = c->hole_end - at;

	c->hole = c->hole_end = 0;
	if (!len || c->o->dry_run)
		return 0;
	return collect_stopped(c, err) < 0 ? -1 : clusters_punch(c->p->clusters, at, len, err);
}

/* Joined with the one before, if only holes are between them. */
static int make_hole(struct collecting *c, uint64_t at, uint64_t end, struct err *err)
{
	c->ret->freed += end - at;
	if (c->hole_end && at - c->hole_end > STRETCH && punch(c, err) < 0)
		return -1;
	if (!c->hole_end)
		c->hole = at;
	c->hole_end = end;
	return 0;
}

/* What is there, and stays. */
static int leave(struct collecting *c, uint64_t len, struct err *err)
{
	c->ret->small += len;
	return len ? punch(c, err) : 0;
}

/* Whether nothing lives in [at, end) and enough around it. */
static bool is_long(const struct collecting *c, uint64_t at, uint64_t end)
{
	uint64_t min = c->o->min_run ? c->o->min_run : MIN_RUN;

	while (end - at < min && end < c->marks->end && !cluster_marks_has(c->marks, end))
		end += BLOCK_SIZE;
	while (end - at < min && at > c->marks->begin && !cluster_marks_has(c->marks, at - BLOCK_SIZE))
		at -= BLOCK_SIZE;
	return end - at >= min;
}

static bool is_mostly_dead(const struct collecting *c, uint64_t stretch)
{
	uint64_t end = min_u64(stretch + STRETCH, c->marks->end);

	return cluster_marks_count(c->marks, stretch, end) <= (end - stretch) / STRETCH_LIVE;
}

/* What becomes a hole of dead clusters that are too few by themselves. */
static void cut_short(const struct collecting *c, uint64_t *at, uint64_t *end)
{
	uint64_t first = round_down(*at, STRETCH), last = round_down(*end - BLOCK_SIZE, STRETCH);
	bool in_last = is_mostly_dead(c, last), in_first = first == last ? in_last : is_mostly_dead(c, first);

	*at = in_first ? *at : in_last ? last : *end;
	*end = in_last ? *end : in_first ? last : *at;
	*at = round_up(*at, c->grain);
	*end = max_u64(round_down(*end, c->grain), *at);
}

static int sweep_dead(struct collecting *c, uint64_t from, uint64_t to, struct err *err)
{
	uint64_t at = from, end = to;

	c->ret->dead += to - from;
	if (!is_long(c, from, to))
		cut_short(c, &at, &end);
	if (at == end)
		return leave(c, to - from, err);
	return leave(c, at - from, err) < 0 || make_hole(c, at, end, err) < 0 ? -1 : leave(c, to - end, err);
}

/* What is on the disk. */
static int sweep_data(struct collecting *c, uint64_t at, uint64_t end, struct err *err)
{
	while (at < end) {
		uint64_t from = at;
		bool lives = cluster_marks_has(c->marks, at);

		while (at < end && cluster_marks_has(c->marks, at) == lives)
			at += BLOCK_SIZE;
		c->ret->live += lives ? at - from : 0;
		c->swept.items[c->file].lives += lives ? at - from : 0;
		if ((lives ? punch(c, err) : sweep_dead(c, from, at, err)) < 0)
			return -1;
	}
	return 0;
}

static int sweep_part(struct collecting *c, struct err *err)
{
	struct cluster_span s = clusters_span(c->p->clusters, c->file);
	uint64_t base = s.begin - POOL_DATA_BEGIN, at = c->marks->begin, end = c->marks->end, from, to;
	int fd = cluster_file_fd(s.file), rc;

	while (at < end && (rc = file_next_data(fd, at - base, end - base, &from, &to, err)) != 0) {
		if (rc < 0 ||
		    sweep_data(c, base + round_down(from, BLOCK_SIZE), min_u64(base + round_up(to, BLOCK_SIZE), end), err) < 0)
			return -1;
		at = base + to;
		collect_tell(c, "sweeping", at - s.begin, c->marks->size - s.begin);
	}
	return punch(c, err);
}

static int begin_file(struct collecting *c, size_t in_batch, struct err *err)
{
	struct cluster_span s = span_of(c, in_batch);
	struct stat st;

	if (file_ops->fstat(cluster_file_fd(s.file), &st) < 0)
		return err_errno(err, "cannot look at a cluster file");
	c->grain = is_pow2((uint64_t)st.st_blksize) ? max_u64((uint64_t)st.st_blksize, BLOCK_SIZE) : BLOCK_SIZE;
	c->file = c->first + in_batch;
	c->marks = &c->batch.items[in_batch];
	return 0;
}

/* All is marked, of a file that does not fit its first part. */
static int sweep_batch(struct collecting *c, struct err *err)
{
	for (size_t i = 0; i < c->batch.nr; i++) {
		if (begin_file(c, i, err) < 0 || sweep_part(c, err) < 0)
			return -1;
		while (cluster_marks_next(c->marks))
			if (mark_clusters(c, err) < 0 || sweep_part(c, err) < 0)
				return -1;
	}
	return 0;
}

/* The first batch is marked. */
int collect_space(struct collecting *c, struct err *err)
{
	if (sweep_batch(c, err) < 0)
		return -1;
	while (c->first + c->batch.nr < clusters_nr(c->p->clusters))
		if (begin_batch(c, c->first + c->batch.nr, err) < 0 || sweep_batch(c, err) < 0)
			return -1;
	return c->o->dry_run ? 0 : clusters_sync(c->p->clusters, err);
}
