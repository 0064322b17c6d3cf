/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/tree_help.h"

#include <pthread.h>
#include <stdatomic.h>
#include <sys/resource.h>

#include "scanner/base/syncer.h"
#include "tests/unit/sanitized.h"

/* ---- a disk that tells what it was asked for, and fails or stands still on demand ---- */

static struct file_ops ops;
static _Atomic unsigned nr_synced, nr_closed, nr_at_once, most_at_once;
static atomic_int fail_sync_at, fail_close_at; /* 1 = the first */
static pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;

static int watched_fdatasync(int fd)
{
	unsigned now = ++nr_at_once;

	if (now > most_at_once)
		most_at_once = now;
	pthread_mutex_lock(&gate);
	pthread_mutex_unlock(&gate);
	nr_at_once--;
	errno = ENOSPC;
	return (int)++nr_synced == fail_sync_at ? -1 : fdatasync(fd);
}

static int watched_close(int fd)
{
	close(fd);
	errno = EIO;
	return (int)++nr_closed == fail_close_at ? -1 : 0;
}

static int make(void **state)
{
	nr_synced = nr_closed = nr_at_once = most_at_once = 0;
	fail_sync_at = fail_close_at = 0;
	ops = file_ops_os;
	ops.fdatasync = watched_fdatasync;
	ops.close = watched_close;
	file_ops = &ops;
	alarm(60);
	return tree_make(state);
}

static int end(void **state)
{
	file_ops = &file_ops_os;
	alarm(0);
	return tree_remove(state);
}

#define syncer_test(f) cmocka_unit_test_setup_teardown(f, make, end)

static int file(const char *name)
{
	int fd = open(in_tree(name), O_RDWR | O_CREAT, 0600);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, "x", 1), 1);
	return fd;
}

static void add(struct syncer *s, unsigned nr)
{
	while (nr--)
		syncer_add(s, file("f"), "f");
}

/* ---- tests ---- */

static void all_is_synced_and_closed_when_the_wait_is_over(void **state)
{
	(void)state;
	for (unsigned threads = 0; threads < 20; threads += 3) {
		CLEANUP(syncer_free) struct syncer *s = syncer_new(threads, NULL);

		nr_synced = nr_closed = 0;
		assert_int_equal(syncer_wait(s, NULL), 0);
		for (unsigned n = 1; n <= 3; n++) {
			add(s, 100);
			assert_int_equal(syncer_wait(s, NULL), 0);
			assert_int_equal(nr_synced, n * 100);
			assert_int_equal(nr_closed, n * 100);
		}
	}
}

static void the_end_waits_as_well(void **state)
{
	struct syncer *s = syncer_new(2, NULL);

	(void)state;
	add(s, 20);
	syncer_free(s);
	assert_int_equal(nr_closed, 20);
	syncer_free(NULL);
}

static void nobody_waits_for_a_slow_disk(void **state)
{
	CLEANUP(syncer_free) struct syncer *s = syncer_new(3, NULL);

	(void)state;
	pthread_mutex_lock(&gate);
	add(s, 8);
	while (nr_at_once < 3)
		usleep(1000);
	assert_int_equal(nr_synced, 0);
	pthread_mutex_unlock(&gate);
	assert_int_equal(syncer_wait(s, NULL), 0);
	assert_int_equal(nr_synced, 8);
	assert_int_equal(most_at_once, 3);
}

static void *open_gate(void *unused)
{
	usleep(100000);
	pthread_mutex_unlock(&gate);
	return unused;
}

static int nr_open(void)
{
	int nr = 0;

	for (int fd = 0; fd < 1000; fd++)
		nr += fcntl(fd, F_GETFD) >= 0;
	return nr;
}

static void few_files_are_open_at_once(void **state)
{
	CLEANUP(syncer_free) struct syncer *s = syncer_new(1, NULL);
	int before = nr_open(), most = 0;
	pthread_t id;

	(void)state;
	pthread_mutex_lock(&gate);
	assert_int_equal(pthread_create(&id, NULL, open_gate, NULL), 0);
	for (int i = 0; i < 100; i++) {
		add(s, 1);
		most = nr_open() - before > most ? nr_open() - before : most;
	}
	pthread_join(id, NULL);
	assert_in_range(most, 5, 12);
}

static void the_first_failure_is_told_from_then_on(void **state)
{
	CLEANUP(syncer_free) struct syncer *s = syncer_new(1, NULL);
	struct err err = ERR_INIT;

	(void)state;
	fail_sync_at = 3;
	syncer_add(s, file("a"), "a");
	syncer_add(s, file("b"), "b");
	syncer_add(s, file("c"), "the third");
	syncer_add(s, file("d"), "d");
	assert_int_equal(syncer_wait(s, &err), -1);
	assert_int_equal(err.kind, ERR_FULL);
	assert_non_null(strstr(err.text, "'the third'"));
	assert_int_equal(nr_closed, 4);
	add(s, 1);
	assert_int_equal(syncer_wait(s, NULL), -1);
}

static void a_failing_close_is_a_failure(void **state)
{
	CLEANUP(syncer_free) struct syncer *s = syncer_new(1, NULL);
	struct err err = ERR_INIT;

	(void)state;
	fail_close_at = 2;
	add(s, 2);
	assert_int_equal(syncer_wait(s, &err), -1);
	assert_int_equal(err.kind, ERR_IO);
}

static void removed_files_are_only_closed(void **state)
{
	CLEANUP(syncer_free) struct syncer *s = syncer_new(1, NULL);

	(void)state;
	syncer_add_removed(s, file("f"));
	add(s, 1);
	syncer_add_removed(s, file("f"));
	assert_int_equal(syncer_wait(s, NULL), 0);
	assert_int_equal(nr_synced, 1);
	assert_int_equal(nr_closed, 3);
}

/* With no address space left there is no stack for a thread. */
static void without_threads_it_is_done_at_once(void **state)
{
	struct rlimit old, none = { 0, RLIM_INFINITY };
	CLEANUP(syncer_free) struct syncer *s = NULL;
	unsigned synced;
	int fd;

	(void)state;
	if (SANITIZED) {
		print_message("the sanitizer needs address space\n");
		skip();
	}
	s = syncer_new(2, NULL);
	fd = file("f");
	getrlimit(RLIMIT_AS, &old);
	none.rlim_max = old.rlim_max;
	setrlimit(RLIMIT_AS, &none);
	syncer_add(s, fd, "f");
	synced = nr_synced;
	setrlimit(RLIMIT_AS, &old);
	assert_int_equal(synced, 1);
	assert_int_equal(syncer_wait(s, NULL), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		syncer_test(without_threads_it_is_done_at_once), /* first: the stacks of threads that ended are used again */
		syncer_test(all_is_synced_and_closed_when_the_wait_is_over),
		syncer_test(the_end_waits_as_well),
		syncer_test(nobody_waits_for_a_slow_disk),
		syncer_test(few_files_are_open_at_once),
		syncer_test(the_first_failure_is_told_from_then_on),
		syncer_test(a_failing_close_is_a_failure),
		syncer_test(removed_files_are_only_closed),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
