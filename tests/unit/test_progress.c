/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "scanner/base/progress.h"

#define SECOND 1000000000ull
#define GIB (1ull << 30)

static struct progress_state reading(uint64_t done)
{
	return (struct progress_state){ "reading", done, 40 * GIB, true, 3, 10, "images" };
}

static void says_rate_and_time_left_from_this_stage_alone(void **state)
{
	struct progress p = { 0 };
	struct progress_state s = reading(10 * GIB);
	char line[200];

	(void)state;
	assert_string_equal(progress_line(&p, &s, 100 * SECOND, line, sizeof(line)),
			    "reading 10.0 GiB of 40.0 GiB (25 %), 3 of 10 images");
	s = reading(20 * GIB);
	assert_string_equal(progress_line(&p, &s, 110 * SECOND, line, sizeof(line)),
			    "reading 20.0 GiB of 40.0 GiB (50 %), 1.0 GiB/s, 0:20 left, 3 of 10 images");
}

static void a_new_stage_begins_anew(void **state)
{
	struct progress p = { 0 };
	struct progress_state s = reading(10 * GIB), indexing = { "indexing", 500, 1000, false, 0, 0, NULL };
	char line[200];

	(void)state;
	progress_line(&p, &s, 0, line, sizeof(line));
	assert_string_equal(progress_line(&p, &indexing, 50 * SECOND, line, sizeof(line)), "indexing (50 %)");
}

static void work_beyond_the_total_is_not_shown(void **state)
{
	struct progress p = { 0 };
	struct progress_state s = reading(0);
	char line[200];

	(void)state;
	progress_line(&p, &s, 0, line, sizeof(line));
	s = reading(41 * GIB);
	assert_string_equal(progress_line(&p, &s, 41 * SECOND, line, sizeof(line)),
			    "reading 40.0 GiB of 40.0 GiB (100 %), 1.0 GiB/s, 0:00 left, 3 of 10 images");
}

static void an_unknown_total_shows_the_stage(void **state)
{
	struct progress p = { 0 };
	struct progress_state s = { "finding", 0, 0, false, 0, 0, NULL };
	char line[200];

	(void)state;
	assert_string_equal(progress_line(&p, &s, 0, line, sizeof(line)), "finding");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(says_rate_and_time_left_from_this_stage_alone),
		cmocka_unit_test(a_new_stage_begins_anew),
		cmocka_unit_test(work_beyond_the_total_is_not_shown),
		cmocka_unit_test(an_unknown_total_shows_the_stage),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
