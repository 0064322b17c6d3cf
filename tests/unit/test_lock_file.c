/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/tree_help.h"

#include "scanner/base/lock_file.h"

static int take(struct lock_file *l, int flags)
{
	struct err err = ERR_INIT;
	int rc = lock_file_take(l, AT_FDCWD, in_tree("lock"), flags, 0600, &err);

	assert_int_equal(err.kind, 0);
	return rc;
}

/* D9 */
static void one_writes_or_several_read(void **state)
{
	struct lock_file a = LOCK_FILE_INIT, b = LOCK_FILE_INIT, c = LOCK_FILE_INIT;

	(void)state;
	assert_int_equal(take(&a, O_RDWR | O_CREAT), 1);
	assert_int_equal(take(&b, O_RDWR), 0);
	assert_int_equal(take(&c, O_RDONLY), 0);
	lock_file_release(&a);
	lock_file_release(&b);
	lock_file_release(&c);
	assert_int_equal(take(&a, O_RDONLY), 1);
	assert_int_equal(take(&b, O_RDONLY), 1);
	assert_int_equal(take(&c, O_RDWR), 0);
	lock_file_release(&a);
	lock_file_release(&b);
	lock_file_release(&c);
	lock_file_release(&c);
}

static void what_is_not_there_is_an_error(void **state)
{
	struct lock_file l = LOCK_FILE_INIT;
	struct err err = ERR_INIT;

	(void)state;
	assert_int_equal(lock_file_take(&l, AT_FDCWD, in_tree("none"), O_RDWR, 0, &err), -1);
	assert_int_equal(err.errnum, ENOENT);
	lock_file_release(&l);
}

static void who_tries_is_heard_once(void **state)
{
	struct lock_file a = LOCK_FILE_INIT, b = LOCK_FILE_INIT;

	(void)state;
	assert_int_equal(take(&a, O_RDWR | O_CREAT), 1);
	assert_false(lock_file_was_tried(&a));
	lock_file_listen(&a);
	lock_file_listen(&a);
	assert_false(lock_file_was_tried(&a));
	for (int i = 0; i < 3; i++) {
		assert_int_equal(take(&b, O_RDWR), 0);
		lock_file_release(&b);
	}
	assert_true(lock_file_was_tried(&a));
	assert_false(lock_file_was_tried(&a));
	lock_file_release(&a);
	assert_false(lock_file_was_tried(&a));
	assert_int_equal(a.fd, -1);
	assert_int_equal(a.ears, -1);
}

static bool again(enum err_kind kind, bool held, uint64_t until, bool stopped, struct err *err)
{
	struct stopper s = { .flag = stopped };

	*err = (struct err)ERR_INIT;
	err_set(err, kind, "why");
	if (held)
		lock_file_held(err);
	return lock_file_try_again(err, until, &s);
}

static void only_who_holds_a_lock_is_waited_for(void **state)
{
	uint64_t until = lock_file_patience(3600);
	struct err err;

	(void)state;
	assert_true(again(ERR_BUSY, true, until, false, &err));
	assert_int_equal(err.kind, 0);
	assert_false(again(ERR_BUSY, false, until, false, &err));
	assert_false(again(ERR_IO, false, until, false, &err));
	assert_int_equal(err.kind, ERR_IO);
	assert_non_null(strstr(err.text, "why"));
	assert_false(again(ERR_BUSY, true, lock_file_patience(0), false, &err));
	assert_int_equal(err.kind, ERR_BUSY);
	assert_non_null(strstr(err.text, "why"));
	assert_false(again(ERR_BUSY, true, until, true, &err));
	assert_int_equal(err.kind, ERR_CANCELED);
	assert_non_null(strstr(err.text, "stopped"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(one_writes_or_several_read, tree_make, tree_remove),
		cmocka_unit_test_setup_teardown(what_is_not_there_is_an_error, tree_make, tree_remove),
		cmocka_unit_test_setup_teardown(who_tries_is_heard_once, tree_make, tree_remove),
		cmocka_unit_test(only_who_holds_a_lock_is_waited_for),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
