/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/pool_help.h"

#include "compactor/restore.h"

static struct disk disk = {
	.size = 5 * SEGMENT_SIZE + 512 * KIB,
	.pieces = { { 0, 2 * MIB, 1 }, { 2 * SEGMENT_SIZE + 64 * KIB, 300 * KIB, 2 }, { 3 * SEGMENT_SIZE, 4 * KIB, 3 },
		    { 4 * SEGMENT_SIZE + 2044 * KIB, 4 * KIB, 4 }, { 5 * SEGMENT_SIZE + 508 * KIB, 4 * KIB, 5 } },
};
#define DATA (5 * SEGMENT_SIZE)

/* What the caller is told. */
static struct {
	uint64_t done, total;
	unsigned nr_syncing, nr_removed;
} told;

static void note_progress(void *ctx, const char *stage, uint64_t done, uint64_t total)
{
	(void)ctx;
	told.nr_syncing += strcmp(stage, "syncing") == 0;
	if (total == 0)
		return;
	assert_true(done > told.done && done <= total);
	told.done = done;
	told.total = total;
}

static void note_removed(void *ctx, const char *name)
{
	(void)ctx;
	assert_int_equal(name[0], '.');
	told.nr_removed++;
}

static int restore(const struct writer_format *format, const char *name, struct stopper *stopper, struct err *err)
{
	struct restore_options o = { .format = format, .stopper = stopper, .progress = note_progress, .removed = note_removed };

	memset(&told, 0, sizeof(told));
	return restore_disk(pool, disk.root, disk.size, pool_dirfd, name, &o, err);
}

static void must_restore(const struct writer_format *format, const char *name)
{
	struct err err = ERR_INIT;

	if (restore(format, name, NULL, &err) < 0)
		fail_msg("%s", err.text);
}

static void must_fail(const struct writer_format *format, const char *name, enum err_kind kind, const char *text)
{
	struct err err = ERR_INIT;

	if (restore(format, name, NULL, &err) == 0 || err.kind != kind || !strstr(err.text, text))
		fail_msg("'%s' (%s) instead of '%s'", err.text, err_kind_name(err.kind), text);
}

/* Of raw bytes. */
static void expect_file(const char *name)
{
	int fd = openat(pool_dirfd, name, O_RDONLY);
	uint8_t *is = malloc(SEGMENT_SIZE), *should = malloc(SEGMENT_SIZE);
	struct stat st;

	assert_int_equal(fstat(fd, &st), 0);
	assert_int_equal(st.st_size, disk.size);
	assert_int_equal(st.st_mode & 0777, 0600);
	for (uint64_t s = 0; s * SEGMENT_SIZE < disk.size; s++) {
		size_t len = (size_t)min_u64(SEGMENT_SIZE, disk.size - s * SEGMENT_SIZE);

		render(&disk, s, should);
		assert_int_equal(pread(fd, is, len, (off_t)(s * SEGMENT_SIZE)), len);
		assert_memory_equal(is, should, len);
	}
	close(fd);
	free(is);
	free(should);
}

static bool is_there(const char *name)
{
	return faccessat(pool_dirfd, name, F_OK, 0) == 0;
}

static void expect_nothing(void)
{
	static const char *const names[] = { "new.raw",		"new.vmdk",	  "new-flat.vmdk",
					     ".new.raw.part",	".new.vmdk.part", ".new-flat.vmdk.part" };

	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		if (is_there(names[i]))
			fail_msg("'%s' is there", names[i]);
}

static void make_file(const char *name)
{
	int fd = openat(pool_dirfd, name, O_RDWR | O_CREAT | O_EXCL, 0600);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, 1 * GIB), 0);
	close(fd);
}

/* ---- tests ---- */

static void a_disk_is_restored(void **state)
{
	(void)state;
	import(&disk);
	must_restore(&writer_raw, "new.raw");
	expect_file("new.raw");
	assert_int_equal(told.done, DATA);
	assert_int_equal(told.total, DATA);
	assert_int_equal(told.nr_removed, 0);
	must_fail(&writer_raw, "new.raw", ERR_USAGE, "'new.raw' is there already");
	expect_file("new.raw");
}

static void a_disk_of_several_files_is_restored(void **state)
{
	(void)state;
	import(&disk);
	must_restore(&writer_vmdk_flat, "new.vmdk");
	expect_file("new-flat.vmdk");
	assert_true(is_there("new.vmdk"));
	unlinkat(pool_dirfd, "new.vmdk", 0);
	must_fail(&writer_vmdk_flat, "new.vmdk", ERR_USAGE, "'new-flat.vmdk' is there already");
	expect_file("new-flat.vmdk");
	assert_false(is_there("new.vmdk"));
	assert_false(is_there(".new.vmdk.part"));
}

static void what_is_damaged_is_not_restored(void **state)
{
	char path[64];
	int fd;

	(void)state;
	import(&disk);
	again();
	snprintf(path, sizeof(path), "/proc/self/fd/%d", cluster_file_fd(clusters_growing(pool->clusters).file));
	assert_int_equal(chmod(path, 0600), 0);
	fd = open(path, O_RDWR);
	assert_true(fd >= 0);
	assert_int_equal(pwrite(fd, "damaged", 7, (off_t)(clusters_end(pool->clusters) - 100000)), 7);
	close(fd);
	must_fail(&writer_raw, "new.raw", ERR_IO, "cannot be read");
	expect_nothing();
}

static void what_was_left_is_removed_and_told(void **state)
{
	(void)state;
	import(&disk);
	make_file(".new.vmdk.part");
	make_file(".new-flat.vmdk.part");
	must_restore(&writer_vmdk_flat, "new.vmdk");
	assert_int_equal(told.nr_removed, 2);
	expect_file("new-flat.vmdk");
}

static void what_another_one_writes_is_not_touched(void **state)
{
	struct flock whole = { .l_type = F_WRLCK };
	int fd;

	(void)state;
	import(&disk);
	make_file(".new.raw.part");
	fd = openat(pool_dirfd, ".new.raw.part", O_RDWR);
	assert_int_equal(fcntl(fd, F_OFD_SETLK, &whole), 0);
	must_fail(&writer_raw, "new.raw", ERR_BUSY, "another dedupscan writes '.new.raw.part'");
	assert_true(is_there(".new.raw.part"));
	close(fd);
	must_restore(&writer_raw, "new.raw");
	assert_int_equal(told.nr_removed, 1);
}

static void what_is_no_file_is_not_touched(void **state)
{
	(void)state;
	import(&disk);
	make_file("victim");
	assert_int_equal(symlinkat("victim", pool_dirfd, ".new.raw.part"), 0);
	must_fail(&writer_raw, "new.raw", ERR_IO, "cannot open '.new.raw.part'");
	unlinkat(pool_dirfd, ".new.raw.part", 0);
	assert_int_equal(mkfifoat(pool_dirfd, ".new.raw.part", 0600), 0);
	must_fail(&writer_raw, "new.raw", ERR_REFUSED, "not what this user left");
	assert_true(is_there(".new.raw.part"));
}

/* ---- system calls that fail or take long ---- */

static struct file_ops odd;
static struct stopper stopper;
static int fail_at, nr;
static off_t synced_size;

static int failing(void)
{
	if (++nr != fail_at)
		return 0;
	errno = EIO;
	return -1;
}

static int failing_fdatasync(int fd)
{
	return failing() < 0 ? -1 : file_ops_os.fdatasync(fd);
}

static int failing_renameat2(int from_dirfd, const char *from, int to_dirfd, const char *to, unsigned flags)
{
	return failing() < 0 ? -1 : file_ops_os.renameat2(from_dirfd, from, to_dirfd, to, flags);
}

static int failing_fsync(int fd)
{
	return failing() < 0 ? -1 : file_ops_os.fsync(fd);
}

static void syncs_and_renames_may_fail(void **state)
{
	(void)state;
	import(&disk);
	odd = file_ops_os;
	odd.fdatasync = failing_fdatasync;
	odd.renameat2 = failing_renameat2;
	odd.fsync = failing_fsync;
	file_ops = &odd;
	for (fail_at = 1; fail_at <= 5; fail_at++) { /* two files, two names, the directory */
		nr = 0;
		must_fail(&writer_vmdk_flat, "new.vmdk", ERR_IO, "Input/output error");
		expect_nothing();
	}
	nr = 0;
	must_restore(&writer_vmdk_flat, "new.vmdk");
	assert_int_equal(nr, 5);
}

/* Of free space, MiB: what there is at first, and later. */
static uint64_t free_at_first, free_later;

static int tight_fstatfs(int fd, struct statfs *st)
{
	if (file_ops_os.fstatfs(fd, st) < 0)
		return -1;
	st->f_bavail = (nr++ ? free_later : free_at_first) * MIB / (uint64_t)st->f_bsize;
	return 0;
}

static void must_be_too_much(const struct disk *large, const char *text)
{
	struct restore_options o = { .format = &writer_raw };
	struct err err = ERR_INIT;

	nr = 0;
	if (restore_disk(pool, large->root, large->size, pool_dirfd, "new.raw", &o, &err) == 0 || err.kind != ERR_FULL ||
	    strcmp(err.text, text) != 0)
		fail_msg("'%s' instead of '%s'", err.text, text);
	expect_nothing();
}

static void some_space_is_left_to_others(void **state)
{
	struct disk large = { .size = 9 * SEGMENT_SIZE };

	(void)state;
	for (unsigned i = 0; i < 9; i++) {
		large.pieces[i].at = i * SEGMENT_SIZE;
		large.pieces[i].len = SEGMENT_SIZE;
		large.pieces[i].number = i;
	}
	import(&large);
	odd = file_ops_os;
	odd.fstatfs = tight_fstatfs;
	file_ops = &odd;
	free_at_first = 18 + 63;
	must_be_too_much(&large, "to write it takes 82.0 MiB of free space, and there are 81.0 MiB");
	assert_int_equal(nr, 1);
	free_at_first = 18 + 64;
	free_later = 63;
	must_be_too_much(&large, "64.0 MiB of free space are to stay, and only 63.0 MiB are there");
	assert_int_equal(nr, 2);
}

static int replacing_renameat2(int from_dirfd, const char *from, int to_dirfd, const char *to, unsigned flags)
{
	if (flags == 0)
		return file_ops_os.renameat2(from_dirfd, from, to_dirfd, to, 0);
	errno = EINVAL;
	return -1;
}

static void a_file_system_may_know_plain_renames_only(void **state)
{
	(void)state;
	import(&disk);
	odd = file_ops_os;
	odd.renameat2 = replacing_renameat2;
	file_ops = &odd;
	must_restore(&writer_raw, "new.raw");
	expect_file("new.raw");
}

/* As long as there is something to write. */
static int slow_fdatasync(int fd)
{
	struct stat st = { .st_size = 1 };

	stopper.flag = 1;
	for (int i = 0; i < 1000 && st.st_size; i++) {
		usleep(10000);
		fstat(fd, &st);
	}
	synced_size = st.st_size;
	return 0;
}

static void a_long_sync_can_be_stopped(void **state)
{
	struct err err = ERR_INIT;

	(void)state;
	import(&disk);
	odd = file_ops_os;
	odd.fdatasync = slow_fdatasync;
	file_ops = &odd;
	stopper.flag = 0;
	assert_int_equal(restore(&writer_raw, "new.raw", &stopper, &err), -1);
	assert_int_equal(err.kind, ERR_CANCELED);
	assert_int_equal(synced_size, 0);
	assert_true(told.nr_syncing > 0);
	expect_nothing();
	assert_int_equal(restore(&writer_raw, "new.raw", &stopper, &err), -1);
	assert_int_equal(err.kind, ERR_CANCELED);
	assert_int_equal(told.done, 0);
	expect_nothing();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		pool_test(a_disk_is_restored),
		pool_test(a_disk_of_several_files_is_restored),
		pool_test(what_is_damaged_is_not_restored),
		pool_test(what_was_left_is_removed_and_told),
		pool_test(what_another_one_writes_is_not_touched),
		pool_test(what_is_no_file_is_not_touched),
		pool_test(syncs_and_renames_may_fail),
		pool_test(some_space_is_left_to_others),
		pool_test(a_file_system_may_know_plain_renames_only),
		pool_test(a_long_sync_can_be_stopped),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
