/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/tree_help.h"

#include <sys/mman.h>

#include "scanner/cache_loan.h"

#define PAGES 1024u
#define SIZE ((size_t)PAGES * 4096)

static int fd = -1;

static unsigned nr_resident(unsigned first, unsigned end)
{
	unsigned char vec[PAGES];
	void *map = mmap(NULL, SIZE, PROT_READ, MAP_SHARED, fd, 0);
	unsigned nr = 0;

	assert_ptr_not_equal(map, MAP_FAILED);
	assert_int_equal(mincore(map, SIZE, vec), 0);
	munmap(map, SIZE);
	for (unsigned i = first; i < end; i++)
		nr += vec[i] & 1;
	return nr;
}

static void read_pages(unsigned first, unsigned end)
{
	static char page[4096];

	for (unsigned i = first; i < end; i++)
		assert_int_equal(pread(fd, page, sizeof(page), (off_t)i * 4096), sizeof(page));
}

static int make(void **state)
{
	static char page[4096] = "not zero";

	if (tree_make(state) < 0)
		return -1;
	fd = open(in_tree("f"), O_RDWR | O_CREAT, 0600);
	for (unsigned i = 0; i < PAGES; i++)
		if (pwrite(fd, page, sizeof(page), (off_t)i * 4096) != sizeof(page))
			return -1;
	return fsync(fd);
}

static int unmake(void **state)
{
	close(fd);
	return tree_remove(state);
}

#define loan_test(f) cmocka_unit_test_setup_teardown(f, make, unmake)

static void forget(void)
{
	posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
	if (nr_resident(0, PAGES) == 0)
		return;
	print_message("the file system keeps its files in memory\n");
	skip();
}

static void what_came_in_goes_and_what_was_there_stays(void **state)
{
	CLEANUP(cache_loan_free) struct cache_loan *l = cache_loan_new(SIZE, NULL);

	(void)state;
	forget();
	posix_fadvise(fd, 0, 0, POSIX_FADV_RANDOM);
	read_pages(100, 200);
	read_pages(600, 650);
	posix_fadvise(fd, 0, 0, POSIX_FADV_NORMAL);
	assert_int_equal(nr_resident(0, PAGES), 150);
	cache_loan_take(l, fd, SIZE);
	read_pages(0, PAGES);
	assert_int_equal(nr_resident(0, PAGES), PAGES);
	cache_loan_return(l, fd);
	assert_int_equal(nr_resident(0, PAGES), 150);
	assert_int_equal(nr_resident(100, 200), 100);
}

static void what_comes_into_a_hole_or_a_new_file_goes_too(void **state)
{
	CLEANUP(cache_loan_free) struct cache_loan *l = cache_loan_new(0, NULL);
	static char page[4096] = "not zero";

	(void)state;
	assert_int_equal(ftruncate(fd, 0), 0);
	cache_loan_take(l, fd, 0);
	for (unsigned i = 0; i < PAGES; i++)
		assert_int_equal(pwrite(fd, page, sizeof(page), (off_t)i * 4096), sizeof(page));
	assert_int_equal(fsync(fd), 0);
	assert_int_equal(nr_resident(0, PAGES), PAGES);
	cache_loan_return(l, fd);
	assert_int_equal(nr_resident(0, PAGES), 0);
}

static void a_file_that_is_not_known_is_left_alone(void **state)
{
	CLEANUP(cache_loan_free) struct cache_loan *l = cache_loan_new(SIZE, NULL);

	(void)state;
	forget();
	read_pages(0, PAGES);
	cache_loan_return(l, fd);
	assert_int_equal(nr_resident(0, PAGES), PAGES);
}

static void no_more_is_lent_than_there_is(void **state)
{
	CLEANUP(cache_loan_free) struct cache_loan *l = cache_loan_new(100000, NULL);

	(void)state;
	assert_int_equal(cache_loan_take(l, fd, 60000), 60000);
	assert_int_equal(cache_loan_take(l, fd, 60000), 40000);
	assert_int_equal(cache_loan_take(l, fd, 60000), 0);
	assert_int_equal(cache_loan_take(NULL, fd, 60000), 0);
	cache_loan_return(NULL, fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		loan_test(what_came_in_goes_and_what_was_there_stays),
		loan_test(what_comes_into_a_hole_or_a_new_file_goes_too),
		loan_test(a_file_that_is_not_known_is_left_alone),
		loan_test(no_more_is_lent_than_there_is),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
