/* SPDX-License-Identifier: Apache-2.0 */
#include "scanner/tally.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "scanner/base/checked.h"
#include "scanner/base/memory.h"
#include "scanner/base/vec.h"
#include "scanner/beside.h"
#include "scanner/duplicates.h"
#include "scanner/fs_shared.h"
#include "scanner/index/summary.h"
#include "scanner/roots.h"

/*
 * One pass over the index counts every group and tells its duplicates in the order of the images (duplicates.h): there runs are
 * seen and the summary is written.
 */

struct ranked {
	int64_t id;
	char *path, *backing_path;
	unsigned depth;
	size_t image; /* in tally->images */
	uint64_t layer;
};

struct tallying {
	struct catalog *c;
	const struct roots *roots;
	const struct tally_options *o;
	struct tally *ret;
	VEC(struct ranked) ranked; /* by rank, once sorted */
	VEC(struct image_tally) images;
	bool missing; /* an image was found and has not been read yet */
	struct duplicates *duplicates;
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

static void rank_images(struct tallying *t)
{
	size_t nr = t->ranked.nr;

	if (!nr)
		return;
	qsort(t->ranked.items, nr, sizeof(t->ranked.items[0]), compare_path);
	for (size_t i = 0; i < nr; i++)
		t->ranked.items[i].depth = depth_of(t, &t->ranked.items[i]);
	qsort(t->ranked.items, nr, sizeof(t->ranked.items[0]), compare_rank);
}

/* ---- counting ---- */

static uint64_t nr_blocks_counted(const struct tallying *t)
{
	uint64_t nr = 0;

	for (size_t i = 0; i < t->images.nr; i++)
		nr += (t->images.items[i].stored - t->images.items[i].zero) / BLOCK_SIZE;
	return nr;
}

static int count_all(struct tallying *t, struct err *err)
{
	struct duplicates_options o = {
		.memory = t->o->memory, .nr_threads = t->o->nr_threads, .stopper = t->o->stopper,
		.nr_blocks = max_u64(nr_blocks_counted(t), 1),
	};
	CLEANUP(free) struct duplicates_image *images = calloc(t->ranked.nr + 1, sizeof(*images));

	if (!images)
		return no_memory(err);
	for (size_t i = 0; i < t->ranked.nr; i++)
		images[i] = (struct duplicates_image){
			t->ranked.items[i].id, max_u64(t->ranked.items[i].layer / BLOCK_SIZE, 1)
		};
	t->duplicates = duplicates_find(t->c, images, t->ranked.nr, &o, err);
	return t->duplicates ? 0 : -1;
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

	for (unsigned i = 0; i < duplicates_nr_threads(t->duplicates); i++) {
		const struct image_count *c = &duplicates_count(t->duplicates, i)->images[rank];

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

	for (unsigned i = 0; i < duplicates_nr_threads(t->duplicates); i++)
		add_counts(ret, duplicates_count(t->duplicates, i));
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
	while ((nr = duplicates_next(t->duplicates, &r, err)) > 0) {
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

static int add_tables(void *ctx, const struct partition *p, struct err *err)
{
	struct tallying *t = ctx;
	struct index_table tables[PARTITION_TABLES];
	int nr = catalog_tables(t->c, p->bits, p->prefix, tables, err);

	for (int k = 0; k < nr; k++) {
		t->ret->nr_keys += tables[k].stats.nr_keys;
		t->ret->nr_places += tables[k].stats.nr_places;
	}
	return nr < 0 ? -1 : 0;
}

static int describe_index(struct tallying *t, struct err *err)
{
	uint64_t unfinished;

	if (catalog_number(t->c, "scan_unfinished", &unfinished, err) < 0)
		return -1;
	t->ret->complete = !unfinished && !t->missing;
	if (catalog_each_partition(t->c, add_tables, t, err) < 0)
		return -1;
	return catalog_disk_use(t->c, &t->ret->index_bytes, &t->ret->catalog_bytes, err);
}

static int run(struct tallying *t, struct err *err)
{
	if (catalog_each_image(t->c, take_image, t, err) < 0)
		return -1;
	rank_images(t);
	if (count_all(t, err) < 0)
		return -1;
	add_up(t);
	if (write_summary(t, err) < 0 || describe_index(t, err) < 0)
		return -1;
	t->ret->taken_at = time(NULL);
	t->ret->nr_images = t->images.nr;
	t->ret->images = STEAL(t->images.items);
	if (beside_tally(t->roots, t->ret, err) < 0)
		return -1;
	return fs_shared_measure(t->c, t->roots, t->ret, memory_left(t->o->memory) / 2, t->o->stopper, err);
}

int tally_run(struct catalog *c, const struct roots *roots, const struct tally_options *o, struct tally *ret,
	      struct err *err)
{
	struct tallying t = { .c = c, .roots = roots, .o = o, .ret = ret };
	int rc;

	*ret = (struct tally){ .complete = true, .fs_shared = -1 };
	rc = run(&t, err);
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
	duplicates_free(t.duplicates);
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
	for (size_t i = 0; i < t->nr_pools; i++)
		free(t->pools[i].path);
	free(t->images);
	free(t->pools);
	t->images = NULL;
	t->pools = NULL;
	t->nr_images = t->nr_pools = 0;
}
