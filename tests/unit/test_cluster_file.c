/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/tree_help.h"

#include <sys/wait.h>

#include "compactor/pool/cluster_file.h"
#include "scanner/base/checked.h"
#include "scanner/base/crc32c.h"
#include "scanner/base/file.h"

#define NAME "c.qcow2"
#define FIRST POOL_DATA_BEGIN
#define NOBODY 65534

static const uint8_t uuid[POOL_ID_SIZE] = { 0x10, 0x32, 0x54, 0x76, 0x98, 0xba, 0x4c, 0xdc, 0x8e, 0xef, 1, 2, 3, 4, 5, 6 };

static int dir; /* the tree, once it was asked for */

/* In memory where there is a /dev/shm: syncs cost nothing there. */
static int setup(void **state)
{
	char made[] = "/dev/shm/tree-XXXXXX";

	dir = -1;
	if (mkdtemp(made) && realpath(made, tree))
		return 0;
	return tree_make(state);
}

static int teardown(void **state)
{
	file_ops = &file_ops_os;
	close(dir);
	return tree_remove(state);
}

#define cluster_test(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

static uint64_t random_state = 1;

static uint64_t below(uint64_t n)
{
	random_state = random_state * UINT64_C(6364136223846793005) + 1442695040888963407;
	return (random_state >> 20) % n;
}

static int the_dir(void)
{
	return dir >= 0 ? dir : (dir = open(tree, O_RDONLY | O_DIRECTORY));
}

static void create(void)
{
	struct err err = ERR_INIT;

	if (cluster_file_create(the_dir(), NAME, uuid, &err) < 0)
		fail_msg("%s", err.text);
}

static struct cluster_file *try_open(bool writing, struct err *err)
{
	return cluster_file_open(the_dir(), NAME, writing, err);
}

static struct cluster_file *open_it(bool writing)
{
	struct err err = ERR_INIT;
	struct cluster_file *f = try_open(writing, &err);

	if (!f)
		fail_msg("%s", err.text);
	return f;
}

static void expect_refused(bool writing, enum err_kind kind, const char *text)
{
	struct err err = ERR_INIT;
	struct cluster_file *f = try_open(writing, &err);

	if (f || err.kind != kind || !strstr(err.text, text))
		fail_msg("%s instead of '%s'", f ? "opened" : err.text, text);
}

static struct stat stat_it(void)
{
	struct stat st;

	assert_int_equal(stat(in_tree(NAME), &st), 0);
	return st;
}

static void overwrite(uint64_t at, const void *p, size_t len)
{
	int fd = open(in_tree(NAME), O_RDWR);

	assert_int_equal(pwrite(fd, p, len, (off_t)at), len);
	close(fd);
}

static uint64_t append(struct cluster_file *f, const void *p, size_t len, uint64_t align)
{
	struct err err = ERR_INIT;
	uint64_t at = 0;

	if (cluster_file_append(f, p, len, align, &at, &err) < 0)
		fail_msg("%s", err.text);
	return at;
}

/* ---- making and opening ---- */

static void a_new_file_is_what_the_format_says(void **state)
{
	static const uint8_t magic[] = "ddspool\n\1\0\0\0\0\0\0\0\0\0\0\0";
	uint8_t b[BLOCK_SIZE], expected[BLOCK_SIZE] = { 0 };
	struct stat st;
	int fd;

	(void)state;
	umask(0077);
	create();
	umask(0022);
	st = stat_it();
	assert_int_equal(st.st_size, FIRST);
	assert_int_equal(st.st_mode, S_IFREG | 0444);
	assert_true((uint64_t)st.st_blocks * 512 <= 3 * BLOCK_SIZE);
	fd = open(in_tree(NAME), O_RDONLY);
	assert_int_equal(read(fd, b, sizeof(b)), sizeof(b));
	memcpy(expected, magic, 20);
	memcpy(expected + 20, uuid, 16);
	memcpy(expected + 40, "\0\0\1\0\0\0\0\0" "\0\0\x10\0\0\0\0\0"
	       "\0\0\0\0\x10\0\0\0", 24);
	le32_store(expected + 64, crc32c_baseline(0, expected, 64));
	assert_memory_equal(b, expected, sizeof(b));
	assert_int_equal(pread(fd, b, sizeof(b), POOL_COPY_AT), sizeof(b));
	assert_memory_equal(b, expected, sizeof(b));
	close(fd);
	assert_int_equal(access(in_tree(NAME ".new"), F_OK), -1);
}

static void overwrite_both(const uint8_t p[POOL_SUPERBLOCK_ROOM])
{
	overwrite(0, p, POOL_SUPERBLOCK_ROOM);
	overwrite(POOL_COPY_AT, p, POOL_SUPERBLOCK_ROOM);
}

static void what_is_not_right_is_refused(void **state)
{
	uint8_t b[POOL_SUPERBLOCK_ROOM], bad[POOL_SUPERBLOCK_ROOM];
	struct cluster_file_id id;
	int fd;

	(void)state;
	create();
	fd = open(in_tree(NAME), O_RDONLY);
	assert_int_equal(read(fd, b, sizeof(b)), sizeof(b));
	close(fd);
	assert_int_equal(superblock_decode(b, true, &id, NULL), 0);
	assert_memory_equal(id.uuid, uuid, POOL_ID_SIZE);
	assert_memory_equal(id.pool, uuid, POOL_ID_SIZE);
	assert_int_equal(id.number, 0);
	for (size_t i = 0; i < 68; i++) {
		memcpy(bad, b, sizeof(b));
		bad[i] ^= 1;
		assert_int_equal(superblock_decode(bad, false, &id, NULL), -1);
		overwrite_both(bad);
		expect_refused(false, ERR_FORMAT, i < 8 ? "no superblock" : "checksum");
		if (i >= 36) { /* also with a right checksum */
			le32_store(bad + 64, crc32c(0, bad, 64));
			assert_int_equal(superblock_decode(bad, false, &id, NULL), i < 40 || i >= 64 ? 0 : -1);
		}
	}
	memcpy(bad, b, sizeof(b));
	bad[8] = 3; /* H1 */
	le32_store(bad + 64, crc32c(0, bad, 64));
	overwrite_both(bad);
	expect_refused(false, ERR_UNSUPPORTED, "newer dedupscan (version 3)");
	for (int i = 0; i < 2; i++) { /* one is enough: the other may not have followed yet */
		overwrite_both(b);
		overwrite(i ? POOL_COPY_AT : 0, bad, sizeof(bad));
		expect_refused(false, ERR_UNSUPPORTED, "newer dedupscan (version 3)");
	}
	memcpy(bad, b, sizeof(b));
	bad[12] = 1;
	le32_store(bad + 64, crc32c(0, bad, 64));
	overwrite_both(bad);
	expect_refused(false, ERR_UNSUPPORTED, "newer dedupscan can read");
	memcpy(bad, b, sizeof(b));
	bad[16] = 1;
	le32_store(bad + 64, crc32c(0, bad, 64));
	overwrite_both(bad);
	expect_refused(true, ERR_UNSUPPORTED, "newer dedupscan can write");
	cluster_file_close(open_it(false));
	memcpy(bad, b, sizeof(b));
	memset(bad + 20, 0, 16);
	le32_store(bad + 64, crc32c(0, bad, 64));
	overwrite_both(bad);
	expect_refused(false, ERR_FORMAT, "no id");
}

static bool is_damaged(const struct cluster_file *f, const char *text)
{
	struct err why = ERR_INIT;
	bool damaged = cluster_file_other_is_damaged(f, &why);

	assert_int_equal(damaged, why.kind != ERR_NONE);
	if (damaged && !strstr(why.text, text))
		fail_msg("%s", why.text);
	return damaged;
}

static void read_superblock(uint64_t at, uint8_t ret[BLOCK_SIZE])
{
	int fd = open(in_tree(NAME), O_RDONLY);

	assert_int_equal(pread(fd, ret, BLOCK_SIZE, (off_t)at), BLOCK_SIZE);
	close(fd);
}

/* Whichever is damaged, the other one is used, and makes it anew. */
static void one_of_two_superblocks_will_do(void **state)
{
	static const uint64_t places[] = { 0, POOL_COPY_AT };
	uint8_t good[BLOCK_SIZE], bad[BLOCK_SIZE];
	struct err err = ERR_INIT;

	(void)state;
	create();
	read_superblock(0, good);
	for (size_t bit = 0; bit < 2 * 8 * 68; bit++) {
		uint64_t at = places[bit % 2];
		struct cluster_file *f;

		memcpy(bad, good, sizeof(bad));
		bad[bit / 16] ^= (uint8_t)(1 << bit / 2 % 8);
		overwrite(at, bad, sizeof(bad));
		f = open_it(false);
		assert_true(is_damaged(f, at ? "at offset 32768: " : "at offset 0: "));
		assert_memory_equal(cluster_file_id(f)->uuid, uuid, sizeof(uuid));
		cluster_file_close(f);
		f = open_it(true);
		assert_false(cluster_file_lacks_copy(f));
		if (cluster_file_write_other(f, &err) < 0)
			fail_msg("%s", err.text);
		assert_false(is_damaged(f, ""));
		cluster_file_close(f);
		for (size_t i = 0; i < 2; i++) {
			read_superblock(places[i], bad);
			assert_memory_equal(bad, good, sizeof(bad));
		}
	}
	assert_int_equal(stat_it().st_mode & 07777, 0444);
}

static void a_file_with_one_superblock_gets_the_other(void **state)
{
	static const uint8_t nothing[BLOCK_SIZE];
	uint8_t good[BLOCK_SIZE], is[BLOCK_SIZE];
	struct cluster_file *f;

	(void)state;
	create();
	read_superblock(0, good);
	overwrite(POOL_COPY_AT, nothing, sizeof(nothing));
	f = open_it(true);
	assert_false(is_damaged(f, ""));
	assert_true(cluster_file_lacks_copy(f));
	append(f, "hello", 5, 1);
	assert_int_equal(cluster_file_write_other(f, NULL), 0);
	append(f, "there", 5, 1);
	assert_int_equal(cluster_file_sync(f, NULL), 0);
	cluster_file_close(f);
	read_superblock(POOL_COPY_AT, is);
	assert_memory_equal(is, good, sizeof(is));
	overwrite(0, nothing, sizeof(nothing)); /* the first one is never to be missing */
	f = open_it(true);
	assert_true(is_damaged(f, "no superblock"));
	cluster_file_close(f);
}

static void a_copy_of_another_file_is_damage(void **state)
{
	uint8_t other[BLOCK_SIZE] = { 0 };
	struct cluster_file *f;

	(void)state;
	create();
	read_superblock(0, other);
	other[20] ^= 1;
	le32_store(other + 64, crc32c(0, other, 64));
	overwrite(POOL_COPY_AT, other, sizeof(other));
	f = open_it(true);
	assert_memory_equal(cluster_file_id(f)->uuid, uuid, sizeof(uuid));
	assert_true(is_damaged(f, "another file"));
	cluster_file_close(f);
}

static void other_files_are_refused(void **state)
{
	(void)state;
	create();
	assert_int_equal(truncate(in_tree(NAME), 67), 0);
	expect_refused(false, ERR_FORMAT, "checksum");
	assert_int_equal(truncate(in_tree(NAME), 0), 0);
	expect_refused(true, ERR_FORMAT, "no superblock");
	assert_int_equal(unlink(in_tree(NAME)), 0);
	create();
	assert_int_equal(rename(in_tree(NAME), in_tree("elsewhere")), 0);
	expect_refused(false, ERR_IO, "No such file");
	assert_int_equal(symlink("elsewhere", in_tree(NAME)), 0);
	expect_refused(true, ERR_REFUSED, "symbolic link");
	assert_int_equal(unlink(in_tree(NAME)), 0);
	assert_int_equal(mkfifo(in_tree(NAME), 0600), 0);
	expect_refused(true, ERR_REFUSED, "regular file");
}

static void its_mode_is_put_right(void **state)
{
	(void)state;
	create();
	assert_int_equal(chmod(in_tree(NAME), 0666), 0);
	cluster_file_close(open_it(false));
	assert_int_equal(stat_it().st_mode & 07777, 0666);
	cluster_file_close(open_it(true));
	assert_int_equal(stat_it().st_mode & 07777, 0444);
}

/* A child that is not root makes, opens and writes one. */
static void users_that_are_not_root_write_to_their_own(void **state)
{
	struct err err = ERR_INIT;
	int status;
	pid_t pid;

	(void)state;
	if (geteuid() != 0) {
		print_message("needs root\n");
		skip();
	}
	assert_int_equal(chown(tree, NOBODY, NOBODY), 0);
	pid = fork();
	if (pid == 0) {
		struct cluster_file *f;

		if (setgid(NOBODY) < 0 || setuid(NOBODY) < 0)
			_exit(9);
		create();
		if (open(in_tree(NAME), O_RDWR) >= 0)
			_exit(8);
		f = open_it(true);
		if (stat_it().st_mode != (S_IFREG | 0444))
			_exit(7);
		append(f, "hello", 5, 1);
		_exit(cluster_file_sync(f, NULL) < 0 ? 6 : 0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	assert_int_equal(stat_it().st_size, FIRST + 5);
	/* one that libvirt gave away is not theirs */
	assert_int_equal(chown(in_tree(NAME), 0, 0), 0);
	pid = fork();
	if (pid == 0) {
		struct cluster_file *f;
		uint64_t at;

		if (setuid(NOBODY) < 0 || !(f = try_open(true, &err)) || cluster_file_append(f, "hello", 5, 1, &at, &err) < 0)
			_exit(9);
		_exit(cluster_file_sync(f, &err) == 0 || err.errnum != EPERM || stat_it().st_mode != (S_IFREG | 0444) ? 8 : 0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

/* ---- appending and reading ---- */

#define MODEL (24 << 20)
static uint8_t model[MODEL];

static void check_against_model(struct cluster_file *f, uint64_t offset, size_t len)
{
	static uint8_t buf[4 << 20];
	struct err err = ERR_INIT;

	if (cluster_file_read(f, buf, len, offset, &err) < 0)
		fail_msg("%s", err.text);
	assert_memory_equal(buf, model + (offset - FIRST), len);
}

static void what_was_appended_is_read_wherever_it_is(void **state)
{
	struct cluster_file *f;
	uint64_t end = FIRST, at;

	(void)state;
	memset(model, 0, sizeof(model));
	create();
	f = open_it(true);
	assert_int_equal(cluster_file_end(f), FIRST);
	assert_memory_equal(cluster_file_id(f)->uuid, uuid, sizeof(uuid));
	while (end < FIRST + MODEL - (4 << 20)) {
		size_t len = below(20) ? 1 + below(below(8) ? 9000 : 300000) : 1 + below(3 << 20);
		uint64_t align = (uint64_t)1 << below(17), step = below(200);

		at = round_up(end, align) - FIRST;
		for (size_t i = 0; i < len; i++)
			model[at + i] = (uint8_t)(1 + (at + i * 7) % 255);
		assert_int_equal(append(f, model + at, len, align), at + FIRST);
		end = at + FIRST + len;
		assert_int_equal(cluster_file_end(f), end);
		if (step < 4) {
			assert_int_equal(cluster_file_flush(f, NULL), 0);
		} else if (step < 6) {
			assert_int_equal(cluster_file_sync(f, NULL), 0);
		} else if (step < 8) {
			assert_int_equal(cluster_file_flush(f, NULL), 0);
			cluster_file_close(f);
			f = open_it(true);
			end = round_up(end, 65536);
			assert_int_equal(cluster_file_end(f), end);
		}
		at = FIRST + below(end - FIRST);
		check_against_model(f, at, min_u64(end - at, 1 + below(4 << 20)));
	}
	assert_int_equal(cluster_file_sync(f, NULL), 0);
	cluster_file_close(f);
	f = open_it(false);
	assert_int_equal(cluster_file_end(f), end);
	for (at = FIRST; at < end; at += 1 << 20)
		check_against_model(f, at, min_u64(end - at, 1 << 20));
	cluster_file_close(f);
}

static void nothing_is_read_past_the_end_or_before_the_data(void **state)
{
	static const struct { uint64_t offset, len; } tries[] = {
		{ FIRST + 6, 1 }, { FIRST, 6 }, { 0, 1 }, { POOL_DATA_BEGIN - 1, 2 }, { UINT64_MAX, 1 }, { FIRST + 1, SIZE_MAX },
	};
	struct cluster_file *f;
	char buf[8];

	(void)state;
	create();
	for (int writing = 1; writing >= 0; writing--) {
		f = open_it(writing);
		if (writing)
			append(f, "hello", 5, 1);
		for (size_t i = 0; i < ARRAY_SIZE(tries); i++) {
			struct err err = ERR_INIT;

			assert_int_equal(cluster_file_read(f, buf, tries[i].len, tries[i].offset, &err), -1);
			assert_int_equal(err.kind, ERR_FORMAT);
		}
		assert_int_equal(cluster_file_read(f, buf, 5, FIRST, NULL), 0);
		assert_memory_equal(buf, "hello", 5);
		assert_int_equal(cluster_file_read(f, buf, 0, FIRST + 5, NULL), 0);
		if (writing)
			assert_int_equal(cluster_file_flush(f, NULL), 0);
		cluster_file_close(f);
	}
}

static void gaps_are_holes(void **state)
{
	struct cluster_file *f;
	static char block[4096] = "x";
	uint64_t before;

	(void)state;
	create();
	before = (uint64_t)stat_it().st_blocks;
	f = open_it(true);
	for (int i = 0; i < 16; i++)
		assert_int_equal(append(f, block, sizeof(block), 65536), FIRST + (uint64_t)i * 65536);
	assert_int_equal(cluster_file_sync(f, NULL), 0);
	cluster_file_close(f);
	assert_true((uint64_t)stat_it().st_blocks - before <= 16 * sizeof(block) / 512 + 64);
}

/* Nothing that another process may have been told is given out again. */
static void the_next_opener_begins_behind_all_that_is_there(void **state)
{
	struct cluster_file *f;

	(void)state;
	create();
	f = open_it(true);
	append(f, "hello", 5, 1);
	cluster_file_close(f); /* nothing was written */
	f = open_it(true);
	assert_int_equal(append(f, "hello", 5, 1), FIRST);
	assert_int_equal(cluster_file_flush(f, NULL), 0);
	append(f, "hello", 5, 1);
	cluster_file_close(f);
	f = open_it(true);
	assert_int_equal(append(f, "there", 5, 1), FIRST + 65536);
	cluster_file_close(f);
}

static void a_full_file_says_so(void **state)
{
	static uint8_t cluster[65536];
	struct err err = ERR_INIT;
	struct cluster_file *f;
	uint64_t at, max;

	(void)state;
	create();
	f = open_it(false);
	max = cluster_file_end(f) + cluster_file_room(f);
	cluster_file_close(f);
	assert_int_equal(truncate(in_tree(NAME), (off_t)(max - 65537)), 0);
	f = open_it(true);
	assert_int_equal(cluster_file_room(f), 65536);
	assert_int_equal(cluster_file_append(f, cluster, 65536, 1, &at, NULL), 0);
	assert_int_equal(at, max - 65536);
	assert_int_equal(cluster_file_room(f), 0);
	assert_int_equal(cluster_file_append(f, cluster, 1, 1, &at, &err), -1);
	assert_int_equal(err.kind, ERR_FULL);
	assert_int_equal(cluster_file_sync(f, NULL), 0);
	cluster_file_close(f);
	assert_int_equal(stat_it().st_size, max);
}

static off_t longest_file;

static off_t seek_in_short_files(int fd, off_t offset, int whence)
{
	return whence == SEEK_SET && offset > longest_file ? (errno = EINVAL, -1) : lseek(fd, offset, whence);
}

/* ext4 ends files at 16 TiB, with blocks of 1 KiB at 4 TiB, XFS at 8 EiB. */
static void it_may_grow_as_the_file_system_has_it(void **state)
{
	static const uint64_t ends[][2] = {
		{ 8 << 20, 1 << 10 }, { 16 << 10, 12 << 10 }, { 4 << 10, 3 << 10 }, { 1 << 10, 768 }, { 256, 192 }, { 100, 192 },
	};
	struct file_ops ops = *file_ops;

	(void)state;
	create();
	ops.lseek = seek_in_short_files;
	file_ops = &ops;
	for (size_t i = 0; i < sizeof(ends) / sizeof(*ends); i++) {
		struct cluster_file *f;

		longest_file = (off_t)(ends[i][0] << 30);
		f = open_it(false);
		assert_int_equal(cluster_file_max(f), i ? ends[i][1] << 30 : POOL_FILE_MAX);
		assert_int_equal(cluster_file_end(f) + cluster_file_room(f), cluster_file_max(f));
		cluster_file_close(f);
	}
	file_ops = &file_ops_os;
}

static void punching_makes_holes_in_the_data_only(void **state)
{
	static char buf[65536], block[4096];
	struct cluster_file *f;
	uint64_t before;

	(void)state;
	memset(buf, 'x', sizeof(buf));
	create();
	f = open_it(true);
	append(f, buf, sizeof(buf), 65536);
	append(f, buf, sizeof(buf), 65536); /* still buffered */
	assert_int_equal(cluster_file_flush(f, NULL), 0);
	before = (uint64_t)stat_it().st_blocks;
	assert_int_equal(cluster_file_punch(f, FIRST + 4096, 65536, NULL), 0);
	assert_true((uint64_t)stat_it().st_blocks <= before - 65536 / 512);
	for (uint64_t at = 0; at < 2 * sizeof(buf); at += sizeof(block)) {
		assert_int_equal(cluster_file_read(f, block, sizeof(block), FIRST + at, NULL), 0);
		assert_int_equal(block[5], at < 4096 || at >= 65536 + 4096 ? 'x' : 0);
	}
	for (int i = 0; i < 3; i++) {
		const uint64_t offsets[] = { FIRST - 4096, FIRST + 65536, 65536 };
		struct err err = ERR_INIT;

		assert_int_equal(cluster_file_punch(f, offsets[i], 2 * 65536, &err), -1);
		assert_int_equal(err.kind, ERR_FORMAT);
	}
	cluster_file_close(f);
}

/* ---- when the system says no ---- */

static struct file_ops ops;
static unsigned nr_writes, nr_syncs, fail_write, fail_sync;
static uint64_t header_at, unsynced;

static ssize_t counted_pwrite(int fd, const void *buf, size_t len, off_t offset)
{
	if (++nr_writes == fail_write)
		return errno = ENOSPC, -1;
	if ((uint64_t)offset < POOL_DATA_BEGIN) {
		assert_int_equal(unsynced, 0); /* what a header leads to comes first */
		header_at = nr_writes + nr_syncs;
	}
	unsynced++;
	return pwrite(fd, buf, len, offset);
}

static int counted_fdatasync(int fd)
{
	(void)fd;
	if (++nr_syncs == fail_sync)
		return errno = EIO, -1;
	unsynced = 0;
	return 0;
}

static void count(void)
{
	ops = file_ops_os;
	ops.pwrite = counted_pwrite;
	ops.fdatasync = counted_fdatasync;
	nr_writes = nr_syncs = fail_write = fail_sync = 0;
	unsynced = header_at = 0;
	file_ops = &ops;
}

static void appends_become_few_large_writes(void **state)
{
	static uint8_t cluster[4096] = "x";
	struct cluster_file *f;

	(void)state;
	create();
	f = open_it(true);
	count();
	for (int i = 0; i < 10 * 128; i++)
		append(f, cluster, sizeof(cluster), 4096);
	assert_int_equal(cluster_file_sync(f, NULL), 0);
	assert_int_equal(nr_writes, 10);
	assert_int_equal(nr_syncs, 1);
	assert_int_equal(cluster_file_sync(f, NULL), 0); /* nothing to do */
	assert_int_equal(nr_syncs, 1);
	cluster_file_close(f);
}

static void long_ones_are_written_at_once_behind_what_waits(void **state)
{
	CLEANUP(free) uint8_t *p = calloc(1, SEGMENT_SIZE);
	uint8_t got[6];
	struct cluster_file *f;
	uint64_t at;

	(void)state;
	create();
	f = open_it(true);
	memset(p, 'p', SEGMENT_SIZE);
	count();
	assert_int_equal(append(f, p, SEGMENT_SIZE, 4096), FIRST);
	assert_int_equal(nr_writes, 1);
	append(f, "short", 5, 4096);
	assert_int_equal(nr_writes, 1);
	fail_write = 3;
	assert_int_equal(cluster_file_append(f, p, SEGMENT_SIZE, 65536, &at, NULL), -1);
	assert_int_equal(nr_writes, 3);
	at = cluster_file_end(f); /* nothing was appended */
	assert_in_range(at, FIRST + SEGMENT_SIZE + 5, FIRST + SEGMENT_SIZE + 65536);
	assert_int_equal(append(f, p, SEGMENT_SIZE, 65536), FIRST + SEGMENT_SIZE + 65536);
	assert_int_equal(nr_writes, 4);
	append(f, "end", 4, 1);
	assert_int_equal(cluster_file_read(f, got, 6, FIRST + 2 * SEGMENT_SIZE + 65536 - 2, NULL), 0);
	assert_memory_equal(got, "ppend", 6);
	cluster_file_close(f);
	f = open_it(false);
	assert_int_equal(cluster_file_read(f, got, 6, FIRST + SEGMENT_SIZE, NULL), 0);
	assert_memory_equal(got, "short", 6);
	assert_int_equal(cluster_file_read(f, got, 2, FIRST + 2 * SEGMENT_SIZE + 65536 - 2, NULL), 0);
	assert_memory_equal(got, "pp", 2);
	cluster_file_close(f);
}

static void a_failed_write_is_tried_again(void **state)
{
	struct err err = ERR_INIT;
	struct cluster_file *f;
	char buf[5];

	(void)state;
	create();
	f = open_it(true);
	count();
	append(f, "hello", 5, 1);
	fail_write = 1;
	assert_int_equal(cluster_file_sync(f, &err), -1);
	assert_int_equal(err.kind, ERR_FULL);
	assert_int_equal(nr_syncs, 0);
	assert_int_equal(cluster_file_read(f, buf, 5, FIRST, NULL), 0);
	assert_memory_equal(buf, "hello", 5);
	assert_int_equal(append(f, "there", 5, 1), FIRST + 5);
	assert_int_equal(cluster_file_sync(f, NULL), 0);
	cluster_file_close(f);
	f = open_it(false);
	assert_int_equal(cluster_file_read(f, buf, 5, FIRST + 5, NULL), 0);
	assert_memory_equal(buf, "there", 5);
	cluster_file_close(f);
}

static void a_failed_sync_is_final(void **state)
{
	static const uint8_t header[BLOCK_SIZE] = "header";
	struct err err = ERR_INIT;
	struct cluster_file *f;
	uint64_t at;

	(void)state;
	create();
	f = open_it(true);
	count();
	append(f, "hello", 5, 1);
	fail_sync = 1;
	assert_int_equal(cluster_file_sync(f, &err), -1);
	assert_int_equal(err.kind, ERR_IO);
	assert_int_equal(cluster_file_sync(f, NULL), -1);
	assert_int_equal(cluster_file_append(f, "x", 1, 1, &at, NULL), -1);
	assert_int_equal(cluster_file_publish(f, 1, header, NULL), -1);
	assert_int_equal(cluster_file_punch(f, FIRST, 0, NULL), -1);
	assert_int_equal(nr_writes, 1);
	assert_int_equal(nr_syncs, 1);
	cluster_file_close(f);
}

static void headers_are_written_behind_a_sync_and_synced(void **state)
{
	static const uint8_t header[BLOCK_SIZE] = "header";
	struct cluster_file *f;

	(void)state;
	create();
	f = open_it(true);
	count();
	append(f, "hello", 5, 1);
	assert_int_equal(cluster_file_publish(f, 1, header, NULL), 0);
	assert_int_equal(header_at, 3);
	assert_int_equal(nr_syncs, 2);
	assert_int_equal(unsynced, 0);
	cluster_file_close(f);
}

/* ---- slots ---- */

static void publish(struct cluster_file *f, uint32_t slot, char c)
{
	uint8_t header[BLOCK_SIZE];
	struct err err = ERR_INIT;

	memset(header, c, sizeof(header));
	if (cluster_file_publish(f, slot, header, &err) < 0)
		fail_msg("%s", err.text);
}

static uint32_t next_slot(struct cluster_file *f)
{
	uint32_t slot = 0;

	assert_int_equal(cluster_file_next_slot(f, &slot, NULL), 0);
	return slot;
}

static int take_slot(void *ctx, uint32_t slot, const uint8_t header[BLOCK_SIZE], struct err *err)
{
	char *text = ctx;

	(void)err;
	sprintf(text + strlen(text), "%u%c ", slot, header[BLOCK_SIZE - 1]);
	return strlen(text) > 90 ? 7 : 0;
}

static void expect_slots(struct cluster_file *f, const char *slots)
{
	char text[100] = "";

	assert_int_equal(cluster_file_each_slot(f, take_slot, text, NULL), 0);
	assert_string_equal(text, slots);
}

static void slots_are_given_out_once(void **state)
{
	uint8_t header[BLOCK_SIZE];
	struct cluster_file *f;

	(void)state;
	create();
	f = open_it(true);
	expect_slots(f, "");
	assert_int_equal(next_slot(f), 1);
	assert_int_equal(next_slot(f), 1);
	publish(f, 1, 'a');
	publish(f, next_slot(f), 'b');
	publish(f, 5, 'c');
	expect_slots(f, "1a 2b 5c ");
	assert_int_equal(next_slot(f), 6);
	cluster_file_close(f);
	f = open_it(true);
	expect_slots(f, "1a 2b 5c ");
	assert_int_equal(next_slot(f), 6);
	assert_int_equal(cluster_file_bury(f, 2, NULL), 0);
	assert_int_equal(cluster_file_bury(f, 5, NULL), 0);
	expect_slots(f, "1a ");
	assert_int_equal(cluster_file_bury(f, 1, NULL), 0);
	expect_slots(f, "");
	assert_int_equal(cluster_file_sync(f, NULL), 0);
	assert_int_equal(next_slot(f), 6);
	cluster_file_close(f);
	f = open_it(true);
	expect_slots(f, "");
	assert_int_equal(next_slot(f), 6);
	assert_int_equal(cluster_file_read_slot(f, 5, header, NULL), 0);
	assert_memory_equal(header, "ddsgone\n", 9); /* no qcow2 */
	assert_int_equal(cluster_file_read_slot(f, 1, header, NULL), 0);
	assert_int_equal(header[0], 0);
	publish(f, 6, 'd');
	expect_slots(f, "6d ");
	cluster_file_close(f);
	assert_true((uint64_t)stat_it().st_blocks * 512 < 5 * BLOCK_SIZE);
}

/* What slots and offsets were given out of it is not known any more. */
static void a_file_that_was_cut_takes_nothing_more(void **state)
{
	static const struct { uint64_t size; const char *slots; } cuts[] = {
		{ FIRST - 1, "1a 2b " }, { FIRST / 2, "1a 2b " }, { 2 * POOL_SLOT_SIZE, "1a " }, { POOL_SLOT_SIZE, "" },
		{ POOL_COPY_AT + 1, "" }, { 96, "" },
	};
	struct cluster_file *f;

	(void)state;
	create();
	f = open_it(true);
	publish(f, 1, 'a');
	publish(f, 2, 'b');
	cluster_file_close(f);
	for (size_t i = 0; i < sizeof(cuts) / sizeof(*cuts); i++) {
		struct err err = ERR_INIT;
		uint32_t slot;
		uint64_t at;

		assert_int_equal(truncate(in_tree(NAME), (off_t)cuts[i].size), 0);
		f = open_it(true);
		assert_true(cluster_file_is_cut(f));
		assert_int_equal(cluster_file_room(f), 0);
		assert_int_equal(cluster_file_slots_left(f), 0);
		assert_int_equal(cluster_file_end(f), FIRST);
		assert_int_equal(cluster_file_append(f, "x", 1, 1, &at, &err), -1);
		assert_non_null(strstr(err.text, "was cut"));
		assert_int_equal(cluster_file_next_slot(f, &slot, NULL), -1);
		assert_int_equal(cluster_file_read(f, &at, 1, FIRST, NULL), -1);
		expect_slots(f, cuts[i].slots);
		assert_int_equal(cluster_file_sync(f, NULL), 0);
		cluster_file_close(f);
		assert_int_equal(stat_it().st_size, cuts[i].size);
	}
}

static void a_call_ends_the_walk(void **state)
{
	struct cluster_file *f;
	char text[200] = "";

	(void)state;
	create();
	f = open_it(true);
	for (uint32_t i = 1; i < 60; i++)
		publish(f, i, 'x');
	assert_int_equal(cluster_file_each_slot(f, take_slot, text, NULL), 7);
	assert_true(strlen(text) < 100);
	cluster_file_close(f);
}

/* What was torn by a power cut is no view, but its slot may not be given out again. */
static void a_slot_with_anything_in_it_is_used(void **state)
{
	struct cluster_file *f;

	(void)state;
	create();
	overwrite(9 * POOL_SLOT_SIZE + BLOCK_SIZE - 1, "z", 1);
	f = open_it(true);
	assert_int_equal(next_slot(f), 10);
	expect_slots(f, "9z ");
	cluster_file_close(f);
}

static void the_last_slot_is_the_last(void **state)
{
	struct err err = ERR_INIT;
	struct cluster_file *f;
	uint32_t slot;

	(void)state;
	create();
	f = open_it(true);
	publish(f, POOL_NR_SLOTS - 1, 'x');
	for (int i = 0; i < 2; i++) {
		assert_int_equal(cluster_file_next_slot(f, &slot, &err), -1);
		assert_int_equal(err.kind, ERR_FULL);
		cluster_file_close(f);
		f = open_it(true);
	}
	cluster_file_close(f);
}

static off_t no_holes(int fd, off_t offset, int whence)
{
	(void)fd;
	(void)offset;
	(void)whence;
	return errno = EINVAL, -1;
}

static void file_systems_without_holes_do(void **state)
{
	struct file_ops without = file_ops_os;
	struct cluster_file *f;

	(void)state;
	create();
	f = open_it(true);
	publish(f, 1, 'a');
	publish(f, 77, 'b');
	cluster_file_close(f);
	without.lseek = no_holes;
	file_ops = &without;
	f = open_it(true);
	assert_int_equal(next_slot(f), 78);
	expect_slots(f, "1a 77b ");
	cluster_file_close(f);
	file_ops = &file_ops_os;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cluster_test(a_new_file_is_what_the_format_says),
		cluster_test(what_is_not_right_is_refused),
		cluster_test(one_of_two_superblocks_will_do),
		cluster_test(a_file_with_one_superblock_gets_the_other),
		cluster_test(a_copy_of_another_file_is_damage),
		cluster_test(other_files_are_refused),
		cluster_test(its_mode_is_put_right),
		cluster_test(users_that_are_not_root_write_to_their_own),
		cluster_test(what_was_appended_is_read_wherever_it_is),
		cluster_test(nothing_is_read_past_the_end_or_before_the_data),
		cluster_test(gaps_are_holes),
		cluster_test(the_next_opener_begins_behind_all_that_is_there),
		cluster_test(a_full_file_says_so),
		cluster_test(it_may_grow_as_the_file_system_has_it),
		cluster_test(punching_makes_holes_in_the_data_only),
		cluster_test(appends_become_few_large_writes),
		cluster_test(long_ones_are_written_at_once_behind_what_waits),
		cluster_test(a_failed_write_is_tried_again),
		cluster_test(a_failed_sync_is_final),
		cluster_test(headers_are_written_behind_a_sync_and_synced),
		cluster_test(slots_are_given_out_once),
		cluster_test(a_file_that_was_cut_takes_nothing_more),
		cluster_test(a_call_ends_the_walk),
		cluster_test(a_slot_with_anything_in_it_is_used),
		cluster_test(the_last_slot_is_the_last),
		cluster_test(file_systems_without_holes_do),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
