/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/catalog_help.h"

#include <dirent.h>

#include "scanner/index/table.h"
#include "scanner/live.h"
#include "scanner/merge.h"

#define IMAGES_MAX 4
#define BLOCKS (6 * SEGMENT_BLOCKS)

/* What the images hold: the model that the index is compared with. */
static uint64_t contents[IMAGES_MAX + 1][BLOCKS];
static int64_t ids[IMAGES_MAX + 1];
static uint64_t bases[IMAGES_MAX + 1];
static struct stopper never, *stopper = &never;

static void fill(unsigned image, uint64_t first, unsigned step)
{
	for (size_t i = 0; i < BLOCKS; i++)
		contents[image][i] = i % 7 ? first + i * step : 0;
}

static void put(unsigned image, const bool *same)
{
	char path[32];

	snprintf(path, sizeof(path), "/%u", image);
	if (!ids[image])
		ids[image] = image_add(path);
	spool_image(ids[image], bases[image]++, contents[image], BLOCKS, same);
}

static int run(struct err *err)
{
	struct merge_options o = { .memory = 8 * MIB, .nr_threads = 2, .stopper = stopper };

	return merge_run(catalog, &o, err);
}

static void merge(void)
{
	struct err err = ERR_INIT;

	if (merge_prepare(catalog, NULL, &never, 2, &err) < 0 || run(&err) < 0)
		fail_msg("%s", err.text);
}

/* ---- what the index says ---- */

static unsigned nr_tables, nr_stale;
static uint8_t seen[IMAGES_MAX + 1][BLOCKS];

static bool rank_of(void *ctx, int64_t image, uint32_t *ret)
{
	(void)ctx;
	for (unsigned i = 1; i <= IMAGES_MAX; i++)
		if (ids[i] == image)
			*ret = i;
	return true;
}

static void check_table(const char *name, const struct live *live)
{
	CLEANUP(table_close) struct table *t = table_open(catalog_index_dirfd(catalog), name, TABLE_PAGE, NULL);
	uint64_t place, block;
	uint32_t image;
	struct key key;

	assert_non_null(t);
	while (table_next_key(t, &key, NULL) > 0) {
		while (table_next_place(t, &place, NULL) > 0) {
			struct fingerprint f;

			if (!live_find(live, place, &image, &block)) {
				nr_stale++;
				continue;
			}
			assert_true(block < BLOCKS);
			f = content_of(contents[image][block]);
			assert_int_equal(key.hi, f.hi);
			assert_int_equal(key.lo, f.lo & KEY_LO_MASK);
			seen[image][block]++;
		}
	}
}

static int check_partition(void *ctx, const struct partition *p, struct err *err)
{
	struct index_table tables[PARTITION_TABLES];
	int nr = catalog_tables(catalog, p->bits, p->prefix, tables, err);

	for (int i = 0; i < nr; i++)
		check_table(tables[i].name, ctx);
	nr_tables += (unsigned)nr;
	return 0;
}

static unsigned nr_files(const char *dir)
{
	DIR *d = opendir(in_tree(dir));
	unsigned nr = 0;

	for (struct dirent *e; d && (e = readdir(d));)
		nr += e->d_name[0] != '.';
	closedir(d);
	return nr;
}

/* Every block that is not zero is in the index once, under its fingerprint, and nothing else is live. */
static void assert_index_is_right(void)
{
	CLEANUP(live_release) struct live live;

	memset(seen, 0, sizeof(seen));
	nr_tables = nr_stale = 0;
	assert_int_equal(live_load(&live, catalog, rank_of, NULL, NULL), 0);
	assert_int_equal(catalog_each_partition(catalog, check_partition, &live, NULL), 0);
	for (unsigned i = 1; i <= IMAGES_MAX; i++)
		for (size_t k = 0; k < BLOCKS; k++)
			if (seen[i][k] != (ids[i] && contents[i][k] != 0))
				fail_msg("block %zu of image %u is %u times in the index", k, i, seen[i][k]);
	assert_int_equal(nr_files("catalog/index"), nr_tables);
	assert_int_equal(nr_files("catalog/spool"), 0);
}

static int make(void **state)
{
	memset(contents, 0, sizeof(contents));
	memset(ids, 0, sizeof(ids));
	memset(bases, 0, sizeof(bases));
	stopper = &never;
	return catalog_make(state);
}

#define merge_test(f) cmocka_unit_test_setup_teardown(f, make, catalog_remove)

/* ---- tests ---- */

static void spool_files_become_an_index(void **state)
{
	(void)state;
	fill(1, 1000, 1);
	fill(2, 1000, 2); /* half of it the same, elsewhere */
	fill(3, 1, 0);	  /* one content */
	put(1, NULL);
	put(2, NULL);
	put(3, NULL);
	merge();
	assert_index_is_right();
	assert_int_equal(nr_stale, 0);
}

static void nothing_to_merge_is_fine(void **state)
{
	bool pending = true;

	(void)state;
	merge();
	assert_index_is_right();
	assert_int_equal(merge_pending(catalog, &pending, NULL), 0);
	assert_false(pending);
}

static void later_scans_add_to_it(void **state)
{
	(void)state;
	for (unsigned i = 1; i <= IMAGES_MAX; i++) {
		fill(i, i * 100, i);
		put(i, NULL);
		merge();
		assert_index_is_right();
	}
}

static void small_changes_become_small_tables_until_there_are_too_many(void **state)
{
	const bool same[] = { true, true, true, true, true, false };
	unsigned most = 0;

	(void)state;
	for (unsigned i = 1; i <= IMAGES_MAX; i++) {
		fill(i, i * 10000, 1);
		put(i, NULL);
	}
	merge();
	for (unsigned round = 1; round <= 12; round++) {
		for (size_t i = 5 * SEGMENT_BLOCKS; i < BLOCKS; i++)
			contents[1][i] = i % 7 ? round * 1000000 + i : 0;
		put(1, same);
		merge();
		assert_index_is_right();
		most = nr_tables > most ? nr_tables : most;
		assert_in_range(nr_tables, 1, PARTITION_TABLES);
		assert_in_range(nr_stale, 0, 4 * BLOCKS);
	}
	assert_in_range(most, 2, PARTITION_TABLES);
}

static void places_of_removed_images_fall_out(void **state)
{
	(void)state;
	fill(1, 1000, 1);
	put(1, NULL);
	for (unsigned i = 2; i <= IMAGES_MAX; i++) {
		memset(contents[i], 0, sizeof(contents[i]));
		for (size_t k = 0; k < BLOCKS; k++)
			contents[i][k] = i * 100000 + k;
		put(i, NULL);
	}
	merge();
	for (unsigned i = 2; i <= IMAGES_MAX; i++) {
		assert_int_equal(catalog_image_remove(catalog, ids[i], NULL), 0);
		ids[i] = 0;
		bases[i] = 0;
	}
	fill(2, 1, 1);
	put(2, NULL);
	merge();
	assert_index_is_right();
	assert_int_equal(nr_stale, 0); /* most of it was: worth writing all anew */
}

static void a_merge_that_was_stopped_goes_on(void **state)
{
	struct stopper now = { .flag = 1 };
	struct err err = ERR_INIT;
	bool pending = false;

	(void)state;
	fill(1, 1000, 1);
	fill(2, 1000, 2);
	put(1, NULL);
	put(2, NULL);
	assert_int_equal(merge_prepare(catalog, NULL, &never, 2, NULL), 0);
	stopper = &now;
	assert_int_equal(run(&err), -1);
	assert_int_equal(err.kind, ERR_CANCELED);
	assert_int_equal(merge_pending(catalog, &pending, NULL), 0);
	assert_true(pending);
	catalog_reopen();
	stopper = &never;
	assert_int_equal(run(NULL), 0);
	assert_index_is_right();
	assert_int_equal(merge_pending(catalog, &pending, NULL), 0);
	assert_false(pending);
}

/* ---- a disk that fails at every step in turn ---- */

static struct file_ops faulty;
static int steps_left;

static bool fails(void)
{
	errno = ENOSPC;
	return steps_left-- <= 0;
}

static ssize_t faulty_pwrite(int fd, const void *buf, size_t len, off_t offset)
{
	return fails() ? -1 : pwrite(fd, buf, len, offset);
}

static int faulty_fdatasync(int fd)
{
	return fails() ? -1 : fdatasync(fd);
}

static int faulty_unlinkat(int dirfd, const char *name, int flags)
{
	return fails() ? -1 : unlinkat(dirfd, name, flags);
}

static void a_merge_that_fails_anywhere_goes_on_next_time(void **state)
{
	unsigned failures = 0;

	(void)state;
	faulty = file_ops_os;
	faulty.pwrite = faulty_pwrite;
	faulty.fdatasync = faulty_fdatasync;
	faulty.unlinkat = faulty_unlinkat;
	fill(1, 1000, 1);
	fill(2, 1000, 2);
	put(1, NULL);
	put(2, NULL);
	assert_int_equal(merge_prepare(catalog, NULL, &never, 2, NULL), 0);
	for (int step = 0; step < 100; step++) {
		struct err err = ERR_INIT;
		int rc;

		steps_left = step;
		file_ops = &faulty;
		rc = run(&err);
		file_ops = &file_ops_os;
		if (rc == 0)
			break;
		assert_int_equal(err.kind, ERR_FULL);
		failures++;
		catalog_reopen();
	}
	assert_in_range(failures, 3, 99);
	assert_int_equal(run(NULL), 0);
	merge();
	assert_index_is_right();
}

/* ---- spool files of our own ---- */

static _Atomic unsigned nr_syncs;

static int slow_fdatasync(int fd)
{
	usleep(50000);
	nr_syncs++;
	return fails() ? -1 : fdatasync(fd);
}

/* As the reading part hands them over: complete, checked, with their syncs begun. */
static void own_add(struct merge_own *own, unsigned image)
{
	char name[64];

	snprintf(name, sizeof(name), "catalog/spool/%lld.req", (long long)ids[image]);
	assert_int_equal(vec_push(&own->images, ids[image]), 0);
	syncer_add(own->syncer, open(in_tree(name), O_RDWR), name);
}

static int prepare_own(const unsigned *images, size_t nr)
{
	struct merge_own own = { .syncer = syncer_new(1, NULL) };
	int rc;

	faulty = file_ops_os;
	faulty.fdatasync = slow_fdatasync;
	file_ops = &faulty;
	nr_syncs = 0;
	for (size_t i = 0; i < nr; i++)
		own_add(&own, images[i]);
	rc = merge_prepare(catalog, &own, &never, 2, NULL);
	if (rc == 0) /* the catalog relies on them now */
		assert_int_equal(nr_syncs, 3);
	syncer_free(own.syncer);
	vec_release(&own.images);
	file_ops = &file_ops_os;
	return rc;
}

static int64_t scanned_at(unsigned image)
{
	CLEANUP(catalog_image_release) struct catalog_image i = { 0 };

	assert_int_equal(catalog_image_by_id(catalog, ids[image], &i, NULL), 1);
	return i.scanned_at;
}

static void what_is_taken_is_durable_whoever_synced_it(void **state)
{
	static const unsigned own[] = { 3, 1 }; /* as they were completed; 2 is of an earlier run */

	(void)state;
	for (unsigned i = 1; i <= 3; i++) {
		fill(i, 1000 * i, 1);
		put(i, NULL);
	}
	for (int step = 0; step < 3; step++) {
		steps_left = step;
		assert_int_equal(prepare_own(own, 2), -1);
		for (unsigned i = 1; i <= 3; i++)
			assert_int_equal(scanned_at(i), 0);
	}
	steps_left = 3;
	assert_int_equal(prepare_own(own, 2), 0);
	assert_int_equal(run(NULL), 0);
	assert_index_is_right();
}

static unsigned nr_preads;

static ssize_t counted_pread(int fd, void *buf, size_t len, off_t offset)
{
	nr_preads += len > 4096;
	return pread(fd, buf, len, offset);
}

static void own_spool_files_are_not_read_twice(void **state)
{
	struct merge_own own = { .syncer = syncer_new(1, NULL) };

	(void)state;
	faulty = file_ops_os;
	faulty.pread = counted_pread;
	fill(1, 1, 1);
	put(1, NULL);
	own_add(&own, 1);
	file_ops = &faulty;
	nr_preads = 0;
	assert_int_equal(merge_prepare(catalog, &own, &never, 1, NULL), 0);
	file_ops = &file_ops_os;
	assert_int_equal(nr_preads, 1); /* the header */
	syncer_free(own.syncer);
	vec_release(&own.images);
	assert_int_equal(run(NULL), 0);
	assert_index_is_right();
}

static int count_tables(void *ctx, const struct partition *p, struct err *err)
{
	(void)err;
	*(unsigned *)ctx += p->nr_tables;
	return 0;
}

static void a_table_that_is_not_durable_is_not_named(void **state)
{
	struct err err = ERR_INIT;
	unsigned nr = 0;

	(void)state;
	fill(1, 1, 1);
	put(1, NULL);
	assert_int_equal(merge_prepare(catalog, NULL, &never, 2, NULL), 0);
	faulty = file_ops_os;
	faulty.fdatasync = slow_fdatasync;
	steps_left = 0;
	file_ops = &faulty;
	assert_int_equal(run(&err), -1);
	file_ops = &file_ops_os;
	assert_int_equal(err.kind, ERR_FULL);
	assert_int_equal(catalog_each_partition(catalog, count_tables, &nr, NULL), 0);
	assert_int_equal(nr, 0);
	assert_int_equal(run(NULL), 0);
	assert_index_is_right();
}

/* ---- more than is sorted at once ---- */

#define MANY ((size_t)300 * SEGMENT_BLOCKS)

static uint8_t found_once[MANY + 1];

static int note_places(void *ctx, const struct partition *p, struct err *err)
{
	struct index_table tables[PARTITION_TABLES];
	int nr = catalog_tables(catalog, p->bits, p->prefix, tables, err);

	(void)ctx;
	for (int i = 0; i < nr; i++) {
		CLEANUP(table_close) struct table *t = table_open(catalog_index_dirfd(catalog), tables[i].name, TABLE_PAGE, NULL);
		struct key key;
		uint64_t place;

		while (table_next_key(t, &key, NULL) > 0) {
			while (table_next_place(t, &place, NULL) > 0) {
				struct fingerprint f = content_of(place % MANY + 1);

				assert_int_equal(key.hi, f.hi);
				assert_int_equal(key.lo, f.lo & KEY_LO_MASK);
				assert_in_range(++found_once[place % MANY], 1, 1);
			}
		}
	}
	return nr < 0 ? -1 : 0;
}

static void what_is_sorted_in_pieces_is_all_there(void **state)
{
	CLEANUP(free) uint64_t *many = malloc(MANY * sizeof(*many));
	uint64_t first;

	(void)state;
	assert_int_equal(catalog_number(catalog, "next_segment", &first, NULL), 0);
	for (size_t i = 0; i < MANY; i++)
		many[(i + MANY - first * SEGMENT_BLOCKS % MANY) % MANY] = i + 1;
	ids[1] = image_add("/1");
	spool_image(ids[1], 0, many, MANY, NULL);
	merge();
	memset(found_once, 0, sizeof(found_once));
	assert_int_equal(catalog_each_partition(catalog, note_places, NULL, NULL), 0);
	for (size_t i = 0; i < MANY; i++)
		assert_int_equal(found_once[i], 1);
}

static void stray_tables_are_swept(void **state)
{
	(void)state;
	fill(1, 1, 1);
	put(1, NULL);
	tree_file("catalog/index/0-0-ffff");
	merge();
	assert_index_is_right();
}

static void a_damaged_spool_file_is_thrown_away(void **state)
{
	struct catalog_image i = { 0 };
	char name[64];
	int fd;

	(void)state;
	fill(1, 1, 1);
	put(1, NULL);
	fill(2, 1, 1);
	put(2, NULL);
	snprintf(name, sizeof(name), "catalog/spool/%lld.req", (long long)ids[2]);
	fd = open(in_tree(name), O_WRONLY);
	assert_int_equal(pwrite(fd, "damage", 6, 9000), 6);
	close(fd);
	merge();
	assert_int_equal(catalog_image_by_id(catalog, ids[2], &i, NULL), 1);
	assert_int_equal(i.scanned_at, 0); /* so it is read again */
	catalog_image_release(&i);
	ids[2] = 0;
	assert_index_is_right();
}

static void a_spool_file_of_a_past_state_is_thrown_away(void **state)
{
	(void)state;
	fill(1, 1, 1);
	put(1, NULL);
	merge();
	spool_image(ids[1], 0, contents[2], BLOCKS, NULL); /* says that it is of base 0; the catalog is further */
	merge();
	assert_index_is_right();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		merge_test(spool_files_become_an_index),
		merge_test(nothing_to_merge_is_fine),
		merge_test(later_scans_add_to_it),
		merge_test(small_changes_become_small_tables_until_there_are_too_many),
		merge_test(places_of_removed_images_fall_out),
		merge_test(a_merge_that_was_stopped_goes_on),
		merge_test(a_merge_that_fails_anywhere_goes_on_next_time),
		merge_test(what_is_taken_is_durable_whoever_synced_it),
		merge_test(own_spool_files_are_not_read_twice),
		merge_test(a_table_that_is_not_durable_is_not_named),
		merge_test(what_is_sorted_in_pieces_is_all_there),
		merge_test(stray_tables_are_swept),
		merge_test(a_damaged_spool_file_is_thrown_away),
		merge_test(a_spool_file_of_a_past_state_is_thrown_away),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
