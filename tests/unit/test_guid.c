/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "scanner/image/guid.h"

static void both_byte_orders_have_a_text(void **state)
{
	static const uint8_t guid[16] = { 0x00, 0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07,
					  0x08, 0x09, 0x0a, 0x0b, 0xcc, 0xdd, 0xee, 0xff };
	char ret[GUID_TEXT];

	(void)state;
	guid_text(guid, false, ret);
	assert_string_equal(ret, "00010203-0405-0607-0809-0a0bccddeeff");
	guid_text(guid, true, ret);
	assert_string_equal(ret, "03020100-0504-0706-0809-0a0bccddeeff");
}

static void zeros_may_stand_for_none(void **state)
{
	uint8_t guid[16] = { 0 };
	char ret[GUID_TEXT] = "before";

	(void)state;
	guid_text_or_none(guid, true, ret);
	assert_string_equal(ret, "");
	guid_text(guid, true, ret);
	assert_string_equal(ret, "00000000-0000-0000-0000-000000000000");
	guid[15] = 1;
	guid_text_or_none(guid, true, ret);
	assert_string_equal(ret, "00000000-0000-0000-0000-000000000001");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(both_byte_orders_have_a_text),
		cmocka_unit_test(zeros_may_stand_for_none),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
