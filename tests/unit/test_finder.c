/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/index_help.h"

#include <sys/stat.h>

#include "compactor/pool/finder.h"
#include "compactor/pool/finder_filter.h"
#include "scanner/base/bytes.h"
#include "scanner/base/crc32c.h"
#include "scanner/base/file.h"
#include "scanner/index/judymap.h"

#define LITTLE ((size_t)200 << 10) /* tables are written after some 1500 keys */
#define MUCH ((size_t)64 << 20)

/* In memory where there is a /dev/shm: syncs cost nothing there. */
static int finder_setup(void **state)
{
	random_state = 1;
	strcpy(scratch_path, "/dev/shm/finder-XXXXXX");
	if (!mkdtemp(scratch_path))
		return scratch_make(state);
	scratch = open(scratch_path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return scratch < 0;
}

#define finder_test(f) cmocka_unit_test_setup_teardown(f, finder_setup, scratch_remove)

static const uint8_t uuid[16] = { 1, 2, 3, 4 }, other_uuid[16] = { 5 };

static struct finder *open_whole(size_t memory)
{
	struct err err = ERR_INIT;
	bool whole = false;
	struct finder *f = finder_open(scratch, uuid, memory, true, &whole, &err);

	if (!f || !whole)
		fail_msg("not opened, or not whole: %s", err.text);
	return f;
}

/* Opened for reading it is found to be damaged, and for writing, too; then it can be cleared. */
static void expect_not_whole(void)
{
	for (int writing = 0; writing < 2; writing++) {
		bool whole = true;
		struct finder *f = finder_open(scratch, uuid, MUCH, writing, &whole, NULL);

		assert_non_null(f);
		assert_false(whole);
		assert_int_equal(finder_covered(f), 0);
		if (writing)
			assert_int_equal(finder_clear(f, NULL), 0);
		finder_close(f);
	}
	finder_close(open_whole(MUCH));
}

static void add(struct finder *f, uint64_t key, uint64_t number, bool over)
{
	struct err err = ERR_INIT;

	/* keys as they come from a hash */
	if (finder_add(f, key % 3, key % 2 ? 12 : 16, key * 0x9e3779b97f4a7c15, key * 0xc2b2ae3d27d4eb4f, number, over, &err) < 0)
		fail_msg("%s", err.text);
}

static uint64_t get(struct finder *f, uint64_t key)
{
	uint64_t number = 0;
	struct err err = ERR_INIT;
	int rc = finder_get(f, key % 3, key % 2 ? 12 : 16, key * 0x9e3779b97f4a7c15, key * 0xc2b2ae3d27d4eb4f, &number, &err);

	if (rc < 0)
		fail_msg("%s", err.text);
	return rc ? number : UINT64_MAX;
}

static void add_many(struct finder *f, uint64_t from, uint64_t to)
{
	for (uint64_t i = from; i < to; i++)
		add(f, i, i, false);
}

static unsigned nr_files(const char *suffix)
{
	DIR *d = opendir(scratch_path);
	unsigned nr = 0;

	for (struct dirent *e; d && (e = readdir(d));)
		nr += strlen(e->d_name) > strlen(suffix) && strcmp(e->d_name + strlen(e->d_name) - strlen(suffix), suffix) == 0;
	closedir(d);
	return nr;
}

/* ---- a map ---- */

static void gives_back_what_was_added(void **state)
{
	struct finder *f = open_whole(MUCH);

	(void)state;
	assert_int_equal(get(f, 5), UINT64_MAX);
	add(f, 5, 0, false);
	add(f, 6, (UINT64_C(1) << 62) - 1, false);
	assert_int_equal(get(f, 5), 0);
	assert_int_equal(get(f, 6), (UINT64_C(1) << 62) - 1);
	assert_int_equal(get(f, 7), UINT64_MAX);
	assert_int_equal(finder_sync(f, 4096, NULL), 0);
	assert_int_equal(get(f, 5), 0);
	finder_close(f);
	f = open_whole(MUCH);
	assert_int_equal(finder_covered(f), 4096);
	assert_int_equal(get(f, 5), 0);
	assert_int_equal(get(f, 6), (UINT64_C(1) << 62) - 1);
	assert_int_equal(get(f, 7), UINT64_MAX);
	assert_true(finder_bytes(f) > 4096);
	finder_close(f);
}

static void kinds_and_units_do_not_see_each_other(void **state)
{
	struct finder *f = open_whole(MUCH);
	const unsigned units[] = { 0, 12, 14, 16 };
	uint64_t number;

	(void)state;
	for (int synced = 0; synced < 2; synced++) {
		for (unsigned kind = 0; kind < FINDER_NR_KINDS; kind++)
			for (unsigned u = 0; u < 4; u++) {
				assert_int_equal(finder_get(f, kind, units[u], 7, 8, &number, NULL), synced);
				if (synced)
					assert_int_equal(number, kind * 10 + u);
				else
					assert_int_equal(finder_add(f, kind, units[u], 7, 8, kind * 10 + u, false, NULL), 0);
			}
		assert_int_equal(finder_sync(f, 1, NULL), 0);
	}
	finder_close(f);
}

static void a_key_keeps_its_number_unless_told(void **state)
{
	struct finder *f = open_whole(MUCH);

	(void)state;
	for (int i = 0; i < 3; i++) { /* pending; in a table; in two */
		add(f, 5, 100, false);
		assert_int_equal(get(f, 5), i == 2 ? 200 : 100);
		if (i == 1) {
			add(f, 5, 200, true);
			assert_int_equal(get(f, 5), 200);
		}
		add_many(f, 1000 + (unsigned)i, 1001 + (unsigned)i);
		assert_int_equal(finder_sync(f, (uint64_t)i, NULL), 0);
	}
	add(f, 5, 300, true);
	add(f, 5, 400, true);
	add(f, 5, 500, false);
	assert_int_equal(get(f, 5), 400);
	finder_close(f);
	f = open_whole(MUCH);
	assert_int_equal(get(f, 5), 200); /* what was pending is lost */
	finder_close(f);
}

/* Against a map in memory, through tables, merges, syncs and reopenings. */
static void random_work_is_as_in_a_map(void **state)
{
	CLEANUP(judymap_release) struct judymap model = { 0 };
	struct finder *f = open_whole(LITTLE);
	unsigned nr_syncs = 0;

	(void)state;
	for (unsigned step = 0; step < 60000; step++) {
		uint64_t key = random_below(20000), number = random_below(UINT64_C(1) << 40), *slot = judymap_get(&model, key);
		bool over = random_below(2);

		assert_int_equal(get(f, key), slot ? *slot : UINT64_MAX);
		add(f, key, number, over);
		if (!slot || over)
			*judymap_put(&model, key) = number;
		if (random_below(4000) == 0) {
			assert_int_equal(finder_sync(f, ++nr_syncs, NULL), 0);
			assert_true(nr_files(".table") <= 6);
		}
		if (step == 59999 || random_below(10000) == 0) {
			assert_int_equal(finder_sync(f, ++nr_syncs, NULL), 0);
			add(f, UINT64_MAX, 1, true); /* is lost */
			finder_close(f);
			f = open_whole(LITTLE);
			assert_int_equal(finder_covered(f), nr_syncs);
			assert_int_equal(get(f, UINT64_MAX), UINT64_MAX);
		}
	}
	for (uint64_t key = 0; key < 20000; key++) {
		uint64_t *slot = judymap_get(&model, key);

		assert_int_equal(get(f, key), slot ? *slot : UINT64_MAX);
	}
	finder_close(f);
}

static void tables_stay_few_and_nothing_else_is_left(void **state)
{
	struct finder *f = open_whole(LITTLE);

	(void)state;
	for (uint64_t i = 0; i < 200; i++) {
		add_many(f, i * 100, i * 100 + 100);
		assert_int_equal(finder_sync(f, i, NULL), 0);
		assert_true(nr_files(".table") <= 6 && nr_files(".filter") == nr_files(".table") && nr_files(".tmp") == 0);
	}
	/* many tables in one go */
	add_many(f, 20000, 60000);
	assert_true(nr_files(".table") <= 13); /* of which up to 6 are those of before */
	assert_int_equal(finder_sync(f, 500, NULL), 0);
	assert_true(nr_files(".table") <= 6);
	for (uint64_t i = 0; i < 60000; i++)
		assert_int_equal(get(f, i), i);
	finder_close(f);
}

static void a_sync_of_nothing_writes_nothing(void **state)
{
	struct finder *f = open_whole(MUCH);
	struct stat a, b;

	(void)state;
	assert_int_equal(finder_sync(f, 0, NULL), 0);
	assert_int_equal(nr_files("finder") + nr_files(".table"), 0);
	add_many(f, 0, 10);
	assert_int_equal(finder_sync(f, 7, NULL), 0);
	assert_int_equal(fstatat(scratch, "finder", &a, 0), 0);
	assert_int_equal(finder_sync(f, 7, NULL), 0);
	assert_int_equal(fstatat(scratch, "finder", &b, 0), 0);
	assert_int_equal(a.st_ino, b.st_ino);
	assert_int_equal(finder_sync(f, 8, NULL), 0);
	finder_close(f);
	f = open_whole(MUCH);
	assert_int_equal(finder_covered(f), 8);
	finder_close(f);
}

static void clearing_forgets_all(void **state)
{
	struct finder *f = open_whole(LITTLE);

	(void)state;
	add_many(f, 0, 5000);
	assert_int_equal(finder_sync(f, 9, NULL), 0);
	add_many(f, 5000, 5010);
	assert_int_equal(finder_clear(f, NULL), 0);
	assert_int_equal(finder_covered(f), 0);
	assert_int_equal(get(f, 1), UINT64_MAX);
	assert_int_equal(get(f, 5001), UINT64_MAX);
	assert_int_equal(scratch_empty(), 0);
	add_many(f, 1, 2);
	assert_int_equal(finder_sync(f, 3, NULL), 0);
	finder_close(f);
	f = open_whole(LITTLE);
	assert_int_equal(get(f, 1), 1);
	assert_int_equal(get(f, 2), UINT64_MAX);
	finder_close(f);
}

/* Whoever makes guests' disks can choose fingerprints; they may not be found, but must neither be mixed up nor take long. */
static void chosen_keys_cost_nothing_but_themselves(void **state)
{
	struct finder *f = open_whole(LITTLE);
	uint64_t number, found = 0;

	(void)state;
	for (uint64_t i = 0; i < 30000; i++) {
		assert_int_equal(finder_add(f, FINDER_BLOCK, 12, UINT64_C(1) << 40 | i << 4, 1, i, true, NULL), 0);
		add(f, i, i, true);
	}
	assert_int_equal(finder_sync(f, 1, NULL), 0);
	for (uint64_t i = 0; i < 30000; i++) {
		int rc = finder_get(f, FINDER_BLOCK, 12, UINT64_C(1) << 40 | i << 4, 1, &number, NULL);

		assert_true(rc >= 0 && (rc == 0 || number == i));
		found += (uint64_t)rc;
		assert_int_equal(get(f, i), i);
	}
	assert_true(found > 0);
	finder_close(f);
}

/* Who could give a block the key of a node would have the node not found any more. */
static void no_block_stands_in_the_way_of_a_node(void **state)
{
	struct finder *f = open_whole(MUCH);
	const uint64_t hi = 5, lo = 0x123456789abcdef0; /* the 104 bits of the block's key are alike, but for what tells the kind */
	uint64_t number;

	(void)state;
	for (unsigned unit = 12; unit <= 16; unit += 2)
		for (enum finder_kind kind = FINDER_NODE; kind < FINDER_NR_KINDS; kind++) {
			assert_int_equal(finder_add(f, kind, unit, hi, lo, unit, true, NULL), 0);
			for (uint64_t last = 0; last < 256; last++)
				finder_add(f, FINDER_BLOCK, unit, hi << 40 | lo >> 32 << 8 | last, lo, 1, true, NULL);
			assert_int_equal(finder_get(f, kind, unit, hi, lo, &number, NULL), 1);
			assert_int_equal(number, unit);
		}
	finder_close(f);
}

/* Most of an index is blocks. */
static void a_block_takes_eleven_bytes_at_most(void **state)
{
	struct finder *f = open_whole(MUCH);
	const uint64_t nr = 100000, first = ((uint64_t)64 << 30) / BLOCK_SIZE;

	(void)state;
	random_state = 1;
	for (uint64_t i = 0; i < nr; i++)
		assert_int_equal(finder_add(f, FINDER_BLOCK, 12, random_u64(), random_u64(), first + i, false, NULL), 0);
	assert_int_equal(finder_sync(f, 1, NULL), 0);
	assert_in_range(finder_bytes(f), 8 * nr, 11 * nr);
	finder_close(f);
}

/* ---- what is damaged ---- */

static void make_some(void)
{
	struct finder *f = open_whole(MUCH);

	add_many(f, 0, 40000);
	assert_int_equal(finder_sync(f, 1, NULL), 0);
	add_many(f, 40000, 41000);
	assert_int_equal(finder_sync(f, 2, NULL), 0);
	finder_close(f);
	assert_int_equal(nr_files(".table"), 2);
}

static void flip(const char *name, off_t at)
{
	int fd = openat(scratch, name, O_RDWR | O_CLOEXEC);
	uint8_t byte;

	assert_int_equal(pread(fd, &byte, 1, at), 1);
	byte ^= 0x10;
	assert_int_equal(pwrite(fd, &byte, 1, at), 1);
	close(fd);
}

static off_t size_of(const char *name)
{
	struct stat st;

	assert_int_equal(fstatat(scratch, name, &st, 0), 0);
	return st.st_size;
}

static void whatever_byte_of_the_list_is_wrong_it_is_noticed(void **state)
{
	(void)state;
	make_some();
	for (off_t i = 0; i < size_of("finder"); i++) {
		bool whole = true;

		flip("finder", i);
		finder_close(finder_open(scratch, uuid, MUCH, false, &whole, NULL));
		assert_false(whole);
		flip("finder", i);
	}
	finder_close(open_whole(MUCH));
	for (off_t len = size_of("finder") - 1; len >= 0; len--) {
		bool whole = true;
		int fd = openat(scratch, "finder", O_RDWR | O_CLOEXEC);

		assert_int_equal(ftruncate(fd, len), 0);
		close(fd);
		finder_close(finder_open(scratch, uuid, MUCH, false, &whole, NULL));
		assert_false(whole);
	}
	expect_not_whole();
}

static void how_far_its_nodes_lead_is_kept(void **state)
{
	uint8_t bytes[200];
	struct finder *f;
	ssize_t len;
	int fd;

	(void)state;
	f = open_whole(MUCH);
	assert_int_equal(finder_reach(f), 0);
	add(f, 1, 2, false);
	finder_set_reach(f, 4711);
	finder_set_tail(f, 815);
	assert_int_equal(finder_sync(f, 8, NULL), 0);
	finder_close(f);
	f = open_whole(MUCH);
	assert_int_equal(finder_reach(f), 4711);
	assert_int_equal(finder_tail(f), 815);
	finder_close(f);
	fd = openat(scratch, "finder", O_RDWR | O_CLOEXEC);
	len = pread(fd, bytes, sizeof(bytes), 0);
	assert_in_range(len, 84, sizeof(bytes) - 1);
	bytes[8] = 2; /* as it was when it did not say so */
	memmove(bytes + 64, bytes + 80, (size_t)len - 80);
	len -= 16;
	le32_store(bytes + len - 4, crc32c(0, bytes, (size_t)len - 4));
	assert_int_equal(pwrite(fd, bytes, (size_t)len, 0), len);
	assert_int_equal(ftruncate(fd, len), 0);
	close(fd);
	f = open_whole(MUCH);
	assert_int_equal(finder_reach(f), UINT64_MAX);
	assert_int_equal(finder_tail(f), 0);
	assert_int_equal(finder_covered(f), 8);
	assert_int_equal(finder_clear(f, NULL), 0);
	assert_int_equal(finder_reach(f), 0);
	finder_close(f);
}

/* Their keys are others. */
static void tables_of_another_version_are_not_taken(void **state)
{
	uint8_t bytes[200];
	ssize_t len;
	int fd;

	(void)state;
	make_some();
	fd = openat(scratch, "finder", O_RDWR | O_CLOEXEC);
	len = pread(fd, bytes, sizeof(bytes), 0);
	assert_in_range(len, 52, sizeof(bytes) - 1);
	bytes[8]--;
	le32_store(bytes + len - 4, crc32c(0, bytes, (size_t)len - 4));
	assert_int_equal(pwrite(fd, bytes, (size_t)len, 0), len);
	close(fd);
	expect_not_whole();
}

static void tables_of_another_pool_are_not_taken(void **state)
{
	struct finder *f;
	bool whole = true;

	(void)state;
	make_some();
	f = finder_open(scratch, other_uuid, MUCH, true, &whole, NULL);
	assert_non_null(f);
	assert_false(whole);
	assert_int_equal(get(f, 1), UINT64_MAX);
	finder_close(f);
}

static void a_table_that_is_missing_is_noticed(void **state)
{
	(void)state;
	make_some();
	assert_int_equal(unlinkat(scratch, "1.table", 0), 0);
	expect_not_whole();
}

static void a_table_that_is_cut_or_another_is_noticed(void **state)
{
	int fd;

	(void)state;
	make_some();
	fd = openat(scratch, "2.table", O_RDWR | O_CLOEXEC);
	assert_int_equal(ftruncate(fd, size_of("2.table") - 4096), 0);
	close(fd);
	expect_not_whole();
	scratch_empty();
	make_some();
	assert_int_equal(renameat(scratch, "1.table", scratch, "2.table"), 0);
	assert_int_equal(symlinkat("2.table", scratch, "1.table"), 0);
	expect_not_whole();
}

static void a_list_that_is_missing_is_noticed(void **state)
{
	(void)state;
	make_some();
	assert_int_equal(unlinkat(scratch, "finder", 0), 0);
	expect_not_whole();
	assert_int_equal(scratch_empty(), 0);
}

static void what_nobody_announced_is_removed(void **state)
{
	struct finder *f;

	(void)state;
	make_some();
	tables_stay_few_and_nothing_else_is_left(NULL); /* numbers go on */
	assert_int_equal(close(openat(scratch, "777777.table", O_RDWR | O_CREAT | O_CLOEXEC, 0600)), 0);
	assert_int_equal(close(openat(scratch, "777777.filter", O_RDWR | O_CREAT | O_CLOEXEC, 0600)), 0);
	assert_int_equal(close(openat(scratch, "07.table", O_RDWR | O_CREAT | O_CLOEXEC, 0600)), 0); /* none of ours */
	f = open_whole(MUCH);
	assert_int_equal(get(f, 1), 1);
	assert_int_equal(faccessat(scratch, "777777.table", F_OK, 0), -1);
	assert_int_equal(faccessat(scratch, "777777.filter", F_OK, 0), -1);
	assert_int_equal(faccessat(scratch, "07.table", F_OK, 0), 0);
	finder_close(f);
}

/* A page that is wrong is met when it is read. */
static void a_damaged_page_fails_and_the_next_opening_knows(void **state)
{
	struct finder *f;
	struct err err = ERR_INIT;
	uint64_t number;
	int rc = 0;

	(void)state;
	make_some();
	flip("1.table", 4096 + 100);
	f = open_whole(MUCH);
	for (uint64_t i = 0; i < 40000 && rc >= 0; i++) {
		rc = finder_get(f, i % 3, i % 2 ? 12 : 16, i * 0x9e3779b97f4a7c15, i * 0xc2b2ae3d27d4eb4f, &number, &err);
		if (rc >= 0)
			assert_true(rc == 1 && number == i);
	}
	assert_int_equal(rc, -1);
	assert_non_null(strstr(err.text, "built anew"));
	assert_int_equal(finder_get(f, 0, 12, 1, 1, &number, &err), -1);
	assert_int_equal(finder_add(f, 0, 12, 1, 1, 1, false, &err), -1);
	assert_int_equal(finder_sync(f, 3, &err), -1);
	assert_int_equal(err.kind, ERR_FORMAT);
	finder_close(f);
	expect_not_whole();
}

static void damage_met_while_merging_is_noticed(void **state)
{
	struct finder *f;

	(void)state;
	make_some();
	flip("1.table", 4096 + 100);
	f = open_whole(MUCH);
	for (uint64_t i = 100000; i < 130000; i++)
		add(f, i, i, true);
	assert_int_equal(finder_sync(f, 3, NULL), -1);
	finder_close(f);
	expect_not_whole();
}

static void clearing_heals_while_it_is_open(void **state)
{
	struct finder *f;

	(void)state;
	make_some();
	flip("1.table", 4096 + 100);
	f = open_whole(MUCH);
	for (uint64_t i = 100000; i < 130000; i++)
		add(f, i, i, true);
	assert_int_equal(finder_sync(f, 3, NULL), -1);
	assert_int_equal(finder_clear(f, NULL), 0);
	add_many(f, 0, 100);
	assert_int_equal(finder_sync(f, 3, NULL), 0);
	finder_close(f);
	f = open_whole(MUCH);
	assert_int_equal(get(f, 99), 99);
	finder_close(f);
}

/* ---- filters ---- */

static void a_filter_lets_pass_what_is_there_and_little_else(void **state)
{
	static const struct { uint64_t room, few, many; } tries[] = { { UINT64_MAX, 0, 3000 }, { 60000, 10000, 40000 } };
	const uint64_t nr = 100000;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(tries); i++) {
		CLEANUP(filter_free) struct filter *f = filter_new(nr, tries[i].room);
		struct filter *g;
		uint64_t passed = 0;

		assert_non_null(f);
		assert_true(filter_bytes(f) <= tries[i].room && filter_bytes(f) <= nr * 10 / 8);
		random_state = 1;
		for (uint64_t n = 0; n < nr; n++)
			filter_add(f, random_key());
		assert_int_equal(filter_write(f, scratch, "x.filter", NULL), 0);
		g = filter_load(scratch, "x.filter", tries[i].room);
		assert_non_null(g);
		random_state = 1;
		for (uint64_t n = 0; n < nr; n++) {
			struct key key = random_key();

			assert_true(filter_has(f, key) && filter_has(g, key));
		}
		for (uint64_t n = 0; n < nr; n++)
			passed += filter_has(g, random_key());
		filter_free(g);
		if (passed < tries[i].few || passed > tries[i].many)
			fail_msg("%d of 100000 pass", (int)passed);
	}
	assert_null(filter_new(nr, 40000));
	assert_null(filter_new(UINT64_MAX, 40000));
	assert_null(filter_new(1, 0));
	filter_free(filter_new(0, 100));
}

static void damaged_filters_are_done_without(void **state)
{
	struct finder *f;
	off_t len;

	(void)state;
	make_some();
	len = size_of("1.filter");
	for (off_t i = 0; i < len; i += i < 30 ? 1 : 997) {
		flip("1.filter", i);
		if (i < 20 || i >= 24) /* the rest is padding */
			assert_null(filter_load(scratch, "1.filter", UINT64_MAX));
		flip("1.filter", i);
	}
	assert_null(filter_load(scratch, "1.filter", 1000));
	assert_int_equal(truncate(strcat(strcpy((char[100]){ 0 }, scratch_path), "/1.filter"), len - 1), 0);
	assert_null(filter_load(scratch, "1.filter", UINT64_MAX));
	f = open_whole(MUCH);
	for (uint64_t i = 0; i < 45000; i += 7)
		assert_int_equal(get(f, i), i < 41000 ? i : UINT64_MAX);
	finder_close(f);
}

static unsigned nr_reads;

static ssize_t counted_pread(int fd, void *buf, size_t len, off_t offset)
{
	nr_reads++;
	return file_ops_os.pread(fd, buf, len, offset);
}

/* What is not there costs no reading, but for one in a hundred. */
static void what_is_not_there_is_not_read_for(void **state)
{
	struct file_ops counting = file_ops_os;
	struct finder *f;

	(void)state;
	make_some();
	counting.pread = counted_pread;
	for (int filters = 1; filters >= 0; filters--) {
		f = open_whole(filters ? MUCH : 4096);
		file_ops = &counting;
		nr_reads = 0;
		for (uint64_t i = 0; i < 10000; i++)
			assert_int_equal(get(f, 1000000 + i), UINT64_MAX);
		if (filters ? nr_reads > 500 : nr_reads < 9000)
			fail_msg("%u reads", nr_reads);
		file_ops = &file_ops_os;
		finder_close(f);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		finder_test(gives_back_what_was_added),
		finder_test(kinds_and_units_do_not_see_each_other),
		finder_test(a_key_keeps_its_number_unless_told),
		finder_test(random_work_is_as_in_a_map),
		finder_test(tables_stay_few_and_nothing_else_is_left),
		finder_test(a_sync_of_nothing_writes_nothing),
		finder_test(clearing_forgets_all),
		finder_test(chosen_keys_cost_nothing_but_themselves),
		finder_test(no_block_stands_in_the_way_of_a_node),
		finder_test(a_block_takes_eleven_bytes_at_most),
		finder_test(whatever_byte_of_the_list_is_wrong_it_is_noticed),
		finder_test(how_far_its_nodes_lead_is_kept),
		finder_test(tables_of_another_version_are_not_taken),
		finder_test(tables_of_another_pool_are_not_taken),
		finder_test(a_table_that_is_missing_is_noticed),
		finder_test(a_table_that_is_cut_or_another_is_noticed),
		finder_test(a_list_that_is_missing_is_noticed),
		finder_test(what_nobody_announced_is_removed),
		finder_test(a_damaged_page_fails_and_the_next_opening_knows),
		finder_test(damage_met_while_merging_is_noticed),
		finder_test(clearing_heals_while_it_is_open),
		finder_test(a_filter_lets_pass_what_is_there_and_little_else),
		finder_test(damaged_filters_are_done_without),
		finder_test(what_is_not_there_is_not_read_for),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
