/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/pool_help.h"

#include <malloc.h>

#include "compactor/collect.h"
#include "compactor/pool/pool_check.h"
#include "tests/unit/image_help.h"

/* Rows C1 to C6, F13.
 *
 * Damage: every bit of a small pool's metadata, bits of its data, files that are cut, grown, gone or of another time.  It is said,
 * or has no effect on anything that is read; nobody ever gets a wrong byte; and what can be made again from the rest is. */

static struct disk a = { .size = 2 * SEGMENT_SIZE,
			 .pieces = { { 0, 64 * KIB, 1 }, { 300 * KIB, 12 * KIB, 2 }, { SEGMENT_SIZE, 8 * KIB, 3 } } };
static struct disk b = { .size = SEGMENT_SIZE + 512, .pieces = { { 0, 64 * KIB, 1 }, { 256 * KIB, 32 * KIB, 4 } } };
static struct view view; /* of a */

static void make_it(void)
{
	import(&a);
	import(&b);
	view = view_of(&a);
	member_of("a", &a, &view);
	version_of("b", &b);
	again();
}

/* ---- files by hand ---- */

static const char *file_path(enum pool_part part)
{
	static char path[200];
	char text[POOL_FILE_NAME_ROOM];

	if (part == POOL_NODE)
		snprintf(path, sizeof(path), "pool/trees/%s.nodes", pool_id_text(pool->uuid, text));
	else if (part == POOL_STUB)
		snprintf(path, sizeof(path), "pool/views/%s", pool_id_file_name(view.id, text));
	else if (part == POOL_NAME_FILE)
		snprintf(path, sizeof(path), "pool/names/1");
	else
		snprintf(path, sizeof(path), "pool/%s", pool_id_file_name(pool->uuid, text));
	return path;
}

static int open_by_hand(enum pool_part part)
{
	int fd;

	assert_int_equal(fchmodat(pool_dirfd, file_path(part), 0600, 0), 0);
	fd = openat(pool_dirfd, file_path(part), O_RDWR | O_CLOEXEC);
	assert_true(fd >= 0);
	return fd;
}

static void flip_bit(int fd, uint64_t bit)
{
	uint8_t byte;

	assert_int_equal(pread(fd, &byte, 1, (off_t)(bit / 8)), 1);
	byte ^= (uint8_t)(1u << bit % 8);
	assert_int_equal(pwrite(fd, &byte, 1, (off_t)(bit / 8)), 1);
}

static uint64_t size_of_file(int fd)
{
	struct stat st;

	assert_int_equal(fstat(fd, &st), 0);
	return (uint64_t)st.st_size;
}

/* ---- what a check says ---- */

static unsigned nr_said[POOL_NR_PARTS], nr_repairable[POOL_NR_PARTS][REPAIR_CAN + 1];
static struct pool_damage last;

static int take_damage(void *ctx, const struct pool_damage *d, struct err *err)
{
	(void)ctx;
	(void)err;
	nr_said[d->part]++;
	nr_repairable[d->part][d->repairable]++;
	last = *d;
	return 0;
}

/* Damages, or -1. */
static int check_with(bool read_data, struct err *err)
{
	const struct pool_check_options o = { .read_data = read_data, .percent = 100, .damage = take_damage };
	struct pool_checked c;

	memset(nr_said, 0, sizeof(nr_said));
	memset(nr_repairable, 0, sizeof(nr_repairable));
	return pool_check(pool, &o, &c, err) < 0 ? -1 : (int)c.nr_damages;
}

static int check(void)
{
	struct err err = ERR_INIT;
	int rc = check_with(false, &err);

	if (rc < 0)
		fail_msg("%s", err.text);
	return rc;
}

static int check_data(void)
{
	struct err err = ERR_INIT;
	int rc = check_with(true, &err);

	if (rc < 0)
		fail_msg("%s", err.text);
	return rc;
}

static void expect_clean(void)
{
	if (check_data() > 0)
		fail_msg("%s: %s", pool_part_names[last.part], last.what.text);
	expect_disk(&a);
	expect_disk(&b);
}

static bool opens(bool writing, struct err *err)
{
	close_pool();
	*err = ERR_INIT;
	return pool_open(pool_dirfd, "pool", pool_path, writing, &pool, err) == 0 && pool;
}

static uint64_t state = 1;

static uint64_t random_below(uint64_t n)
{
	state = state * 6364136223846793005u + 1442695040888963407u;
	return (state >> 20) % n;
}

/* ---- every bit (C2) ---- */

/* Of either of them: the other one serves, and the damage is told.  Where the same bit of both is gone, nothing is opened. */
static void every_bit_of_the_superblock(void **unused)
{
	int fd;

	(void)unused;
	make_it();
	fd = open_by_hand(POOL_SLOT);
	for (uint64_t bit = 0; bit < 8 * sizeof(struct pool_superblock_disk); bit++) {
		struct err err;

		for (unsigned copy = 0; copy < 2; copy++) {
			flip_bit(fd, copy * POOL_COPY_AT * 8 + bit);
			assert_true(opens(bit % 2, &err));
			assert_int_equal(check(), bit < 8 * 68);
			assert_int_equal(nr_said[POOL_SUPERBLOCK], bit < 8 * 68);
			if (copy == 0)
				flip_bit(fd, bit);
		}
		flip_bit(fd, bit);
		if (opens(false, &err) && bit < 8 * 68)
			fail_msg("bit %d", (int)bit);
		if (!pool)
			assert_int_equal(err.kind, ERR_FORMAT);
		flip_bit(fd, bit);
		flip_bit(fd, POOL_COPY_AT * 8 + bit);
	}
	close(fd);
	assert_true(opens(false, &(struct err){ 0 }));
	expect_clean();
}

static void every_bit_of_headers_and_tables(void **unused)
{
	uint64_t end, from;
	int fd;

	(void)unused;
	make_it();
	end = (view.slot * POOL_SLOT_SIZE + view.slice_size) * 8;
	from = end - 4 * BLOCK_SIZE * 8; /* two L2 tables, L1, refcounts */
	fd = open_by_hand(POOL_SLOT);
	close_pool();
	open_pool_for(false);
	for (uint64_t bit = from; bit < end; bit++) {
		uint64_t in = bit - (end - 2 * BLOCK_SIZE * 8);
		bool unused_l1 = bit >= end - 2 * BLOCK_SIZE * 8 && in >= 2 * 64 && in < BLOCK_SIZE * 8; /* it has two entries */

		flip_bit(fd, bit);
		if ((view_check(pool, &view, NULL) == 0) != unused_l1)
			fail_msg("bit %d", (int)(bit - from));
		if (bit % 509 == 0 && !unused_l1) {
			assert_int_equal(check(), 1);
			assert_int_equal(nr_said[POOL_TABLES], 1);
			assert_string_equal(last.path, "/images/a");
		}
		flip_bit(fd, bit);
	}
	for (uint64_t bit = 0; bit < BLOCK_SIZE * 8; bit += 7) {
		flip_bit(fd, view.slot * POOL_SLOT_SIZE * 8 + bit);
		assert_true(check() >= 1);
		assert_int_equal(nr_said[POOL_SLOT], 2); /* it, and that the image's view is missing */
		flip_bit(fd, view.slot * POOL_SLOT_SIZE * 8 + bit);
	}
	close(fd);
	expect_clean();
}

static void every_bit_of_a_stub(void **unused)
{
	uint64_t nr;
	int fd;

	(void)unused;
	make_it();
	fd = open_by_hand(POOL_STUB);
	nr = size_of_file(fd) * 8;
	for (uint64_t bit = 0; bit < nr; bit++) {
		flip_bit(fd, bit);
		if (view_check_stub(pool, &view, POOL_VIEWS, NULL) == 0)
			fail_msg("bit %d", (int)bit);
		if (bit % 997 == 0) {
			assert_int_equal(check(), 1);
			assert_int_equal(nr_said[POOL_STUB], 1);
		}
		flip_bit(fd, bit);
	}
	close(fd);
	expect_clean();
}

static int add_up(void *ctx, const struct name *n, struct err *err)
{
	(void)err;
	*(uint64_t *)ctx += n->number + n->disks.items[0].size + n->disks.items[0].view[3] + n->disks.items[0].root[5] +
			    (uint64_t)n->disks.items[0].path[8] + (uint64_t)n->made;
	return 0;
}

static void every_bit_of_a_name(void **unused)
{
	uint64_t nr, sum = 0, now;
	int fd;

	(void)unused;
	make_it();
	assert_int_equal(names_each(pool, add_up, &sum, NULL), 0);
	fd = open_by_hand(POOL_NAME_FILE);
	nr = size_of_file(fd) * 8;
	for (uint64_t bit = 0; bit < nr; bit++) {
		flip_bit(fd, bit);
		now = 0;
		if (names_each(pool, add_up, &now, NULL) == 0)
			fail_msg("bit %d", (int)bit);
		if (bit % 61 == 0) {
			assert_true(check() >= 1);
			assert_int_equal(nr_said[POOL_NAME_FILE], 1);
		}
		flip_bit(fd, bit);
	}
	close(fd);
	expect_clean();
}

/* Readers find nodes by going through the file; writers also by the index. */
static void every_bit_of_the_nodes(void **unused)
{
	unsigned nr_found = 0, nr_unneeded = 0;
	uint64_t nr;
	int fd;

	(void)unused;
	make_it();
	fd = open_by_hand(POOL_NODE);
	nr = size_of_file(fd) * 8;
	for (uint64_t bit = 0; bit < nr; bit += bit / 8 % 4096 < 1024 || getenv("LONG") ? 1 : 29) { /* behind that are zeros */
		struct err err;
		int said;

		flip_bit(fd, bit);
		assert_true(opens(bit % 2, &err));
		said = check();
		nr_found += said > 0;
		nr_unneeded += said == 0;
		if (said == 0 && bit % 397 == 0 && check_data() > 0)
			fail_msg("bit %d: a check did not find it, but with data", (int)bit);
		if (bit % 499 == 0) { /* fails by itself when a byte is wrong */
			int rc = compare_disk(&a, false, NULL) + compare_disk(&b, false, NULL);

			assert_true(rc == 0 || said > 0);
		}
		flip_bit(fd, bit);
	}
	close(fd);
	print_message("%u found, %u have no effect\n", nr_found, nr_unneeded);
	assert_true(opens(true, &(struct err){ 0 }));
	expect_clean();
}

static int repair_with(bool dry_run, uint64_t *left);

static char index_files[16][100];
static unsigned nr_index_files;

static int list_index(void *ctx, const char *name, struct err *err)
{
	(void)ctx;
	(void)err;
	snprintf(index_files[nr_index_files++ % 16], 100, "%.99s", name);
	return 0;
}

/* It is a hint: what is damaged costs space at most. */
static void bits_of_the_index(void **unused)
{
	uint64_t left;
	unsigned rounds = getenv("LONG") ? 5000 : 150, nr_failed = 0;

	(void)unused;
	make_it();
	for (unsigned i = 0; i < rounds; i++) {
		struct disk copy = a;
		struct import_stats stats;
		struct err err;
		int fd;

		nr_index_files = 0;
		assert_int_equal(file_each_name(pool->dirs[POOL_INDEX], list_index, NULL, NULL), 0);
		fd = openat(pool->dirs[POOL_INDEX], index_files[random_below(nr_index_files)], O_RDWR | O_CLOEXEC);
		assert_true(fd >= 0 && size_of_file(fd) > 0);
		flip_bit(fd, random_below(size_of_file(fd) * 8));
		close(fd);
		if (!opens(true, &err))
			fail_msg("%s", err.text);
		if (import_as(&copy, 12, &stats, &err) < 0) {
			nr_failed++;
			assert_non_null(strstr(err.text, "built anew"));
			again();
			import(&copy);
		}
		assert_memory_equal(copy.root, a.root, DIGEST_SIZE);
		assert_int_equal(pool_sync(pool, NULL), 0);
		if (i % 16 == 0) {
			repair_with(false, &left);
			expect_clean();
		}
	}
	repair_with(false, &left);
	print_message("%u of %u ended with an error\n", nr_failed, rounds);
	expect_clean();
}

/* The first file of the index whose name ends so. */
static int open_index(const char *end)
{
	nr_index_files = 0;
	assert_int_equal(file_each_name(pool->dirs[POOL_INDEX], list_index, NULL, NULL), 0);
	for (unsigned i = 0; i < nr_index_files; i++) {
		size_t len = strlen(index_files[i]);

		if (len >= strlen(end) && strcmp(index_files[i] + len - strlen(end), end) == 0)
			return openat(pool->dirs[POOL_INDEX], index_files[i], O_RDWR | O_CLOEXEC);
	}
	fail_msg("no file *%s in the index", end);
	return -1;
}

/* A check finds it, and a repair ends well at once, with and without a dry run before it. */
static void every_bit_of_the_index_is_found(void **unused)
{
	static const char *const ends[] = { "finder", ".table", ".filter" };
	uint64_t left;

	(void)unused;
	make_it();
	for (unsigned i = 0; i < ARRAY_SIZE(ends); i++) {
		int fd = open_index(ends[i]);
		uint64_t size = size_of_file(fd);

		/* Of a table zeros behind what is used in a page count, too. */
		for (uint64_t bit = i; bit < size * 8; bit += size > 1000 && !getenv("LONG") ? 13 : 1) {
			flip_bit(fd, bit);
			close_pool();
			open_pool_for(false);
			if (check() != 1 || nr_said[POOL_FINDER] != 1)
				fail_msg("bit %d of the index's *%s is not found", (int)bit, ends[i]);
			flip_bit(fd, bit);
		}
		for (unsigned dry = 0; dry < 2; dry++) {
			again(); /* before it is damaged: who opens it then makes it anew */
			close(fd);
			fd = open_index(ends[i]);
			flip_bit(fd, 8 * 10 + 3);
			close(fd);
			if (dry)
				assert_int_equal(repair_with(true, &left), 1);
			assert_int_equal(repair_with(false, &left), 1);
			assert_int_equal(left, 0);
			expect_clean();
			again();
			expect_clean();
			assert_int_equal(import(&a).stored, 0);
			fd = open_index(ends[i]);
		}
		close(fd);
	}
}

/* ---- data (C1) ---- */

static void random_bits_of_the_data(void **unused)
{
	unsigned rounds = getenv("LONG") ? 100000 : 10000;
	static struct leaf leaf;
	uint8_t digests[2][DIGEST_SIZE], *p = malloc(SEGMENT_SIZE);
	struct err err;
	int fd;

	(void)unused;
	make_it();
	for (int s = 0; s < 2; s++) {
		render(&a, (uint64_t)s, p);
		digest_bytes(p, SEGMENT_SIZE, digests[s]);
	}
	fd = open_by_hand(POOL_DATA);
	assert_true(opens(false, &err));
	for (unsigned i = 0; i < rounds; i++) {
		int s = i % 50 == 0; /* the first has most of the data */
		const struct run *r;
		uint64_t bit;

		assert_int_equal(nodes_find_leaf(pool->nodes, digests[s], 12, &leaf, NULL), 1);
		r = &leaf.runs[random_below(leaf.nr_runs)];
		bit = (r->place << 12) * 8 + random_below((uint64_t)r->nr << 15);
		flip_bit(fd, bit);
		err = ERR_INIT;
		if (tree_read_segment(pool->nodes, pool->clusters, digests[s], p, &err) == 0)
			fail_msg("flip %u is not found", i);
		assert_int_equal(err.kind, ERR_IO);
		if (i % 200 == 0) {
			assert_true(check_data() >= 1);
			assert_true(nr_said[POOL_DATA] >= 1);
			assert_true(last.path[0] && last.len > 0);
		}
		flip_bit(fd, bit);
	}
	close(fd);
	free(p);
	expect_clean();
}

/* Shares follow on each other: whatever is damaged, one of as many checks as make the whole finds it, and each segment is read
 * once. */
static void shares_of_the_data_add_up(void **unused)
{
	static struct disk many[12];
	static struct leaf leaf;
	uint8_t digest[DIGEST_SIZE], *p = malloc(SEGMENT_SIZE);
	int fd;

	(void)unused;
	for (unsigned i = 0; i < ARRAY_SIZE(many); i++) {
		char label[8];

		many[i] = (struct disk){ .size = SEGMENT_SIZE, .pieces = { { 0, 8 * KIB, 100 + i } } };
		import(&many[i]);
		snprintf(label, sizeof(label), "%u", i);
		version_of(label, &many[i]);
	}
	fd = open_by_hand(POOL_DATA);
	for (unsigned i = 0; i < ARRAY_SIZE(many); i++) {
		unsigned nr_found = 0, nr_read = 0;
		uint64_t bit;

		render(&many[i], 0, p);
		digest_bytes(p, SEGMENT_SIZE, digest);
		assert_int_equal(nodes_find_leaf(pool->nodes, digest, 12, &leaf, NULL), 1);
		bit = (leaf.runs[0].place << 12) * 8 + 77;
		flip_bit(fd, bit);
		for (unsigned k = 0; k < 5; k++) { /* other processes, and no clock */
			const struct pool_check_options o = { .read_data = true, .percent = 20, .damage = take_damage };
			struct pool_checked c;

			close_pool();
			open_pool_for(false);
			assert_int_equal(pool_check(pool, &o, &c, NULL), 0);
			nr_found += c.nr_damages > 0;
			nr_read += c.nr_segments;
		}
		assert_int_equal(nr_found, 1);
		assert_int_equal(nr_read, ARRAY_SIZE(many));
		flip_bit(fd, bit);
	}
	close(fd);
	free(p);
	tree_write("pool/checked.new", "x", 1);
	assert_int_equal(renameat(pool_dirfd, "pool/checked.new", pool_dirfd, "pool/checked"), 0);
	assert_int_equal(check_data(), 0);
}

/* ---- whole files (C3, C4, H3) ---- */

static void copy_file(const char *from, const char *to)
{
	char command[1000];

	snprintf(command, sizeof(command), "cp -a --sparse=always %s/%s %s/%s", tree, from, tree, to);
	assert_int_equal(system(command), 0);
}

static void remove_tree(const char *name)
{
	char command[1000];

	snprintf(command, sizeof(command), "rm -r %s", in_tree(name));
	assert_int_equal(system(command), 0);
}

/* It cannot be opened, or a check tells. */
static void expect_said(const char *what)
{
	struct err err;

	for (int writing = 0; writing < 2; writing++)
		if (opens(writing, &err) && check_with(true, &err) == 0)
			fail_msg("%s is not noticed", what);
}

static void files_that_are_gone_cut_or_long(void **unused)
{
	static const enum pool_part parts[] = { POOL_SLOT, POOL_NODE, POOL_STUB, POOL_NAME_FILE };
	struct err err;

	(void)unused;
	make_it();
	for (size_t i = 0; i < ARRAY_SIZE(parts); i++) {
		char path[200];
		uint64_t size;
		int fd = open_by_hand(parts[i]);

		snprintf(path, sizeof(path), "%s", file_path(parts[i]));
		size = size_of_file(fd);
		copy_file(path, "kept");
		for (uint64_t cut = 1; cut < size; cut = cut < 4096 ? cut * 8 : cut < size / 2 ? size : size + 1) {
			if (cut == size)
				break;
			assert_int_equal(ftruncate(fd, (off_t)(size - cut)), 0);
			if (parts[i] != POOL_SLOT || cut > 4096)
				expect_said(path);
			assert_int_equal(unlinkat(pool_dirfd, path, 0), 0);
			close(fd);
			copy_file("kept", path);
			fd = openat(pool_dirfd, path, O_RDWR | O_CLOEXEC);
		}
		assert_int_equal(ftruncate(fd, 0), 0);
		expect_said(path);
		close(fd);
		assert_int_equal(unlinkat(pool_dirfd, path, 0), 0);
		if (parts[i] != POOL_NAME_FILE) /* a name that is gone is one that was removed */
			expect_said(path);
		copy_file("kept", path);
		fd = openat(pool_dirfd, path, O_RDWR | O_CLOEXEC);
		assert_int_equal(pwrite(fd, "garbage at the end", 18, (off_t)round_up(size, 8)), 18);
		close(fd);
		if (parts[i] == POOL_STUB || parts[i] == POOL_NAME_FILE) {
			expect_said(path);
		} else {
			assert_true(opens(true, &err));
			expect_disk(&a);
			expect_disk(&b);
		}
		assert_int_equal(unlinkat(pool_dirfd, path, 0), 0);
		copy_file("kept", path);
		assert_int_equal(unlinkat(pool_dirfd, "kept", 0), 0);
		if (!opens(true, &err))
			fail_msg("%s: %s", path, err.text);
		expect_clean();
	}
}

static void expect_whole_or_not(const struct disk *d, bool *ret)
{
	*ret = compare_disk(d, false, NULL) == 0; /* fails by itself when a byte is wrong */
}

/* Below all data, and before each block of it: what was there is told and does not come back as something else, whatever enters
 * the pool then; and the rest is there. */
static void a_file_that_was_cut_gets_nothing_more(void **unused)
{
	static const uint64_t low[] = { 4096, POOL_SLOT_SIZE + 100, POOL_DATA_BEGIN / 2, POOL_DATA_BEGIN };
	struct disk late = { .size = SEGMENT_SIZE, .pieces = { { 0, 512 * KIB, 91 } } };
	char path[200], pool_copy[] = "kept";
	uint64_t size, cut, left;
	unsigned nr_hit = 0;
	struct stat st;
	int fd, nr_left;

	(void)unused;
	make_it();
	version_of("a1", &a);
	snprintf(path, sizeof(path), "%s", file_path(POOL_SLOT));
	fd = open_by_hand(POOL_SLOT);
	size = size_of_file(fd);
	close(fd);
	close_pool();
	copy_file("pool", pool_copy);
	for (size_t i = 0; i < ARRAY_SIZE(low) || low[3] + (i - 3) * 3 * BLOCK_SIZE / 2 < size; i++) {
		bool a_is_whole, b_is_whole, is;
		struct view v, w;
		struct err err;

		cut = i < ARRAY_SIZE(low) ? low[i] : low[3] + (i - 3) * 3 * BLOCK_SIZE / 2;
		assert_int_equal(truncate(in_tree(path), (off_t)cut), 0);
		if (!opens(false, &err))
			fail_msg("%s", err.text);
		expect_whole_or_not(&a, &a_is_whole);
		expect_whole_or_not(&b, &b_is_whole);
		check();
		assert_true(nr_said[POOL_CLUSTER_FILE] == 1 || (a_is_whole && b_is_whole));
		assert_int_equal(nr_said[POOL_DATA] == 0, a_is_whole && b_is_whole);
		nr_hit += nr_said[POOL_DATA] > 0;
		assert_true(opens(true, &err));
		import(&late);
		w = view_of(&late);
		if (view_write(pool, b.root, b.size, 12, &v, &err) == 0) {
			assert_true(b_is_whole);
			expect_view(&v);
		}
		repair_with(false, &left);
		again();
		expect_disk(&late);
		expect_view(&w);
		expect_whole_or_not(&a, &is);
		assert_int_equal(is, a_is_whole);
		expect_whole_or_not(&b, &is);
		assert_int_equal(is, b_is_whole);
		assert_int_equal(stat(in_tree(path), &st), 0);
		assert_true((uint64_t)st.st_size <= max_u64(cut, POOL_SLOT_SIZE + 2 * BLOCK_SIZE)); /* superblock, tombstone */
		import(&a); /* what is lost comes back with an image that has it */
		import(&b);
		repair_with(false, &left);
		assert_int_equal(left, 0);
		again();
		expect_disk(&a);
		expect_disk(&b);
		nr_left = check_data(); /* it stays cut, and needs nothing more */
		assert_int_equal(nr_left, nr_said[POOL_CLUSTER_FILE]);
		close_pool();
		remove_tree("pool");
		copy_file(pool_copy, "pool");
	}
	assert_true(nr_hit > 20);
	remove_tree(pool_copy);
	open_pool();
}

/* As the index says, or without one as they are read. */
static void maps_alone_tell_that_a_file_was_cut(void **unused)
{
	struct disk late = { .size = SEGMENT_SIZE, .pieces = { { 0, 512 * KIB, 91 } } };
	char path[200];
	struct stat st;

	(void)unused;
	for (unsigned i = 0; i < 2; i++) {
		import(&a);
		version_of("a", &a);
		snprintf(path, sizeof(path), "%s", i ? "pool" : file_path(POOL_SLOT));
		if (i) /* the file that grows */
			pool_id_file_name(cluster_file_id(clusters_growing(pool->clusters).file)->uuid, strcat(path, "/") + 5);
		close_pool();
		assert_int_equal(fstatat(pool_dirfd, path, &st, 0), 0);
		assert_int_equal(truncate(in_tree(path), st.st_size - 4096), 0);
		if (i)
			assert_int_equal(unlinkat(pool_dirfd, "pool/index/finder", 0), 0);
		open_pool();
		assert_int_equal(clusters_growing(pool->clusters).number, i);
		late.pieces[0].number += i;
		import(&late);
		assert_int_equal(clusters_growing(pool->clusters).number, i + 1);
		assert_int_equal(compare_disk(&a, false, NULL), -1);
		expect_disk(&late);
	}
}

/* A cluster file of an older time that lacks views alone: nothing leads behind its end.  But their stubs lead to their slots, which
 * nobody else gets. */
static void slots_of_views_that_are_lost_are_not_used_again(void **unused)
{
	struct disk late = { .size = SEGMENT_SIZE, .pieces = { { 0, 512 * KIB, 91 } } };
	char path[200];
	struct view v, w;

	(void)unused;
	make_it();
	snprintf(path, sizeof(path), "%s", file_path(POOL_SLOT));
	copy_file(path, "old");
	v = view_of(&b);
	close_pool();
	copy_file("old", path);
	open_pool();
	import(&late);
	w = view_of(&late);
	assert_true(w.slot != v.slot);
	assert_int_equal(w.slot / POOL_NR_SLOTS, 1);
	again();
	expect_disk(&a);
	expect_disk(&b);
	expect_disk(&late);
	expect_view(&w);
	assert_int_equal(view_check(pool, &v, NULL), -1);
	assert_int_equal(unlinkat(pool_dirfd, "old", 0), 0);
}

/* H5.  Files of different times: an old cluster file has not what the new nodes lead to, and the reverse. */
static void files_of_another_time(void **unused)
{
	static const enum pool_part parts[] = { POOL_SLOT, POOL_NODE };
	struct disk late = { .size = SEGMENT_SIZE, .pieces = { { 8192, 128 * KIB, 90 } } };
	struct view v;

	(void)unused;
	make_it();
	for (size_t i = 0; i < ARRAY_SIZE(parts); i++) {
		char path[200];

		snprintf(path, sizeof(path), "%s", file_path(parts[i]));
		copy_file(path, "old");
		late.pieces[0].number++;
		import(&late);
		v = view_of(&late);
		member_of("late", &late, &v);
		again();
		copy_file(path, "new");
		assert_int_equal(unlinkat(pool_dirfd, path, 0), 0);
		copy_file("old", path);
		expect_said(path);
		assert_int_equal(compare_disk(&late, false, NULL), -1); /* and what is older is there */
		expect_disk(&a);
		expect_disk(&b);
		assert_int_equal(pool_collect(pool, &(struct collect_options){ .memory = MIB }, &(struct collected){ 0 }, NULL),
				 -1);
		assert_int_equal(unlinkat(pool_dirfd, path, 0), 0);
		copy_file("new", path);
		again();
		expect_clean();
		expect_disk(&late);
		assert_int_equal(unlinkat(pool_dirfd, "new", 0), 0);
		assert_int_equal(unlinkat(pool_dirfd, "old", 0), 0);
	}
}

/* ---- repair (C5: data heal; C9: no collection before it) ---- */

static int repair_with(bool dry_run, uint64_t *left)
{
	const struct pool_repair_options o = { .dry_run = dry_run };
	struct err err = ERR_INIT;
	uint64_t repaired;

	if (pool_repair(pool, &o, &repaired, left, &err) < 0)
		fail_msg("%s", err.text);
	return (int)repaired;
}

/* Said first, then done; afterwards nothing is left, and a second one finds nothing. */
static void repair(void)
{
	uint64_t left;
	int said;

	again();
	assert_true(check_data() > 0);
	said = repair_with(true, &left);
	assert_int_equal(left, 0);
	again();
	assert_true(check_data() > 0);
	assert_int_equal(repair_with(false, &left), said);
	assert_int_equal(left, 0);
	again();
	expect_clean();
	assert_int_equal(repair_with(false, &left), 0);
	assert_int_equal(left, 0);
	assert_int_equal(view_find(pool, view.id, &view, NULL), 1);
	expect_view(&view);
}

static void collect(void)
{
	struct err err = ERR_INIT;
	struct collected c;

	if (pool_collect(pool, &(struct collect_options){ .memory = MIB }, &c, &err) < 0)
		fail_msg("%s", err.text);
}

static void one_bit(enum pool_part part, uint64_t at)
{
	int fd = open_by_hand(part);

	flip_bit(fd, at * 8 + 2);
	close(fd);
}

static void what_is_damaged_is_made_again(void **unused)
{
	char name[POOL_FILE_NAME_ROOM];
	uint64_t end, slot;

	(void)unused;
	make_it();
	end = view.slot * POOL_SLOT_SIZE + view.slice_size;
	for (uint64_t at = end - 4 * BLOCK_SIZE; at < end;
	     at = view.slot * POOL_SLOT_SIZE + view.slice_size - (end - at) + BLOCK_SIZE) {
		one_bit(POOL_TABLES, at + 6);
		slot = view.slot;
		repair();
		assert_true(view.slot > slot);
		if (at % 3)
			collect();
		expect_clean();
		at += (view.slot * POOL_SLOT_SIZE + view.slice_size) - end;
		end = view.slot * POOL_SLOT_SIZE + view.slice_size;
	}
	one_bit(POOL_SLOT, view.slot * POOL_SLOT_SIZE + 50);
	repair();
	one_bit(POOL_SLOT, 9);
	repair();
	one_bit(POOL_SLOT, POOL_COPY_AT + 30);
	repair();
	one_bit(POOL_STUB, 500);
	repair();
	assert_int_equal(unlinkat(pool->dirs[POOL_VIEWS], pool_id_file_name(view.id, name), 0), 0);
	repair();
	assert_int_equal(clusters_bury(pool->clusters, view.slot, NULL), 0);
	repair();
	for (int i = 0; i < 3; i++)
		collect();
	expect_clean();
}

/* From the tables and the data, as far as a view has it. */
static void nodes_are_made_again(void **unused)
{
	uint64_t left, size;
	int fd;

	(void)unused;
	import(&a);
	view = view_of(&a);
	member_of("a", &a, &view);
	again();
	fd = open_by_hand(POOL_NODE);
	size = size_of_file(fd);
	for (uint64_t at = 20; at < size; at += 90) {
		flip_bit(fd, at * 8);
		again();
		if (check() > 0 && nr_said[POOL_NODE] && strstr(last.what.text, "missing or damaged")) {
			assert_true(repair_with(true, &left) > 0);
			assert_true(repair_with(false, &left) > 0);
			assert_int_equal(left, 0);
			collect();
			again();
			assert_int_equal(check_data(), 0);
			expect_disk(&a);
			expect_view(&view);
			size = 0; /* the file is a new one */
		}
		flip_bit(fd, at * 8);
	}
	assert_int_equal(size, 0);
	close(fd);
}

/* A version of a, whose root is a delta of that of a. */
static struct disk later = { .size = 2 * SEGMENT_SIZE, .pieces = { { 0, 64 * KIB, 5 }, { SEGMENT_SIZE, 8 * KIB, 3 } } };

static uint64_t root_at(const struct disk *d)
{
	uint64_t at;

	assert_int_equal(nodes_locate(pool->nodes, d->root, 1, 0, &at, NULL), 1);
	return at;
}

static void make_versions(void)
{
	uint64_t base;

	make_it();
	import_on(&later, &a);
	version_of("later", &later);
	again();
	assert_int_equal(nodes_locate_base(pool->nodes, root_at(&later), &base, NULL), 1);
	assert_int_equal(base, root_at(&a));
}

static void every_bit_of_a_delta(void **unused)
{
	const uint64_t len = sizeof(struct pool_delta_disk) + 1 + DIGEST_SIZE; /* one child is another */
	uint64_t at;
	int fd;

	(void)unused;
	make_versions();
	at = root_at(&later);
	fd = open_by_hand(POOL_NODE);
	for (uint64_t bit = 0; bit < len * 8; bit++) {
		struct err err;

		flip_bit(fd, at * 8 + bit);
		assert_true(opens(bit % 2, &err));
		assert_int_equal(check(), 1);
		assert_int_equal(nr_said[POOL_NODE], 1);
		if (bit % 97 == 0)
			assert_int_equal(compare_disk(&later, false, NULL), -1);
		flip_bit(fd, at * 8 + bit);
	}
	close(fd);
	assert_true(opens(true, &(struct err){ 0 }));
	expect_clean();
	expect_disk(&later);
}

/* Its base has a view from which it is made again, and that serves the version, too. */
static void a_base_of_versions_is_made_again(void **unused)
{
	uint64_t left;

	(void)unused;
	make_versions();
	one_bit(POOL_NODE, root_at(&a) + 20);
	again();
	assert_int_equal(check(), 3); /* of both, and of the view of the one */
	assert_int_equal(nr_said[POOL_NODE], 2);
	assert_int_equal(compare_disk(&later, false, NULL), -1);
	assert_true(repair_with(false, &left) > 0);
	assert_int_equal(left, 0);
	again();
	expect_clean();
	expect_disk(&later);
	collect();
	expect_clean();
	expect_disk(&later);
}

/* A version has no view that could help: that is said, and nothing is made up. */
static void what_cannot_be_repaired_is_said(void **unused)
{
	uint64_t left = 0, from;
	struct err err = ERR_INIT;

	(void)unused;
	import(&a);
	view = view_of(&a);
	member_of("a", &a, &view);
	from = round_up(nodes_bytes(pool->nodes), BLOCK_SIZE);
	import(&b);
	version_of("b", &b);
	one_bit(POOL_NODE, from + 20);
	again();
	assert_true(check() > 0);
	assert_string_equal(last.path, "/images/b@b");
	repair_with(false, &left);
	assert_true(left > 0);
	expect_disk(&a);
	assert_int_equal(compare_disk(&b, false, &err), -1);
	import(&b); /* it comes again; the place that is damaged goes */
	assert_int_equal(repair_with(false, &left), 1);
	assert_int_equal(left, 0);
	collect();
	again();
	expect_clean();
}

/* Nothing is right that is not: a lost sealed overlay, and places in the file of nodes that are none. */
static void what_is_left_is_counted(void **unused)
{
	struct name n = { .kind = NAME_VERSION, .label = "sealed", .made = 1 };
	struct name_disk *d = calloc(1, sizeof(*d));
	uint64_t left, at;
	int fd;

	(void)unused;
	make_it();
	d->size = a.size;
	strcpy(d->path, "/images/a");
	memset(d->sealed, 7, POOL_ID_SIZE);
	assert_int_equal(vec_push(&n.disks, *d), 0);
	assert_int_equal(names_publish(pool, &n, true, NULL), 0);
	for (int i = 0; i < 2; i++) {
		assert_int_equal(repair_with(i == 0, &left), 0);
		assert_int_equal(left, 1);
	}
	forget(n.number);
	name_release(&n);
	free(d);
	fd = open_by_hand(POOL_NODE);
	at = round_up(size_of_file(fd), BLOCK_SIZE);
	assert_int_equal(pwrite(fd, "none", 4, (off_t)at), 4);
	close(fd);
	again();
	b.pieces[1].number++; /* what lies behind it is whole */
	import(&b);
	b.pieces[1].number--;
	import(&b);
	again();
	assert_int_equal(repair_with(true, &left), 1);
	assert_int_equal(repair_with(false, &left), 1);
	assert_int_equal(left, 0);
	assert_int_equal(repair_with(false, &left), 0);
	close_pool();
	open_pool_for(false);
	expect_clean();
}

static bool opens_for_repair(struct err *err)
{
	close_pool();
	*err = ERR_INIT;
	return pool_open_with(pool_dirfd, "pool", pool_path, POOL_TO_REPAIR, POOL_MEMORY, &pool, err) == 0 && pool;
}

/* It stays missing until somebody repairs it, and does not look whole then, for what views do not have is lost. */
static void a_file_of_nodes_that_is_gone_is_made_again(void **unused)
{
	uint64_t left, left_dry;
	struct err err;
	char path[200];
	int said;

	(void)unused;
	make_it();
	snprintf(path, sizeof(path), "%s", file_path(POOL_NODE));
	assert_int_equal(unlinkat(pool_dirfd, path, 0), 0);
	for (int writing = 0; writing < 2; writing++) {
		assert_false(opens(writing, &err));
		assert_int_equal(err.kind, ERR_FORMAT);
		assert_non_null(strstr(err.text, "dedupscan pool repair"));
	}
	for (int i = 0; i < 2; i++) {
		assert_true(opens_for_repair(&err));
		said = repair_with(true, &left_dry);
		assert_true(said >= 2); /* the file, a tree */
		assert_int_equal(left_dry, 1); /* what a version had */
		assert_false(opens(true, &err));
	}
	assert_true(opens_for_repair(&err));
	assert_int_equal(repair_with(false, &left), said);
	assert_int_equal(left, left_dry);
	assert_true(opens(true, &err));
	expect_disk(&a);
	expect_view(&view);
	assert_int_equal(compare_disk(&b, false, NULL), -1);
	assert_true(check() > 0);
	assert_string_equal(last.path, "/images/b@b");
	import(&b);
	again();
	expect_clean();
	assert_true(opens_for_repair(&err)); /* it is there */
	assert_int_equal(repair_with(false, &left), 0);
	again();
	expect_clean();
}

/* Tables that lead behind the disk's end are no reason to die. */
static void tables_that_say_too_much_are_refused(void **unused)
{
	uint64_t left, end;
	uint8_t entry[8];
	int fd;

	(void)unused;
	import(&b); /* two segments, of which the second has 512 bytes */
	view = view_of(&b);
	member_of("b", &b, &view);
	again();
	end = view.slot * POOL_SLOT_SIZE + view.slice_size;
	fd = open_by_hand(POOL_TABLES);
	assert_int_equal(pread(fd, entry, 8, (off_t)end - 2 * BLOCK_SIZE), 8);
	for (int i = 1; i < 4; i++) /* entries of the L1 table that are behind its end, too */
		assert_int_equal(pwrite(fd, entry, 8, (off_t)end - 2 * BLOCK_SIZE + 8 * i), 8);
	close(fd);
	one_bit(POOL_NODE, 20);
	again();
	repair_with(true, &left);
	repair_with(false, &left);
	assert_true(left > 0);
}

/* In the header, the tables and the stub of a, and in all nodes. */
static void damage_something(void)
{
	uint64_t at = view.slot * POOL_SLOT_SIZE, nr = random_below(4) + 1;
	enum pool_part part;

	while (nr--) {
		switch (random_below(6)) {
		case 0:
			part = POOL_SLOT, at += random_below(BLOCK_SIZE);
			break;
		case 1:
		case 2:
			part = POOL_TABLES, at += view.slice_size - BLOCK_SIZE * (1 + random_below(4)) + random_below(16);
			break;
		case 3:
			part = POOL_STUB, at = random_below(4 * KIB);
			break;
		default:
			part = POOL_NODE, at = random_below(nodes_bytes(pool->nodes));
		}
		one_bit(part, at);
		at = view.slot * POOL_SLOT_SIZE;
	}
}

static unsigned nr_that(enum repairable repairable)
{
	unsigned nr = 0;

	for (unsigned i = 0; i < POOL_NR_PARTS; i++)
		nr += nr_repairable[i][repairable];
	return nr;
}

/* "Can" is kept, whatever else is damaged; and "may" is said where it turns out either way. */
static void repair_can_what_a_check_says(void **unused)
{
	unsigned nr_can = 0, nr_did = 0, nr_did_not = 0;
	struct view before;

	(void)unused;
	make_it();
	before = view;
	close_pool();
	copy_file("pool", "kept");
	for (unsigned i = 0; i < (getenv("LONG") ? 3000 : 300); i++) {
		bool can, may, cannot;
		uint64_t left;

		open_pool();
		damage_something();
		close_pool();
		open_pool_for(false);
		check_data();
		can = nr_repairable[POOL_TABLES][REPAIR_CAN] || nr_repairable[POOL_STUB][REPAIR_CAN];
		may = nr_that(REPAIR_MAY);
		cannot = nr_that(REPAIR_CANNOT);
		again();
		repair_with(false, &left);
		if (can && (view_find(pool, view.id, &view, NULL) <= 0 || view_check(pool, &view, NULL) < 0 ||
			    view_check_stub(pool, &view, POOL_VIEWS, NULL) < 0))
			fail_msg("round %u: a view that repair can rebuild is not", i);
		if (left && !may && !cannot)
			fail_msg("round %u: %s: %s", i, pool_part_names[last.part], last.what.text);
		nr_can += can;
		nr_did += may && !left;
		nr_did_not += may && !cannot && left;
		close_pool();
		remove_tree("pool");
		copy_file("kept", "pool");
		view = before;
	}
	print_message("%u could, %u might and did, %u might and did not\n", nr_can, nr_did, nr_did_not);
	assert_true(nr_can && nr_did && nr_did_not);
	remove_tree("kept");
	open_pool();
}

/* A guest has the stub open whose header is gone: its tables are somewhere, and nothing is taken from it. */
static void repair_waits_for_guests(void **unused)
{
	const struct collect_options o = { .memory = MIB };
	struct collected c;
	uint64_t left;
	int guest;

	(void)unused;
	make_it();
	one_bit(POOL_SLOT, view.slot * POOL_SLOT_SIZE + 50);
	again();
	guest = open_file_in(POOL_VIEWS, view.id);
	repair_with(false, &left);
	assert_int_equal(left, 2);
	assert_int_equal(pool_collect(pool, &o, &c, NULL), -1);
	close(guest);
	repair();
	collect();
	expect_clean();
}

static void repair_waits_for_guests_with_an_old_stub(void **unused)
{
	const struct slice_reading tables = { .l2 = MIB };
	const struct collect_options o = { .memory = MIB };
	char kept[VIEW_KEPT_STUB_ROOM];
	struct collected c;
	uint64_t left;
	int guest;

	(void)unused;
	make_it();
	guest = open_file_in(POOL_VIEWS, view.id);
	assert_int_equal(view_write_stub_to_read(pool, &view, &tables, view_kept_stub(&view, kept), NULL), 0);
	one_bit(POOL_SLOT, view.slot * POOL_SLOT_SIZE + 50);
	again();
	repair_with(false, &left);
	assert_int_equal(left, 1);
	assert_int_equal(pool_collect(pool, &o, &c, NULL), -1);
	close(guest);
	repair();
	collect();
	expect_clean();
}

static void data_heal_when_an_image_has_them(void **unused)
{
	static struct leaf leaf;
	uint8_t digest[DIGEST_SIZE], *p = malloc(SEGMENT_SIZE);
	uint64_t left, at;
	struct err err = ERR_INIT;

	(void)unused;
	make_it();
	render(&a, 0, p);
	digest_bytes(p, SEGMENT_SIZE, digest);
	assert_int_equal(nodes_find_leaf(pool->nodes, digest, 12, &leaf, NULL), 1);
	at = leaf.runs[leaf.nr_runs - 1].place << 12;
	one_bit(POOL_DATA, at + 3);
	again();
	assert_int_equal(check(), 0);
	assert_int_equal(check_data(), 1);
	assert_int_equal(last.part, POOL_DATA);
	assert_string_equal(last.path, "/images/a");
	assert_int_equal(last.offset, 0);
	assert_int_equal(last.len, SEGMENT_SIZE);
	assert_int_equal(compare_disk(&a, false, &err), -1);
	expect_disk(&b);
	assert_int_equal(repair_with(false, &left), 0); /* nothing can be made of nothing */
	import(&a);
	expect_disk(&a);
	assert_int_equal(check_data(), 1); /* the view still leads to the old bytes */
	assert_int_equal(nr_said[POOL_TABLES], 1);
	repair();
	for (int i = 0; i < 3; i++)
		collect();
	expect_clean();
	free(p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		pool_test(every_bit_of_the_superblock),
		pool_test(every_bit_of_headers_and_tables),
		pool_test(every_bit_of_a_stub),
		pool_test(every_bit_of_a_name),
		pool_test(every_bit_of_the_nodes),
		pool_test(bits_of_the_index),
		pool_test(every_bit_of_the_index_is_found),
		pool_test(random_bits_of_the_data),
		pool_test(shares_of_the_data_add_up),
		pool_test(files_that_are_gone_cut_or_long),
		pool_test(a_file_that_was_cut_gets_nothing_more),
		pool_test(maps_alone_tell_that_a_file_was_cut),
		pool_test(slots_of_views_that_are_lost_are_not_used_again),
		pool_test(files_of_another_time),
		pool_test(what_is_damaged_is_made_again),
		pool_test(nodes_are_made_again),
		pool_test(every_bit_of_a_delta),
		pool_test(a_base_of_versions_is_made_again),
		pool_test(what_cannot_be_repaired_is_said),
		pool_test(what_is_left_is_counted),
		pool_test(a_file_of_nodes_that_is_gone_is_made_again),
		pool_test(tables_that_say_too_much_are_refused),
		pool_test(repair_can_what_a_check_says),
		pool_test(repair_waits_for_guests),
		pool_test(repair_waits_for_guests_with_an_old_stub),
		pool_test(data_heal_when_an_image_has_them),
	};

	mallopt(M_MMAP_THRESHOLD, 1 << 28); /* buffers come and go for each bit */
	mallopt(M_TRIM_THRESHOLD, 1 << 28);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
