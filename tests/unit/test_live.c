/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/catalog_help.h"

#include "scanner/live.h"

static int64_t images[3];

/* An image of so many segments, of which those of `same` keep what they had. */
static void take(unsigned image, uint64_t base, size_t nr_segments, const bool *same, uint64_t generation)
{
	uint64_t *contents = calloc(nr_segments * SEGMENT_BLOCKS, sizeof(*contents));
	CLEANUP(spool_close) struct spool *s = NULL;
	char name[32];

	for (size_t i = 0; i < nr_segments; i++)
		contents[i * SEGMENT_BLOCKS] = i + 1;
	spool_image(images[image], base, contents, nr_segments * SEGMENT_BLOCKS, same);
	free(contents);
	snprintf(name, sizeof(name), "%lld", (long long)images[image]);
	s = spool_open(catalog_spool_dirfd(catalog), name, true, NULL);
	assert_int_equal(catalog_take_spool(catalog, images[image], s, generation, NULL), 0);
}

static bool rank_of(void *ctx, int64_t image, uint32_t *ret)
{
	int64_t left_out = *(int64_t *)ctx;

	*ret = image == images[0] ? 10 : 20;
	return image != left_out;
}

static void load(struct live *l, int64_t left_out)
{
	assert_int_equal(live_load(l, catalog, rank_of, &left_out, NULL), 0);
}

static void assert_at(const struct live *l, uint64_t id, uint32_t rank, uint64_t segment)
{
	for (unsigned i = 0; i < SEGMENT_BLOCKS; i += SEGMENT_BLOCKS - 1) {
		uint32_t got_rank = 0;
		uint64_t block = 0;

		assert_true(live_find(l, id * SEGMENT_BLOCKS + i, &got_rank, &block));
		assert_int_equal(got_rank, rank);
		assert_int_equal(block, segment * SEGMENT_BLOCKS + i);
	}
}

static void assert_stale(const struct live *l, uint64_t id)
{
	uint64_t block;
	uint32_t rank;

	assert_false(live_find(l, id * SEGMENT_BLOCKS, &rank, &block));
	assert_false(live_find(l, id * SEGMENT_BLOCKS + SEGMENT_BLOCKS - 1, &rank, &block));
}

static int make(void **state)
{
	if (catalog_make(state) < 0)
		return -1;
	images[0] = image_add("/a");
	images[1] = image_add("/b");
	return 0;
}

#define live_test(f) cmocka_unit_test_setup_teardown(f, make, catalog_remove)

static void places_are_found_in_their_images(void **state)
{
	CLEANUP(live_release) struct live l;

	(void)state;
	take(0, 0, 3, NULL, 100);
	take(1, 0, 2, NULL, 104);
	load(&l, 0);
	for (unsigned i = 0; i < 3; i++)
		assert_at(&l, 100 + i, 10, i);
	assert_at(&l, 104, 20, 0);
	assert_at(&l, 105, 20, 1);
	assert_stale(&l, 0);
	assert_stale(&l, 99);
	assert_stale(&l, 103);
	assert_stale(&l, 106);
	assert_stale(&l, (uint64_t)1 << 50);
}

static void places_of_changed_segments_are_stale(void **state)
{
	const bool same[] = { true, false, true };
	CLEANUP(live_release) struct live l;

	(void)state;
	take(0, 0, 3, NULL, 100);
	take(0, 1, 3, same, 200);
	load(&l, 0);
	assert_at(&l, 100, 10, 0);
	assert_stale(&l, 101);
	assert_at(&l, 102, 10, 2);
	assert_stale(&l, 200);
	assert_at(&l, 201, 10, 1);
	assert_stale(&l, 202);
}

static void places_of_images_left_out_or_removed_are_stale(void **state)
{
	struct live l;

	(void)state;
	take(0, 0, 2, NULL, 100);
	take(1, 0, 2, NULL, 103);
	load(&l, images[0]);
	assert_stale(&l, 100);
	assert_at(&l, 103, 20, 0);
	live_release(&l);
	assert_int_equal(catalog_image_remove(catalog, images[1], NULL), 0);
	load(&l, 0);
	assert_at(&l, 101, 10, 1);
	assert_stale(&l, 103);
	live_release(&l);
}

static void with_no_selection_every_image_is_of_rank_0(void **state)
{
	CLEANUP(live_release) struct live l;

	(void)state;
	take(0, 0, 1, NULL, 100);
	take(1, 0, 1, NULL, 102);
	assert_int_equal(live_load(&l, catalog, NULL, NULL, NULL), 0);
	assert_at(&l, 100, 0, 0);
	assert_at(&l, 102, 0, 0);
}

static void an_empty_catalog_has_nothing_live(void **state)
{
	CLEANUP(live_release) struct live l;

	(void)state;
	load(&l, 0);
	assert_stale(&l, 0);
	assert_stale(&l, 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		live_test(places_are_found_in_their_images),
		live_test(places_of_changed_segments_are_stale),
		live_test(places_of_images_left_out_or_removed_are_stale),
		live_test(with_no_selection_every_image_is_of_rank_0),
		live_test(an_empty_catalog_has_nothing_live),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
