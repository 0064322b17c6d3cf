/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/tree_help.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>

#include "scanner/base/sync_all.h"

/* Many files synced at the same time: all of them are, and a failure of one is told. */

static struct err err;

static void add(struct to_sync *s, int fd)
{
	assert_int_equal(to_sync_add(s, fd, true, &err), 0);
}

static void files_and_directories_are_synced(void **state)
{
	struct to_sync s = { .list = VEC_INIT };
	int fds[40], dir = open(tree, O_RDONLY | O_DIRECTORY);
	char name[16];

	(void)state;
	for (int i = 0; i < 40; i++) {
		snprintf(name, sizeof(name), "f%d", i);
		fds[i] = open(in_tree(name), O_RDWR | O_CREAT, 0600);
		assert_int_equal(pwrite(fds[i], "x", 1, 0), 1);
		add(&s, fds[i]);
	}
	add(&s, dir);
	assert_int_equal(sync_all(&s, &err), 0);
	assert_int_equal(s.list.nr, 0);
	assert_int_equal(sync_all(&s, &err), 0);
	for (int i = 0; i < 40; i++)
		close(fds[i]);
	close(dir);
	to_sync_release(&s);
}

static void one_that_fails_is_told(void **state)
{
	struct to_sync s = { .list = VEC_INIT };
	int pipes[2], fd = open(in_tree("f"), O_RDWR | O_CREAT, 0600);

	(void)state;
	assert_int_equal(pipe(pipes), 0);
	for (unsigned at = 0; at < 20; at++) {
		for (unsigned i = 0; i < 20; i++)
			add(&s, i == at ? pipes[0] : fd); /* EINVAL */
		err = ERR_INIT;
		assert_int_equal(sync_all(&s, &err), -1);
		assert_int_equal(err.errnum, EINVAL);
	}
	close(pipes[0]);
	close(pipes[1]);
	close(fd);
	to_sync_release(&s);
}

static struct file_ops ops;
static atomic_uint nr_synced;
static int last;

static int watch_fsync(int fd)
{
	nr_synced++;
	assert_true(fd > last);
	last = fd;
	return 0;
}

/* Where tests stand in. */
static void another_file_system_gets_them_one_after_the_other(void **state)
{
	struct to_sync s = { .list = VEC_INIT };

	(void)state;
	ops = file_ops_os;
	ops.fsync = watch_fsync;
	file_ops = &ops;
	for (int fd = 1001; fd < 1030; fd++)
		add(&s, fd);
	assert_int_equal(sync_all(&s, &err), 0);
	assert_int_equal(nr_synced, 29);
	file_ops = &file_ops_os;
	to_sync_release(&s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		tree_test(files_and_directories_are_synced),
		tree_test(one_that_fails_is_told),
		tree_test(another_file_system_gets_them_one_after_the_other),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
