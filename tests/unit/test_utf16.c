/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "scanner/image/utf16.h"

static void expect_text(const char *bytes, size_t len, bool little, const char *text)
{
	char ret[64] = "before";

	assert_int_equal(utf16_to_utf8((const uint8_t *)bytes, len, little, ret, sizeof(ret)), strlen(text));
	assert_string_equal(ret, text);
}

static void expect_none(const char *bytes, size_t len)
{
	char ret[64];

	assert_int_equal(utf16_to_utf8((const uint8_t *)bytes, len, true, ret, sizeof(ret)), -1);
}

static void text_of_both_byte_orders_becomes_utf8(void **state)
{
	(void)state;
	expect_text("", 0, true, "");
	expect_text("a\0b\0", 4, true, "ab");
	expect_text("\0a\0b", 4, false, "ab");
	expect_text("\x7f\0\x80\0\xff\x07\0\x08", 8, true, "\x7f\xc2\x80\xdf\xbf\xe0\xa0\x80");
	expect_text("\xff\xd7\0\xe0\xff\xff", 6, true, "\xed\x9f\xbf\xee\x80\x80\xef\xbf\xbf");
}

static void two_surrogates_are_one_character(void **state)
{
	(void)state;
	expect_text("\0\xd8\0\xdc", 4, true, "\xf0\x90\x80\x80");
	expect_text("\xff\xdb\xff\xdf", 4, true, "\xf4\x8f\xbf\xbf");
	expect_text("\xd8\x3d\xdc\xbe\0x", 6, false, "\xf0\x9f\x92\xbex");
}

static void half_a_character_is_no_text(void **state)
{
	(void)state;
	expect_none("a", 1);
	expect_none("a\0b", 3);
	expect_none("\0\xd8", 2);
	expect_none("\0\xd8\0\xdc", 3);
	expect_none("\0\xd8"
		    "a\0",
		    4);
	expect_none("\0\xd8\0\xd8", 4);
	expect_none("\0\xd8\xff\xdb", 4);
	expect_none("\0\xd8\0\xe0", 4);
	expect_none("\0\xdc\0\xdc", 4);
	expect_none("\xff\xdf"
		    "a\0",
		    4);
}

static void a_zero_is_no_text(void **state)
{
	(void)state;
	expect_none("\0", 2);
	expect_none("a\0\0\0b\0", 6);
}

static void what_does_not_fit_is_cut_between_characters_and_told(void **state)
{
	const uint8_t *p = (const uint8_t *)"a\0\xac\x20"
					    "b\0";
	char ret[8];

	(void)state;
	assert_int_equal(utf16_to_utf8(p, 6, true, ret, 6), 5);
	assert_string_equal(ret, "a\xe2\x82\xac"
				 "b");
	for (size_t room = 1; room <= 5; room++) {
		memset(ret, 'x', sizeof(ret));
		assert_int_equal(utf16_to_utf8(p, 6, true, ret, room), 5);
		assert_string_equal(ret, room == 1 ? "" : room < 5 ? "a" : "a\xe2\x82\xac");
		assert_int_equal(ret[room], 'x');
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(text_of_both_byte_orders_becomes_utf8),
		cmocka_unit_test(two_surrogates_are_one_character),
		cmocka_unit_test(half_a_character_is_no_text),
		cmocka_unit_test(a_zero_is_no_text),
		cmocka_unit_test(what_does_not_fit_is_cut_between_characters_and_told),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
