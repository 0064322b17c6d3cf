/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "reports/info.h"

/* Figures of commands are tested in tests/interop/info_against_qemu_img.py; here is what no image is easily made for. */

static struct inspection image;

static void begin_image(void)
{
	memset(&image, 0, sizeof(image));
	image.opened = 1;
	strcpy(image.path, "/disk");
	strcpy(image.format, "qcow2");
}

/* `share` of 1000 bytes are aligned to INSPECT_ALIGNMENT(n). */
static void align_data(const unsigned share[INSPECT_ALIGNMENTS])
{
	image.extents[INSPECT_DATA] = (struct inspect_count){ .nr = 1, .bytes = 1000 };
	for (unsigned n = 0; n < INSPECT_ALIGNMENTS; n++)
		image.aligned[n] = share[n];
}

static char *table(void)
{
	struct report_options o = { .exact = true };
	struct err err = ERR_INIT;
	char *text = NULL;
	size_t len;
	FILE *f = open_memstream(&text, &len);

	assert_non_null(f);
	assert_int_equal(info_write_table(f, &image, NULL, &o, &err), 0);
	fclose(f);
	return text;
}

static void expect_line(const char *line)
{
	char *text = table();

	if (!strstr(text, line))
		fail_msg("'%s' is not in:\n%s", line, text);
	free(text);
}

static void alignment_is_that_of_all_data_and_of_most(void **state)
{
	(void)state;
	begin_image();
	align_data((const unsigned[INSPECT_ALIGNMENTS]){ 1000, 1000, 999, 950, 900, 899, 100 });
	assert_int_equal(info_alignment(&image, 100), 1024);
	assert_int_equal(info_alignment(&image, 90), 8192);
	expect_line("alignment     all data to 1 KiB, 90 % of it to 8 KiB\n");
	align_data((const unsigned[INSPECT_ALIGNMENTS]){ 999 });
	assert_int_equal(info_alignment(&image, 100), 0);
	expect_line("alignment     not all data to 512, 90 % of it to 512\n");
	align_data((const unsigned[INSPECT_ALIGNMENTS]){ 10 });
	assert_int_equal(info_alignment(&image, 90), 0);
	expect_line("alignment     not all data to 512\n");
}

static void lists_that_were_cut_say_so(void **state)
{
	(void)state;
	begin_image();
	image.nr_snapshots = 5000;
	image.snapshots_listed = 1;
	expect_line("\nand 4999 more\n");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(alignment_is_that_of_all_data_and_of_most),
		cmocka_unit_test(lists_that_were_cut_say_so),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
