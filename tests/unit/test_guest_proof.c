/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/tree_help.h"

#include <sys/syscall.h>

#include "compactor/guest_proof.h"
#include "scanner/base/checked.h"
#include "scanner/base/file.h"
#include "tests/unit/image_help.h"

/* Row C11 of failures: file systems that say there is a hole where data are; and holes that are some, of which nobody wants to read
 * a terabyte. */

static bool lying;

/* In the place of the C library's. */
off_t lseek(int fd, off_t offset, int whence)
{
	if (lying && whence == SEEK_DATA) {
		errno = ENXIO;
		return -1;
	}
	return (off_t)syscall(SYS_lseek, fd, offset, whence);
}

static uint8_t disk[3 * MIB];

static struct image *raw_now(void)
{
	return must_open(file_of(disk, sizeof(disk)), "raw", NULL);
}

static int compare(struct image *a, struct image *b, struct err *err)
{
	int rc = proof_compare_guests(a, b, NULL, NULL, err);

	image_close(a);
	image_close(b);
	return rc;
}

static void equal_disks_are_equal(void **state)
{
	struct err err = ERR_INIT;

	(void)state;
	memset(disk, 0, sizeof(disk));
	disk[MIB + 5] = 1;
	assert_int_equal(compare(raw_now(), raw_now(), &err), 0);
}

static void one_byte_is_seen(void **state)
{
	struct image *old, *copy;
	struct err err = ERR_INIT;

	(void)state;
	memset(disk, 0, sizeof(disk));
	disk[MIB + 5] = 1;
	old = raw_now();
	disk[MIB + 5] = 0;
	copy = raw_now();
	assert_int_equal(compare(old, copy, &err), -1);
	expect_error(&err, ERR_IO, "at offset 1048581");
}

static void c11_holes_that_are_none_are_read(void **state)
{
	struct image *old, *copy, *believer;
	struct extent ext;
	struct err err = ERR_INIT;

	(void)state;
	memset(disk, 0, sizeof(disk));
	disk[MIB + 5] = 1;
	old = raw_now();
	believer = raw_now();
	disk[MIB + 5] = 0;
	copy = raw_now();
	lying = true;
	assert_int_equal(image_next_guest_extent(believer, 0, &ext, &err), 0);
	assert_int_not_equal(ext.kind, EXTENT_DATA); /* the lie reaches whoever believes it */
	image_close(believer);
	assert_int_equal(compare(old, copy, &err), -1);
	lying = false;
	expect_error(&err, ERR_IO, "at offset 1048581");
}

/* ---- files on a disk, which has a map of them ---- */

static uint64_t nr_read;

static ssize_t counting_pread(int fd, void *buf, size_t len, off_t offset)
{
	ssize_t n = pread(fd, buf, len, offset);

	nr_read += n > 0 ? (uint64_t)n : 0;
	return n;
}

/* Of so many bytes, with 64 KiB of data at half of it and at its end. */
static int sparse_file(const char *name, off_t size, uint8_t byte)
{
	int fd = open(in_tree(name), O_RDWR | O_CREAT, 0600);

	memset(disk, byte, 65536);
	assert_true(fd >= 0);
	if (ftruncate(fd, size) < 0) {
		close(fd);
		skip(); /* a file system without files of this size */
	}
	assert_int_equal(pwrite(fd, disk, 65536, size / 2), 65536);
	assert_int_equal(pwrite(fd, disk, 65536, size - 65536), 65536);
	return fd;
}

static void require_maps(void)
{
	int fd = open(in_tree("probe"), O_RDWR | O_CREAT, 0600);
	bool has = fd >= 0 && ftruncate(fd, 65536) == 0 && file_is_unmapped(fd, 0, 65536);

	close(fd);
	if (!has) {
		printf("this file system has no maps of extents\n");
		skip();
	}
}

/* Returns what was read. */
static uint64_t read_to_compare(int old, int copy, int wanted, struct err *err)
{
	struct file_ops ops = file_ops_os;

	ops.pread = counting_pread;
	file_ops = &ops;
	nr_read = 0;
	assert_int_equal(compare(must_open(old, "raw", NULL), must_open(copy, "raw", NULL), err), wanted);
	file_ops = &file_ops_os;
	return nr_read;
}

#define GIANT ((off_t)2 << 40)

static void holes_of_giants_are_not_read(void **state)
{
	struct err err = ERR_INIT;

	(void)state;
	require_maps();
	assert_in_range(read_to_compare(sparse_file("old", GIANT, 1), sparse_file("new", GIANT, 1), 0, &err), 4 * 65536, 4 * MIB);
	assert_int_equal(truncate(in_tree("new"), 0), 0);
	read_to_compare(sparse_file("old", GIANT, 1), sparse_file("new", GIANT, 2), -1, &err);
	expect_error(&err, ERR_IO, "at offset 1099511627776");
}

/* Blocks that are reserved and were never written are no data, written ones are, whoever says what. */
static void c11_the_map_of_a_file_is_believed(void **state)
{
	struct err err = ERR_INIT;
	int old, copy;

	(void)state;
	require_maps();
	lying = true;
	old = sparse_file("old", 64 * MIB, 1);
	copy = sparse_file("new", 64 * MIB, 1);
	assert_in_range(read_to_compare(old, copy, 0, &err), 64 * MIB, 129 * MIB);
	read_to_compare(sparse_file("old", 64 * MIB, 1), sparse_file("new", 64 * MIB, 2), -1, &err);
	lying = false;
	expect_error(&err, ERR_IO, "at offset 33554432");
	old = sparse_file("reserved", 64 * MIB, 2);
	if (fallocate(old, 0, 0, 64 * MIB) < 0)
		skip();
	assert_in_range(read_to_compare(old, sparse_file("new", 64 * MIB, 2), 0, &err), 4 * 65536, 4 * MIB);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(equal_disks_are_equal),
		cmocka_unit_test(one_byte_is_seen),
		cmocka_unit_test(c11_holes_that_are_none_are_read),
		tree_test(holes_of_giants_are_not_read),
		tree_test(c11_the_map_of_a_file_is_believed),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
