/* SPDX-License-Identifier: Apache-2.0 */
#include "compactor/rangemap.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>

#include "scanner/base/checked.h"
#include "scanner/base/file.h"
#include "scanner/base/vec.h"

/*
 * The file is an array of ranges, each owner's in one piece.  It is looked at through windows of 128 ranges; a window's place in
 * the cache follows from its number.  An owner remembers where it was found last: walks cost no search.
 */

#define WINDOW 128
#define WINDOWS 256
#define NAME "ranges.tmp"

struct owner {
	uint64_t first;
	uint32_t nr, last; /* last: where the last look-up ended */
};

struct window {
	uint64_t number; /* plus 1; 0 = empty */
	struct range ranges[WINDOW];
};

struct rangemap {
	struct file_writer writer; /* while ranges are added */
	int fd;
	uint64_t nr;
	VEC(struct owner) owners;
	size_t owner;	    /* begun last */
	struct range open;  /* of it, not written yet; len 0 = none */
	bool ended; /* everything is in the file, and the windows know */
	struct window *windows;
	pthread_mutex_t lock;
};

struct rangemap *rangemap_new(int dirfd, struct err *err)
{
	CLEANUP(rangemap_free) struct rangemap *m = calloc(1, sizeof(*m));

	if (!m)
		return err_null(err, ERR_MEMORY, "no memory for a map");
	m->fd = -1;
	pthread_mutex_init(&m->lock, NULL);
	m->windows = calloc(WINDOWS, sizeof(*m->windows));
	if (!m->windows)
		return err_null(err, ERR_MEMORY, "no memory for a map");
	if (file_writer_open(&m->writer, dirfd, NAME, 64 * KIB, err) < 0)
		return NULL;
	file_unlink(dirfd, NAME, NULL);
	m->fd = m->writer.fd;
	return STEAL(m);
}

void rangemap_free(struct rangemap *m)
{
	if (!m)
		return;
	file_writer_release(&m->writer);
	vec_release(&m->owners);
	pthread_mutex_destroy(&m->lock);
	free(m->windows);
	free(m);
}

static int write_open(struct rangemap *m, struct err *err)
{
	struct owner *o = &m->owners.items[m->owner];

	if (!m->open.len)
		return 0;
	if (o->nr == UINT32_MAX)
		return err_set(err, ERR_UNSUPPORTED, "a file lies in more than 4 billion pieces");
	if (file_writer_append(&m->writer, &m->open, sizeof(m->open), err) < 0)
		return -1;
	o->nr++;
	m->nr++;
	m->open.len = 0;
	return 0;
}

int rangemap_begin(struct rangemap *m, size_t owner, struct err *err)
{
	m->ended = false;
	if (m->owners.nr && write_open(m, err) < 0)
		return -1;
	while (m->owners.nr <= owner)
		if (vec_push(&m->owners, (struct owner){ 0 }) < 0)
			return err_set(err, ERR_MEMORY, "no memory for a map");
	m->owner = owner;
	m->owners.items[owner] = (struct owner){ .first = m->nr };
	return 0;
}

int rangemap_add(struct rangemap *m, const struct range *r, struct err *err)
{
	struct range *o = &m->open;

	m->ended = false;
	if (o->len && o->from + o->len == r->from && o->to + o->len == r->to && o->tag == r->tag && o->flags == r->flags) {
		o->len += r->len;
		return 0;
	}
	if (write_open(m, err) < 0)
		return -1;
	*o = *r;
	return 0;
}

int rangemap_end(struct rangemap *m, struct err *err)
{
	if (m->owners.nr && write_open(m, err) < 0)
		return -1;
	for (size_t i = 0; i < WINDOWS; i++) /* the last one may have grown */
		m->windows[i].number = 0;
	m->ended = file_writer_flush(&m->writer, err) == 0;
	return m->ended ? 0 : -1;
}

uint64_t rangemap_count(const struct rangemap *m, size_t owner)
{
	return owner < m->owners.nr ? m->owners.items[owner].nr + (owner == m->owner && m->open.len) : 0;
}

static int load(struct rangemap *m, uint64_t n, const struct range **ret, struct err *err)
{
	uint64_t number = n / WINDOW;
	struct window *w = &m->windows[number % WINDOWS];
	uint64_t nr = min_u64(WINDOW, m->nr - number * WINDOW);

	if (w->number != number + 1) {
		w->number = 0;
		if (file_read(m->fd, w->ranges, nr * sizeof(struct range), number * sizeof(w->ranges), err) < 0)
			return -1;
		w->number = number + 1;
	}
	*ret = &w->ranges[n % WINDOW];
	return 0;
}

/* The number of the first range of the owner that ends after `at`. */
static int search(struct rangemap *m, const struct owner *o, uint64_t at, uint64_t *ret, struct err *err)
{
	uint64_t low = 0, high = o->nr;
	const struct range *r;

	while (low < high) {
		uint64_t mid = low + (high - low) / 2;

		if (load(m, o->first + mid, &r, err) < 0)
			return -1;
		if (r->from + r->len <= at)
			low = mid + 1;
		else
			high = mid;
	}
	*ret = low;
	return 0;
}

/* True when range n is the answer: it ends after `at`, and the one before does not. */
static int is_it(struct rangemap *m, const struct owner *o, uint64_t n, uint64_t at, struct err *err)
{
	const struct range *r;

	if (n >= o->nr)
		return 0;
	if (load(m, o->first + n, &r, err) < 0)
		return -1;
	if (r->from + r->len <= at)
		return 0;
	if (r->from <= at || n == 0)
		return 1;
	if (load(m, o->first + n - 1, &r, err) < 0)
		return -1;
	return r->from + r->len <= at;
}

static int find(struct rangemap *m, struct owner *o, uint64_t at, struct range *ret, struct err *err)
{
	uint64_t n = o->last;
	const struct range *r;
	int rc = is_it(m, o, n, at, err);

	if (rc == 0)
		rc = is_it(m, o, ++n, at, err);
	if (rc < 0 || (rc == 0 && search(m, o, at, &n, err) < 0))
		return -1;
	if (n >= o->nr)
		return 0;
	if (load(m, o->first + n, &r, err) < 0)
		return -1;
	o->last = (uint32_t)n;
	*ret = *r;
	return 1;
}

int rangemap_find(struct rangemap *m, size_t owner, uint64_t at, struct range *ret, struct err *err)
{
	int rc;

	if (owner >= m->owners.nr)
		return 0;
	pthread_mutex_lock(&m->lock);
	rc = m->ended || rangemap_end(m, err) == 0 ? find(m, &m->owners.items[owner], at, ret, err) : -1;
	pthread_mutex_unlock(&m->lock);
	return rc;
}
