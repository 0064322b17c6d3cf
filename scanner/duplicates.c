/* SPDX-License-Identifier: Apache-2.0 */
#include "scanner/duplicates.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "scanner/base/checked.h"
#include "scanner/base/memory.h"
#include "scanner/base/parallel.h"
#include "scanner/index/join.h"
#include "scanner/live.h"

/*
 * Threads take a partition each and keep counts of their own.  Duplicates, found in the order of fingerprints, go through a
 * sorter to come out in the order of the images.
 */

#define TABLE_ROOM (64 * 1024)
#define GROUP_MAX 16384 /* positions in memory; larger groups are streamed */
#define DUPLICATES_AT_ONCE 512

struct duplicates_thread {
	struct duplicates *d;
	struct count count;
	struct join *join; /* of the group at hand */
	uint64_t first, origin, nr_sharers; /* its original, the one that is told for now, and to how many */
	size_t nr_pending;
	struct record pending[DUPLICATES_AT_ONCE];
	uint64_t positions[GROUP_MAX], scratch[GROUP_MAX];
};

struct duplicates {
	struct catalog *c;
	struct duplicates_options o;
	struct judymap rank_of; /* image id -> rank + 1 */
	uint64_t *layers;	/* by rank */
	size_t nr_images;
	struct live live;
	bool singles; /* a key with one place needs no look at whose it is */
	VEC(struct partition) partitions;
	unsigned nr_threads;
	struct duplicates_thread **threads;
	pthread_mutex_t lock;
	struct sorter *sorter;
};

static bool stopped(const struct duplicates *d)
{
	return stopper_says(d->o.stopper);
}

static int no_memory(struct err *err)
{
	return err_set(err, ERR_MEMORY, "no memory to count the index; --memory may be too small for so many images");
}

static bool rank_of(void *ctx, int64_t image, uint32_t *ret)
{
	const struct duplicates *d = ctx;
	const uint64_t *slot = judymap_get(&d->rank_of, (uint64_t)image);

	if (slot)
		*ret = (uint32_t)(*slot - 1);
	return slot;
}

static int rank_images(struct duplicates *d, const struct duplicates_image *images, struct err *err)
{
	d->layers = calloc(d->nr_images + 1, sizeof(*d->layers));
	if (!d->layers)
		return no_memory(err);
	for (size_t i = 0; i < d->nr_images; i++) {
		uint64_t *slot = judymap_put(&d->rank_of, (uint64_t)images[i].id);

		if (!slot)
			return no_memory(err);
		*slot = i + 1;
		d->layers[i] = images[i].layer;
	}
	return 0;
}

/* ---- counting ---- */

static int push_duplicates(struct duplicates_thread *th, struct err *err)
{
	struct duplicates *d = th->d;
	int rc = 0;

	pthread_mutex_lock(&d->lock);
	for (size_t done = 0; rc == 0 && done < th->nr_pending;) {
		size_t room;
		struct record *to = sorter_room(d->sorter, th->nr_pending - done, &room, err);

		if (!to) {
			rc = -1;
			break;
		}
		room = min_u64(room, th->nr_pending - done);
		memcpy(to, th->pending + done, room * sizeof(*to));
		sorter_commit(d->sorter, room);
		done += room;
	}
	pthread_mutex_unlock(&d->lock);
	th->nr_pending = 0;
	return rc;
}

/* When an original has all the sharers it may have, the next block is one itself. */
static bool becomes_original(struct duplicates_thread *th, uint64_t position, uint64_t first)
{
	if (th->first != first || !th->nr_sharers) {
		th->first = th->origin = first;
		th->nr_sharers = 1;
	} else if (th->d->o.sharers && th->nr_sharers == th->d->o.sharers) {
		th->origin = position;
		th->nr_sharers = 1;
		return true;
	}
	th->nr_sharers++;
	return false;
}

static int tell(struct duplicates_thread *th, uint64_t position, bool elsewhere, uint64_t origin, struct err *err)
{
	th->pending[th->nr_pending++] = (struct record){ .key = { .hi = position, .lo = elsewhere }, .value = origin };
	return th->nr_pending == DUPLICATES_AT_ONCE ? push_duplicates(th, err) : 0;
}

static int take_duplicate(void *ctx, uint64_t position, uint64_t first, struct err *err)
{
	struct duplicates_thread *th = ctx;

	return becomes_original(th, position, first) ? 0 : tell(th, position, false, th->origin, err);
}

/* The next live position of the key at hand. */
static int next_position(void *ctx, uint64_t *ret, struct err *err)
{
	struct duplicates_thread *th = ctx;
	uint64_t place, block;
	uint32_t rank;
	int rc;

	while ((rc = join_next_place(th->join, &place, err)) > 0) {
		if (live_find(&th->d->live, place, &rank, &block) &&
		    (!th->d->o.usable || th->d->o.usable(th->d->o.ctx, rank, block))) {
			*ret = POSITION(rank, block);
			return 1;
		}
	}
	return rc;
}

static int rewind_positions(void *ctx, struct err *err)
{
	struct duplicates_thread *th = ctx;

	if (stopped(th->d))
		return err_set(err, ERR_CANCELED, "stopped while the index was counted");
	return join_rewind_places(th->join, err);
}

/* Takes the key at hand if it has one place and nobody needs to know which: most keys, where no place is stale.  1 = it
 * was taken, 0 = it was not and its places are to be begun anew. */
static int count_single(struct duplicates_thread *th, struct err *err)
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

/* Takes the key at hand if its content is elsewhere, or nobody has it: 1, 0 = it did not, and its places are to be begun anew,
 * -1. */
static int tell_elsewhere(struct duplicates_thread *th, struct key key, struct err *err)
{
	uint64_t position, where;
	int rc = next_position(th, &position, err);

	if (rc <= 0)
		return rc < 0 ? -1 : 1;
	rc = th->d->o.elsewhere(th->d->o.ctx, key, &where, err);
	if (rc <= 0)
		return rc < 0 ? -1 : rewind_positions(th, err);
	while (rc > 0)
		rc = tell(th, position, true, where, err) < 0 ? -1 : next_position(th, &position, err);
	return rc < 0 ? -1 : 1;
}

static int count_key(struct duplicates_thread *th, struct key key, struct err *err)
{
	size_t nr = 0;
	int rc = th->d->o.elsewhere ? tell_elsewhere(th, key, err) : 0;

	if (rc == 0 && th->d->singles)
		rc = count_single(th, err);
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

static int count_tables(struct duplicates_thread *th, struct table **tables, size_t nr, struct err *err)
{
	struct key key;
	uint64_t n = 0;
	int rc;

	th->join = join_new(tables, nr, NULL, err);
	if (!th->join)
		return -1;
	while ((rc = join_next_key(th->join, &key, err)) > 0) {
		if ((++n & 0x3fff) == 0 && stopped(th->d))
			rc = err_set(err, ERR_CANCELED, "stopped while the index was counted");
		else
			rc = count_key(th, key, err);
		if (rc < 0)
			break;
	}
	join_free(STEAL(th->join));
	return rc;
}

/* The catalog is asked under the lock: its statements are not for several threads at once. */
static int tables_of(struct duplicates *d, const struct partition *p, struct index_table *ret, struct err *err)
{
	int nr;

	pthread_mutex_lock(&d->lock);
	nr = catalog_tables(d->c, p->bits, p->prefix, ret, err);
	pthread_mutex_unlock(&d->lock);
	return nr;
}

static int count_partition(void *ctx, unsigned thread, size_t item, struct err *err)
{
	struct duplicates *d = ctx;
	struct table *tables[PARTITION_TABLES] = { 0 };
	struct index_table names[PARTITION_TABLES];
	int nr = tables_of(d, &d->partitions.items[item], names, err);
	int rc = nr < 0 ? -1 : 0;

	for (int i = 0; rc == 0 && i < nr; i++)
		if (!(tables[i] = table_open(catalog_index_dirfd(d->c), names[i].name, TABLE_ROOM, err)))
			rc = -1;
	if (rc == 0 && nr > 0)
		rc = count_tables(d->threads[thread], tables, (size_t)nr, err);
	for (int i = 0; i < nr; i++)
		table_close(tables[i]);
	return rc;
}

static int take_partition(void *ctx, const struct partition *p, struct err *err)
{
	struct duplicates *d = ctx;

	return p->nr_tables && vec_push(&d->partitions, *p) < 0 ? no_memory(err) : 0;
}

static int make_threads(struct duplicates *d, struct err *err)
{
	d->nr_threads = d->o.nr_threads ? d->o.nr_threads : 1;
	d->threads = calloc(d->nr_threads, sizeof(*d->threads));
	for (unsigned i = 0; d->threads && i < d->nr_threads; i++) {
		struct duplicates_thread *th = d->threads[i] = calloc(1, sizeof(*th));

		if (!th || !(th->count.images = calloc(d->nr_images + 1, sizeof(struct image_count))))
			return no_memory(err);
		th->d = d;
		th->count.layer = d->layers;
		th->count.duplicate = take_duplicate;
		th->count.ctx = th;
	}
	return d->threads ? 0 : no_memory(err);
}

static uint64_t nr_places_of_index(const struct duplicates *d)
{
	uint64_t nr = 0;

	for (size_t i = 0; i < d->partitions.nr; i++)
		nr += d->partitions.items[i].nr_places;
	return nr;
}

static int find(struct duplicates *d, const struct duplicates_image *images, struct err *err)
{
	if (rank_images(d, images, err) < 0 || live_load(&d->live, d->c, rank_of, d, err) < 0 ||
	    catalog_each_partition(d->c, take_partition, d, err) < 0 || make_threads(d, err) < 0)
		return -1;
	/* A live block has exactly one place: as many places as blocks means that none is stale. */
	d->singles = !d->o.nr_blocks || nr_places_of_index(d) == d->o.nr_blocks;
	d->sorter = sorter_new(memory_left(d->o.memory) / 2, catalog_spool_dirfd(d->c), err);
	if (!d->sorter || parallel_run(d->nr_threads, d->partitions.nr, count_partition, d, err) < 0)
		return -1;
	for (unsigned i = 0; i < d->nr_threads; i++)
		if (push_duplicates(d->threads[i], err) < 0)
			return -1;
	return sorter_finish(d->sorter, err);
}

struct duplicates *duplicates_find(struct catalog *c, const struct duplicates_image *images, size_t nr,
				   const struct duplicates_options *o, struct err *err)
{
	CLEANUP(duplicates_free) struct duplicates *d = calloc(1, sizeof(*d));

	if (!d) {
		no_memory(err);
		return NULL;
	}
	d->c = c;
	d->o = *o;
	d->nr_images = nr;
	pthread_mutex_init(&d->lock, NULL);
	return find(d, images, err) < 0 ? NULL : STEAL(d);
}

ssize_t duplicates_next(struct duplicates *d, const struct record **ret, struct err *err)
{
	return sorter_next(d->sorter, ret, err);
}

unsigned duplicates_nr_threads(const struct duplicates *d)
{
	return d->nr_threads;
}

const struct count *duplicates_count(const struct duplicates *d, unsigned thread)
{
	return &d->threads[thread]->count;
}

void duplicates_free(struct duplicates *d)
{
	if (!d)
		return;
	for (unsigned i = 0; d->threads && i < d->nr_threads; i++) {
		if (d->threads[i])
			free(d->threads[i]->count.images);
		free(d->threads[i]);
	}
	free(d->threads);
	judymap_release(&d->rank_of);
	free(d->layers);
	live_release(&d->live);
	vec_release(&d->partitions);
	sorter_free(d->sorter);
	pthread_mutex_destroy(&d->lock);
	free(d);
}
