/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/image_help.h"
#include "scanner/base/bytes.h"

/* Which format a file is taken for, by name, first bytes and last. */

#define SIZE 8192

static uint8_t bytes[SIZE];

static const uint8_t *blank(void)
{
	return memset(bytes, 0, sizeof(bytes));
}

static void put_qcow2_header(void)
{
	memcpy(bytes, "QFI\xfb\0\0\0\3", 8);
}

/* A footer as a fixed VHD has it. */
static void put_vhd_footer(void)
{
	uint8_t *f = bytes + SIZE - 512;
	uint32_t sum = 0;

	memset(f, 0, 512);
	memcpy(f, "conectix", 8);
	be32_store(f + 8, 2);
	be32_store(f + 12, 0x10000);
	memset(f + 16, 0xff, 8);
	be64_store(f + 40, SIZE - 512);
	be64_store(f + 48, SIZE - 512);
	be32_store(f + 60, 2);
	for (unsigned i = 0; i < 512; i++)
		sum += f[i];
	be32_store(f + 64, ~sum);
}

static int choose(const char *name, struct image_choice *ret, struct err *err)
{
	struct image_file f = { .fd = file_of(bytes, sizeof(bytes)), .size = SIZE, .path = (char *)(uintptr_t)name };
	int rc;

	*err = ERR_INIT;
	rc = image_choose(&f, ret, err);
	close(f.fd);
	return rc;
}

static void expect(const char *name, const char *format, enum image_certainty certainty, const char *doubt)
{
	struct image_choice choice = { .doubt = "" };
	struct err err;

	if (choose(name, &choice, &err) < 0)
		fail_msg("'%s': %s", name, err.text);
	assert_string_equal(choice.format->name, format);
	assert_int_equal(choice.certainty, certainty);
	if (!strstr(choice.doubt, doubt) || (!*doubt && *choice.doubt))
		fail_msg("'%s': the doubt is '%s'", name, choice.doubt);
}

static void expect_no(const char *name, enum err_kind kind, const char *text)
{
	struct image_choice choice;
	struct err err;

	assert_int_equal(choose(name, &choice, &err), -1);
	expect_error(&err, kind, text);
}

static void name_and_header_together_are_sure(void **state)
{
	(void)state;
	blank();
	put_qcow2_header();
	expect("/a/x.qcow2", "qcow2", IMAGE_AGREED, "");
	expect("/a/x.QCOW2", "qcow2", IMAGE_AGREED, "");
	blank();
	expect("/a/x.raw", "raw", IMAGE_AGREED, "");
}

static void a_header_alone_is_a_guess(void **state)
{
	(void)state;
	blank();
	put_qcow2_header();
	expect("/a/x.img", "qcow2", IMAGE_GUESSED, "");
	expect("/a.raw/x", "qcow2", IMAGE_GUESSED, "");
	expect("x", "qcow2", IMAGE_GUESSED, "");
	expect("/a/x.vmdk", "qcow2", IMAGE_GUESSED, "it is named as vmdk, but is qcow2");
}

/* E4: the guest of a raw disk writes what it likes into sector 0. */
static void e4_a_header_in_a_disk_that_is_named_raw_decides_nothing(void **state)
{
	(void)state;
	blank();
	put_qcow2_header();
	expect("/a/x.raw", "raw", IMAGE_GUESSED, "begins or ends as qcow2");
	memcpy(bytes, "KDMV", 4);
	expect("/a/x.raw", "raw", IMAGE_GUESSED, "begins or ends as vmdk");
	memcpy(bytes, "QED", 4);
	expect("/a/x.raw", "raw", IMAGE_GUESSED, "begins or ends as QED");
	blank();
	put_vhd_footer();
	expect("/a/x.raw", "raw", IMAGE_GUESSED, "begins or ends as vhd");
}

/* The last sector of a raw disk is the guest's too. */
static void e4_an_end_counts_only_with_the_name(void **state)
{
	(void)state;
	blank();
	put_vhd_footer();
	expect("/a/x.vhd", "vhd", IMAGE_AGREED, "");
	expect("/a/x.img", "raw", IMAGE_GUESSED, "it ends as vhd, but is not named so");
}

static void e5_two_formats_are_ambiguous(void **state)
{
	(void)state;
	blank();
	put_qcow2_header();
	put_vhd_footer();
	expect_no("/a/x.img", ERR_AMBIGUOUS, "it can be taken for qcow2 and for vhd");
	expect_no("/a/x.vhd", ERR_AMBIGUOUS, "--format tells which it is");
	expect_no("/a/x", ERR_AMBIGUOUS, "qcow2");
	memcpy(bytes + 64, "\x7f\x10\xda\xbe", 4);
	expect_no("/a/x.qcow2", ERR_AMBIGUOUS, "it can be taken for qcow2 and for vdi");
}

/* Else a guest could make its own image unreadable: its data may come to lie at the end of the file. */
static void data_at_the_end_of_a_file_does_not_make_it_ambiguous(void **state)
{
	(void)state;
	blank();
	put_qcow2_header();
	put_vhd_footer();
	expect("/a/x.qcow2", "qcow2", IMAGE_AGREED, "");
}

static void a_name_without_content_is_doubted(void **state)
{
	(void)state;
	blank();
	expect("/a/x.qcow2", "raw", IMAGE_GUESSED, "it is named as qcow2, but nothing in it is");
	expect("/a/x.img", "raw", IMAGE_GUESSED, "");
}

static void extents_of_a_split_disk_are_no_disks(void **state)
{
	(void)state;
	blank();
	expect_no("/a/x-flat.vmdk", ERR_PART, "a part of a vmdk image");
	expect_no("/a/x-f001.vmdk", ERR_PART, "--format raw reads it");
	put_qcow2_header(); /* E4: the guest did that */
	expect_no("/a/x-flat.vmdk", ERR_PART, "a part of a vmdk image");
}

static void names_what_is_recognised_but_not_read(void **state)
{
	static const struct {
		const char *magic, *name;
		size_t len;
	} unread[] = {
		{ "QED", "QED", 4 },
		{ "WithoutFreeSpace", "Parallels", 16 },
		{ "WithouFreSpacExt", "Parallels", 16 },
		{ "QFI\xfb\0\0\0\1", "qcow (version 1)", 8 },
		{ "Bochs Virtual HD Image", "Bochs", 22 },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(unread) / sizeof(unread[0]); i++) {
		blank();
		memcpy(bytes, unread[i].magic, unread[i].len);
		expect_no("/a/x", ERR_UNSUPPORTED, unread[i].name);
	}
}

static void an_end_that_is_not_read_counts_only_with_the_name(void **state)
{
	(void)state;
	blank();
	memcpy(bytes + SIZE - 512, "koly", 4);
	expect_no("/a/x.dmg", ERR_UNSUPPORTED, "Apple disk image");
	expect("/a/x.img", "raw", IMAGE_GUESSED, "");
}

static void formats_are_found_by_name_and_by_what_qemu_calls_them(void **state)
{
	(void)state;
	assert_string_equal(image_format_by_name("qcow2")->name, "qcow2");
	assert_string_equal(image_format_by_name("vpc")->name, "vhd");
	assert_null(image_format_by_name("qcow"));
	assert_null(image_format_by_name(""));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(name_and_header_together_are_sure),
		cmocka_unit_test(a_header_alone_is_a_guess),
		cmocka_unit_test(e4_a_header_in_a_disk_that_is_named_raw_decides_nothing),
		cmocka_unit_test(e4_an_end_counts_only_with_the_name),
		cmocka_unit_test(e5_two_formats_are_ambiguous),
		cmocka_unit_test(data_at_the_end_of_a_file_does_not_make_it_ambiguous),
		cmocka_unit_test(a_name_without_content_is_doubted),
		cmocka_unit_test(extents_of_a_split_disk_are_no_disks),
		cmocka_unit_test(names_what_is_recognised_but_not_read),
		cmocka_unit_test(an_end_that_is_not_read_counts_only_with_the_name),
		cmocka_unit_test(formats_are_found_by_name_and_by_what_qemu_calls_them),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
