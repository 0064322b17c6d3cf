/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/mount_help.h"

#include <linux/fiemap.h>
#include <linux/fs.h>
#include <sys/ioctl.h>

#include "compactor/rebuild.h"
#include "scanner/base/checked.h"
#include "scanner/base/file.h"
#include "tests/unit/image_help.h"

struct moves {
	const struct rebuild_move *list;
	size_t nr, next;
};

static int next_move(void *ctx, struct rebuild_move *ret, struct err *err)
{
	struct moves *m = ctx;

	if (m->next == m->nr)
		return 0;
	*ret = m->list[m->next++];
	return ret->src_fd < -1 ? err_set(err, ERR_IO, "no more of them") : 1;
}

static struct rebuild_result result;

static int rebuild(int old, int copy, const struct rebuild_move *list, size_t nr, bool drop_zeros, struct err *err)
{
	struct moves m = { list, nr, 0 };
	struct rebuild r = { .next_move = next_move, .ctx = &m, .drop_zeros = drop_zeros };

	result = (struct rebuild_result){ 0 };
	return rebuild_make(old, copy, &r, &result, err);
}

static void must_rebuild(int old, int copy, const struct rebuild_move *list, size_t nr, bool drop_zeros)
{
	struct err err = ERR_INIT;

	if (rebuild(old, copy, list, nr, drop_zeros, &err) < 0 || proof_same_bytes(old, copy, NULL, NULL, &err) < 0)
		fail_msg("%s", err.text);
}

/* ---- a file system that cannot clone: what is asked of it is noted ---- */

static struct file_clone_range asked[16];
static size_t nr_asked;
static int clone_errno;

/* Clones by copying, so that what follows a clone can be seen. */
static int fake_ioctl(int fd, unsigned long request, void *arg)
{
	const struct file_clone_range *r = arg;
	uint8_t *buf;

	if (request != FICLONERANGE)
		return ioctl(fd, request, arg);
	asked[nr_asked++ % ARRAY_SIZE(asked)] = *r;
	errno = clone_errno;
	if (clone_errno)
		return -1;
	buf = malloc(r->src_length);
	assert_int_equal(pread((int)r->src_fd, buf, r->src_length, (off_t)r->src_offset), r->src_length);
	assert_int_equal(pwrite(fd, buf, r->src_length, (off_t)r->dest_offset), r->src_length);
	free(buf);
	return 0;
}

static int fake_fstatfs(int fd, struct statfs *st)
{
	if (fstatfs(fd, st) < 0)
		return -1;
	st->f_bsize = 4096;
	return 0;
}

static ssize_t no_space(int fd, const void *buf, size_t len, off_t offset)
{
	(void)fd;
	(void)buf;
	(void)len;
	(void)offset;
	errno = ENOSPC;
	return -1;
}

static struct file_ops fake;

static int begin_fake(void **state)
{
	(void)state;
	fake = file_ops_os;
	fake.ioctl = fake_ioctl;
	fake.fstatfs = fake_fstatfs;
	file_ops = &fake;
	nr_asked = 0;
	clone_errno = 0;
	return 0;
}

static int end_fake(void **state)
{
	(void)state;
	file_ops = &file_ops_os;
	return 0;
}

#define fake_test(f) cmocka_unit_test_setup_teardown(f, begin_fake, end_fake)

static uint8_t bytes[4 * MIB + 1234];

static int file_of_bytes(void)
{
	for (size_t i = 0; i < sizeof(bytes); i++)
		bytes[i] = (uint8_t)(1 + i / 4096 % 251);
	return file_of(bytes, sizeof(bytes));
}

static void expect_asked(size_t i, uint64_t offset, uint64_t src_offset, uint64_t len)
{
	assert_true(i < nr_asked);
	assert_int_equal(asked[i].dest_offset, offset);
	assert_int_equal(asked[i].src_offset, src_offset);
	assert_int_equal(asked[i].src_length, len);
}

static void moves_are_cut_to_blocks(void **state)
{
	int old = file_of_bytes(), copy = file_of("", 0), src = file_of(bytes, sizeof(bytes));
	const struct rebuild_move list[] = {
		{ 100, src, 100, 10000 },	      /* 4096 to 8192 */
		{ 8000, src, 8000, 12288 + 300 },     /* 8192 to 20480, rounded down */
		{ 12288, src, 12288, 20480 },	      /* the first counts: from 20480 on */
		{ 40960, src, 40960, 4095 },	      /* no whole block */
		{ 49152, src, 49153, 8192 },	      /* another place in a block */
		{ 65536, src, 65536, 1ull << 40 },    /* to the end */
		{ 1ull << 40, src, 1ull << 40, 8192 }, /* behind it */
	};

	(void)state;
	must_rebuild(old, copy, list, ARRAY_SIZE(list), false);
	expect_asked(0, 4096, 4096, 4096);
	expect_asked(1, 8192, 8192, 8192 + 4096);
	expect_asked(2, 20480, 20480, 32768 - 20480);
	expect_asked(3, 65536, 65536, round_down(sizeof(bytes), 4096) + 1234 % 4096 - 65536);
	assert_int_equal(nr_asked, 4);
	assert_int_equal(result.cloned, 4096 + 12288 + 12288 + sizeof(bytes) - 65536);
	assert_int_equal(result.copied + result.cloned, sizeof(bytes));
	assert_int_equal(result.differed + result.refused, 0);
	close(old);
	close(copy);
	close(src);
}

/* Bytes that the image itself holds earlier come from the new file, never from the original. */
static void what_it_holds_twice_comes_of_itself(void **state)
{
	int old = file_of_bytes(), copy = file_of("", 0);
	const struct rebuild_move list[] = {
		{ 8192, old, 0, 4096 },		    /* other bytes, as it were after a change */
		{ 251 * 4096, old, 0, 100 * 4096 }, /* the pattern's second turn */
		{ 502 * 4096, old, 251 * 4096, 252 * 4096 }, /* into what is not there yet */
	};

	(void)state;
	must_rebuild(old, copy, list, ARRAY_SIZE(list), false);
	assert_int_equal(nr_asked, 2);
	expect_asked(0, 8192, 0, 4096);
	expect_asked(1, 251 * 4096, 0, 100 * 4096);
	assert_int_equal(asked[1].src_fd, copy);
	assert_int_equal(result.differed, 4096);
	assert_int_equal(result.cloned, 100 * 4096);
	close(old);
	close(copy);
}

static void the_last_block_is_cloned_only_from_a_last_block(void **state)
{
	int old = file_of_bytes(), copy = file_of("", 0), longer = file_of(bytes, sizeof(bytes));
	uint64_t at = 4 * MIB - 4096;
	struct rebuild_move move = { at, longer, at, sizeof(bytes) - at };

	(void)state;
	must_rebuild(old, copy, &move, 1, false);
	expect_asked(0, at, at, sizeof(bytes) - at);
	assert_int_equal(ftruncate(longer, sizeof(bytes) + 1), 0);
	must_rebuild(old, copy, &move, 1, false);
	expect_asked(1, at, at, 4096);
	close(old);
	close(copy);
	close(longer);
}

/* D4: somebody writes to the source after all was planned. */
static void what_differs_is_copied(void **state)
{
	int old = file_of_bytes(), copy = file_of("", 0), src = file_of(bytes, sizeof(bytes));
	const struct rebuild_move move = { 0, src, 0, 4 * MIB };

	(void)state;
	assert_int_equal(pwrite(src, "other", 5, MIB + 5000), 5);
	must_rebuild(old, copy, &move, 1, false);
	assert_int_equal(result.differed, 4096); /* the block alone */
	assert_int_equal(result.cloned, 4 * MIB - 4096);
	assert_int_equal(result.copied, 4096 + 1234);
	close(old);
	close(copy);
	close(src);
}

/* B13, G3 */
static void where_nothing_can_be_cloned_all_is_copied(void **state)
{
	static const int reasons[] = { EOPNOTSUPP, EINVAL, EXDEV };
	int old = file_of_bytes(), src = file_of(bytes, sizeof(bytes));
	const struct rebuild_move move = { 4096, src, 4096, MIB };

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(reasons); i++) {
		int copy = file_of("", 0);

		clone_errno = reasons[i];
		must_rebuild(old, copy, &move, 1, false);
		assert_int_equal(result.refused, MIB);
		assert_int_equal(result.cloned, 0);
		assert_int_equal(result.copied, sizeof(bytes));
		close(copy);
	}
	close(old);
	close(src);
}

/* B1 */
static void other_failures_end_it(void **state)
{
	int old = file_of_bytes(), copy = file_of("", 0), src = file_of(bytes, sizeof(bytes));
	const struct rebuild_move list[] = { { 4096, src, 4096, MIB }, { 2 * MIB, -2, 0, 4096 } };
	struct err err = ERR_INIT;

	(void)state;
	clone_errno = ENOSPC;
	assert_int_equal(rebuild(old, copy, list, 1, false, &err), -1);
	expect_error(&err, ERR_FULL, "cannot share");
	clone_errno = 0;
	fake.pwrite = no_space;
	assert_int_equal(rebuild(old, copy, list, 1, false, &err), -1);
	expect_error(&err, ERR_FULL, "cannot write");
	fake.pwrite = pwrite;
	assert_int_equal(rebuild(old, copy, list, 2, false, &err), -1);
	expect_error(&err, ERR_IO, "no more of them");
	close(src);
	close(old);
	close(copy);
}

static int count_down(void *ctx, uint64_t done, uint64_t total, struct err *err)
{
	int *left = ctx;

	(void)done;
	(void)total;
	return (*left)-- ? 0 : err_set(err, ERR_CANCELED, "stopped");
}

static void it_stops_wherever_it_is_told_to(void **state)
{
	int old = file_of_bytes(), src = file_of(bytes, sizeof(bytes)), nr = 1000;
	const struct rebuild_move move = { MIB, src, MIB, 2 * MIB };

	(void)state;
	for (int i = 0; i < nr; i++) {
		struct moves m = { &move, 1, 0 };
		int left = i, copy = file_of("", 0), rc;
		struct rebuild r = { .next_move = next_move, .ctx = &m, .check = count_down, .check_ctx = &left };
		struct err err = ERR_INIT;

		rc = rebuild_make(old, copy, &r, &result, &err);
		if (rc == 0)
			nr = i;
		else
			expect_error(&err, ERR_CANCELED, "stopped");
		close(copy);
	}
	assert_in_range(nr, 5, 6); /* once for each MiB */
	close(src);
	close(old);
}

/* ---- holes ---- */

static uint64_t stored(int fd)
{
	struct stat st;

	assert_int_equal(fstat(fd, &st), 0);
	return (uint64_t)st.st_blocks * 512;
}

static void holes_stay_and_zeros_go_if_asked(void **state)
{
	int old = file_of("", 0), copy = file_of("", 0), dropped = file_of("", 0);

	(void)state;
	memset(bytes, 0, sizeof(bytes));
	assert_int_equal(ftruncate(old, 100 * MIB), 0);
	assert_int_equal(pwrite(old, bytes, MIB, 10 * MIB), MIB);
	assert_int_equal(pwrite(old, "x", 1, 10 * MIB + 5000), 1);
	must_rebuild(old, copy, NULL, 0, false);
	assert_int_equal(stored(copy), MIB);
	assert_int_equal(result.copied, MIB);
	must_rebuild(old, dropped, NULL, 0, true);
	assert_int_equal(stored(dropped), 4096);
	assert_int_equal(result.copied, 4096);
	close(old);
	close(copy);
	close(dropped);
}

/* ---- real ones ---- */

static uint64_t nr_extents(int fd)
{
	struct fiemap f = { .fm_length = UINT64_MAX, .fm_flags = FIEMAP_FLAG_SYNC };

	assert_int_equal(ioctl(fd, FS_IOC_FIEMAP, &f), 0);
	return f.fm_mapped_extents;
}

static void fill(int fd, uint64_t from, uint64_t to, unsigned seed)
{
	uint32_t *buf = malloc(MIB);

	for (uint64_t at = from; at < to; at += MIB) {
		for (size_t i = 0; i < MIB / 4; i++)
			buf[i] = seed = seed * 1664525 + 1013904223;
		assert_int_equal(pwrite(fd, buf, min_u64(MIB, to - at), (off_t)at), min_u64(MIB, to - at));
	}
	free(buf);
}

/* Closed once, so that what XFS reserves behind the end of a file that grows is given back. */
static int filled(const char *name, bool part_of_its_own)
{
	int fd = mount_file(name);

	fill(fd, 0, 64 * MIB + 1000, 1);
	if (part_of_its_own)
		fill(fd, 20 * MIB, 24 * MIB, 2);
	assert_int_equal(fsync(fd), 0);
	close(fd);
	return mount_file(name);
}

/* The new one of an image of 64 MiB shares all but what it alone has, and takes this much. */
static void rebuild_on(const char *type)
{
	int src, old, copy;
	uint64_t before, extents;

	mount_make(type);
	src = filled("mnt/src", false);
	old = filled("mnt/old", true);
	copy = mount_file("mnt/new");
	const struct rebuild_move list[] = {
		{ 0, src, 0, 20 * MIB }, { 24 * MIB, src, 24 * MIB, 40 * MIB + 1000 },
	};
	before = mount_used();
	must_rebuild(old, copy, list, ARRAY_SIZE(list), false);
	assert_int_equal(result.cloned, 60 * MIB + 1000);
	assert_int_equal(result.copied, 4 * MIB);
	extents = nr_extents(copy);
	assert_in_range(extents, 3, nr_extents(src) + nr_extents(old) + 4);
	assert_in_range(mount_used() - before, 4 * MIB, 5 * MIB);
	assert_int_equal(ftruncate(old, 0), 0);
	/* up to 4 MiB more where the part of its own was written after what was there had come to the disk: btrfs kept both */
	assert_in_range(before - mount_used(), 59 * MIB, 65 * MIB);
	close(src);
	close(old);
	close(copy);
}

static void on_xfs_only_what_is_its_own_takes_space(void **state)
{
	(void)state;
	rebuild_on("xfs");
}

static void on_btrfs_only_what_is_its_own_takes_space(void **state)
{
	(void)state;
	rebuild_on("btrfs");
}

/* The original goes, and with it all that it held: of two equal halves one is left. */
static void on_btrfs_nothing_hangs_on_the_original(void **state)
{
	uint64_t before;
	int old, copy;

	(void)state;
	mount_make("btrfs");
	before = mount_used();
	old = mount_file("mnt/old");
	copy = mount_file("mnt/new");
	fill(old, 0, 16 * MIB, 1);
	fill(old, 16 * MIB, 32 * MIB, 1);
	must_rebuild(old, copy, &(struct rebuild_move){ 16 * MIB, old, 0, 16 * MIB }, 1, false);
	assert_int_equal(result.cloned, 16 * MIB);
	assert_int_equal(ftruncate(old, 0), 0);
	assert_in_range(mount_used() - before, 16 * MIB, 18 * MIB);
	close(old);
	close(copy);
}

static void on_ext4_it_is_a_copy(void **state)
{
	int old, copy, src;

	(void)state;
	mount_make("ext4");
	old = mount_file("mnt/old");
	src = mount_file("mnt/src");
	copy = mount_file("mnt/new");
	fill(old, 0, 3 * MIB, 1);
	fill(src, 0, 3 * MIB, 1);
	must_rebuild(old, copy, &(struct rebuild_move){ 0, src, 0, 3 * MIB }, 1, false);
	assert_int_equal(result.refused, 3 * MIB);
	assert_int_equal(result.copied, 3 * MIB);
	close(src);
	close(old);
	close(copy);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		fake_test(moves_are_cut_to_blocks),
		fake_test(what_it_holds_twice_comes_of_itself),
		fake_test(the_last_block_is_cloned_only_from_a_last_block),
		fake_test(what_differs_is_copied),
		fake_test(where_nothing_can_be_cloned_all_is_copied),
		fake_test(other_failures_end_it),
		fake_test(it_stops_wherever_it_is_told_to),
		cmocka_unit_test(holes_stay_and_zeros_go_if_asked),
		mount_test(on_xfs_only_what_is_its_own_takes_space),
		mount_test(on_btrfs_only_what_is_its_own_takes_space),
		mount_test(on_btrfs_nothing_hangs_on_the_original),
		mount_test(on_ext4_it_is_a_copy),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
