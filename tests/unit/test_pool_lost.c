/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/pool_help.h"

#include <errno.h>
#include <sys/statfs.h>

#include "compactor/collect.h"
#include "compactor/pool/clusters.h"
#include "compactor/pool/growth.h"
#include "compactor/pool/nodes.h"
#include "compactor/pool/pool_check.h"

/* Pools of which a file is away, for good or for a while, or was cut: what the rest has is used, what enters now is whole, and nothing
 * that goes on for ever begins. */

static struct disk first = { .size = 2 * SEGMENT_SIZE, .pieces = { { 0, 256 * KIB, 1 }, { SEGMENT_SIZE, 512 * KIB, 2 } } };
static struct disk second = { .size = 2 * SEGMENT_SIZE + 512, .pieces = { { 0, 256 * KIB, 1 }, { SEGMENT_SIZE, 384 * KIB, 3 } } };
static struct disk third = { .size = SEGMENT_SIZE, .pieces = { { 4096, 128 * KIB, 7 } } };
static struct disk large = { .size = 3 * SEGMENT_SIZE,
			     .pieces = { { 0, 2 * MIB, 4 }, { SEGMENT_SIZE, 2 * MIB, 5 }, { 2 * SEGMENT_SIZE, 2 * MIB, 6 } } };

static void begin_file(void)
{
	struct err err = ERR_INIT;

	if (growth_begin(pool, &err) < 0)
		fail_msg("%s", err.text);
}

static void collect(unsigned percent)
{
	const struct collect_options o = { .memory = 64 * MIB, .evacuate = percent };
	struct collected got;
	struct err err = ERR_INIT;

	if (pool_collect(pool, &o, &got, &err) < 0)
		fail_msg("%s", err.text);
}

/* ---- files by hand ---- */

static char lost[PATH_MAX], kept[PATH_MAX]; /* where a file belongs, and where it is meanwhile */

static void name_file(size_t i)
{
	char name[POOL_FILE_NAME_ROOM], path[100];

	pool_id_file_name(cluster_file_id(clusters_span(pool->clusters, i).file)->uuid, name);
	snprintf(path, sizeof(path), "pool/%s", name);
	strcpy(lost, in_tree(path));
	strcpy(kept, in_tree("away"));
}

static void take_away(size_t i)
{
	name_file(i);
	close_pool();
	assert_int_equal(rename(lost, kept), 0);
	open_pool();
}

static void put_back(void)
{
	close_pool();
	assert_int_equal(rename(kept, lost), 0);
	open_pool();
}

static void cut(size_t i, uint64_t size)
{
	name_file(i);
	close_pool();
	assert_int_equal(chmod(lost, 0600), 0);
	assert_int_equal(truncate(lost, (off_t)size), 0);
	open_pool();
}

static void damage(uint64_t offset)
{
	int fd;

	name_file(0);
	assert_int_equal(chmod(lost, 0600), 0);
	fd = open(lost, O_RDWR);
	assert_true(fd >= 0);
	assert_int_equal(pwrite(fd, "damaged", 7, (off_t)offset), 7);
	close(fd);
}

/* ---- check and repair ---- */

static int count_damage(void *ctx, const struct pool_damage *d, struct err *err)
{
	(void)err;
	*(unsigned *)ctx += d->part != POOL_FINDER;
	return 0;
}

static unsigned nr_damages(void)
{
	unsigned nr = 0;
	const struct pool_check_options o = { .read_data = true, .percent = 100, .damage = count_damage, .ctx = &nr };
	struct pool_checked checked;
	struct err err = ERR_INIT;

	if (pool_check(pool, &o, &checked, &err) < 0)
		fail_msg("%s", err.text);
	return nr;
}

static uint64_t repair(uint64_t *ret_left)
{
	const struct pool_repair_options o = { .read_data = true, .assume_idle = true };
	struct err err = ERR_INIT;
	uint64_t repaired;

	if (pool_repair(pool, &o, &repaired, ret_left, &err) < 0)
		fail_msg("%s", err.text);
	return repaired;
}

/* ---- what begins another file, and what does not ---- */

/* One process after the other. */
static void expect_files(size_t wanted)
{
	for (unsigned i = 0; i < 3; i++) {
		struct disk late = { .size = SEGMENT_SIZE, .pieces = { { 4096, 128 * KIB, 50 + i } } };

		import(&late);
		again();
		expect_disk(&late);
	}
	assert_int_equal(clusters_nr(pool->clusters), wanted);
}

/* Repair buried the header of a view that nobody needs.  Its stub stays. */
static void a_stub_without_a_view_begins_no_file(void **state)
{
	struct view v, w;
	uint64_t left;

	(void)state;
	import(&first);
	v = view_of(&first);
	import(&second);
	w = view_of(&second);
	member_of("b", &second, &w);
	damage(slot_offset(v.slot));
	again();
	repair(&left);
	assert_int_equal(left, 0);
	again();
	expect_files(1);
}

static void a_file_that_is_lost_begins_none(void **state)
{
	struct view v;

	(void)state;
	import(&first);
	v = view_of(&first);
	member_of("a", &first, &v);
	begin_file();
	import(&third);
	v = view_of(&third);
	member_of("b", &third, &v);
	take_away(0);
	expect_files(1);
}

static void a_file_that_was_cut_begins_one(void **state)
{
	struct view v;

	(void)state;
	import(&first);
	v = view_of(&first);
	member_of("a", &first, &v);
	cut(0, POOL_SLOT_SIZE);
	expect_files(2);
}

/* The index was lost, too, and made anew by what changed the file of nodes. */
static void how_far_nodes_lead_is_known_when_they_were_rewritten(void **state)
{
	struct disk late = { .size = SEGMENT_SIZE, .pieces = { { 4096, 128 * KIB, 50 } } };
	struct view v;

	(void)state;
	import(&third);
	v = view_of(&third);
	member_of("b", &third, &v);
	import(&large); /* nobody's */
	import(&first);
	version_of("a", &first);
	close_pool();
	assert_int_equal(unlinkat(pool_dirfd, "pool/index/finder", 0), 0);
	open_pool();
	collect(0);
	cut(0, cluster_offset(clusters_end(pool->clusters)) - 256 * KIB);
	assert_int_equal(compare_disk(&first, false, NULL), -1);
	import(&late);
	assert_int_equal(clusters_nr(pool->clusters), 2);
}

/* ---- what the rest has ---- */

/* Its newer map leads to a file that is gone, the older one is whole. */
static void expect_healed_from_the_older_map(void)
{
	uint64_t left;

	assert_int_equal(compare_disk(&first, false, NULL), -1);
	assert_true(repair(&left) > 0);
	again();
	expect_disk(&first);
	repair(&left);
	again();
	assert_true(nr_damages() <= 1); /* the file itself */
}

static void make_two(void)
{
	import(&first);
	version_of("a", &first);
	begin_file();
	view_of(&first); /* brings it into the second one */
}

static void an_older_map_heals_what_was_cut(void **state)
{
	(void)state;
	make_two();
	cut(1, POOL_DATA_BEGIN);
	expect_healed_from_the_older_map();
}

static void an_older_map_heals_what_is_gone(void **state)
{
	(void)state;
	make_two();
	take_away(1);
	expect_healed_from_the_older_map();
}

static void an_older_map_is_that_of_an_image_that_enters_again(void **state)
{
	(void)state;
	make_two();
	take_away(1);
	import(&first);
	expect_disk(&first);
}

/* While a file is away the image enters again; then the file comes back, which trees lead to, and the views need. */
static void a_file_that_comes_back_is_no_trouble(void **state)
{
	struct err err = ERR_INIT;
	struct view v, w;

	(void)state;
	import(&third);
	version_of("b", &third);
	begin_file();
	import(&first);
	version_of("a", &first);
	take_away(1);
	import(&first);
	v = view_of(&first);
	member_of("m", &first, &v);
	put_back();
	if (view_write(pool, first.root, first.size, POOL_UNIT_BITS_MIN, &w, &err) < 0 || view_check(pool, &w, &err) < 0)
		fail_msg("%s", err.text);
	assert_int_equal(nr_damages(), 0);
	for (int i = 0; i < 2; i++) {
		collect(100);
		again();
	}
	expect_disk(&first);
	assert_int_equal(nr_damages(), 0);
}

/* Its stub is no sealed overlay. */
static void a_dying_view_whose_file_is_away_can_come_back(void **state)
{
	struct view v;

	(void)state;
	import(&third);
	version_of("b", &third);
	begin_file();
	import(&first);
	v = view_of(&first);
	collect(0);
	assert_true(is_in(POOL_TRASH, v.id));
	take_away(1);
	collect(0);
	assert_true(is_in(POOL_TRASH, v.id));
}

static void nodes_may_be_put_back_after_a_repair(void **state)
{
	char name[POOL_ID_TEXT_ROOM + 20], text[POOL_ID_TEXT_ROOM], nodes[PATH_MAX];
	struct err err = ERR_INIT;
	struct view v;
	uint64_t left;

	(void)state;
	import(&third);
	again();
	import(&second);
	version_of("b", &second);
	again();
	import(&first);
	v = view_of(&first);
	member_of("a", &first, &v);
	snprintf(name, sizeof(name), "pool/trees/%s.nodes", pool_id_text(pool->uuid, text));
	strcpy(nodes, in_tree(name));
	close_pool();
	assert_int_equal(rename(nodes, in_tree("nodes")), 0);
	assert_int_equal(pool_open_with(pool_dirfd, "pool", pool_path, POOL_TO_REPAIR, POOL_MEMORY, &pool, &err), 0);
	repair(&left);
	close_pool();
	assert_int_equal(rename(in_tree("nodes"), nodes), 0);
	open_pool();
	expect_disk(&first);
	expect_disk(&second);
	assert_int_equal(nr_damages(), 0);
}

/* ---- nothing holds up the rest ---- */

static int space_for_three(int fd, struct statfs *ret)
{
	int rc = file_ops_os.fstatfs(fd, ret);

	ret->f_bavail = (unsigned long)(3 * SEGMENT_SIZE / (uint64_t)ret->f_bsize);
	return rc;
}

static void what_cannot_heal_keeps_nothing_from_it(void **state)
{
	struct file_ops few = file_ops_os;
	struct import_stats stats;
	uint64_t left, at;

	(void)state;
	import(&first);
	version_of("a", &first);
	assert_int_equal(import_as(&first, 16, &stats, NULL), 0);
	at = cluster_offset(clusters_end(pool->clusters));
	import(&large);
	version_of("l", &large);
	damage(POOL_DATA_BEGIN + 5000);
	for (unsigned i = 0; i < 3; i++)
		damage(at + i * SEGMENT_SIZE + MIB);
	again();
	few.fstatfs = space_for_three;
	file_ops = &few;
	assert_int_equal(repair(&left), 1);
	file_ops = &file_ops_os;
	assert_int_equal(left, 3);
}

static int no_space(int fd, struct statfs *ret)
{
	int rc = file_ops_os.fstatfs(fd, ret);

	ret->f_bavail = 0;
	return rc;
}

static void what_there_is_no_space_for_is_left(void **state)
{
	struct file_ops none = file_ops_os;
	struct import_stats stats;
	uint64_t left;

	(void)state;
	import(&first);
	version_of("a", &first);
	assert_int_equal(import_as(&first, 16, &stats, NULL), 0);
	damage(POOL_DATA_BEGIN + 5000);
	again();
	none.fstatfs = no_space;
	file_ops = &none;
	assert_int_equal(repair(&left), 0);
	file_ops = &file_ops_os;
	assert_int_equal(left, 1);
	assert_int_equal(repair(&left), 1);
}

static uint64_t bad_at, bad_end;
static int bad_fd;

static ssize_t broken_pread(int fd, void *buf, size_t len, off_t at)
{
	if (fd == bad_fd && (uint64_t)at < bad_end && (uint64_t)at + len > bad_at) {
		errno = EIO;
		return -1;
	}
	return file_ops_os.pread(fd, buf, len, at);
}

static void tables_that_cannot_be_read_end_no_repair(void **state)
{
	struct file_ops broken = file_ops_os;
	struct view v, w;
	uint64_t left;

	(void)state;
	import(&first);
	v = view_of(&first);
	member_of("a", &first, &v);
	import(&third);
	w = view_of(&third);
	member_of("b", &third, &w);
	import(&large);
	version_of("large", &large);
	damage(cluster_offset(clusters_end(pool->clusters)) - 5000);
	again();
	bad_fd = cluster_file_fd(clusters_span(pool->clusters, 0).file);
	bad_end = slot_offset(v.slot) + v.slice_size;
	bad_at = bad_end - 4 * BLOCK_SIZE;
	broken.pread = broken_pread;
	file_ops = &broken;
	repair(&left);
	file_ops = &file_ops_os;
	assert_int_equal(left, 1);
}

/* A version that stands on it stays sealed, and others enter. */
static void a_damaged_base_is_told_as_such(void **state)
{
	const struct import_options o = { .unit_bits = 16, .min_run = 64 * KIB };
	struct err err = ERR_INIT;
	struct import *i;

	(void)state;
	import(&first);
	damage(POOL_DATA_BEGIN + 5000);
	again();
	i = import_new(pool, first.size, &o, first.root, first.size, &err);
	assert_non_null(i);
	assert_int_equal(import_same(i, 1, &err), -1);
	assert_int_equal(err.kind, ERR_FORMAT);
	import_free(i);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		pool_test(a_stub_without_a_view_begins_no_file),
		pool_test(a_file_that_is_lost_begins_none),
		pool_test(a_file_that_was_cut_begins_one),
		pool_test(how_far_nodes_lead_is_known_when_they_were_rewritten),
		pool_test(an_older_map_heals_what_was_cut),
		pool_test(an_older_map_heals_what_is_gone),
		pool_test(an_older_map_is_that_of_an_image_that_enters_again),
		pool_test(a_file_that_comes_back_is_no_trouble),
		pool_test(a_dying_view_whose_file_is_away_can_come_back),
		pool_test(nodes_may_be_put_back_after_a_repair),
		pool_test(what_cannot_heal_keeps_nothing_from_it),
		pool_test(what_there_is_no_space_for_is_left),
		pool_test(tables_that_cannot_be_read_end_no_repair),
		pool_test(a_damaged_base_is_told_as_such),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
