/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/tree_help.h"

#include <pthread.h>

#include "compactor/rangemap.h"
#include "scanner/base/file.h"

/* Against an array: for every byte of a small world, where it is. */

#define OWNERS 5
#define WORLD 20000

static struct rangemap *map;
static struct {
	uint64_t to; /* + 1; 0 = nothing is there */
	uint32_t tag, flags;
} model[OWNERS][WORLD];

static uint64_t state;

static uint64_t below(uint64_t n)
{
	state = state * 6364136223846793005u + 1442695040888963407u;
	return (state >> 33) % n;
}

static int make(void **s)
{
	int dirfd;

	if (tree_make(s) < 0)
		return -1;
	dirfd = open(tree, O_RDONLY | O_DIRECTORY);
	map = rangemap_new(dirfd, NULL);
	close(dirfd);
	memset(model, 0, sizeof(model));
	state = 1;
	return map ? 0 : -1;
}

static int unmake(void **s)
{
	file_ops = &file_ops_os;
	rangemap_free(map);
	return tree_remove(s);
}

#define map_test(f) cmocka_unit_test_setup_teardown(f, make, unmake)

static void add(size_t owner, struct range r)
{
	struct err err = ERR_INIT;

	if (rangemap_add(map, &r, &err) < 0)
		fail_msg("%s", err.text);
	for (uint64_t i = 0; i < r.len; i++) {
		model[owner][r.from + i].to = r.to + i + 1;
		model[owner][r.from + i].tag = r.tag;
		model[owner][r.from + i].flags = r.flags;
	}
}

/* Many short ranges with short holes and many that go on in both worlds. */
static void fill(size_t owner)
{
	uint64_t at = below(50), to = below(1000);

	memset(model[owner], 0, sizeof(model[owner]));
	assert_int_equal(rangemap_begin(map, owner, NULL), 0);
	while (at < WORLD - 20) {
		uint64_t len = 1 + below(9);

		add(owner, (struct range){ at, len, to, (uint32_t)below(3) == 0, (uint32_t)below(5) == 0 });
		at += len;
		to += len;
		if (below(3) == 0)
			at += below(10);
		if (below(3) == 0)
			to = below(100000);
	}
}

static bool continues(size_t owner, uint64_t a, uint64_t b)
{
	return model[owner][b].to == model[owner][a].to + (b - a) && model[owner][b].tag == model[owner][a].tag &&
	       model[owner][b].flags == model[owner][a].flags;
}

/* What a look-up at `at` has to give: the longest run around it, or around the first byte after it. */
static void expect_found(size_t owner, uint64_t at)
{
	struct err err = ERR_INIT;
	struct range r;
	uint64_t begin = at, end;
	int rc = rangemap_find(map, owner, at, &r, &err);

	while (begin < WORLD && !model[owner][begin].to)
		begin++;
	if (begin == WORLD) {
		assert_int_equal(rc, 0);
		return;
	}
	if (rc != 1)
		fail_msg("owner %zu at %llu: %d %s", owner, (unsigned long long)at, rc, err.text);
	for (end = begin + 1; end < WORLD && model[owner][end].to && continues(owner, begin, end);)
		end++;
	while (begin > 0 && model[owner][begin - 1].to && continues(owner, begin - 1, begin))
		begin--;
	assert_int_equal(r.from, begin);
	assert_int_equal(r.len, end - begin);
	assert_int_equal(r.to, model[owner][begin].to - 1);
	assert_int_equal(r.tag, model[owner][begin].tag);
	assert_int_equal(r.flags, model[owner][begin].flags);
}

static void expect_all(size_t owner)
{
	for (uint64_t at = 0; at < WORLD; at++)
		expect_found(owner, at);
}

static void finds_what_an_array_has(void **s)
{
	(void)s;
	for (size_t i = 0; i < OWNERS; i++)
		fill(OWNERS - 1 - i);
	assert_int_equal(rangemap_end(map, NULL), 0);
	for (size_t i = 0; i < OWNERS; i++)
		expect_all(i);
	for (int i = 0; i < 20000; i++)
		expect_found(below(OWNERS), below(WORLD));
}

static void counts_what_does_not_go_on(void **s)
{
	struct range r = { 0, 10, 100, 1, 1 };

	(void)s;
	assert_int_equal(rangemap_begin(map, 2, NULL), 0);
	add(2, r);
	add(2, (struct range){ 10, 10, 110, 1, 1 }); /* goes on */
	add(2, (struct range){ 20, 10, 120, 2, 1 }); /* another tag */
	add(2, (struct range){ 30, 10, 130, 2, 2 }); /* other flags */
	add(2, (struct range){ 40, 10, 150, 2, 2 }); /* elsewhere */
	add(2, (struct range){ 51, 10, 160, 2, 2 }); /* after a hole */
	assert_int_equal(rangemap_count(map, 2), 5);
	assert_int_equal(rangemap_end(map, NULL), 0);
	assert_int_equal(rangemap_count(map, 2), 5);
	assert_int_equal(rangemap_count(map, 0), 0);
	assert_int_equal(rangemap_count(map, 7), 0);
	assert_int_equal(rangemap_find(map, 1, 0, &r, NULL), 0);
	assert_int_equal(rangemap_find(map, 7, 0, &r, NULL), 0);
	expect_all(2);
}

static void an_owner_may_begin_anew(void **s)
{
	(void)s;
	for (int round = 0; round < 6; round++) {
		for (size_t i = 0; i < OWNERS; i++)
			if (round == 0 || below(2))
				fill(i);
		assert_int_equal(rangemap_end(map, NULL), 0);
		for (int i = 0; i < 5000; i++)
			expect_found(below(OWNERS), below(WORLD));
	}
	assert_int_equal(rangemap_begin(map, 1, NULL), 0);
	assert_int_equal(rangemap_end(map, NULL), 0);
	memset(model[1], 0, sizeof(model[1]));
	expect_all(1);
}

static void what_was_added_last_is_found_too(void **s)
{
	(void)s;
	fill(0);
	expect_all(0); /* nobody called rangemap_end() */
	assert_int_equal(rangemap_begin(map, 1, NULL), 0);
	for (uint64_t at = 0; at < 700; at += 7) { /* windows fill while they are looked at */
		add(1, (struct range){ at, 3, 5 * at, 0, 0 });
		expect_found(1, at);
		expect_found(0, below(WORLD));
	}
	expect_all(1);
}

/* Bytes at the upper end of what a disk may have. */
static void large_numbers_are_numbers(void **s)
{
	struct range r;

	(void)s;
	assert_int_equal(rangemap_begin(map, 0, NULL), 0);
	assert_int_equal(rangemap_add(map, &(struct range){ 0, INT64_MAX, 0, 0, 0 }, NULL), 0);
	assert_int_equal(rangemap_add(map, &(struct range){ INT64_MAX, 4096, UINT64_MAX - 4096, 7, 9 }, NULL), 0);
	assert_int_equal(rangemap_find(map, 0, (uint64_t)INT64_MAX - 1, &r, NULL), 1);
	assert_int_equal(r.from, 0);
	assert_int_equal(rangemap_find(map, 0, (uint64_t)INT64_MAX + 4095, &r, NULL), 1);
	assert_int_equal(r.to, UINT64_MAX - 4096);
	assert_int_equal(rangemap_find(map, 0, (uint64_t)INT64_MAX + 4096, &r, NULL), 0);
}

/* More than are kept in memory, so that every look-up may throw out what another one needs. */
#define MANY 100000

static void *look_up(void *ctx)
{
	uint64_t own = (uintptr_t)ctx;
	intptr_t wrong = 0;

	for (int i = 0; i < 20000; i++) {
		uint64_t n;
		struct range r;

		own = own * 6364136223846793005u + 1442695040888963407u;
		n = (own >> 33) % MANY;
		wrong += rangemap_find(map, n % 3, 2 * n + 1, &r, NULL) != 1 || r.from != 2 * n + 1 || r.to != 7 * n + n % 3;
	}
	return (void *)wrong;
}

static void threads_may_ask(void **s)
{
	pthread_t threads[4];

	(void)s;
	for (size_t i = 0; i < 3; i++) {
		assert_int_equal(rangemap_begin(map, i, NULL), 0);
		for (uint64_t n = 0; n < MANY; n++)
			assert_int_equal(rangemap_add(map, &(struct range){ 2 * n + 1, 1, 7 * n + i, 0, 0 }, NULL), 0);
	}
	assert_int_equal(rangemap_end(map, NULL), 0);
	for (uintptr_t i = 0; i < 4; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, look_up, (void *)(i + 1)), 0);
	for (size_t i = 0; i < 4; i++) {
		void *wrong;

		assert_int_equal(pthread_join(threads[i], &wrong), 0);
		assert_null(wrong);
	}
}

static int nr_reads;

static ssize_t fails_to_read(int fd, void *buf, size_t len, off_t offset)
{
	if (nr_reads-- > 0)
		return pread(fd, buf, len, offset);
	errno = EIO;
	return -1;
}

/* A failure is one, and leaves nothing wrong behind. */
static void what_cannot_be_read_is_an_error(void **s)
{
	struct file_ops ops = file_ops_os;
	int nr_failed = 0;

	(void)s;
	for (size_t i = 0; i < OWNERS; i++)
		fill(i);
	assert_int_equal(rangemap_end(map, NULL), 0);
	ops.pread = fails_to_read;
	for (int i = 0; i < 300; i++) {
		struct range r;
		struct err err = ERR_INIT;
		size_t owner = below(OWNERS);
		uint64_t at = below(WORLD);

		file_ops = &ops;
		nr_reads = (int)below(3);
		if (rangemap_find(map, owner, at, &r, &err) < 0) {
			assert_int_equal(err.kind, ERR_IO);
			nr_failed++;
		}
		file_ops = &file_ops_os;
		expect_found(owner, at);
		rangemap_end(map, NULL); /* forgets what it read */
	}
	assert_true(nr_failed > 20);
}

static ssize_t disk_is_full(int fd, const void *buf, size_t len, off_t offset)
{
	(void)fd;
	(void)buf;
	(void)len;
	(void)offset;
	errno = ENOSPC;
	return -1;
}

static void a_full_disk_is_told(void **s)
{
	struct file_ops ops = file_ops_os;
	struct err err = ERR_INIT;
	struct range r;

	(void)s;
	ops.pwrite = disk_is_full;
	file_ops = &ops;
	assert_int_equal(rangemap_begin(map, 0, NULL), 0);
	add(0, (struct range){ 0, 10, 100, 0, 0 });
	add(0, (struct range){ 20, 10, 100, 0, 0 });
	assert_int_equal(rangemap_find(map, 0, 0, &r, &err), -1);
	assert_int_equal(err.kind, ERR_FULL);
	file_ops = &file_ops_os;
	expect_all(0);
}

static void leaves_no_file(void **s)
{
	(void)s;
	fill(0);
	assert_int_equal(rangemap_end(map, NULL), 0);
	assert_int_equal(access(in_tree("ranges.tmp"), F_OK), -1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		map_test(finds_what_an_array_has),
		map_test(counts_what_does_not_go_on),
		map_test(an_owner_may_begin_anew),
		map_test(what_was_added_last_is_found_too),
		map_test(large_numbers_are_numbers),
		map_test(threads_may_ask),
		map_test(what_cannot_be_read_is_an_error),
		map_test(a_full_disk_is_told),
		map_test(leaves_no_file),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
