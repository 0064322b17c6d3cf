/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "scanner/guests.h"

static struct guest guest;
static struct inspection image;

#define OUTPUT(s) s, sizeof(s) - 1

static int parse(const char *output, size_t len, struct err *err)
{
	char *text = malloc(len + 1);

	assert_non_null(text);
	memcpy(text, output, len);
	*err = ERR_INIT;
	return guest_parse(text, len, &guest, err);
}

static void expect_refused(const char *output, size_t len, const char *why)
{
	struct err err;

	assert_int_equal(parse(output, len, &err), -1);
	if (!strstr(err.text, why))
		fail_msg("wanted '%s', got '%s'", why, err.text);
	guest_release(&guest);
}

#define ALL                                                                                                            \
	"up\0"                                                                                                         \
	"system\0/dev/sda1\0linux\0debian\0Debian 12\00012.5\0x86_64\0host\0"                                          \
	"device\0/dev/sda\0gpt\0001000\0"                                                                              \
	"partition\0/dev/sda\0001\000512\000256\0"                                                                     \
	"0x83\0main\0"                                                                                                 \
	"filesystem\0/dev/sda1\0ext4\0root\0uu\000900\00010\000880\0"                                                  \
	"filesystem\0/dev/sda2\0swap\0\0\000900\0\0\0"                                                                 \
	"volume\0/dev/vg/lv\0004096\0"                                                                                 \
	"end\0"

static void takes_everything_apart(void **state)
{
	struct err err;

	(void)state;
	assert_int_equal(parse(OUTPUT(ALL), &err), 0);
	assert_int_equal(guest.systems.nr, 1);
	assert_string_equal(guest.systems.items[0].root, "/dev/sda1");
	assert_string_equal(guest.systems.items[0].type, "linux");
	assert_string_equal(guest.systems.items[0].distro, "debian");
	assert_string_equal(guest.systems.items[0].product, "Debian 12");
	assert_string_equal(guest.systems.items[0].version, "12.5");
	assert_string_equal(guest.systems.items[0].arch, "x86_64");
	assert_string_equal(guest.systems.items[0].hostname, "host");
	assert_int_equal(guest.devices.nr, 1);
	assert_string_equal(guest.devices.items[0].name, "/dev/sda");
	assert_string_equal(guest.devices.items[0].table, "gpt");
	assert_int_equal(guest.devices.items[0].size, 1000);
	assert_int_equal(guest.partitions.nr, 1);
	assert_string_equal(guest.partitions.items[0].device, "/dev/sda");
	assert_int_equal(guest.partitions.items[0].number, 1);
	assert_int_equal(guest.partitions.items[0].start, 512);
	assert_int_equal(guest.partitions.items[0].size, 256);
	assert_string_equal(guest.partitions.items[0].type, "0x83");
	assert_string_equal(guest.partitions.items[0].name, "main");
	assert_int_equal(guest.file_systems.nr, 2);
	assert_string_equal(guest.file_systems.items[0].type, "ext4");
	assert_string_equal(guest.file_systems.items[0].label, "root");
	assert_string_equal(guest.file_systems.items[0].uuid, "uu");
	assert_int_equal(guest.file_systems.items[0].size, 900);
	assert_int_equal(guest.file_systems.items[0].used, 10);
	assert_int_equal(guest.file_systems.items[0].available, 880);
	assert_true(guest.file_systems.items[1].used == GUEST_UNKNOWN);
	assert_int_equal(guest.volumes.nr, 1);
	assert_string_equal(guest.volumes.items[0].name, "/dev/vg/lv");
	assert_int_equal(guest.volumes.items[0].size, 4096);
	guest_release(&guest);
}

static void every_output_that_was_cut_is_refused(void **state)
{
	(void)state;
	for (size_t len = 0; len < sizeof(ALL) - 1; len++)
		expect_refused(ALL, len, "did not say all");
}

static void what_makes_no_sense_is_refused(void **state)
{
	(void)state;
	expect_refused(OUTPUT("up\0nonsense\0end\0"), "did not say all");
	expect_refused(OUTPUT("device\0/dev/sda\0gpt\0-1\0end\0"), "did not say all");
	expect_refused(OUTPUT("device\0/dev/sda\0gpt\0001x\0end\0"), "did not say all");
	expect_refused(OUTPUT("device\0/dev/sda\0gpt\00099999999999999999999\0end\0"), "did not say all");
	expect_refused(OUTPUT("end\0device\0/dev/sda\0gpt\0001\0end\0"), "did not say all");
}

static void what_went_wrong_is_told(void **state)
{
	(void)state;
	expect_refused(OUTPUT("error\0cannot start a virtual machine: no kernel\0"), "no kernel");
}

/* ---- which images QEMU may open ---- */

static void begin_image(const char *format)
{
	memset(&image, 0, sizeof(image));
	image.opened = 1;
	snprintf(image.format, sizeof(image.format), "%s", format);
}

static void expect_kept_away(const char *why)
{
	struct err err = ERR_INIT;
	const char *format;

	assert_false(guest_may_look(&image, &format, &err));
	if (!strstr(err.text, why))
		fail_msg("wanted '%s', got '%s'", why, err.text);
}

static void expect_let_in(const char *as)
{
	const char *format;

	assert_true(guest_may_look(&image, &format, NULL));
	assert_string_equal(format, as);
}

static void formats_are_told_by_the_names_that_qemu_has_for_them(void **state)
{
	(void)state;
	begin_image("qcow2");
	expect_let_in("qcow2");
	begin_image("vhd");
	expect_let_in("vpc");
	begin_image("ova");
	expect_kept_away("ova images");
}

static void what_we_cannot_read_qemu_shall_not_read(void **state)
{
	struct err why = ERR_INIT;

	(void)state;
	begin_image("qcow2");
	image.opened = 0;
	expect_kept_away("cannot be read");
	begin_image("qcow2");
	err_set(&why, ERR_FORMAT, "x");
	inspect_add_problem(&image, INSPECT_UNREAD, &why);
	expect_kept_away("cannot be read");
	begin_image("qcow2");
	image.encrypted = 1;
	expect_kept_away("encrypted");
}

static void a_chain_that_was_refused_is_refused_to_qemu(void **state)
{
	struct err why = ERR_INIT;

	(void)state;
	begin_image("qcow2");
	err_set(&why, ERR_REFUSED, "'/etc/passwd' lies outside");
	inspect_add_problem(&image, INSPECT_CHAIN, &why);
	expect_kept_away("'/etc/passwd' lies outside");
}

static void qemu_is_left_no_format_to_guess(void **state)
{
	(void)state;
	begin_image("qcow2");
	image.nr_members = 2;
	for (unsigned i = 0; i < 2; i++) {
		image.members[i].format_stated = 1;
		snprintf(image.members[i].format, sizeof(image.members[i].format), "raw");
	}
	expect_let_in("qcow2");
	image.members[1].format_stated = 0;
	expect_kept_away("not stated");
	image.members[1].format_stated = 1;
	snprintf(image.members[1].format, sizeof(image.members[1].format), "ova");
	expect_kept_away("backing files of format ova");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(takes_everything_apart),
		cmocka_unit_test(every_output_that_was_cut_is_refused),
		cmocka_unit_test(what_makes_no_sense_is_refused),
		cmocka_unit_test(what_went_wrong_is_told),
		cmocka_unit_test(formats_are_told_by_the_names_that_qemu_has_for_them),
		cmocka_unit_test(what_we_cannot_read_qemu_shall_not_read),
		cmocka_unit_test(a_chain_that_was_refused_is_refused_to_qemu),
		cmocka_unit_test(qemu_is_left_no_format_to_guess),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
