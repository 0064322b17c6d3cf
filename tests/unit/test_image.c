/* SPDX-License-Identifier: Apache-2.0 */
#include <limits.h>

#include "image_help.h"
#include "scanner/base/bytes.h"
#include "scanner/base/checked.h"

/* The common head: probing, chains and the guest view, with small version 2 qcow2 images of one byte each. */

#define CLUSTER 512
#define DISK (8 * CLUSTER)

/* An overlay of `size` bytes whose guest cluster `at` holds `byte`; -1 = none. */
static int overlay(const char *backing, const char *format, uint64_t size, int at, uint8_t byte)
{
	uint8_t p[5 * CLUSTER] = "QFI\xfb";
	size_t ext = 72;

	be32_store(p + 4, 2);
	be32_store(p + 20, 9);
	be64_store(p + 24, size);
	be32_store(p + 36, 1);
	be64_store(p + 40, CLUSTER);
	be64_store(p + 48, 2 * CLUSTER);
	be32_store(p + 56, 1);
	if (*format) {
		be32_store(p + ext, 0xe2792aca);
		be32_store(p + ext + 4, (uint32_t)strlen(format));
		memcpy(p + ext + 8, format, strlen(format));
	}
	if (*backing) {
		be64_store(p + 8, 256);
		be32_store(p + 16, (uint32_t)strlen(backing));
		memcpy(p + 256, backing, strlen(backing));
	}
	be64_store(p + CLUSTER, 3 * CLUSTER);
	if (at >= 0)
		be64_store(p + 3 * CLUSTER + at * 8, 4 * CLUSTER);
	memset(p + 4 * CLUSTER, byte, CLUSTER);
	return file_of(p, sizeof(p));
}

/* Opens any name as a copy of the descriptor of that number: "0", "1", ... */
struct shelf {
	int fds[4];
};

static int open_from_shelf(void *ctx, enum image_role role, const char *name, const char *from, char *ret_path,
			   struct err *err)
{
	struct shelf *shelf = ctx;
	int i = atoi(name);

	(void)from;
	assert_int_equal(role, IMAGE_BACKING);
	if (i < 0 || i > 3 || shelf->fds[i] < 0)
		return err_set(err, ERR_REFUSED, "policy says no");
	snprintf(ret_path, PATH_MAX, "dir/%s", name);
	return dup(shelf->fds[i]);
}

static struct image *open_chain(struct shelf *shelf, struct err *err)
{
	struct image_opener opener = { .open = open_from_shelf, .ctx = shelf };
	struct image *img = must_open(dup(shelf->fds[0]), NULL, &opener);

	*err = ERR_INIT;
	if (image_open_chain(img, &opener, err) == 0)
		return img;
	assert_null(img->backing);
	expect_extent(img, 0, CLUSTER, EXTENT_HOLE); /* still usable */
	image_close(img);
	return NULL;
}

static void empty_shelf(struct shelf *shelf)
{
	for (int i = 0; i < 4; i++)
		if (shelf->fds[i] >= 0)
			close(shelf->fds[i]);
}

static void holes_show_the_backing_file(void **state)
{
	struct shelf s = { { overlay("1", "qcow2", DISK, 1, 'a'), overlay("2", "", DISK, 2, 'b'),
			     overlay("", "", DISK, 3, 'c'), -1 } };
	struct err err;
	struct image *img = open_chain(&s, &err);
	struct extent ext;

	(void)state;
	assert_non_null(img);
	expect_guest_bytes(img, 0, CLUSTER, 0);
	expect_guest_bytes(img, CLUSTER, CLUSTER, 'a');
	expect_guest_bytes(img, 2 * CLUSTER, CLUSTER, 'b');
	expect_guest_bytes(img, 3 * CLUSTER, CLUSTER, 'c');
	expect_guest_bytes(img, 4 * CLUSTER, 4 * CLUSTER, 0);
	assert_int_equal(image_next_guest_extent(img, 2 * CLUSTER + 5, &ext, &err), 0);
	assert_ptr_equal(ext.owner, img->backing);
	assert_int_equal(ext.len, CLUSTER - 5);
	assert_string_equal(img->backing->file.path, "dir/1");
	image_close(img);
	empty_shelf(&s);
}

static void behind_a_short_backing_file_are_zeros_not_what_is_deeper(void **state)
{
	struct shelf s = { { overlay("1", "", DISK, 0, 'a'), overlay("2", "", 2 * CLUSTER, 1, 'b'),
			     overlay("", "", DISK, 3, 'c'), -1 } };
	struct err err;
	struct image *img = open_chain(&s, &err);

	(void)state;
	assert_non_null(img);
	expect_guest_bytes(img, CLUSTER, CLUSTER, 'b');
	expect_guest_bytes(img, 2 * CLUSTER, 6 * CLUSTER, 0);
	image_close(img);
	empty_shelf(&s);
}

static void the_stored_view_is_only_of_the_file_itself(void **state)
{
	struct shelf s = { { overlay("1", "", DISK, 1, 'a'), overlay("", "", DISK, 0, 'b'), -1, -1 } };
	struct err err;
	struct image *img = open_chain(&s, &err);

	(void)state;
	assert_non_null(img);
	expect_extent(img, 0, CLUSTER, EXTENT_HOLE);
	expect_extent(img, CLUSTER, CLUSTER, EXTENT_DATA);
	expect_extent(img, 2 * CLUSTER, 6 * CLUSTER, EXTENT_HOLE);
	image_close(img);
	empty_shelf(&s);
}

static void expect_chain_refused(struct shelf *s, enum err_kind kind, const char *text)
{
	struct err err;

	assert_null(open_chain(s, &err));
	expect_error(&err, kind, text);
	empty_shelf(s);
}

static void refuses_an_image_that_backs_itself(void **state)
{
	struct shelf s = { { overlay("0", "", DISK, 1, 'a'), -1, -1, -1 } };

	(void)state;
	expect_chain_refused(&s, ERR_FORMAT, "backing file '0' of 'test.img': the backing chain loops back to 'dir/0'");
}

static void refuses_a_chain_that_comes_back(void **state)
{
	struct shelf s = { { overlay("1", "", DISK, 1, 'a'), overlay("2", "", DISK, 1, 'b'),
			     overlay("1", "", DISK, 1, 'c'), -1 } };

	(void)state;
	expect_chain_refused(&s, ERR_FORMAT, "backing file '1' of 'dir/2': the backing chain loops back");
}

static void names_the_backing_file_that_policy_refuses(void **state)
{
	struct shelf s = { { overlay("1", "", DISK, 1, 'a'), overlay("3", "", DISK, 1, 'b'), -1, -1 } };

	(void)state;
	expect_chain_refused(&s, ERR_REFUSED, "backing file '3' of 'dir/1': policy says no");
}

static void refuses_a_backing_format_that_is_not_read(void **state)
{
	struct shelf s = { { overlay("1", "vdi", DISK, 1, 'a'), overlay("", "", DISK, 1, 'b'), -1, -1 } };

	(void)state;
	expect_chain_refused(&s, ERR_UNSUPPORTED, "backing file '1' of 'test.img': format 'vdi' is not read");
}

static void a_stated_raw_backing_file_is_not_probed(void **state)
{
	struct shelf s = { { overlay("1", "raw", DISK, 1, 'a'), overlay("0", "", DISK, 1, 'b'), -1, -1 } };
	struct err err;
	struct image *img = open_chain(&s, &err);

	(void)state;
	assert_non_null(img);
	assert_string_equal(img->backing->format->name, "raw");
	expect_guest_bytes(img, 0, 1, 'Q');
	image_close(img);
	empty_shelf(&s);
}

static void a_broken_backing_file_is_named(void **state)
{
	struct shelf s = { { overlay("1", "qcow2", DISK, 1, 'a'), file_of("QFI\xfb", 4), -1, -1 } };

	(void)state;
	expect_chain_refused(&s, ERR_FORMAT, "backing file '1' of 'test.img': the file ends inside");
}

static int open_another(void *ctx, enum image_role role, const char *name, const char *from, char *ret_path,
			struct err *err)
{
	int *left = ctx;

	(void)role, (void)name, (void)from, (void)err;
	snprintf(ret_path, PATH_MAX, "next");
	return overlay(--*left ? "next" : "", "", DISK, -1, 0);
}

static int open_long_chain(int nr, struct err *err)
{
	struct image_opener opener = { .open = open_another, .ctx = &nr };
	struct image *img = must_open(overlay("next", "", DISK, -1, 0), NULL, NULL);
	int rc;

	nr--;
	rc = image_open_chain(img, &opener, err);
	if (rc == 0)
		expect_guest_bytes(img, 0, DISK, 0);
	image_close(img);
	return rc;
}

static void chains_end_at_the_limit(void **state)
{
	struct err err = ERR_INIT;

	(void)state;
	assert_int_equal(open_long_chain(IMAGE_CHAIN_MAX, &err), 0);
	assert_int_equal(open_long_chain(IMAGE_CHAIN_MAX + 1, &err), -1);
	expect_error(&err, ERR_UNSUPPORTED, "the backing chain has more than 200 members");
}

static void the_guest_view_wants_its_chain_open(void **state)
{
	struct image *img = must_open(overlay("1", "", DISK, 1, 'a'), NULL, NULL);
	struct err err = ERR_INIT;
	uint8_t byte;

	(void)state;
	assert_int_equal(image_read_guest(img, 0, &byte, 1, &err), -1);
	expect_error(&err, ERR_USAGE, "not open");
	assert_int_equal(image_open_chain(img, NULL, &err), -1);
	expect_error(&err, ERR_REFUSED, "backing files are not followed");
	image_close(img);
}

static void expect_foreign(const void *magic, size_t len, size_t at, size_t size, const char *name)
{
	uint8_t p[8192] = "";
	struct err err = ERR_INIT;

	memcpy(p + at, magic, len);
	assert_null(image_open(file_of(p, size), "x", NULL, NULL, NULL, &err));
	expect_error(&err, ERR_UNSUPPORTED, name);
	image_close(must_open(file_of(p, size), "raw", NULL)); /* the user knows better */
}

static void names_formats_that_it_knows_but_does_not_read(void **state)
{
	(void)state;
	expect_foreign("KDMV", 4, 0, 8192, "VMDK images are not read");
	expect_foreign("COWD", 4, 0, 8192, "VMDK");
	expect_foreign("# Disk DescriptorFile", 21, 0, 512, "VMDK descriptor");
	expect_foreign("conectix", 8, 0, 8192, "VHD");
	expect_foreign("conectix", 8, 8192 - 512, 8192, "VHD");
	expect_foreign("conectix", 8, 8192 - 511, 8192, "VHD");
	expect_foreign("vhdxfile", 8, 0, 8192, "VHDX");
	expect_foreign("\x7f\x10\xda\xbe", 4, 0x40, 8192, "VDI");
	expect_foreign("QED", 4, 0, 8192, "QED");
	expect_foreign("WithoutFreeSpace", 16, 0, 8192, "Parallels");
	expect_foreign("WithouFreSpacExt", 16, 0, 8192, "Parallels");
	expect_foreign("QFI\xfb\0\0\0\1", 8, 0, 8192, "qcow (version 1)");
}

static void what_nothing_claims_is_raw(void **state)
{
	uint8_t p[8192] = "KDM";
	struct image *img;

	(void)state;
	memcpy(p + 4096, "conectix", 8); /* neither head nor tail */
	img = must_open(file_of(p, sizeof(p)), NULL, NULL);
	assert_string_equal(img->format->name, "raw");
	image_close(img);
}

static void formats_are_found_by_name(void **state)
{
	(void)state;
	assert_string_equal(image_format_by_name("qcow2")->name, "qcow2");
	assert_null(image_format_by_name("qcow"));
	assert_null(image_format_by_name(""));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(holes_show_the_backing_file),
		cmocka_unit_test(behind_a_short_backing_file_are_zeros_not_what_is_deeper),
		cmocka_unit_test(the_stored_view_is_only_of_the_file_itself),
		cmocka_unit_test(refuses_an_image_that_backs_itself),
		cmocka_unit_test(refuses_a_chain_that_comes_back),
		cmocka_unit_test(names_the_backing_file_that_policy_refuses),
		cmocka_unit_test(refuses_a_backing_format_that_is_not_read),
		cmocka_unit_test(a_stated_raw_backing_file_is_not_probed),
		cmocka_unit_test(a_broken_backing_file_is_named),
		cmocka_unit_test(chains_end_at_the_limit),
		cmocka_unit_test(the_guest_view_wants_its_chain_open),
		cmocka_unit_test(names_formats_that_it_knows_but_does_not_read),
		cmocka_unit_test(what_nothing_claims_is_raw),
		cmocka_unit_test(formats_are_found_by_name),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
