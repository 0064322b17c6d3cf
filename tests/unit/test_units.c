/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/tree_help.h"

#include "scanner/base/checked.h"
#include "scanner/base/units.h"

static void reads_sizes_in_all_their_spellings(void **state)
{
	static const struct {
		const char *s;
		uint64_t v;
	} good[] = {
		{ "0", 0 }, { "4096", 4096 }, { "1B", 1 }, { "35M", 35 * MIB }, { "1.5G", 3 * GIB / 2 }, { "10MiB", 10 * MIB },
		{ "2TB", 2 * TIB }, { "1k", 1024 }, { "1kib", 1024 }, { "1P", 1024 * TIB }, { "0.5K", 512 },
		{ "7E", 7 * (TIB << 20) },
		{ "9223372036854775807", INT64_MAX },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
		uint64_t v = 99;

		if (units_parse_size(good[i].s, &v, NULL) < 0 || v != good[i].v)
			fail_msg("'%s' gave %llu", good[i].s, (unsigned long long)v);
	}
}

static void refuses_what_is_no_size(void **state)
{
	static const char *const bad[] = {
		"", " ", "x", "-1", "+1", " 1", "1 ", "1X", "1Ki", "1KX", "1KiBB", "1.5.5", "1e5", "0x10", "inf", "nan", "M", ".5",
		"1,5", "9223372036854775808", "8E", "99999999999999999999999999", "1.0e2", "1iB",
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct err err = ERR_INIT;
		uint64_t v = 99;

		if (units_parse_size(bad[i], &v, &err) == 0)
			fail_msg("'%s' was taken for %llu", bad[i], (unsigned long long)v);
		assert_int_equal(err.kind, ERR_USAGE);
		assert_int_equal(v, 99);
	}
}

static void reads_durations(void **state)
{
	static const struct {
		const char *s;
		uint64_t v;
	} good[] = {
		{ "90", 90 }, { "90s", 90 }, { "30m", 1800 }, { "2h", 7200 }, { "1h30m", 5400 }, { "1d", 86400 }, { "1h30", 3630 },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
		uint64_t v = 99;

		if (units_parse_duration(good[i].s, &v, NULL) < 0 || v != good[i].v)
			fail_msg("'%s' gave %llu", good[i].s, (unsigned long long)v);
	}
}

static void refuses_what_is_no_duration(void **state)
{
	static const char *const bad[] = {
		"", "0", "0s", "s", "-1s", "1x", "1.5h", " 1s", "1s ", "9999999999s", "99999999999999999999s",
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct err err = ERR_INIT;
		uint64_t v;

		if (units_parse_duration(bad[i], &v, &err) == 0)
			fail_msg("'%s' was taken for %llu", bad[i], (unsigned long long)v);
		assert_int_equal(err.kind, ERR_USAGE);
	}
}

static void reads_times_of_day(void **state)
{
	unsigned v;

	(void)state;
	assert_int_equal(units_parse_clock("00:00", &v, NULL), 0);
	assert_int_equal(v, 0);
	assert_int_equal(units_parse_clock("23:59", &v, NULL), 0);
	assert_int_equal(v, 1439);
	assert_int_equal(units_parse_clock("1:05", &v, NULL), 0);
	assert_int_equal(v, 65);
}

static void refuses_what_is_no_time_of_day(void **state)
{
	static const char *const bad[] = {
		"", "1", "24:00", "12:60", "12:00x", "12.00", "-1:00", "1:-1", "+1:00", " 1:00", "1: 0", "012:0", ":", "12:", ":30",
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct err err = ERR_INIT;
		unsigned v;

		if (units_parse_clock(bad[i], &v, &err) == 0)
			fail_msg("'%s' was taken for %u", bad[i], v);
		assert_int_equal(err.kind, ERR_USAGE);
	}
}

static void assert_size(uint64_t bytes, const char *wanted)
{
	char buf[UNITS_SIZE_ROOM];

	assert_string_equal(units_size(bytes, buf, sizeof(buf)), wanted);
}

static void writes_sizes(void **state)
{
	(void)state;
	assert_size(0, "0 B");
	assert_size(1023, "1023 B");
	assert_size(1024, "1.0 KiB");
	assert_size(4096, "4.0 KiB");
	assert_size(99 * KIB, "99.0 KiB");
	assert_size(102348, "99.9 KiB");
	assert_size(102400, "100 KiB");
	assert_size(GIB, "1.0 GiB");
	assert_size(12 * TIB + 300 * GIB, "12.3 TiB");
	assert_size(UINT64_MAX, "16.0 EiB");
}

static void never_writes_1024_of_a_unit(void **state)
{
	(void)state;
	for (unsigned unit = 0; unit < 5; unit++) {
		uint64_t one = KIB << (10 * unit);

		for (uint64_t bytes = one * 1023; bytes <= one * 1024; bytes += one / 64) {
			char buf[UNITS_SIZE_ROOM];

			units_size(bytes, buf, sizeof(buf));
			if (strncmp(buf, "1024", 4) == 0)
				fail_msg("%llu bytes are written '%s'", (unsigned long long)bytes, buf);
		}
	}
}

static void writes_times(void **state)
{
	char buf[UNITS_TIME_ROOM];

	(void)state;
	assert_string_equal(units_time(0, buf, sizeof(buf)), "0:00");
	assert_string_equal(units_time(187, buf, sizeof(buf)), "3:07");
	assert_string_equal(units_time(7509, buf, sizeof(buf)), "2:05:09");
	assert_string_equal(units_time(UINT64_MAX, buf, sizeof(buf)), "5124095576030431:00:15");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(reads_sizes_in_all_their_spellings),
		cmocka_unit_test(refuses_what_is_no_size),
		cmocka_unit_test(reads_durations),
		cmocka_unit_test(refuses_what_is_no_duration),
		cmocka_unit_test(reads_times_of_day),
		cmocka_unit_test(refuses_what_is_no_time_of_day),
		cmocka_unit_test(writes_sizes),
		cmocka_unit_test(never_writes_1024_of_a_unit),
		cmocka_unit_test(writes_times),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
