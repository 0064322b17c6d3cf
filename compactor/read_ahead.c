/* SPDX-License-Identifier: Apache-2.0 */
#include "compactor/read_ahead.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "compactor/pool/tree.h"
#include "scanner/base/thread.h"

/* A ring of segments under one lock, which are read two at a time:
 *
 *	| taken | full | full | being read |
 *	  ^ first                                nr counts the taken and the full ones
 */

#define NR_SLOTS 6
#define PAIR 2u

struct slot {
	uint64_t segment;
	uint8_t *bytes;
};

struct read_ahead {
	struct pool *pool;
	struct tree_walk *walk;
	uint64_t next; /* segment: the thread's */
	struct slot slots[NR_SLOTS];

	pthread_mutex_t lock;
	pthread_cond_t changed;
	unsigned first, nr;
	bool taken; /* the first one is at the caller's */
	bool ended, stop; /* the thread is through; it is to end */
	int rc;		  /* how it ended: 0 or -1 and err */
	struct err err;
	bool started;
	pthread_t thread;
};

/* ---- the thread ---- */

/* Waits for room for two; false when nobody wants more. */
static bool wait_for_room(struct read_ahead *r, struct slot *ret[PAIR])
{
	bool wanted;

	pthread_mutex_lock(&r->lock);
	while (r->nr > NR_SLOTS - PAIR && !r->stop)
		pthread_cond_wait(&r->changed, &r->lock);
	for (unsigned i = 0; i < PAIR; i++)
		ret[i] = &r->slots[(r->first + r->nr + i) % NR_SLOTS];
	wanted = !r->stop;
	pthread_mutex_unlock(&r->lock);
	return wanted;
}

static void hand_over(struct read_ahead *r, unsigned nr)
{
	pthread_mutex_lock(&r->lock);
	r->nr += nr;
	pthread_cond_signal(&r->changed);
	pthread_mutex_unlock(&r->lock);
}

/* The next one or two. */
static int read_some(struct read_ahead *r, struct slot *const slots[PAIR], unsigned *ret_nr, struct err *err)
{
	void *const bytes[PAIR] = { slots[0]->bytes, slots[1]->bytes };
	uint8_t digests[PAIR][DIGEST_SIZE];
	unsigned nr = 0;
	int rc = 1;

	while (nr < PAIR && (rc = tree_walk_next(r->walk, r->next, &slots[nr]->segment, digests[nr], err)) > 0)
		r->next = slots[nr++]->segment + 1;
	*ret_nr = nr;
	if (rc < 0 || nr == 0)
		return rc;
	return nr == PAIR ? tree_read_two(r->pool->nodes, r->pool->clusters, digests, bytes, err)
			  : tree_read_segment(r->pool->nodes, r->pool->clusters, digests[0], bytes[0], err);
}

static int read_all(struct read_ahead *r, struct err *err)
{
	struct slot *slots[PAIR];
	unsigned nr = PAIR;

	while (nr == PAIR && wait_for_room(r, slots)) {
		if (read_some(r, slots, &nr, err) < 0)
			return -1;
		hand_over(r, nr);
	}
	return 0;
}

static void *run(void *arg)
{
	struct read_ahead *r = arg;
	struct err err = ERR_INIT;
	int rc = read_all(r, &err);

	pthread_mutex_lock(&r->lock);
	r->rc = rc;
	r->err = err;
	r->ended = true;
	pthread_cond_signal(&r->changed);
	pthread_mutex_unlock(&r->lock);
	return NULL;
}

/* ---- the caller ---- */

struct read_ahead *read_ahead_new(struct pool *p, const uint8_t root[DIGEST_SIZE], uint64_t size, struct err *err)
{
	CLEANUP(read_ahead_free) struct read_ahead *r = calloc(1, sizeof(*r));

	if (!r)
		return err_null(err, ERR_MEMORY, "no memory to read a disk");
	r->pool = p;
	pthread_mutex_init(&r->lock, NULL);
	pthread_cond_init(&r->changed, NULL);
	for (int i = 0; i < NR_SLOTS; i++)
		if (!(r->slots[i].bytes = aligned_alloc(BLOCK_SIZE, SEGMENT_SIZE)))
			return err_null(err, ERR_MEMORY, "no memory to read a disk");
	r->walk = tree_walk_new(p->nodes, root, size, err);
	if (!r->walk)
		return NULL;
	r->started = thread_start(&r->thread, run, r) == 0;
	return r->started ? STEAL(r) : err_null(err, ERR_MEMORY, "no thread can be had to read a disk");
}

int read_ahead_next(struct read_ahead *r, uint64_t *ret_segment, const void **ret, struct err *err)
{
	int rc = 1;

	pthread_mutex_lock(&r->lock);
	if (r->taken) {
		r->first = (r->first + 1) % NR_SLOTS;
		r->nr--;
		pthread_cond_signal(&r->changed);
	}
	while (!r->nr && !r->ended)
		pthread_cond_wait(&r->changed, &r->lock);
	r->taken = r->nr > 0;
	if (!r->taken) {
		rc = r->rc;
		if (rc < 0 && err)
			*err = r->err;
	}
	pthread_mutex_unlock(&r->lock);
	if (rc > 0) {
		*ret_segment = r->slots[r->first].segment;
		*ret = r->slots[r->first].bytes;
	}
	return rc;
}

void read_ahead_free(struct read_ahead *r)
{
	if (!r)
		return;
	pthread_mutex_lock(&r->lock);
	r->stop = true;
	pthread_cond_signal(&r->changed);
	pthread_mutex_unlock(&r->lock);
	if (r->started)
		pthread_join(r->thread, NULL);
	tree_walk_free(r->walk);
	for (int i = 0; i < NR_SLOTS; i++)
		free(r->slots[i].bytes);
	pthread_cond_destroy(&r->changed);
	pthread_mutex_destroy(&r->lock);
	free(r);
}
