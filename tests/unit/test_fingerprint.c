/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/index_help.h"

#ifdef __x86_64__
#include <cpuid.h>
#include <immintrin.h>
#endif
#include <xxhash.h> /* the distribution's library, not the copies built in */

#include "scanner/chunk/fingerprint.h"

#define BLOCKS 64

static uint8_t room[(BLOCKS + 1) * BLOCK_SIZE];

static void fill(uint8_t *p, size_t len)
{
	for (size_t i = 0; i < len; i++)
		p[i] = (uint8_t)random_u64();
}

static struct fingerprint reference(const void *p, size_t len)
{
	XXH128_hash_t h = XXH3_128bits(p, len);

	return (struct fingerprint){ h.high64, h.low64 };
}

static bool equal(struct fingerprint a, struct fingerprint b)
{
	return a.hi == b.hi && a.lo == b.lo;
}

/* Calls for every build that this processor runs. */
static void each_isa(void (*call)(const struct fingerprint_isa *isa))
{
	unsigned nr = 0;

	random_state = 1;
	for (const struct fingerprint_isa *const *isa = fingerprint_isas; *isa; isa++) {
		if (!fingerprint_isa_runs(*isa))
			continue;
		call(*isa);
		nr++;
	}
	assert_true(nr > 0);
}

static void check_blocks(const struct fingerprint_isa *isa)
{
	for (size_t shift = 0; shift < 65; shift += 1 + shift / 8) { /* in all alignments */
		struct fingerprint f[BLOCKS];

		fill(room, sizeof(room));
		assert_int_equal(isa->blocks(room + shift, BLOCKS, f), BLOCKS);
		for (size_t i = 0; i < BLOCKS; i++)
			if (!equal(f[i], reference(room + shift + i * BLOCK_SIZE, BLOCK_SIZE)))
				fail_msg("%s: block %zu at shift %zu", isa->name, i, shift);
	}
}

static void blocks_have_the_fingerprints_of_the_library(void **state)
{
	(void)state;
	each_isa(check_blocks);
}

static void check_bytes(const struct fingerprint_isa *isa)
{
	fill(room, sizeof(room));
	for (size_t len = 0; len < 9000; len += len < 600 ? 1 : 97)
		if (!equal(isa->bytes(room + len % 7, len), reference(room + len % 7, len)))
			fail_msg("%s: %zu bytes", isa->name, len);
}

static void bytes_of_any_length_have_the_fingerprints_of_the_library(void **state)
{
	(void)state;
	each_isa(check_bytes);
}

static void check_zeros(const struct fingerprint_isa *isa)
{
	for (size_t shift = 0; shift < 9; shift++) {
		struct fingerprint f[BLOCKS];

		memset(room, 0, sizeof(room));
		for (size_t i = 0; i < BLOCKS; i += 3)
			room[shift + i * BLOCK_SIZE + random_below(BLOCK_SIZE)] = 1;
		memset(f, 0xaa, sizeof(f));
		assert_int_equal(isa->blocks(room + shift, BLOCKS, f), (BLOCKS + 2) / 3);
		for (size_t i = 0; i < BLOCKS; i++)
			assert_int_equal(fingerprint_is_null(f[i]), i % 3 != 0);
	}
}

static void blocks_of_zeros_have_none(void **state)
{
	(void)state;
	each_isa(check_zeros);
}

static void check_single_bits(const struct fingerprint_isa *isa)
{
	memset(room, 0, sizeof(room));
	for (size_t bit = 0; bit < 8 * BLOCK_SIZE; bit++) {
		struct fingerprint f;

		room[bit / 8] = (uint8_t)(1u << bit % 8);
		if (isa->blocks(room, 1, &f) != 1 || fingerprint_is_null(f))
			fail_msg("%s: a block with bit %zu set passes for zeros", isa->name, bit);
		room[bit / 8] = 0;
	}
}

static void a_single_bit_anywhere_is_not_zero(void **state)
{
	(void)state;
	each_isa(check_single_bits);
}

static void nothing_is_read_beside_the_blocks(void **state)
{
	uint8_t *exact = malloc(3 * BLOCK_SIZE);
	struct fingerprint f[3];

	(void)state;
	fill(exact, 3 * BLOCK_SIZE);
	assert_int_equal(fingerprint_best()->blocks(exact, 3, f), 3);
	assert_int_equal(fingerprint_best()->blocks(exact, 0, f), 0);
	free(exact);
}

static void the_best_is_one_that_runs_and_the_baseline_always_does(void **state)
{
	const struct fingerprint_isa *const *isa = fingerprint_isas;

	(void)state;
	assert_true(fingerprint_isa_runs(fingerprint_best()));
	while (isa[1])
		isa++;
	assert_string_equal((*isa)->name, "baseline");
	assert_true(fingerprint_isa_runs(*isa));
}

#ifdef __x86_64__
/* What of the registers holds something other than zeros: bit 2, the upper halves of 256 bits; bit 6, those of 512. */
__attribute__((target("xsave"))) static uint64_t in_use(void)
{
	return _xgetbv(1) & (1 << 2 | 1 << 6);
}

static bool can_tell(void)
{
	unsigned a, b, c, d;

	return __builtin_cpu_supports("avx") && __get_cpuid_count(13, 1, &a, &b, &c, &d) && (a & 1 << 2);
}

static void check_upper_halves(const struct fingerprint_isa *isa)
{
	struct fingerprint f[BLOCKS];

	fill(room, sizeof(room));
	isa->blocks(room, BLOCKS, f);
	if (in_use())
		fail_msg("%s: blocks leave 0x%x", isa->name, (unsigned)in_use());
	isa->bytes(room, sizeof(room));
	if (in_use())
		fail_msg("%s: bytes leave 0x%x", isa->name, (unsigned)in_use());
}

/* What comes after them may be code that is slow then, in other libraries. */
static void leave_the_upper_halves_of_registers_clean(void **state)
{
	(void)state;
	if (!can_tell()) {
		print_message("this processor does not tell\n");
		skip();
	}
	each_isa(check_upper_halves);
}
#endif

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(blocks_have_the_fingerprints_of_the_library),
		cmocka_unit_test(bytes_of_any_length_have_the_fingerprints_of_the_library),
		cmocka_unit_test(blocks_of_zeros_have_none),
		cmocka_unit_test(a_single_bit_anywhere_is_not_zero),
		cmocka_unit_test(nothing_is_read_beside_the_blocks),
		cmocka_unit_test(the_best_is_one_that_runs_and_the_baseline_always_does),
#ifdef __x86_64__
		cmocka_unit_test(leave_the_upper_halves_of_registers_clean),
#endif
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
