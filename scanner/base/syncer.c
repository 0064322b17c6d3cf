/* SPDX-License-Identifier: Apache-2.0 */
#include "scanner/base/syncer.h"

#include <stdbool.h>
#include <stdio.h>

#include "scanner/base/thread.h"

/* A ring of descriptors under one lock.  Whoever adds to a full ring waits, so that few files are open; where the system
 * has no thread for us, it syncs by itself. */

#define THREADS_MAX 8
#define QUEUE 8

struct queued {
	int fd;
	bool sync;
	char name[64];
};

struct syncer {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	struct queued ring[QUEUE];
	size_t first, nr;
	unsigned nr_busy, nr_threads, threads_max;
	pthread_t threads[THREADS_MAX];
	bool ending;
	struct err err; /* the first failure */
};

struct syncer *syncer_new(unsigned nr_threads, struct err *err)
{
	struct syncer *s = calloc(1, sizeof(*s));

	if (!s)
		return err_null(err, ERR_MEMORY, "no memory for syncing files");
	pthread_mutex_init(&s->lock, NULL);
	pthread_cond_init(&s->changed, NULL);
	s->threads_max = nr_threads < 1 ? 1 : nr_threads > THREADS_MAX ? THREADS_MAX : nr_threads;
	return s;
}

/* Called with the lock held, which it gives up while it works. */
static void do_one(struct syncer *s, const struct queued *q)
{
	struct err err = ERR_INIT;
	int rc = 0, closed;

	s->nr_busy++;
	pthread_mutex_unlock(&s->lock);
	if (q->sync)
		rc = file_sync(q->fd, q->name, &err);
	closed = file_close(q->fd, q->name, rc < 0 ? NULL : &err);
	pthread_mutex_lock(&s->lock);
	s->nr_busy--;
	if ((rc < 0 || closed < 0) && s->err.kind == ERR_NONE)
		s->err = err;
	pthread_cond_broadcast(&s->changed);
}

static void *work(void *arg)
{
	struct syncer *s = arg;

	pthread_mutex_lock(&s->lock);
	while (s->nr || !s->ending) {
		struct queued q;

		if (!s->nr) {
			pthread_cond_wait(&s->changed, &s->lock);
			continue;
		}
		q = s->ring[s->first];
		s->first = (s->first + 1) % QUEUE;
		s->nr--;
		do_one(s, &q);
	}
	pthread_mutex_unlock(&s->lock);
	return NULL;
}

static void start_threads(struct syncer *s)
{
	while (s->nr_threads < s->threads_max && s->nr_threads < s->nr + s->nr_busy &&
	       thread_start(&s->threads[s->nr_threads], work, s) == 0)
		s->nr_threads++;
}

static void add(struct syncer *s, struct queued q)
{
	pthread_mutex_lock(&s->lock);
	while (s->nr == QUEUE)
		pthread_cond_wait(&s->changed, &s->lock);
	s->ring[(s->first + s->nr++) % QUEUE] = q;
	start_threads(s);
	if (s->nr_threads) {
		pthread_cond_broadcast(&s->changed);
	} else {
		s->nr--;
		do_one(s, &q);
	}
	pthread_mutex_unlock(&s->lock);
}

void syncer_add(struct syncer *s, int fd, const char *name)
{
	struct queued q = { .fd = fd, .sync = true };

	snprintf(q.name, sizeof(q.name), "%s", name);
	add(s, q);
}

void syncer_add_removed(struct syncer *s, int fd)
{
	add(s, (struct queued){ .fd = fd, .name = "a removed file" });
}

int syncer_wait(struct syncer *s, struct err *err)
{
	int rc;

	pthread_mutex_lock(&s->lock);
	while (s->nr || s->nr_busy)
		pthread_cond_wait(&s->changed, &s->lock);
	rc = s->err.kind == ERR_NONE ? 0 : -1;
	if (rc < 0 && err)
		*err = s->err;
	pthread_mutex_unlock(&s->lock);
	return rc;
}

void syncer_free(struct syncer *s)
{
	if (!s)
		return;
	pthread_mutex_lock(&s->lock);
	s->ending = true;
	pthread_cond_broadcast(&s->changed);
	pthread_mutex_unlock(&s->lock);
	for (unsigned i = 0; i < s->nr_threads; i++)
		pthread_join(s->threads[i], NULL);
	pthread_cond_destroy(&s->changed);
	pthread_mutex_destroy(&s->lock);
	free(s);
}
