/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/index_help.h"

#include <sys/stat.h>

#include "scanner/base/bytes.h"
#include "scanner/index/summary.h"

#define RUNS_MAX 40000

static struct summary_run runs[RUNS_MAX];

/* Runs as a tally makes them: by image, ascending; originals anywhere. */
static void runs_make(size_t nr, unsigned nr_images)
{
	uint64_t block = 0;

	for (size_t i = 0; i < nr; i++) {
		int64_t image = (int64_t)(i * nr_images / nr) + 1;

		if (i && image != runs[i - 1].image)
			block = 0;
		block += random_below(3) ? random_below(100) : random_u64() >> (42 + random_below(20));
		runs[i] = (struct summary_run){ image, block, 1 + random_below(1000), (int64_t)(1 + random_below(nr_images)),
						random_u64() >> (25 + random_below(38)) };
		block += runs[i].len;
	}
}

static void summary_make(size_t nr)
{
	struct summary_writer *w = summary_new(scratch, "summary", NULL);

	assert_non_null(w);
	for (size_t i = 0; i < nr; i++)
		assert_int_equal(summary_add(w, &runs[i], NULL), 0);
	assert_int_equal(summary_commit(w, NULL), 0);
}

/* How many runs come out as they went in before the end (*ret_rc 0) or damage (-1). */
static size_t read_all(size_t nr, int *ret_rc)
{
	CLEANUP(summary_close) struct summary *s = summary_open(scratch, "summary", NULL);
	struct summary_run run;
	size_t i = 0;

	*ret_rc = -1;
	if (!s)
		return 0;
	while ((*ret_rc = summary_next(s, &run, NULL)) > 0) {
		if (i >= nr || memcmp(&run, &runs[i], sizeof(run)) != 0)
			fail_msg("run %zu is not what it was", i);
		i++;
	}
	return i;
}

static void gives_back_what_went_in(size_t nr, unsigned nr_images)
{
	int rc;

	runs_make(nr, nr_images);
	summary_make(nr);
	assert_int_equal(read_all(nr, &rc), nr);
	assert_int_equal(rc, 0);
}

static void gives_back_runs_over_many_pages(void **state)
{
	(void)state;
	gives_back_what_went_in(RUNS_MAX, 7);
}

static void gives_back_few_runs_and_none(void **state)
{
	(void)state;
	for (size_t nr = 0; nr < 20; nr++)
		gives_back_what_went_in(nr, 3);
}

static void gives_back_the_largest_numbers(void **state)
{
	int rc;

	(void)state;
	runs[0] = (struct summary_run){ INT64_MAX, ((uint64_t)1 << 40) - 2, 1, INT64_MAX, ((uint64_t)1 << 40) - 1 };
	runs[1] = (struct summary_run){ INT64_MAX, ((uint64_t)1 << 40) - 1, 1, 1, 0 };
	runs[2] = (struct summary_run){ 1, 0, (uint64_t)1 << 40, 2, 0 };
	summary_make(3);
	assert_int_equal(read_all(3, &rc), 3);
	assert_int_equal(rc, 0);
}

static uint8_t *slurp(size_t *ret)
{
	int fd = openat(scratch, "summary", O_RDONLY);
	struct stat st;
	uint8_t *p;

	assert_int_equal(fstat(fd, &st), 0);
	*ret = (size_t)st.st_size;
	p = malloc(*ret);
	assert_int_equal(pread(fd, p, *ret, 0), *ret);
	close(fd);
	return p;
}

static void spit(const uint8_t *p, size_t len)
{
	int fd;

	unlinkat(scratch, "summary", 0);
	fd = openat(scratch, "summary", O_WRONLY | O_CREAT, 0600);
	assert_int_equal(write(fd, p, len), len);
	close(fd);
}

/* What comes before the damage is right, and the damage is told; only the reserved word of the header may be anything. */
static void every_flipped_bit_is_noticed(void **state)
{
	CLEANUP(free) uint8_t *p = NULL;
	size_t len;

	(void)state;
	runs_make(30, 3);
	summary_make(30);
	p = slurp(&len);
	for (size_t bit = 0; bit < len * 8; bit++) {
		int rc;

		p[bit / 8] ^= (uint8_t)(1u << (bit % 8));
		spit(p, len);
		read_all(30, &rc);
		if (rc == 0 && bit / 8 >= 16)
			fail_msg("bit %zu of byte %zu may be flipped", bit % 8, bit / 8);
		p[bit / 8] ^= (uint8_t)(1u << (bit % 8));
	}
}

static void every_truncation_is_noticed(void **state)
{
	CLEANUP(free) uint8_t *p = NULL;
	size_t len;

	(void)state;
	runs_make(30, 3);
	summary_make(30);
	p = slurp(&len);
	for (size_t cut = 0; cut < len; cut++) {
		int rc;

		spit(p, cut);
		read_all(30, &rc);
		assert_int_equal(rc, -1);
	}
}

static void pages_in_the_wrong_place_are_noticed(void **state)
{
	CLEANUP(free) uint8_t *p = NULL;
	size_t len, first, second;
	int rc;

	(void)state;
	runs_make(RUNS_MAX, 7);
	summary_make(RUNS_MAX);
	p = slurp(&len);
	first = 8 + le32_load(p + 16);
	second = 8 + le32_load(p + 16 + first);
	memmove(p + 16, p + 16 + first, second); /* the second page where the first one was */
	spit(p, len);
	assert_int_equal(read_all(0, &rc), 0);
	assert_int_equal(rc, -1);
}

static void refuses_a_newer_version(void **state)
{
	CLEANUP(free) uint8_t *p = NULL;
	struct err err = ERR_INIT;
	size_t len;

	(void)state;
	summary_make(0);
	p = slurp(&len);
	le32_store(p + 8, 2);
	spit(p, len);
	assert_null(summary_open(scratch, "summary", &err));
	assert_int_equal(err.kind, ERR_UNSUPPORTED);
}

static void one_that_is_not_committed_leaves_the_old_one(void **state)
{
	struct summary_writer *w;
	int rc;

	(void)state;
	runs_make(10, 2);
	summary_make(10);
	w = summary_new(scratch, "summary", NULL);
	assert_non_null(w);
	assert_int_equal(summary_add(w, &runs[3], NULL), 0);
	summary_free(w);
	assert_int_equal(read_all(10, &rc), 10);
	assert_int_equal(rc, 0);
	assert_int_equal(scratch_empty(), 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		index_test(gives_back_runs_over_many_pages),
		index_test(gives_back_few_runs_and_none),
		index_test(gives_back_the_largest_numbers),
		index_test(every_flipped_bit_is_noticed),
		index_test(every_truncation_is_noticed),
		index_test(pages_in_the_wrong_place_are_noticed),
		index_test(refuses_a_newer_version),
		index_test(one_that_is_not_committed_leaves_the_old_one),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
