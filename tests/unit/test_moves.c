/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/store_help.h"

#include <linux/fiemap.h>

#include "compactor/moves.h"

/* Stores made of numbers: images whose blocks have contents, files in which these lie somewhere, a disk on which the files
 * lie somewhere, some of their blocks shared.  What is found and what it is said to save is compared with the definition. */

#define IMAGES 6
#define BLOCKS 600
#define GAP (MOVES_GAP / BLOCK_SIZE)
#define NOWHERE UINT64_MAX
#define DISK 40000

struct model {
	uint64_t contents[BLOCKS];
	uint64_t in_file[BLOCKS]; /* block of the file, NOWHERE = it cannot be shared */
	uint64_t on_disk[2 * BLOCKS]; /* by block of the file; NOWHERE = hole */
	size_t fs;
	bool fixed, out, relayout;
	unsigned file; /* another image's: it names the same file */
};

static struct model images[IMAGES];
static uint64_t holders[2][DISK], outsiders[2][DISK]; /* of each block of both disks */
static struct store store;
static struct plan plan;
static struct plan_image plan_images[IMAGES];
static struct stopper never;
static struct moves *moves;
static uint64_t min_run, sharers, used;
static unsigned order[IMAGES]; /* rank -> image */

static int make(void **state)
{
	memset(images, 0, sizeof(images));
	memset(outsiders, 0, sizeof(outsiders));
	min_run = 4 * BLOCK_SIZE;
	sharers = 0;
	used = 2 * BLOCKS * BLOCK_SIZE;
	moves = NULL;
	for (unsigned i = 0; i < IMAGES; i++) {
		order[i] = images[i].file = i;
		for (unsigned b = 0; b < BLOCKS; b++)
			images[i].in_file[b] = b;
	}
	return catalog_make(state);
}

static void forget(void)
{
	moves_free(moves);
	moves = NULL;
	store_release(&store);
	memset(&store, 0, sizeof(store));
}

static int unmake(void **state)
{
	forget();
	return catalog_remove(state);
}

#define moves_test(f) cmocka_unit_test_setup_teardown(f, make, unmake)

/* ---- from the model to the store ---- */

static void count_holders(void)
{
	memset(holders, 0, sizeof(holders));
	for (unsigned i = 0; i < IMAGES; i++)
		for (unsigned b = 0; b < 2 * BLOCKS; b++)
			if (images[i].on_disk[b] != NOWHERE && images[i].file == i)
				holders[images[i].fs][images[i].on_disk[b]]++;
	for (unsigned fs = 0; fs < 2; fs++)
		for (size_t p = 0; p < DISK; p++)
			holders[fs][p] += outsiders[fs][p];
}

static bool is_shared(const struct model *m, uint64_t p)
{
	return holders[m->fs][p] > 1;
}

static void add_ranges(unsigned i)
{
	const struct model *m = &images[i];

	assert_int_equal(rangemap_begin(store.blocks, i, NULL), 0);
	for (unsigned b = 0; b < BLOCKS; b++) {
		struct range r = { b * BLOCK_SIZE, BLOCK_SIZE, m->in_file[b] * BLOCK_SIZE, i, 0 };

		if (m->in_file[b] != NOWHERE && m->contents[b])
			assert_int_equal(rangemap_add(store.blocks, &r, NULL), 0);
	}
	assert_int_equal(rangemap_begin(store.disk, i, NULL), 0);
	for (unsigned b = 0; b < 2 * BLOCKS; b++) {
		struct range r = { b * BLOCK_SIZE, BLOCK_SIZE, m->on_disk[b] * BLOCK_SIZE, 0, 0 };

		if (m->on_disk[b] == NOWHERE)
			continue;
		r.flags = is_shared(m, m->on_disk[b]) ? FIEMAP_EXTENT_SHARED : 0;
		store.files.items[i].shared += r.flags ? BLOCK_SIZE : 0;
		assert_int_equal(rangemap_add(store.disk, &r, NULL), 0);
	}
}

static void add_image(unsigned i)
{
	char path[16];
	struct store_image im = {
		.layer = BLOCKS, .fs = images[i].fs, .first_file = i, .nr_files = 1, .fixed = images[i].fixed, .out = images[i].out,
		.relayout = images[i].relayout, .copy_of = STORE_NO_COPY,
	};
	struct store_file f = {
		.identity = { .dev = 7, .ino = 100 + images[i].file }, .size = 2 * BLOCKS * BLOCK_SIZE, .image = i,
	};

	snprintf(path, sizeof(path), "/%u", i);
	im.id = image_add(path);
	for (unsigned b = 0; b < BLOCKS; b++)
		im.mixed = im.mixed || images[i].in_file[b] == NOWHERE;
	spool_image(im.id, 0, images[i].contents, BLOCKS, NULL);
	assert_int_equal(vec_push(&store.images, im), 0);
	assert_int_equal(vec_push(&store.files, f), 0);
	plan_images[i] = (struct plan_image){ .fs = im.fs, .used = used };
}

static void find(void)
{
	struct moves_options o = { .memory = 4 * MIB, .nr_threads = 2, .min_run = min_run, .sharers = sharers };
	int dirfd = open(tree, O_RDONLY | O_DIRECTORY);
	struct err err = ERR_INIT;

	for (size_t i = 0; i < STORE_OPEN; i++)
		store.open[i].fd = -1;
	plan = (struct plan){ .images = plan_images, .nr_images = IMAGES };
	store.c = catalog;
	store.plan = &plan;
	store.stopper = &never;
	store.blocks = rangemap_new(dirfd, NULL);
	store.disk = rangemap_new(dirfd, NULL);
	close(dirfd);
	for (unsigned fs = 0; fs < 2; fs++)
		assert_int_equal(vec_push(&store.file_systems,
					  (struct store_fs){ .id = { fs }, .block = BLOCK_SIZE, .dedupes = true }), 0);
	count_holders();
	for (unsigned i = 0; i < IMAGES; i++)
		add_image(i);
	for (unsigned i = 0; i < IMAGES; i++)
		add_ranges(i);
	for (unsigned r = 0; r < IMAGES; r++)
		assert_int_equal(vec_push(&store.ranks, order[r]), 0);
	index_merge();
	moves = moves_find(&store, &o, &err);
	if (!moves)
		fail_msg("%s", err.text);
}

/* ---- the definition ---- */

static struct {
	unsigned image;
	uint64_t block; /* NOWHERE = it is its own original, or has none */
	bool is_long;	/* in a run that is long enough */
} originals[IMAGES][BLOCKS];

static bool can_share(const struct model *m, unsigned b)
{
	return m->contents[b] && (m->relayout || m->in_file[b] != NOWHERE);
}

static void find_original(unsigned rank, unsigned b)
{
	const struct model *m = &images[order[rank]];

	originals[order[rank]][b].block = NOWHERE;
	originals[order[rank]][b].is_long = false;
	if (m->out || !can_share(m, b))
		return;
	for (unsigned r = 0; r <= rank; r++) {
		const struct model *o = &images[order[r]];

		for (unsigned k = 0; k < (r == rank ? b : BLOCKS) && !o->out && o->fs == m->fs; k++) {
			if (o->contents[k] == m->contents[b] && can_share(o, k)) {
				originals[order[rank]][b].image = order[r];
				originals[order[rank]][b].block = k;
				return;
			}
		}
	}
}

static bool goes_on(unsigned i, unsigned b)
{
	return originals[i][b].block != NOWHERE && originals[i][b].image == originals[i][b - 1].image &&
	       originals[i][b].block == originals[i][b - 1].block + 1 && originals[i][b - 1].block != NOWHERE;
}

static void define(void)
{
	for (unsigned r = 0; r < IMAGES; r++)
		for (unsigned b = 0; b < BLOCKS; b++)
			find_original(r, b);
	for (unsigned i = 0; i < IMAGES; i++) {
		for (unsigned b = 0, end; b < BLOCKS; b = end) {
			for (end = b + 1; end < BLOCKS && goes_on(i, end);)
				end++;
			for (unsigned k = b; k < end; k++)
				originals[i][k].is_long = originals[i][b].block != NOWHERE && (end - b) * BLOCK_SIZE >= min_run;
		}
	}
}

static uint64_t place_of(unsigned i, uint64_t b)
{
	return images[i].in_file[b] == NOWHERE ? NOWHERE : images[images[i].file].on_disk[images[i].in_file[b]];
}

static bool moves_away(unsigned i, unsigned b)
{
	return originals[i][b].is_long && !images[i].fixed;
}

/* Of parts that were rounded, one for each image. */
static void expect_sum(uint64_t got, uint64_t wanted)
{
	assert_in_range(got + IMAGES, wanted, wanted + 2 * IMAGES);
}

/* What comes back, what is shared already, what somebody else pins: by looking at every block of the disk.  Not for images
 * that are rewritten. */
static void expect_figures(void)
{
	static uint64_t left[2][DISK], moved[2][DISK];
	uint64_t saving = 0, pinned = 0, got_saving = 0, got_pinned = 0;

	memcpy(left, holders, sizeof(left));
	memset(moved, 0, sizeof(moved));
	for (unsigned i = 0; i < IMAGES; i++) {
		uint64_t shared = 0, duplicate = 0, short_runs = 0;

		for (unsigned b = 0; b < BLOCKS; b++) {
			uint64_t p = place_of(i, b);
			bool there = moves_away(i, b) && p == place_of(originals[i][b].image, originals[i][b].block);

			duplicate += originals[i][b].block != NOWHERE;
			short_runs += originals[i][b].block != NOWHERE && !originals[i][b].is_long && !images[i].fixed;
			shared += there;
			if (!moves_away(i, b) || there || p == NOWHERE)
				continue;
			left[images[i].fs][p]--;
			moved[images[i].fs][p]++;
		}
		assert_int_equal(plan_images[i].duplicate, duplicate * BLOCK_SIZE);
		assert_int_equal(plan_images[i].short_runs, short_runs * BLOCK_SIZE);
		assert_int_equal(plan_images[i].shared, shared * BLOCK_SIZE);
		got_saving += plan_images[i].saving;
		got_pinned += plan_images[i].pinned;
	}
	for (unsigned fs = 0; fs < 2; fs++) {
		for (size_t p = 0; p < DISK; p++) {
			saving += moved[fs][p] && !left[fs][p];
			pinned += moved[fs][p] && left[fs][p] == outsiders[fs][p] && left[fs][p];
		}
	}
	expect_sum(got_saving, saving * BLOCK_SIZE);
	expect_sum(got_pinned, pinned * BLOCK_SIZE);
}

/* ---- the moves ---- */

static unsigned run_of(unsigned i, unsigned b)
{
	while (b > 0 && goes_on(i, b))
		b--;
	return b;
}

/* Whether the block lies in a run that is like the one right before it. */
static bool repeats(unsigned i, unsigned b)
{
	unsigned begin = run_of(i, b), before;

	if (originals[i][b].block == NOWHERE || begin == 0)
		return false;
	before = run_of(i, begin - 1);
	return originals[i][before].block == originals[i][begin].block && originals[i][before].image == originals[i][begin].image;
}

static void expect_move(unsigned i, const struct move *v, uint8_t *done)
{
	uint64_t begin = v->address / BLOCK_SIZE, from = v->from / BLOCK_SIZE, nr = v->len / BLOCK_SIZE, last = 0, known = 0;
	uint64_t gap_from = 0;
	bool in_gap[BLOCKS] = { false };

	for (uint64_t n = 0; n < v->nr_gaps; n++) {
		struct move_gap gap;

		assert_int_equal(moves_gap(moves, v, n, &gap, NULL), 0);
		assert_true(gap.len && gap.at + gap.len < v->len);
		for (uint64_t k = gap.at / BLOCK_SIZE; k < (gap.at + gap.len) / BLOCK_SIZE; k++)
			in_gap[k] = true;
	}
	assert_int_equal(v->image, i);
	assert_int_equal((v->address | v->from | v->len) % BLOCK_SIZE, 0);
	assert_true(v->len && begin + nr <= BLOCKS && from + nr <= BLOCKS);
	assert_false(images[i].fixed || images[i].out || images[v->origin].out || images[v->origin].fs != images[i].fs);
	for (uint64_t k = 0; k < nr; k++) {
		bool is = originals[i][begin + k].block == from + k && originals[i][begin + k].image == v->origin;

		known += is;
		assert_int_equal(in_gap[k], !is);
		if (is) {
			assert_in_range(k - gap_from, 0, GAP + 1); /* gaps are short */
			last = gap_from = k;
			done[begin + k] |= originals[i][begin + k].is_long;
		}
		if (k - gap_from <= GAP + 1 && repeats(i, (unsigned)(begin + k)))
			gap_from = k;
		if (originals[i][begin + k].is_long) /* which share with their originals and nothing else */
			assert_true(is);
	}
	assert_int_equal(last, nr - 1); /* no gap at the end, none at the beginning */
	assert_int_equal(originals[i][begin].block, from);
	assert_int_equal(v->has_gaps, known < nr);
}

static void expect_moves(void)
{
	for (unsigned i = 0; i < IMAGES; i++) {
		uint8_t done[BLOCKS] = { 0 };
		uint64_t bytes, sum = 0, nr = moves_count(moves, i, &bytes);

		for (uint64_t n = 0; n < nr; n++) {
			struct move v;

			assert_int_equal(moves_get(moves, i, n, &v, NULL), 0);
			expect_move(i, &v, done);
			sum += v.len;
		}
		assert_int_equal(sum, bytes);
		for (unsigned b = 0; b < BLOCKS; b++)
			assert_int_equal(done[b], moves_away(i, b));
	}
}

static void expect_all(void)
{
	define();
	expect_moves();
	expect_figures();
}

/* ---- random stores ---- */

static void random_images(void)
{
	uint64_t *before[IMAGES];

	for (unsigned i = 0; i < IMAGES; i++) {
		unsigned k = (unsigned)random_below(i + 1);

		random_contents(before, i, images[i].contents, BLOCKS);
		before[i] = images[i].contents;
		order[i] = order[k];
		order[k] = i;
	}
}

/* Clusters of a few blocks lie in any order in the file. */
static void random_layout(struct model *m)
{
	uint64_t cluster = 1 + random_below(20), nr = BLOCKS / cluster, at[BLOCKS];

	for (uint64_t i = 0; i < nr; i++) {
		uint64_t k = random_below(i + 1);

		at[i] = at[k];
		at[k] = i;
	}
	for (uint64_t b = 0; b < BLOCKS; b++)
		m->in_file[b] =
			b < nr * cluster ? at[b / cluster] * cluster + b % cluster + BLOCKS / 2 : BLOCKS / 3 + b - nr * cluster;
}

/* Blocks of one content lie at one place of the disk, or not. */
static void random_disk(void)
{
	uint64_t next[2] = { 100, 100 };

	for (unsigned i = 0; i < IMAGES; i++) {
		struct model *m = &images[i];

		for (unsigned b = 0; b < 2 * BLOCKS; b++)
			m->on_disk[b] = random_below(3) ? next[m->fs]++ : NOWHERE; /* tables, or nothing */
		for (unsigned b = 0; b < BLOCKS; b++) {
			unsigned k = (unsigned)random_below(i + 1), other = (unsigned)random_below(BLOCKS);
			const struct model *o = &images[k];

			if (m->in_file[b] == NOWHERE || !m->contents[b])
				continue;
			m->on_disk[m->in_file[b]] = next[m->fs]++;
			if (random_below(2))
				other = b;
			if ((k < i || other < b) && o->fs == m->fs && o->contents[other] == m->contents[b] &&
			    o->in_file[other] != NOWHERE)
				m->on_disk[m->in_file[b]] = place_of(k, other);
		}
	}
	count_holders();
	for (unsigned fs = 0; fs < 2; fs++) {
		assert_true(next[fs] < DISK);
		for (uint64_t p = 100; p < next[fs]; p++) /* FIEMAP cannot tell of more */
			outsiders[fs][p] = holders[fs][p] == 1 && random_below(10) == 0;
	}
}

static void finds_what_the_definition_says(void **state)
{
	(void)state;
	random_state = 1;
	random_images();
	random_disk();
	find();
	expect_all();
}

static void as_many_times_as_there_is_time(void **state)
{
	uint64_t rounds = getenv("LONG") ? 2000 : 25;

	for (uint64_t round = 0; round < rounds; round++) {
		if (round)
			assert_int_equal(catalog_remove(state) || make(state), 0);
		random_state = 1000 + round;
		random_images();
		min_run = (1 + random_below(6)) * BLOCK_SIZE;
		for (unsigned i = 0; i < IMAGES; i++) {
			if (random_below(2))
				random_layout(&images[i]);
			images[i].fixed = random_below(6) == 0;
			images[i].out = random_below(12) == 0;
			images[i].fs = random_below(4) == 0;
			for (unsigned b = 0; b < BLOCKS && random_below(4) == 0; b += (unsigned)random_below(40))
				images[i].in_file[b] = NOWHERE;
		}
		random_disk();
		find();
		expect_all();
		forget();
	}
}

/* ---- one thing at a time ---- */

static void fill(unsigned i, unsigned from, unsigned nr, uint64_t content)
{
	for (unsigned b = 0; b < nr; b++)
		images[i].contents[from + b] = content + b;
}

/* Every image by itself on its disk, images without contents nowhere. */
static void plain_disk(void)
{
	for (unsigned i = 0; i < IMAGES; i++)
		for (unsigned b = 0; b < 2 * BLOCKS; b++)
			images[i].on_disk[b] = b < BLOCKS && images[i].contents[b] ? i * 1000 + b : NOWHERE;
}

static void expect_one(unsigned image, struct move wanted)
{
	struct move v;
	uint64_t bytes;

	assert_int_equal(moves_count(moves, image, &bytes), 1);
	assert_int_equal(moves_get(moves, image, 0, &v, NULL), 0);
	assert_int_equal(v.address, wanted.address * BLOCK_SIZE);
	assert_int_equal(v.from, wanted.from * BLOCK_SIZE);
	assert_int_equal(v.len, wanted.len * BLOCK_SIZE);
	assert_int_equal(v.origin, wanted.origin);
	assert_int_equal(v.has_gaps, wanted.has_gaps);
}

static void a_gap_of_64_KiB_is_gone_over(void **state)
{
	(void)state;
	fill(0, 0, 100, 1000);
	fill(1, 10, 10, 1000);
	fill(1, 20 + GAP, 10, 1010 + GAP);
	plain_disk();
	find();
	expect_one(1, (struct move){ .address = 10, .from = 0, .len = 20 + GAP, .has_gaps = 1 });
	assert_int_equal(plan_images[1].saving, 20 * BLOCK_SIZE);
}

static void a_longer_gap_is_not(void **state)
{
	uint64_t bytes;

	(void)state;
	fill(0, 0, 100, 1000);
	fill(1, 10, 10, 1000);
	fill(1, 21 + GAP, 10, 1011 + GAP);
	plain_disk();
	find();
	assert_int_equal(moves_count(moves, 1, &bytes), 2);
	assert_int_equal(bytes, 20 * BLOCK_SIZE);
}

static void runs_that_are_too_short_are_left(void **state)
{
	uint64_t bytes;

	(void)state;
	fill(0, 0, 100, 1000);
	fill(1, 10, 3, 1010);
	fill(2, 200, 4, 1010);
	plain_disk();
	find();
	assert_int_equal(moves_count(moves, 1, &bytes), 0);
	assert_int_equal(plan_images[1].saving, 0);
	assert_int_equal(plan_images[1].short_runs, 3 * BLOCK_SIZE);
	expect_one(2, (struct move){ .address = 200, .from = 10, .len = 4 });
}

static void short_runs_make_a_move_when_most_of_it_is_known(void **state)
{
	(void)state;
	fill(0, 0, 100, 1000);
	fill(1, 10, 3, 1010);
	fill(1, 14, 3, 1014);
	plain_disk();
	find();
	expect_one(1, (struct move){ .address = 10, .from = 10, .len = 7, .has_gaps = 1 });
	assert_int_equal(plan_images[1].saving, 0); /* promised is only what is sure */
}

/* Two originals, block by block in turn: both chains are open all the time. */
static void several_chains_are_open_at_once(void **state)
{
	uint64_t bytes;

	(void)state;
	for (unsigned k = 0; k < 8; k++)
		fill(k % 2, 0, 200, 1000 + 10000 * (k % 2));
	for (unsigned b = 0; b < 60; b++)
		images[2].contents[b] = b % 6 < 3 ? 1000 + b : 11000 + b;
	plain_disk();
	find();
	assert_int_equal(moves_count(moves, 2, &bytes), 2);
	assert_int_equal(bytes, (57 + 57) * BLOCK_SIZE);
}

static void a_gap_does_not_go_over_a_long_run(void **state)
{
	uint64_t bytes;
	struct move v;

	(void)state;
	fill(0, 0, 100, 1000);
	fill(1, 0, 100, 5000);
	fill(2, 0, 40, 1000);
	fill(2, 10, 8, 5060);
	plain_disk();
	find();
	assert_int_equal(moves_count(moves, 2, &bytes), 3);
	assert_int_equal(bytes, 40 * BLOCK_SIZE);
	for (unsigned n = 0; n < 3; n++) {
		assert_int_equal(moves_get(moves, 2, n, &v, NULL), 0);
		assert_false(v.has_gaps);
	}
}

/* As databases and file systems fill what they have not used yet: runs of one block that all have one original. */
static void what_is_filled_with_one_block_is_no_gap(void **state)
{
	(void)state;
	fill(0, 0, 200, 1000);
	for (unsigned b = 20; b < 150; b++)
		images[0].contents[b] = 77;
	memcpy(images[1].contents, images[0].contents, sizeof(images[1].contents));
	plain_disk();
	find();
	expect_one(1, (struct move){ .address = 0, .from = 0, .len = 200, .has_gaps = 1 });
	assert_int_equal(plan_images[1].saving, (21 + 50) * BLOCK_SIZE); /* nothing is known of the rest, it is compared */
}

static void an_image_may_share_with_itself(void **state)
{
	(void)state;
	fill(3, 0, 10, 1000);
	fill(3, 300, 10, 1000);
	plain_disk();
	find();
	expect_one(3, (struct move){ .address = 300, .from = 0, .len = 10, .origin = 3 });
	assert_int_equal(plan_images[3].saving, 10 * BLOCK_SIZE);
}

static void fixed_images_are_shared_with_only(void **state)
{
	uint64_t bytes;

	(void)state;
	fill(0, 0, 10, 1000);
	fill(1, 0, 10, 1000);
	fill(2, 0, 10, 1000);
	images[1].fixed = true;
	images[2].out = true;
	plain_disk();
	find();
	for (unsigned i = 0; i < 3; i++)
		assert_int_equal(moves_count(moves, i, &bytes), 0);
	assert_int_equal(plan_images[1].duplicate, 10 * BLOCK_SIZE);
	assert_int_equal(plan_images[2].duplicate, 0);
}

/* Where sharing a part of an extent frees nothing, extents count that are duplicates as a whole. */
static void whole_extents_are_counted(void **state)
{
	(void)state;
	fill(0, 0, 40, 1000);
	fill(1, 0, 30, 1000);
	plain_disk();
	for (unsigned b = 0; b < 40; b++) /* extents of 8 blocks; of the fourth 6 are duplicates */
		images[1].on_disk[b] = 10000 + b + b / 8;
	find();
	assert_int_equal(plan_images[1].saving, 30 * BLOCK_SIZE);
	assert_int_equal(store.images.items[1].whole, 24 * BLOCK_SIZE);
	assert_int_equal(store.images.items[0].whole, 0);
}

/* What is at one place of two disks has nothing to do with each other. */
static void every_file_system_has_originals_of_its_own(void **state)
{
	(void)state;
	for (unsigned i = 0; i < 6; i++) {
		fill(i, 0, 10, 1000);
		images[i].fs = i >= 3;
	}
	plain_disk();
	for (unsigned b = 0; b < 10; b++) { /* 1 and 2 have the same blocks; 4 lies at the same place of its own disk */
		images[2].on_disk[b] = images[1].on_disk[b];
		images[4].on_disk[b] = images[1].on_disk[b];
		outsiders[1][images[4].on_disk[b]] = 1;
	}
	find();
	expect_all();
	assert_int_equal(plan_images[1].saving + plan_images[2].saving, 10 * BLOCK_SIZE);
	assert_int_equal(plan_images[4].saving, 0);
	assert_int_equal(plan_images[4].pinned, 10 * BLOCK_SIZE);
	assert_int_equal(plan_images[5].saving, 10 * BLOCK_SIZE);
	expect_one(5, (struct move){ .address = 0, .from = 0, .len = 10, .origin = 3 });
}

/* A copy that could not be read as an image holds blocks all the same. */
static void images_that_take_no_part_pin_what_they_hold(void **state)
{
	(void)state;
	for (unsigned i = 0; i < 4; i++)
		fill(i, 0, 10, 1000);
	images[3].out = true;
	plain_disk();
	for (unsigned b = 0; b < 10; b++)
		images[2].on_disk[b] = images[3].on_disk[b] = images[1].on_disk[b];
	find();
	assert_int_equal(plan_images[1].saving + plan_images[2].saving, 0);
}

/* Whose tables tell of the same block many times over. */
static void nobody_saves_more_than_he_has(void **state)
{
	(void)state;
	fill(0, 0, 100, 1000);
	fill(1, 0, 100, 1000);
	plain_disk();
	used = 10 * BLOCK_SIZE;
	find();
	assert_int_equal(plan_images[1].saving, 10 * BLOCK_SIZE);
}

/* Three that share one place and move away from it: each has a third of it. */
static void what_many_free_together_is_everybodys(void **state)
{
	(void)state;
	for (unsigned i = 0; i < 4; i++)
		fill(i, 0, 12, 1000);
	plain_disk();
	for (unsigned b = 0; b < 12; b++)
		images[1].on_disk[b] = images[2].on_disk[b] = b < 6 ? images[3].on_disk[b] : 5000 + b;
	find();
	for (unsigned b = 0; b < 12; b++) /* of the second half two have a half each, the third has its own */
		assert_int_equal(holders[0][images[1].on_disk[b]], b < 6 ? 3 : 2);
	assert_int_equal(plan_images[1].saving, (2 + 3) * BLOCK_SIZE);
	assert_int_equal(plan_images[2].saving, (2 + 3) * BLOCK_SIZE);
	assert_int_equal(plan_images[3].saving, (2 + 6) * BLOCK_SIZE);
}

static void a_file_that_two_images_name_is_freed_once(void **state)
{
	(void)state;
	for (unsigned i = 0; i < 3; i++)
		fill(i, 0, 10, 1000);
	images[2].file = 1;
	plain_disk();
	memcpy(images[2].on_disk, images[1].on_disk, sizeof(images[2].on_disk));
	find();
	assert_int_equal(plan_images[1].saving + plan_images[2].saving, 10 * BLOCK_SIZE);
}

/* Copies that are to be written anew held one block together and will hold one block together: nothing is won. */
static void who_is_rewritten_gives_up_what_it_shares(void **state)
{
	(void)state;
	for (unsigned i = 0; i < 3; i++) {
		fill(i, 0, 20, 1000);
		images[i].relayout = true;
	}
	plain_disk();
	for (unsigned b = 0; b < 10; b++) /* the first halves are shared */
		images[1].on_disk[b] = images[0].on_disk[b];
	find();
	expect_sum(plan_images[0].saving + plan_images[1].saving + plan_images[2].saving, 30 * BLOCK_SIZE);
}

static void what_is_rewritten_and_pinned_saves_nothing(void **state)
{
	(void)state;
	for (unsigned i = 0; i < 2; i++) {
		fill(i, 0, 20, 1000);
		images[i].relayout = true;
		for (unsigned b = 0; b < 20; b++)
			outsiders[0][i * 1000 + b] = 1;
	}
	plain_disk();
	find();
	assert_int_equal(plan_images[0].saving + plan_images[1].saving, 0);
}

/* ---- pieces ---- */

static struct piece pieces[64];
static unsigned nr_pieces;

static int note_piece(void *ctx, const struct piece *p, struct err *err)
{
	(void)ctx;
	(void)err;
	pieces[nr_pieces++] = *p;
	return 0;
}

static void a_move_is_made_of_what_is_contiguous_in_both_files(void **state)
{
	struct move v;

	(void)state;
	nr_pieces = 0;
	fill(0, 0, 20, 1000);
	fill(1, 0, 20, 1000);
	for (unsigned b = 0; b < 20; b++) {
		images[0].in_file[b] = b < 12 ? b : b + 100; /* broken at 12 */
		images[1].in_file[b] = b < 5 ? b + 50 : b + 55; /* broken at 5 */
	}
	images[1].in_file[8] = NOWHERE;
	plain_disk();
	find();
	assert_int_equal(moves_get(moves, 1, 0, &v, NULL), 0);
	assert_int_equal(move_each_piece(&store, &v, note_piece, NULL, NULL), 0);
	assert_int_equal(nr_pieces, 4);
	for (unsigned i = 0, b = 0; i < 4; i++) {
		static const unsigned lens[] = { 5, 3, 3, 8 };

		b += i == 2; /* what cannot be shared */
		assert_int_equal(pieces[i].offset, images[1].in_file[b] * BLOCK_SIZE);
		assert_int_equal(pieces[i].from, images[0].in_file[b] * BLOCK_SIZE);
		assert_int_equal(pieces[i].len, lens[i] * BLOCK_SIZE);
		assert_int_equal(pieces[i].file, 1);
		assert_int_equal(pieces[i].from_file, 0);
		b += lens[i];
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		moves_test(finds_what_the_definition_says),
		moves_test(as_many_times_as_there_is_time),
		moves_test(a_gap_of_64_KiB_is_gone_over),
		moves_test(a_longer_gap_is_not),
		moves_test(runs_that_are_too_short_are_left),
		moves_test(short_runs_make_a_move_when_most_of_it_is_known),
		moves_test(several_chains_are_open_at_once),
		moves_test(a_gap_does_not_go_over_a_long_run),
		moves_test(what_is_filled_with_one_block_is_no_gap),
		moves_test(an_image_may_share_with_itself),
		moves_test(fixed_images_are_shared_with_only),
		moves_test(whole_extents_are_counted),
		moves_test(every_file_system_has_originals_of_its_own),
		moves_test(images_that_take_no_part_pin_what_they_hold),
		moves_test(nobody_saves_more_than_he_has),
		moves_test(what_many_free_together_is_everybodys),
		moves_test(a_file_that_two_images_name_is_freed_once),
		moves_test(who_is_rewritten_gives_up_what_it_shares),
		moves_test(what_is_rewritten_and_pinned_saves_nothing),
		moves_test(a_move_is_made_of_what_is_contiguous_in_both_files),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
