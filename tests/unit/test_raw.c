/* SPDX-License-Identifier: Apache-2.0 */
#include <fcntl.h>

#include "tests/unit/image_help.h"

#define KIB 1024
#define MIB (1024 * 1024)

static void an_empty_file_is_an_empty_disk(void **state)
{
	struct image *img = must_open(file_of("", 0), NULL, NULL);
	struct err err = ERR_INIT;
	struct extent ext;

	(void)state;
	assert_string_equal(img->format->name, "raw");
	assert_int_equal(img->size, 0);
	assert_int_equal(img->span, 0);
	assert_int_equal(img->layer, 2 * MIB);
	assert_int_equal(image_next_extent(img, 0, &ext, &err), -1);
	expect_error(&err, ERR_USAGE, "past the end");
	image_close(img);
}

static void a_disk_of_odd_size_keeps_its_size(void **state)
{
	struct image *img = must_open(file_of("seven..", 7), NULL, NULL);
	uint8_t buf[7];

	(void)state;
	assert_int_equal(img->size, 7);
	assert_int_equal(img->span, 7);
	expect_extent(img, 0, 7, EXTENT_DATA);
	expect_extent(img, 3, 4, EXTENT_DATA);
	assert_int_equal(image_read_guest(img, 0, buf, 7, NULL), 0);
	assert_memory_equal(buf, "seven..", 7);
	image_close(img);
}

static void layers_are_whole_units(void **state)
{
	int fd = file_of("", 0);
	struct image *img;

	(void)state;
	assert_int_equal(ftruncate(fd, 2 * MIB + 1), 0);
	img = must_open(fd, "raw", NULL);
	assert_int_equal(img->layer, 4 * MIB);
	assert_int_equal(img->span, 2 * MIB + 1);
	image_close(img);
}

/* Files in memory tell of holes page by page. */
static void holes_of_the_file_are_holes(void **state)
{
	int fd = file_of("", 0);
	struct image *img;

	(void)state;
	assert_int_equal(ftruncate(fd, 3 * MIB), 0);
	assert_int_equal(pwrite(fd, "x", 1, MIB), 1);
	img = must_open(fd, "raw", NULL);
	expect_extent(img, 0, MIB, EXTENT_HOLE);
	expect_extent(img, MIB, 4 * KIB, EXTENT_DATA);
	expect_extent(img, MIB + 4 * KIB, 2 * MIB - 4 * KIB, EXTENT_HOLE);
	expect_guest_bytes(img, 0, MIB, 0);
	expect_guest_bytes(img, MIB, 1, 'x');
	expect_guest_bytes(img, MIB + 1, MIB, 0);
	image_close(img);
}

static void extents_of_huge_disks_are_at_most_one_gib(void **state)
{
	int fd = file_of("", 0);
	struct image *img;

	(void)state;
	assert_int_equal(ftruncate(fd, (off_t)64 << 40), 0);
	img = must_open(fd, "raw", NULL);
	expect_extent(img, 5, 1 << 30, EXTENT_HOLE);
	image_close(img);
}

static void refuses_a_disk_of_four_pib(void **state)
{
	int fd = file_of("", 0);
	struct err err = ERR_INIT;

	(void)state;
	if (ftruncate(fd, (off_t)1 << 52) < 0) {
		close(fd);
		print_message("no file of 4 PiB can be made here\n");
		skip();
	}
	assert_null(image_open(fd, "x", NULL, NULL, NULL, &err));
	expect_error(&err, ERR_UNSUPPORTED, "4 PiB");
}

static void a_file_that_shrinks_is_told(void **state)
{
	static uint8_t bytes[64 * KIB] = { 1 };
	int fd = file_of(bytes, sizeof(bytes));
	struct image *img = must_open(fd, "raw", NULL);
	struct err err = ERR_INIT;
	struct extent ext;

	(void)state;
	assert_int_equal(image_next_extent(img, 0, &ext, &err), 0);
	assert_int_equal(ftruncate(fd, 32 * KIB), 0);
	assert_int_equal(image_read_extent(&ext, 0, bytes, sizeof(bytes), &err), -1);
	expect_error(&err, ERR_STALE, "cut to 32768 bytes");
	image_close(img);
}

static void reads_stay_inside_their_extent(void **state)
{
	struct image *img = must_open(file_of("0123456789", 10), "raw", NULL);
	struct err err = ERR_INIT;
	struct extent ext;
	uint8_t buf[16];

	(void)state;
	assert_int_equal(image_next_extent(img, 4, &ext, &err), 0);
	assert_int_equal(image_read_extent(&ext, 5, buf, 3, &err), 0);
	assert_memory_equal(buf, "567", 3);
	assert_int_equal(image_read_extent(&ext, 3, buf, 1, &err), -1);
	expect_error(&err, ERR_USAGE, "leaves its extent");
	assert_int_equal(image_read_extent(&ext, 9, buf, 2, &err), -1);
	assert_int_equal(image_read_guest(img, 9, buf, 2, &err), -1);
	expect_error(&err, ERR_USAGE, "past the end of the disk");
	image_close(img);
}

static void refuses_what_is_neither_file_nor_disk(void **state)
{
	struct err err = ERR_INIT;

	(void)state;
	assert_null(image_open(open("/dev/null", O_RDONLY | O_CLOEXEC), "null", NULL, NULL, NULL, &err));
	expect_error(&err, ERR_UNSUPPORTED, "neither a regular file nor a block device");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(an_empty_file_is_an_empty_disk),
		cmocka_unit_test(a_disk_of_odd_size_keeps_its_size),
		cmocka_unit_test(layers_are_whole_units),
		cmocka_unit_test(holes_of_the_file_are_holes),
		cmocka_unit_test(extents_of_huge_disks_are_at_most_one_gib),
		cmocka_unit_test(refuses_a_disk_of_four_pib),
		cmocka_unit_test(a_file_that_shrinks_is_told),
		cmocka_unit_test(reads_stay_inside_their_extent),
		cmocka_unit_test(refuses_what_is_neither_file_nor_disk),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
