/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/tree_help.h"

#include <sys/mman.h>

#include "scanner/cache_keeper.h"

#define PAGES 5120u /* 20 MiB: two windows and a half */
#define SIZE ((size_t)PAGES * 4096)

static int fd = -1;
static unsigned char resident[PAGES];

static void look(void)
{
	void *map = mmap(NULL, SIZE, PROT_READ, MAP_SHARED, fd, 0);

	assert_ptr_not_equal(map, MAP_FAILED);
	assert_int_equal(mincore(map, SIZE, resident), 0);
	munmap(map, SIZE);
	for (unsigned i = 0; i < PAGES; i++)
		resident[i] &= 1;
}

static unsigned nr_resident(unsigned first, unsigned end)
{
	unsigned nr = 0;

	look();
	for (unsigned i = first; i < end; i++)
		nr += resident[i];
	return nr;
}

static void drop_all(void)
{
	posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
}

static int make(void **state)
{
	static char page[4096] = "not zero";

	if (tree_make(state) < 0)
		return -1;
	fd = open(in_tree("f"), O_RDWR | O_CREAT, 0600);
	for (unsigned i = 0; i < PAGES; i++)
		if (pwrite(fd, page, sizeof(page), (off_t)i * 4096) != 4096)
			return -1;
	return fsync(fd);
}

static int unmake(void **state)
{
	close(fd);
	return tree_remove(state);
}

#define cache_test(f) cmocka_unit_test_setup_teardown(f, make, unmake)

static void require_a_cache_that_forgets(void)
{
	drop_all();
	if (nr_resident(0, PAGES) == 0)
		return;
	printf("the file system keeps its files in memory\n");
	skip();
}

static void read_pages(unsigned first, unsigned end)
{
	static char buf[65536];

	for (unsigned i = first; i < end; i++)
		assert_int_equal(pread(fd, buf, 4096, (off_t)i * 4096), 4096);
}

/* As a worker reads: pieces of 256 KiB, each announced. */
static void read_kept(struct cache_keeper *k, unsigned first, unsigned end)
{
	for (unsigned i = first; i < end; i += 64) {
		unsigned to = i + 64 < end ? i + 64 : end;

		cache_keeper_before(k, fd, (uint64_t)i * 4096, (uint64_t)(to - i) * 4096);
		read_pages(i, to);
	}
}

static void what_was_not_in_the_cache_is_dropped_again(void **state)
{
	static struct cache_keeper k;

	(void)state;
	require_a_cache_that_forgets();
	cache_keeper_begin(&k, true);
	read_kept(&k, 0, PAGES);
	cache_keeper_end(&k);
	assert_in_range(nr_resident(0, PAGES), 0, 64);
}

/* Reads all of a file of which a part was in the cache.  True when just that part is in it after. */
static bool keeps_what_was_in_the_cache(void)
{
	static struct cache_keeper k;
	unsigned nr_before, nr_after = 0;

	require_a_cache_that_forgets();
	posix_fadvise(fd, 0, 0, POSIX_FADV_RANDOM); /* so that the pages below are all */
	for (unsigned i = 0; i < PAGES; i += 512)
		read_pages(i, i + 100);
	posix_fadvise(fd, 0, 0, POSIX_FADV_NORMAL);
	nr_before = nr_resident(0, PAGES);
	cache_keeper_begin(&k, true);
	read_kept(&k, 0, PAGES);
	cache_keeper_end(&k);
	for (unsigned i = 0; i < PAGES; i += 512)
		nr_after += nr_resident(i, i + 100);
	return nr_before == PAGES / 512 * 100 && nr_after == nr_before && nr_resident(0, PAGES) <= nr_before + 128;
}

/* Now and then the kernel takes some pages by itself, where memory is short. */
static void what_was_in_the_cache_stays(void **state)
{
	bool kept = false;

	(void)state;
	for (unsigned i = 0; i < 10 && !kept; i++)
		kept = keeps_what_was_in_the_cache();
	assert_true(kept);
}

static void switched_off_it_does_nothing(void **state)
{
	static struct cache_keeper k;

	(void)state;
	require_a_cache_that_forgets();
	cache_keeper_begin(&k, false);
	read_kept(&k, 0, PAGES);
	cache_keeper_end(&k);
	assert_in_range(nr_resident(0, PAGES), PAGES / 2, PAGES);
}

static void jumps_and_another_file_leave_nothing_behind(void **state)
{
	static struct cache_keeper k;
	int other = open(in_tree("g"), O_RDWR | O_CREAT, 0600);

	(void)state;
	assert_int_equal(pwrite(other, "g", 1, 0), 1);
	require_a_cache_that_forgets();
	cache_keeper_begin(&k, true);
	read_kept(&k, 4096, PAGES);
	read_kept(&k, 0, 100);
	cache_keeper_before(&k, other, 0, 1);
	assert_in_range(nr_resident(0, PAGES), 0, 128);
	read_kept(&k, 2000, 2100);
	cache_keeper_end(&k);
	assert_in_range(nr_resident(0, PAGES), 0, 128);
	close(other);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cache_test(what_was_not_in_the_cache_is_dropped_again),
		cache_test(what_was_in_the_cache_stays),
		cache_test(switched_off_it_does_nothing),
		cache_test(jumps_and_another_file_leave_nothing_behind),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
