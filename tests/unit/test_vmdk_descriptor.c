/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/image_help.h"
#include "scanner/base/checked.h"
#include "scanner/image/vmdk_format.h"

/* The text of VMDK descriptors. */

#define HEAD "# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\ncreateType=\"custom\"\n"

/* A descriptor and the text that it points into. */
struct parsed {
	struct vmdk_descriptor d;
	char *text;
};

static int parse_bytes(const char *text, size_t len, struct parsed *ret, struct err *err)
{
	ret->text = malloc(len + 1);
	assert_non_null(ret->text);
	memcpy(ret->text, text, len);
	ret->text[len] = '!';
	return vmdk_descriptor_parse(ret->text, len, &ret->d, err);
}

static struct parsed must_parse(const char *text)
{
	struct err err = ERR_INIT;
	struct parsed p;

	if (parse_bytes(text, strlen(text), &p, &err) < 0)
		fail_msg("not parsed: %s", err.text);
	return p;
}

static void done(struct parsed *p)
{
	vmdk_descriptor_release(&p->d);
	free(p->text);
}

static void expect_fails(const char *text, enum err_kind kind, const char *said)
{
	struct err err = ERR_INIT;
	struct parsed p;

	if (parse_bytes(text, strlen(text), &p, &err) == 0)
		fail_msg("parsed; wanted '%s'", said);
	expect_error(&err, kind, said);
	done(&p);
}

static void expect_extent_line(const char *text, enum vmdk_extent_kind kind, uint64_t size, const char *name,
			       uint64_t offset)
{
	struct parsed p = must_parse(text);
	const struct vmdk_extent *e = p.d.extents.items;

	assert_int_equal(p.d.extents.nr, 1);
	assert_int_equal(e->kind, kind);
	assert_int_equal(e->size, size);
	assert_int_equal(e->offset, offset);
	if (name)
		assert_string_equal(e->name, name);
	else
		assert_null(e->name);
	done(&p);
}

static bool probe(const char *text)
{
	return vmdk_descriptor_probe((const uint8_t *)text, strlen(text));
}

/* ---- what is recognised ---- */

static void is_recognised_by_its_first_comment(void **state)
{
	(void)state;
	assert_true(probe("# Disk DescriptorFile\nversion=1\n"));
	assert_true(probe("# disk descriptorfile"));
	assert_true(probe("\xef\xbb\xbf# Disk DescriptorFile\r\n"));
	assert_true(probe("\n  \t\r\n# made by hand\n \t# Disk DescriptorFile\n"));
}

static void is_not_seen_in_other_text(void **state)
{
	(void)state;
	assert_false(probe(""));
	assert_false(probe("# Disk Descriptor"));
	assert_false(probe("#!/bin/sh\nset -e\n# Disk DescriptorFile\n"));
	assert_false(probe("version=1\nCID=0\n"));
	assert_false(vmdk_descriptor_probe((const uint8_t *)"\0\n# Disk DescriptorFile\n", 24));
}

/* ---- what is read ---- */

static void reads_all_that_matters(void **state)
{
	struct parsed p =
		must_parse("# Disk DescriptorFile\nversion=3\nencoding=\"UTF-8\"\nCID=1aB\nparentCID=DEADBEEF\n"
			   "isNativeSnapshot=\"no\"\ncreateType=\"twoGbMaxExtentSparse\"\n"
			   "parentFileNameHint=\"../base disk.vmdk\"\n# Extent description\n"
			   "RW 4192256 SPARSE \"a-s001.vmdk\"\nRDONLY 63 FLAT \"a f=1.vmdk\" 8\n\n"
			   "changeTrackPath=\"a-ctk.vmdk\"\n#DDB\nddb.adapterType = \"lsilogic\"\n");
	const struct vmdk_extent *e = p.d.extents.items;

	(void)state;
	assert_int_equal(p.d.version, 3);
	assert_string_equal(p.d.cid, "000001ab");
	assert_string_equal(p.d.parent_cid, "deadbeef");
	assert_string_equal(p.d.create_type, "twoGbMaxExtentSparse");
	assert_string_equal(p.d.parent_name, "../base disk.vmdk");
	assert_string_equal(p.d.adapter, "lsilogic");
	assert_true(p.d.change_tracking);
	assert_false(p.d.encrypted);
	assert_int_equal(p.d.extents.nr, 2);
	assert_int_equal(e[0].kind, VMDK_SPARSE);
	assert_int_equal(e[0].size, 4192256 * VMDK_SECTOR);
	assert_string_equal(e[1].name, "a f=1.vmdk");
	assert_int_equal(e[1].offset, 8 * VMDK_SECTOR);
	done(&p);
}

static void nothing_need_be_said(void **state)
{
	struct parsed p = must_parse("");

	(void)state;
	assert_null(p.d.create_type);
	assert_null(p.d.parent_name);
	assert_null(p.d.adapter);
	assert_string_equal(p.d.cid, "");
	assert_int_equal(p.d.extents.nr, 0);
	done(&p);
}

static void lines_may_end_and_be_indented_in_any_way(void **state)
{
	struct parsed p = must_parse("\xef\xbb\xbf\tCREATETYPE = \"MONOLITHICFLAT\" \r\n"
				     "  cid\t=  7\r\nversion=\"2\"\r\n \trw\t8  flat \t\"x\"   0  \r\n\r\n");

	(void)state;
	assert_string_equal(p.d.create_type, "monolithicFlat");
	assert_string_equal(p.d.cid, "00000007");
	assert_int_equal(p.d.version, 2);
	assert_int_equal(p.d.extents.nr, 1);
	assert_string_equal(p.d.extents.items[0].name, "x");
	done(&p);
}

static void each_kind_of_extent_has_its_form(void **state)
{
	(void)state;
	expect_extent_line("RW 8 FLAT \"a\" 3", VMDK_FLAT, 4096, "a", 1536);
	expect_extent_line("RW 8 FLAT \"a\"", VMDK_FLAT, 4096, "a", 0);
	expect_extent_line("RW 8 VMFS \"a-flat.vmdk\"", VMDK_FLAT, 4096, "a-flat.vmdk", 0);
	expect_extent_line("RDONLY 8 SPARSE \"a\"", VMDK_SPARSE, 4096, "a", 0);
	expect_extent_line("RW 8 SPARSE \"a\" 0", VMDK_SPARSE, 4096, "a", 0);
	expect_extent_line("RW 8 ZERO", VMDK_ZERO, 4096, NULL, 0);
	expect_extent_line("NOACCESS 8 ZERO", VMDK_ZERO, 4096, NULL, 0);
	expect_extent_line("RW 0 SPARSE \"a\"", VMDK_SPARSE, 0, "a", 0);
}

static void a_name_is_bytes_up_to_the_next_quote(void **state)
{
	(void)state;
	expect_extent_line("RW 1 SPARSE \"a\\n\xfc'= #\"", VMDK_SPARSE, 512, "a\\n\xfc'= #", 0);
	expect_fails("RW 1 SPARSE \"a\"b\"", ERR_FORMAT, "its offset is not a number");
}

static void a_zero_byte_ends_the_text(void **state)
{
	const char text[] = "RW 1 ZERO\n\0RW 2 ZERO\n";
	struct err err = ERR_INIT;
	struct parsed p;

	(void)state;
	assert_int_equal(parse_bytes(text, sizeof(text), &p, &err), 0);
	assert_int_equal(p.d.extents.nr, 1);
	done(&p);
}

static void comments_and_unknown_lines_are_passed_over(void **state)
{
	struct parsed p = must_parse(
		"#createType=\"vmfsRaw\"\n # parentCID=x\nRWX 8 FLAT\nparentCIDs=zz\nhello\n# open=\"\n"
		"ddb.uuid = \"60 00\"\n=\n");

	(void)state;
	assert_null(p.d.create_type);
	assert_null(p.d.parent_name);
	assert_int_equal(p.d.extents.nr, 0);
	done(&p);
}

static void tells_what_is_encrypted(void **state)
{
	struct parsed p = must_parse(HEAD "encryptionKeys=\"vmware:key/fqid/x\"\n");

	(void)state;
	assert_true(p.d.encrypted);
	done(&p);
}

/* ---- what is refused ---- */

static void names_that_are_no_names_are_refused(void **state)
{
	char line[IMAGE_NAME_MAX + 64] = "RW 1 FLAT \"", name[IMAGE_NAME_MAX] = "";

	(void)state;
	expect_fails("RW 1 FLAT \"\" 0", ERR_FORMAT, "the extent has no name");
	expect_fails("RW 1 FLAT a.vmdk 0", ERR_FORMAT, "no name in quotes");
	expect_fails("RW 1 FLAT", ERR_FORMAT, "no name in quotes");
	expect_fails("RW 1 FLAT \"a\n\" 0", ERR_FORMAT, "no name in quotes");
	expect_fails("RW 1 FLAT \"a\033[2J\" 0", ERR_FORMAT, "control byte (0x1b)");
	expect_fails("RW 1 FLAT \"a\rb\" 0", ERR_FORMAT, "control byte (0x0d)");
	expect_fails("RW 1 FLAT \"a\x7f\" 0", ERR_FORMAT, "control byte (0x7f)");
	expect_fails("RW\v1\vFLAT\v\"a\"\v0", ERR_FORMAT, "line 1 of the descriptor: it has a control byte (0x0b)");
	expect_fails("# a comment\r RW 1 FLAT \"a\" 0", ERR_FORMAT, "control byte (0x0d)");
	expect_fails("# parentFileNameHint=\"a\"", ERR_FORMAT, "parentFileNameHint stands where it is no key");
	expect_fails("ddb.x = \"parentfilenamehint=a\"", ERR_FORMAT, "parentFileNameHint stands where it is no key");
	expect_fails("parentFileNameHint=\"a\tb\"", ERR_FORMAT, "the name of the parent has a control byte (0x09)");
	expect_fails("parentFileNameHint=\"\"", ERR_FORMAT, "the parent has no name");
	expect_fails("parentFileNameHint=\"a", ERR_FORMAT, "value of 'parentFileNameHint' has no end");
	memset(line + 11, 'a', IMAGE_NAME_MAX);
	strcpy(line + 11 + IMAGE_NAME_MAX, "\" 0");
	expect_fails(line, ERR_FORMAT, "longer than 1023 bytes");
	strcpy(line + 11 + IMAGE_NAME_MAX - 1, "\" 0");
	memset(name, 'a', IMAGE_NAME_MAX - 1);
	expect_extent_line(line, VMDK_FLAT, 512, name, 0);
}

static void numbers_that_are_no_numbers_are_refused(void **state)
{
	(void)state;
	expect_fails("RW x ZERO", ERR_FORMAT, "the size of an extent is not a number");
	expect_fails("RW -1 ZERO", ERR_FORMAT, "the size of an extent is not a number");
	expect_fails("RW", ERR_FORMAT, "the size of an extent is not a number");
	expect_fails("RW 18446744073709551616 ZERO", ERR_FORMAT, "the size of an extent is not a number");
	expect_fails("RW 18446744073709551620 ZERO", ERR_FORMAT, "the size of an extent is not a number");
	expect_fails("RW 18014398509481984 ZERO", ERR_FORMAT, "is too large");
	expect_fails("RW 8 FLAT \"a\" -8", ERR_FORMAT, "extent 'a': its offset is not a number");
	expect_fails("RW 8 FLAT \"a\" 18014398509481980", ERR_FORMAT, "extent 'a' is past the largest file offset");
	expect_fails("RW 8 FLAT \"a\" 0 partitionUUID", ERR_FORMAT, "there is more behind its offset");
	expect_fails("RW 8 SPARSE \"a\" 1", ERR_FORMAT, "has an offset, but is not flat");
	expect_fails("version=one", ERR_FORMAT, "the version of the descriptor");
	expect_fails("version=0", ERR_FORMAT, "the version of the descriptor");
	expect_fails("CID=123456789", ERR_FORMAT, "CID is not a number of 8 hex digits");
	expect_fails("parentCID=xyz", ERR_FORMAT, "parentCID is not a number of 8 hex digits");
	expect_fails("CID=", ERR_FORMAT, "CID is not a number of 8 hex digits");
}

static void what_is_said_twice_is_refused(void **state)
{
	(void)state;
	expect_fails("CID=1\nCID=1", ERR_FORMAT, "line 2 of the descriptor: CID is said twice");
	expect_fails("parentCID=1\nparentcid=2", ERR_FORMAT, "parentCID is said twice");
	expect_fails("version=1\nversion=1", ERR_FORMAT, "version is said twice");
	expect_fails("createType=\"vmfs\"\n\ncreateType=\"vmfs\"", ERR_FORMAT, "line 3 of the descriptor: createType");
	expect_fails("parentFileNameHint=\"a\"\nparentFileNameHint=\"b\"", ERR_FORMAT,
		     "parentFileNameHint is said twice");
}

static void disks_on_devices_and_of_other_kinds_are_named(void **state)
{
	static const char *const read[] = {
		"monolithicSparse", "monolithicFlat",	    "twoGbMaxExtentSparse", "twoGbMaxExtentFlat",
		"2GbMaxExtentFlat", "2gbmaxextentsparse",   "streamOptimized",	    "vmfs",
		"vmfsThin",	    "vmfsEagerZeroedThick", "vmfsPreallocated",	    "custom"
	};
	static const char *const devices[] = { "fullDevice", "partitionedDevice", "vmfsRaw", "vmfsRawDeviceMap",
					       "vmfsPassthroughRawDeviceMap" };
	char line[100];

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(read); i++) {
		struct parsed p;

		snprintf(line, sizeof(line), "createType=\"%s\"", read[i]);
		p = must_parse(line);
		assert_non_null(p.d.create_type);
		done(&p);
	}
	for (size_t i = 0; i < ARRAY_SIZE(devices); i++) {
		char said[100];

		snprintf(line, sizeof(line), "createType=\"%s\"", devices[i]);
		snprintf(said, sizeof(said), "'%s': it is a device of the host", devices[i]);
		expect_fails(line, ERR_UNSUPPORTED, said);
	}
	expect_fails("createType=\"vmfsRDM\"", ERR_UNSUPPORTED, "'vmfsRawDeviceMap': it is a device");
	expect_fails("createType=\"vmfsRDMP\"", ERR_UNSUPPORTED, "'vmfsPassthroughRawDeviceMap': it is a device");
	expect_fails("createType=\"vmfsSparse\"", ERR_UNSUPPORTED, "COWD extents are not read");
	expect_fails("createType=\"seSparse\"", ERR_UNSUPPORTED, "seSparse extents are not read");
	expect_fails("createType=\"fancy\"", ERR_UNSUPPORTED, "type 'fancy' are not known");
}

static void extents_on_devices_and_of_other_kinds_are_named(void **state)
{
	(void)state;
	expect_fails("RW 8 VMFSRDM \"a\"", ERR_UNSUPPORTED, "'VMFSRDM': it is a device");
	expect_fails("RW 8 VMFSRAW \"a\"", ERR_UNSUPPORTED, "'VMFSRAW': it is a device");
	expect_fails("RW 8 VMFSSPARSE \"a\"", ERR_UNSUPPORTED, "COWD extents are not read");
	expect_fails("RW 8 SESPARSE \"a\"", ERR_UNSUPPORTED, "seSparse extents are not read");
	expect_fails("RW 8 PMEM \"a\"", ERR_UNSUPPORTED, "extents of type 'PMEM' are not known");
	expect_fails("NOACCESS 8 FLAT \"a\" 0", ERR_UNSUPPORTED, "NOACCESS");
}

/* ---- how much ---- */

static char *repeated(const char *line, size_t nr)
{
	size_t len = strlen(line);
	char *text = malloc(nr * len + 1);

	assert_non_null(text);
	for (size_t i = 0; i < nr; i++)
		memcpy(text + i * len, line, len);
	text[nr * len] = '\0';
	return text;
}

static void many_extents_are_read_but_not_any_number(void **state)
{
	char *fit = repeated("RW 1 ZERO\n", VMDK_NR_EXTENTS_MAX),
	     *more = repeated("RW 1 ZERO\n", VMDK_NR_EXTENTS_MAX + 1);
	struct parsed p = must_parse(fit);

	(void)state;
	assert_int_equal(p.d.extents.nr, VMDK_NR_EXTENTS_MAX);
	done(&p);
	expect_fails(more, ERR_UNSUPPORTED, "line 8193 of the descriptor: the disk has more than 8192 extents");
	free(fit);
	free(more);
}

static void a_million_lines_are_passed_over(void **state)
{
	char *text = repeated("a\n", 1 << 20);
	struct parsed p = must_parse(text);

	(void)state;
	done(&p);
	free(text);
	text = repeated("=", 2 << 20);
	p = must_parse(text);
	done(&p);
	free(text);
	text = repeated(" ", 2 << 20);
	p = must_parse(text);
	done(&p);
	free(text);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(is_recognised_by_its_first_comment),
		cmocka_unit_test(is_not_seen_in_other_text),
		cmocka_unit_test(reads_all_that_matters),
		cmocka_unit_test(nothing_need_be_said),
		cmocka_unit_test(lines_may_end_and_be_indented_in_any_way),
		cmocka_unit_test(each_kind_of_extent_has_its_form),
		cmocka_unit_test(a_name_is_bytes_up_to_the_next_quote),
		cmocka_unit_test(a_zero_byte_ends_the_text),
		cmocka_unit_test(comments_and_unknown_lines_are_passed_over),
		cmocka_unit_test(tells_what_is_encrypted),
		cmocka_unit_test(names_that_are_no_names_are_refused),
		cmocka_unit_test(numbers_that_are_no_numbers_are_refused),
		cmocka_unit_test(what_is_said_twice_is_refused),
		cmocka_unit_test(disks_on_devices_and_of_other_kinds_are_named),
		cmocka_unit_test(extents_on_devices_and_of_other_kinds_are_named),
		cmocka_unit_test(many_extents_are_read_but_not_any_number),
		cmocka_unit_test(a_million_lines_are_passed_over),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
