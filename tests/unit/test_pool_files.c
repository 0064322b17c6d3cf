/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/pool_help.h"

#include <sys/statfs.h>

#include "compactor/collect.h"
#include "compactor/pool/clusters.h"
#include "compactor/pool/gather.h"
#include "compactor/pool/growth.h"
#include "compactor/pool/nodes.h"
#include "compactor/pool/pool_check.h"
#include "compactor/pool/reindex.h"

/* Pools of several cluster files: what entered before stays what it is, what enters now lies in the file that grows, and a file in
 * which little lives is evacuated, and goes. */

#define SYSTEM 1 /* of numbers: what several disks have */

static struct disk first = { .size = 2 * SEGMENT_SIZE, .pieces = { { 0, 256 * KIB, SYSTEM }, { SEGMENT_SIZE, 512 * KIB, 2 } } };
static struct disk second = { .size = 2 * SEGMENT_SIZE + 512,
			      .pieces = { { 0, 256 * KIB, SYSTEM }, { SEGMENT_SIZE, 384 * KIB, 3 } } };
static struct disk large = { .size = 3 * SEGMENT_SIZE,
			     .pieces = { { 0, 2 * MIB, 4 }, { SEGMENT_SIZE, 2 * MIB, 5 }, { 2 * SEGMENT_SIZE, 2 * MIB, 6 } } };
static struct disk third = { .size = SEGMENT_SIZE, .pieces = { { 4096, 128 * KIB, 7 } } };
static struct collected got;

static void begin_file(void)
{
	struct err err = ERR_INIT;

	if (growth_begin(pool, &err) < 0)
		fail_msg("%s", err.text);
}

static int collect_with(unsigned percent, bool dry_run, struct err *err)
{
	const struct collect_options o = { .memory = 64 * MIB, .evacuate = percent, .dry_run = dry_run };

	return pool_collect(pool, &o, &got, err);
}

static void collect(unsigned percent)
{
	struct err err = ERR_INIT;

	if (collect_with(percent, false, &err) < 0)
		fail_msg("%s", err.text);
}

static int fail_on_damage(void *ctx, const struct pool_damage *d, struct err *err)
{
	(void)ctx;
	(void)err;
	fail_msg("%s: %s", pool_part_names[d->part], d->what.text);
	return -1;
}

static int count_damage(void *ctx, const struct pool_damage *d, struct err *err)
{
	(void)d;
	(void)err;
	++*(unsigned *)ctx;
	return 0;
}

static unsigned nr_damages(bool read_data)
{
	unsigned nr = 0;
	const struct pool_check_options o = { .read_data = read_data, .percent = 100, .damage = count_damage, .ctx = &nr };
	struct pool_checked checked;
	struct err err = ERR_INIT;

	if (pool_check(pool, &o, &checked, &err) < 0)
		fail_msg("%s", err.text);
	return nr;
}

static void expect_whole(void)
{
	const struct pool_check_options o = { .read_data = true, .percent = 100, .damage = fail_on_damage };
	struct pool_checked checked;
	struct err err = ERR_INIT;

	if (pool_check(pool, &o, &checked, &err) < 0)
		fail_msg("%s", err.text);
}

/* The number of the file that a segment lies in. */
static unsigned file_of(const struct disk *d, uint64_t segment)
{
	CLEANUP(free) uint8_t *p = malloc(SEGMENT_SIZE);
	uint8_t digest[DIGEST_SIZE];
	struct leaf leaf;

	render(d, segment, p);
	digest_bytes(p, SEGMENT_SIZE, digest);
	assert_int_equal(nodes_find_leaf(pool->nodes, digest, POOL_UNIT_BITS_MIN, &leaf, NULL), 1);
	for (unsigned f = 0; f < POOL_NR_FILES; f++)
		if (leaf_lies_in(&leaf, f))
			return f;
	fail_msg("a leaf lies in two files");
	return 0;
}

static unsigned file_of_view(const struct view *v)
{
	return v->slot / (unsigned)POOL_NR_SLOTS;
}

static uint64_t size_of(size_t i)
{
	struct cluster_span s = clusters_span(pool->clusters, i);

	return s.end - s.begin;
}

/* ---- growing ---- */

static void what_entered_before_another_file_stays_what_it_is(void **state)
{
	struct view a, b;

	(void)state;
	import(&first);
	a = view_of(&first);
	member_of("a", &first, &a);
	begin_file();
	assert_int_equal(clusters_nr(pool->clusters), 2);
	import(&third);
	b = view_of(&third);
	member_of("b", &third, &b);
	for (int i = 0; i < 2; i++) {
		assert_int_equal(file_of(&first, 0), 0);
		assert_int_equal(file_of(&third, 0), 1);
		assert_int_equal(file_of_view(&a), 0);
		assert_int_equal(file_of_view(&b), 1);
		expect_disk(&first);
		expect_disk(&third);
		expect_view(&a);
		expect_view(&b);
		expect_whole();
		again();
	}
	close_pool();
	open_pool_for(false);
	expect_disk(&first);
	expect_disk(&third);
	assert_int_equal(view_find(pool, a.id, &b, NULL), 1);
	assert_int_equal(b.slot, a.slot);
}

/* What is in another file alone is stored again, once, and the old view has it all the same. */
static void what_enters_shares_what_the_file_that_grows_has(void **state)
{
	struct disk shifted = { .size = 2 * SEGMENT_SIZE, .pieces = { { 4096, 512 * KIB, 2 }, { SEGMENT_SIZE, 384 * KIB, 3 },
								       { SEGMENT_SIZE + MIB, 4096, 10 } } };
	struct import_stats stats;
	struct view a, b;

	(void)state;
	import(&first);
	a = view_of(&first);
	member_of("a", &first, &a);
	begin_file();
	stats = import(&second);
	assert_int_equal(stats.stored, 384 * KIB);
	assert_int_equal(stats.shared_segments, 256 * KIB);
	assert_int_equal(file_of(&second, 0), 0);
	assert_int_equal(file_of(&second, 1), 1);
	b = view_of(&second);
	member_of("b", &second, &b);
	assert_int_equal(file_of(&second, 0), 1);
	assert_int_equal(file_of(&first, 1), 0);
	expect_view(&a); /* though its tree leads to two files now */
	expect_view(&b);
	stats = import(&shifted); /* runs of what is in the old file alone are not shared */
	assert_int_equal(stats.stored, 516 * KIB);
	assert_int_equal(stats.shared_runs, 384 * KIB);
	again();
	stats = import(&shifted);
	assert_int_equal(stats.stored, 0);
	stats = import(&first);
	assert_int_equal(stats.stored, 0);
	expect_whole();
	expect_view(&a);
	expect_disk(&first);
	expect_disk(&second);
}

/* A block in another file is not taken for one in this, as their offsets are the same. */
static void places_of_files_are_not_taken_for_each_other(void **state)
{
	struct disk other = { .size = SEGMENT_SIZE, .pieces = { { 0, 64 * KIB, 8 }, { 256 * KIB, 64 * KIB, SYSTEM } } };
	struct disk part = { .size = SEGMENT_SIZE, .pieces = { { 64 * KIB, 64 * KIB, SYSTEM } } };
	struct import_stats stats;

	(void)state;
	import(&first);
	begin_file();
	stats = import(&other);
	assert_int_equal(stats.stored, 128 * KIB);
	assert_int_equal(stats.forged, 0);
	stats = import(&part);
	assert_int_equal(stats.shared_runs, 64 * KIB);
	assert_int_equal(stats.stored, 0);
	again();
	stats = import(&part);
	assert_int_equal(stats.stored, 0);
	expect_disk(&first);
	expect_disk(&other);
	expect_disk(&part);
}

static void a_file_has_the_size_that_was_told(void **state)
{
	struct disk last = { .size = SEGMENT_SIZE, .pieces = { { 0, 8 * KIB, 11 } } };
	struct view v;

	(void)state;
	assert_int_equal(growth_tell(pool, 640 * KIB, NULL), 0);
	import(&first); /* as a whole, and so does its view */
	v = view_of(&first);
	assert_int_equal(clusters_nr(pool->clusters), 1);
	assert_int_equal(file_of_view(&v), 0);
	assert_true(growth_is_due(pool));
	again();
	assert_int_equal(pool->file_size, 640 * KIB);
	import(&third);
	assert_int_equal(clusters_nr(pool->clusters), 2);
	import(&second);
	assert_int_equal(clusters_nr(pool->clusters), 2);
	import(&first); /* nothing of it is new */
	import(&large);
	assert_int_equal(clusters_nr(pool->clusters), 2); /* 128, 384 KiB */
	import(&large);
	import(&second);
	assert_int_equal(clusters_nr(pool->clusters), 2);
	import(&last);
	assert_int_equal(clusters_nr(pool->clusters), 3);
	expect_disk(&last);
	expect_disk(&first);
	expect_disk(&second);
	expect_disk(&third);
	expect_disk(&large);
	expect_whole();
	assert_int_equal(growth_tell(pool, 0, NULL), 0);
	import(&first);
	assert_int_equal(clusters_nr(pool->clusters), 3);
}

/* Of which segments some are here, some there: a view needs them in one file. */
static void a_view_of_what_lies_in_several_files_is_brought_into_one(void **state)
{
	struct view v, w;

	(void)state;
	import(&first);
	import(&second);
	version_of("a", &first);
	version_of("b", &second);
	begin_file();
	begin_file();
	import(&third);
	v = view_of(&first);
	assert_int_equal(file_of_view(&v), 2);
	member_of("m", &first, &v);
	assert_int_equal(file_of(&first, 0), 2);
	assert_int_equal(file_of(&first, 1), 2);
	assert_int_equal(file_of(&second, 0), 2);
	assert_int_equal(file_of(&second, 1), 0);
	expect_view(&v);
	w = view_of(&second);
	member_of("n", &second, &w);
	expect_view(&w);
	assert_int_equal(file_of(&second, 1), 2);
	expect_disk(&first);
	expect_disk(&second);
	expect_whole();
	again();
	expect_whole();
}

/* An image that stands on a version of an older file takes over what did not change, where it is. */
static void a_base_in_another_file_is_not_stored_again(void **state)
{
	const struct import_options o = { .unit_bits = 12, .min_run = 4096 };
	CLEANUP(import_free) struct import *i = NULL;
	CLEANUP(free) uint8_t *p = malloc(SEGMENT_SIZE);
	struct disk changed = first;
	struct import_stats stats;

	(void)state;
	import(&first);
	begin_file();
	changed.pieces[1].number = 9;
	i = import_new(pool, first.size, &o, first.root, first.size, NULL);
	assert_int_equal(import_same(i, 1, NULL), 0);
	render(&changed, 1, p);
	assert_int_equal(import_segment(i, 1, p, NULL), 0);
	assert_int_equal(import_end(i, changed.root, &stats, NULL), 0);
	assert_int_equal(pool_sync(pool, NULL), 0);
	assert_int_equal(stats.stored, 512 * KIB);
	assert_int_equal(file_of(&changed, 0), 0);
	assert_int_equal(file_of(&changed, 1), 1);
	expect_disk(&changed);
	version_of("c", &changed);
	expect_whole();
}

static int little_space(int fd, struct statfs *ret)
{
	int rc = file_ops_os.fstatfs(fd, ret);

	ret->f_bavail = MIB / (uint64_t)ret->f_bsize;
	return rc;
}

/* A little of it lies elsewhere; but as another file has to begin, all of it has to be stored again. */
static void space_is_asked_for_all_that_has_to_be_stored(void **state)
{
	struct disk both = { .size = 3 * SEGMENT_SIZE, .pieces = { { 0, 256 * KIB, SYSTEM }, { SEGMENT_SIZE, 2 * MIB, 5 },
								   { 2 * SEGMENT_SIZE, 2 * MIB, 6 } } };
	struct file_ops few = file_ops_os;
	struct err err = ERR_INIT;
	char name[POOL_FILE_NAME_ROOM], path[100];
	struct cluster_span s;
	struct view v;
	uint64_t max;

	(void)state;
	import(&first);
	begin_file();
	import(&large);
	import(&both);
	version_of("both", &both);
	assert_int_equal(file_of(&both, 0), 0);
	assert_int_equal(file_of(&both, 1), 1);
	s = clusters_growing(pool->clusters);
	max = cluster_file_max(s.file);
	snprintf(path, sizeof(path), "pool/%s", pool_id_file_name(cluster_file_id(s.file)->uuid, name));
	close_pool();
	assert_int_equal(fchmodat(pool_dirfd, path, 0644, 0), 0);
	assert_int_equal(truncate(in_tree(path), (off_t)(max - 192 * KIB)), 0);
	open_pool();
	few.fstatfs = little_space;
	file_ops = &few;
	assert_int_equal(view_write(pool, both.root, both.size, 12, &v, &err), -1);
	file_ops = &file_ops_os;
	assert_int_equal(err.kind, ERR_FULL);
	assert_int_equal(size_of(2), 0);
	assert_int_equal(file_of(&both, 0), 0);
	assert_int_equal(file_of(&both, 1), 1);
	v = view_of(&both);
	assert_int_equal(file_of_view(&v), 2);
	member_of("m", &both, &v);
	expect_whole();
}

/* ---- damage ---- */

static void damage(uint32_t file, uint64_t offset)
{
	struct cluster_span s;
	char path[64];
	int fd;

	assert_true(clusters_of_address(pool->clusters, (uint64_t)file << POOL_FILE_BITS, &s));
	snprintf(path, sizeof(path), "/proc/self/fd/%d", cluster_file_fd(s.file));
	assert_int_equal(chmod(path, 0600), 0);
	fd = open(path, O_RDWR);
	assert_true(fd >= 0);
	assert_int_equal(pwrite(fd, "damaged", 7, (off_t)offset), 7);
	close(fd);
}

/* What the tree has elsewhere by now is proven where the view has it. */
static void damage_is_found_where_only_a_view_leads(void **state)
{
	struct view v;

	(void)state;
	import(&first);
	v = view_of(&first);
	member_of("a", &first, &v);
	begin_file();
	view_of(&first);
	again();
	assert_int_equal(nr_damages(true), 0);
	damage(0, POOL_DATA_BEGIN + 5000);
	again();
	assert_int_equal(view_check(pool, &v, NULL), -1);
	assert_int_equal(nr_damages(true), 1);
	assert_int_equal(nr_damages(false), 0); /* that reads no data */
	expect_disk(&first);
}

static void repair_writes_such_a_view_where_the_tree_leads(void **state)
{
	const struct pool_repair_options o = { .dry_run = false };
	uint64_t repaired, left;
	struct view v, made;

	(void)state;
	import(&first);
	v = view_of(&first);
	member_of("a", &first, &v);
	begin_file();
	view_of(&first);
	damage(0, POOL_DATA_BEGIN + 5000);
	assert_int_equal(pool_repair(pool, &o, &repaired, &left, NULL), 0);
	assert_int_equal(repaired, 1);
	assert_int_equal(left, 0);
	assert_int_equal(view_find(pool, v.id, &made, NULL), 1);
	assert_int_equal(file_of_view(&made), 1);
	expect_view(&made);
	expect_whole();
}

/* ---- healing ---- */

static uint64_t repair_data(bool dry_run, uint64_t *ret_left)
{
	const struct pool_repair_options o = { .read_data = true, .dry_run = dry_run };
	struct err err = ERR_INIT;
	uint64_t repaired;

	if (pool_repair(pool, &o, &repaired, ret_left, &err) < 0)
		fail_msg("%s", err.text);
	return repaired;
}

/* A segment: said, done, and not found again.  Views that led to its damage are written anew, too. */
static void expect_healed(uint64_t nr_views)
{
	uint64_t left;

	again();
	assert_int_equal(repair_data(true, &left), 1);
	assert_int_equal(left, 0);
	assert_int_equal(repair_data(false, &left), 1 + nr_views);
	assert_int_equal(left, 0);
	again();
	assert_int_equal(repair_data(false, &left), 0);
	assert_int_equal(left, 0);
	expect_whole();
}

/* The newer copy of a segment hides the older one, which is whole. */
static void damage_heals_from_an_older_copy(void **state)
{
	struct view v, w;

	(void)state;
	import(&first);
	v = view_of(&first);
	member_of("a", &first, &v);
	begin_file();
	w = view_of(&first);
	member_of("b", &first, &w);
	damage(1, POOL_DATA_BEGIN + 5000);
	again();
	assert_int_equal(compare_disk(&first, false, NULL), -1);
	expect_healed(1);
	expect_disk(&first);
	expect_view(&v);
	assert_int_equal(view_find(pool, w.id, &w, NULL), 1);
	expect_view(&w);
}

/* The file of nodes has no map of the older copy any more. */
static void damage_heals_from_what_a_view_leads_to(void **state)
{
	struct view v, w;

	(void)state;
	import(&first);
	v = view_of(&first);
	member_of("a", &first, &v);
	begin_file();
	w = view_of(&first);
	member_of("b", &first, &w);
	import(&large);
	collect(0); /* which keeps the newer ones only, as of large none is needed */
	collect(0);
	damage(1, POOL_DATA_BEGIN + 5000);
	again();
	assert_int_equal(compare_disk(&first, false, NULL), -1);
	expect_healed(1);
	expect_disk(&first);
	expect_view(&v);
}

static void damage_heals_from_clusters_of_another_size(void **state)
{
	struct import_stats stats;

	(void)state;
	import(&first);
	version_of("a", &first);
	assert_int_equal(import_as(&first, 16, &stats, NULL), 0);
	assert_true(stats.stored > 0);
	damage(0, POOL_DATA_BEGIN + 5000);
	expect_healed(0);
	expect_disk(&first);
}

static void what_the_pool_has_nowhere_else_is_left(void **state)
{
	uint64_t left;

	(void)state;
	import(&first);
	version_of("a", &first);
	version_of("b", &first);
	damage(0, POOL_DATA_BEGIN + 5000);
	again();
	for (int i = 0; i < 2; i++) {
		assert_int_equal(repair_data(i == 0, &left), 0);
		assert_int_equal(left, 1);
	}
	import(&first);
	assert_int_equal(repair_data(false, &left), 0);
	assert_int_equal(left, 0);
	expect_whole();
}

static void a_file_that_is_missing_is_told_and_stops_a_collection(void **state)
{
	struct err err = ERR_INIT;
	char name[POOL_FILE_NAME_ROOM], away[100];

	(void)state;
	import(&first);
	version_of("a", &first);
	pool_id_file_name(pool->uuid, name);
	begin_file();
	import(&third);
	version_of("b", &third);
	close_pool();
	snprintf(away, sizeof(away), "pool/%s", name);
	assert_int_equal(renameat(pool_dirfd, away, pool_dirfd, "away"), 0);
	open_pool();
	assert_int_equal(collect_with(25, false, &err), -1);
	assert_non_null(strstr(err.text, "nothing is removed"));
	assert_int_equal(compare_disk(&first, true, NULL), -1);
	expect_disk(&third);
	assert_true(nr_damages(false) > 0);
	close_pool();
	assert_int_equal(renameat(pool_dirfd, "away", pool_dirfd, away), 0);
	open_pool();
	expect_whole();
	expect_disk(&first);
}

static void run_in_tree(const char *command)
{
	char text[PATH_MAX + 100];

	snprintf(text, sizeof(text), "cd %s && %s", tree, command);
	assert_int_equal(system(text), 0);
}

/* Either of two files lost its begin, its end or all: what lies in the other one is as it was, and takes what comes. */
static void a_file_that_was_cut_hits_what_lies_in_it(void **state)
{
	static const uint64_t cuts[] = { 0, 40, 4096, POOL_DATA_BEGIN / 2, POOL_DATA_BEGIN + 64 * KIB };
	struct pool_repair_options o = { .dry_run = false };
	char name[POOL_FILE_NAME_ROOM], path[100];
	struct view v, w, x;

	(void)state;
	import(&first);
	v = view_of(&first);
	member_of("a", &first, &v);
	begin_file();
	import(&third);
	w = view_of(&third);
	member_of("b", &third, &w);
	for (size_t i = 0; i < 2 * ARRAY_SIZE(cuts); i++) {
		struct disk late = { .size = SEGMENT_SIZE, .pieces = { { 4096, 128 * KIB, 50 + (unsigned)i } } };
		struct disk *hit = i % 2 ? &third : &first, *other = i % 2 ? &first : &third;
		uint32_t number = clusters_growing(pool->clusters).number;
		uint64_t repaired, left;
		struct stat st;

		snprintf(path, sizeof(path), "pool/%s", pool_id_file_name(
			cluster_file_id(clusters_span(pool->clusters, i % 2).file)->uuid, name));
		close_pool();
		run_in_tree("cp -a --sparse=always pool kept");
		assert_int_equal(truncate(in_tree(path), (off_t)cuts[i / 2]), 0);
		open_pool_for(false);
		assert_int_equal(clusters_nr_passed_over(pool->clusters), cuts[i / 2] < 72);
		assert_true(nr_damages(false) >= 2); /* the file, and whom it hits */
		expect_disk(other);
		expect_view(i % 2 ? &v : &w);
		assert_int_equal(compare_disk(hit, false, NULL), -1);
		again();
		import(&late);
		x = view_of(&late);
		if (i % 2 && !clusters_nr_passed_over(pool->clusters))
			assert_true(clusters_growing(pool->clusters).number > number);
		assert_int_equal(pool_repair(pool, &o, &repaired, &left, NULL), 0);
		assert_true(left > 0);
		again();
		expect_disk(&late);
		expect_view(&x);
		expect_disk(other);
		assert_int_equal(compare_disk(hit, false, NULL), -1);
		assert_int_equal(stat(in_tree(path), &st), 0);
		assert_true((uint64_t)st.st_size <= max_u64(cuts[i / 2], POOL_SLOT_SIZE));
		import(hit);
		expect_disk(hit);
		close_pool();
		run_in_tree("rm -r pool && mv kept pool");
		open_pool();
	}
	expect_whole();
}

static void keys_that_are_lost_are_those_of_the_file_that_grows(void **state)
{
	const struct reindex_options o = { .stopper = NULL };
	struct disk part = { .size = SEGMENT_SIZE, .pieces = { { 64 * KIB, 128 * KIB, 7 } } };
	struct import_stats stats;
	bool lacks;

	(void)state;
	import(&first);
	version_of("a", &first);
	begin_file();
	import(&third);
	version_of("b", &third);
	assert_int_equal(file_unlink(pool->dirs[POOL_INDEX], "finder", NULL), 0);
	again();
	assert_int_equal(pool_lacks_keys(pool, &lacks, NULL), 0);
	assert_true(lacks);
	assert_int_equal(pool_reindex(pool, &o, NULL), 0);
	assert_int_equal(pool_lacks_keys(pool, &lacks, NULL), 0);
	assert_false(lacks);
	again();
	assert_int_equal(pool_lacks_keys(pool, &lacks, NULL), 0);
	assert_false(lacks);
	stats = import(&part);
	assert_int_equal(stats.shared_runs, 128 * KIB);
	stats = import(&first);
	assert_int_equal(stats.stored, 0);
	expect_whole();
}

/* ---- evacuating ---- */

/* File 0 with `large`, which dies, and `first`, which lives by a member and a version; file 1 has `third`. */
static struct view set_up_files(void)
{
	struct view v;

	import(&large);
	import(&first);
	v = view_of(&first);
	member_of("a", &first, &v);
	version_of("a1", &first);
	begin_file();
	import(&third);
	version_of("b", &third);
	return v;
}

static int count_name(void *ctx, const char *name, struct err *err)
{
	(void)name;
	(void)err;
	++*(unsigned *)ctx;
	return 0;
}

static unsigned nr_kept(void)
{
	unsigned nr = 0;

	assert_int_equal(file_each_name(pool->dirs[POOL_QUARANTINE], count_name, &nr, NULL), 0);
	return nr;
}

static void a_file_of_which_little_lives_is_evacuated_and_goes(void **state)
{
	struct view v, made;
	uint64_t before;

	(void)state;
	v = set_up_files();
	before = size_of(1);
	collect(0);
	assert_int_equal(got.nr_files_evacuated + got.nr_files_removed, 0);
	collect_with(25, true, NULL);
	assert_int_equal(got.nr_files_evacuated, 1);
	assert_true(got.moved >= 768 * KIB && got.moved < MIB);
	assert_int_equal(size_of(1), before);
	collect(25);
	assert_int_equal(got.nr_files_evacuated, 1);
	assert_int_equal(got.moved, 768 * KIB);
	assert_int_equal(file_of(&first, 0), 1);
	assert_int_equal(file_of(&first, 1), 1);
	assert_int_equal(view_find(pool, v.id, &made, NULL), 1);
	assert_int_equal(file_of_view(&made), 1);
	expect_view(&made);
	expect_disk(&first);
	expect_whole();
	assert_int_equal(nr_kept(), 1);
	collect(25); /* nobody has the old stub open */
	assert_int_equal(got.nr_files_removed, 1);
	assert_int_equal(nr_kept(), 0);
	assert_int_equal(clusters_nr(pool->clusters), 1);
	assert_int_equal(clusters_growing(pool->clusters).number, 1);
	for (int i = 0; i < 2; i++) {
		expect_view(&made);
		expect_disk(&first);
		expect_disk(&third);
		expect_whole();
		again();
		collect(25);
		assert_int_equal(got.nr_files_removed + got.nr_files_evacuated + got.freed, 0);
	}
	begin_file();
	assert_int_equal(clusters_growing(pool->clusters).number, 2);
}

/* Guest bytes, as the view's own tables lead to them. */
static int read_map(void *ctx, uint64_t segment, struct leaf *map, struct err *err)
{
	CLEANUP(free) uint8_t *is = malloc(SEGMENT_SIZE), *should = malloc(SEGMENT_SIZE);

	(void)err;
	assert_int_equal(tree_read_leaf(pool->clusters, map, is, NULL), 0);
	render(ctx, segment, should);
	assert_memory_equal(is, should, SEGMENT_SIZE);
	return 0;
}

static void guests_keep_the_file_they_have_open(void **state)
{
	struct view v, made;
	int fd;

	(void)state;
	v = set_up_files();
	fd = open_file_in(POOL_VIEWS, v.id);
	for (int i = 0; i < 3; i++) {
		collect(25);
		assert_int_equal(got.nr_files_removed, 0);
		assert_int_equal(view_each_map(pool, &v, read_map, &first, NULL), 0);
		assert_int_equal(view_find(pool, v.id, &made, NULL), 1);
		assert_int_equal(file_of_view(&made), 1);
	}
	assert_int_equal(got.moved, 0);
	close(fd);
	collect(25);
	assert_int_equal(got.nr_files_removed, 1);
	expect_view(&made);
	expect_whole();
}

/* A stub that no name knows, and somebody has open: it is not changed under him, and the file stays. */
static void views_that_no_name_keeps_stay_where_they_are(void **state)
{
	struct view v, u, found;
	int fd;

	(void)state;
	import(&second);
	u = view_of(&second);
	v = set_up_files();
	fd = open_file_in(POOL_VIEWS, u.id);
	for (int i = 0; i < 3; i++) {
		collect(25);
		assert_int_equal(got.nr_files_removed, 0);
		expect_view(&u);
		assert_int_equal(view_each_map(pool, &u, read_map, &second, NULL), 0);
		assert_int_equal(view_find(pool, u.id, &found, NULL), 1);
		assert_int_equal(found.slot, u.slot);
	}
	close(fd);
	collect(25);
	collect(25);
	assert_int_equal(got.nr_files_removed, 1);
	assert_int_equal(view_find(pool, v.id, &found, NULL), 1);
	expect_view(&found);
	expect_whole();
}

static void a_file_of_which_more_lives_stays(void **state)
{
	(void)state;
	set_up_files();
	version_of("large", &large);
	collect(25);
	assert_int_equal(got.nr_files_evacuated, 0);
	assert_int_equal(file_of(&first, 0), 0);
	collect(100);
	assert_int_equal(got.nr_files_evacuated, 1);
	collect(25);
	assert_int_equal(got.nr_files_removed, 1);
	expect_disk(&large);
	expect_disk(&first);
	expect_whole();
}

/* Offsets that are used up come back by nothing else; as long as there are enough, holes do. */
static void the_file_that_grows_is_evacuated_when_it_is_half_full(void **state)
{
	struct view v, made;

	(void)state;
	import(&large);
	import(&first);
	v = view_of(&first);
	member_of("a", &first, &v);
	collect(25);
	assert_int_equal(got.nr_files_evacuated, 0);
	assert_int_equal(growth_tell(pool, 20 * MIB, NULL), 0);
	collect(25);
	assert_int_equal(got.nr_files_evacuated, 0);
	assert_int_equal(growth_tell(pool, 10 * MIB, NULL), 0);
	collect(25);
	assert_int_equal(got.nr_files_evacuated, 1);
	assert_int_equal(clusters_nr(pool->clusters), 2);
	collect(25);
	assert_int_equal(got.nr_files_removed, 1);
	assert_int_equal(view_find(pool, v.id, &made, NULL), 1);
	assert_int_equal(file_of_view(&made), 1);
	assert_int_equal(size_of(0), 768 * KIB + 4 * BLOCK_SIZE);
	expect_view(&made);
	expect_whole();
}

static void maps_in_all_units_are_moved(void **state)
{
	struct import_stats stats;
	struct view v;

	(void)state;
	import(&large);
	for (unsigned bits = POOL_UNIT_BITS_MIN; bits <= POOL_UNIT_BITS_MAX; bits += 2)
		assert_int_equal(import_as(&third, bits, &stats, NULL), 0);
	version_of("b", &third);
	assert_int_equal(view_write(pool, third.root, third.size, 16, &v, NULL), 0);
	member_of("m", &third, &v);
	begin_file();
	collect(25);
	collect(25);
	assert_int_equal(got.nr_files_removed, 1);
	assert_int_equal(view_find(pool, v.id, &v, NULL), 1);
	assert_int_equal(v.cluster_bits, 16);
	expect_view(&v);
	expect_whole();
}

static void damaged_data_is_not_moved(void **state)
{
	struct err err = ERR_INIT;
	struct view v;

	(void)state;
	v = set_up_files();
	damage(0, POOL_DATA_BEGIN + 6 * MIB + 5000);
	for (int i = 0; i < 2; i++) {
		collect(25);
		assert_int_equal(got.nr_not_moved, 1);
		assert_int_equal(got.nr_files_removed, 0);
		assert_int_equal(file_of(&first, 0), 0);
		assert_int_equal(file_of(&first, 1), 1);
	}
	assert_int_equal(view_write(pool, first.root, first.size, 12, &v, &err), -1);
	assert_non_null(strstr(err.text, "dedupscan pool check"));
	import(&first); /* an image that is scanned has it yet */
	collect(25);
	assert_int_equal(got.nr_not_moved, 0);
	collect(25);
	assert_int_equal(got.nr_files_removed, 1);
	expect_disk(&first);
	expect_whole();
}

/* ---- whoever is stopped in the middle, and file systems that cannot do everything ---- */

static struct file_ops ops;
static unsigned nr_faults; /* that come yet */
static unsigned nr_before; /* that go well before the first */
static const char *fault_path; /* of a file, or a part of its path */

static bool is_fault(int fd)
{
	char path[64], is[512] = "";

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	if (!nr_faults || (fault_path && (readlink(path, is, sizeof(is) - 1) < 0 || !strstr(is, fault_path))))
		return false;
	if (nr_before) {
		nr_before--;
		return false;
	}
	nr_faults--;
	return true;
}

static int fail_exchange(int a, const char *x, int b, const char *y, unsigned flags)
{
	if (flags & RENAME_EXCHANGE && is_fault(b)) {
		errno = EIO;
		return -1;
	}
	return file_ops_os.renameat2(a, x, b, y, flags);
}

static int know_no_exchange(int a, const char *x, int b, const char *y, unsigned flags)
{
	if (flags & RENAME_EXCHANGE) {
		errno = EINVAL;
		return -1;
	}
	return file_ops_os.renameat2(a, x, b, y, flags);
}

static ssize_t fail_write(int fd, const void *buf, size_t len, off_t offset)
{
	if (is_fault(fd)) {
		errno = ENOSPC;
		return -1;
	}
	return file_ops_os.pwrite(fd, buf, len, offset);
}

static ssize_t fail_read(int fd, void *buf, size_t len, off_t offset)
{
	if (is_fault(fd)) {
		errno = EIO;
		return -1;
	}
	return file_ops_os.pread(fd, buf, len, offset);
}

static int fail_sync(int fd)
{
	struct stat st;

	if (fstat(fd, &st) == 0 && S_ISDIR(st.st_mode) && is_fault(fd)) {
		errno = EIO;
		return -1;
	}
	return file_ops_os.fsync(fd);
}

static void use_faults(const char *path)
{
	file_ops = &ops;
	fault_path = path;
	nr_faults = 1;
}

static void end_faults(void)
{
	file_ops = &file_ops_os;
	assert_int_equal(nr_faults, 0);
}

/* What a guest that has the stub open reads. */
static void expect_guest(const struct view *v)
{
	struct err err = ERR_INIT;

	if (view_each_map(pool, v, read_map, &first, &err) != 0)
		fail_msg("%s", err.text);
}

/* The header of the new view is there, and the stub still leads to the old one: with somebody who has it open, and without. */
static void a_stub_that_leads_to_the_old_view_keeps_it(void **state)
{
	struct err err = ERR_INIT;
	struct view v, made;
	int fd = -1;

	(void)state;
	v = set_up_files();
	for (int guest = 0; guest < 2; guest++) {
		if (guest)
			fd = open_file_in(POOL_VIEWS, v.id);
		ops = file_ops_os;
		ops.renameat2 = fail_exchange;
		ops.pwrite = fail_write;
		use_faults(guest ? NULL : "/quarantine/"); /* the exchange, or the write before it */
		if (guest)
			ops.pwrite = file_ops_os.pwrite;
		assert_int_equal(collect_with(100, false, &err), -1);
		end_faults();
		again();
		assert_int_equal(nr_damages(true), 0);
		collect(0); /* which ends it */
		expect_guest(&v);
		assert_int_equal(view_find(pool, v.id, &made, NULL), 1);
		expect_view(&made);
		if (guest) {
			collect(25);
			expect_guest(&v);
			close(fd);
		}
		collect(25);
		assert_int_equal(nr_damages(true), 0);
		v = made;
		begin_file();
	}
	expect_whole();
}

static void without_exchange_old_stubs_are_kept_all_the_same(void **state)
{
	struct view v, made;
	int fd;

	(void)state;
	v = set_up_files();
	fd = open_file_in(POOL_VIEWS, v.id);
	ops = file_ops_os;
	ops.renameat2 = know_no_exchange;
	file_ops = &ops;
	collect(25);
	collect(25);
	file_ops = &file_ops_os;
	expect_guest(&v);
	assert_int_equal(view_find(pool, v.id, &made, NULL), 1);
	assert_int_equal(file_of_view(&made), 1);
	expect_view(&made);
	close(fd);
	collect(25);
	assert_int_equal(got.nr_files_removed, 1);
	expect_whole();
}

static int know_no_exchange_and_fail(int a, const char *x, int b, const char *y, unsigned flags)
{
	if (!flags && strncmp(x, "slot-", 5) == 0 && is_fault(b)) {
		errno = EIO;
		return -1;
	}
	return know_no_exchange(a, x, b, y, flags);
}

static void a_stub_whose_place_is_not_taken_comes_back(void **state)
{
	char kept[VIEW_KEPT_STUB_ROOM];
	struct view v, made;

	(void)state;
	import(&first);
	v = view_of(&first);
	member_of("a", &first, &v);
	ops = file_ops_os;
	ops.renameat2 = know_no_exchange_and_fail;
	use_faults("/views");
	assert_int_equal(view_write_as(pool, &v, view_kept_stub(&v, kept), &made, NULL), -1);
	end_faults();
	expect_view(&v);
	collect(25); /* which ends it */
	assert_int_equal(view_find(pool, v.id, &made, NULL), 1);
	assert_int_not_equal(made.slot, v.slot);
	expect_view(&made);
	expect_whole();
}

/* The stub was written again while a guest had it open, then the view. */
static void a_stub_that_was_kept_before_is_not_lost(void **state)
{
	char kept[VIEW_KEPT_STUB_ROOM];
	struct view v, w;
	int fds[3];

	(void)state;
	v = set_up_files();
	fds[0] = open_file_in(POOL_VIEWS, v.id);
	assert_int_equal(view_write_stub(pool, &v, view_kept_stub(&v, kept), NULL), 0);
	fds[1] = open_file_in(POOL_VIEWS, v.id);
	assert_int_equal(view_write_as(pool, &v, view_kept_stub(&v, kept), &w, NULL), 0);
	fds[2] = open_file_in(POOL_VIEWS, v.id);
	begin_file();
	assert_int_equal(view_write_as(pool, &w, view_kept_stub(&w, kept), &w, NULL), 0);
	for (int i = 2; i >= 0; i--) {
		collect(100);
		expect_guest(&v);
		if (i)
			close(fds[i]);
	}
	close(fds[0]);
	collect(100);
	collect(100);
	assert_int_equal(view_each_map(pool, &v, read_map, &first, NULL), -1);
	expect_whole();
}

/* An overlay that names the cluster file and the slot, not the stub. */
static void who_stands_on_a_slot_keeps_that_slot(void **state)
{
	const struct overlay_options how = { .compat = false };
	const char *dirs[] = { tree };
	const struct collect_options o = { .memory = 64 * MIB, .evacuate = 25, .dirs = dirs, .nr_dirs = 1 };
	struct slice s = { .read_only = true };
	char name[POOL_FILE_NAME_ROOM];
	struct view v;
	int fd;

	(void)state;
	v = set_up_files();
	s.offset = slot_offset(v.slot);
	s.size = v.slice_size;
	snprintf(s.path, sizeof(s.path), "%s/%s", pool->path, pool_id_file_name(pool->uuid, name));
	fd = open(in_tree("direct.qcow2"), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	assert_int_equal(overlay_write(fd, v.disk_size, &s, &how, NULL), 0);
	close(fd);
	for (int i = 0; i < 3; i++)
		assert_int_equal(pool_collect(pool, &o, &got, NULL), 0);
	expect_guest(&v);
	assert_int_equal(clusters_nr(pool->clusters), 2);
	assert_int_equal(unlink(in_tree("direct.qcow2")), 0);
	for (int i = 0; i < 3; i++)
		assert_int_equal(pool_collect(pool, &o, &got, NULL), 0);
	assert_int_equal(clusters_nr(pool->clusters), 1);
}

/* A map in larger units lies elsewhere than the one in smaller units. */
static void maps_in_other_units_hide_nothing(void **state)
{
	struct import_stats stats;
	struct err err = ERR_INIT;
	struct view v, w;

	(void)state;
	import(&large);
	import(&third);
	v = view_of(&third);
	member_of("a", &third, &v);
	assert_int_equal(import_as(&third, 16, &stats, NULL), 0);
	begin_file();
	w = view_of(&third); /* which moves the one in 4 KiB */
	if (view_check(pool, &v, &err) < 0)
		fail_msg("%s", err.text);
	member_of("b", &third, &w);
	expect_whole();
	begin_file();
	assert_int_equal(import_as(&third, 14, &stats, NULL), 0);
	for (int i = 0; i < 3; i++)
		collect(25);
	collect(100);
	collect(100);
	assert_int_equal(clusters_nr(pool->clusters), 1);
	expect_whole();
}

/* One L2 table leads to many segments, some of which were moved. */
static void views_in_larger_clusters_are_proven_segment_by_segment(void **state)
{
	for (unsigned bits = 12; bits <= 16; bits += 2) {
		struct disk many = { .size = 3 * SEGMENT_SIZE, .pieces = { { 0, 256 * KIB, bits }, { SEGMENT_SIZE, 512 * KIB, bits + 1 },
									   { 2 * SEGMENT_SIZE, 64 * KIB, 99 } } };
		struct disk one = { .size = SEGMENT_SIZE, .pieces = { { 0, 512 * KIB, bits + 1 } } };
		struct import_stats stats;
		struct view v, w;

		(void)state;
		assert_int_equal(import_as(&many, bits, &stats, NULL), 0);
		assert_int_equal(view_write(pool, many.root, many.size, bits, &v, NULL), 0);
		member_of("x", &many, &v);
		begin_file();
		assert_int_equal(import_as(&one, bits, &stats, NULL), 0);
		assert_int_equal(view_write(pool, one.root, one.size, bits, &w, NULL), 0);
		assert_int_equal(file_of(&many, 1), clusters_growing(pool->clusters).number);
		expect_view(&v);
	}
	expect_whole();
}

/* The file has its name, but nobody knows whether that is durable: it is taken back, and no other one gets its number. */
static void a_file_that_may_not_be_there_does_not_begin(void **state)
{
	struct err err = ERR_INIT;

	(void)state;
	import(&first);
	version_of("a", &first);
	ops = file_ops_os;
	ops.fsync = fail_sync;
	nr_before = 1; /* that of the number */
	use_faults(NULL);
	assert_int_equal(growth_begin(pool, &err), -1);
	end_faults();
	assert_int_equal(growth_begin(pool, NULL), -1);
	again();
	assert_int_equal(clusters_nr(pool->clusters), 1);
	begin_file();
	assert_int_equal(clusters_growing(pool->clusters).number, 3); /* it was tried with two */
	import(&third);
	version_of("b", &third);
	again();
	expect_whole();
}

static void an_index_that_lacks_nodes_is_not_kept(void **state)
{
	struct import_stats stats;

	(void)state;
	import(&first);
	version_of("a", &first);
	ops = file_ops_os;
	ops.pread = fail_read;
	nr_before = 1; /* that of the last bytes, by which the file is known */
	use_faults(".nodes");
	assert_int_equal(growth_begin(pool, NULL), -1);
	end_faults();
	assert_int_equal(import_as(&third, 12, &stats, NULL), -1);
	again();
	import(&third);
	version_of("b", &third);
	again();
	expect_whole();
	expect_disk(&first);
	collect(25);
}

/* Who begins a file may die before the index is of that: no block of it lacks a key. */
static void an_index_of_another_file_is_not_damaged(void **state)
{
	(void)state;
	import(&first);
	version_of("a", &first);
	run_in_tree("cp -rp pool/index old");
	begin_file();
	close_pool();
	run_in_tree("rm -r pool/index && mv old pool/index");
	for (unsigned i = 0; i < 2; i++) {
		open_pool_for(false);
		expect_whole();
		close_pool();
		run_in_tree("rm -f pool/index/finder"); /* the first of what goes */
	}
	open_pool();
	expect_whole();
}

static void what_was_not_finished_goes_with_the_next_writer(void **state)
{
	(void)state;
	close_pool();
	close(openat(pool_dirfd, "pool/00000000-0000-4000-8000-000000000001.qcow2.new", O_CREAT | O_RDWR, 0400));
	open_pool_for(false);
	assert_int_equal(faccessat(pool_dirfd, "pool/00000000-0000-4000-8000-000000000001.qcow2.new", F_OK, 0), 0);
	again();
	assert_int_equal(faccessat(pool_dirfd, "pool/00000000-0000-4000-8000-000000000001.qcow2.new", F_OK, 0), -1);
}

/* A stub that repair replaced led to an older slot than that which it knew as the view's. */
static void an_old_stub_keeps_the_slot_that_it_leads_to(void **state)
{
	const struct pool_repair_options o = { .dry_run = false };
	char kept[VIEW_KEPT_STUB_ROOM];
	uint64_t repaired, left;
	struct view v, made;
	int fd;

	(void)state;
	import(&first);
	v = view_of(&first);
	member_of("a", &first, &v);
	fd = open_file_in(POOL_VIEWS, v.id);
	ops = file_ops_os;
	ops.renameat2 = fail_exchange;
	use_faults(NULL);
	assert_int_equal(view_write_as(pool, &v, view_kept_stub(&v, kept), &made, NULL), -1);
	end_faults();
	again();
	assert_int_equal(pool_repair(pool, &o, &repaired, &left, NULL), 0);
	assert_int_equal(repaired, 1);
	for (int i = 0; i < 2; i++) {
		collect(25);
		expect_guest(&v);
	}
	close(fd);
	collect(25);
	assert_int_equal(view_each_map(pool, &v, read_map, &first, NULL), -1);
	expect_whole();
}

/* The file that grows was lost, and with it what trees led to: no other file is taken for it. */
static void a_number_is_not_given_twice(void **state)
{
	char name[POOL_FILE_NAME_ROOM];
	struct cluster_span s;

	(void)state;
	import(&first);
	version_of("a", &first);
	begin_file();
	import(&third);
	version_of("b", &third);
	s = clusters_growing(pool->clusters);
	pool_id_file_name(cluster_file_id(s.file)->uuid, name);
	assert_int_equal(unlinkat(pool->dirs[POOL_TOP], name, 0), 0);
	again();
	assert_int_equal(clusters_growing(pool->clusters).number, 0);
	expect_disk(&first);
	assert_int_equal(compare_disk(&third, true, NULL), -1);
	begin_file();
	assert_int_equal(clusters_growing(pool->clusters).number, 2);
	import(&second);
	import(&large);
	assert_int_equal(compare_disk(&third, true, NULL), -1);
	import(&third); /* which heals it */
	expect_disk(&third);
	expect_disk(&first);
}

/* One segment of a tree lies in a third file and cannot be read: its view stays, and nothing else waits for it. */
static void a_view_that_cannot_be_moved_holds_up_nothing(void **state)
{
	struct disk both = { .size = 2 * SEGMENT_SIZE, .pieces = { { 0, 256 * KIB, 31 }, { SEGMENT_SIZE, 512 * KIB, 32 } } };
	struct disk one = { .size = SEGMENT_SIZE, .pieces = { { 0, 512 * KIB, 32 } } };
	struct view v, w;

	(void)state;
	import(&large); /* it dies */
	import(&both);
	v = view_of(&both);
	member_of("v", &both, &v);
	begin_file();
	import(&one);
	w = view_of(&one); /* has the second segment moved into file 1 */
	member_of("w", &one, &w);
	begin_file();
	damage(1, POOL_DATA_BEGIN + 5000);
	again();
	collect(25);
	assert_int_equal(got.nr_not_moved, 1);
	assert_int_equal(view_each_map(pool, &v, read_map, &both, NULL), 0);
	import(&one);
	collect(25);
	assert_int_equal(got.nr_not_moved, 0);
	collect(25);
	assert_int_equal(got.nr_files_removed, 1);
	expect_disk(&both);
}

/* ---- many ---- */

static uint64_t bytes_read;

static ssize_t count_read(int fd, void *buf, size_t len, off_t offset)
{
	bytes_read += len;
	return file_ops_os.pread(fd, buf, len, offset);
}

/* What a collection reads grows as the pool does, however many files that is in; and there are not so many because of a wish. */
static void many_files_cost_no_more_than_one(void **state)
{
	uint64_t read[3] = { 0 };

	(void)state;
	assert_int_equal(growth_tell(pool, 64 * KIB, NULL), 0);
	ops = file_ops_os;
	ops.pread = count_read;
	for (unsigned i = 1; i <= 80; i++) {
		struct disk d = { .size = SEGMENT_SIZE, .pieces = { { 0, 128 * KIB, 100 + i } } };
		char name[16];
		struct view v;

		import(&d);
		v = view_of(&d);
		snprintf(name, sizeof(name), "n%u", i);
		member_of(name, &d, &v);
		assert_int_equal(clusters_nr(pool->clusters), i < 64 ? i : 64);
		if (i != 15 && i != 60)
			continue;
		again();
		bytes_read = 0;
		file_ops = &ops;
		collect(0);
		file_ops = &file_ops_os;
		read[i / 30] = bytes_read;
	}
	assert_true(read[0] > 0 && read[2] < 6 * read[0]);
	expect_whole();
}

/* A structure is checked without data, and data that several views have are read once. */
static void a_check_reads_what_was_moved_once(void **state)
{
	uint64_t without;

	(void)state;
	import(&large);
	for (int i = 0; i < 4; i++) {
		struct view v = view_of(&large);

		member_of((char[]){ (char)('a' + i), 0 }, &large, &v);
	}
	begin_file();
	view_of(&large);
	again();
	ops = file_ops_os;
	ops.pread = count_read;
	file_ops = &ops;
	bytes_read = 0;
	assert_int_equal(nr_damages(false), 0);
	without = bytes_read;
	bytes_read = 0;
	assert_int_equal(nr_damages(true), 0);
	file_ops = &file_ops_os;
	assert_true(without < MIB);
	assert_true(bytes_read >= 12 * MIB && bytes_read < 14 * MIB);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		pool_test(what_entered_before_another_file_stays_what_it_is),
		pool_test(what_enters_shares_what_the_file_that_grows_has),
		pool_test(places_of_files_are_not_taken_for_each_other),
		pool_test(a_file_has_the_size_that_was_told),
		pool_test(a_view_of_what_lies_in_several_files_is_brought_into_one),
		pool_test(a_base_in_another_file_is_not_stored_again),
		pool_test(space_is_asked_for_all_that_has_to_be_stored),
		pool_test(damage_is_found_where_only_a_view_leads),
		pool_test(repair_writes_such_a_view_where_the_tree_leads),
		pool_test(damage_heals_from_an_older_copy),
		pool_test(damage_heals_from_what_a_view_leads_to),
		pool_test(damage_heals_from_clusters_of_another_size),
		pool_test(what_the_pool_has_nowhere_else_is_left),
		pool_test(a_file_that_is_missing_is_told_and_stops_a_collection),
		pool_test(a_file_that_was_cut_hits_what_lies_in_it),
		pool_test(keys_that_are_lost_are_those_of_the_file_that_grows),
		pool_test(a_file_of_which_little_lives_is_evacuated_and_goes),
		pool_test(guests_keep_the_file_they_have_open),
		pool_test(views_that_no_name_keeps_stay_where_they_are),
		pool_test(a_file_of_which_more_lives_stays),
		pool_test(the_file_that_grows_is_evacuated_when_it_is_half_full),
		pool_test(maps_in_all_units_are_moved),
		pool_test(damaged_data_is_not_moved),
		pool_test(a_stub_that_leads_to_the_old_view_keeps_it),
		pool_test(without_exchange_old_stubs_are_kept_all_the_same),
		pool_test(a_stub_whose_place_is_not_taken_comes_back),
		pool_test(a_stub_that_was_kept_before_is_not_lost),
		pool_test(who_stands_on_a_slot_keeps_that_slot),
		pool_test(maps_in_other_units_hide_nothing),
		pool_test(views_in_larger_clusters_are_proven_segment_by_segment),
		pool_test(a_file_that_may_not_be_there_does_not_begin),
		pool_test(an_index_that_lacks_nodes_is_not_kept),
		pool_test(an_index_of_another_file_is_not_damaged),
		pool_test(what_was_not_finished_goes_with_the_next_writer),
		pool_test(an_old_stub_keeps_the_slot_that_it_leads_to),
		pool_test(a_number_is_not_given_twice),
		pool_test(a_view_that_cannot_be_moved_holds_up_nothing),
		pool_test(many_files_cost_no_more_than_one),
		pool_test(a_check_reads_what_was_moved_once),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
