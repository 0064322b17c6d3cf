/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/tree_help.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>

#include "scanner/base/checked.h"
#include "scanner/base/parallel.h"

#define ITEMS 2000

static struct {
	_Atomic unsigned done[ITEMS];
	_Atomic unsigned busy[PARALLEL_THREADS_MAX];
	_Atomic unsigned nr_bad, nr_running, most_running;
	unsigned nr_threads;
	size_t fail_at;
} seen;

static int note(void *ctx, unsigned thread, size_t item, struct err *err)
{
	unsigned running = atomic_fetch_add(&seen.nr_running, 1) + 1, most = atomic_load(&seen.most_running);

	assert_ptr_equal(ctx, &seen);
	while (running > most && !atomic_compare_exchange_weak(&seen.most_running, &most, running))
		;
	if (item >= ITEMS || (thread && thread >= seen.nr_threads) || atomic_fetch_add(&seen.busy[thread], 1))
		atomic_fetch_add(&seen.nr_bad, 1);
	else
		atomic_fetch_add(&seen.done[item], 1);
	atomic_fetch_sub(&seen.busy[thread], 1);
	atomic_fetch_sub(&seen.nr_running, 1);
	return item + 1 == seen.fail_at ? err_set(err, ERR_FULL, "item %zu", item) : 0;
}

static int run(unsigned nr_threads, size_t nr_items, size_t fail_at, struct err *err)
{
	memset(&seen, 0, sizeof(seen));
	seen.nr_threads = nr_threads;
	seen.fail_at = fail_at;
	return parallel_run(nr_threads, nr_items, note, &seen, err);
}

static void every_item_is_done_once(void **state)
{
	static const unsigned threads[] = { 0, 1, 2, 3, 8, 64, 256, 1000 };
	static const size_t items[] = { 0, 1, 2, 7, 255, ITEMS };

	(void)state;
	for (size_t t = 0; t < ARRAY_SIZE(threads); t++) {
		for (size_t n = 0; n < ARRAY_SIZE(items); n++) {
			assert_int_equal(run(threads[t], items[n], 0, NULL), 0);
			assert_int_equal(seen.nr_bad, 0);
			for (size_t i = 0; i < ITEMS; i++)
				assert_int_equal(seen.done[i], i < items[n]);
		}
	}
}

static void the_first_error_is_the_loop_s_and_ends_it(void **state)
{
	struct err err = ERR_INIT;
	size_t nr_done = 0;

	(void)state;
	assert_int_equal(run(1, ITEMS, 10, &err), -1);
	assert_int_equal(err.kind, ERR_FULL);
	assert_string_equal(err.text, "item 9");
	for (size_t i = 0; i < ITEMS; i++)
		nr_done += seen.done[i];
	assert_int_equal(nr_done, 10);
	for (unsigned threads = 2; threads <= 8; threads++) {
		assert_int_equal(run(threads, ITEMS, 10, &err), -1);
		assert_string_equal(err.text, "item 9");
	}
	assert_int_equal(run(4, ITEMS, 10, NULL), -1);
}

static int fail_late(void *ctx, unsigned thread, size_t item, struct err *err)
{
	(void)ctx;
	(void)thread;
	usleep(item ? 1000 : 50000);
	return err_set(err, ERR_IO, "item %zu", item);
}

static void of_two_errors_the_one_that_came_first_is_told(void **state)
{
	struct err err = ERR_INIT;

	(void)state;
	assert_int_equal(parallel_run(2, 2, fail_late, NULL, &err), -1);
	assert_string_equal(err.text, "item 1");
}

static int meet(void *ctx, unsigned thread, size_t item, struct err *err)
{
	(void)thread;
	(void)item;
	(void)err;
	pthread_barrier_wait(ctx);
	return 0;
}

static void threads_run_at_the_same_time(void **state)
{
	pthread_barrier_t barrier;

	(void)state;
	alarm(20);
	pthread_barrier_init(&barrier, NULL, 4);
	assert_int_equal(parallel_run(4, 4, meet, &barrier, NULL), 0);
	pthread_barrier_destroy(&barrier);
	alarm(0);
}

static int signals_blocked(void *ctx, unsigned thread, size_t item, struct err *err)
{
	sigset_t mask;

	(void)item;
	pthread_sigmask(SIG_SETMASK, NULL, &mask);
	if (thread == (sigismember(&mask, SIGTERM) ? 0 : 1))
		return err_set(err, ERR_IO, "thread %u", thread);
	return meet(ctx, thread, item, err);
}

static void signals_are_for_the_main_thread(void **state)
{
	pthread_barrier_t barrier;

	(void)state;
	alarm(20);
	pthread_barrier_init(&barrier, NULL, 2);
	assert_int_equal(parallel_run(2, 2, signals_blocked, &barrier, NULL), 0);
	pthread_barrier_destroy(&barrier);
	alarm(0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_item_is_done_once),
		cmocka_unit_test(the_first_error_is_the_loop_s_and_ends_it),
		cmocka_unit_test(of_two_errors_the_one_that_came_first_is_told),
		cmocka_unit_test(threads_run_at_the_same_time),
		cmocka_unit_test(signals_are_for_the_main_thread),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
