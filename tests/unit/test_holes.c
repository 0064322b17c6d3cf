/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/mount_help.h"

#include <linux/falloc.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/wait.h>

#include "compactor/holes.h"
#include "scanner/base/checked.h"
#include "scanner/base/file.h"
#include "tests/unit/image_help.h"

#define KIB4 4096

static struct holes_result result;

static int punch(const struct holes *h, uint64_t from, uint64_t to, struct err *err)
{
	result = (struct holes_result){ 0 };
	return holes_punch(h, from, to, &result, err);
}

static void must_punch(const struct holes *h, uint64_t from, uint64_t to)
{
	struct err err = ERR_INIT;

	if (punch(h, from, to, &err) < 0)
		fail_msg("%s", err.text);
}

static void put(int fd, int byte, uint64_t at, uint64_t len)
{
	char *buf = malloc(len);

	memset(buf, byte, len);
	assert_int_equal(pwrite(fd, buf, len, (off_t)at), len);
	free(buf);
}

static uint64_t stored(int fd)
{
	struct stat st;

	assert_int_equal(fstat(fd, &st), 0);
	return (uint64_t)st.st_blocks * 512;
}

static void expect_hole(int fd, uint64_t begin, uint64_t end)
{
	assert_int_equal(lseek(fd, (off_t)begin - 1, SEEK_HOLE), begin);
	assert_int_equal(lseek(fd, (off_t)begin, SEEK_DATA), end);
}

/* ---- which ranges: files in memory, whose page is their block ---- */

static void zeros_go_and_nothing_else(void **state)
{
	struct holes h = { .fd = file_of("", 0), .how = HOLES_HELD, .min_len = KIB4 };
	uint8_t got[3 * KIB4];

	(void)state;
	put(h.fd, 'a', 0, 10 * KIB4 + 100);
	put(h.fd, 0, 2 * KIB4 + 1, 3 * KIB4); /* blocks 3 and 4 */
	put(h.fd, 0, 10 * KIB4, 100);	      /* no whole block */
	must_punch(&h, 0, UINT64_MAX);
	expect_hole(h.fd, 3 * KIB4, 5 * KIB4);
	assert_int_equal(stored(h.fd), 9 * KIB4);
	assert_int_equal(result.bytes, 2 * KIB4);
	assert_int_equal(result.nr, 1);
	assert_int_equal(pread(h.fd, got, sizeof(got), 2 * KIB4), sizeof(got));
	assert_int_equal(got[0], 'a');
	assert_int_equal(got[1], 0);
	must_punch(&h, 0, UINT64_MAX);
	assert_int_equal(result.bytes + result.nr, 0);
	assert_int_equal(lseek(h.fd, 0, SEEK_END), 10 * KIB4 + 100);
	close(h.fd);
}

static void short_runs_stay(void **state)
{
	struct holes h = { .fd = file_of("", 0), .how = HOLES_HELD, .min_len = 3 * KIB4 };

	(void)state;
	put(h.fd, 'a', 0, 20 * KIB4);
	put(h.fd, 0, 2 * KIB4, 2 * KIB4);
	put(h.fd, 0, 8 * KIB4, 3 * KIB4);
	must_punch(&h, 0, UINT64_MAX);
	expect_hole(h.fd, 8 * KIB4, 11 * KIB4);
	assert_int_equal(stored(h.fd), 17 * KIB4);
	close(h.fd);
}

static void only_the_range_that_is_asked_for(void **state)
{
	struct holes h = { .fd = file_of("", 0), .how = HOLES_HELD, .min_len = KIB4 };

	(void)state;
	put(h.fd, 0, 0, 20 * KIB4);
	must_punch(&h, 5 * KIB4 - 1, 7 * KIB4 + 1);
	expect_hole(h.fd, 5 * KIB4, 7 * KIB4);
	assert_int_equal(result.bytes, 2 * KIB4);
	close(h.fd);
}

static int nr_calls;
static uint64_t longest;

static int count_fallocate(int fd, int mode, off_t offset, off_t len)
{
	nr_calls++;
	longest = max_u64(longest, (uint64_t)len);
	assert_int_equal(mode, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE);
	return fallocate(fd, mode, offset, len);
}

static void long_runs_are_gathered_and_cut(void **state)
{
	struct holes h = { .fd = file_of("", 0), .how = HOLES_HELD, .min_len = MIB };
	struct file_ops ops = file_ops_os;

	(void)state;
	ops.fallocate = count_fallocate;
	file_ops = &ops;
	nr_calls = 0;
	longest = 0;
	put(h.fd, 0, 0, 40 * MIB);
	put(h.fd, 'a', MIB / 2, 1);
	must_punch(&h, 0, UINT64_MAX);
	file_ops = &file_ops_os;
	assert_int_equal(nr_calls, 3);
	assert_int_equal(longest, 16 * MIB);
	assert_int_equal(result.nr, 1);
	assert_int_equal(result.bytes, 40 * MIB - MIB / 2 - KIB4);
	close(h.fd);
}

/* D4: between the look and the punch somebody writes: the second look sees it. */
static int write_fd;

static int write_on_third(void *ctx, uint64_t done, uint64_t total, struct err *err)
{
	int *nr = ctx;

	(void)done;
	(void)total;
	(void)err;
	if (++*nr == 3) /* two pieces were looked at */
		put(write_fd, 'w', MIB + 5000, 1);
	return 0;
}

static void what_is_written_meanwhile_stays(void **state)
{
	int nr = 0;
	struct holes h = {
		.fd = file_of("", 0), .how = HOLES_HELD, .min_len = KIB4, .check = write_on_third, .check_ctx = &nr
	};
	char got;

	(void)state;
	write_fd = h.fd;
	put(h.fd, 0, 0, 2 * MIB);
	must_punch(&h, 0, UINT64_MAX);
	assert_int_equal(nr, 3);
	assert_int_equal(result.nr_differed, 1);
	assert_int_equal(result.bytes + result.nr, 0);
	assert_int_equal(pread(h.fd, &got, 1, MIB + 5000), 1);
	assert_int_equal(got, 'w');
	close(h.fd);
}

static int count_down(void *ctx, uint64_t done, uint64_t total, struct err *err)
{
	int *left = ctx;

	(void)done;
	(void)total;
	return (*left)-- ? 0 : err_set(err, ERR_CANCELED, "stopped");
}

static void it_stops_and_what_is_done_is_told(void **state)
{
	int left = 20 + 1; /* 20 MiB looked at, and then again what the first of two calls is about */
	struct holes h = { .fd = file_of("", 0), .how = HOLES_HELD, .min_len = KIB4, .check = count_down, .check_ctx = &left };
	struct err err = ERR_INIT;

	(void)state;
	put(h.fd, 0, 0, 20 * MIB);
	assert_int_equal(punch(&h, 0, UINT64_MAX, &err), -1);
	expect_error(&err, ERR_CANCELED, "stopped");
	assert_int_equal(result.bytes, 0);
	left = 20 + 2; /* ... and that is punched */
	assert_int_equal(punch(&h, 0, UINT64_MAX, &err), -1);
	assert_int_equal(result.bytes, 16 * MIB);
	assert_int_equal(stored(h.fd), 4 * MIB);
	close(h.fd);
}

/* ---- the kernel's answers ---- */

static int dedupe_status;
static uint64_t dedupe_said;

static int fake_ioctl(int fd, unsigned long request, void *arg)
{
	struct file_dedupe_range *r = arg;

	if (request != FIDEDUPERANGE)
		return ioctl(fd, request, arg);
	r->info[0].status = dedupe_status;
	r->info[0].bytes_deduped = min_u64(dedupe_said, r->src_length);
	return 0;
}

/* G3 */
static void the_kernels_word_is_not_taken_for_more_than_it_is(void **state)
{
	struct holes h = { .fd = file_of("", 0), .how = HOLES_COMPARED, .hole_fd = file_of("", 0), .min_len = KIB4 };
	struct file_ops ops = file_ops_os;
	struct err err = ERR_INIT;

	(void)state;
	ops.ioctl = fake_ioctl;
	file_ops = &ops;
	put(h.fd, 0, 0, 10 * KIB4);
	dedupe_said = 3 * KIB4 + 5; /* less than asked for, and not whole blocks: it goes on from there */
	must_punch(&h, 0, UINT64_MAX);
	assert_int_equal(result.bytes, 10 * KIB4);
	dedupe_said = 100;
	must_punch(&h, 0, UINT64_MAX);
	assert_int_equal(result.bytes, 0);
	assert_int_equal(result.nr_differed, 1);
	dedupe_said = 10 * KIB4;
	dedupe_status = FILE_DEDUPE_RANGE_DIFFERS;
	must_punch(&h, 0, UINT64_MAX);
	assert_int_equal(result.bytes, 0);
	assert_int_equal(result.nr_differed, 1);
	dedupe_status = -EINVAL;
	assert_int_equal(punch(&h, 0, UINT64_MAX, &err), -1);
	expect_error(&err, ERR_IO, "cannot share a hole at offset 0: Invalid argument");
	file_ops = &file_ops_os;
	close(h.fd);
	close(h.hole_fd);
}

/* ---- real ones ---- */

static struct stat times_of(int fd)
{
	struct stat st;

	assert_int_equal(fstat(fd, &st), 0);
	return st;
}

/* An image of 48 MiB: data, zeros, data. */
static int image_with_zeros(void)
{
	int fd = mount_file("mnt/image");

	put(fd, 'a', 0, 16 * MIB);
	assert_int_equal(fsync(fd), 0);
	put(fd, 0, 16 * MIB, 20 * MIB);
	assert_int_equal(fsync(fd), 0);
	put(fd, 'b', 36 * MIB, 12 * MIB);
	assert_int_equal(fsync(fd), 0);
	return fd;
}

static struct holes begin_on(const char *type, enum holes_how how)
{
	struct holes h = { .how = how, .min_len = 16 * KIB, .hole_fd = -1 };
	struct err err = ERR_INIT;
	int dir;

	mount_make(type);
	h.fd = image_with_zeros();
	dir = open(in_tree("mnt"), O_RDONLY | O_DIRECTORY);
	if (how == HOLES_COMPARED && (h.hole_fd = holes_open(dir, h.fd, &err)) < 0)
		fail_msg("%s", err.text);
	close(dir);
	return h;
}

static void end_on(struct holes *h)
{
	close(h->fd);
	if (h->hole_fd >= 0)
		close(h->hole_fd);
}

static void space_comes_back_on(const char *type, enum holes_how how)
{
	struct holes h = begin_on(type, how);
	struct stat was = times_of(h.fd), is;
	uint64_t used = mount_used();
	char got;

	must_punch(&h, 0, UINT64_MAX);
	is = times_of(h.fd);
	assert_int_equal(result.bytes, 20 * MIB);
	assert_int_equal(result.nr, 1);
	assert_in_range(used - mount_used(), 19 * MIB, 20 * MIB + 64 * KIB);
	expect_hole(h.fd, 16 * MIB, 36 * MIB);
	assert_int_equal(is.st_size, was.st_size);
	if (how == HOLES_COMPARED)
		assert_memory_equal(&is.st_mtim, &was.st_mtim, sizeof(is.st_mtim));
	assert_true(pread(h.fd, &got, 1, 16 * MIB - 1) == 1 && got == 'a' && pread(h.fd, &got, 1, 36 * MIB) == 1 && got == 'b');
	end_on(&h);
}

static void on_xfs_space_comes_back_and_times_stay(void **state)
{
	(void)state;
	space_comes_back_on("xfs", HOLES_COMPARED);
}

static void on_btrfs_space_comes_back_and_times_stay(void **state)
{
	(void)state;
	space_comes_back_on("btrfs", HOLES_COMPARED);
}

static void on_xfs_held_files_are_punched(void **state)
{
	(void)state;
	space_comes_back_on("xfs", HOLES_HELD);
}

static void on_btrfs_held_files_are_punched(void **state)
{
	(void)state;
	space_comes_back_on("btrfs", HOLES_HELD);
}

static void on_ext4_held_files_are_punched(void **state)
{
	(void)state;
	space_comes_back_on("ext4", HOLES_HELD);
}

static void on_ext4_nobody_compares(void **state)
{
	struct holes h = begin_on("ext4", HOLES_COMPARED);
	struct err err = ERR_INIT;

	(void)state;
	assert_int_equal(punch(&h, 0, UINT64_MAX, &err), -1);
	assert_int_equal(err.errnum, EOPNOTSUPP);
	assert_int_equal(result.bytes, 0);
	end_on(&h);
}

/* One extent of 1 MiB, of which all but the ends are zeros. */
static uint64_t freed_of_a_part(const char *type, enum holes_how how)
{
	struct holes h = begin_on(type, how);
	char *buf = calloc(1, MIB);
	uint64_t used;

	memset(buf, 'x', 16 * KIB);
	memset(buf + MIB - 16 * KIB, 'y', 16 * KIB);
	assert_int_equal(ftruncate(h.fd, 0), 0);
	assert_int_equal(pwrite(h.fd, buf, MIB, 0), MIB);
	assert_int_equal(fsync(h.fd), 0);
	free(buf);
	used = mount_used();
	must_punch(&h, 0, UINT64_MAX);
	assert_int_equal(result.bytes, MIB - 32 * KIB);
	expect_hole(h.fd, 16 * KIB, MIB - 16 * KIB);
	end_on(&h);
	return used - mount_used();
}

static void on_btrfs_the_middle_of_an_extent_frees_nothing(void **state)
{
	(void)state;
	assert_in_range(freed_of_a_part("btrfs", HOLES_COMPARED) + 64 * KIB, 0, 128 * KIB);
}

static void on_xfs_the_middle_of_an_extent_is_freed(void **state)
{
	(void)state;
	assert_in_range(freed_of_a_part("xfs", HOLES_COMPARED), MIB - 64 * KIB, MIB);
}

static void preallocated_space_stays_reserved(void **state)
{
	struct holes h = begin_on("xfs", HOLES_COMPARED);
	uint64_t used;

	(void)state;
	assert_int_equal(fallocate(h.fd, 0, 64 * MIB, 10 * MIB), 0);
	used = mount_used();
	must_punch(&h, 40 * MIB, UINT64_MAX);
	h.how = HOLES_HELD;
	must_punch(&h, 40 * MIB, UINT64_MAX);
	assert_int_equal(result.bytes, 0);
	assert_in_range(mount_used(), used - 64 * KIB, used + 64 * KIB);
	end_on(&h);
}

/* Files that are written in place can be compared with their like only. */
static void on_btrfs_the_hole_is_alike(void **state)
{
	int flags = FS_NOCOW_FL, dir;
	struct holes h = { .how = HOLES_COMPARED, .min_len = KIB4 };
	struct err err = ERR_INIT;

	(void)state;
	mount_make("btrfs");
	h.fd = mount_file("mnt/nocow");
	assert_int_equal(ioctl(h.fd, FS_IOC_SETFLAGS, &flags), 0);
	put(h.fd, 0, 0, MIB);
	assert_int_equal(fsync(h.fd), 0);
	dir = open(in_tree("mnt"), O_RDONLY | O_DIRECTORY);
	h.hole_fd = holes_open(dir, dir, &err);
	assert_int_equal(punch(&h, 0, MIB, &err), -1);
	expect_error(&err, ERR_IO, "Invalid argument");
	close(h.hole_fd);
	h.hole_fd = holes_open(dir, h.fd, &err);
	must_punch(&h, 0, MIB);
	assert_int_equal(result.bytes, MIB);
	close(dir);
	end_on(&h);
}

/* G4: a writer flips a block of zeros between zeros and its count, and reads back what it wrote: no write is lost. */
static void a_writer_loses_nothing(void **state)
{
	struct holes h = begin_on("xfs", HOLES_COMPARED);
	int rounds = getenv("LONG") && *getenv("LONG") ? 3000 : 150, status, writer = dup(h.fd);
	pid_t pid = fork();

	(void)state;
	if (pid == 0) {
		for (int i = 1; i <= rounds; i++) {
			uint64_t at = 16 * MIB + (uint64_t)(i * 37 % 5000) * KIB4;
			int got = 0;

			if (pwrite(writer, &i, sizeof(i), (off_t)at) != sizeof(i) ||
			    pread(writer, &got, sizeof(got), (off_t)at) != sizeof(got) || got != i)
				_exit(1);
			got = 0;
			if (i % 3 && pwrite(writer, &got, sizeof(got), (off_t)at) != sizeof(got))
				_exit(1);
			fdatasync(writer);
		}
		_exit(0);
	}
	while (waitpid(pid, &status, WNOHANG) == 0)
		must_punch(&h, 16 * MIB, 36 * MIB);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
	for (int i = 3; i <= rounds; i += 3) {
		int got = 0;

		assert_int_equal(pread(h.fd, &got, sizeof(got), (off_t)(16 * MIB + (uint64_t)(i * 37 % 5000) * KIB4)), sizeof(got));
		assert_int_equal(got, i);
	}
	close(writer);
	end_on(&h);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(zeros_go_and_nothing_else),
		cmocka_unit_test(short_runs_stay),
		cmocka_unit_test(only_the_range_that_is_asked_for),
		cmocka_unit_test(long_runs_are_gathered_and_cut),
		cmocka_unit_test(what_is_written_meanwhile_stays),
		cmocka_unit_test(it_stops_and_what_is_done_is_told),
		cmocka_unit_test(the_kernels_word_is_not_taken_for_more_than_it_is),
		mount_test(on_xfs_space_comes_back_and_times_stay),
		mount_test(on_btrfs_space_comes_back_and_times_stay),
		mount_test(on_xfs_held_files_are_punched),
		mount_test(on_btrfs_held_files_are_punched),
		mount_test(on_ext4_held_files_are_punched),
		mount_test(on_ext4_nobody_compares),
		mount_test(on_btrfs_the_middle_of_an_extent_frees_nothing),
		mount_test(on_xfs_the_middle_of_an_extent_is_freed),
		mount_test(preallocated_space_stays_reserved),
		mount_test(on_btrfs_the_hole_is_alike),
		mount_test(a_writer_loses_nothing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
