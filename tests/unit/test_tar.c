/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/tar_help.h"

/* The walk over tar archives, made here header by header. */

static const uint8_t zeros[TAR_EXTENSION_MAX + 1];

static struct tar_walk walk_of(const struct archive *a)
{
	return (struct tar_walk){ .head = a->p, .head_len = a->len, .size = a->len };
}

static void expect_member(struct tar_walk *w, const char *name, uint64_t offset, uint64_t size)
{
	struct err err = ERR_INIT;
	struct tar_member m;
	int rc = tar_next(w, &m, &err);

	if (rc != 1)
		fail_msg("no member '%s': %s", name, rc ? err.text : "the end");
	assert_string_equal(m.name, name);
	assert_int_equal(m.offset, offset);
	assert_int_equal(m.size, size);
}

static void expect_end(struct tar_walk *w, struct archive *a)
{
	struct err err = ERR_INIT;
	struct tar_member m;

	assert_int_equal(tar_next(w, &m, &err), 0);
	free(a->p);
}

static void expect_broken_after(struct archive *a, unsigned nr, enum err_kind kind, const char *text)
{
	struct tar_walk w = walk_of(a);
	struct err err = ERR_INIT;
	struct tar_member m;

	for (unsigned i = 0; i < nr; i++)
		if (tar_next(&w, &m, &err) != 1)
			fail_msg("%u members; wanted %u: %s", i, nr, err.text);
	if (tar_next(&w, &m, &err) != -1)
		fail_msg("read; wanted '%s'", text);
	expect_error(&err, kind, text);
	free(a->p);
}

static void expect_broken(struct archive *a, const char *text)
{
	expect_broken_after(a, 0, ERR_FORMAT, text);
}

static void members_follow_each_other(void **state)
{
	struct archive a = archive_new();
	struct tar_walk w;

	(void)state;
	add_file(&a, "a", "x", 1);
	add_file(&a, "b", zeros, 512);
	add_file(&a, "c", "", 0);
	a.len += 1024;
	w = walk_of(&a);
	expect_member(&w, "a", 512, 1);
	expect_member(&w, "b", 1536, 512);
	expect_member(&w, "c", 2560, 0);
	expect_end(&w, &a);
}

static void the_first_block_of_zeros_is_the_end(void **state)
{
	struct archive a = archive_new();
	struct tar_walk w;

	(void)state;
	add_file(&a, "a", "x", 1);
	a.len += 512;
	add_file(&a, "b", "x", 1);
	w = walk_of(&a);
	expect_member(&w, "a", 512, 1);
	expect_end(&w, &a);
}

static void an_archive_may_end_without_zeros_or_padding(void **state)
{
	struct archive a = archive_new();
	struct tar_walk w;

	(void)state;
	add_file(&a, "a", "xyz", 3);
	a.len = 515;
	w = walk_of(&a);
	expect_member(&w, "a", 512, 3);
	expect_end(&w, &a);
}

static void what_is_no_file_has_no_data(void **state)
{
	struct archive a = archive_new();
	struct err err = ERR_INIT;
	struct tar_member m;
	struct tar_walk w;

	(void)state;
	for (char type = '1'; type <= '6'; type++) {
		struct tar_header_disk *d = add_entry(&a, type, "no file", "", 0);

		memcpy(d->size, "00000001000", 11);
		set_checksum(d);
	}
	add_entry(&a, 'Z', "of a vendor", "x", 1);
	add_entry(&a, '7', "contiguous", "x", 1);
	add_entry(&a, '\0', "of old", "x", 1);
	w = walk_of(&a);
	for (char type = '1'; type <= '6'; type++) {
		assert_int_equal(tar_next(&w, &m, &err), 1);
		assert_int_equal(m.size, 0);
		assert_false(m.regular);
		assert_int_equal(m.directory, type == '5');
	}
	assert_int_equal(tar_next(&w, &m, &err), 1);
	assert_false(m.regular);
	for (unsigned i = 0; i < 2; i++) {
		assert_int_equal(tar_next(&w, &m, &err), 1);
		assert_true(m.regular);
	}
	expect_end(&w, &a);
}

static void prefixes_go_before_names_in_ustar_only(void **state)
{
	struct archive a = archive_new();
	struct tar_header_disk *d = add_file(&a, "a", "x", 1);
	struct tar_walk w;

	(void)state;
	strcpy(d->prefix, "folder");
	set_checksum(d);
	d = add_file(&a, "b", "x", 1);
	memcpy(d->magic, "ustar  ", 8); /* GNU: other things are there */
	strcpy(d->prefix, "folder");
	set_checksum(d);
	w = walk_of(&a);
	expect_member(&w, "folder/a", 512, 1);
	expect_member(&w, "b", 1536, 1);
	expect_end(&w, &a);
}

static void names_may_fill_their_fields(void **state)
{
	struct archive a = archive_new();
	struct tar_header_disk *d = add_file(&a, "", "x", 1);
	char name[257];
	struct tar_walk w;

	(void)state;
	memset(d->name, 'n', sizeof(d->name));
	memset(d->prefix, 'p', sizeof(d->prefix));
	set_checksum(d);
	memset(name, 'p', 155);
	memset(name + 156, 'n', 100);
	name[155] = '/';
	name[256] = '\0';
	w = walk_of(&a);
	expect_member(&w, name, 512, 1);
	expect_end(&w, &a);
}

static void sizes_may_be_written_in_many_ways(void **state)
{
	static const struct {
		char size[13];
		uint64_t value;
	} ways[] = { { "         5 \0", 5 },
		     { "5\0          ", 5 },
		     { "000000000005", 5 },
		     { "\x80\0\0\0\0\0\0\0\0\0\0\5", 5 },
		     { "\0\0\0\0\0\0\0\0\0\0\0\0", 0 },
		     { "\x80\0\0\0\0\0\0\0\0\0\2\1", 513 } };

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(ways); i++) {
		struct archive a = archive_new();
		struct tar_header_disk *d = add_file(&a, "a", zeros, 600);
		struct tar_walk w;

		memcpy(d->size, ways[i].size, 12);
		set_checksum(d);
		w = walk_of(&a);
		expect_member(&w, "a", 512, ways[i].value);
		free(a.p);
	}
}

static void sizes_that_are_no_numbers_are_refused(void **state)
{
	static const char ways[][13] = { "0000000000x ", "00000000008 ", "-0000000001 ",
					 "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
					 "\x80\0\1\0\0\0\0\0\0\0\0\0" };

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(ways); i++) {
		struct archive a = archive_new();
		struct tar_header_disk *d = add_file(&a, "a", zeros, 600);

		memcpy(d->size, ways[i], 12);
		set_checksum(d);
		expect_broken(&a, "the header at offset 0 states no number as a size");
	}
}

static void sizes_past_the_end_are_refused(void **state)
{
	struct archive a = archive_new();

	(void)state;
	add_file(&a, "a", "x", 1);
	add_file(&a, "b", zeros, 1000);
	a.len -= 25;
	expect_broken_after(&a, 1, ERR_FORMAT, "the archive is cut short: 1000 bytes of 'b' at offset 1536");

	a = archive_new();
	memcpy(add_file(&a, "a", "x", 1)->size, "\x80\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff", 12);
	set_checksum((void *)a.p);
	expect_broken(&a, "18446744073709551615 bytes of 'a'");
}

static void a_header_that_is_cut_is_refused(void **state)
{
	struct archive a = archive_new();

	(void)state;
	add_file(&a, "a", "x", 1);
	a.len += 511;
	expect_broken_after(&a, 1, ERR_FORMAT, "the archive ends inside the header at offset 1024");
}

static void checksums_are_compared(void **state)
{
	struct archive a = archive_new();
	struct tar_header_disk *d = add_file(&a, "a", "x", 1);

	(void)state;
	d->mtime[3] ^= 1;
	expect_broken(&a, "the checksum of the header at offset 0 does not match");
}

static void checksums_of_signed_bytes_match_too(void **state)
{
	struct archive a = archive_new();
	struct tar_header_disk *d = add_file(&a, "\xe4", "x", 1);
	struct tar_walk w = walk_of(&a);
	unsigned sum = (unsigned)strtoul(d->checksum, NULL, 8) - 256;

	(void)state;
	snprintf(d->checksum, sizeof(d->checksum), "%06o", sum);
	expect_member(&w, "\xe4", 512, 1);
	expect_end(&w, &a);
}

static void pax_headers_say_more(void **state)
{
	struct archive a = archive_new();
	struct tar_walk w;

	(void)state;
	add_pax(&a, 'x', "path", "a name");
	add_pax(&a, 'x', "size", "700");
	add_pax(&a, 'x', "comment", "no matter");
	add_file(&a, "short", zeros, 1);
	a.len += 512; /* 700 bytes, not 1 */
	add_file(&a, "b", "x", 1);
	w = walk_of(&a);
	expect_member(&w, "a name", 3584, 700);
	expect_member(&w, "b", 5120, 1);
	expect_end(&w, &a);
}

static void global_pax_headers_are_for_all(void **state)
{
	struct archive a = archive_new();
	struct tar_walk w;

	(void)state;
	add_pax(&a, 'g', "size", "2");
	add_file(&a, "a", "xyz", 3);
	add_pax(&a, 'x', "size", "1");
	add_file(&a, "b", "xyz", 3);
	add_file(&a, "c", "xyz", 3);
	w = walk_of(&a);
	expect_member(&w, "a", 1536, 2);
	expect_member(&w, "b", 3584, 1);
	expect_member(&w, "c", 4608, 2);
	expect_end(&w, &a);
}

static void long_names_of_gnu_are_read(void **state)
{
	struct archive a = archive_new();
	struct tar_walk w;
	char name[301];

	(void)state;
	memset(name, 'n', 300);
	name[300] = '\0';
	add_entry(&a, 'K', "././@LongLink", "a link", 7);
	add_entry(&a, 'L', "././@LongLink", name, sizeof(name));
	add_file(&a, "nnn", "x", 1);
	add_file(&a, "b", "x", 1);
	w = walk_of(&a);
	expect_member(&w, name, 2560, 1);
	expect_member(&w, "b", 3584, 1);
	expect_end(&w, &a);
}

static void too_long_names_are_refused(void **state)
{
	char name[IMAGE_NAME_MAX + 1];
	struct archive a = archive_new();

	(void)state;
	memset(name, 'n', IMAGE_NAME_MAX);
	name[IMAGE_NAME_MAX] = '\0';
	add_entry(&a, 'L', "././@LongLink", name, sizeof(name));
	expect_broken(&a, "header at offset 0: a member's name of 1024 bytes is too long");
	a = archive_new();
	add_pax(&a, 'x', "path", name);
	expect_broken(&a, "a member's name of 1024 bytes is too long");
}

static void broken_pax_records_are_refused(void **state)
{
	static const struct {
		const char *record, *text;
	} records[] = {
		{ "x", "a record of a wrong length" },
		{ "8 path=a\n", "a record of a wrong length" },
		{ "8 path=a", "a record of a wrong length" },
		{ "12 path=a\n", "a record of a wrong length" },
		{ "0 path=a\n", "a record of a wrong length" },
		{ " path=a\n", "a record of a wrong length" },
		{ "2 path=a\n", "a record of a wrong length" },
		{ "99999999999999999999 a=b\n", "a record of a wrong length" },
		{ "9 path_a\n", "a record without a value" },
		{ "11 size=1x\n", "states no number as a size" },
		{ "11 size=-1\n", "states no number as a size" },
		{ "29 size=18446744073709551616\n", "states no number as a size" },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(records); i++) {
		struct archive a = archive_new();

		add_entry(&a, 'x', "pax", records[i].record, strlen(records[i].record));
		add_file(&a, "a", "x", 1);
		expect_broken(&a, records[i].text);
	}
}

static void an_empty_record_takes_nothing_back(void **state)
{
	struct archive a = archive_new();
	struct tar_walk w;

	(void)state;
	add_pax(&a, 'x', "size", "");
	add_pax(&a, 'x', "path", "");
	add_file(&a, "a", "x", 1);
	w = walk_of(&a);
	expect_member(&w, "a", 2560, 1);
	expect_end(&w, &a);
}

static void sparse_files_are_refused_by_name(void **state)
{
	struct archive a = archive_new();

	(void)state;
	add_entry(&a, 'S', "disk", "x", 1);
	expect_broken_after(&a, 0, ERR_UNSUPPORTED, "member 'disk' is stored as a sparse file");
	a = archive_new();
	add_pax(&a, 'x', "GNU.sparse.name", "disk");
	add_pax(&a, 'x', "GNU.sparse.major", "1");
	add_file(&a, "GNUSparseFile.0/disk", "x", 1);
	expect_broken_after(&a, 0, ERR_UNSUPPORTED, "member 'disk' is stored as a sparse file");
	a = archive_new();
	add_pax(&a, 'x', "SCHILY.realsize", "1000");
	add_file(&a, "disk", "x", 1);
	expect_broken_after(&a, 0, ERR_UNSUPPORTED, "member 'disk' is stored as a sparse file");
	a = archive_new();
	add_entry(&a, 'M', "disk", "x", 1);
	expect_broken_after(&a, 0, ERR_UNSUPPORTED, "member 'disk' goes on from another volume");
}

static void headers_are_limited(void **state)
{
	struct archive a = archive_new();

	(void)state;
	while (a.len + 1024 <= ARCHIVE_MAX)
		add_file(&a, "a", "", 0);
	assert_true(a.len / 512 > TAR_HEADERS_MAX - 2);
	while (a.len / 512 > TAR_HEADERS_MAX - 2)
		a.len -= 512;
	{
		struct tar_walk w = walk_of(&a);
		struct err err = ERR_INIT;
		struct tar_member m;

		for (size_t i = 0; i < a.len / 512; i++)
			assert_int_equal(tar_next(&w, &m, &err), 1);
		w.nr_headers += 2;
		w.at = 0;
		assert_int_equal(tar_next(&w, &m, &err), -1);
		expect_error(&err, ERR_UNSUPPORTED, "more than 16384 headers");
	}
	free(a.p);
	a = archive_new();
	add_entry(&a, 'x', "pax", zeros, TAR_EXTENSION_MAX + 1);
	expect_broken(&a, "a header with 262145 bytes of data is too large");
}

static void archives_look_like_it(void **state)
{
	struct archive a = archive_new();
	struct tar_header_disk *d = add_file(&a, "a", "x", 1);

	(void)state;
	assert_true(tar_looks_like(a.p, a.len));
	assert_false(tar_looks_like(a.p, 511));
	d->checksum[3] ^= 1;
	assert_true(tar_looks_like(a.p, a.len)); /* a broken one */
	memset(d->magic, 0, sizeof(d->magic));
	assert_false(tar_looks_like(a.p, a.len));
	set_checksum(d);
	assert_true(tar_looks_like(a.p, a.len)); /* of old */
	free(a.p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(members_follow_each_other),
		cmocka_unit_test(the_first_block_of_zeros_is_the_end),
		cmocka_unit_test(an_archive_may_end_without_zeros_or_padding),
		cmocka_unit_test(what_is_no_file_has_no_data),
		cmocka_unit_test(prefixes_go_before_names_in_ustar_only),
		cmocka_unit_test(names_may_fill_their_fields),
		cmocka_unit_test(sizes_may_be_written_in_many_ways),
		cmocka_unit_test(sizes_that_are_no_numbers_are_refused),
		cmocka_unit_test(sizes_past_the_end_are_refused),
		cmocka_unit_test(a_header_that_is_cut_is_refused),
		cmocka_unit_test(checksums_are_compared),
		cmocka_unit_test(checksums_of_signed_bytes_match_too),
		cmocka_unit_test(pax_headers_say_more),
		cmocka_unit_test(global_pax_headers_are_for_all),
		cmocka_unit_test(long_names_of_gnu_are_read),
		cmocka_unit_test(too_long_names_are_refused),
		cmocka_unit_test(broken_pax_records_are_refused),
		cmocka_unit_test(an_empty_record_takes_nothing_back),
		cmocka_unit_test(sparse_files_are_refused_by_name),
		cmocka_unit_test(headers_are_limited),
		cmocka_unit_test(archives_look_like_it),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
