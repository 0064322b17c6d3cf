/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/image_help.h"
#include "scanner/base/checked.h"
#include "scanner/image/ovf.h"

/* The OVF descriptor: what is found in it, and what is refused. */

static char text[OVF_SIZE_MAX + 1];

static struct ovf parsed(const char *what)
{
	struct err err = ERR_INIT;
	struct ovf ovf;

	strcpy(text, what);
	if (ovf_parse(text, strlen(text), &ovf, &err) < 0)
		fail_msg("not read: %s", err.text);
	return ovf;
}

static void expect_refused(const char *what, enum err_kind kind, const char *message)
{
	struct err err = ERR_INIT;
	struct ovf ovf;

	strcpy(text, what);
	if (ovf_parse(text, strlen(text), &ovf, &err) == 0)
		fail_msg("read; wanted '%s'", message);
	expect_error(&err, kind, message);
}

static void expect_href(const char *what, const char *href)
{
	struct ovf ovf = parsed(what);

	assert_int_equal(ovf.files.nr, 1);
	assert_string_equal(ovf.files.items[0].href, href);
	ovf_release(&ovf);
}

static void files_and_disks_are_found(void **state)
{
	struct ovf ovf = parsed(
		"<?xml version=\"1.0\"?>\n<Envelope xmlns:ovf='http://schemas.dmtf.org/ovf/envelope/1'>\n"
		"<References>\n<File ovf:href=\"a.vmdk\" ovf:id=\"file1\" ovf:size=\"7\"/>\n"
		"<File ovf:href='b.vmdk.gz' ovf:id='file2' ovf:compression='gzip' ovf:chunkSize='9'/></References>"
		"<DiskSection><Info>disks</Info>\n<Disk ovf:capacity='8' ovf:diskId='disk1' ovf:fileRef='file1'/>"
		"<Disk ovf:capacity='8' ovf:diskId='disk2'/></DiskSection></Envelope>\n");

	(void)state;
	assert_int_equal(ovf.files.nr, 2);
	assert_string_equal(ovf.files.items[0].id, "file1");
	assert_string_equal(ovf.files.items[0].href, "a.vmdk");
	assert_string_equal(ovf.files.items[0].compression, "");
	assert_false(ovf.files.items[0].chunked);
	assert_string_equal(ovf.files.items[1].href, "b.vmdk.gz");
	assert_string_equal(ovf.files.items[1].compression, "gzip");
	assert_true(ovf.files.items[1].chunked);
	assert_int_equal(ovf.disks.nr, 2);
	assert_string_equal(ovf.disks.items[0].file, "file1");
	assert_string_equal(ovf.disks.items[1].file, "");
	ovf_release(&ovf);
}

static void namespaces_may_have_any_prefix_or_none(void **state)
{
	(void)state;
	expect_href("<File href='x'/>", "x");
	expect_href("<a:File b:href='x'/>", "x");
	expect_href("<ns0:Env><ns0:File\n\tns1:href\n=\n'x'\n/></ns0:Env>", "x");
}

static void only_whole_names_count(void **state)
{
	struct ovf ovf = parsed("<Filex href='x'/><xFile href='x'/><Files/><HardDisk fileRef='x'/><file "
				"href='x'/><Disk xfileRef='y'/>");

	(void)state;
	assert_int_equal(ovf.files.nr, 0);
	assert_int_equal(ovf.disks.nr, 1);
	assert_string_equal(ovf.disks.items[0].file, "");
	ovf_release(&ovf);
}

static void the_first_of_two_attributes_counts(void **state)
{
	(void)state;
	expect_href("<File a:href='x' b:href='y'/>", "x");
}

static void entities_are_decoded(void **state)
{
	(void)state;
	expect_href("<File href='a&amp;b&lt;c&gt;d&quot;e&apos;f'/>", "a&b<c>d\"e'f");
	expect_href("<File href='&#65;&#x42;&#228;&#x20AC;&#x1F600;'/>", "AB\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80");
	expect_href("<File href='&amp;amp;'/>", "&amp;");
}

static void what_is_no_entity_stays(void **state)
{
	(void)state;
	expect_href("<File href='a&b&nope;&#0;&#x110000;&#65'/>", "a&b&nope;&#0;&#x110000;&#65");
	expect_href("<File href='a&'/>", "a&");
}

static void what_is_no_tag_is_skipped(void **state)
{
	(void)state;
	expect_href("<!-- a > b <File href='1'/> --><![CDATA[<File href='2'/>]]><?pi <File href='3'/>?>"
		    "<a b=\"<File href='4'/>\" c='>'/>a > b</a ><File href='x'/> text",
		    "x");
}

static void broken_markup_is_refused(void **state)
{
	static const char *const texts[] = { "<",
					     "<File",
					     "<File ",
					     "<File href",
					     "<File href=",
					     "<File href=x>",
					     "<File href='x",
					     "<File href='x'",
					     "<File ='x'>",
					     "<File 'x'>",
					     "<File / href='x'>",
					     "<!-- ",
					     "<![CDATA[ ]]",
					     "<?xml ",
					     "</File",
					     "< File href='x'/>",
					     "<a <b>>" };

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(texts); i++)
		expect_refused(texts[i], ERR_FORMAT, "it is no well-formed XML at byte ");
	expect_refused("<a>  <File href=x>", ERR_FORMAT, "at byte 16");
}

static void document_types_are_refused(void **state)
{
	(void)state;
	expect_refused("<!DOCTYPE a [<!ENTITY b 'c'>]><a/>", ERR_UNSUPPORTED, "document type declaration");
}

static void other_encodings_are_refused(void **state)
{
	char wide[] = "\xff\xfe<\0F\0i\0l\0e\0/\0>";
	struct err err = ERR_INIT;
	struct ovf ovf;

	(void)state;
	assert_int_equal(ovf_parse(wide, sizeof(wide) - 1, &ovf, &err), -1);
	expect_error(&err, ERR_UNSUPPORTED, "not written in UTF-8");
}

static void numbers_of_files_and_disks_are_limited(void **state)
{
	static const struct {
		const char *element, *message;
		unsigned max;
	} kinds[] = { { "<File/>", "it lists more than 4096 files", OVF_FILES_MAX },
		      { "<Disk/>", "it lists more than 1024 disks", OVF_DISKS_MAX } };
	static char many[sizeof(text)];

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
		struct ovf ovf;

		*many = '\0';
		for (unsigned n = 0; n < kinds[i].max; n++)
			memcpy(many + 7 * n, kinds[i].element, 8);
		ovf = parsed(many);
		assert_int_equal(ovf.files.nr + ovf.disks.nr, kinds[i].max);
		ovf_release(&ovf);
		memcpy(many + 7 * kinds[i].max, kinds[i].element, 8);
		expect_refused(many, ERR_UNSUPPORTED, kinds[i].message);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(files_and_disks_are_found),
		cmocka_unit_test(namespaces_may_have_any_prefix_or_none),
		cmocka_unit_test(only_whole_names_count),
		cmocka_unit_test(the_first_of_two_attributes_counts),
		cmocka_unit_test(entities_are_decoded),
		cmocka_unit_test(what_is_no_entity_stays),
		cmocka_unit_test(what_is_no_tag_is_skipped),
		cmocka_unit_test(broken_markup_is_refused),
		cmocka_unit_test(document_types_are_refused),
		cmocka_unit_test(other_encodings_are_refused),
		cmocka_unit_test(numbers_of_files_and_disks_are_limited),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
