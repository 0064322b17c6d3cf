/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/tree_help.h"

#include "compactor/clone.h"

/* The names of clones; what clones are is tried in tests/crash/test_versions.c and tests/interop/pool_clones.py. */

static const char *path(const char *pattern, unsigned i)
{
	static char ret[PATH_MAX];
	struct err err = ERR_INIT;

	if (clone_path(pattern, i, ret, &err) < 0) {
		assert_int_equal(err.kind, ERR_USAGE);
		snprintf(ret, sizeof(ret), "refused");
	}
	return ret;
}

static void patterns_are_numbered(void **state)
{
	(void)state;
	assert_string_equal(path("/a/web-%d.qcow2", 7), "/a/web-7.qcow2");
	assert_string_equal(path("/a/web-%03d.qcow2", 7), "/a/web-007.qcow2");
	assert_string_equal(path("/a/web-%03d.qcow2", 1234), "/a/web-1234.qcow2");
	assert_string_equal(path("/a/%02d%%x", 7), "/a/07%x");
	assert_string_equal(path("%d", 12), "12");
}

static void other_names_get_a_number(void **state)
{
	(void)state;
	assert_string_equal(path("/a/web.qcow2", 7), "/a/web-7.qcow2");
	assert_string_equal(path("/a/web", 7), "/a/web-7");
	assert_string_equal(path("/a.b/web", 7), "/a.b/web-7");
	assert_string_equal(path("/a/.web", 7), "/a/.web-7");
	assert_string_equal(path("/a/100%%.img", 7), "/a/100%-7.img");
}

static void what_is_no_pattern_is_refused(void **state)
{
	char longest[PATH_MAX + 10];

	(void)state;
	assert_string_equal(path("/a/%s", 1), "refused");
	assert_string_equal(path("/a/%n", 1), "refused");
	assert_string_equal(path("/a/%5d", 1), "refused");
	assert_string_equal(path("/a/%-3d", 1), "refused");
	assert_string_equal(path("/a/%0123d", 1), "refused");
	assert_string_equal(path("/a/%d%d", 1), "refused");
	assert_string_equal(path("/a/x%", 1), "refused");
	assert_string_equal(path("/a/%*d", 1), "refused");
	/* Only the last part is a pattern. */
	assert_string_equal(path("/%s/%d", 3), "/%s/3");
	memset(longest, 'a', sizeof(longest));
	longest[0] = '/';
	longest[250] = '\0';
	assert_int_equal(strlen(path(longest, 1)), 252);
	longest[250] = 'a';
	longest[256] = '\0';
	assert_string_equal(path(longest, 1), "refused");
	longest[256] = 'a';
	longest[sizeof(longest) - 1] = '\0';
	assert_string_equal(path(longest, 1), "refused");
}

static void labels_are_checked(void **state)
{
	char longest[260];

	(void)state;
	assert_int_equal(versions_check_label("before upgrade, 100 %", NULL), 0);
	assert_int_equal(versions_check_label("", NULL), -1);
	assert_int_equal(versions_check_label("-x", NULL), -1);
	assert_int_equal(versions_check_label("a@b", NULL), -1);
	assert_int_equal(versions_check_label("a/b", NULL), -1);
	assert_int_equal(versions_check_label("a\nb", NULL), -1);
	memset(longest, 'a', sizeof(longest));
	longest[255] = '\0';
	assert_int_equal(versions_check_label(longest, NULL), 0);
	longest[255] = 'a';
	longest[256] = '\0';
	assert_int_equal(versions_check_label(longest, NULL), -1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(patterns_are_numbered),
		cmocka_unit_test(other_names_get_a_number),
		cmocka_unit_test(what_is_no_pattern_is_refused),
		cmocka_unit_test(labels_are_checked),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
