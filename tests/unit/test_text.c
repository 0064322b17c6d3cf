/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "scanner/base/text.h"

static void expect(const char *in, bool utf8, const char *want)
{
	char out[256];
	char *heap = text_escape_new(in, utf8);

	assert_int_equal(text_escape_terminal(in, utf8, out, sizeof(out)), strlen(want));
	assert_string_equal(out, want);
	assert_non_null(heap);
	assert_string_equal(heap, want);
	free(heap);
}

static void leaves_plain_text_alone(void **state)
{
	(void)state;
	expect("/srv/vm/web-01 (copy).qcow2, 100%n", true, "/srv/vm/web-01 (copy).qcow2, 100%n");
	expect("", true, "");
}

static void keeps_letters_of_all_languages_in_utf8(void **state)
{
	(void)state;
	expect("\u00dcbung \u65e5\u672c \U0001f4be", true, "\u00dcbung \u65e5\u672c \U0001f4be");
}

static void writes_letters_as_numbers_where_utf8_is_not_understood(void **state)
{
	(void)state;
	expect("\u00dcb \u65e5 \U0001f4be", false, "\\u00dcb \\u65e5 \\U0001f4be");
}

static void escapes_every_control_byte(void **state)
{
	(void)state;
	for (int c = 1; c < 0x20; c++) {
		char in[2] = { (char)c, 0 }, want[8];

		snprintf(want, sizeof(want), "\\x%02x", (unsigned)c);
		expect(in, true, want);
	}
	expect("a\x7fz", true, "a\\x7fz");
}

static void escapes_c1_controls_that_terminals_obey(void **state)
{
	(void)state;
	expect("\xc2\x80\xc2\x9b[31m\xc2\x9f", true, "\\u0080\\u009b[31m\\u009f");
}

static void escapes_what_reorders_or_hides_text(void **state)
{
	(void)state;
	expect("\u061c\u200e\u200f", true, "\\u061c\\u200e\\u200f");
	expect("\u202a\u202b\u202c\u202d\u202e", true, "\\u202a\\u202b\\u202c\\u202d\\u202e");
	expect("\u2066\u2067\u2068\u2069", true, "\\u2066\\u2067\\u2068\\u2069");
	expect("\u2028\u2029\u200b\ufeff\u00ad", true, "\\u2028\\u2029\\u200b\\ufeff\\u00ad");
	expect("\U000e0001\U000e007f", true, "\\U000e0001\\U000e007f");
}

static void escapes_each_byte_that_is_not_utf8(void **state)
{
	(void)state;
	expect("a\xff\xfez", true, "a\\xff\\xfez");
	expect("\x80", true, "\\x80");
	expect("\xc3", true, "\\xc3");
	expect("\xe2\x82", true, "\\xe2\\x82");
	expect("\xf0\x9f\x92z", true, "\\xf0\\x9f\\x92z");
}

static void escapes_overlong_and_surrogate_forms(void **state)
{
	(void)state;
	expect("\xc0\x8a", true, "\\xc0\\x8a");
	expect("\xc1\xbf", true, "\\xc1\\xbf");
	expect("\xe0\x80\x9b", true, "\\xe0\\x80\\x9b");
	expect("\xf0\x80\x80\x9b", true, "\\xf0\\x80\\x80\\x9b");
	expect("\xed\xa0\x80", true, "\\xed\\xa0\\x80");
	expect("\xf4\x90\x80\x80", true, "\\xf4\\x90\\x80\\x80");
	expect("\xf8\x88\x80\x80\x80", true, "\\xf8\\x88\\x80\\x80\\x80");
}

static void doubles_backslashes_so_that_nobody_can_fake_an_escape(void **state)
{
	(void)state;
	expect("a\\x0ab", true, "a\\\\x0ab");
}

static void cuts_between_characters_never_inside_one(void **state)
{
	char out[8];

	(void)state;
	assert_int_equal(text_escape_terminal("abc\ndef", true, out, sizeof(out)), 10);
	assert_string_equal(out, "abc\\x0a");
	assert_int_equal(text_escape_terminal("abcd\nef", true, out, sizeof(out)), 10);
	assert_string_equal(out, "abcd");
	assert_int_equal(text_escape_terminal("abcde\u65e5xy", true, out, sizeof(out)), 10);
	assert_string_equal(out, "abcde");
}

static void writes_nothing_into_no_room(void **state)
{
	char out[2] = { 'x', 'y' };

	(void)state;
	assert_int_equal(text_escape_terminal("abc", true, out, 0), 3);
	assert_int_equal(out[0], 'x');
	assert_int_equal(text_escape_terminal("abc", true, out, 1), 3);
	assert_int_equal(out[0], '\0');
	assert_int_equal(out[1], 'y');
}

static void tells_utf8_from_other_bytes(void **state)
{
	static const char *const good[] = { "",	      "a",	"\x7f",	      "\xc2\x80",  "\u07ff",
					    "\u0800", "\uffff", "\U00010000", "\U0010ffff" };
	static const char *const bad[] = {
		"\x80",		"\xc0\x80",	    "\xc1\xbf",		"\xc3", "\xe0\x9f\xbf", "\xed\xa0\x80",
		"\xed\xbf\xbf", "\xf0\x8f\xbf\xbf", "\xf4\x90\x80\x80", "\xff", "ok\xfe",
	};

	(void)state;
	for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++)
		assert_true(text_is_utf8(good[i]));
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_false(text_is_utf8(bad[i]));
}

/* Turns an escaped form back, as the header promises is possible. */
static void unescape(const char *in, char *out)
{
	while (*in) {
		unsigned c;

		if (*in != '\\') {
			*out++ = *in++;
		} else if (in[1] == '\\') {
			*out++ = '\\';
			in += 2;
		} else {
			assert_int_equal(in[1], 'x');
			assert_int_equal(sscanf(in + 2, "%2x", &c), 1);
			*out++ = (char)c;
			in += 4;
		}
	}
	*out = '\0';
}

static void any_two_bytes_come_out_printable_and_can_be_turned_back(void **state)
{
	(void)state;
	for (unsigned i = 0x0101; i < 0x10000; i++) {
		char in[3] = { (char)(i >> 8), (char)i, 0 }, out[32], back[32];

		if (!in[0] || !in[1])
			continue;
		text_escape_terminal(in, true, out, sizeof(out));
		assert_true(text_is_utf8(out));
		for (const char *p = out; *p; p++)
			assert_true((unsigned char)*p >= 0x20 && *p != 0x7f);
		if (strstr(out, "\\u"))
			continue;
		unescape(out, back);
		assert_string_equal(back, in);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(leaves_plain_text_alone),
		cmocka_unit_test(keeps_letters_of_all_languages_in_utf8),
		cmocka_unit_test(writes_letters_as_numbers_where_utf8_is_not_understood),
		cmocka_unit_test(escapes_every_control_byte),
		cmocka_unit_test(escapes_c1_controls_that_terminals_obey),
		cmocka_unit_test(escapes_what_reorders_or_hides_text),
		cmocka_unit_test(escapes_each_byte_that_is_not_utf8),
		cmocka_unit_test(escapes_overlong_and_surrogate_forms),
		cmocka_unit_test(doubles_backslashes_so_that_nobody_can_fake_an_escape),
		cmocka_unit_test(cuts_between_characters_never_inside_one),
		cmocka_unit_test(writes_nothing_into_no_room),
		cmocka_unit_test(tells_utf8_from_other_bytes),
		cmocka_unit_test(any_two_bytes_come_out_printable_and_can_be_turned_back),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
