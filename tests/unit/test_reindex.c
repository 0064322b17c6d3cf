/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/pool_help.h"

#include "compactor/collect.h"
#include "compactor/pool/finder.h"
#include "compactor/pool/pool_check.h"
#include "compactor/pool/reindex.h"
#include "tests/unit/image_help.h"

/* After the index was lost (C4), a repair makes it find what it found before: what enters later is stored as if nothing had
 * been. */

#define NR_SEGMENTS 5

static unsigned unit_bits;

/* Disk 1 is disk 0, moved on by seven units, with a quarter of the units other ones; some in both are equal, and some zeros. */
static void fill(unsigned disk, uint64_t segment, uint8_t *p)
{
	const size_t unit = (size_t)1 << unit_bits;

	memset(p, 0, SEGMENT_SIZE);
	for (uint64_t u = 0; u < SEGMENT_SIZE / unit; u++) {
		uint64_t at = segment * (SEGMENT_SIZE / unit) + u, number = disk && at >= 7 ? at - 7 : at;

		if (number % 29 == 5)
			continue;
		if (disk && at / 32 % 4 == 1)
			number += 1000000;
		make_bytes(p + u * unit, unit, (unsigned)(number % 41 == 3 ? 777 : number));
	}
}

static uint64_t import_disk(unsigned disk)
{
	const struct import_options o = { .unit_bits = unit_bits, .min_run = (uint64_t)2 << unit_bits };
	CLEANUP(import_free) struct import *i = import_new(pool, NR_SEGMENTS * SEGMENT_SIZE, &o, NULL, 0, NULL);
	CLEANUP(free) uint8_t *p = malloc(SEGMENT_SIZE);
	struct import_stats stats;
	uint8_t root[DIGEST_SIZE];

	for (uint64_t s = 0; s < NR_SEGMENTS; s++) {
		fill(disk, s, p);
		assert_int_equal(import_segment(i, s, p, NULL), 0);
	}
	assert_int_equal(import_end(i, root, &stats, NULL), 0);
	assert_int_equal(pool_sync(pool, NULL), 0);
	return stats.stored;
}

static int remove_one(void *ctx, const char *name, struct err *err)
{
	(void)ctx;
	return file_unlink(pool->dirs[POOL_INDEX], name, err);
}

static void lose_index(void)
{
	assert_int_equal(file_each_name(pool->dirs[POOL_INDEX], remove_one, NULL, NULL), 0);
	again();
}

static bool lacks(void)
{
	bool ret;

	assert_int_equal(pool_lacks_keys(pool, &ret, NULL), 0);
	return ret;
}

static unsigned nr_said;

static int take_damage(void *ctx, const struct pool_damage *d, struct err *err)
{
	(void)ctx;
	(void)err;
	assert_int_equal(d->part, POOL_FINDER);
	assert_true(d->repairable);
	nr_said++;
	return 0;
}

static unsigned check(void)
{
	const struct pool_check_options o = { .read_data = true, .percent = 100, .damage = take_damage };
	struct pool_checked c;

	nr_said = 0;
	assert_int_equal(pool_check(pool, &o, &c, NULL), 0);
	return nr_said;
}

static uint64_t repair(bool dry_run)
{
	const struct pool_repair_options o = { .dry_run = dry_run };
	uint64_t repaired, left;
	struct err err = ERR_INIT;

	if (pool_repair(pool, &o, &repaired, &left, &err) < 0)
		fail_msg("%s", err.text);
	assert_int_equal(left, 0);
	return repaired;
}

static void new_pool(void)
{
	static unsigned nr;
	char before[32];

	close_pool();
	snprintf(before, sizeof(before), "before-%u", nr++);
	assert_int_equal(renameat(pool_dirfd, "pool", pool_dirfd, before), 0);
	assert_int_equal(pool_create(pool_dirfd, "pool", NULL), 0);
	open_pool();
}

/* What is stored of disk 1 where disk 0 is, in a pool that lost nothing. */
static uint64_t without_loss(void)
{
	uint64_t stored;

	import_disk(0);
	assert_false(lacks());
	stored = import_disk(1);
	new_pool();
	import_disk(0);
	return stored;
}

static void as_without_loss(unsigned bits)
{
	uint64_t stored;

	unit_bits = bits;
	stored = without_loss();
	lose_index();
	assert_true(lacks());
	assert_int_equal(check(), 1);
	assert_int_equal(repair(true), 1);
	assert_true(lacks());
	assert_int_equal(repair(false), 1);
	assert_false(lacks());
	again();
	assert_false(lacks());
	assert_int_equal(check(), 0);
	assert_int_equal(repair(false), 0);
	assert_int_equal(import_disk(1), stored);
}

static void blocks_of_4_kib_are_found_again(void **state)
{
	(void)state;
	as_without_loss(12);
}

static void units_of_16_kib_are_found_again(void **state)
{
	(void)state;
	as_without_loss(14);
}

static void units_of_64_kib_are_found_again(void **state)
{
	(void)state;
	as_without_loss(16);
}

/* Four blocks, of which the first is dead: the others end where units of 16 KiB begin. */
static void import_odd(void)
{
	static const struct import_options o = { .unit_bits = 12, .min_run = BLOCK_SIZE };
	CLEANUP(free) uint8_t *p = calloc(1, SEGMENT_SIZE);
	struct disk d = { .size = SEGMENT_SIZE };
	struct import_stats stats;
	struct collected c;

	make_bytes(p, 16 * KIB, 5000000);
	for (int i = 0; i < 2; i++) {
		CLEANUP(import_free) struct import *im = import_new(pool, d.size, &o, NULL, 0, NULL);

		assert_int_equal(import_segment(im, 0, p, NULL), 0);
		assert_int_equal(import_end(im, d.root, &stats, NULL), 0);
		assert_int_equal(pool_sync(pool, NULL), 0);
		memset(p, 0, BLOCK_SIZE);
	}
	version_of("odd", &d);
	assert_int_equal(pool_collect(pool, &(struct collect_options){ .memory = MIB }, &c, NULL), 0);
}

static void units_of_several_sizes_lie_beside_each_other(void **state)
{
	uint64_t stored;

	(void)state;
	unit_bits = 14;
	import_odd();
	stored = without_loss();
	new_pool();
	import_odd();
	assert_int_equal(clusters_end(pool->clusters), POOL_DATA_BEGIN + 16 * KIB);
	import_disk(0);
	lose_index();
	assert_int_equal(repair(false), 1);
	assert_int_equal(import_disk(1), stored);
}

/* What dies in its first import lost none that there was. */
static void a_new_pool_lacks_nothing(void **state)
{
	const struct import_options o = { .unit_bits = 12, .min_run = BLOCK_SIZE };
	struct import *i;
	uint8_t *p = malloc(SEGMENT_SIZE);

	(void)state;
	unit_bits = 12;
	assert_false(lacks());
	i = import_new(pool, NR_SEGMENTS * SEGMENT_SIZE, &o, NULL, 0, NULL);
	for (uint64_t s = 0; s < NR_SEGMENTS; s++) {
		fill(0, s, p);
		assert_int_equal(import_segment(i, s, p, NULL), 0);
	}
	import_free(i);
	free(p);
	again();
	assert_true(clusters_end(pool->clusters) > POOL_DATA_BEGIN);
	assert_false(lacks());
}

/* The control: without a repair much more is stored. */
static void without_repair_they_are_not_found(void **state)
{
	uint64_t stored;

	(void)state;
	unit_bits = 12;
	stored = without_loss();
	lose_index();
	assert_true(import_disk(1) > 2 * stored);
	assert_true(lacks()); /* of what was there before */
}

/* What came after the loss has keys, and needs no repair. */
static void what_comes_later_has_keys(void **state)
{
	uint64_t begin, end, before;

	(void)state;
	unit_bits = 12;
	import_disk(0);
	before = clusters_end(pool->clusters);
	lose_index();
	import_disk(1);
	again();
	finder_lacks(pool->finder, &begin, &end);
	assert_int_equal(begin, POOL_DATA_BEGIN);
	assert_true(end >= before && end < clusters_end(pool->clusters));
}

/* ---- stopping, reading ---- */

static struct stopper stopper;
static unsigned stop_after;
static uint64_t bytes_read, broken_begin, broken_end;
static struct file_ops ops;

static void on_progress(void *ctx, const char *stage, uint64_t done, uint64_t total)
{
	(void)ctx;
	assert_string_equal(stage, "indexing");
	assert_true(done < total);
	if (stop_after && --stop_after == 0)
		atomic_store(&stopper.flag, 1);
}

static ssize_t counted_pread(int fd, void *buf, size_t len, off_t offset)
{
	if ((uint64_t)offset < broken_end && (uint64_t)offset + len > broken_begin)
		return errno = EIO, -1;
	if ((uint64_t)offset >= POOL_DATA_BEGIN)
		bytes_read += len;
	return pread(fd, buf, len, offset);
}

static int reindex(struct err *err)
{
	const struct reindex_options o = { .stopper = &stopper, .progress = on_progress };
	int rc;

	ops = file_ops_os;
	ops.pread = counted_pread;
	file_ops = &ops;
	bytes_read = 0;
	rc = pool_reindex(pool, &o, err);
	file_ops = &file_ops_os;
	return rc;
}

static void it_stops_and_goes_on(void **state)
{
	uint64_t stored, begin, end, last = POOL_DATA_BEGIN;
	struct err err = ERR_INIT;
	unsigned nr_stops = 0;

	(void)state;
	unit_bits = 12;
	stored = without_loss();
	lose_index();
	for (;; nr_stops++) {
		stop_after = 12;
		if (reindex(&err) == 0)
			break;
		assert_int_equal(err.kind, ERR_CANCELED);
		atomic_store(&stopper.flag, 0);
		again(); /* what is not durable is forgotten */
		finder_lacks(pool->finder, &begin, &end);
		assert_true(begin > last);
		last = begin;
		if (nr_stops % 2)
			assert_true(bytes_read < NR_SEGMENTS * SEGMENT_SIZE / 2);
	}
	assert_true(nr_stops >= 2);
	again();
	assert_false(lacks());
	assert_int_equal(import_disk(1), stored);
}

static unsigned tables_left; /* may be opened */

static int few_tables(int dirfd, const char *name, int flags, mode_t mode)
{
	if (strstr(name, ".table") && tables_left-- == 0)
		return errno = EMFILE, -1;
	return openat(dirfd, name, flags, mode);
}

/* What is no fault of the index does not make it a damaged one, which repair would throw away. */
static void reading_it_stops_and_may_fail(void **state)
{
	struct err err = ERR_INIT, why = ERR_INIT;

	(void)state;
	import_disk(1);
	again();
	assert_int_equal(pool_prove_index(pool, &stopper, &why, &err), 1);
	atomic_store(&stopper.flag, 1);
	assert_int_equal(pool_prove_index(pool, &stopper, &why, &err), -1);
	assert_int_equal(err.kind, ERR_CANCELED);
	atomic_store(&stopper.flag, 0);
	ops = file_ops_os;
	ops.openat = few_tables;
	file_ops = &ops;
	for (unsigned i = 0; i < 2; i++) {
		tables_left = i;
		assert_int_equal(pool_prove_index(pool, &stopper, &why, &err), -1);
	}
	file_ops = &file_ops_os;
}

static ssize_t no_pread(int fd, void *buf, size_t len, off_t offset)
{
	(void)fd;
	(void)buf;
	(void)len;
	(void)offset;
	return errno = EIO, -1;
}

static void one_that_lacks_nodes_is_not_kept(void **state)
{
	uint64_t stored;

	(void)state;
	unit_bits = 12;
	stored = without_loss();
	ops = file_ops_os;
	ops.pread = no_pread;
	file_ops = &ops;
	assert_int_equal(pool_forget_index(pool, NULL), -1);
	file_ops = &file_ops_os;
	assert_int_equal(pool_sync(pool, NULL), -1);
	again();
	repair(false);
	assert_int_equal(check(), 0);
	assert_int_equal(import_disk(1), stored);
}

/* However many maps have a cluster. */
static void each_cluster_is_read_once(void **state)
{
	uint64_t stored;

	(void)state;
	unit_bits = 12;
	stored = import_disk(0);
	stored += import_disk(1);
	lose_index();
	stop_after = 0;
	assert_int_equal(reindex(NULL), 0);
	assert_true(bytes_read >= stored && bytes_read < stored + stored / 8);
}

static void what_cannot_be_read_costs_only_itself(void **state)
{
	uint64_t stored, lost;

	(void)state;
	unit_bits = 12;
	stored = without_loss();
	lose_index();
	stop_after = 0;
	broken_begin = POOL_DATA_BEGIN + 5 * MIB + 3 * BLOCK_SIZE;
	broken_end = broken_begin + BLOCK_SIZE;
	assert_int_equal(reindex(NULL), 0);
	broken_begin = broken_end = 0;
	assert_false(lacks());
	lost = import_disk(1) - stored;
	assert_true(lost <= 2 * BLOCK_SIZE);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		pool_test(blocks_of_4_kib_are_found_again),
		pool_test(units_of_16_kib_are_found_again),
		pool_test(units_of_64_kib_are_found_again),
		pool_test(units_of_several_sizes_lie_beside_each_other),
		pool_test(a_new_pool_lacks_nothing),
		pool_test(without_repair_they_are_not_found),
		pool_test(what_comes_later_has_keys),
		pool_test(it_stops_and_goes_on),
		pool_test(reading_it_stops_and_may_fail),
		pool_test(one_that_lacks_nodes_is_not_kept),
		pool_test(each_cluster_is_read_once),
		pool_test(what_cannot_be_read_costs_only_itself),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
