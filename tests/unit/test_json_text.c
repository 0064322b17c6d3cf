/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "reports/json_text.h"
#include "scanner/base/checked.h"

static const char text[] = "\n" /* line 2 begins here */
			   "{ \"ab\": \"}]\\\"{\",\n"
			   "  \"b\": [\n"
			   "    { \"x\": [ 1, [ 2, { } ], 3 ], \"y\": null },\n"
			   "    -1.5e3, true,\n"
			   "    { \"x\": { \"x\": \"\\\\\",\n"
			   "             \"y\": [] },\n"
			   "      \"y\"\n"
			   "        :\n"
			   "        7 }\n"
			   "  ],\n"
			   "  \"c\": {},\n"
			   "  \"a\":\n"
			   "    false\n"
			   "}\n";

#define KEY(k) { .key = (k) }
#define ITEM(i) { .index = (i) }
#define EXPECT_LINE(line, ...)                                                                                         \
	do {                                                                                                           \
		const struct json_step steps[] = { __VA_ARGS__ };                                                      \
		assert_int_equal(json_text_line(text, strlen(text), steps, ARRAY_SIZE(steps)), line);                  \
	} while (0)

static void every_value_is_found_on_its_line(void **state)
{
	(void)state;
	assert_int_equal(json_text_line(text, strlen(text), NULL, 0), 2);
	EXPECT_LINE(2, KEY("ab"));
	EXPECT_LINE(3, KEY("b"));
	EXPECT_LINE(4, KEY("b"), ITEM(0), KEY("x"), ITEM(1), ITEM(1));
	EXPECT_LINE(5, KEY("b"), ITEM(1));
	EXPECT_LINE(5, KEY("b"), ITEM(2));
	EXPECT_LINE(6, KEY("b"), ITEM(3));
	EXPECT_LINE(7, KEY("b"), ITEM(3), KEY("x"), KEY("y"));
	EXPECT_LINE(10, KEY("b"), ITEM(3), KEY("y"));
	EXPECT_LINE(12, KEY("c"));
	EXPECT_LINE(14, KEY("a"));
}

static void what_is_missing_is_told_where_it_would_be(void **state)
{
	(void)state;
	EXPECT_LINE(2, KEY("d"));
	EXPECT_LINE(3, KEY("b"), ITEM(4));
	EXPECT_LINE(3, KEY("b"), KEY("x"));
	EXPECT_LINE(12, KEY("c"), KEY("x"));
	EXPECT_LINE(7, KEY("b"), ITEM(3), KEY("x"), KEY("y"), ITEM(0));
	EXPECT_LINE(14, KEY("a"), ITEM(0));
}

/* Sanitizers watch that nothing beyond its end is looked at. */
static void a_text_that_ends_early_is_not_left(void **state)
{
	const struct json_step steps[][4] = {
		{ KEY("b"), ITEM(3), KEY("x"), KEY("y") },
		{ KEY("a"), KEY("x"), ITEM(0), ITEM(9) },
		{ KEY("b"), ITEM(0), KEY("x"), ITEM(2) },
	};

	(void)state;
	for (size_t len = 0; len < strlen(text); len++) {
		char *copy = malloc(len + 1), *begin = copy + 1;

		memcpy(begin, text, len);
		for (size_t i = 0; i < ARRAY_SIZE(steps); i++)
			assert_in_range(json_text_line(begin, len, steps[i], 4), 1, 15);
		assert_int_equal(json_text_check(begin, len, 6, 100, NULL), 0);
		free(copy);
	}
}

static void expect_too_much(const char *s, size_t depth, size_t values, const char *message)
{
	struct err err = ERR_INIT;

	assert_int_equal(json_text_check(s, strlen(s), depth, values, &err), -1);
	assert_int_equal(err.kind, ERR_FORMAT);
	assert_string_equal(err.text, message);
}

static void depth_and_number_of_values_are_limited(void **state)
{
	(void)state;
	assert_int_equal(json_text_check(text, strlen(text), 6, 30, NULL), 0);
	expect_too_much(text, 5, 30, "line 4: it is nested more than 5 deep");
	expect_too_much("[[],\n[],[{}]]", 2, 30, "line 2: it is nested more than 2 deep");
	assert_int_equal(json_text_check("[[],\n[],[{}]]", 13, 3, 8, NULL), 0);
	expect_too_much("[1,2,3,\n4,5]", 9, 5, "line 2: it has more than 5 values");
}

static void brackets_in_strings_are_no_brackets(void **state)
{
	static const char s[] = "[\"[[[[,,,,\\\"[[[[\", \"\\\\\", \"]]]\"]";

	(void)state;
	assert_int_equal(json_text_check(s, strlen(s), 1, 4, NULL), 0);
	expect_too_much("[\"\\\\\",[[", 1, 9, "line 1: it is nested more than 1 deep");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_value_is_found_on_its_line),
		cmocka_unit_test(what_is_missing_is_told_where_it_would_be),
		cmocka_unit_test(a_text_that_ends_early_is_not_left),
		cmocka_unit_test(depth_and_number_of_values_are_limited),
		cmocka_unit_test(brackets_in_strings_are_no_brackets),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
