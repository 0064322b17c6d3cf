/* SPDX-License-Identifier: Apache-2.0 */
#include "scanner/base/parallel.h"

#include <stdbool.h>

#include "scanner/base/thread.h"

struct pool {
	pthread_mutex_t lock;
	size_t next, nr_items;
	bool failed;
	struct err err;
	int (*run)(void *ctx, unsigned thread, size_t item, struct err *err);
	void *ctx;
};

struct pool_thread {
	struct pool *pool;
	unsigned number;
	pthread_t id;
};

/* Takes the next item; false when there is none or the loop has failed. */
static bool take(struct pool *p, size_t *ret)
{
	bool got;

	pthread_mutex_lock(&p->lock);
	got = !p->failed && p->next < p->nr_items;
	if (got)
		*ret = p->next++;
	pthread_mutex_unlock(&p->lock);
	return got;
}

static void fail(struct pool *p, const struct err *err)
{
	pthread_mutex_lock(&p->lock);
	if (!p->failed)
		p->err = *err;
	p->failed = true;
	pthread_mutex_unlock(&p->lock);
}

static void *work(void *arg)
{
	struct pool_thread *t = arg;
	struct err err = ERR_INIT;
	size_t item;

	while (take(t->pool, &item))
		if (t->pool->run(t->pool->ctx, t->number, item, &err) < 0)
			fail(t->pool, &err);
	return NULL;
}

int parallel_run(unsigned nr_threads, size_t nr_items, int (*run)(void *, unsigned, size_t, struct err *), void *ctx,
	     struct err *err)
{
	struct pool pool = { .lock = PTHREAD_MUTEX_INITIALIZER, .nr_items = nr_items, .run = run, .ctx = ctx };
	struct pool_thread threads[PARALLEL_THREADS_MAX];
	unsigned nr_started = 1;

	if (nr_threads > PARALLEL_THREADS_MAX)
		nr_threads = PARALLEL_THREADS_MAX;
	if (nr_threads > nr_items)
		nr_threads = (unsigned)nr_items;
	for (unsigned i = 0; i < nr_threads; i++)
		threads[i] = (struct pool_thread){ .pool = &pool, .number = i };
	threads[0] = (struct pool_thread){ .pool = &pool };
	/* This thread is number 0; where the system has no more of them, fewer do the work. */
	while (nr_started < nr_threads && thread_start(&threads[nr_started].id, work, &threads[nr_started]) == 0)
		nr_started++;
	work(&threads[0]);
	for (unsigned i = 1; i < nr_started; i++)
		pthread_join(threads[i].id, NULL);
	if (pool.failed && err)
		*err = pool.err;
	return pool.failed ? -1 : 0;
}
