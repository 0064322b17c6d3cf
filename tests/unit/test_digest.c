/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "scanner/base/checked.h"
#include "scanner/base/cleanup.h"
#include "scanner/chunk/digest.h"

static struct digest_tree tree;

static void expect_text(const uint8_t digest[DIGEST_SIZE], const char *text)
{
	char buf[DIGEST_TEXT_ROOM];

	assert_string_equal(digest_text(digest, buf), text);
}

/* The test vectors of FIPS 180-2. */
static void is_sha256(void **state)
{
	uint8_t d[DIGEST_SIZE];

	(void)state;
	digest_bytes("abc", 3, d);
	expect_text(d, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
	digest_bytes("", 0, d);
	expect_text(d, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
}

static void expect_two(const uint8_t *a, const uint8_t *b, size_t len)
{
	uint8_t wanted[DIGEST_SIZE], other[DIGEST_SIZE], got[DIGEST_SIZE], got_other[DIGEST_SIZE];

	digest_bytes(a, len, wanted);
	digest_bytes(b, len, other);
	digest_two(a, b, len, got, got_other);
	if (memcmp(got, wanted, DIGEST_SIZE) != 0 || memcmp(got_other, other, DIGEST_SIZE) != 0)
		fail_msg("%zu bytes", len);
}

static void expect_two_of_all_lengths(void)
{
	CLEANUP(free) uint8_t *p = malloc(2 * SEGMENT_SIZE + 64);
	uint32_t state = 1;

	for (size_t i = 0; i < 2 * SEGMENT_SIZE + 64; i++)
		p[i] = (uint8_t)((state = state * 1664525 + 1013904223) >> 24);
	for (size_t len = 0; len < 400; len++) /* all ends, in all alignments */
		expect_two(p + len % 61, p + 1000 + len % 59, len);
	expect_two(p + 3, p + 3, 4096);
	expect_two(p, p + SEGMENT_SIZE, SEGMENT_SIZE);
	expect_two(p + SEGMENT_SIZE + 1, p + 1, SEGMENT_SIZE - 1);
}

static void two_at_once_are_each_what_it_is_alone(void **state)
{
	(void)state;
	if (!digest_two_at_once) {
		print_message("this processor has no instructions for SHA-256\n");
		skip();
	}
	expect_two_of_all_lengths();
}

static void so_are_two_one_after_the_other(void **state)
{
	void (*at_once)(const void *, const void *, size_t, uint8_t *, uint8_t *) = digest_two_at_once;

	(void)state;
	digest_two_at_once = NULL;
	expect_two_of_all_lengths();
	digest_two_at_once = at_once;
}

static void takes_hex_of_either_case_and_nothing_else(void **state)
{
	const char *good = "ba7816bf8f01cfea414140de5dae2223b00361A396177A9CB410FF61F20015AD";
	uint8_t d[DIGEST_SIZE] = { 0 };
	char bad[80];

	(void)state;
	assert_true(digest_parse(good, d));
	expect_text(d, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
	for (unsigned at = 0; at < 64; at++) {
		static const char wrong[] = { '\0', 'g', 'G', '/', ':', '@', '`', ' ', '\x10', '\xb0' };

		for (unsigned i = 0; i < sizeof(wrong); i++) {
			strcpy(bad, good);
			bad[at] = wrong[i];
			assert_false(digest_parse(bad, d));
		}
	}
	expect_text(d, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

static void is_null_for_zeros_of_any_size(void **state)
{
	static const uint64_t sizes[] = { 0, 1, SEGMENT_SIZE, 129 * SEGMENT_SIZE, 64 * TIB, UINT64_MAX };
	static const uint8_t null[DIGEST_SIZE];
	uint8_t d[DIGEST_SIZE];

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(sizes); i++) {
		memset(d, 1, sizeof(d));
		digest_tree_begin(&tree, sizes[i]);
		digest_tree_end(&tree, d);
		assert_memory_equal(d, null, DIGEST_SIZE);
	}
}

/* The same by the definition, level by level, in memory. */
static void plain_root(const uint8_t *leaves, size_t nr, uint8_t ret[DIGEST_SIZE])
{
	static const uint8_t null[DIGEST_FANOUT * DIGEST_SIZE];
	uint8_t *level = calloc(nr + DIGEST_FANOUT, DIGEST_SIZE);

	memcpy(level, leaves, nr * DIGEST_SIZE);
	for (; nr > 1; nr = div_up(nr, DIGEST_FANOUT)) {
		for (size_t i = 0; i < div_up(nr, DIGEST_FANOUT); i++) {
			uint8_t node[sizeof(null)];

			memcpy(node, level + i * sizeof(null), sizeof(null));
			if (memcmp(node, null, sizeof(null)) != 0)
				digest_bytes(node, sizeof(node), level + i * DIGEST_SIZE);
			else
				memset(level + i * DIGEST_SIZE, 0, DIGEST_SIZE);
		}
		memset(level + div_up(nr, DIGEST_FANOUT) * DIGEST_SIZE, 0,
		       (nr + DIGEST_FANOUT - div_up(nr, DIGEST_FANOUT)) * DIGEST_SIZE);
	}
	memcpy(ret, level, DIGEST_SIZE);
	free(level);
}

static void is_as_defined_whatever_is_null(void **state)
{
	static const size_t counts[] = { 1, 2, 127, 128, 129, 300, 16384, 16385, 20000 };
	uint8_t *leaves = calloc(20000, DIGEST_SIZE), wanted[DIGEST_SIZE], got[DIGEST_SIZE];

	(void)state;
	srand(1);
	for (unsigned n = 0; n < ARRAY_SIZE(counts); n++) {
		for (unsigned one_in = 1; one_in < 100000; one_in *= 10) {
			memset(leaves, 0, 20000 * DIGEST_SIZE);
			digest_tree_begin(&tree, (counts[n] - 1) * SEGMENT_SIZE + 1);
			for (size_t i = 0; i < counts[n]; i++) {
				if (rand() % one_in)
					continue;
				digest_bytes(&i, sizeof(i), leaves + i * DIGEST_SIZE);
				digest_tree_add(&tree, i, leaves + i * DIGEST_SIZE);
			}
			digest_tree_end(&tree, got);
			plain_root(leaves, counts[n], wanted);
			assert_memory_equal(got, wanted, DIGEST_SIZE);
		}
	}
	free(leaves);
}

/* One segment at the end of as many bytes as can be: a chain of nodes with one child each. */
static void reaches_the_end_of_the_largest_disk(void **state)
{
	uint8_t leaf[DIGEST_SIZE], node[DIGEST_FANOUT][DIGEST_SIZE], wanted[DIGEST_SIZE], got[DIGEST_SIZE];
	uint64_t last = UINT64_MAX / SEGMENT_SIZE;

	(void)state;
	digest_bytes("x", 1, leaf);
	memcpy(wanted, leaf, sizeof(leaf));
	for (uint64_t at = last; at; at /= DIGEST_FANOUT) {
		memset(node, 0, sizeof(node));
		memcpy(node[at % DIGEST_FANOUT], wanted, DIGEST_SIZE);
		digest_bytes(node, sizeof(node), wanted);
	}
	digest_tree_begin(&tree, UINT64_MAX);
	digest_tree_add(&tree, last, leaf);
	digest_tree_end(&tree, got);
	assert_memory_equal(got, wanted, DIGEST_SIZE);
}

static int prepare(void **state)
{
	(void)state;
	return digest_prepare(NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(is_sha256),
		cmocka_unit_test(two_at_once_are_each_what_it_is_alone),
		cmocka_unit_test(so_are_two_one_after_the_other),
		cmocka_unit_test(takes_hex_of_either_case_and_nothing_else),
		cmocka_unit_test(is_null_for_zeros_of_any_size),
		cmocka_unit_test(is_as_defined_whatever_is_null),
		cmocka_unit_test(reaches_the_end_of_the_largest_disk),
	};

	return cmocka_run_group_tests(tests, prepare, NULL);
}
