/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/store_help.h"

#include "compactor/pool_estimate.h"
#include "compactor/pool/pool_format.h"
#include "scanner/group.h"

/* Images of blocks with contents, some segments of which are those of another image: what is said to be shared in a pool is
 * compared with the definition. */

#define IMAGES 5
#define SEGMENTS 4
#define BLOCKS (SEGMENTS * SEGMENT_BLOCKS)
#define CONTENTS (1 << 20)
#define MIN_RUN 4 /* blocks */

static uint64_t contents[IMAGES][BLOCKS];
static unsigned depth[IMAGES];
static struct store store;
static struct plan plan;
static struct plan_image plan_images[IMAGES];
static struct pool_cost costs[IMAGES];
static struct stopper never;

static int make(void **state)
{
	memset(contents, 0, sizeof(contents));
	memset(depth, 0, sizeof(depth));
	memset(costs, 0, sizeof(costs));
	memset(plan_images, 0, sizeof(plan_images));
	return catalog_make(state);
}

static int unmake(void **state)
{
	vec_release(&store.images);
	vec_release(&store.ranks);
	memset(&store, 0, sizeof(store));
	return catalog_remove(state);
}

#define estimate_test(f) cmocka_unit_test_setup_teardown(f, make, unmake)

static void add_image(uint32_t i)
{
	struct store_image im = { .layer = BLOCKS, .depth = depth[i], .copy_of = STORE_NO_COPY };
	char path[16];

	snprintf(path, sizeof(path), "/%u", i);
	im.id = image_add(path);
	spool_image(im.id, 0, contents[i], BLOCKS, NULL);
	assert_int_equal(vec_push(&store.images, im), 0);
	assert_int_equal(vec_push(&store.ranks, i), 0);
	costs[i].wanted = true;
	for (size_t b = 0; b < BLOCKS; b++)
		plan_images[i].stored += contents[i][b] ? BLOCK_SIZE : 0;
}

static void estimate(void)
{
	struct pool_estimate o = {
		.memory = 8 * MIB, .nr_threads = 2, .min_run = MIN_RUN * BLOCK_SIZE, .cluster_bits = POOL_UNIT_BITS_MIN,
	};
	struct err err = ERR_INIT;

	plan = (struct plan){ .images = plan_images, .nr_images = IMAGES };
	store.c = catalog;
	store.plan = &plan;
	store.stopper = &never;
	for (uint32_t i = 0; i < IMAGES; i++)
		add_image(i);
	index_merge();
	if (pool_estimate(&store, &o, costs, &err) < 0)
		fail_msg("%s", err.text);
}

/* ---- the definition ---- */

static uint64_t origins[IMAGES][BLOCKS]; /* POSITION() of the first block of that content; of a zero none */
#define NO_ORIGIN UINT64_MAX

static void find_origins(void)
{
	static uint64_t first[CONTENTS];

	memset(first, 0xff, sizeof(first));
	for (uint32_t i = 0; i < IMAGES; i++) {
		for (uint64_t b = 0; b < BLOCKS; b++) {
			assert_in_range(contents[i][b], 0, CONTENTS - 1);
			if (contents[i][b] && first[contents[i][b]] == NO_ORIGIN)
				first[contents[i][b]] = POSITION(i, b);
			origins[i][b] = contents[i][b] ? first[contents[i][b]] : NO_ORIGIN;
		}
	}
}

static bool is_duplicate(uint32_t i, uint64_t b)
{
	return b < BLOCKS && origins[i][b] != NO_ORIGIN && origins[i][b] != POSITION(i, b);
}

static bool continues(uint32_t i, uint64_t b)
{
	return is_duplicate(i, b) && is_duplicate(i, b - 1) && origins[i][b] == origins[i][b - 1] + 1;
}

static bool in_long_run(uint32_t i, uint64_t b)
{
	uint64_t first = b, end = b + 1;

	while (first > 0 && continues(i, first))
		first--;
	while (continues(i, end))
		end++;
	return end - first >= MIN_RUN;
}

/* An image that has a parent, or is one's child only in part, says nothing of whole segments. */
static bool comes_again(uint32_t i, uint64_t segment)
{
	const uint64_t *of = contents[i] + segment * SEGMENT_BLOCKS;

	for (uint32_t k = 0; k <= i && !depth[i]; k++)
		for (uint64_t s = 0; s < (k == i ? segment : SEGMENTS) && !depth[k]; s++)
			if (memcmp(contents[k] + s * SEGMENT_BLOCKS, of, SEGMENT_BLOCKS * sizeof(*of)) == 0)
				return true;
	return false;
}

static void expect_definition(void)
{
	uint64_t shared[IMAGES] = { 0 }, given[IMAGES] = { 0 };

	find_origins();
	for (uint32_t i = 0; i < IMAGES; i++) {
		for (uint64_t b = 0; b < BLOCKS; b++) {
			if (!is_duplicate(i, b) || (!in_long_run(i, b) && !comes_again(i, b / SEGMENT_BLOCKS)))
				continue;
			shared[i] += BLOCK_SIZE;
			given[POSITION_RANK(origins[i][b])] += POSITION_RANK(origins[i][b]) != i ? BLOCK_SIZE : 0;
		}
	}
	for (uint32_t i = 0; i < IMAGES; i++) {
		assert_int_equal(costs[i].shared, shared[i]);
		assert_int_equal(costs[i].fresh, plan_images[i].stored - shared[i]);
		assert_int_equal(costs[i].given, given[i]);
	}
}

/* ---- tests ---- */

static void copy_segment(uint32_t from, uint64_t segment, uint32_t to, uint64_t at)
{
	memcpy(contents[to] + at * SEGMENT_BLOCKS, contents[from] + segment * SEGMENT_BLOCKS, SEGMENT_BLOCKS * sizeof(uint64_t));
}

static void what_is_shared_is_as_defined(void **state)
{
	uint64_t *before[IMAGES];
	(void)state;

	for (uint32_t i = 0; i < IMAGES; i++) {
		before[i] = contents[i];
		random_contents(before, i, contents[i], BLOCKS);
		for (unsigned n = 0; i && n < 2; n++)
			copy_segment((uint32_t)random_below(i), random_below(SEGMENTS), i, random_below(SEGMENTS));
		depth[i] = i == 3;
	}
	estimate();
	expect_definition();
}

/* Contents that are all over it, far from their first place. */
static void make_first(void)
{
	for (uint64_t b = 0; b < BLOCKS; b++)
		contents[0][b] = b % 6 == 5 ? 7 : 1000 + b;
}

static void a_copy_has_nothing_that_is_new(void **state)
{
	(void)state;
	make_first();
	for (uint64_t s = 0; s < SEGMENTS; s++)
		copy_segment(0, s, 2, SEGMENTS - 1 - s);
	estimate();
	assert_in_range(costs[0].fresh, BLOCKS * BLOCK_SIZE / 8, BLOCKS * BLOCK_SIZE);
	assert_int_equal(costs[2].fresh, 0);
	expect_definition();
}

static void where_a_block_differs_short_runs_are_new(void **state)
{
	(void)state;
	make_first();
	for (uint64_t s = 0; s < SEGMENTS; s++)
		copy_segment(0, s, 1, s);
	contents[1][SEGMENT_BLOCKS + 1] = 5000;
	estimate();
	assert_in_range(costs[1].fresh, SEGMENT_BLOCKS / 6 * BLOCK_SIZE, SEGMENT_BLOCKS / 5 * BLOCK_SIZE);
	expect_definition();
}

static void what_has_a_parent_says_nothing_of_whole_segments(void **state)
{
	(void)state;
	make_first();
	for (uint64_t s = 0; s < SEGMENTS; s++)
		copy_segment(0, s, 1, s);
	depth[1] = 1;
	estimate();
	assert_in_range(costs[1].fresh, BLOCKS / 6 * BLOCK_SIZE, BLOCKS / 5 * BLOCK_SIZE);
	expect_definition();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		estimate_test(what_is_shared_is_as_defined),
		estimate_test(what_is_shared_is_as_defined),
		estimate_test(what_is_shared_is_as_defined),
		estimate_test(a_copy_has_nothing_that_is_new),
		estimate_test(where_a_block_differs_short_runs_are_new),
		estimate_test(what_has_a_parent_says_nothing_of_whole_segments),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
