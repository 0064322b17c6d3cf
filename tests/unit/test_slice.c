/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "scanner/image/slice.h"

/* Names of slices: what libvirt and QEMU take, and what they write back. */

#define ROOM 1024
#define FILE_OF(path) "\"file\":{\"driver\":\"file\",\"filename\":\"" path "\"}"
#define NAME(path) "json:{\"file\":{\"driver\":\"raw\",\"read-only\":true,\"offset\":65536,\"size\":12288," FILE_OF(path) "}}"

static struct slice slice_of(const char *path)
{
	struct slice s = { .offset = 65536, .size = 12288, .read_only = true };

	snprintf(s.path, sizeof(s.path), "%s", path);
	return s;
}

static void must_parse(const char *name, const struct slice *wanted)
{
	struct slice s;

	if (!slice_parse(name, &s))
		fail_msg("not taken: %s", name);
	assert_int_equal(s.offset, wanted->offset);
	assert_int_equal(s.size, wanted->size);
	assert_int_equal(s.read_only, wanted->read_only);
	assert_true(slice_same_reading(&s.reading, &wanted->reading));
	assert_string_equal(s.path, wanted->path);
}

static void must_not_parse(const char *name)
{
	struct slice s;

	if (slice_parse(name, &s))
		fail_msg("taken: %s", name);
}

static void a_name_is_as_libvirt_wants_it(void **state)
{
	struct slice s = slice_of("/pool/a.qcow2");
	char name[ROOM];

	(void)state;
	assert_int_equal(slice_format(&s, name, sizeof(name), NULL), 0);
	assert_string_equal(name, NAME("/pool/a.qcow2"));
	s.read_only = false;
	assert_int_equal(slice_format(&s, name, sizeof(name), NULL), 0);
	assert_string_equal(name, "json:{\"file\":{\"driver\":\"raw\",\"offset\":65536,\"size\":12288,"
				  FILE_OF("/pool/a.qcow2") "}}");
	s.reading.host = true;
	assert_int_equal(slice_format(&s, name, sizeof(name), NULL), 0);
	assert_string_equal(name, "json:{\"file\":{\"driver\":\"raw\",\"offset\":65536,\"size\":12288,"
				  "\"file\":{\"driver\":\"file\",\"filename\":\"/pool/a.qcow2\",\"aio\":\"threads\","
				  "\"cache\":{\"direct\":false}}}}");
}

static void it_may_ask_for_io_uring(void **state)
{
	struct slice s = slice_of("/pool/a.qcow2");
	char name[ROOM];

	(void)state;
	s.reading.io_uring = true;
	assert_int_equal(slice_format(&s, name, sizeof(name), NULL), 0);
	assert_string_equal(name, "json:{\"file\":{\"driver\":\"raw\",\"read-only\":true,\"offset\":65536,\"size\":12288,"
				  "\"file\":{\"driver\":\"file\",\"filename\":\"/pool/a.qcow2\",\"aio\":\"io_uring\"}}}");
	must_parse(name, &s);
	s.reading.host = true;
	assert_int_equal(slice_format(&s, name, sizeof(name), NULL), 0);
	assert_string_equal(name, "json:{\"file\":{\"driver\":\"raw\",\"read-only\":true,\"offset\":65536,\"size\":12288,"
				  "\"file\":{\"driver\":\"file\",\"filename\":\"/pool/a.qcow2\",\"aio\":\"io_uring\","
				  "\"cache\":{\"direct\":false}}}}");
	must_parse(name, &s);
	must_not_parse("json:{\"file\":{\"driver\":\"raw\",\"file\":{\"driver\":\"file\",\"filename\":\"/a\",\"aio\":\"native\"}}}");
	must_not_parse("json:{\"file\":{\"driver\":\"raw\",\"file\":{\"driver\":\"file\",\"filename\":\"/a\",\"aio\":true}}}");
}

static void a_whole_file_has_neither_offset_nor_size(void **state)
{
	struct slice s = slice_of("/pool/a.qcow2");
	char name[ROOM];

	(void)state;
	s.offset = s.size = 0;
	assert_int_equal(slice_format(&s, name, sizeof(name), NULL), 0);
	assert_string_equal(name, "json:{\"file\":{\"driver\":\"raw\",\"read-only\":true," FILE_OF("/pool/a.qcow2") "}}");
	must_parse(name, &s);
	must_not_parse("json:{\"file\":{\"driver\":\"raw\",\"offset\":0,\"size\":0," FILE_OF("/a") "}}");
	must_not_parse("json:{\"file\":{\"driver\":\"raw\",\"offset\":0," FILE_OF("/a") "}}");
}

static void a_cache_of_tables_stands_before_the_file(void **state)
{
	static const char *const bad[] = { "0", "-1", "1.5", "1e6", "\"1048576\"", "null", "1073741825", "99999999999999999999" };
	struct slice s = slice_of("/pool/a.qcow2");
	char name[ROOM];

	(void)state;
	s.reading.l2 = 64 << 20;
	assert_int_equal(slice_format(&s, name, sizeof(name), NULL), 0);
	assert_string_equal(name, "json:{\"l2-cache-size\":67108864,\"file\":{\"driver\":\"raw\",\"read-only\":true,"
				  "\"offset\":65536,\"size\":12288," FILE_OF("/pool/a.qcow2") "}}");
	must_parse(name, &s);
	s.reading.l2 = SLICE_L2_CACHE_MAX;
	must_parse("json:{\"file\":{\"driver\":\"raw\",\"read-only\":true,\"offset\":65536,\"size\":12288," FILE_OF("/pool/a.qcow2")
		   "}, \"l2-cache-size\": 1073741824}", &s);
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		snprintf(name, sizeof(name), "json:{\"l2-cache-size\":%s,\"file\":{\"driver\":\"raw\"," FILE_OF("/a") "}}", bad[i]);
		must_not_parse(name);
	}
	must_not_parse("json:{\"l2-cache-size\":1048576}");
	must_not_parse("json:{\"l2-cache-size\":1048576,\"l2-cache-size\":1048576,\"file\":{\"driver\":\"raw\","
		       FILE_OF("/a") "}}");
	must_not_parse("json:{\"cache-size\":1048576,\"file\":{\"driver\":\"raw\"," FILE_OF("/a") "}}");
	must_not_parse("json:{\"file\":{\"driver\":\"raw\",\"l2-cache-size\":1048576," FILE_OF("/a") "}}");
}

static void every_path_comes_back(void **state)
{
	char path[4] = "/?x", name[ROOM];
	struct slice s;

	(void)state;
	for (int c = 1; c < 0x80; c++) {
		path[1] = (char)c;
		s = slice_of(path);
		s.reading.host = c % 2;
		s.reading.io_uring = c % 3 == 0;
		assert_int_equal(slice_format(&s, name, sizeof(name), NULL), 0);
		must_parse(name, &s);
		for (const char *p = name; *p; p++)
			assert_true((unsigned char)*p >= 0x20);
	}
	s = slice_of("/Gr\xc3\xb6\xc3\x9f" "e/\xe6\xb1\x89/\xf0\x9f\x92\xbe");
	assert_int_equal(slice_format(&s, name, sizeof(name), NULL), 0);
	must_parse(name, &s);
}

static void blanks_and_another_order_are_taken(void **state)
{
	struct slice s = slice_of("/p/a b");

	(void)state;
	must_parse("json: { \"file\" :\t{ \"size\" : 12288 , " FILE_OF("/p/a b") ",\n\"read-only\" : true, \"offset\": 65536,"
		   "\"driver\":\"raw\"} } ", &s);
	s.read_only = false;
	must_parse("json:{\"file\":{\"driver\":\"raw\",\"read-only\":false,\"offset\":65536,\"size\":12288,"
		   FILE_OF("/p/a b") "}}", &s);
	s.reading.host = true;
	must_parse("json:{\"file\":{\"driver\":\"raw\",\"offset\":65536,\"size\":12288,\"file\":{\"cache\":{\"direct\":false},"
		   "\"filename\":\"\\/p\\u002fa b\",\"driver\":\"file\"}}}", &s);
	must_parse("json:{\"file\":{\"driver\":\"raw\",\"offset\":65536,\"size\":12288,\"file\":{\"aio\":\"threads\","
		   "\"cache\":{\"direct\":false},\"filename\":\"/p/a b\",\"driver\":\"file\"}}}", &s);
	must_not_parse("json:{\"file\":{\"driver\":\"raw\",\"offset\":65536,\"size\":12288,\"file\":{\"aio\":\"native\","
		       "\"filename\":\"/p/a b\",\"driver\":\"file\"}}}");
}

static void escapes_are_undone(void **state)
{
	struct slice s = slice_of("/\"\\/\b\f\n\r\tA\xc3\xa4\xe2\x82\xac\xf0\x9f\x92\xbe");

	(void)state;
	must_parse(NAME("/\\\"\\\\\\/\\b\\f\\n\\r\\t\\u0041\\u00e4\\u20AC\\ud83d\\udcbe"), &s);
}

static void other_escapes_are_not_taken(void **state)
{
	(void)state;
	must_not_parse(NAME("/\\x41"));
	must_not_parse(NAME("/\\'"));
	must_not_parse(NAME("/\\u004"));
	must_not_parse(NAME("/\\u0000"));
	must_not_parse(NAME("/\\ud83d"));
	must_not_parse(NAME("/\\ud83dx"));
	must_not_parse(NAME("/\\ud83d\\u0041"));
	must_not_parse(NAME("/\\udcbe"));
	must_not_parse(NAME("/\n"));
	must_not_parse(NAME("/\xff"));
	must_not_parse(NAME("/\xed\xa0\x80"));
}

static void other_names_are_something_else(void **state)
{
	(void)state;
	must_not_parse("");
	must_not_parse("/pool/a.qcow2");
	must_not_parse("json:");
	must_not_parse("json:{}");
	must_not_parse("JSON:{\"file\":{}}");
	must_not_parse("json:{\"driver\":\"qcow2\"," FILE_OF("/a") "}");
	must_not_parse("json:{" FILE_OF("/a") "}");
	must_not_parse("json:{\"driver\":\"raw\",\"offset\":0,\"size\":1," FILE_OF("/a") "}");
	must_not_parse("json:{\"file.driver\":\"raw\",\"file.offset\":0}");
	must_not_parse("json:{\"file\":{\"driver\":\"nbd\",\"offset\":0,\"size\":1," FILE_OF("/a") "}}");
	must_not_parse("json:{\"file\":{\"driver\":\"raw\",\"offset\":0,\"size\":1,"
		       "\"file\":{\"driver\":\"nbd\",\"filename\":\"/a\"}}}");
	must_not_parse("json:{\"file\":{\"driver\":\"raw\",\"offset\":0,\"size\":1,"
		       "\"file\":{\"driver\":\"host_device\",\"filename\":\"/a\"}}}");
}

static void nothing_may_be_missing_twice_or_more(void **state)
{
	(void)state;
	must_not_parse("json:{\"file\":{\"driver\":\"raw\",\"size\":1," FILE_OF("/a") "}}");
	must_not_parse("json:{\"file\":{\"driver\":\"raw\",\"offset\":1," FILE_OF("/a") "}}");
	must_not_parse("json:{\"file\":{\"offset\":1,\"size\":1," FILE_OF("/a") "}}");
	must_not_parse("json:{\"file\":{\"driver\":\"raw\",\"offset\":1,\"size\":1}}");
	must_not_parse("json:{\"file\":{\"driver\":\"raw\",\"offset\":1,\"size\":1,\"file\":{\"driver\":\"file\"}}}");
	must_not_parse("json:{\"file\":{\"driver\":\"raw\",\"offset\":1,\"size\":1,\"size\":2," FILE_OF("/a") "}}");
	must_not_parse("json:{\"file\":{\"driver\":\"raw\",\"offset\":1,\"size\":1,\"discard\":true," FILE_OF("/a") "}}");
	must_not_parse("json:{\"file\":{\"driver\":\"raw\",\"offset\":1,\"size\":1," FILE_OF("/a") ",}}");
	must_not_parse(NAME("/a") "x");
	must_not_parse("json:{\"file\":{\"driver\":\"raw\",\"offset\":1,\"size\":1," FILE_OF("/a") "}");
	must_not_parse(NAME("a"));
	must_not_parse(NAME(""));
}

static void numbers_are_whole_and_fit(void **state)
{
	static const char *const bad[] = {
		"-1", "01", "1.0", "1e3", "\"1\"", "0x10", "", "true", "9223372036854775808", "99999999999999999999"
	};
	char name[ROOM];
	struct slice s;

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		snprintf(name, sizeof(name), "json:{\"file\":{\"driver\":\"raw\",\"offset\":%s,\"size\":1," FILE_OF("/a") "}}",
			 bad[i]);
		must_not_parse(name);
	}
	must_not_parse("json:{\"file\":{\"driver\":\"raw\",\"offset\":9223372036854775807,\"size\":1," FILE_OF("/a") "}}");
	assert_int_equal(slice_parse("json:{\"file\":{\"driver\":\"raw\",\"offset\":0,\"size\":9223372036854775807,"
				     FILE_OF("/a") "}}", &s), 1);
}

static void a_long_path_has_to_fit_into_a_qcow2_header(void **state)
{
	struct err err = ERR_INIT;
	char path[1024], name[2000];
	struct slice s;
	size_t len = 1;

	(void)state;
	memset(path, 'p', sizeof(path));
	path[0] = '/';
	for (; len < sizeof(path); len++) {
		s = slice_of("/");
		memcpy(s.path, path, len);
		s.path[len] = '\0';
		if (slice_format(&s, name, sizeof(name), &err) < 0)
			break;
	}
	assert_int_equal(len + strlen(NAME("")), 1024);
	assert_int_equal(strlen(name), 1023);
	assert_int_equal(err.kind, ERR_UNSUPPORTED);
	assert_non_null(strstr(err.text, "is too long to be the backing file of an image"));
	assert_int_equal(slice_format(&s, name, 50, NULL), -1);
	memset(s.path + 1, '\n', sizeof(s.path) - 2); /* of which each needs six bytes */
	assert_int_equal(slice_format(&s, name, sizeof(name), NULL), -1);
}

static void paths_that_json_cannot_say_are_refused(void **state)
{
	struct slice s = slice_of("/\xff");
	struct err err = ERR_INIT;
	char name[ROOM];

	(void)state;
	assert_int_equal(slice_format(&s, name, sizeof(name), &err), -1);
	assert_int_equal(err.kind, ERR_UNSUPPORTED);
	s = slice_of("relative");
	assert_int_equal(slice_format(&s, name, sizeof(name), &err), -1);
	assert_int_equal(err.kind, ERR_USAGE);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_name_is_as_libvirt_wants_it),
		cmocka_unit_test(it_may_ask_for_io_uring),
		cmocka_unit_test(a_whole_file_has_neither_offset_nor_size),
		cmocka_unit_test(a_cache_of_tables_stands_before_the_file),
		cmocka_unit_test(every_path_comes_back),
		cmocka_unit_test(blanks_and_another_order_are_taken),
		cmocka_unit_test(escapes_are_undone),
		cmocka_unit_test(other_escapes_are_not_taken),
		cmocka_unit_test(other_names_are_something_else),
		cmocka_unit_test(nothing_may_be_missing_twice_or_more),
		cmocka_unit_test(numbers_are_whole_and_fit),
		cmocka_unit_test(a_long_path_has_to_fit_into_a_qcow2_header),
		cmocka_unit_test(paths_that_json_cannot_say_are_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
