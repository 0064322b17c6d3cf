/* SPDX-License-Identifier: Apache-2.0 */
/* timeout: 120 */
#include "tests/unit/mount_help.h"
#include "tests/unit/pool_help.h"

#include "compactor/collect.h"
#include "tests/unit/image_help.h"

/* What becomes free where clusters that live lie scattered among dead ones: what a dry run says, and what the file system shows. */

#define NR_SEGMENTS 16
#define NR_BLOCKS (NR_SEGMENTS * SEGMENT_BLOCKS)
#define STRETCH_BLOCKS 256u

static bool lives[NR_BLOCKS]; /* blocks of the cluster file, in order */
static unsigned nr_segments;
static struct collected got;

/* The bytes of a segment, all of them or what lives, the rest being zeros. */
static void fill(uint64_t segment, bool all, uint8_t *p)
{
	memset(p, 0, SEGMENT_SIZE);
	for (uint64_t b = 0; b < SEGMENT_BLOCKS; b++)
		if (all || lives[segment * SEGMENT_BLOCKS + b])
			make_bytes(p + b * BLOCK_SIZE, BLOCK_SIZE, (unsigned)(segment * SEGMENT_BLOCKS + b));
}

static struct disk import_blocks(bool all)
{
	const struct import_options o = { .unit_bits = POOL_UNIT_BITS_MIN, .min_run = BLOCK_SIZE };
	struct disk d = { .size = nr_segments * SEGMENT_SIZE };
	CLEANUP(import_free) struct import *i = import_new(pool, d.size, &o, NULL, 0, NULL);
	CLEANUP(free) uint8_t *p = malloc(SEGMENT_SIZE);
	struct import_stats stats;

	for (uint64_t s = 0; s < nr_segments; s++) {
		fill(s, all, p);
		assert_int_equal(import_segment(i, s, p, NULL), 0);
	}
	assert_int_equal(import_end(i, d.root, &stats, NULL), 0);
	assert_int_equal(stats.stored, all ? d.size : 0);
	assert_int_equal(pool_sync(pool, NULL), 0);
	return d;
}

/* A pool in which blocks live or not as `lives` says. */
static struct disk make_scattered(unsigned nr)
{
	struct disk d;

	nr_segments = nr;
	import_blocks(true);
	d = import_blocks(false);
	version_of("kept", &d);
	return d;
}

static void expect_bytes(const struct disk *d)
{
	CLEANUP(tree_walk_free) struct tree_walk *w = tree_walk_new(pool->nodes, d->root, d->size, NULL);
	CLEANUP(free) uint8_t *is = malloc(SEGMENT_SIZE), *should = malloc(SEGMENT_SIZE);
	uint8_t digest[DIGEST_SIZE];

	for (uint64_t s = 0, at; s < nr_segments; s++) {
		fill(s, false, should);
		memset(is, 0, SEGMENT_SIZE);
		if (tree_walk_next(w, s, &at, digest, NULL) > 0 && at == s)
			assert_int_equal(tree_read_segment(pool->nodes, pool->clusters, digest, is, NULL), 0);
		assert_memory_equal(is, should, SEGMENT_SIZE);
	}
}

static void collect_with(const struct collect_options *o)
{
	struct err err = ERR_INIT;

	if (pool_collect(pool, o, &got, &err) < 0)
		fail_msg("%s", err.text);
}

static void collect(void)
{
	collect_with(&(struct collect_options){ .memory = MIB });
}

static uint64_t blocks(uint64_t nr)
{
	return nr * BLOCK_SIZE;
}

static uint64_t count_if(bool living, unsigned from, unsigned to)
{
	uint64_t nr = 0;

	for (unsigned i = from; i < to; i++)
		nr += lives[i] == living;
	return nr;
}

/* Whether a block is in the file: block 0 is the first of the data. */
static bool is_there(unsigned block)
{
	uint64_t at = POOL_DATA_BEGIN + blocks(block), begin, end;

	return file_next_data(cluster_file_fd(clusters_growing(pool->clusters).file), at, at + BLOCK_SIZE, &begin, &end, NULL) > 0;
}

/* What it says first, then does, and does not find again. */
static void expect_freed(uint64_t freed, uint64_t small)
{
	collect_with(&(struct collect_options){ .memory = MIB, .dry_run = true });
	assert_int_equal(got.freed, freed);
	assert_int_equal(got.small, small);
	collect();
	assert_int_equal(got.freed, freed);
	assert_int_equal(got.small, small);
	collect();
	assert_int_equal(got.freed, 0);
	assert_int_equal(got.small, small);
}

/* ---- what is mostly dead ---- */

static void a_stretch_of_which_half_lives_gives_back_the_rest(void **state)
{
	struct disk d;

	(void)state;
	for (unsigned i = 0; i < NR_BLOCKS; i++)
		lives[i] = i % 8 < 4;
	d = make_scattered(2);
	expect_freed(SEGMENT_SIZE, 0);
	for (unsigned i = 0; i < nr_segments * SEGMENT_BLOCKS; i++)
		assert_int_equal(is_there(i), lives[i]);
	expect_bytes(&d);
}

static void where_more_lives_short_runs_stay(void **state)
{
	struct disk d;

	(void)state;
	for (unsigned i = 0; i < NR_BLOCKS; i++)
		lives[i] = i % 8 < 4 || i % STRETCH_BLOCKS == 7;
	d = make_scattered(1);
	expect_freed(0, blocks(count_if(false, 0, SEGMENT_BLOCKS)));
	for (unsigned i = 0; i < SEGMENT_BLOCKS; i++)
		assert_true(is_there(i));
	expect_bytes(&d);
}

/* Of a dead run that lies in two stretches the part in the one which is mostly dead goes. */
static void borders_of_stretches_are_kept(void **state)
{
	struct disk d;

	(void)state;
	for (unsigned i = 0; i < NR_BLOCKS; i++)
		lives[i] = i % 8 == 4 || (i / STRETCH_BLOCKS % 2 && i % 8 > 1);
	d = make_scattered(2);
	expect_freed(blocks(2 * STRETCH_BLOCKS / 8 * 7), blocks(2 * STRETCH_BLOCKS / 8 * 2));
	for (unsigned i = 0; i < nr_segments * SEGMENT_BLOCKS; i++)
		assert_int_equal(is_there(i), lives[i] || i / STRETCH_BLOCKS % 2);
	expect_bytes(&d);
}

/* A hole that is there already makes a run longer: no extent more comes of it. */
static void what_lies_beside_a_hole_goes(void **state)
{
	struct disk whole = { .size = SEGMENT_SIZE, .pieces = { { 0, 512 * KIB, 1 } } }, again = whole;
	struct disk first = { .size = SEGMENT_SIZE, .pieces = { { 0, 64 * KIB, 2 } } };
	struct disk before = { .size = SEGMENT_SIZE, .pieces = { { 0, 8 * KIB, 3 } } };
	struct disk behind = { .size = SEGMENT_SIZE, .pieces = { { 0, 16 * KIB, 5 } } };
	uint64_t numbers[2];

	(void)state;
	again.pieces[0].number = 4;
	import(&whole);
	import(&before);
	import(&first);
	import(&behind);
	import(&again);
	version_of("whole", &whole);
	version_of("again", &again);
	numbers[0] = version_of("before", &before);
	numbers[1] = version_of("behind", &behind);
	collect();
	assert_int_equal(got.freed, 64 * KIB);
	forget(numbers[0]);
	collect();
	assert_int_equal(got.freed, 8 * KIB);
	forget(numbers[1]);
	collect();
	assert_int_equal(got.freed, 16 * KIB);
	assert_int_equal(got.small, 0);
	expect_disk(&whole);
	expect_disk(&again);
}

/* ---- how it is done ---- */

static unsigned nr_punches, stop_at;
static struct stopper stopper;

static int count_punches(int fd, int mode, off_t offset, off_t len)
{
	if (++nr_punches == stop_at)
		atomic_store(&stopper.flag, 1);
	return fallocate(fd, mode, offset, len);
}

/* What lies beside each other, with holes between, goes in one go. */
static void punches_are_joined(void **state)
{
	static struct file_ops ops;
	struct disk d[5];
	uint64_t middle;

	(void)state;
	for (unsigned i = 0; i < 5; i++) {
		d[i] = (struct disk){ .size = SEGMENT_SIZE, .pieces = { { 0, 64 * KIB, i } } };
		import(&d[i]);
	}
	for (unsigned i = 0; i < 5; i += 2)
		middle = version_of("v", &d[i]);
	(void)middle;
	collect();
	assert_int_equal(got.freed, 128 * KIB);
	forget(1);
	forget(2);
	ops = file_ops_os;
	ops.fallocate = count_punches;
	file_ops = &ops;
	nr_punches = stop_at = 0;
	collect();
	file_ops = &file_ops_os;
	assert_int_equal(got.freed, 128 * KIB);
	assert_int_equal(nr_punches, 1);
	expect_disk(&d[4]);
}

static void it_stops_and_goes_on(void **state)
{
	static struct file_ops ops;
	struct err err = ERR_INIT;
	struct disk d;

	(void)state;
	for (unsigned i = 0; i < NR_BLOCKS; i++)
		lives[i] = i % 8 == 0;
	d = make_scattered(1);
	ops = file_ops_os;
	ops.fallocate = count_punches;
	file_ops = &ops;
	nr_punches = 0;
	stop_at = 10;
	assert_int_equal(pool_collect(pool, &(struct collect_options){ .memory = MIB, .stopper = &stopper }, &got, &err), -1);
	assert_int_equal(err.kind, ERR_CANCELED);
	assert_int_equal(nr_punches, 10);
	file_ops = &file_ops_os;
	atomic_store(&stopper.flag, 0);
	expect_freed(blocks(7 * (SEGMENT_BLOCKS / 8 - 10)), 0);
	expect_bytes(&d);
}

/* ---- what file systems show ---- */

/* In each MiB another share lives, in runs of many lengths. */
static void scatter(void)
{
	uint64_t x = 88172645463325252;

	for (unsigned i = 0, left = 0, share = 0; i < NR_BLOCKS; i++) {
		static bool living;

		if (i % STRETCH_BLOCKS == 0)
			share = i / STRETCH_BLOCKS * 3 % 96;
		if (!left) {
			x ^= x << 13;
			x ^= x >> 7;
			x ^= x << 17;
			left = 1 + (unsigned)(x >> 40) % 12;
			living = (x >> 20) % 100 < share;
		}
		left--;
		lives[i] = living;
	}
}

static uint64_t on_disk(void)
{
	struct stat st;

	assert_int_equal(fsync(cluster_file_fd(clusters_growing(pool->clusters).file)), 0);
	assert_int_equal(fstat(cluster_file_fd(clusters_growing(pool->clusters).file), &st), 0);
	return (uint64_t)st.st_blocks * 512;
}

static void expect_about(const char *what, uint64_t is, uint64_t should)
{
	if (is > should + should / 100 || is < should - should / 100)
		fail_msg("%s: %llu KiB, and not %llu", what, (unsigned long long)is / KIB, (unsigned long long)should / KIB);
}

static void what_is_said_is_what_comes_back(const char *type)
{
	uint64_t said, before, used;
	struct disk d;

	mount_make(type);
	pool_dirfd = open(in_tree("mnt"), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	pool_path = strdup(in_tree("mnt/pool"));
	assert_int_equal(digest_prepare(NULL), 0);
	assert_int_equal(pool_create(pool_dirfd, "pool", NULL), 0);
	open_pool();
	scatter();
	d = make_scattered(NR_SEGMENTS);
	collect_with(&(struct collect_options){ .memory = MIB, .dry_run = true });
	said = got.freed;
	before = on_disk();
	used = mount_used();
	collect();
	assert_int_equal(got.freed, said);
	expect_about("blocks of the file", before - on_disk(), said);
	expect_about("free space", used - mount_used(), said);
	for (unsigned i = 0; i < NR_BLOCKS; i += STRETCH_BLOCKS) {
		uint64_t nr_living = count_if(true, i, i + STRETCH_BLOCKS), there = 0;

		for (unsigned b = i; b < i + STRETCH_BLOCKS; b++)
			there += is_there(b);
		assert_true(there <= 2 * nr_living); /* whatever the share is */
		if (nr_living <= STRETCH_BLOCKS / 2)
			assert_int_equal(there, nr_living);
	}
	print_message("%s: %llu of %llu KiB freed, %llu KiB live, %llu stay\n", type, (unsigned long long)said / KIB,
		      (unsigned long long)before / KIB, (unsigned long long)got.live / KIB, (unsigned long long)got.small / KIB);
	again();
	expect_bytes(&d);
	collect();
	assert_int_equal(got.freed, 0);
	close_pool();
	close(pool_dirfd);
	free((char *)pool_path);
}

static void on_ext4(void **state)
{
	(void)state;
	what_is_said_is_what_comes_back("ext4");
}

static void on_xfs(void **state)
{
	(void)state;
	what_is_said_is_what_comes_back("xfs");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		pool_test(a_stretch_of_which_half_lives_gives_back_the_rest),
		pool_test(where_more_lives_short_runs_stay),
		pool_test(borders_of_stretches_are_kept),
		pool_test(what_lies_beside_a_hole_goes),
		pool_test(punches_are_joined),
		pool_test(it_stops_and_goes_on),
		mount_test(on_ext4),
		mount_test(on_xfs),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
