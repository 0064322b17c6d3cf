/* SPDX-License-Identifier: Apache-2.0 */
#include "scanner/tally.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "scanner/base/checked.h"
#include "scanner/base/memory.h"
#include "scanner/base/pool.h"
#include "scanner/base/vec.h"
#include "scanner/fs_shared.h"
#include "scanner/group.h"
#include "scanner/index/join.h"
#include "scanner/index/summary.h"
#include "scanner/live.h"
#include "scanner/roots.h"

/*
 * One pass over the index counts every group: threads take a partition each and keep counts of their own, which are added up in
 * the end.  Duplicates, found in the order of fingerprints, go through a sorter to come out in the order of the images: there
 * runs are seen and the summary is written.
 */

#define TABLE_ROOM (64 * 1024)
#define GROUP_MAX 16384 /* positions in memory; larger groups are streamed */
#define DUPLICATES_AT_ONCE 512

struct ranked {
	int64_t id;
	char *path, *backing_path;
	unsigned depth;
	size_t image; /* in tally->images */
	uint64_t layer;
};

struct tallying;

struct tally_thread {
	struct tallying *t;
	struct count count;
	struct join *join; /* of the group at hand */
	size_t nr_pending;
	struct record pending[DUPLICATES_AT_ONCE];
	uint64_t positions[GROUP_MAX], scratch[GROUP_MAX];
};

struct tallying {
	struct catalog *c;
	const struct roots *roots;
	const struct tally_options *o;
	struct tally *ret;
	VEC(struct ranked) ranked; /* by rank, once sorted */
	VEC(struct image_tally) images;
	struct judymap rank_of; /* image id -> rank + 1 */
	uint64_t *layers;	/* by rank */
	struct live live;
	bool missing; /* an image was found and has not been read yet */
	bool all_live; /* every place of the index is live and of an image that is counted */
	VEC(struct partition) partitions;
	unsigned nr_threads;
	struct tally_thread **threads;
	pthread_mutex_t lock;
	struct sorter *duplicates;
};

static bool stopped(const struct tallying *t)
{
	return stopper_says(t->o->stopper);
}

static int no_memory(struct err *err)
{
	return err_set(err, ERR_MEMORY, "no memory to count the index; --memory may be too small for so many images");
}

/* ---- images and their ranks ---- */

static char *copy(const char *s)
{
	return strdup(s ? s : "");
}

static char *copy_or_null(const char *s)
{
	return s ? strdup(s) : NULL;
}

static struct image_tally image_tally_of(const struct catalog_image *i)
{
	return (struct image_tally){
		.id = i->id,
		.path = copy(i->path),
		.format = copy(i->format),
		.backing = copy(i->backing),
		.features = copy(i->features),
		.error = copy_or_null(i->error),
		.error_kind = copy_or_null(i->error_kind),
		.warning = copy_or_null(i->warning),
		.nr_snapshots = i->nr_snapshots,
		.file_size = i->identity.size,
		.file_used = i->file_used,
		.scanned_at = i->scanned_at,
		.virtual_size = i->virtual_size,
		.stored = i->nr_stored * BLOCK_SIZE,
		.zero = i->nr_zero * BLOCK_SIZE,
	};
}

static int take_image(void *ctx, const struct catalog_image *i, struct err *err)
{
	struct tallying *t = ctx;
	struct ranked r = { .id = i->id, .image = t->images.nr, .layer = i->layer };

	if (!roots_cover(t->roots, i->path) || i->part_of)
		return 0;
	if (!i->scanned_at && !i->error) {
		t->missing = true;
		return 0;
	}
	r.path = copy(i->path);
	r.backing_path = copy(i->backing_path);
	if (!r.path || !r.backing_path || vec_push(&t->ranked, r) < 0 ||
	    vec_push(&t->images, image_tally_of(i)) < 0)
		return no_memory(err);
	return 0;
}

static int compare_path(const void *a, const void *b)
{
	return strcmp(((const struct ranked *)a)->path, ((const struct ranked *)b)->path);
}

static int compare_rank(const void *a, const void *b)
{
	const struct ranked *x = a, *y = b;

	if (x->depth != y->depth)
		return x->depth < y->depth ? -1 : 1;
	return strcmp(x->path, y->path);
}

/* How many backing files of an image are images of this tally, one below the other.  By path, before ranks are given. */
static unsigned depth_of(const struct tallying *t, const struct ranked *r)
{
	unsigned depth = 0;

	while (r && r->backing_path[0] && depth < IMAGE_CHAIN_MAX) {
		struct ranked key = { .path = r->backing_path };

		r = bsearch(&key, t->ranked.items, t->ranked.nr, sizeof(key), compare_path);
		depth += r != NULL;
	}
	return depth;
}

static int rank_images(struct tallying *t, struct err *err)
{
	size_t nr = t->ranked.nr;

	t->layers = calloc(nr + 1, sizeof(*t->layers));
	if (!t->layers)
		return no_memory(err);
	if (nr)
		qsort(t->ranked.items, nr, sizeof(t->ranked.items[0]), compare_path);
	for (size_t i = 0; i < nr; i++)
		t->ranked.items[i].depth = depth_of(t, &t->ranked.items[i]);
	if (nr)
		qsort(t->ranked.items, nr, sizeof(t->ranked.items[0]), compare_rank);
	for (size_t i = 0; i < nr; i++) {
		uint64_t *slot = judymap_put(&t->rank_of, (uint64_t)t->ranked.items[i].id);

		if (!slot)
			return no_memory(err);
		*slot = i + 1;
		t->layers[i] = max_u64(t->ranked.items[i].layer / BLOCK_SIZE, 1);
	}
	return 0;
}

static bool rank_of(void *ctx, int64_t image, uint32_t *ret)
{
	const struct tallying *t = ctx;
	const uint64_t *slot = judymap_get(&t->rank_of, (uint64_t)image);

	if (slot)
		*ret = (uint32_t)(*slot - 1);
	return slot;
}

/* ---- counting ---- */

static int push_duplicates(struct tally_thread *th, struct err *err)
{
	struct tallying *t = th->t;
	int rc = 0;

	pthread_mutex_lock(&t->lock);
	for (size_t done = 0; rc == 0 && done < th->nr_pending;) {
		size_t room;
		struct record *to = sorter_room(t->duplicates, th->nr_pending - done, &room, err);

		if (!to) {
			rc = -1;
			break;
		}
		room = min_u64(room, th->nr_pending - done);
		memcpy(to, th->pending + done, room * sizeof(*to));
		sorter_commit(t->duplicates, room);
		done += room;
	}
	pthread_mutex_unlock(&t->lock);
	th->nr_pending = 0;
	return rc;
}

static int take_duplicate(void *ctx, uint64_t position, uint64_t origin, struct err *err)
{
	struct tally_thread *th = ctx;

	th->pending[th->nr_pending++] = (struct record){ .key = { .hi = position }, .value = origin };
	return th->nr_pending == DUPLICATES_AT_ONCE ? push_duplicates(th, err) : 0;
}

/* The next live position of the key at hand. */
static int next_position(void *ctx, uint64_t *ret, struct err *err)
{
	struct tally_thread *th = ctx;
	uint64_t place, block;
	uint32_t rank;
	int rc;

	while ((rc = join_next_place(th->join, &place, err)) > 0) {
		if (live_find(&th->t->live, place, &rank, &block)) {
			*ret = POSITION(rank, block);
			return 1;
		}
	}
	return rc;
}

static int rewind_positions(void *ctx, struct err *err)
{
	struct tally_thread *th = ctx;

	if (stopped(th->t))
		return err_set(err, ERR_CANCELED, "stopped while the index was counted");
	return join_rewind_places(th->join, err);
}

/* Takes the key at hand if it has one place and nobody needs to know which: most keys, where no place is stale.  1 = it
 * was taken, 0 = it was not and its places are to be begun anew. */
static int count_single(struct tally_thread *th, struct err *err)
{
	uint64_t place;
	int rc = join_next_place(th->join, &place, err);

	if (rc > 0)
		rc = join_next_place(th->join, &place, err);
	if (rc < 0)
		return -1;
	if (rc > 0)
		return join_rewind_places(th->join, err);
	th->positions[0] = 0;
	return group_count(&th->count, th->positions, th->scratch, 1, err) < 0 ? -1 : 1;
}

static int count_key(struct tally_thread *th, struct err *err)
{
	size_t nr = 0;
	int rc = th->t->all_live ? count_single(th, err) : 0;

	if (rc)
		return rc < 0 ? -1 : 0;
	while ((rc = next_position(th, &th->positions[nr], err)) > 0) {
		if (++nr == GROUP_MAX) {
			struct group_stream s = { next_position, rewind_positions, th };

			return group_count_stream(&th->count, &s, err);
		}
	}
	if (rc < 0 || nr == 0)
		return rc;
	return group_count(&th->count, th->positions, th->scratch, nr, err);
}

static int count_tables(struct tally_thread *th, struct table **tables, size_t nr, struct err *err)
{
	struct key key;
	uint64_t n = 0;
	int rc;

	th->join = join_new(tables, nr, NULL, err);
	if (!th->join)
		return -1;
	while ((rc = join_next_key(th->join, &key, err)) > 0) {
		if ((++n & 0x3fff) == 0 && stopped(th->t))
			rc = err_set(err, ERR_CANCELED, "stopped while the index was counted");
		else
			rc = count_key(th, err);
		if (rc < 0)
			break;
	}
	join_free(STEAL(th->join));
	return rc;
}

/* The catalog is asked under the lock: its statements are not for several threads at once. */
static int tables_of(struct tallying *t, const struct partition *p, struct index_table *ret, struct err *err)
{
	int nr;

	pthread_mutex_lock(&t->lock);
	nr = catalog_tables(t->c, p->bits, p->prefix, ret, err);
	pthread_mutex_unlock(&t->lock);
	return nr;
}

static int count_partition(void *ctx, unsigned thread, size_t item, struct err *err)
{
	struct tallying *t = ctx;
	struct table *tables[PARTITION_TABLES] = { 0 };
	struct index_table names[PARTITION_TABLES];
	int nr = tables_of(t, &t->partitions.items[item], names, err);
	int rc = nr < 0 ? -1 : 0;

	for (int i = 0; rc == 0 && i < nr; i++)
		if (!(tables[i] = table_open(catalog_index_dirfd(t->c), names[i].name, TABLE_ROOM, err)))
			rc = -1;
	if (rc == 0 && nr > 0)
		rc = count_tables(t->threads[thread], tables, (size_t)nr, err);
	for (int i = 0; i < nr; i++)
		table_close(tables[i]);
	return rc;
}

static int take_partition(void *ctx, const struct partition *p, struct err *err)
{
	struct tallying *t = ctx;

	return p->nr_tables && vec_push(&t->partitions, *p) < 0 ? no_memory(err) : 0;
}

static int make_threads(struct tallying *t, struct err *err)
{
	t->nr_threads = t->o->nr_threads ? t->o->nr_threads : 1;
	t->threads = calloc(t->nr_threads, sizeof(*t->threads));
	for (unsigned i = 0; t->threads && i < t->nr_threads; i++) {
		struct tally_thread *th = t->threads[i] = calloc(1, sizeof(*th));

		if (!th || !(th->count.images = calloc(t->ranked.nr + 1, sizeof(struct image_count))))
			return no_memory(err);
		th->t = t;
		th->count.layer = t->layers;
		th->count.duplicate = take_duplicate;
		th->count.ctx = th;
	}
	return t->threads ? 0 : no_memory(err);
}

/* A live block has exactly one place.  So when there are as many places as live blocks of the images counted, every place
 * is one of these. */
static uint64_t nr_blocks_counted(const struct tallying *t)
{
	uint64_t nr = 0;

	for (size_t i = 0; i < t->images.nr; i++)
		nr += (t->images.items[i].stored - t->images.items[i].zero) / BLOCK_SIZE;
	return nr;
}

static uint64_t nr_places_of_index(const struct tallying *t)
{
	uint64_t nr = 0;

	for (size_t i = 0; i < t->partitions.nr; i++)
		nr += t->partitions.items[i].nr_places;
	return nr;
}

static int count_all(struct tallying *t, struct err *err)
{
	if (live_load(&t->live, t->c, rank_of, t, err) < 0 || catalog_each_partition(t->c, take_partition, t, err) < 0 ||
	    make_threads(t, err) < 0)
		return -1;
	t->all_live = nr_places_of_index(t) == nr_blocks_counted(t);
	t->duplicates = sorter_new(memory_left(t->o->memory) / 2, catalog_spool_dirfd(t->c), err);
	if (!t->duplicates || pool_run(t->nr_threads, t->partitions.nr, count_partition, t, err) < 0)
		return -1;
	for (unsigned i = 0; i < t->nr_threads; i++)
		if (push_duplicates(t->threads[i], err) < 0)
			return -1;
	return sorter_finish(t->duplicates, err);
}

/* ---- adding up ---- */

static void add_counts(struct tally *ret, const struct count *c)
{
	ret->distinct += c->nr_groups * BLOCK_SIZE;
	ret->within_same += c->within_same * BLOCK_SIZE;
	ret->within_other += c->within_other * BLOCK_SIZE;
	ret->between_same += c->between_same * BLOCK_SIZE;
	ret->between_other += c->between_other * BLOCK_SIZE;
	for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++) {
		ret->histogram[i].nr_distinct += c->histogram[i].nr_distinct;
		ret->histogram[i].nr_blocks += c->histogram[i].nr_blocks;
	}
}

static struct image_count sum_of_threads(const struct tallying *t, size_t rank)
{
	struct image_count sum = { 0 };

	for (unsigned i = 0; i < t->nr_threads; i++) {
		const struct image_count *c = &t->threads[i]->count.images[rank];

		sum.nr_grouped += c->nr_grouped;
		sum.nr_shared += c->nr_shared;
		sum.nr_own_groups += c->nr_own_groups;
		sum.nr_within += c->nr_within;
		sum.nr_between += c->nr_between;
		sum.share += c->share;
	}
	return sum;
}

/* Groups of one block are not counted image by image: they are what the others leave over. */
static void finish_image(struct image_tally *i, const struct image_count *c)
{
	uint64_t alone = (i->stored - i->zero) / BLOCK_SIZE - c->nr_grouped;
	share_t share = ((share_t)(alone * BLOCK_SIZE) << 64) + c->share;

	i->exclusive = (alone + c->nr_own_groups) * BLOCK_SIZE;
	i->shared = c->nr_shared * BLOCK_SIZE;
	/* Each of fewer than 2^40 blocks had its share cut at 2^-64: half a byte may come as a little less. */
	i->share = (uint64_t)((share + ((share_t)1 << 63) + ((share_t)1 << 40)) >> 64);
	i->duplicate_within = c->nr_within * BLOCK_SIZE;
	i->duplicate_between = c->nr_between * BLOCK_SIZE;
}

static void add_up(struct tallying *t)
{
	struct tally *ret = t->ret;

	for (unsigned i = 0; i < t->nr_threads; i++)
		add_counts(ret, &t->threads[i]->count);
	for (size_t rank = 0; rank < t->ranked.nr; rank++) {
		struct image_tally *i = &t->images.items[t->ranked.items[rank].image];
		struct image_count sum = sum_of_threads(t, rank);

		ret->nr_failed += i->error != NULL;
		if (i->error) /* part of no total */
			continue;
		finish_image(i, &sum);
		ret->virtual_size += i->virtual_size;
		ret->stored += i->stored;
		ret->nonzero += i->stored - i->zero;
		ret->file_size += i->file_size;
		ret->file_used += i->file_used;
	}
}

/* ---- runs ---- */

static const uint64_t run_lengths[RUN_CLASSES] = { 4 * KIB, 16 * KIB, 64 * KIB, MIB };

static int put_run(struct tallying *t, struct summary_writer *w, uint64_t position, uint64_t origin, uint64_t len,
		   struct err *err)
{
	struct summary_run run = {
		.image = t->ranked.items[POSITION_RANK(position)].id,
		.block = POSITION_BLOCK(position),
		.len = len,
		.origin_image = t->ranked.items[POSITION_RANK(origin)].id,
		.origin_block = POSITION_BLOCK(origin),
	};

	for (unsigned i = 0; i < RUN_CLASSES; i++) {
		if (len * BLOCK_SIZE < run_lengths[i])
			break;
		t->ret->runs[i].nr_runs++;
		t->ret->runs[i].saved += len * BLOCK_SIZE;
	}
	return summary_add(w, &run, err);
}

static int put_runs(struct tallying *t, struct summary_writer *w, struct err *err)
{
	uint64_t position = 0, origin = 0, len = 0;
	const struct record *r;
	ssize_t nr;

	for (unsigned i = 0; i < RUN_CLASSES; i++)
		t->ret->runs[i] = (struct run_tally){ .min_length = run_lengths[i] };
	while ((nr = sorter_next(t->duplicates, &r, err)) > 0) {
		if (stopped(t))
			return err_set(err, ERR_CANCELED, "stopped while runs were counted");
		for (ssize_t i = 0; i < nr; i++) {
			if (len && r[i].key.hi == position + len && r[i].value == origin + len) {
				len++;
				continue;
			}
			if (len && put_run(t, w, position, origin, len, err) < 0)
				return -1;
			position = r[i].key.hi;
			origin = r[i].value;
			len = 1;
		}
	}
	if (nr == 0 && len)
		return put_run(t, w, position, origin, len, err);
	return (int)nr;
}

static int write_summary(struct tallying *t, struct err *err)
{
	CLEANUP(summary_free) struct summary_writer *w = summary_new(catalog_dirfd(t->c), "summary", err);

	if (!w || put_runs(t, w, err) < 0)
		return -1;
	return summary_commit(STEAL(w), err);
}

/* ---- the whole ---- */

static int describe_index(struct tallying *t, struct err *err)
{
	struct index_table tables[PARTITION_TABLES];
	uint64_t unfinished;

	if (catalog_number(t->c, "scan_unfinished", &unfinished, err) < 0)
		return -1;
	t->ret->complete = !unfinished && !t->missing;
	for (size_t i = 0; i < t->partitions.nr; i++) {
		const struct partition *p = &t->partitions.items[i];
		int nr = catalog_tables(t->c, p->bits, p->prefix, tables, err);

		if (nr < 0)
			return -1;
		for (int k = 0; k < nr; k++) {
			t->ret->nr_keys += tables[k].stats.nr_keys;
			t->ret->nr_places += tables[k].stats.nr_places;
		}
	}
	return catalog_disk_use(t->c, &t->ret->index_bytes, &t->ret->catalog_bytes, err);
}

static int run(struct tallying *t, struct err *err)
{
	if (catalog_each_image(t->c, take_image, t, err) < 0 || rank_images(t, err) < 0 || count_all(t, err) < 0)
		return -1;
	add_up(t);
	if (write_summary(t, err) < 0 || describe_index(t, err) < 0)
		return -1;
	t->ret->taken_at = time(NULL);
	t->ret->nr_images = t->images.nr;
	t->ret->images = STEAL(t->images.items);
	return fs_shared_measure(t->c, t->roots, t->ret, memory_left(t->o->memory) / 2, t->o->stopper, err);
}

int tally_run(struct catalog *c, const struct roots *roots, const struct tally_options *o, struct tally *ret,
	      struct err *err)
{
	struct tallying t = { .c = c, .roots = roots, .o = o, .ret = ret, .lock = PTHREAD_MUTEX_INITIALIZER };
	int rc;

	*ret = (struct tally){ .complete = true, .fs_shared = -1 };
	rc = run(&t, err);
	for (unsigned i = 0; t.threads && i < t.nr_threads; i++) {
		if (t.threads[i])
			free(t.threads[i]->count.images);
		free(t.threads[i]);
	}
	free(t.threads);
	for (size_t i = 0; i < t.ranked.nr; i++) {
		free(t.ranked.items[i].path);
		free(t.ranked.items[i].backing_path);
	}
	vec_release(&t.ranked);
	if (t.images.items) { /* not handed out */
		ret->images = t.images.items;
		ret->nr_images = t.images.nr;
		tally_release(ret);
	}
	judymap_release(&t.rank_of);
	free(t.layers);
	live_release(&t.live);
	vec_release(&t.partitions);
	sorter_free(t.duplicates);
	return rc;
}

void tally_release(struct tally *t)
{
	for (size_t i = 0; i < t->nr_images; i++) {
		struct image_tally *im = &t->images[i];
		char *texts[] = { im->path, im->format, im->backing, im->features, im->error, im->error_kind, im->warning };

		for (size_t k = 0; k < ARRAY_SIZE(texts); k++)
			free(texts[k]);
	}
	free(t->images);
	t->images = NULL;
	t->nr_images = 0;
}
