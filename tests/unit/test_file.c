/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/tree_help.h"

#include <dirent.h>

#include "scanner/base/file.h"

/* ---- a file system that fails ---- */

enum call {
	CALL_OPEN, CALL_CLOSE, CALL_PREAD, CALL_PWRITE, CALL_SYNC, CALL_SYNC_DIR, CALL_TRUNCATE, CALL_RENAME, CALL_UNLINK, NR_CALLS
};

static struct {
	unsigned nr[NR_CALLS]; /* calls so far */
	unsigned fail_at[NR_CALLS]; /* the call that fails, from 1; 0 = none */
	int error[NR_CALLS];
	size_t most; /* bytes moved at once */
	unsigned nr_all, fail_any; /* any call that changes something, counted together */
} faults;

static bool fails(enum call c)
{
	faults.nr[c]++;
	if (c != CALL_PREAD && c != CALL_UNLINK && ++faults.nr_all == faults.fail_any) {
		errno = EIO;
		return true;
	}
	errno = faults.error[c];
	return faults.nr[c] == faults.fail_at[c];
}

static int bad_openat(int dirfd, const char *name, int flags, mode_t mode)
{
	return fails(CALL_OPEN) ? -1 : file_ops_os.openat(dirfd, name, flags, mode);
}

static int bad_close(int fd)
{
	bool bad = fails(CALL_CLOSE);
	int e = errno;

	close(fd);
	errno = e;
	return bad ? -1 : 0;
}

static ssize_t bad_pread(int fd, void *buf, size_t len, off_t offset)
{
	return fails(CALL_PREAD) ? -1 : pread(fd, buf, len < faults.most ? len : faults.most, offset);
}

static ssize_t bad_pwrite(int fd, const void *buf, size_t len, off_t offset)
{
	if (fails(CALL_PWRITE))
		return errno ? -1 : 0;
	return pwrite(fd, buf, len < faults.most ? len : faults.most, offset);
}

static int bad_fdatasync(int fd)
{
	return fails(CALL_SYNC) ? -1 : fdatasync(fd);
}

static int bad_fsync(int fd)
{
	return fails(CALL_SYNC_DIR) ? -1 : fsync(fd);
}

static int bad_ftruncate(int fd, off_t size)
{
	return fails(CALL_TRUNCATE) ? -1 : ftruncate(fd, size);
}

static int bad_renameat2(int from_dirfd, const char *from, int to_dirfd, const char *to, unsigned flags)
{
	return fails(CALL_RENAME) ? -1 : file_ops_os.renameat2(from_dirfd, from, to_dirfd, to, flags);
}

static int bad_unlinkat(int dirfd, const char *name, int flags)
{
	return fails(CALL_UNLINK) ? -1 : unlinkat(dirfd, name, flags);
}

static struct file_ops bad;
static int here = -1;

static int make(void **state)
{
	bad = file_ops_os;
	bad.openat = bad_openat;
	bad.close = bad_close;
	bad.pread = bad_pread;
	bad.pwrite = bad_pwrite;
	bad.fdatasync = bad_fdatasync;
	bad.fsync = bad_fsync;
	bad.ftruncate = bad_ftruncate;
	bad.renameat2 = bad_renameat2;
	bad.unlinkat = bad_unlinkat;
	memset(&faults, 0, sizeof(faults));
	faults.most = SIZE_MAX;
	if (tree_make(state) < 0)
		return -1;
	here = open(tree, O_RDONLY | O_DIRECTORY);
	file_ops = &bad;
	return here < 0;
}

static int unmake(void **state)
{
	file_ops = &file_ops_os;
	close(here);
	return tree_remove(state);
}

#define file_test(f) cmocka_unit_test_setup_teardown(f, make, unmake)

static void fail_call(enum call c, unsigned at, int error)
{
	faults.fail_at[c] = faults.nr[c] + at;
	faults.error[c] = error;
}

static void assert_content(const char *name, const char *wanted)
{
	char got[256] = "";
	int fd = open(in_tree(name), O_RDONLY);

	assert_true(fd >= 0);
	assert_true(read(fd, got, sizeof(got) - 1) >= 0);
	close(fd);
	assert_string_equal(got, wanted);
}

static unsigned nr_files(void)
{
	DIR *d = opendir(tree);
	unsigned nr = 0;

	for (struct dirent *e; (e = readdir(d));)
		nr += strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0;
	closedir(d);
	return nr;
}

static int open_new(void)
{
	int fd = file_open(here, "f", O_RDWR | O_CREAT, 0600, NULL);

	assert_true(fd >= 0);
	return fd;
}

/* ---- reading and writing ---- */

static void the_last_part_is_behind_the_last_slash(void **state)
{
	(void)state;
	assert_string_equal(file_last_part("/a/b.qcow2"), "b.qcow2");
	assert_string_equal(file_last_part("b.qcow2"), "b.qcow2");
	assert_string_equal(file_last_part("a/"), "");
}

static void short_transfers_are_gone_on_with(void **state)
{
	char buf[16] = "";
	int fd = open_new();

	(void)state;
	faults.most = 3;
	assert_int_equal(file_write(fd, "0123456789", 10, 5, NULL), 0);
	assert_int_equal(faults.nr[CALL_PWRITE], 4);
	assert_int_equal(file_read(fd, buf, 10, 5, NULL), 0);
	assert_int_equal(faults.nr[CALL_PREAD], 4);
	assert_string_equal(buf, "0123456789");
	close(fd);
}

static void interrupted_calls_are_made_again(void **state)
{
	char buf[16] = "";
	int fd;

	(void)state;
	fail_call(CALL_OPEN, 1, EINTR);
	fd = open_new();
	assert_int_equal(faults.nr[CALL_OPEN], 2);
	faults.most = 4;
	fail_call(CALL_PWRITE, 2, EINTR);
	assert_int_equal(file_write(fd, "0123456789", 10, 0, NULL), 0);
	fail_call(CALL_PREAD, 2, EINTR);
	assert_int_equal(file_read(fd, buf, 10, 0, NULL), 0);
	assert_string_equal(buf, "0123456789");
	close(fd);
}

static void a_close_that_was_interrupted_is_not_made_again(void **state)
{
	int fd = open_new();

	(void)state;
	fail_call(CALL_CLOSE, 1, EINTR);
	assert_int_equal(file_close(fd, "f", NULL), 0);
	assert_int_equal(faults.nr[CALL_CLOSE], 1);
}

static void errors_tell_where_and_what_kind(void **state)
{
	struct err err = ERR_INIT;
	char buf[16];
	int fd = open_new();

	(void)state;
	assert_int_equal(file_write(fd, "0123456789", 10, 0, NULL), 0);
	faults.most = 4;
	fail_call(CALL_PREAD, 2, EIO);
	assert_int_equal(file_read(fd, buf, 10, 0, &err), -1);
	assert_int_equal(err.kind, ERR_IO);
	assert_int_equal(err.errnum, EIO);
	assert_string_equal(err.text, "cannot read 6 bytes at offset 4: Input/output error");
	fail_call(CALL_PWRITE, 2, ENOSPC);
	assert_int_equal(file_write(fd, "0123456789", 10, 100, &err), -1);
	assert_int_equal(err.kind, ERR_FULL);
	assert_non_null(strstr(err.text, "6 bytes at offset 104"));
	fail_call(CALL_CLOSE, 1, EIO);
	assert_int_equal(file_close(fd, "f", &err), -1);
	assert_int_equal(err.kind, ERR_IO);
}

static void a_write_of_nothing_is_a_full_disk_not_a_loop(void **state)
{
	struct err err = ERR_INIT;
	int fd = open_new();

	(void)state;
	fail_call(CALL_PWRITE, 1, 0);
	assert_int_equal(file_write(fd, "x", 1, 0, &err), -1);
	assert_int_equal(err.kind, ERR_FULL);
	close(fd);
}

static void meeting_the_end_is_stale_for_who_knew_the_size(void **state)
{
	struct err err = ERR_INIT;
	char buf[16];
	int fd = open_new();

	(void)state;
	assert_int_equal(file_write(fd, "0123", 4, 0, NULL), 0);
	assert_int_equal(file_read(fd, buf, 5, 0, &err), -1);
	assert_int_equal(err.kind, ERR_STALE);
	assert_int_equal(file_read_some(fd, buf, 5, 0, NULL), 4);
	assert_int_equal(file_read_some(fd, buf, 5, 4, NULL), 0);
	close(fd);
}

static void a_failed_sync_is_made_once_and_final(void **state)
{
	struct err err = ERR_INIT;
	int fd = open_new();

	(void)state;
	fail_call(CALL_SYNC, 1, EIO);
	assert_int_equal(file_sync(fd, "f", &err), -1);
	assert_int_equal(faults.nr[CALL_SYNC], 1);
	assert_int_equal(err.kind, ERR_IO);
	close(fd);
}

static void removing_what_is_gone_is_no_error_other_failures_are(void **state)
{
	struct err err = ERR_INIT;

	(void)state;
	assert_int_equal(file_unlink(here, "nothing", &err), 0);
	fail_call(CALL_UNLINK, 1, EACCES);
	assert_int_equal(file_unlink(here, "nothing", &err), -1);
	assert_int_equal(file_mkdir(here, "d", 0700, &err), 0);
	assert_int_equal(file_mkdir(here, "d", 0700, &err), 0);
	assert_int_equal(file_mkdir(here, "no/d", 0700, &err), -1);
}

static void descriptors_are_closed_on_exec(void **state)
{
	int fd = open_new();

	(void)state;
	assert_int_equal(fcntl(fd, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
	close(fd);
}

/* ---- the writer ---- */

static void a_writer_keeps_order_whatever_the_pieces(void **state)
{
	char all[4000], piece[64], got[4096];
	struct file_writer w;
	size_t len = 0;
	int fd;

	(void)state;
	assert_int_equal(file_writer_open(&w, here, "f", 32, NULL), 0);
	for (unsigned i = 0; i < 60; i++) {
		size_t n = i % 3 ? i : 64 - i % 7; /* larger than the buffer, too */

		for (size_t k = 0; k < n; k++)
			piece[k] = (char)('a' + (i + k) % 26);
		memcpy(all + len, piece, n);
		len += n;
		assert_int_equal(file_writer_append(&w, piece, n, NULL), 0);
		assert_int_equal(w.offset, len);
	}
	assert_int_equal(file_writer_close(&w, 1, NULL), 0);
	assert_int_equal(faults.nr[CALL_SYNC], 1);
	fd = open(in_tree("f"), O_RDONLY);
	assert_int_equal(read(fd, got, sizeof(got)), len);
	close(fd);
	assert_memory_equal(got, all, len);
}

static void a_writer_tells_each_failing_step_and_leaks_nothing(void **state)
{
	unsigned step;

	(void)state;
	for (step = 1; step < 20; step++) {
		struct err err = ERR_INIT;
		struct file_writer w;
		int rc;

		memset(&faults, 0, sizeof(faults));
		faults.most = SIZE_MAX;
		faults.fail_any = step;
		rc = file_writer_open(&w, here, "f", 4, &err);
		if (rc == 0)
			rc = file_writer_append(&w, "0123456", 7, &err);
		if (rc == 0)
			rc = file_writer_append(&w, "ab", 2, &err);
		if (rc == 0)
			rc = file_writer_close(&w, 1, &err);
		file_writer_release(&w);
		if (rc == 0)
			break;
		assert_int_equal(err.kind, ERR_IO);
	}
	assert_int_equal(step, 6); /* open, write, write, sync, close */
}

/* ---- whole files ---- */

static void an_atomic_write_replaces_and_leaves_nothing_beside(void **state)
{
	(void)state;
	tree_write("f", "old", 3);
	assert_int_equal(file_write_atomic(here, "f", "newer", 5, 0644, NULL), 0);
	assert_content("f", "newer");
	assert_int_equal(nr_files(), 1);
	assert_int_equal(faults.nr[CALL_SYNC] + faults.nr[CALL_SYNC_DIR], 2);
}

static void an_atomic_write_that_fails_at_any_step_keeps_the_old_file(void **state)
{
	unsigned step;

	(void)state;
	tree_write("f", "old", 3);
	for (step = 1; step < 20; step++) {
		struct err err = ERR_INIT;

		memset(&faults, 0, sizeof(faults));
		faults.most = 2;
		faults.fail_any = step;
		if (file_write_atomic(here, "f", "newer", 5, 0644, &err) == 0)
			break;
		assert_int_equal(err.kind, ERR_IO);
		if (faults.nr[CALL_RENAME] == 0 || faults.nr[CALL_SYNC_DIR] == 0)
			assert_content("f", "old");
		assert_int_equal(nr_files(), 1);
	}
	assert_int_equal(step, 9); /* open, three writes, sync, close, rename, directory sync */
	assert_content("f", "newer");
}

static void an_atomic_write_works_for_the_longest_name(void **state)
{
	char name[256] = "";
	struct err err = ERR_INIT;

	(void)state;
	memset(name, 'n', 255);
	if (file_write_atomic(here, name, "x", 1, 0644, &err) < 0)
		fail_msg("%s", err.text);
	assert_content(name, "x");
	assert_int_equal(nr_files(), 1);
}

/* Whoever may make files in a directory could have laid a link where the temporary file will be. */
static int link_then_open(int fd, const char *name, int flags, mode_t mode)
{
	static bool laid;

	if (flags & O_CREAT && !laid) {
		laid = true;
		assert_int_equal(symlinkat("victim", fd, name), 0);
	}
	return file_ops_os.openat(fd, name, flags, mode);
}

static void an_atomic_write_follows_no_link_laid_in_its_way(void **state)
{
	struct err err = ERR_INIT;

	(void)state;
	tree_write("victim", "precious", 8);
	bad.openat = link_then_open;
	assert_int_equal(file_write_atomic(here, "f", "new", 3, 0644, &err), 0);
	assert_content("victim", "precious");
	assert_content("f", "new");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_last_part_is_behind_the_last_slash),
		file_test(short_transfers_are_gone_on_with),
		file_test(interrupted_calls_are_made_again),
		file_test(a_close_that_was_interrupted_is_not_made_again),
		file_test(errors_tell_where_and_what_kind),
		file_test(a_write_of_nothing_is_a_full_disk_not_a_loop),
		file_test(meeting_the_end_is_stale_for_who_knew_the_size),
		file_test(a_failed_sync_is_made_once_and_final),
		file_test(removing_what_is_gone_is_no_error_other_failures_are),
		file_test(descriptors_are_closed_on_exec),
		file_test(a_writer_keeps_order_whatever_the_pieces),
		file_test(a_writer_tells_each_failing_step_and_leaks_nothing),
		file_test(an_atomic_write_replaces_and_leaves_nothing_beside),
		file_test(an_atomic_write_that_fails_at_any_step_keeps_the_old_file),
		file_test(an_atomic_write_works_for_the_longest_name),
		file_test(an_atomic_write_follows_no_link_laid_in_its_way),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
