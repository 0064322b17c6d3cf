/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/index_help.h"

#include "scanner/base/bytes.h"
#include "scanner/base/varint.h"
#include "scanner/base/vec.h"

static void byte_orders_are_what_they_say(void **state)
{
	const uint8_t p[] = { 0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x08, 0x09 };

	(void)state;
	assert_int_equal(be16_load(p), 0x0102);
	assert_int_equal(le16_load(p), 0x0201);
	assert_int_equal(be32_load(p + 1), 0x02030405);
	assert_int_equal(le32_load(p + 1), 0x05040302);
	assert_int_equal(be64_load(p + 1), 0x0203040506070809);
	assert_int_equal(le64_load(p + 1), 0x0908070605040302);
}

static void what_is_stored_is_loaded_again(void **state)
{
	uint8_t p[9];

	(void)state;
	for (unsigned i = 0; i < 100; i++) {
		uint64_t v = random_u64();

		be16_store(p + 1, (uint16_t)v);
		assert_int_equal(be16_load(p + 1), (uint16_t)v);
		le32_store(p + 1, (uint32_t)v);
		assert_int_equal(le32_load(p + 1), (uint32_t)v);
		be64_store(p + 1, v);
		assert_int_equal(be64_load(p + 1), v);
		assert_int_equal(p[1], v >> 56);
		le64_store(p + 1, v);
		assert_int_equal(le64_get(le64_from(v)), le64_load(p + 1));
		assert_int_equal(be32_get(be32_from((uint32_t)v)), (uint32_t)v);
		assert_int_equal(le16_from((uint16_t)v).b[0], v & 0xff);
	}
}

static void sums_and_products_that_overflow_are_told(void **state)
{
	uint64_t v = 7;

	(void)state;
	assert_true(add_fits(UINT64_MAX - 1, 1, &v));
	assert_int_equal(v, UINT64_MAX);
	assert_false(add_fits(UINT64_MAX, 1, &v));
	assert_true(mul_fits((uint64_t)1 << 32, ((uint64_t)1 << 32) - 1, &v));
	assert_false(mul_fits((uint64_t)1 << 32, (uint64_t)1 << 32, &v));
}

static void ranges_lie_within_or_not(void **state)
{
	(void)state;
	assert_true(range_within(0, 0, 0));
	assert_true(range_within(10, 0, 10));
	assert_true(range_within(3, 7, 10));
	assert_false(range_within(3, 8, 10));
	assert_false(range_within(11, 0, 10));
	assert_false(range_within(UINT64_MAX, 2, 10));
	assert_false(range_within(2, UINT64_MAX, 10));
	assert_true(range_within(0, UINT64_MAX, UINT64_MAX));
}

static void roundings_go_to_their_units(void **state)
{
	(void)state;
	assert_int_equal(round_down(4097, 4096), 4096);
	assert_int_equal(round_up(4097, 4096), 8192);
	assert_int_equal(round_up(4096, 4096), 4096);
	assert_int_equal(div_up(UINT64_MAX, 2), (uint64_t)1 << 63);
	assert_int_equal(div_up(0, 3), 0);
	assert_true(is_pow2(1) && is_pow2((uint64_t)1 << 63) && !is_pow2(0) && !is_pow2(6));
}

static void varints_come_back_at_every_length(void **state)
{
	(void)state;
	for (unsigned shift = 0; shift < 64; shift++) {
		for (int d = -1; d <= 1; d++) {
			uint64_t v = ((uint64_t)1 << shift) + (uint64_t)(int64_t)d, got = 0;
			uint8_t p[VARINT_MAX], *end = varint_put(p, v);

			assert_int_equal(end - p, varint_len(v));
			assert_true(end - p <= VARINT_MAX);
			assert_ptr_equal(varint_get(p, end, &got), end);
			assert_int_equal(got, v);
			for (uint8_t *cut = p; cut < end; cut++)
				assert_null(varint_get(p, cut, &got));
		}
	}
	assert_int_equal(varint_len(UINT64_MAX), VARINT_MAX);
}

static void varints_that_are_too_large_are_refused(void **state)
{
	uint8_t p[12];
	uint64_t v;

	(void)state;
	memset(p, 0xff, sizeof(p));
	assert_null(varint_get(p, p + sizeof(p), &v));
	p[9] = 0x01;
	assert_non_null(varint_get(p, p + sizeof(p), &v));
	assert_int_equal(v, UINT64_MAX);
	p[9] = 0x02;
	assert_null(varint_get(p, p + sizeof(p), &v));
	p[9] = 0x81;
	assert_null(varint_get(p, p + sizeof(p), &v));
}

static void vectors_grow_and_keep_their_items(void **state)
{
	VEC(uint32_t) v = VEC_INIT;

	(void)state;
	for (uint32_t i = 0; i < 10000; i++)
		assert_int_equal(vec_push(&v, i * 3), 0);
	assert_int_equal(v.nr, 10000);
	for (uint32_t i = 0; i < 10000; i++)
		assert_int_equal(v.items[i], i * 3);
	vec_release(&v);
	assert_null(v.items);
	assert_int_equal(v.nr, 0);
}

static void a_vector_that_cannot_grow_keeps_what_it_has(void **state)
{
	void *items = malloc(16);
	volatile size_t size = 64; /* unknown to the compiler, which would warn */
	size_t most = SIZE_MAX / 32;

	(void)state;
	memset(items, 5, 16);
	assert_int_equal(vec_grow_(&items, &most, size), -1);
	assert_int_equal(((uint8_t *)items)[15], 5);
	assert_int_equal(most, SIZE_MAX / 32);
	free(items);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(byte_orders_are_what_they_say),
		cmocka_unit_test(what_is_stored_is_loaded_again),
		cmocka_unit_test(sums_and_products_that_overflow_are_told),
		cmocka_unit_test(ranges_lie_within_or_not),
		cmocka_unit_test(roundings_go_to_their_units),
		cmocka_unit_test(varints_come_back_at_every_length),
		cmocka_unit_test(varints_that_are_too_large_are_refused),
		cmocka_unit_test(vectors_grow_and_keep_their_items),
		cmocka_unit_test(a_vector_that_cannot_grow_keeps_what_it_has),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
