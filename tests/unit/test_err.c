/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/tree_help.h"

#include "scanner/base/checked.h"
#include "scanner/base/err.h"

static void failing_is_one_line(void **state)
{
	struct err err = ERR_INIT;

	(void)state;
	assert_int_equal(err.kind, ERR_NONE);
	assert_int_equal(err_set(&err, ERR_FORMAT, "page %d is damaged", 3), -1);
	assert_int_equal(err.kind, ERR_FORMAT);
	assert_int_equal(err.errnum, 0);
	assert_string_equal(err.text, "page 3 is damaged");
	assert_null(err_null(&err, ERR_IO, "no"));
	assert_int_equal(err.kind, ERR_IO);
}

static void the_kind_follows_from_errno(void **state)
{
	static const struct {
		int e;
		enum err_kind kind;
	} all[] = { { ENOSPC, ERR_FULL }, { EDQUOT, ERR_FULL }, { EFBIG, ERR_FULL }, { ENOMEM, ERR_MEMORY }, { EAGAIN, ERR_BUSY },
		    { EBUSY, ERR_BUSY }, { ETXTBSY, ERR_BUSY }, { EIO, ERR_IO }, { ENOENT, ERR_IO } };

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(all); i++) {
		struct err err = ERR_INIT;

		errno = all[i].e;
		assert_int_equal(err_errno(&err, "cannot"), -1);
		assert_int_equal(err.kind, all[i].kind);
		assert_int_equal(err.errnum, all[i].e);
	}
}

static void what_the_user_named_and_is_not_there_is_his_mistake(void **state)
{
	static const int not_there[] = { ENOENT, ENOTDIR };
	struct err err = ERR_INIT;

	(void)state;
	for (size_t i = 0; i < sizeof(not_there) / sizeof(*not_there); i++) {
		errno = not_there[i];
		assert_int_equal(err_named(&err, "cannot find '%s'", "x"), -1);
		assert_int_equal(err.kind, ERR_USAGE);
		assert_int_equal(err.errnum, not_there[i]);
		assert_memory_equal(err.text, "cannot find 'x': ", 17);
	}
	errno = EACCES;
	err_named(&err, "cannot find 'x'");
	assert_int_equal(err.kind, ERR_IO);
	errno = ENOENT;
	assert_int_equal(err_named(NULL, "x"), -1);
}

static void errno_is_told_in_words(void **state)
{
	struct err err = ERR_INIT;

	(void)state;
	errno = ENOENT;
	err_errno(&err, "cannot open '%s'", "x");
	assert_string_equal(err.text, "cannot open 'x': No such file or directory");
}

static void context_goes_in_front(void **state)
{
	struct err err = ERR_INIT;

	(void)state;
	err_set(&err, ERR_STALE, "gone");
	assert_int_equal(err_add(&err, "image '%s'", "a"), -1);
	err_add(&err, "scan");
	assert_string_equal(err.text, "scan: image 'a': gone");
	assert_int_equal(err.kind, ERR_STALE);
}

static void texts_too_long_are_cut_whole(void **state)
{
	struct err err = ERR_INIT;
	char big[2000];

	(void)state;
	memset(big, 'b', sizeof(big) - 1);
	big[sizeof(big) - 1] = '\0';
	err_set(&err, ERR_IO, "%s", big);
	assert_int_equal(strlen(err.text), sizeof(err.text) - 1);
	errno = EIO;
	err_errno(&err, "%s", big);
	err_add(&err, "%s", big);
	err_add(&err, "context");
	assert_int_equal(strlen(err.text), sizeof(err.text) - 1);
	assert_memory_equal(err.text, "context: bbb", 12);
}

static void who_does_not_want_to_know_is_not_told(void **state)
{
	(void)state;
	assert_int_equal(err_set(NULL, ERR_IO, "x"), -1);
	assert_int_equal(err_errno(NULL, "x"), -1);
	assert_int_equal(err_add(NULL, "x"), -1);
}

static void every_kind_has_a_name_of_its_own(void **state)
{
	(void)state;
	for (enum err_kind a = ERR_NONE; a <= ERR_USAGE; a++) {
		assert_non_null(err_kind_name(a));
		for (enum err_kind b = ERR_NONE; b < a; b++)
			assert_string_not_equal(err_kind_name(a), err_kind_name(b));
	}
	assert_string_equal(err_kind_name(ERR_UNSUPPORTED), "unsupported");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(failing_is_one_line),
		cmocka_unit_test(the_kind_follows_from_errno),
		cmocka_unit_test(what_the_user_named_and_is_not_there_is_his_mistake),
		cmocka_unit_test(errno_is_told_in_words),
		cmocka_unit_test(context_goes_in_front),
		cmocka_unit_test(texts_too_long_are_cut_whole),
		cmocka_unit_test(who_does_not_want_to_know_is_not_told),
		cmocka_unit_test(every_kind_has_a_name_of_its_own),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
