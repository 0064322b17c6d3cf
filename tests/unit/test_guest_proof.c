/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/tree_help.h"

#include <sys/syscall.h>

#include "compactor/guest_proof.h"
#include "scanner/base/checked.h"
#include "tests/unit/image_help.h"

/* Row C11 of failures: file systems that say there is a hole where data are. */

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

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(equal_disks_are_equal),
		cmocka_unit_test(one_byte_is_seen),
		cmocka_unit_test(c11_holes_that_are_none_are_read),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
