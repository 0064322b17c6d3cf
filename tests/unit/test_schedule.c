/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/tree_help.h"

#include <stdbool.h>
#include <time.h>

#include "scanner/base/checked.h"
#include "scanner/base/schedule.h"

static void assert_window(const char *text, unsigned minute, bool wanted)
{
	struct schedule s = { 0 };

	assert_int_equal(schedule_set_window(&s, text, NULL), 0);
	if (schedule_window_holds(&s, minute) != wanted)
		fail_msg("minute %u and %s", minute, text);
}

static void a_window_holds_from_its_first_minute_to_before_its_last(void **state)
{
	(void)state;
	assert_window("01:00-05:00", 59, false);
	assert_window("01:00-05:00", 60, true);
	assert_window("01:00-05:00", 299, true);
	assert_window("01:00-05:00", 300, false);
	assert_window("00:00-00:01", 0, true);
	assert_window("00:00-00:01", 1, false);
}

static void a_window_may_pass_midnight(void **state)
{
	(void)state;
	assert_window("22:30-05:00", 1349, false);
	assert_window("22:30-05:00", 1350, true);
	assert_window("22:30-05:00", 1439, true);
	assert_window("22:30-05:00", 0, true);
	assert_window("22:30-05:00", 299, true);
	assert_window("22:30-05:00", 300, false);
	assert_window("12:00-00:00", 1439, true);
	assert_window("12:00-00:00", 0, false);
}

static void refuses_what_is_no_window(void **state)
{
	static const char *const bad[] = {
		"", "-", "01:00", "01:00-", "-05:00", "01:00-05:00-", "01:00-25:00", "01:60-02:00", "01:00 - 05:00", "05:00-05:00",
		"0000000001:00-05:00", "01:00--05:00", "a-b",
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct schedule s = { 0 };
		struct err err = ERR_INIT;

		if (schedule_set_window(&s, bad[i], &err) == 0)
			fail_msg("'%s' was taken for a window", bad[i]);
		assert_int_equal(err.kind, ERR_USAGE);
		assert_false(s.has_window);
	}
}

static uint64_t boottime(void)
{
	struct timespec t;

	clock_gettime(CLOCK_BOOTTIME, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static void a_length_of_time_ends_when_it_is_over(void **state)
{
	struct schedule s = { 0 };

	(void)state;
	assert_int_equal(schedule_now(&s, true), SCHEDULE_WORK);
	schedule_set_for(&s, 1000);
	assert_in_range(s.end, boottime() + 990ull * 1000000000, boottime() + 1000ull * 1000000000);
	assert_int_equal(schedule_now(&s, true), SCHEDULE_WORK);
	s.end = boottime() - 1;
	assert_int_equal(schedule_now(&s, false), SCHEDULE_OVER);
}

static void the_earliest_end_holds(void **state)
{
	struct schedule s = { 0 };
	uint64_t first;

	(void)state;
	schedule_set_for(&s, 100);
	first = s.end;
	schedule_set_for(&s, 200);
	assert_int_equal(s.end, first);
	schedule_set_for(&s, 50);
	assert_true(s.end < first);
}

static void no_length_of_time_is_so_long_that_it_is_over(void **state)
{
	static const uint64_t lengths[] = { 1, (uint64_t)1 << 32, 300000 * (uint64_t)86400, (uint64_t)1 << 62, UINT64_MAX };

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(lengths); i++) {
		struct schedule s = { 0 };

		schedule_set_for(&s, lengths[i]);
		assert_true(s.end > boottime());
		assert_int_equal(schedule_now(&s, true), SCHEDULE_WORK);
	}
}

/* "Until" a time is at most a day ahead, and never now: also for the very minute it is. */
static void until_is_the_next_such_time(void **state)
{
	for (unsigned ahead = 0; ahead < 1440; ahead += 60) {
		struct schedule s = { 0 };
		time_t now = time(NULL), then = now + ahead * 60;
		struct tm tm;
		char text[32];
		uint64_t seconds;

		localtime_r(&then, &tm);
		snprintf(text, sizeof(text), "%02d:%02d", tm.tm_hour, tm.tm_min);
		assert_int_equal(schedule_set_until(&s, text, NULL), 0);
		seconds = (s.end - boottime() + 999999999) / 1000000000;
		if (ahead)
			assert_in_range(seconds, ahead * 60 - 60, ahead * 60);
		else
			assert_in_range(seconds, 86400 - 60, 86400);
	}
	(void)state;
}

static void refuses_what_is_no_time_to_end_at(void **state)
{
	struct schedule s = { 0 };
	struct err err = ERR_INIT;

	(void)state;
	assert_int_equal(schedule_set_until(&s, "24:00", &err), -1);
	assert_int_equal(err.kind, ERR_USAGE);
	assert_int_equal(s.end, 0);
}

/* A window some hours away: wait if nothing has begun, over if it closed on the work. */
static void outside_its_window_it_waits_or_is_over(void **state)
{
	struct schedule s = { .has_window = true };
	time_t now = time(NULL);
	struct tm tm;

	(void)state;
	localtime_r(&now, &tm);
	s.window_from = (unsigned)(tm.tm_hour + 5) % 24 * 60;
	s.window_to = (unsigned)(tm.tm_hour + 6) % 24 * 60;
	assert_int_equal(schedule_now(&s, false), SCHEDULE_WAIT);
	assert_int_equal(schedule_now(&s, true), SCHEDULE_OVER);
	s.window_from = (unsigned)(tm.tm_hour + 23) % 24 * 60;
	assert_int_equal(schedule_now(&s, true), SCHEDULE_WORK);
}

static void the_stopper_hears_the_user_and_the_clock(void **state)
{
	struct stopper s = { 0 };

	(void)state;
	assert_false(stopper_says(&s));
	s.schedule.end = 1;
	assert_true(stopper_says(&s));
	s.schedule.end = 0;
	atomic_store(&s.flag, 1);
	assert_true(stopper_says(&s));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_window_holds_from_its_first_minute_to_before_its_last),
		cmocka_unit_test(a_window_may_pass_midnight),
		cmocka_unit_test(refuses_what_is_no_window),
		cmocka_unit_test(a_length_of_time_ends_when_it_is_over),
		cmocka_unit_test(the_earliest_end_holds),
		cmocka_unit_test(no_length_of_time_is_so_long_that_it_is_over),
		cmocka_unit_test(until_is_the_next_such_time),
		cmocka_unit_test(refuses_what_is_no_time_to_end_at),
		cmocka_unit_test(outside_its_window_it_waits_or_is_over),
		cmocka_unit_test(the_stopper_hears_the_user_and_the_clock),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
