/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "scanner/base/crc32c.h"

/* CRC-32C against the examples of RFC 3720, B.4, and against a reckoning bit by bit. */

typedef uint32_t crc_func(uint32_t crc, const void *p, size_t len);
static crc_func *const funcs[] = { crc32c, crc32c_baseline };
#define NR_FUNCS (sizeof(funcs) / sizeof(funcs[0]))

static uint32_t bit_by_bit(uint32_t crc, const uint8_t *p, size_t len)
{
	crc = ~crc;
	for (; len; p++, len--)
		for (unsigned bit = 0; bit < 8; bit++)
			crc = crc >> 1 ^ ((crc ^ *p >> bit) & 1 ? 0x82f63b78u : 0);
	return ~crc;
}

static void gives_the_sums_of_the_standard(void **state)
{
	uint8_t up[32], down[32], zeros[32] = { 0 }, ones[32];

	(void)state;
	memset(ones, 0xff, sizeof(ones));
	for (uint8_t i = 0; i < 32; i++) {
		up[i] = i;
		down[i] = (uint8_t)(31 - i);
	}
	for (size_t i = 0; i < NR_FUNCS; i++) {
		assert_int_equal(funcs[i](0, "123456789", 9), 0xe3069283);
		assert_int_equal(funcs[i](0, zeros, 32), 0x8a9136aa);
		assert_int_equal(funcs[i](0, ones, 32), 0x62a8ab43);
		assert_int_equal(funcs[i](0, up, 32), 0x46dd794e);
		assert_int_equal(funcs[i](0, down, 32), 0x113fdb5c);
		assert_int_equal(funcs[i](0, "", 0), 0);
	}
}

static void every_length_at_every_alignment_is_summed(void **state)
{
	uint8_t buf[128];

	(void)state;
	for (unsigned i = 0; i < sizeof(buf); i++)
		buf[i] = (uint8_t)(i * i + 31 * i + 7);
	for (size_t f = 0; f < NR_FUNCS; f++)
		for (size_t at = 0; at < 9; at++)
			for (size_t len = 0; at + len <= sizeof(buf); len++)
				assert_int_equal(funcs[f](0, buf + at, len), bit_by_bit(0, buf + at, len));
}

static void pieces_sum_up_to_the_whole(void **state)
{
	const char text[] = "It consists of an ordered sequence of variable-sized entries";
	size_t len = sizeof(text) - 1;

	(void)state;
	for (size_t f = 0; f < NR_FUNCS; f++)
		for (size_t cut = 0; cut <= len; cut++)
			assert_int_equal(funcs[f](funcs[f](0, text, cut), text + cut, len - cut),
					 funcs[f](0, text, len));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(gives_the_sums_of_the_standard),
		cmocka_unit_test(every_length_at_every_alignment_is_summed),
		cmocka_unit_test(pieces_sum_up_to_the_whole),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
