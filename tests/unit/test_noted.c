/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/tree_help.h"

#include <sys/xattr.h>

#include "scanner/noted.h"

static int with_attribute(const char *value)
{
	int fd = open(in_tree("file"), O_RDWR);

	if (fd >= 0 && fsetxattr(fd, NOTED_FORMAT, value, strlen(value), 0) < 0) {
		print_message("no extended attributes here: %s\n", strerror(errno));
		close(fd);
		skip();
	}
	return fd;
}

static void expect_noted(const char *content, const char *value, const char *want)
{
	const char *format;
	int fd;

	unlink(in_tree("file"));
	tree_write("file", content, strlen(content));
	fd = with_attribute(value);
	format = noted_format(fd);
	close(fd);
	if ((want && !format) || (!want && format))
		fail_msg("'%s' that begins with '%.4s' is %s", value, content, format ? format : "nothing");
}

static void attribute_and_header_must_say_the_same(void **state)
{
	(void)state;
	expect_noted("QFI\xfb and more", "qcow2", "qcow2");
	expect_noted("QFI\xfb and more", "qcow", NULL);
	expect_noted("QFI\xfb and more", "qcow23", NULL);
	expect_noted("QFI\xfb and more", "raw", NULL);
	expect_noted("a raw disk that was restored", "qcow2", NULL);
	expect_noted("QFI", "qcow2", NULL);
}

static void what_is_set_is_found(void **state)
{
	int fd;

	(void)state;
	tree_write("file", "QFI\xfb", 4);
	fd = with_attribute("else");
	assert_int_equal(noted_set_qcow2(fd, NULL), 0);
	assert_string_equal(noted_format(fd), "qcow2");
	assert_int_equal(ftruncate(fd, 0), 0);
	assert_true(noted_at_all(fd) && !noted_format(fd));
	assert_int_equal(fremovexattr(fd, NOTED_FORMAT), 0);
	assert_false(noted_at_all(fd));
	close(fd);
}

static void where_there_are_none_it_is_told(void **state)
{
	struct err err = ERR_INIT;
	int pipes[2];

	(void)state;
	assert_int_equal(pipe(pipes), 0);
	assert_null(noted_format(pipes[0]));
	assert_int_equal(noted_set_qcow2(pipes[1], &err), -1);
	assert_true(err.kind == ERR_UNSUPPORTED || err.errnum == EPERM);
	close(pipes[0]);
	close(pipes[1]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(attribute_and_header_must_say_the_same, tree_make, tree_remove),
		cmocka_unit_test_setup_teardown(what_is_set_is_found, tree_make, tree_remove),
		cmocka_unit_test(where_there_are_none_it_is_told),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
