/* SPDX-License-Identifier: Apache-2.0 */
#include "scanner/base/sync_all.h"

#include <errno.h>
#include <fcntl.h>

#include "scanner/base/thread.h"

/* How it works: writing begins for all files before the first is waited for, as ext4 allocates blocks then, which is another change
 * for the journal.  Then each is synced by a thread of its own: who comes while the journal commits what he needs waits for that,
 * where one after the other would each flush the disk.
 *
 * Where tests stand in a file system, which has no threads, and where the system has none left, it is one after the other. */

#define THREADS_MAX 16

struct share {
	const struct to_sync *s;
	size_t first, step;
	pthread_t thread;
	bool started;
	int errnum; /* of the first failure */
};

static void *sync_share(void *arg)
{
	struct share *x = arg;

	for (size_t i = x->first; i < x->s->list.nr; i += x->step)
		if (file_ops->fsync(x->s->list.items[i].fd) < 0 && !x->errnum)
			x->errnum = errno;
	return NULL;
}

/* A hint: what it does not begin, the sync does. */
static void begin_writing(const struct to_sync *s)
{
	for (size_t i = 0; i < s->list.nr; i++)
		if (s->list.items[i].small)
			file_ops->fadvise(s->list.items[i].fd, 0, 0, POSIX_FADV_DONTNEED);
}

int to_sync_add(struct to_sync *s, int fd, bool small, struct err *err)
{
	if (vec_reserve(&s->list) < 0)
		return err_set(err, ERR_MEMORY, "out of memory");
	s->list.items[s->list.nr].fd = fd;
	s->list.items[s->list.nr++].small = small;
	return 0;
}

int sync_all(struct to_sync *s, struct err *err)
{
	size_t nr = file_ops != &file_ops_os ? 1 : s->list.nr < THREADS_MAX ? s->list.nr : THREADS_MAX;
	struct share shares[THREADS_MAX] = { 0 };
	int e = 0;

	if (nr > 1)
		begin_writing(s);
	for (size_t i = 0; i < nr; i++) {
		shares[i] = (struct share){ .s = s, .first = i, .step = nr };
		shares[i].started = i + 1 < nr && thread_start_small(&shares[i].thread, sync_share, &shares[i]) == 0;
	}
	for (size_t i = 0; i < nr; i++)
		if (!shares[i].started)
			sync_share(&shares[i]);
	for (size_t i = 0; i < nr; i++) {
		if (shares[i].started)
			pthread_join(shares[i].thread, NULL);
		e = e ? e : shares[i].errnum;
	}
	s->list.nr = 0;
	errno = e;
	return e ? err_errno(err, "cannot sync what was written") : 0;
}

void to_sync_release(struct to_sync *s)
{
	vec_release(&s->list);
}
