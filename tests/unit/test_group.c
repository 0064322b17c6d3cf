/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/index_help.h"

#include "scanner/base/block.h"
#include "scanner/group.h"

#define IMAGES 6

struct duplicates {
	size_t nr;
	uint64_t position[4096], origin[4096];
};

struct setup {
	uint64_t layer[IMAGES];
	struct image_count images[IMAGES];
	struct duplicates duplicates;
	struct count count;
};

static int note_duplicate(void *ctx, uint64_t position, uint64_t origin, struct err *err)
{
	struct duplicates *d = ctx;

	(void)err;
	assert_true(d->nr < ARRAY_SIZE(d->position));
	d->position[d->nr] = position;
	d->origin[d->nr++] = origin;
	return 0;
}

static void setup_begin(struct setup *s, const uint64_t layer[IMAGES])
{
	*s = (struct setup){ .count = { 0 } };
	memcpy(s->layer, layer, sizeof(s->layer));
	s->count.images = s->images;
	s->count.layer = s->layer;
	s->count.duplicate = note_duplicate;
	s->count.ctx = &s->duplicates;
}

/* By the words of tally.h: blocks are ordered by (rank, address); the first is the original, each other one a duplicate;
 * within when an earlier block lies in the same image; same-offset when an earlier block lies at the same guest offset. */
static void count_naively(struct setup *s, const uint64_t *p, size_t nr)
{
	struct count *c = &s->count;
	bool in[IMAGES] = { false };
	unsigned nr_images = 0;
	unsigned bucket = 0;

	while (nr >> (bucket + 1))
		bucket++;
	c->nr_groups++;
	c->histogram[bucket].nr_distinct++;
	c->histogram[bucket].nr_blocks += nr;
	for (size_t i = 0; i < nr; i++) {
		nr_images += !in[POSITION_RANK(p[i])];
		in[POSITION_RANK(p[i])] = true;
	}
	for (size_t i = 0; nr > 1 && i < nr; i++) {
		struct image_count *image = &s->images[POSITION_RANK(p[i])];
		uint64_t offset = POSITION_BLOCK(p[i]) % s->layer[POSITION_RANK(p[i])], origin = UINT64_MAX;
		bool within = false, same = false, original = true;

		for (size_t k = 0; k < nr; k++) {
			origin = min_u64(origin, p[k]);
			if (p[k] >= p[i])
				continue;
			original = false;
			within |= POSITION_RANK(p[k]) == POSITION_RANK(p[i]);
			same |= POSITION_BLOCK(p[k]) % s->layer[POSITION_RANK(p[k])] == offset;
		}
		image->nr_grouped++;
		image->nr_shared += nr_images > 1;
		image->share += ((share_t)BLOCK_SIZE << 64) / nr;
		if (original) {
			image->nr_own_groups += nr_images == 1;
			continue;
		}
		image->nr_within += within;
		image->nr_between += !within;
		c->within_same += within && same;
		c->within_other += within && !same;
		c->between_same += !within && same;
		c->between_other += !within && !same;
		note_duplicate(&s->duplicates, p[i], origin, NULL);
	}
}

struct array {
	const uint64_t *p;
	size_t nr, at;
	unsigned nr_passes;
};

static int array_next(void *ctx, uint64_t *ret, struct err *err)
{
	struct array *a = ctx;

	(void)err;
	if (a->at == a->nr)
		return 0;
	*ret = a->p[a->at++];
	return 1;
}

static int array_rewind(void *ctx, struct err *err)
{
	struct array *a = ctx;

	(void)err;
	a->at = 0;
	a->nr_passes++;
	return 0;
}

static void count_streamed(struct setup *s, const uint64_t *p, size_t nr)
{
	struct array a = { p, nr };
	struct group_stream stream = { array_next, array_rewind, &a };

	assert_int_equal(group_count_stream(&s->count, &stream, NULL), 0);
}

static void count_in_memory(struct setup *s, const uint64_t *p, size_t nr)
{
	uint64_t *positions = malloc(nr * sizeof(*p)), *scratch_room = malloc(nr * sizeof(*p));

	memcpy(positions, p, nr * sizeof(*p));
	assert_int_equal(group_count(&s->count, positions, scratch_room, nr, NULL), 0);
	free(positions);
	free(scratch_room);
}

static int pair_cmp(const void *a, const void *b)
{
	return memcmp(a, b, 2 * sizeof(uint64_t));
}

static void assert_same_duplicates(const struct duplicates *a, const struct duplicates *b)
{
	static uint64_t x[4096][2], y[4096][2];

	assert_int_equal(a->nr, b->nr);
	for (size_t i = 0; i < a->nr; i++) {
		x[i][0] = a->position[i];
		x[i][1] = a->origin[i];
		y[i][0] = b->position[i];
		y[i][1] = b->origin[i];
	}
	qsort(x, a->nr, sizeof(x[0]), pair_cmp);
	qsort(y, a->nr, sizeof(y[0]), pair_cmp);
	assert_memory_equal(x, y, a->nr * sizeof(x[0]));
}

static void assert_same_counts(const struct setup *a, const struct setup *b)
{
	assert_int_equal(a->count.nr_groups, b->count.nr_groups);
	assert_int_equal(a->count.within_same, b->count.within_same);
	assert_int_equal(a->count.within_other, b->count.within_other);
	assert_int_equal(a->count.between_same, b->count.between_same);
	assert_int_equal(a->count.between_other, b->count.between_other);
	assert_memory_equal(a->count.histogram, b->count.histogram, sizeof(a->count.histogram));
	for (unsigned i = 0; i < IMAGES; i++) {
		assert_int_equal(a->images[i].nr_grouped, b->images[i].nr_grouped);
		assert_int_equal(a->images[i].nr_shared, b->images[i].nr_shared);
		assert_int_equal(a->images[i].nr_own_groups, b->images[i].nr_own_groups);
		assert_int_equal(a->images[i].nr_within, b->images[i].nr_within);
		assert_int_equal(a->images[i].nr_between, b->images[i].nr_between);
		assert_true(a->images[i].share == b->images[i].share);
	}
	assert_same_duplicates(&a->duplicates, &b->duplicates);
}

static struct setup naive, memory, stream;

static void begin_all(const uint64_t layer[IMAGES])
{
	setup_begin(&naive, layer);
	setup_begin(&memory, layer);
	setup_begin(&stream, layer);
}

static void count_all(const uint64_t *p, size_t nr)
{
	count_naively(&naive, p, nr);
	count_in_memory(&memory, p, nr);
	count_streamed(&stream, p, nr);
}

static void assert_all_agree(void)
{
	assert_same_counts(&naive, &memory);
	assert_same_counts(&naive, &stream);
}

/* Different positions in random order, drawn from few so that all kinds of meeting happen. */
static size_t random_group(uint64_t *p, size_t most, unsigned nr_ranks, uint64_t nr_blocks)
{
	size_t nr = 0, want = 1 + random_below(most);

	for (size_t tries = 0; nr < want && tries < 20 * want; tries++) {
		uint64_t v = POSITION(random_below(nr_ranks), random_below(nr_blocks));
		size_t k = 0;

		while (k < nr && p[k] != v)
			k++;
		if (k == nr)
			p[nr++] = v;
	}
	return nr;
}

static void agree_on_random_groups(size_t rounds, size_t most, unsigned nr_ranks, uint64_t nr_blocks)
{
	for (size_t i = 0; i < rounds; i++) {
		static const uint64_t choices[] = { 1, 2, 3, 7, 10, 64, (uint64_t)1 << 39 };
		uint64_t layer[IMAGES], p[128];

		for (unsigned k = 0; k < IMAGES; k++)
			layer[k] = choices[random_below(ARRAY_SIZE(choices))];
		begin_all(layer);
		for (unsigned k = 0; k < 3; k++)
			count_all(p, random_group(p, most, nr_ranks, nr_blocks));
		assert_all_agree();
	}
}

static void both_ways_agree_with_the_definition_on_pairs(void **state)
{
	(void)state;
	agree_on_random_groups(60, 2, 3, 6);
}

static void both_ways_agree_with_the_definition_on_small_groups(void **state)
{
	(void)state;
	agree_on_random_groups(150, 6, 4, 8);
}

static void both_ways_agree_with_the_definition_on_large_groups(void **state)
{
	(void)state;
	agree_on_random_groups(60, 100, IMAGES, 40);
}

static void both_ways_agree_on_one_image_alone(void **state)
{
	(void)state;
	agree_on_random_groups(40, 30, 1, 64);
}

/* Snapshots lie one layer apart: the same guest offset in another layer of the same image is within and same-offset. */
static void layers_of_one_image_are_the_same_offset(void **state)
{
	const uint64_t layer[IMAGES] = { 100, 100, 1, 1, 1, 1 };
	const uint64_t p[] = { POSITION(0, 5), POSITION(0, 105), POSITION(0, 206), POSITION(1, 305) };

	(void)state;
	begin_all(layer);
	count_all(p, ARRAY_SIZE(p));
	assert_all_agree();
	assert_int_equal(memory.count.within_same, 1);
	assert_int_equal(memory.count.within_other, 1);
	assert_int_equal(memory.count.between_same, 1);
	assert_int_equal(memory.count.between_other, 0);
}

static void offsets_in_many_windows_of_the_stream_are_told_apart(void **state)
{
	const uint64_t big = (uint64_t)1 << 39, layer[IMAGES] = { big, big, big, big, big, big };
	uint64_t p[40];

	(void)state;
	begin_all(layer);
	for (unsigned i = 0; i < 40; i++)
		p[i] = POSITION(i % 4, (uint64_t)(i / 8) * ((1 << 25) - 1) + i % 8 / 4);
	count_all(p, 40);
	assert_all_agree();
}

/* Far offsets must not cost a pass for every stretch of nothing before them. */
static void far_offsets_cost_no_pass_for_each_empty_stretch(void **state)
{
	const uint64_t far = (uint64_t)1 << 40, layer[IMAGES] = { far, far, far, far, far, far };
	static uint64_t p[20000];
	struct array a = { p, ARRAY_SIZE(p) };
	struct group_stream s = { array_next, array_rewind, &a };

	(void)state;
	begin_all(layer);
	stream.count.duplicate = NULL;
	for (size_t i = 0; i < ARRAY_SIZE(p); i++)
		p[i] = POSITION(0, i % 2 ? i : far - 1 - i);
	assert_int_equal(group_count_stream(&stream.count, &s, NULL), 0);
	assert_in_range(a.nr_passes, 1, 10);
	assert_int_equal(stream.count.within_other, ARRAY_SIZE(p) - 1);
}

static void a_lone_block_is_a_group_and_no_duplicate(void **state)
{
	const uint64_t layer[IMAGES] = { 10, 10, 10, 10, 10, 10 }, p[] = { POSITION(3, 7) };

	(void)state;
	begin_all(layer);
	count_all(p, 1);
	assert_all_agree();
	assert_int_equal(memory.count.nr_groups, 1);
	assert_int_equal(memory.count.histogram[0].nr_blocks, 1);
	assert_int_equal(memory.duplicates.nr, 0);
	assert_int_equal(memory.images[3].nr_grouped, 0);
}

static void shares_add_up_to_one_block_a_group(void **state)
{
	const uint64_t layer[IMAGES] = { 10, 10, 10, 10, 10, 10 };
	uint64_t p[128];
	share_t sum = 0, whole = 0;
	size_t blocks = 0;

	(void)state;
	begin_all(layer);
	for (unsigned i = 0; i < 1000; i++) {
		size_t nr = random_group(p, 20, IMAGES, 50);

		stream.duplicates.nr = 0;
		count_streamed(&stream, p, nr);
		whole += nr > 1 ? (share_t)BLOCK_SIZE << 64 : 0;
		blocks += nr;
	}
	for (unsigned i = 0; i < IMAGES; i++)
		sum += stream.images[i].share;
	assert_true(sum <= whole && whole - sum <= blocks); /* units of 2^-64 bytes */
}

static void the_order_of_arrival_does_not_matter(void **state)
{
	const uint64_t layer[IMAGES] = { 8, 16, 8, 64, 5, 1 };
	uint64_t p[64];
	size_t nr;

	(void)state;
	begin_all(layer);
	while ((nr = random_group(p, 60, IMAGES, 64)) < 30)
		;
	count_in_memory(&memory, p, nr);
	for (size_t i = 0; i < nr / 2; i++) {
		uint64_t v = p[i];

		p[i] = p[nr - 1 - i];
		p[nr - 1 - i] = v;
	}
	count_in_memory(&naive, p, nr);
	assert_same_counts(&naive, &memory);
}

static int failing_next(void *ctx, uint64_t *ret, struct err *err)
{
	unsigned *left = ctx;

	*ret = POSITION(0, *left);
	return (*left)-- ? 1 : err_set(err, ERR_IO, "gone");
}

static int failing_rewind(void *ctx, struct err *err)
{
	(void)ctx;
	(void)err;
	return 0;
}

static void a_stream_that_fails_fails_the_count(void **state)
{
	const uint64_t layer[IMAGES] = { 8, 8, 8, 8, 8, 8 };

	(void)state;
	for (unsigned nr = 0; nr < 20; nr++) {
		unsigned left = nr;
		struct group_stream s = { failing_next, failing_rewind, &left };
		struct err err = ERR_INIT;

		begin_all(layer);
		assert_int_equal(group_count_stream(&stream.count, &s, &err), -1);
		assert_int_equal(err.kind, ERR_IO);
	}
}

static int refuse_duplicate(void *ctx, uint64_t position, uint64_t origin, struct err *err)
{
	(void)ctx;
	(void)position;
	(void)origin;
	return err_set(err, ERR_FULL, "no room");
}

static void a_refused_duplicate_fails_the_count(void **state)
{
	const uint64_t layer[IMAGES] = { 8, 8, 8, 8, 8, 8 };
	uint64_t p[] = { POSITION(0, 1), POSITION(0, 2) }, room[2];
	struct err err = ERR_INIT;

	(void)state;
	begin_all(layer);
	memory.count.duplicate = refuse_duplicate;
	assert_int_equal(group_count(&memory.count, p, room, 2, &err), -1);
	assert_int_equal(err.kind, ERR_FULL);
}

static void the_histogram_has_a_bucket_for_every_power_of_two(void **state)
{
	const uint64_t layer[IMAGES] = { 1 << 20, 1, 1, 1, 1, 1 };
	static uint64_t p[4096], room[4096];

	(void)state;
	begin_all(layer);
	memory.count.duplicate = NULL;
	for (size_t nr = 1; nr <= 4096; nr = nr < 4096 && is_pow2(nr + 1) ? nr + 1 : nr * 2 - (nr > 1)) {
		for (size_t i = 0; i < nr; i++)
			p[i] = POSITION(0, i);
		assert_int_equal(group_count(&memory.count, p, room, nr, NULL), 0);
	}
	/* 1; 2, 3; 4, 7; 8, 15; ... 2048, 4095; 4096 */
	assert_int_equal(memory.count.histogram[0].nr_distinct, 1);
	for (unsigned i = 1; i < 12; i++) {
		assert_int_equal(memory.count.histogram[i].nr_distinct, 2);
		assert_int_equal(memory.count.histogram[i].nr_blocks, (3u << i) - 1);
	}
	assert_int_equal(memory.count.histogram[12].nr_blocks, 4096);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		index_test(both_ways_agree_with_the_definition_on_pairs),
		index_test(both_ways_agree_with_the_definition_on_small_groups),
		index_test(both_ways_agree_with_the_definition_on_large_groups),
		index_test(both_ways_agree_on_one_image_alone),
		index_test(layers_of_one_image_are_the_same_offset),
		index_test(offsets_in_many_windows_of_the_stream_are_told_apart),
		index_test(far_offsets_cost_no_pass_for_each_empty_stretch),
		index_test(a_lone_block_is_a_group_and_no_duplicate),
		index_test(shares_add_up_to_one_block_a_group),
		index_test(the_order_of_arrival_does_not_matter),
		index_test(a_stream_that_fails_fails_the_count),
		index_test(a_refused_duplicate_fails_the_count),
		index_test(the_histogram_has_a_bucket_for_every_power_of_two),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
