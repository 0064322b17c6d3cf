/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/tree_help.h"

#include <errno.h>

#include "compactor/pool/clusters.h"
#include "compactor/pool/import.h"
#include "compactor/pool/tree.h"
#include "scanner/base/checked.h"
#include "scanner/base/file.h"
#include "scanner/chunk/fingerprint.h"
#include "tests/unit/image_help.h"

/* Disks as arrays of blocks; a block's content is told by a number, 0 is zeros.  Whatever is imported is read back and compared,
 * and its root held against that of the scanner. */

#define SEGMENTS 4
#define BLOCKS (SEGMENTS * SEGMENT_BLOCKS)
#define SIZE ((uint64_t)BLOCKS * BLOCK_SIZE)

static struct pool *pool;
static struct err err;
static struct import_stats stats;
static uint8_t *bytes; /* room for a disk, and a segment */
static uint64_t disk[BLOCKS];
static unsigned unit_bits;
static uint64_t min_run;
static bool may_be_damaged; /* the pool */

static void open_pool(void)
{
	int dirfd = open(tree, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	err = ERR_INIT;
	if (pool_open(dirfd, "pool", in_tree("pool"), true, &pool, &err) < 0)
		fail_msg("%s", err.text);
	assert_non_null(pool);
	close(dirfd);
}

static int make(void **state)
{
	int dirfd;

	if (tree_make(state) < 0)
		return -1;
	dirfd = open(tree, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (pool_create(dirfd, "pool", &err) < 0)
		return -1;
	close(dirfd);
	open_pool();
	bytes = malloc(SIZE + SEGMENT_SIZE);
	memset(disk, 0, sizeof(disk));
	unit_bits = 12;
	min_run = 16 * KIB;
	may_be_damaged = false;
	return bytes ? 0 : -1;
}

static int unmake(void **state)
{
	file_ops = &file_ops_os;
	pool_close(pool);
	pool = NULL;
	free(bytes);
	return tree_remove(state);
}

#define import_test(f) cmocka_unit_test_setup_teardown(f, make, unmake)

/* ---- disks ---- */

static void fill_block(uint8_t *p, uint64_t number)
{
	uint64_t state = number * 0x9e3779b97f4a7c15;

	for (size_t i = 0; i < BLOCK_SIZE; i += 8) {
		state = state * 6364136223846793005u + 1442695040888963407u;
		le64_store(p + i, number ? state : 0);
	}
}

static void render(uint64_t size)
{
	for (size_t i = 0; i < BLOCKS; i++)
		fill_block(bytes + i * BLOCK_SIZE, disk[i]);
	memset(bytes + size, 0, SIZE + SEGMENT_SIZE - size);
}

/* nr blocks from `at` on with the contents `first`, first + 1, ... */
static void put(size_t at, size_t nr, uint64_t first)
{
	for (size_t i = 0; i < nr; i++)
		disk[at + i] = first + i;
}

static bool is_zero(const uint8_t *p, size_t len)
{
	return !p[0] && memcmp(p, p + 1, len - 1) == 0;
}

static void root_of(uint64_t size, uint8_t ret[DIGEST_SIZE])
{
	static struct digest_tree t;
	uint8_t digest[DIGEST_SIZE];

	digest_tree_begin(&t, size);
	for (uint64_t s = 0; s < div_up(size, SEGMENT_SIZE); s++) {
		if (is_zero(bytes + s * SEGMENT_SIZE, SEGMENT_SIZE))
			continue;
		digest_bytes(bytes + s * SEGMENT_SIZE, SEGMENT_SIZE, digest);
		digest_tree_add(&t, s, digest);
	}
	digest_tree_end(&t, ret);
}

static void expect_disk(const uint8_t root[DIGEST_SIZE], uint64_t size)
{
	CLEANUP(tree_walk_free) struct tree_walk *w = tree_walk_new(pool->nodes, root, size, &err);
	CLEANUP(free) uint8_t *p = malloc(SEGMENT_SIZE);
	uint8_t digest[DIGEST_SIZE];

	for (uint64_t s = 0, at = 0; s < div_up(size, SEGMENT_SIZE); s++) {
		int rc = tree_walk_next(w, s, &at, digest, &err);

		if (rc == 0 || at > s)
			memset(digest, 0, sizeof(digest));
		if (rc < 0 || tree_read_segment(pool->nodes, pool->clusters, digest, p, &err) < 0)
			fail_msg("segment %d: %s", (int)s, err.text);
		assert_memory_equal(p, bytes + s * SEGMENT_SIZE, SEGMENT_SIZE);
	}
}

static struct import *begin(uint64_t size, const uint8_t *base, uint64_t base_size)
{
	const struct import_options o = { .unit_bits = unit_bits, .min_run = min_run };
	struct import *i = import_new(pool, size, &o, base, base_size, &err);

	assert_non_null(i);
	return i;
}

static void end(struct import *i, uint64_t size, uint8_t ret[DIGEST_SIZE])
{
	uint8_t wanted[DIGEST_SIZE];

	if (import_end(i, ret, &stats, &err) < 0)
		fail_msg("%s", err.text);
	import_free(i);
	root_of(size, wanted);
	assert_memory_equal(ret, wanted, DIGEST_SIZE);
	assert_int_equal(stats.zeros + stats.shared_segments + stats.shared_runs + stats.stored, stats.bytes);
}

static int give(struct import *i, uint64_t size)
{
	for (uint64_t s = 0; s < div_up(size, SEGMENT_SIZE); s++)
		if (import_segment(i, s, bytes + s * SEGMENT_SIZE, &err) < 0)
			return -1;
	return 0;
}

static void import_root(uint64_t size, uint8_t root[DIGEST_SIZE])
{
	struct import *i = begin(size, NULL, 0);
	uint64_t before = clusters_end(pool->clusters);

	render(size);
	if (give(i, size) < 0)
		fail_msg("%s", err.text);
	end(i, size, root);
	assert_true(stats.damaged == 0 || may_be_damaged);
	assert_true(clusters_end(pool->clusters) - before >= stats.stored);
	assert_true(clusters_end(pool->clusters) - before < stats.stored + 2 * ((uint64_t)1 << unit_bits));
	expect_disk(root, size);
}

static void import_disk(void)
{
	uint8_t root[DIGEST_SIZE];

	import_root(SIZE, root);
}

static uint64_t blocks(uint64_t len)
{
	return len / BLOCK_SIZE;
}

/* ---- what is stored ---- */

static void zeros_cost_nothing(void **state)
{
	static const uint8_t null[DIGEST_SIZE];
	uint8_t root[DIGEST_SIZE];

	(void)state;
	import_root(SIZE, root);
	assert_int_equal(stats.stored, 0);
	assert_int_equal(stats.zeros, SIZE);
	assert_memory_equal(root, null, DIGEST_SIZE);
	disk[700] = 1;
	import_disk();
	assert_int_equal(stats.stored, BLOCK_SIZE);
}

static void new_data_is_stored_once_and_lies_in_order(void **state)
{
	uint8_t digest[DIGEST_SIZE];
	struct leaf l;

	(void)state;
	put(0, BLOCKS, 1);
	memset(disk + 10, 0, 5 * sizeof(*disk));
	import_disk();
	assert_int_equal(blocks(stats.stored), BLOCKS - 5);
	digest_bytes(bytes, SEGMENT_SIZE, digest);
	assert_int_equal(nodes_get_leaf(pool->nodes, digest, 12, &l, &err), 0);
	assert_int_equal(l.nr_runs, 2);
	assert_int_equal(l.runs[0].first << 16 | l.runs[0].nr, 10);
	assert_int_equal(l.runs[1].first << 16 | l.runs[1].nr, 15 << 16 | (SEGMENT_BLOCKS - 15));
	assert_int_equal(l.runs[1].place, l.runs[0].place + 10);
	import_disk();
	assert_int_equal(stats.stored, 0);
	assert_int_equal(blocks(stats.shared_segments), BLOCKS - 5);
}

static void another_process_finds_it(void **state)
{
	(void)state;
	put(0, BLOCKS, 1);
	import_disk();
	assert_int_equal(pool_sync(pool, &err), 0);
	pool_close(pool);
	open_pool();
	disk[600] = 5000;
	import_disk();
	assert_int_equal(blocks(stats.stored), 1);
	assert_int_equal(blocks(stats.shared_segments), BLOCKS - SEGMENT_BLOCKS);
}

static void one_changed_block_costs_one(void **state)
{
	static const size_t at[] = { 0, 1, 3, 4, 511, 512, 515, 1023, 1024, BLOCKS - 1, 777, 770 };

	(void)state;
	put(0, BLOCKS, 1);
	import_disk();
	for (size_t i = 0; i < ARRAY_SIZE(at); i++) {
		disk[at[i]] = 100000 + i;
		import_disk();
		disk[at[i]] = at[i] + 1;
		/* what is left of the segment may be shorter than a run, and goes with it */
		assert_in_range(blocks(stats.stored), 1, at[i] % SEGMENT_BLOCKS < SEGMENT_BLOCKS - 4 && at[i] > 3 ? 1 : 4);
	}
}

/* Independent installs: the same files at other places. */
static void shifted_data_is_found(void **state)
{
	(void)state;
	put(0, BLOCKS, 1);
	import_disk();
	for (size_t shift = 1; shift < 40; shift += 6) {
		memset(disk, 0, sizeof(disk));
		put(0, shift, 100000 * shift);
		put(shift, BLOCKS - shift, 1);
		import_disk();
		assert_int_equal(blocks(stats.stored), shift);
	}
	memset(disk, 0, sizeof(disk));
	put(0, BLOCKS - 100, 101); /* the other way */
	import_disk();
	assert_int_equal(stats.stored, 0);
}

static void zeros_in_between_do_not_end_a_run(void **state)
{
	(void)state;
	put(0, 100, 1);
	import_disk();
	memset(disk, 0, sizeof(disk));
	for (size_t i = 0; i < 100; i++)
		disk[200 + 7 * i] = i + 1;
	import_disk();
	assert_int_equal(stats.stored, 0);
	assert_int_equal(blocks(stats.shared_runs), 100);
}

/* Runs of each length at each place. */
static void runs_shorter_than_the_least_are_stored_again(void **state)
{
	(void)state;
	put(0, BLOCKS, 1);
	import_disk();
	for (unsigned k = 1; k <= 5; k++) {
		min_run = k * BLOCK_SIZE;
		for (unsigned nr = 1; nr <= 7; nr++) {
			for (unsigned at = 20; at < 26; at++) {
				memset(disk, 0, sizeof(disk));
				put(0, 100, 1000000 * (100 * k + 10 * nr + at));
				put(at, nr, 300);
				import_disk();
				assert_int_equal(blocks(stats.stored), nr < k ? 100 : 100 - nr);
				if (nr < k)
					assert_in_range(blocks(stats.short_matches), 0, nr);
				else
					assert_int_equal(stats.short_matches, 0);
			}
		}
	}
	min_run = 100 * MIB;
	put(0, 100, 1);
	put(1, 99, 2);
	disk[99] = 77777777;
	import_disk();
	assert_int_equal(blocks(stats.stored), 100);
}

/* But one that goes on where the segment before ended is none of its own. */
static void short_runs_at_the_beginning_of_a_segment(void **state)
{
	(void)state;
	put(0, BLOCKS, 1);
	import_disk();
	put(SEGMENT_BLOCKS + 2, SEGMENT_BLOCKS - 2, 100000);
	import_disk();
	assert_int_equal(blocks(stats.stored), SEGMENT_BLOCKS - 2);
	put(SEGMENT_BLOCKS - 2, 2, 200000);
	put(SEGMENT_BLOCKS + 2, SEGMENT_BLOCKS - 2, 300000);
	import_disk();
	assert_int_equal(blocks(stats.stored), 2 + SEGMENT_BLOCKS);
}

static void data_that_repeats_within_a_disk_is_stored_once(void **state)
{
	(void)state;
	for (size_t i = 0; i < BLOCKS; i += 64)
		put(i, 64, 1);
	import_disk();
	assert_int_equal(blocks(stats.stored), 64);
	for (size_t i = 0; i < BLOCKS; i++)
		disk[i] = 4711;
	import_disk();
	assert_in_range(blocks(stats.stored), 1, 64);
}

/* The finder knows one place of a block: where that is not the one that goes on, another block leads to it. */
static void the_right_one_of_several_places_is_found(void **state)
{
	(void)state;
	for (size_t i = 0; i < 100; i++)
		disk[i * 5 + 1] = disk[i * 5 + 2] = disk[i * 5] = disk[i * 5 + 3] = 9, disk[i * 5 + 4] = 2000 + i;
	import_disk();
	memset(disk, 0, sizeof(disk));
	for (size_t i = 0; i < 60; i++)
		disk[i] = i % 3 ? 3000 + i : 9;
	import_disk();
	for (size_t i = 0; i < 60; i++)
		disk[512 + i] = disk[i];
	put(0, 60, 50000);
	import_disk();
	assert_int_equal(blocks(stats.stored), 60);
}

/* ---- two at once ---- */

/* Nothing of what a segment is given in is left when the call has returned. */
static void import_passing(uint64_t nr)
{
	CLEANUP(free) uint8_t *p = malloc(SEGMENT_SIZE);
	struct import *i = begin(nr * SEGMENT_SIZE, NULL, 0);
	uint8_t root[DIGEST_SIZE];

	render(nr * SEGMENT_SIZE);
	for (uint64_t s = 0; s < nr; s++) {
		memcpy(p, bytes + s * SEGMENT_SIZE, SEGMENT_SIZE);
		if (import_segment(i, s, p, &err) < 0)
			fail_msg("%s", err.text);
		memset(p, 0xaa, SEGMENT_SIZE);
	}
	end(i, nr * SEGMENT_SIZE, root);
	expect_disk(root, nr * SEGMENT_SIZE);
}

/* A segment that is new waits for another one; what comes may be zeros, new, in the pool as a whole, or the same once more. */
static void whatever_comes_behind_a_new_segment_it_is_not_lost(void **state)
{
	const uint64_t nr = 3;
	uint64_t next = 1000;

	(void)state;
	put(0, SEGMENT_BLOCKS, 1);
	import_disk();
	for (unsigned pattern = 0; pattern < 64; pattern++) {
		uint64_t fresh = 0;

		for (uint64_t s = 0; s < nr; s++) {
			unsigned kind = pattern >> 2 * s & 3;
			size_t at = s * SEGMENT_BLOCKS;

			if (kind == 3 && s)
				memcpy(disk + at, disk + at - SEGMENT_BLOCKS, SEGMENT_BLOCKS * sizeof(*disk));
			else if (kind == 0)
				memset(disk + at, 0, SEGMENT_BLOCKS * sizeof(*disk));
			else
				put(at, SEGMENT_BLOCKS, kind == 2 ? 1 : (fresh++, next += SEGMENT_BLOCKS));
		}
		import_passing(nr);
		assert_int_equal(blocks(stats.stored), fresh * SEGMENT_BLOCKS);
	}
}

static void what_waits_comes_before_segments_of_the_base(void **state)
{
	uint8_t root[DIGEST_SIZE], again[DIGEST_SIZE];
	struct import *i;

	(void)state;
	put(0, BLOCKS, 1);
	import_root(SIZE, root);
	i = begin(SIZE, root, SIZE);
	disk[5] = disk[2 * SEGMENT_BLOCKS + 5] = 4711;
	render(SIZE);
	for (uint64_t s = 0; s < SEGMENTS; s += 2) {
		assert_int_equal(import_segment(i, s, bytes + s * SEGMENT_SIZE, &err), 0);
		assert_int_equal(import_same(i, s + 2, &err), 0);
	}
	end(i, SIZE, again);
	expect_disk(again, SIZE);
}

/* ---- units ---- */

static void larger_units_are_shared_at_their_places(void **state)
{
	(void)state;
	for (unit_bits = 14; unit_bits <= 16; unit_bits += 2) {
		uint64_t unit = (uint64_t)1 << (unit_bits - 12), own = 1000000 * unit_bits;

		memset(disk, 0, sizeof(disk));
		put(0, BLOCKS, own);
		import_disk();
		assert_int_equal(blocks(stats.stored), BLOCKS);
		import_disk();
		assert_int_equal(stats.stored, 0);
		disk[1000] = own - 1;
		import_disk();
		assert_int_equal(blocks(stats.stored), unit);
		put(0, unit, own + 100000);
		put(unit, BLOCKS - unit, own);
		import_disk();
		assert_int_equal(blocks(stats.stored), unit);
	}
}

static void larger_units_do_for_smaller_ones_but_not_the_other_way(void **state)
{
	uint8_t root[DIGEST_SIZE], digest[DIGEST_SIZE];
	struct leaf l;

	(void)state;
	unit_bits = 16;
	put(0, BLOCKS, 1);
	import_root(SIZE, root);
	unit_bits = 12;
	import_root(SIZE, root);
	assert_int_equal(stats.stored, 0);
	put(0, BLOCKS, 100000);
	import_root(SIZE, root);
	unit_bits = 16;
	import_root(SIZE, root);
	digest_bytes(bytes, SEGMENT_SIZE, digest);
	assert_int_equal(nodes_get_leaf(pool->nodes, digest, 16, &l, &err), 0);
	assert_int_equal(l.unit_bits, 16);
}

static void the_last_segment_may_be_a_part(void **state)
{
	static const uint64_t sizes[] = { 512, 4096, 5000, SEGMENT_SIZE - 512, SEGMENT_SIZE, SEGMENT_SIZE + 512, SIZE - 1536 };
	uint8_t root[DIGEST_SIZE];

	(void)state;
	put(0, BLOCKS, 1);
	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++)
		import_root(sizes[i], root);
}

/* ---- bases ---- */

static void segments_of_the_base_are_taken_unread(void **state)
{
	uint8_t root[DIGEST_SIZE], again[DIGEST_SIZE];
	struct import *i;

	(void)state;
	put(0, 3 * SEGMENT_BLOCKS, 1);
	memset(disk + SEGMENT_BLOCKS, 0, SEGMENT_BLOCKS * sizeof(*disk));
	import_root(3 * SEGMENT_SIZE, root);
	i = begin(SIZE, root, 3 * SEGMENT_SIZE); /* a longer one */
	disk[2 * SEGMENT_BLOCKS + 5] = 4711;
	render(SIZE);
	assert_int_equal(import_same(i, 2, &err), 0);
	assert_int_equal(import_segment(i, 2, bytes + 2 * SEGMENT_SIZE, &err), 0);
	assert_int_equal(import_same(i, 4, &err), 0);
	end(i, SIZE, again);
	assert_int_equal(blocks(stats.stored), 1);
	assert_int_equal(blocks(stats.bytes), SEGMENT_BLOCKS);
	expect_disk(again, SIZE);
}

/* Of segment `s` a sector of its own, some sectors up to the disk's end, or all: the others are the base's, not what came. */
static int give_own(struct import *i, uint64_t s, unsigned first, unsigned nr)
{
	CLEANUP(free) uint8_t *given = malloc(SEGMENT_SIZE);
	struct sectors own = { 0 };
	size_t at = (size_t)first * SECTOR_SIZE, len = (size_t)nr * SECTOR_SIZE;

	memset(given, 0xee, SEGMENT_SIZE);
	memset(given + at, (int)s + 1, len);
	memset(bytes + s * SEGMENT_SIZE + at, (int)s + 1, len);
	sectors_add(&own, first, first + nr);
	return import_own(i, s, given, &own, &err);
}

static void what_an_image_does_not_hold_itself_is_as_in_the_base(void **state)
{
	uint64_t size = 3 * SEGMENT_SIZE + 3 * SECTOR_SIZE; /* of both: the base is longer */
	uint8_t root[DIGEST_SIZE], again[DIGEST_SIZE];
	struct import *i;

	(void)state;
	put(0, BLOCKS, 1);
	memset(disk + 2 * SEGMENT_BLOCKS, 0, SEGMENT_BLOCKS * sizeof(*disk));
	import_root(SIZE, root);
	render(size);
	i = begin(size, root, SIZE);
	assert_int_equal(give_own(i, 0, 7, 1), 0);
	assert_int_equal(give_own(i, 2, SEGMENT_SECTORS - 3, 3), 0); /* where the base has zeros */
	assert_int_equal(give_own(i, 3, 0, 2), 0);
	end(i, size, again);
	expect_disk(again, size);
}

static void a_shorter_disk_than_its_base_ends_in_zeros(void **state)
{
	uint8_t root[DIGEST_SIZE], again[DIGEST_SIZE];
	uint64_t size = SEGMENT_SIZE + 5 * BLOCK_SIZE + 512;
	struct import *i;

	(void)state;
	put(0, BLOCKS, 1);
	import_root(SIZE, root);
	render(size);
	i = begin(size, root, SIZE);
	assert_int_equal(import_same(i, 2, &err), 0);
	assert_int_equal(import_end(i, again, &stats, &err), 0);
	import_free(i);
	expect_disk(again, size);
	assert_int_equal(blocks(stats.stored), 1);
}

static void a_base_of_smaller_units_is_read(void **state)
{
	uint8_t root[DIGEST_SIZE], again[DIGEST_SIZE], digest[DIGEST_SIZE];
	struct import *i;
	struct leaf l;

	(void)state;
	put(0, BLOCKS, 1);
	put(0, 3, 5000);
	put(3, 500, 1); /* such that clusters of 4 KiB lie at odd places */
	import_root(SIZE, root);
	unit_bits = 16;
	i = begin(SIZE, root, SIZE);
	assert_int_equal(import_same(i, SEGMENTS, &err), 0);
	assert_int_equal(import_end(i, again, &stats, &err), 0);
	import_free(i);
	assert_memory_equal(again, root, DIGEST_SIZE);
	digest_bytes(bytes, SEGMENT_SIZE, digest);
	assert_int_equal(nodes_get_leaf(pool->nodes, digest, 16, &l, &err), 0);
	expect_disk(again, SIZE);
}

/* ---- pools that are not as they say ---- */

static struct leaf leaf_of(uint64_t segment)
{
	uint8_t digest[DIGEST_SIZE];
	struct leaf l;

	digest_bytes(bytes + segment * SEGMENT_SIZE, SEGMENT_SIZE, digest);
	assert_int_equal(nodes_get_leaf(pool->nodes, digest, 12, &l, &err), 0);
	return l;
}

/* G1 */
static void a_forged_fingerprint_shares_nothing(void **state)
{
	struct fingerprint f;
	struct leaf l;

	(void)state;
	put(0, SEGMENT_BLOCKS, 1);
	import_disk();
	l = leaf_of(0);
	memset(disk, 0, sizeof(disk));
	put(0, SEGMENT_BLOCKS, 100000);
	render(SIZE);
	for (size_t i = 0; i < SEGMENT_BLOCKS; i++) { /* all of them are said to be there */
		f = fingerprint_best()->bytes(bytes + i * BLOCK_SIZE, BLOCK_SIZE);
		assert_int_equal(finder_add(pool->finder, FINDER_BLOCK, 12, f.hi, f.lo, l.runs[0].place + i, true, &err), 0);
	}
	f = fingerprint_best()->bytes(bytes, SEGMENT_SIZE); /* and the whole: under the other leaf's name */
	l.hint = f;
	assert_int_equal(nodes_replace_leaf(pool->nodes, &l, &err), 0);
	import_disk();
	assert_int_equal(blocks(stats.stored), SEGMENT_BLOCKS);
	assert_true(stats.forged > 0);
	assert_int_equal(stats.damaged, 0);
	put(SEGMENT_BLOCKS, SEGMENT_BLOCKS - 100, 100100); /* the real ones are found from now on */
	import_disk();
	assert_int_equal(stats.stored, 0);
}

static unsigned nr_flips;

/* Memory that forgets a bit of what goes into the cluster file. */
static ssize_t flipping_pwrite(int fd, const void *p, size_t len, off_t at)
{
	CLEANUP(free) uint8_t *copy = NULL;
	ssize_t n;

	if (nr_flips || at < (off_t)(SIZE * 64) || len < SEGMENT_SIZE / 2 || !(copy = malloc(len)))
		return pwrite(fd, p, len, at);
	memcpy(copy, p, len);
	copy[len / 2] ^= 16;
	nr_flips++;
	n = pwrite(fd, copy, len, at);
	return n;
}

/* C7: what was written otherwise than it was hashed is never read as if it were right. */
static void c07_a_bit_that_flips_on_its_way_is_found(void **state)
{
	struct file_ops ops = file_ops_os;
	uint8_t digest[DIGEST_SIZE];
	CLEANUP(free) uint8_t *p = malloc(SEGMENT_SIZE);
	uint8_t root[DIGEST_SIZE];
	struct import *i;
	unsigned nr_bad = 0;

	(void)state;
	ops.pwrite = flipping_pwrite;
	nr_flips = 0;
	put(0, BLOCKS, 1);
	render(SIZE);
	file_ops = &ops;
	i = begin(SIZE, NULL, 0);
	assert_int_equal(give(i, SIZE), 0);
	end(i, SIZE, root);
	assert_int_equal(pool_sync(pool, &err), 0);
	file_ops = &file_ops_os;
	assert_int_equal(nr_flips, 1);
	for (uint64_t s = 0; s < SEGMENTS; s++) {
		digest_bytes(bytes + s * SEGMENT_SIZE, SEGMENT_SIZE, digest);
		if (tree_read_segment(pool->nodes, pool->clusters, digest, p, &err) < 0)
			nr_bad++;
		else
			assert_memory_equal(p, bytes + s * SEGMENT_SIZE, SEGMENT_SIZE);
	}
	assert_int_equal(nr_bad, 1);
}

/* The clusters that the leaf has are as they should be, but there is more than these. */
static void a_forged_fingerprint_hides_nothing_between_runs(void **state)
{
	static const size_t at[] = { 150, 300 };

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(at); i++) {
		struct leaf l;

		memset(disk, 0, sizeof(disk));
		put(0, 100, 1);
		put(200, 50, 1000 * (i + 1));
		import_disk();
		l = leaf_of(0);
		disk[at[i]] = 4711 + i;
		render(SIZE);
		l.hint = fingerprint_best()->bytes(bytes, SEGMENT_SIZE);
		assert_int_equal(nodes_replace_leaf(pool->nodes, &l, &err), 0);
		import_disk();
		assert_int_equal(blocks(stats.stored), 1);
	}
}

static void what_goes_on_behind_a_change_needs_no_finder(void **state)
{
	struct fingerprint f;

	(void)state;
	put(0, SEGMENT_BLOCKS, 1);
	import_disk();
	for (size_t i = 101; i < SEGMENT_BLOCKS; i++) {
		f = fingerprint_best()->bytes(bytes + i * BLOCK_SIZE, BLOCK_SIZE);
		assert_int_equal(finder_add(pool->finder, FINDER_BLOCK, 12, f.hi, f.lo, 0, true, &err), 0);
	}
	disk[100] = 4711;
	import_disk();
	assert_int_equal(blocks(stats.stored), 1);
}

static void places_that_cannot_be_are_passed_over(void **state)
{
	static const uint64_t places[] = { 0, 1, POOL_DATA_BEGIN / BLOCK_SIZE - 1, UINT64_MAX >> 2, UINT64_MAX / BLOCK_SIZE,
					   (uint64_t)1 << 40, POOL_FILE_MAX / BLOCK_SIZE };
	struct fingerprint f;

	(void)state;
	put(0, 100, 1);
	render(SIZE);
	for (size_t i = 0; i < 100; i++) {
		f = fingerprint_best()->bytes(bytes + i * BLOCK_SIZE, BLOCK_SIZE);
		finder_add(pool->finder, FINDER_BLOCK, 12, f.hi, f.lo, places[i % ARRAY_SIZE(places)], true, &err);
	}
	import_disk();
	assert_int_equal(blocks(stats.stored), 100);
}

static void units_at_odd_places_are_passed_over(void **state)
{
	struct fingerprint f;
	struct leaf l;

	(void)state;
	put(0, SEGMENT_BLOCKS, 1);
	import_disk();
	l = leaf_of(0);
	memset(disk, 0, sizeof(disk));
	put(0, 64, 2);
	render(SIZE);
	unit_bits = 14;
	for (size_t i = 0; i < 64; i += 4) {
		f = fingerprint_best()->bytes(bytes + i * BLOCK_SIZE, 4 * BLOCK_SIZE);
		assert_int_equal(finder_add(pool->finder, FINDER_BLOCK, 14, f.hi, f.lo, l.runs[0].place + 1 + i, true, &err), 0);
	}
	import_disk();
	assert_int_equal(blocks(stats.stored), 64);
}

/* The operating system's calls but for reads of the cluster file, of which some blocks cannot be read. */
static struct file_ops broken_ops;
static uint64_t broken_from, broken_to;

static ssize_t broken_pread(int fd, void *buf, size_t len, off_t offset)
{
	if (fd == cluster_file_fd(clusters_growing(pool->clusters).file) && (uint64_t)offset < broken_to && (uint64_t)offset + len > broken_from) {
		errno = EIO;
		return -1;
	}
	return file_ops_os.pread(fd, buf, len, offset);
}

static void break_blocks(uint64_t place, uint64_t nr)
{
	assert_int_equal(clusters_flush(pool->clusters, &err), 0);
	broken_ops = file_ops_os;
	broken_ops.pread = broken_pread;
	broken_from = place * BLOCK_SIZE;
	broken_to = broken_from + nr * BLOCK_SIZE;
	file_ops = &broken_ops;
}

/* Reading it back also shows that it was healed: the clusters stay broken. */
static void what_cannot_be_read_is_stored_anew(void **state)
{
	static const unsigned nrs[] = { 1, 1, 7, 512 };
	struct leaf l;

	(void)state;
	may_be_damaged = true;
	for (size_t i = 0; i < ARRAY_SIZE(nrs); i++) {
		put(0, SEGMENT_BLOCKS, 10000 * (i + 1));
		import_disk();
		l = leaf_of(0);
		break_blocks(l.runs[0].place + (nrs[i] == 512 ? 0 : 100 * i + 50), nrs[i]);
		import_disk();
		assert_true(stats.damaged > 0);
		assert_int_equal(stats.forged, 0);
		assert_int_equal(blocks(stats.stored), nrs[i]);
		import_disk();
		assert_int_equal(stats.stored, 0);
		file_ops = &file_ops_os;
	}
}

/* Damage gets no digest under which it is right; where nothing of the base is needed it does not matter. */
static void a_base_that_is_damaged_is_not_taken(void **state)
{
	uint8_t root[DIGEST_SIZE], again[DIGEST_SIZE];
	struct import *i;

	(void)state;
	put(0, 2 * SEGMENT_BLOCKS, 1);
	import_root(2 * SEGMENT_SIZE, root);
	break_blocks(leaf_of(0).runs[0].place + 3, 1);
	i = begin(2 * SEGMENT_SIZE, root, 2 * SEGMENT_SIZE);
	assert_int_equal(give_own(i, 0, 8, 24), -1);
	expect_error(&err, ERR_FORMAT, "what it stands on is damaged at offset 0");
	import_free(i);
	i = begin(2 * SEGMENT_SIZE, root, 2 * SEGMENT_SIZE);
	assert_int_equal(give_own(i, 0, 0, SEGMENT_SECTORS), 0);
	assert_int_equal(give_own(i, 1, 1, 1), 0);
	assert_int_equal(import_end(i, again, &stats, &err), 0);
	import_free(i);
	file_ops = &file_ops_os;
	expect_disk(again, 2 * SEGMENT_SIZE);
}

static void clusters_with_other_bytes_are_stored_anew(void **state)
{
	char name[POOL_FILE_NAME_ROOM];
	off_t place;
	int fd;

	(void)state;
	put(0, SEGMENT_BLOCKS, 1);
	import_disk();
	place = (off_t)(leaf_of(0).runs[0].place + 100) * BLOCK_SIZE;
	assert_int_equal(clusters_flush(pool->clusters, &err), 0);
	fd = openat(pool->dirs[POOL_TOP], pool_id_file_name(pool->uuid, name), O_WRONLY); /* it was written to: it is not
											   * immutable now */
	assert_int_equal(pwrite(fd, "rotten", 6, place + 50), 6);
	close(fd);
	import_disk();
	assert_int_equal(blocks(stats.stored), 1);
	import_disk();
	assert_int_equal(stats.stored, 0);
	put(600, 100, 60); /* the block itself is found again, too */
	min_run = BLOCK_SIZE;
	import_disk();
	assert_int_equal(stats.stored, 0);
}

/* A map that points to a hole: its data was collected. */
static void dead_leaves_are_not_taken(void **state)
{
	struct leaf l;

	(void)state;
	put(0, SEGMENT_BLOCKS, 1);
	import_disk();
	l = leaf_of(0);
	assert_int_equal(clusters_punch(pool->clusters, l.runs[0].place * BLOCK_SIZE, l.runs[0].nr * BLOCK_SIZE, &err), 0);
	import_disk();
	assert_int_equal(blocks(stats.stored), SEGMENT_BLOCKS);
}

static ssize_t full_pwrite(int fd, const void *buf, size_t len, off_t offset)
{
	(void)fd;
	(void)buf;
	(void)len;
	(void)offset;
	errno = ENOSPC;
	return -1;
}

static void a_full_disk_ends_it(void **state)
{
	static struct file_ops ops;
	struct import *i = begin(SIZE, NULL, 0);

	(void)state;
	put(0, BLOCKS, 1);
	render(SIZE);
	ops = file_ops_os;
	ops.pwrite = full_pwrite;
	file_ops = &ops;
	assert_int_equal(give(i, SIZE), -1);
	assert_int_equal(err.kind, ERR_FULL);
	import_free(i);
	file_ops = &file_ops_os;
	import_disk();
}

/* ---- any disks ---- */

static uint64_t random_state = 1;

static uint64_t below(uint64_t n)
{
	random_state = random_state * 6364136223846793005u + 1442695040888963407u;
	return (random_state >> 33) % n;
}

/* Each disk is like one before in stretches, with changes, zeros and shifts; all are read back at the end, too. */
static void whatever_comes_is_what_is_read(void **state)
{
	static uint64_t kept[12][BLOCKS];
	static uint8_t roots[12][DIGEST_SIZE];
	uint64_t next = 1, stored = 0;

	(void)state;
	for (unsigned n = 0; n < ARRAY_SIZE(kept); n++) {
		for (size_t i = 0; i < BLOCKS;) {
			size_t len = 1 + below(below(3) ? 60 : 6), from = below(2) ? i : below(BLOCKS);
			const uint64_t *like = n && below(4) ? kept[below(n)] : below(2) ? disk : NULL;

			for (size_t k = 0; k < len && i < BLOCKS; k++, i++)
				disk[i] = like && from + k < BLOCKS && below(30) ? like[from + k] : below(9) ? next++ : 0;
		}
		memcpy(kept[n], disk, sizeof(disk));
		min_run = (1 + below(8)) * BLOCK_SIZE;
		unit_bits = n % 4 == 3 ? 14 : 12;
		import_root(SIZE, roots[n]);
		stored += blocks(stats.stored);
	}
	assert_true(stored > next / 2 && stored < ARRAY_SIZE(kept) * BLOCKS / 2);
	for (unsigned n = 0; n < ARRAY_SIZE(kept); n++) {
		memcpy(disk, kept[n], sizeof(disk));
		render(SIZE);
		expect_disk(roots[n], SIZE);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		import_test(zeros_cost_nothing),
		import_test(new_data_is_stored_once_and_lies_in_order),
		import_test(another_process_finds_it),
		import_test(one_changed_block_costs_one),
		import_test(shifted_data_is_found),
		import_test(zeros_in_between_do_not_end_a_run),
		import_test(runs_shorter_than_the_least_are_stored_again),
		import_test(short_runs_at_the_beginning_of_a_segment),
		import_test(data_that_repeats_within_a_disk_is_stored_once),
		import_test(the_right_one_of_several_places_is_found),
		import_test(whatever_comes_behind_a_new_segment_it_is_not_lost),
		import_test(what_waits_comes_before_segments_of_the_base),
		import_test(larger_units_are_shared_at_their_places),
		import_test(larger_units_do_for_smaller_ones_but_not_the_other_way),
		import_test(the_last_segment_may_be_a_part),
		import_test(segments_of_the_base_are_taken_unread),
		import_test(what_an_image_does_not_hold_itself_is_as_in_the_base),
		import_test(a_shorter_disk_than_its_base_ends_in_zeros),
		import_test(a_base_of_smaller_units_is_read),
		import_test(c07_a_bit_that_flips_on_its_way_is_found),
		import_test(a_forged_fingerprint_shares_nothing),
		import_test(a_forged_fingerprint_hides_nothing_between_runs),
		import_test(what_goes_on_behind_a_change_needs_no_finder),
		import_test(places_that_cannot_be_are_passed_over),
		import_test(units_at_odd_places_are_passed_over),
		import_test(what_cannot_be_read_is_stored_anew),
		import_test(a_base_that_is_damaged_is_not_taken),
		import_test(clusters_with_other_bytes_are_stored_anew),
		import_test(dead_leaves_are_not_taken),
		import_test(a_full_disk_ends_it),
		import_test(whatever_comes_is_what_is_read),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
