/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/store_help.h"

#include "scanner/duplicates.h"

/* Against a search through everything. */

#define IMAGES 6
#define BLOCKS 1200

static uint64_t contents[IMAGES][BLOCKS];
static int64_t ids[IMAGES];
static struct stopper never;
static bool (*filter)(void *ctx, uint32_t rank, uint64_t block);

static void put_images(void)
{
	char path[16];

	for (unsigned i = 0; i < IMAGES; i++) {
		snprintf(path, sizeof(path), "/%u", i);
		ids[i] = image_add(path);
		spool_image(ids[i], 0, contents[i], BLOCKS, NULL);
	}
	index_merge();
}

static void put_random_images(uint64_t seed)
{
	uint64_t *before[IMAGES];

	random_state = seed;
	for (unsigned i = 0; i < IMAGES; i++) {
		random_contents(before, i, contents[i], BLOCKS);
		before[i] = contents[i];
	}
	put_images();
}

/* ---- the definition ---- */

static bool takes_part(uint32_t rank, uint64_t block)
{
	return !filter || filter(NULL, rank, block);
}

/* The original of the block at `position` with images in the order `ranked`: POSITION() or itself. */
static uint64_t original(const unsigned *ranked, size_t nr_images, uint64_t position, uint64_t sharers)
{
	uint64_t content = contents[ranked[POSITION_RANK(position)]][POSITION_BLOCK(position)];
	uint64_t origin = UINT64_MAX, nr = 0;

	for (uint32_t r = 0; r < nr_images; r++) {
		for (uint64_t b = 0; b < BLOCKS; b++) {
			if (contents[ranked[r]][b] != content || !takes_part(r, b))
				continue;
			if (nr++ == 0)
				origin = POSITION(r, b);
			if (POSITION(r, b) == position)
				return origin;
			if (nr == sharers)
				nr = 0;
		}
	}
	fail();
	return 0;
}

/* ---- what is found ---- */

static struct duplicates *find(const unsigned *ranked, size_t nr, struct duplicates_options o)
{
	struct duplicates_image images[IMAGES];
	struct duplicates *d;
	struct err err = ERR_INIT;

	for (size_t i = 0; i < nr; i++)
		images[i] = (struct duplicates_image){ ids[ranked[i]], BLOCKS };
	o.memory = 4 * MIB;
	o.usable = filter;
	o.stopper = o.stopper ? o.stopper : &never;
	d = duplicates_find(catalog, images, nr, &o, &err);
	if (!d)
		fail_msg("%s", err.text);
	return d;
}

static void expect_all(const unsigned *ranked, size_t nr, uint64_t sharers, unsigned nr_threads)
{
	struct duplicates *d = find(ranked, nr, (struct duplicates_options){ .sharers = sharers, .nr_threads = nr_threads });
	const struct record *r;
	uint64_t position = 0, end = POSITION(nr, 0);
	ssize_t n;

	while ((n = duplicates_next(d, &r, NULL)) > 0) {
		for (ssize_t i = 0; i < n; i++, position++) {
			for (;; position++) {
				if (POSITION_BLOCK(position) >= BLOCKS)
					position = POSITION(POSITION_RANK(position) + 1, 0);
				assert_true(position < end);
				if (contents[ranked[POSITION_RANK(position)]][POSITION_BLOCK(position)] &&
				    takes_part(POSITION_RANK(position), POSITION_BLOCK(position)) &&
				    original(ranked, nr, position, sharers) != position)
					break;
			}
			assert_int_equal(r[i].key.hi, position);
			assert_int_equal(r[i].value, original(ranked, nr, position, sharers));
		}
	}
	assert_int_equal(n, 0);
	for (; position < end; position++) { /* no more than these */
		if (POSITION_BLOCK(position) >= BLOCKS)
			position = POSITION(POSITION_RANK(position) + 1, 0) - 1;
		else if (contents[ranked[POSITION_RANK(position)]][POSITION_BLOCK(position)] &&
			 takes_part(POSITION_RANK(position), POSITION_BLOCK(position)))
			assert_int_equal(original(ranked, nr, position, sharers), position);
	}
	duplicates_free(d);
}

static const unsigned in_order[] = { 0, 1, 2, 3, 4, 5 }, mixed_up[] = { 4, 1, 5, 0, 3, 2 };

static void finds_every_duplicate_and_its_original(void **state)
{
	(void)state;
	filter = NULL;
	put_random_images(1);
	expect_all(in_order, IMAGES, 0, 1);
	expect_all(mixed_up, IMAGES, 0, 3);
}

static void images_that_are_not_named_take_no_part(void **state)
{
	(void)state;
	filter = NULL;
	put_random_images(2);
	expect_all(mixed_up, 3, 0, 2);
	expect_all(mixed_up + 3, 1, 0, 2);
}

static void an_original_has_so_many_sharers_at_most(void **state)
{
	(void)state;
	filter = NULL;
	put_random_images(3);
	for (uint64_t sharers = 2; sharers < 6; sharers++)
		expect_all(mixed_up, IMAGES, sharers, 2);
}

static bool not_of_these(void *ctx, uint32_t rank, uint64_t block)
{
	(void)ctx;
	return rank != 1 && (block + rank) % 5;
}

static void blocks_that_cannot_be_used_are_neither(void **state)
{
	(void)state;
	put_random_images(4);
	filter = not_of_these;
	expect_all(mixed_up, IMAGES, 0, 2);
	expect_all(in_order, IMAGES, 3, 1);
	filter = NULL;
}

/* Segments that were scanned again: what they held before is in the index still. */
static void make_stale(void)
{
	for (unsigned i = 0; i < IMAGES; i += 2) {
		for (size_t b = SEGMENT_BLOCKS; b < 2 * SEGMENT_BLOCKS; b++)
			contents[i][b] = contents[(i + 1) % IMAGES][b + 100];
		spool_image(ids[i], 1, contents[i], BLOCKS, (bool[]){ true, false, true });
	}
	index_merge();
}

static void what_is_stale_is_no_duplicate(void **state)
{
	(void)state;
	filter = NULL;
	put_random_images(5);
	make_stale();
	expect_all(mixed_up, IMAGES, 0, 2);
}

/* More than are looked at in memory: each is told once, and where a cap holds, none has too many sharers. */
static void a_content_that_is_everywhere(void **state)
{
	enum { NR = 20000, CAP = 7 };
	static uint64_t same[NR], nr_of[NR];
	struct duplicates *d;
	const struct record *r;
	ssize_t n;

	(void)state;
	filter = NULL;
	for (size_t i = 0; i < NR; i++)
		same[i] = 42;
	ids[0] = image_add("/0");
	spool_image(ids[0], 0, same, NR, NULL);
	index_merge();
	for (int cap = 0; cap < 2; cap++) {
		uint64_t nr = 0, last = 0;

		memset(nr_of, 0, sizeof(nr_of));
		d = find(in_order, 1, (struct duplicates_options){ .sharers = cap ? CAP : 0, .nr_threads = 2 });
		while ((n = duplicates_next(d, &r, NULL)) > 0) {
			for (ssize_t i = 0; i < n; i++, nr++) {
				assert_true(r[i].key.hi > last);
				last = r[i].key.hi;
				nr_of[r[i].value]++;
			}
		}
		duplicates_free(d);
		assert_int_equal(nr, cap ? NR - (NR + CAP - 1) / CAP : NR - 1);
		for (size_t i = 0; i < NR && cap; i++)
			assert_in_range(nr_of[i], 0, CAP - 1);
	}
}

static void expect_counts(void)
{
	struct duplicates *d;
	uint64_t nr_groups = 0, nr_duplicates = 0, wanted = 0, nr_blocks = 0;

	for (uint32_t i = 0; i < IMAGES; i++) {
		for (uint64_t b = 0; b < BLOCKS; b++) {
			nr_blocks += contents[i][b] != 0;
			wanted += contents[i][b] && original(in_order, IMAGES, POSITION(i, b), 0) == POSITION(i, b);
		}
	}
	d = find(in_order, IMAGES, (struct duplicates_options){ .nr_blocks = nr_blocks, .nr_threads = 3 });
	for (unsigned t = 0; t < duplicates_nr_threads(d); t++) {
		const struct count *c = duplicates_count(d, t);

		nr_groups += c->nr_groups;
		nr_duplicates += c->within_same + c->within_other + c->between_same + c->between_other;
	}
	duplicates_free(d);
	assert_int_equal(nr_groups, wanted);
	assert_int_equal(nr_duplicates, nr_blocks - wanted);
}

static void counts_are_those_of_the_groups(void **state)
{
	(void)state;
	filter = NULL;
	put_random_images(6);
	expect_counts();
	make_stale();
	expect_counts();
}

/* Contents that a third party has, one of three; as a number that the key tells. */
static int has(void *ctx, struct key key, uint64_t *ret, struct err *e)
{
	(void)ctx;
	(void)e;
	*ret = key.hi ^ key.lo;
	return key.hi % 3 == 0;
}

/* What has to be told of the block at `position`; false = nothing. */
static bool wanted(uint64_t position, struct record *ret)
{
	uint64_t content = contents[POSITION_RANK(position)][POSITION_BLOCK(position)], where;
	uint64_t origin = content ? original(in_order, IMAGES, position, 0) : position;
	struct key key = { content_of(content).hi, content_of(content).lo & KEY_LO_MASK };
	bool elsewhere = content && has(NULL, key, &where, NULL);

	*ret = (struct record){ { position, elsewhere }, elsewhere ? where : origin };
	return elsewhere || origin != position;
}

static void what_is_elsewhere_is_told_of_all_blocks(void **state)
{
	struct record want;
	const struct record *r;
	struct duplicates *d;
	uint64_t nr = 0, nr_elsewhere = 0;
	ssize_t n;

	(void)state;
	filter = NULL;
	put_random_images(7);
	d = find(in_order, IMAGES, (struct duplicates_options){ .elsewhere = has, .nr_threads = 2 });
	while ((n = duplicates_next(d, &r, NULL)) > 0) {
		for (ssize_t i = 0; i < n; i++, nr++) {
			assert_true(wanted(r[i].key.hi, &want));
			assert_memory_equal(&r[i], &want, sizeof(want));
			nr_elsewhere += r[i].key.lo;
		}
	}
	duplicates_free(d);
	for (uint32_t i = 0; i < IMAGES; i++)
		for (uint64_t b = 0; b < BLOCKS; b++)
			nr -= wanted(POSITION(i, b), &want);
	assert_int_equal(nr, 0);
	assert_true(nr_elsewhere > 100);
}

/* Whether one content is everywhere or there are many. */
static void can_be_stopped(void **state)
{
	struct stopper now = { .flag = 1 };
	struct duplicates_image image;
	struct duplicates_options o = { .memory = 4 * MIB, .nr_threads = 2, .stopper = &now };
	static uint64_t held[40000];

	(void)state;
	ids[0] = image_add("/0");
	for (unsigned many = 0; many < 2; many++) {
		struct err err = ERR_INIT;

		for (size_t i = 0; i < ARRAY_SIZE(held); i++)
			held[i] = many ? i + 1 : 1;
		spool_image(ids[0], many, held, ARRAY_SIZE(held), NULL);
		index_merge();
		image = (struct duplicates_image){ ids[0], 1 };
		assert_null(duplicates_find(catalog, &image, 1, &o, &err));
		assert_int_equal(err.kind, ERR_CANCELED);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		catalog_test(finds_every_duplicate_and_its_original),
		catalog_test(images_that_are_not_named_take_no_part),
		catalog_test(an_original_has_so_many_sharers_at_most),
		catalog_test(blocks_that_cannot_be_used_are_neither),
		catalog_test(what_is_stale_is_no_duplicate),
		catalog_test(a_content_that_is_everywhere),
		catalog_test(counts_are_those_of_the_groups),
		catalog_test(what_is_elsewhere_is_told_of_all_blocks),
		catalog_test(can_be_stopped),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
